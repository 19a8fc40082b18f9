"""The running process's keys: load, make on first start, adopt, follow, rotate when due, put back.

A keeper has the ring from its file and keeps the copy in the cache alike; a follower has it from the cache alone and
never writes. Requests read `Keys.loaded` and wait for nothing. Invariants: what is signed with is durable, in the file
or with the keeper that made it; no key and no revocation that is held is ever lost to another ring, nor is another
deployment's taken; a file that vanishes or is damaged under the process is left alone, and the process goes on with the
ring it holds, and with what other keepers put into the cache.
"""

import asyncio
import contextlib
import hashlib
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar

import msgspec

from service.errors import (
    CacheEmpty,
    CacheUnavailable,
    InvalidTransition,
    KeyringDamaged,
    KeyringError,
    KeyringForeign,
    KeyringOlder,
    StoreUnavailable,
    WrongSecret,
)
from service.keys import Clock, encoding, keyring
from service.keys.generator import KeyGenerator, RingFile
from service.keys.keyring import KeyPolicy, KeyRing
from service.keys.signer import Signer

if TYPE_CHECKING:  # a process without Redis need not load its client
    from service.keys.redis_store import RedisStore

log = logging.getLogger("guest_sessions.keys")

FILE_POLL_S: Final = 0.5
"""Twenty times faster than the contract's 10 s: a `stat` costs next to nothing."""
CACHE_POLL_S: Final = 1.0
"""Half of the contract's 2 s, within which a change is followed and a lost copy is put back."""
DROP_PATIENCE_S: Final = 3_600
"""A key must have been safe to drop for that long by the steady clock: a wall clock that jumps into the next decade for
a moment must not cost anybody their key."""
AGREED_DEAD_S: Final = DROP_PATIENCE_S / 2
"""A key seen dead for so long need not be brought back after another keeper has dropped it. Less than the patience, as
clocks and starts differ: else each of two keepers would bring back what the other dropped."""
FOUNDING_PATIENCE_S: Final = 3.0
"""For how long Redis must be seen empty. One that was emptied gets its ring again from a running keeper within 2 s; a
keeper with an empty folder must not found another deployment before that."""
LEAST_BETWEEN_PUTS_S: Final = 0.5
"""Two deployments on one Redis would else overwrite each other at every poll."""

REFUSALS: Final = (KeyringDamaged, KeyringForeign, KeyringOlder, WrongSecret)
"""Why a ring that was found in the file or in Redis is not taken."""

T = TypeVar("T")
Role = Literal["keeper", "follower"]


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How often a process looks, and for how long Redis must be seen empty before a first ring is made; seconds."""

    file_poll_s: float = FILE_POLL_S
    cache_poll_s: float = CACHE_POLL_S
    founding_patience_s: float = FOUNDING_PATIENCE_S


DEFAULT_PACE: Final = Pace()


class LoadedRing(msgspec.Struct, frozen=True, kw_only=True):
    """A ring made ready for requests; a new object whenever the ring changes."""

    ring: KeyRing
    signer: Signer
    jwks: bytes
    etag: str
    max_lifetime_s: int
    """The longest lifetime that may be signed now: what the settings say and the ring records."""


class KeySource(Protocol):
    """Where use cases get the keys from; they ask again at each use."""

    @property
    def loaded(self) -> LoadedRing | None:
        """The keys to use now; None while there are none. Never waits."""


class KeysStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be seen of the keys from outside. `ring_age_s`: since the ring was last found so at its source."""

    role: Role
    ready: bool
    file: str
    redis: str
    problem: str | None
    revision: int
    ring_age_s: float | None
    active_key: str | None
    keys: dict[str, int]
    counts: dict[str, int]


class KeyManager:
    """The keys of one process. `file` None: a follower. `copy` None: no Redis."""

    def __init__(
        self,
        policy: KeyPolicy,
        *,
        mint: KeyGenerator,
        file: RingFile | None,
        copy: "RedisStore | None",
        clock: Clock,
        steady_clock: Clock,
        pace: Pace = DEFAULT_PACE,
    ) -> None:
        """`clock` tells Unix time and may jump; `steady_clock` never goes back and may start anywhere (seconds)."""
        self.loaded: LoadedRing | None = None
        self._policy = policy
        self._mint = mint
        self._file = file
        self._copy = copy
        self._clock = clock
        self._steady_clock = steady_clock
        self._pace = pace
        self._founder = mint.founder()
        self._empty_since: float | None = None
        self._stamp: object = None
        self._filed: KeyRing | None = None
        self._since: dict[str, float] = {}
        self._gone: set[str] = set()
        self._confirmed_at: float | None = None
        self._copy_revision = 0
        self._copy_seen = False
        self._put_at = -math.inf
        self._changed = asyncio.Event()
        self._health = {
            "file": "off" if file is None else "unread",
            "redis": "off" if copy is None else "unread",
            "rotation": "ok",
        }
        self._problems: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    @property
    def role(self) -> Role:
        """What this process may do with the ring."""
        return "follower" if self._file is None else "keeper"

    async def start(self) -> None:
        """The first try to become ready; whether it held, `loaded` tells. `run` goes on trying."""
        await self._tend_file()
        await self._tend_copy()

    async def run(self) -> None:
        """Follows, rotates and puts back until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._file is not None:
                tasks.create_task(self._run_file())
            if self._copy is not None:
                tasks.create_task(self._run_copy())

    async def stop(self) -> None:
        """Lets go of all connections."""
        if self._copy is not None:
            await self._copy.close()

    def status(self) -> KeysStatus:
        """A snapshot for readiness and metrics; plain values."""
        ring = None if self.loaded is None else self.loaded.ring
        states = Counter(key.state.value for key in ring.keys) if ring else Counter[str]()
        return KeysStatus(
            role=self.role,
            ready=ring is not None,
            file=self._health["file"],
            redis=self._health["redis"],
            problem=next(iter(self._problems.values()), None),
            revision=ring.revision if ring else 0,
            ring_age_s=None if self._confirmed_at is None else self._steady_clock() - self._confirmed_at,
            active_key=ring.active.kid if ring else None,
            keys={state.value: states[state.value] for state in keyring.KeyState},
            counts=dict(self._counts),
        )

    # --- the file: a keeper's truth ---

    async def _run_file(self) -> None:
        while True:
            await asyncio.sleep(self._pace.file_poll_s)
            await _going_on(self._tend_file)

    async def _tend_file(self) -> None:
        """One look at the file, and one move where one is due."""
        if self._file is None:
            return
        try:
            await (self._begin(self._file) if self.loaded is None else self._follow_file(self._file, self.loaded.ring))
            if self.loaded is not None:
                await self._move_on(self._file, self.loaded.ring)
        except KeyringError as error:
            self._note("file", error)
        else:
            self._note_good("file")

    async def _begin(self, file: RingFile) -> None:
        """Loads the ring, or makes or adopts the first one."""
        stamp = await asyncio.to_thread(file.stamp)
        ring = await asyncio.to_thread(file.read)
        if ring is None:
            ring = await self._first_ring(file)
        await self._take(ring)
        self._stamp, self._filed = stamp, ring
        await asyncio.to_thread(file.seal_anew)

    async def _first_ring(self, file: RingFile) -> KeyRing:
        """For an empty folder: the ring in the cache, or a new one where the cache is reachable and empty, or off.

        An unmounted volume must not log every guest out: so whatever stands in the way of knowing raises.
        """
        if self._copy is None:
            return await asyncio.to_thread(file.update, partial(self._first_of, None))
        theirs = await self._look_before_founding(self._copy)
        if theirs is not None:
            return await asyncio.to_thread(file.update, partial(self._first_of, theirs))
        if not await self._answer(self._copy.claim(self._founder)):
            raise KeyringError("Another keeper is making the first keyring; waiting for it.")
        try:
            theirs = await self._answer(self._copy.get())  # it may have been put back while the claim was on its way
            return await asyncio.to_thread(file.update, partial(self._first_of, theirs))
        except KeyringError:
            with contextlib.suppress(CacheUnavailable):
                await self._copy.release(self._founder)
            raise

    async def _look_before_founding(self, copy: "RedisStore") -> KeyRing | None:
        """The ring in the cache, or None where it has been seen empty for long enough, without a break."""
        theirs = await self._answer(copy.get())
        if theirs is not None:
            self._empty_since = None
            return theirs
        now = self._steady_clock()
        self._empty_since = now if self._empty_since is None else self._empty_since
        if now - self._empty_since < self._pace.founding_patience_s:
            raise KeyringError("The folder of the keyring is empty, and so is Redis; a running keeper may yet fill it.")
        return None

    async def _answer(self, answer: Awaitable[T]) -> T:
        try:
            answered = await answer
        except KeyringError as error:
            self._note("redis", error)
            self._empty_since = None
            raise KeyringError(
                f"The folder of the keyring is empty, and Redis cannot tell whether there is one: {error.detail}"
            ) from error
        self._note_good("redis")
        return answered

    def _first_of(self, theirs: KeyRing | None, current: KeyRing | None) -> KeyRing:
        """What another process has put into the folder meanwhile, or `theirs`, or a new deployment's ring."""
        if current is None and theirs is not None:
            log.info("the folder is empty: adopting the ring in redis, revision %d", theirs.revision)
        return current or theirs or self._mint.ring(self._clock)

    async def _follow_file(self, file: RingFile, held: KeyRing) -> None:
        stamp = await asyncio.to_thread(file.stamp)
        if stamp == self._stamp and self._filed == held:
            self._confirmed_at = self._steady_clock()
            return
        current = await asyncio.to_thread(file.read)
        ring = self._with_held(held, current)
        if ring != current:
            ring = await asyncio.to_thread(file.update, partial(self._with_held, held))
            log.info("the file lacked what this process holds: joined it into the file, revision %d", ring.revision)
        await self._take(ring)
        self._stamp, self._filed = stamp, ring

    def _with_held(self, held: KeyRing, current: KeyRing | None) -> KeyRing:
        """What is in the file, and what is held: the file may have been rolled back, and changed since."""
        if current is None:
            raise StoreUnavailable("The keyring's file has vanished; going on with the ring in memory.")
        return self._together(current, held)

    def _together(self, mine: KeyRing, theirs: KeyRing) -> KeyRing:
        """Two rings joined, for the file; in a thread, as it may have to make a key."""
        spare = self._mint.key(self._clock) if keyring.needs_spare(mine, theirs) else None
        return keyring.join(mine, theirs, spare=spare, now_s=self._clock(), gone=self._gone)

    async def _move_on(self, file: RingFile, held: KeyRing) -> None:
        """Does what is due, decided again under the lock, as another replica may have done it meanwhile."""
        self._watch(held)
        self._tell_if_full(held)
        if self._due(held) is None:
            return

        def decide(current: KeyRing | None) -> KeyRing:
            ring = self._with_held(held, current)
            move = self._due(ring)
            return ring if move is None else move(ring)

        ring = await asyncio.to_thread(file.update, decide)
        if ring.revision != held.revision:
            self._counts["moves"] += 1
        await self._take(ring)
        self._filed = ring

    def _due(self, ring: KeyRing) -> Callable[[KeyRing], KeyRing] | None:
        """The first move that is due, if any."""
        now_s = self._clock()
        if keyring.allow_lifetime(ring, self._policy.max_lifetime_s) is not ring:
            return partial(keyring.allow_lifetime, max_lifetime_s=self._policy.max_lifetime_s)
        if ring.staged is not None and self._may_sign(ring.staged, now_s):
            return partial(keyring.promote, now_s=now_s)
        staging_due_at_s = keyring.staging_due_at_s(ring, self._policy)
        if staging_due_at_s is not None and staging_due_at_s <= now_s:
            return lambda ring: keyring.stage(ring, self._mint.key(self._clock))
        dead = {kid for kid in keyring.dead(ring, now_s=now_s) if self._seen_for_s(kid) >= DROP_PATIENCE_S}
        return partial(keyring.drop_dead, kids=dead, now_s=now_s) if dead else None

    def _may_sign(self, staged: keyring.Key, now_s: float) -> bool:
        """Whether the staged key has been published for its lead by both clocks.

        The wall clock may have jumped ahead: so this process must itself have held the key for as long. It may have
        been set back, so that the key seems to be from the future: then the steady clock alone counts.
        """
        lead_s = self._policy.publication_lead_s
        return not 0 <= now_s - staged.created_at_s < lead_s and self._seen_for_s(staged.kid) >= lead_s

    def _watch(self, ring: KeyRing) -> None:
        """Keeps, by the steady clock, since when each key has been staged, or dead, without a break."""
        dead = keyring.dead(ring, now_s=self._clock())
        now = self._steady_clock()
        seen = dead | {ring.staged.kid} if ring.staged else dead
        self._since = {kid: self._since.get(kid, now) for kid in seen}
        self._gone |= {kid for kid in dead if self._seen_for_s(kid) >= AGREED_DEAD_S}

    def _tell_if_full(self, ring: KeyRing) -> None:
        if self._policy.rotate_every_s and ring.staged is None and keyring.is_full(ring):
            most = keyring.MOST_PUBLISHED_KEYS
            self._note(
                "rotation", InvalidTransition(f"The JWKS has {most} keys: no key is rotated by itself any more.")
            )
        else:
            self._note_good("rotation")

    def _seen_for_s(self, kid: str) -> float:
        now = self._steady_clock()
        return now - self._since.get(kid, now)

    # --- the copy in the cache ---

    async def _run_copy(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._pace.cache_poll_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            await _going_on(self._tend_copy)

    async def _tend_copy(self) -> None:
        """One look at the copy: a follower takes it, a keeper puts it right."""
        if self._copy is None or (self._file is not None and self.loaded is None):
            return
        try:
            if self._file is None:
                await self._adopt(self._copy)
            elif self.loaded is not None:
                await self._put_right(self._copy, self._file, self.loaded.ring)
        except KeyringError as error:
            self._note("redis", error)
        else:
            self._note_good("redis")

    async def _adopt(self, copy: "RedisStore") -> None:
        ring = await copy.get()
        if ring is None:
            raise CacheEmpty("Redis holds no keyring.")
        await self._take(ring if self.loaded is None else self._following(self.loaded.ring, ring))

    def _following(self, held: KeyRing, theirs: KeyRing) -> KeyRing:
        """What to hold in memory after `held`: `theirs`, and what it has lost.

        It may come from a file that was rolled back and then changed. Then this process is a revision ahead of the
        others, which the alert on replicas apart tells, until a keeper that knows as much has mended the file. Only
        keys that were durable sign: none is made here.
        """
        _refuse_rollback(held, theirs)
        now_s = self._clock()
        gone = keyring.dead(held, now_s=now_s)
        if not keyring.loses(theirs, held, gone=gone):
            return theirs
        return keyring.join(theirs, held, spare=None, now_s=now_s, gone=gone)

    async def _put_right(self, copy: "RedisStore", file: RingFile, held: KeyRing) -> None:
        """Makes the copy equal to the file, or joins into the file what a keeper on another volume knows."""
        try:
            theirs = await copy.get()
            if theirs is not None:
                self._check_copy(held, theirs)
        except CacheUnavailable:
            raise
        except KeyringError:
            if self._steady_clock() - self._put_at >= LEAST_BETWEEN_PUTS_S:
                await self._put(copy, held)
            raise
        if theirs is not None and theirs != held and theirs.revision >= held.revision:
            held = await self._join(file, held, theirs)
        first_look, self._copy_seen = not self._copy_seen, True
        if theirs != held or (first_look and not copy.is_current()):
            await self._put(copy, held)

    def _check_copy(self, held: KeyRing, theirs: KeyRing) -> None:
        """Raises where the copy is another deployment's or went back; one that lags behind the file is none of both."""
        _refuse_foreign(held, theirs)
        _refuse_older(self._copy_revision, theirs)
        self._copy_revision = theirs.revision

    async def _put(self, copy: "RedisStore", ring: KeyRing) -> None:
        await copy.put(ring)
        self._put_at = self._steady_clock()
        self._copy_revision = ring.revision
        self._counts["put_back"] += 1
        log.info("put revision %d of the keyring into redis", ring.revision)

    async def _join(self, file: RingFile, held: KeyRing, theirs: KeyRing) -> KeyRing:
        def decide(current: KeyRing | None) -> KeyRing:
            return self._together(self._with_held(held, current), theirs)

        try:
            joined = self._filed = await asyncio.to_thread(file.update, decide)
        except KeyringError:
            # What is wrong with the file is told where it is followed, and a revocation must not wait for that. The
            # ring is durable at the keeper that made it.
            joined = self._following(held, theirs)
        await self._take(joined)
        return joined

    # --- what is held ---

    async def _take(self, ring: KeyRing) -> None:
        """Makes the ring ready and holds it, unless a newer one came first."""
        self._confirmed_at = self._steady_clock()
        if self._is_behind(ring):
            return
        loaded = await asyncio.to_thread(self._load, ring)
        if self._is_behind(ring):
            return
        self.loaded = loaded
        self._counts["taken"] += 1
        self._changed.set()
        log.info(
            "holding revision %d of the keyring: %s signs, %d keys", ring.revision, ring.active.kid, len(ring.keys)
        )

    def _is_behind(self, ring: KeyRing) -> bool:
        return self.loaded is not None and (ring.revision < self.loaded.ring.revision or ring == self.loaded.ring)

    def _load(self, ring: KeyRing) -> LoadedRing:
        jwks = encoding.public_jwks(ring)
        return LoadedRing(
            ring=ring,
            signer=self._mint.make_signer(ring),
            jwks=jwks,
            etag=f'"{hashlib.sha256(jwks).hexdigest()[:32]}"',
            max_lifetime_s=min(self._policy.max_lifetime_s, ring.active.max_lifetime_s),
        )

    def _note(self, place: str, error: KeyringError) -> None:
        """Counts every failure and logs a change of health, not each failure."""
        self._counts[error.code] += 1
        self._problems[place] = error.detail
        if self._health[place] != error.code:
            self._health[place] = error.code
            log.warning("%s: %s", place, error.detail)

    def _note_good(self, place: str) -> None:
        self._problems.pop(place, None)
        if self._health[place] not in ("ok", "off"):
            self._health[place] = "ok"
            log.info("%s: ok", place)


async def _going_on(tend: Callable[[], Awaitable[None]]) -> None:
    """A bug costs a line in the log, and neither the service nor every later rotation."""
    try:
        await tend()
    except Exception:
        log.exception("an unexpected failure; going on with the keyring held")


def _refuse_rollback(held: KeyRing, other: KeyRing) -> None:
    """Raises `KeyringForeign` or `KeyringOlder` where `other` must not take the place of the ring held."""
    _refuse_foreign(held, other)
    _refuse_older(held.revision, other)


def _refuse_foreign(held: KeyRing, other: KeyRing) -> None:
    if other.ring_id != held.ring_id:
        raise KeyringForeign(f"The keyring is of deployment {other.ring_id}, not {held.ring_id}.")


def _refuse_older(revision: int, other: KeyRing) -> None:
    if other.revision < revision:
        raise KeyringOlder(f"The keyring is of revision {other.revision}, older than {revision}, which was seen.")
