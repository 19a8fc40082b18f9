"""Brings the places of a ring together: the file of a keeper, the sealed copy in Redis, and the process's memory.

Each place is replaced by nothing but the join of what it held and what was found, so no order of events needs code of
its own. A ring in memory includes each ring that was found, so it is also the ring that file and Redis must hold. A key
is durable before it signs: a keeper writes it to its file before it holds it. A file that vanishes or is damaged under
the process is left alone; the process goes on with the ring it holds, and follows Redis.
"""

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from service.errors import (
    CacheEmpty,
    CacheUnavailable,
    KeyringDamaged,
    KeyringError,
    KeyringForeign,
    StoreUnavailable,
    WrongSecret,
)
from service.keys import Clock, keyring
from service.keys.file_store import Disk, FileStore, SealedWith
from service.keys.generator import KeyGenerator
from service.keys.held import REFUSALS, Health, HeldRing
from service.keys.keyring import KeyRing
from service.keys.rotation import Rotation

if TYPE_CHECKING:  # a process without Redis need not load its client
    from service.keys.redis_store import RedisStore

logger = logging.getLogger("guest_sessions.keys")

VANISHED: Final = "The keyring's file has vanished; going on with the ring in memory."


class Core(msgspec.Struct, frozen=True):
    """What the sides of one process share."""

    held: HeldRing
    rotation: Rotation
    health: Health
    clock: Clock
    steady_clock: Clock

    async def take(self, found: KeyRing, *, in_copy: bool = False) -> KeyRing:
        """Joins a ring that was found into the one in memory; returns the ring afterwards. Raises `KeyringForeign`."""
        before = self.held.ring
        ring = await self.held.take(found)
        if before is not None and ring != before:
            self.health.counts["joined"] += 1
        self.health.confirmed_at = self.steady_clock()
        self.rotation.watch(ring, copy=found if in_copy else None)
        return ring


class FileKeeper:
    """A keeper's side: brings the ring in its file and the one in memory together, and moves it on when that is due."""

    def __init__(
        self,
        store: FileStore,
        *,
        copy: "RedisStore | None",
        core: Core,
        generator: KeyGenerator,
        patience_s: float | None,
        disk: Disk,
    ) -> None:
        """`patience_s`: for how long Redis must be seen empty before a first ring is made; None: none ever is."""
        self._store = store
        self._copy = copy
        self._core = core
        self._generator = generator
        self._patience_s = patience_s
        self._disk = disk
        self._claimant = generator.claimant()
        self._empty_since: float | None = None

    @property
    def sealed_with(self) -> SealedWith | None:
        """What the file was sealed with when it was last read."""
        return self._store.sealed_with

    async def tend(self) -> None:
        """One look at the file, and all that is due then."""
        held, health, rotation = self._core.held, self._core.health, self._core.rotation
        try:
            found = await self._disk.run(self._store.read)
            if found is None:
                if held.ring is not None:
                    raise StoreUnavailable(VANISHED)
                found = await self._first_ring()
            ring = await self._core.take(found)
            if health.places["redis"] != "unread":  # else at a start: Redis may know more, a successor for one
                await self._move_on(found, ring)
        except KeyringError as error:
            health.failed("file", error.code, error.detail)
        else:
            health.ok("file")
        if held.ring is not None:
            problem = rotation.problem(held.ring)
            health.failed("rotation", "rotation", problem) if problem else health.ok("rotation")

    async def _move_on(self, found: KeyRing, ring: KeyRing) -> None:
        """Writes what the file lacks, seals it, and moves the ring on; decided again under the lock."""
        rotation = self._core.rotation
        # A key with damaged numbers does not sign: another takes its place, unless Redis may know the right ones.
        loaded = self._core.held.loaded
        damaged = loaded is not None and ring.active is not None and ring.active.kid in loaded.signer.faults
        replace = damaged and self._core.health.places["redis"] in ("ok", "off")
        needs_key = rotation.needs_key(ring, replace=replace)
        moved = rotation.advance(ring, None, replace=replace)
        lacking = keyring.differs(found, moved, now_s=self._core.clock()) or rotation.remembered(found) != found
        if not (lacking or needs_key or self._store.needs_sealing):
            return
        fresh = await asyncio.to_thread(self._generator.key) if needs_key else None

        def write() -> KeyRing:
            with self._store.transaction() as tx:
                if tx.ring is None:
                    raise StoreUnavailable(VANISHED)
                tx.ring = written = rotation.advance(keyring.join(tx.ring, ring), fresh, replace=replace)
            return written

        written = await self._disk.run(write)
        if written != found:
            self._core.health.counts["moves"] += 1
        await self._core.take(written)

    async def _first_ring(self) -> KeyRing:
        """For an empty folder: the ring in Redis, or a new one where Redis is reachable and empty, or off.

        An unmounted volume must not log every guest out: so it raises where it cannot know.
        """
        theirs = None if self._copy is None else await self._ring_in_redis(self._copy)
        if theirs is None and self._patience_s is None:
            raise KeyringError("There is no keyring, and GUEST_KEYS_REQUIRED says that there must be one.")
        if theirs is None:
            first = self._core.rotation.advance(await asyncio.to_thread(self._generator.ring), None)
        else:
            first = theirs
            logger.info("the folder is empty: adopting the ring in redis, revision %d", first.revision)

        def write() -> KeyRing:
            with self._store.transaction() as tx:
                tx.ring = written = tx.ring or first  # another process may have been quicker
            return written

        try:
            written = await self._disk.run(write)
        except KeyringError:
            if self._copy is not None and theirs is None:
                with contextlib.suppress(CacheUnavailable):
                    await self._copy.release(self._claimant)
            raise
        if theirs is None and written is first:
            logger.warning(
                "made a new keyring at %s, as there was none. If guests have tokens already, they are refused: "
                "is the volume mounted?",
                self._store.place,
            )
        return written

    async def _ring_in_redis(self, copy: "RedisStore") -> KeyRing | None:
        """The ring in Redis, or None where it stayed empty and this keeper alone may make the first ring."""
        health = self._core.health
        try:
            theirs = await copy.get()
            health.ok("redis")
            if theirs is not None:
                self._empty_since = None
            elif self._patience_s is not None:
                now = self._core.steady_clock()
                self._empty_since = now if self._empty_since is None else self._empty_since
                if now - self._empty_since < self._patience_s:
                    raise KeyringError(
                        "The folder of the keyring is empty, and so is Redis; a running keeper may yet fill it."
                    )
                if not await copy.claim(self._claimant):
                    raise KeyringError("Another keeper is making the first keyring; waiting for it.")
                theirs = await copy.get()  # it may have been put back while the claim was on its way
        except (CacheUnavailable, *REFUSALS) as error:
            health.failed("redis", error.code, error.detail)
            self._empty_since = None
            raise KeyringError(
                f"The folder of the keyring is empty, and Redis does not say whether there is one: {error.detail}"
            ) from error
        return theirs


class CopyTender:
    """Brings the copy in Redis and the ring in memory together; of a follower, the copy into memory alone."""

    def __init__(self, copy: "RedisStore", *, keeps: bool, core: Core) -> None:
        self._copy = copy
        self._keeps = keeps
        self._core = core
        self.foreign_since: float | None = None
        """Since when, by the steady clock, the copy has been another deployment's."""
        self.confirmed_at: float | None = None
        """When, by the steady clock, the copy was last found to hold this ring, or to hold it again."""

    @property
    def is_stray(self) -> bool:
        """Whether a follower has disagreed with the copy for so long that nobody else may take its tokens."""
        ring = self._core.held.ring
        if self._keeps or ring is None or self.foreign_since is None:
            return False
        return self._core.steady_clock() - self.foreign_since > self._core.rotation.lead_s(ring)

    async def tend(self) -> None:
        """One look at the copy."""
        if self._keeps and self._core.held.ring is None:
            return  # the file comes first
        try:
            await self._reconcile()
        except KeyringForeign as error:
            self.foreign_since = self._core.steady_clock() if self.foreign_since is None else self.foreign_since
            self._core.health.failed("redis", error.code, error.detail)
        except KeyringError as error:
            self._core.health.failed("redis", error.code, error.detail)
        else:
            self._core.health.ok("redis")
            self.confirmed_at = self._core.steady_clock()

    async def _reconcile(self) -> None:
        """Takes what the copy knows and, as a keeper, gives it what it lacks."""
        try:
            found = await self._copy.get()
        except (KeyringDamaged, WrongSecret):  # another deployment's ring, or one of a newer form, is left alone
            await self._put()
            raise
        lacking = found is None
        if found is not None:
            ring = await self._core.take(found, in_copy=True)
            lacking = keyring.differs(found, ring, now_s=self._core.clock()) or self._copy.needs_sealing
        self.foreign_since = None
        if found is None and not self._keeps:
            raise CacheEmpty("Redis holds no keyring.")
        if lacking:
            await self._put()

    async def _put(self) -> None:
        ring = self._core.held.ring
        if ring is None or not self._keeps:
            return
        await self._copy.put(ring)
        self._core.health.counts["put_back"] += 1
        self._core.rotation.watch(ring, copy=ring)
        logger.info("put revision %d of the keyring into redis", ring.revision)
