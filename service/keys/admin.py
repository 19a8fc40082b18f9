"""What an operator does to the keys, one thing at a time: init, rotate, revoke, drop, export, import.

Each is done to the file, under its lock, and then put into Redis where that is configured; the running processes follow
by themselves. Redis being out of reach stops nothing: a running keeper puts the ring there later. Nothing here depends
on the service's settings or clock: keys are staged and revoked, and the running keepers promote them (but for
`rotate_now`, and the successor of a key that is revoked).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Final

import msgspec

from service.errors import InvalidTransition, KeyringDamaged, KeyringError, KeyringForeign, WrongSecret
from service.keys import Clock, keyring
from service.keys.encryption import Sealer
from service.keys.file_store import FileStore, SealedWith, open_ring
from service.keys.generator import KeyGenerator
from service.keys.keyring import KeyRing
from service.keys.material import Algorithm
from service.keys.signer import Signer

if TYPE_CHECKING:  # a process without Redis need not load its client
    from service.keys.redis_store import RedisStore

FOLLOW_S: Final = 2.0
"""In so long every running process that sees the file or Redis has followed a change."""
PREPARE_S: Final = 5.0
"""The longest that `rotate_now` and `revoke` wait for Redis to hold the successor, before they go on without it."""


class OperationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an operation: the ring before and after it, and how Redis is (`ok`, `off`, or an error's code)."""

    before: KeyRing | None
    ring: KeyRing
    redis: str = "off"
    problem: str | None = None


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """The ring, and under which secret its file and its copy in Redis are; None: there is none, or it was not read."""

    ring: KeyRing
    file: SealedWith | None = None
    redis: SealedWith | None = None
    faults: dict[str, str]
    problem: str | None = None


class KeyAdmin(msgspec.Struct, frozen=True, kw_only=True):
    """Operations on the keys of one deployment. `file` None: a follower, which can only look.

    `algorithm`: of new keys; None for that of the active key. `pause` waits for so many seconds.
    """

    generator: KeyGenerator
    file: FileStore | None
    copy: "RedisStore | None"
    sealer: Sealer | None
    clock: Clock
    algorithm: Algorithm | None = None
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep

    async def ring(self) -> KeyRing:
        """The ring, from the file or, for a follower, from Redis; raises `KeyringError` where there is none."""
        return (await self.list()).ring

    async def list(self) -> Listing:
        """As `ring`, with the facts that the ring does not hold."""
        theirs, problem = None, None
        async with self._redis():
            try:
                theirs = None if self.copy is None else await self.copy.get()
            except KeyringError as error:
                if self.file is None:
                    raise
                problem = error.detail
        if self.file is None:
            ring = _existing(theirs, "Redis")
        else:
            ring = _existing(await asyncio.to_thread(self.file.read), self.file.place)
        return Listing(
            ring=ring,
            file=None if self.file is None else self.file.sealed_with,
            redis=None if self.copy is None else self.copy.sealed_with,
            faults=Signer(ring).faults,
            problem=problem,
        )

    async def init(self, *, replace: bool = False) -> OperationResult:
        """Makes a ring where there is none, whatever Redis holds.

        `replace`: another deployment's ring in Redis is overwritten, also by the ring that is in the folder already.

        Raises:
            InvalidTransition: there is a ring already, and nothing is to be replaced.
        """
        fresh = await asyncio.to_thread(self.generator.ring)

        def move(current: KeyRing | None) -> KeyRing:
            if current is not None and not replace:
                raise InvalidTransition(f"There is a keyring already, of deployment {current.ring_id}.")
            return current or fresh

        return await self._done(move, overwrite=replace)

    async def rotate(self) -> OperationResult:
        """Stages a key where none is staged; a running keeper lets it sign once it was published for long enough.

        It is like the active one: how tokens are signed, and for how long, is for the service's settings to say.
        """
        active = (await self.ring()).active
        lifetime_s = None if active is None else active.max_lifetime_s
        known: Algorithm | None = "RS256" if active is not None and active.algorithm == "RS256" else None
        algorithm = self.algorithm or known
        fresh = await asyncio.to_thread(self.generator.key, algorithm=algorithm, max_lifetime_s=lifetime_s)
        return await self._change(lambda ring: ring if ring.staged else keyring.stage(ring, fresh))

    async def rotate_now(self) -> OperationResult:
        """Lets the staged key, or a fresh one, sign as soon as the running processes know it.

        Verifiers with a cached JWKS may not know it yet, nor may a process that Redis is out of reach for.
        """
        return await self._with_successor(lambda ring: ring)

    async def revoke(self, kid: str) -> OperationResult:
        """Refuses every token of one key; raises `InvalidTransition` where there is none or it is revoked already.

        Where it is the one that signs, its successor is first made known, as in `rotate_now`: no good token is refused
        meanwhile, and a stolen key's end comes two seconds later.
        """
        active = (await self.ring()).active
        if active is not None and active.kid == kid:
            return await self._with_successor(lambda ring: keyring.revoke(ring, kid, now_s=self.clock()))
        return await self._change(lambda ring: keyring.revoke(ring, kid, now_s=self.clock()))

    async def revoke_before(self, time_s: int) -> OperationResult:
        """Refuses every guest whose lineage began before `time_s`.

        Raises:
            InvalidTransition: the time is in the future, or earlier than the one that holds.
        """
        return await self._change(lambda ring: keyring.revoke_before(ring, time_s, now_s=self.clock()))

    async def drop(self) -> OperationResult:
        """Forgets the keys that no live token can bear; keepers do so by themselves, an hour after."""
        return await self._change(lambda ring: keyring.forget(ring, keyring.dead(ring, now_s=self.clock())))

    async def import_ring(self, content: bytes) -> OperationResult:
        """Joins an exported ring, plain or sealed, with the one that is there; where there is none, restores it.

        Raises:
            KeyringDamaged, KeyringNewer, WrongSecret: the content cannot be opened, or one of its keys is damaged.
            KeyringForeign: it is of another deployment.
        """
        theirs = self._opened(content)

        def move(current: KeyRing | None) -> KeyRing:
            if current is None:
                return theirs
            keyring.refuse_other_keys(current, theirs)
            return keyring.join(current, theirs)

        return await self._done(move)

    async def import_foreign(self, content: bytes) -> OperationResult:
        """Takes the keys of another deployment's ring in as retired: its tokens are accepted here from now on.

        Raises:
            KeyringDamaged, KeyringNewer, WrongSecret: as `import_ring`.
        """
        theirs = self._opened(content)
        return await self._change(lambda ring: keyring.import_foreign(ring, theirs, now_s=self.clock()))

    def _opened(self, content: bytes) -> KeyRing:
        ring, _ = open_ring(content, self.sealer)
        for detail in Signer(ring).faults.values():
            raise KeyringDamaged(detail)
        return ring

    async def _with_successor(self, move: Callable[[KeyRing], KeyRing]) -> OperationResult:
        """Publishes a successor of the active key, waits for the processes to follow, then moves and promotes."""
        first = await self.rotate()
        successor = first.ring.staged
        if successor is not None and self.clock() - successor.created_at_s < FOLLOW_S:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PREPARE_S), self._redis():
                    while first.redis not in ("ok", "off") and (await self._put(first.ring))[0] != "ok":
                        await self.pause(FOLLOW_S / 4)
                    await self.pause(FOLLOW_S)

        def promote(ring: KeyRing) -> KeyRing:
            ring = move(ring)
            staged = ring.staged
            if staged is None or (ring.active and successor and staged.kid != successor.kid):
                return ring  # another process let the successor sign meanwhile
            return keyring.promote(ring, now_s=self.clock())

        return msgspec.structs.replace(await self._change(promote), before=first.before)

    async def _change(self, move: Callable[[KeyRing], KeyRing]) -> OperationResult:
        return await self._done(lambda current: move(_existing(current, "the folder")))

    async def _done(self, move: Callable[[KeyRing | None], KeyRing], *, overwrite: bool = False) -> OperationResult:
        """Moves the join of file and copy on, writes it to the file, and then to Redis."""
        file = self.file
        if file is None:
            raise KeyringError("A follower (GUEST_KEYS_DIR=none) never writes; do this where the folder is.")
        async with self._redis():
            theirs = None
            if self.copy is not None:
                with contextlib.suppress(KeyringError):
                    theirs = await self.copy.get()

            def work() -> tuple[KeyRing | None, KeyRing]:
                with file.transaction() as tx:
                    before = tx.ring
                    with contextlib.suppress(KeyringForeign):
                        tx.ring = before if before is None or theirs is None else keyring.join(before, theirs)
                    tx.ring = ring = move(tx.ring)
                return before, ring

            before, ring = await asyncio.to_thread(work)
            redis, problem = await self._put(ring, overwrite=overwrite)
        return OperationResult(before=before, ring=ring, redis=redis, problem=problem)

    async def _put(self, ring: KeyRing, *, overwrite: bool = False) -> tuple[str, str | None]:
        """Gives the copy what it lacks; how Redis is then, and the problem, if any."""
        if self.copy is None:
            return "off", None
        found, wanted = None, ring
        try:
            with contextlib.suppress(KeyringDamaged, WrongSecret):
                found = await self.copy.get()
            if found is not None and not (overwrite and found.ring_id != ring.ring_id):
                joined = keyring.join(found, ring)
                dropped = keyring.dead(joined, now_s=self.clock()) - {record.kid for record in ring.records}
                wanted = keyring.forget(joined, dropped)
            if wanted != found or self.copy.needs_sealing:
                await self.copy.put(wanted)
        except KeyringForeign as error:
            return error.code, f"Redis holds another deployment's keyring, left as it is: {error.detail}"
        except KeyringError as error:
            return error.code, error.detail
        return "ok", None

    @contextlib.asynccontextmanager
    async def _redis(self) -> AsyncIterator[None]:
        """Connections end with the operation."""
        try:
            yield
        finally:
            if self.copy is not None:
                await self.copy.close()


def _existing(ring: KeyRing | None, place: str) -> KeyRing:
    if ring is None:
        raise KeyringError(f"There is no keyring in {place}; a first start of the service, or `keys init`, makes one.")
    return ring
