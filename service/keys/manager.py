"""The keys of a running process: put together, started, followed, and seen from outside."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from service.keys import Clock, encoding, keyring
from service.keys.file_store import DISK_TIMEOUT_S, Disk, FileStore, SealedWith
from service.keys.generator import KeyGenerator
from service.keys.held import Health, HeldRing, LoadedRing
from service.keys.keyring import KeyPolicy
from service.keys.reconcile import CopyTender, FileKeeper
from service.keys.rotation import Rotation

if TYPE_CHECKING:  # a process without Redis need not load its client
    from service.keys.redis_store import RedisStore

logger = logging.getLogger("guest_sessions.keys")

FILE_POLL_S: Final = 0.5
"""Twenty times faster than the contract's 10 s: a `stat` costs next to nothing."""
CACHE_POLL_S: Final = 1.0
"""Half of the contract's 2 s, within which a change is followed and a lost copy is put back."""
FIRST_RING_PATIENCE_S: Final = 3.0
"""For how long Redis must be seen empty. One that was emptied gets its ring again from a running keeper within 2 s; a
keeper with an empty folder must not make another deployment's ring before that."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How often a process looks at its places, and how long it waits; seconds.

    `first_ring_patience_s`: for how long Redis must be seen empty before a first ring is made; None: none ever is.
    """

    file_poll_s: float = FILE_POLL_S
    cache_poll_s: float = CACHE_POLL_S
    first_ring_patience_s: float | None = FIRST_RING_PATIENCE_S
    disk_timeout_s: float = DISK_TIMEOUT_S


DEFAULT_PACE: Final = Pace()


class KeysStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The keys as seen from outside.

    `ring_age_s`: since the ring was last found so at its source; `copy_age_s`: since Redis was last found to hold it.
    `sealed_with`: which of the secrets sealed the file; None for a follower, or before it was read.
    """

    role: Literal["keeper", "follower"]
    ready: bool
    file: str
    redis: str
    problem: str | None
    revision: int
    ring_age_s: float | None
    copy_age_s: float | None
    sealed_with: SealedWith | None
    active_key: str | None
    keys: dict[str, int]
    counts: dict[str, int]


class KeyManager:
    """The keys of one process. `file` None: a follower. `copy` None: no Redis.

    `on_change` is called with each ring that is held, in its form at rest and in the
    clear, for other processes of this host to start from (`hold`).
    """

    def __init__(
        self,
        policy: KeyPolicy,
        *,
        generator: KeyGenerator,
        file: FileStore | None,
        copy: "RedisStore | None",
        clock: Clock,
        steady_clock: Clock,
        pace: Pace = DEFAULT_PACE,
        on_change: Callable[[bytes], None] = lambda _ring: None,
    ) -> None:
        """`clock` is Unix time and may jump; `steady_clock` never goes back and may start anywhere (seconds)."""
        self._store = copy
        self._steady_clock = steady_clock
        self._pace = pace
        self._health = Health(file=file is not None, redis=copy is not None)
        rotation = Rotation(policy, clock=clock, steady_clock=steady_clock, with_copy=copy is not None)
        self._held = HeldRing(rotation, self._health, on_change=on_change)
        self._file: FileKeeper | None = None
        self._copy: CopyTender | None = None
        if file is not None:
            self._file = FileKeeper(
                file,
                copy=copy,
                held=self._held,
                generator=generator,
                patience_s=pace.first_ring_patience_s,
                disk=Disk(timeout_s=pace.disk_timeout_s),
            )
        if copy is not None:
            self._copy = CopyTender(copy, keeps=file is not None, held=self._held)

    @property
    def loaded(self) -> LoadedRing | None:
        """The keys to use now; None while there are none. Never waits."""
        return self._held.loaded

    async def hold(self, content: bytes) -> None:
        """Joins a ring in its form at rest, in the clear, as another process of this host holds it (`on_change`).

        Raises:
            KeyringDamaged, KeyringNewer, KeyringForeign
        """
        await self._held.join(encoding.from_jwk_set(content))

    async def start(self) -> None:
        """The first try to become ready; whether it held, `loaded` shows. `run` goes on trying."""
        await self.tend()
        if self._file is not None and self._copy is not None:
            await self._file.tend()  # nothing is moved or written before Redis was looked at

    async def tend(self) -> None:
        """One look at each place, as `run` does again and again."""
        if self._file is not None:
            await self._file.tend()
        if self._copy is not None:
            await self._copy.tend()

    async def run(self) -> None:
        """Follows, rotates and puts back until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._file is not None:
                tasks.create_task(_again_and_again(self._file.tend, asyncio.Event(), self._pace.file_poll_s))
            if self._copy is not None:
                tasks.create_task(_again_and_again(self._copy.tend, self._held.changed, self._pace.cache_poll_s))

    async def stop(self) -> None:
        """Closes all connections."""
        if self._store is not None:
            await self._store.close()

    def status(self) -> KeysStatus:
        """A snapshot for readiness and metrics; plain values."""
        ring, now = self._held.ring, self._steady_clock()
        states = Counter(key.state.value for key in ring.keys) if ring else Counter[str]()
        damaged = " ".join(self._held.loaded.signer.faults.values()) if self._held.loaded else ""
        return KeysStatus(
            role="follower" if self._file is None else "keeper",
            ready=ring is not None and ring.active is not None and not (self._copy is not None and self._copy.is_stray),
            file=self._health.places["file"],
            redis=self._health.places["redis"],
            problem=next(iter(self._health.problems.values()), damaged or None),
            revision=ring.revision if ring else 0,
            ring_age_s=None if self._health.confirmed_at is None else now - self._health.confirmed_at,
            copy_age_s=None if self._copy is None or self._copy.confirmed_at is None else now - self._copy.confirmed_at,
            sealed_with=None if self._file is None else self._file.store.sealed_with,
            active_key=ring.active.kid if ring and ring.active else None,
            keys={state.value: states[state.value] for state in keyring.KeyState},
            counts=dict(self._health.counts),
        )


async def _again_and_again(tend: Callable[[], Awaitable[None]], wake: asyncio.Event, every_s: float) -> None:
    """A bug costs a line in the log, and neither the service nor every later rotation."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(every_s):
                await wake.wait()
        wake.clear()
        try:
            await tend()
        except Exception:
            logger.exception("an unexpected failure; going on with the keyring held")
