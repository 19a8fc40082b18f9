"""What an operator does to the keys, one thing at a time: init, rotate, revoke, export, import.

Each is done to the file, under its lock, and then put into Redis where that is configured; the running processes follow
by themselves. Redis being out of reach stops nothing: a running keeper puts the ring there later.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import msgspec

from service.errors import InvalidTransition, KeyringError
from service.keys import Clock, keyring
from service.keys.encryption import Sealer
from service.keys.generator import KeyGenerator, RingFile, open_file
from service.keys.keyring import KeyPolicy, KeyRing
from service.keys.manager import REFUSALS, KeyManager, KeysStatus

if TYPE_CHECKING:  # a process without Redis need not load its client
    from service.keys.redis_store import RedisStore

FOLLOW_S: Final = 2.0
"""In so long every running process that sees the file or Redis has followed a change."""
WRITE_S: Final = 1.0
"""A key's time is taken before it is proven, written and synced; that takes less than this."""


class OperationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an operation: the ring before and after it, and how the places are."""

    before: KeyRing | None
    ring: KeyRing
    status: KeysStatus


class KeyAdmin:
    """Operations on the keys of one deployment. `file` None: a follower, which can only look.

    `pause` waits for so many seconds.
    """

    def __init__(
        self,
        policy: KeyPolicy,
        *,
        mint: KeyGenerator,
        file: RingFile | None,
        copy: "RedisStore | None",
        sealer: Sealer | None,
        clock: Clock,
        make_keys: Callable[[], KeyManager],
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._policy = policy
        self._mint = mint
        self._file = file
        self._copy = copy
        self._sealer = sealer
        self._clock = clock
        self._make_keys = make_keys
        self._pause = pause

    async def ring(self) -> KeyRing:
        """The ring, from the file or, for a follower, from Redis; raises `KeyringError` where there is none."""
        if self._file is not None:
            return _existing(await asyncio.to_thread(self._file.read), self._file.place)
        if self._copy is None:
            raise KeyringError("There is neither a folder nor a Redis to read the keyring from.")
        try:
            return _existing(await self._copy.get(), "Redis")
        finally:
            await self._copy.close()

    async def init(self) -> OperationResult:
        """Makes a ring where there is none, whatever Redis holds; raises `KeyringError` where there is a file."""

        def decide(current: KeyRing | None) -> KeyRing:
            if current is not None:
                raise InvalidTransition(f"There is a keyring already, of deployment {current.ring_id}.")
            return self._mint.ring(self._clock)

        return await self._done(decide)

    async def rotate(self) -> OperationResult:
        """Stages a key, or lets the staged one sign once it was published long enough; before that changes nothing."""

        def move(ring: KeyRing) -> KeyRing:
            due_at_s = keyring.promotion_due_at_s(ring, self._policy)
            if due_at_s is None:
                return self._with_next(ring)
            now_s = self._clock()
            return keyring.promote(ring, now_s=now_s) if due_at_s + WRITE_S <= now_s else ring

        return await self._change(move)

    async def rotate_now(self, *, follow_s: float = FOLLOW_S) -> OperationResult:
        """Lets the staged key, or a fresh one, sign as soon as the running processes know it.

        Verifiers with a cached JWKS may not know it yet, nor may a process that `follow_s` is too short for.
        """
        first = await self._prepare(follow_s)
        successor = first.ring.staged

        def move(ring: KeyRing) -> KeyRing:
            if successor is not None and ring.active.kid == successor.kid:
                return ring
            return keyring.promote(self._with_next(ring), now_s=self._clock())

        return msgspec.structs.replace(await self._change(move), before=first.before)

    async def revoke(self, kid: str, *, follow_s: float = FOLLOW_S) -> OperationResult:
        """Refuses every token of one key; raises `InvalidTransition` where there is none or it is revoked already.

        Where it is the one that signs, its successor is first made known, as in `rotate_now`: no good token is refused
        meanwhile, and a stolen key's end comes two seconds later.
        """

        def move(ring: KeyRing) -> KeyRing:
            spare = self._mint.key(self._clock) if ring.active.kid == kid and ring.staged is None else None
            return keyring.revoke(ring, kid, spare=spare, now_s=self._clock())

        if _existing(await asyncio.to_thread(self._writable.read), "the folder").active.kid != kid:
            return await self._change(move)
        first = await self._prepare(follow_s)
        return msgspec.structs.replace(await self._change(move), before=first.before)

    async def _prepare(self, follow_s: float) -> OperationResult:
        """Publishes a next key where there is none, and gives the running processes the time to hear of it."""
        done = await self._change(self._with_next)
        staged = done.ring.staged
        if staged is not None and self._clock() - staged.created_at_s < follow_s:
            await self._pause(follow_s)
        return done

    def _with_next(self, ring: KeyRing) -> KeyRing:
        return ring if ring.staged else keyring.stage(ring, self._mint.key(self._clock))

    async def revoke_before(self, time_s: int) -> OperationResult:
        """Refuses every guest whose lineage began before `time_s`.

        Raises:
            InvalidTransition: the time is in the future, or earlier than the one that holds.
        """
        return await self._change(lambda ring: keyring.revoke_before(ring, time_s, now_s=self._clock()))

    async def import_ring(self, content: bytes) -> OperationResult:
        """Joins an exported ring, plain or sealed, with the one that is there; where there is none, restores it.

        Raises:
            KeyringDamaged, WrongSecret: where the content cannot be opened.
            KeyringForeign: where it is of another deployment.
        """
        theirs = open_file(content, self._sealer)

        def decide(current: KeyRing | None) -> KeyRing:
            if current is None:
                return theirs
            spare = self._mint.key(self._clock) if keyring.needs_spare(current, theirs) else None
            return keyring.join(current, theirs, spare=spare, now_s=self._clock())

        return await self._done(decide)

    async def import_foreign(self, content: bytes) -> OperationResult:
        """Takes the keys of another deployment's ring in as retired: its tokens are accepted here from now on."""
        theirs = open_file(content, self._sealer)

        def move(ring: KeyRing) -> KeyRing:
            return keyring.import_foreign(ring, theirs, spare=self._mint.key(self._clock), now_s=self._clock())

        return await self._change(move)

    async def _change(self, move: Callable[[KeyRing], KeyRing]) -> OperationResult:
        return await self._done(lambda current: move(_existing(current, "the folder")))

    async def _done(self, decide: Callable[[KeyRing | None], KeyRing]) -> OperationResult:
        seen: list[KeyRing | None] = []

        def observed(current: KeyRing | None) -> KeyRing:
            seen.append(current)
            return decide(current)

        ring = await asyncio.to_thread(self._writable.update, observed)
        return OperationResult(before=seen[-1], ring=ring, status=await self._spread())

    @property
    def _writable(self) -> RingFile:
        if self._file is None:
            raise KeyringError("A follower (GUEST_KEYS_DIR=none) never writes; do this where the folder is.")
        return self._file

    async def _spread(self) -> KeysStatus:
        """Brings file and Redis together, as every keeper does at its start."""
        keys = self._make_keys()
        try:
            await keys.start()
            if keys.status().redis in {refusal.code for refusal in REFUSALS}:
                await keys.start()  # what Redis held was written over: whether that has mended it
            return keys.status()
        finally:
            await keys.stop()


def _existing(ring: KeyRing | None, place: str) -> KeyRing:
    if ring is None:
        raise KeyringError(f"There is no keyring in {place}; a first start of the service, or `keys init`, makes one.")
    return ring
