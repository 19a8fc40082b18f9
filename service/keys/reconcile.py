"""Brings the places of a ring together: the file of a keeper, the sealed copy in Redis, and the process's memory.

Each place is replaced by nothing but the join of what it held and what was found, so no order of events needs code of
its own. What is signed with is durable: a keeper writes a key to its file before it holds it. A file that vanishes or
is damaged under the process is left alone; the process goes on with the ring it holds, and follows Redis.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

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
from service.keys.held import Health, HeldRing
from service.keys.keyring import KeyRecord, KeyRing
from service.keys.rotation import Rotation

if TYPE_CHECKING:  # a process without Redis need not load its client
    from service.keys.redis_store import RedisStore

logger = logging.getLogger("guest_sessions.keys")

T = TypeVar("T")


class Core(msgspec.Struct, frozen=True):
    """What the sides of one process share."""

    held: HeldRing
    rotation: Rotation
    health: Health
    clock: Clock
    steady_clock: Clock

    async def take(self, found: KeyRing) -> KeyRing:
        """Joins what was found at a source into the ring in memory; the ring afterwards. Raises `KeyringForeign`."""
        before = self.held.ring
        ring = await self.held.take(found)
        if before is not None and ring != before:
            self.health.counts["joined"] += 1
        self.health.confirmed_at = self.steady_clock()
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
        self._stamp: object = None
        self._found: KeyRing | None = None

    @property
    def sealed_with(self) -> SealedWith | None:
        """What the file was sealed with when it was last read."""
        return self._store.sealed_with

    async def tend(self) -> None:
        """One look at the file, and all that is due then."""
        try:
            found = await self._disk.run(self._read)
            if found is None:
                if self._core.held.ring is not None:
                    raise StoreUnavailable("The keyring's file has vanished; going on with the ring in memory.")
                found = await self._first_ring()
            ring = await self._core.take(found)
            self._core.rotation.watch(ring)
            await self._write_what_is_due(found, ring)
        except KeyringError as error:
            self._core.health.failed("file", error.code, error.detail)
        else:
            self._core.health.ok("file")
        if self._core.held.ring is not None:
            problem = self._core.rotation.problem(self._core.held.ring)
            self._core.health.failed("rotation", "rotation", problem) if problem else self._core.health.ok("rotation")

    def _read(self) -> KeyRing | None:
        """The ring in the file, which is read again where its stamp has changed; on the disk's thread."""
        stamp = self._store.stamp()
        if stamp is None or stamp != self._stamp or self._found is None:
            self._found = self._store.read()
            self._stamp = stamp
        return self._found

    async def _write_what_is_due(self, found: KeyRing, ring: KeyRing) -> None:
        """Writes what the file lacks, seals it, and moves the ring on; decided again under the lock."""
        if self._copy is not None and self._core.health.places["redis"] == "unread":
            return  # at a start: Redis may know more, a successor for one
        replace = self._must_replace_active()
        lacking = keyring.differs(found, ring, now_s=self._core.clock())
        if not (lacking or self._store.needs_sealing or self._core.rotation.is_due(ring, replace=replace)):
            return
        fresh = None
        if self._core.rotation.needs_key(ring, replace=replace):
            fresh = await asyncio.to_thread(self._generator.key)
        written = await self._disk.run(partial(self._write, ring, fresh, replace=replace))
        if written != found:
            self._core.health.counts["moves"] += 1
        self._core.rotation.watch(await self._core.take(written))

    def _write(self, held: KeyRing, fresh: KeyRecord | None, *, replace: bool) -> KeyRing:
        with self._store.transaction() as tx:
            if tx.ring is None:
                raise StoreUnavailable("The keyring's file has vanished; going on with the ring in memory.")
            joined = self._core.rotation.remembered(keyring.join(tx.ring, held))
            tx.ring = ring = self._core.rotation.advance(joined, fresh, replace=replace)
        self._core.rotation.forgot({record.kid for record in joined.records} - {record.kid for record in ring.records})
        self._found = None  # read again: another process may have written since the lock was released
        return ring

    def _must_replace_active(self) -> bool:
        """Whether the active key's numbers are damaged, and Redis, where there is one, knows no better."""
        loaded = self._core.held.loaded
        if loaded is None or loaded.ring.active is None or loaded.ring.active.kid not in loaded.signer.faults:
            return False
        return self._core.health.places["redis"] in ("ok", "off")

    async def _first_ring(self) -> KeyRing:
        """For an empty folder: the ring in Redis, or a new one where Redis is reachable and empty, or off.

        An unmounted volume must not log every guest out: so whatever stands in the way of knowing raises.
        """
        theirs = None if self._copy is None else await self._ring_in_redis(self._copy)
        if theirs is None and self._patience_s is None:
            raise KeyringError("There is no keyring, and GUEST_KEYS_REQUIRED says that there must be one.")
        first = theirs
        if first is None:
            first = self._core.rotation.advance(await asyncio.to_thread(self._generator.ring), None)
        else:
            logger.info("the folder is empty: adopting the ring in redis, revision %d", first.revision)
        try:
            written = await self._disk.run(partial(self._write_first, first))
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
        theirs = await self._reply(copy.get())
        if theirs is not None:
            self._empty_since = None
        if theirs is not None or self._patience_s is None:
            return theirs
        now = self._core.steady_clock()
        self._empty_since = now if self._empty_since is None else self._empty_since
        if now - self._empty_since < self._patience_s:
            raise KeyringError("The folder of the keyring is empty, and so is Redis; a running keeper may yet fill it.")
        if not await self._reply(copy.claim(self._claimant)):
            raise KeyringError("Another keeper is making the first keyring; waiting for it.")
        return await self._reply(copy.get())  # it may have been put back while the claim was on its way

    def _write_first(self, first: KeyRing) -> KeyRing:
        with self._store.transaction() as tx:
            tx.ring = ring = tx.ring or first  # another process may have been quicker
        return ring

    async def _reply(self, reply: Awaitable[T]) -> T:
        try:
            replied = await reply
        except KeyringError as error:
            self._core.health.failed("redis", error.code, error.detail)
            self._empty_since = None
            raise KeyringError(
                f"The folder of the keyring is empty, and Redis does not say whether there is one: {error.detail}"
            ) from error
        self._core.health.ok("redis")
        return replied


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

    async def tend(self) -> None:
        """One look at the copy."""
        if self._keeps and self._core.held.ring is None:
            return  # the file comes first
        try:
            await (self._put_right() if self._keeps else self._follow())
        except KeyringError as error:
            if isinstance(error, KeyringForeign):
                self.foreign_since = self._core.steady_clock() if self.foreign_since is None else self.foreign_since
            self._core.health.failed("redis", error.code, error.detail)
        else:
            self._core.health.ok("redis")
            self.confirmed_at = self._core.steady_clock()

    async def _follow(self) -> None:
        found = await self._copy.get()
        if found is None:
            self.foreign_since = None
            raise CacheEmpty("Redis holds no keyring.")
        ring = await self._core.take(found)
        self.foreign_since = None
        self._core.rotation.watch(ring)
        self._core.rotation.forgot(self._core.rotation.forgettable(ring))

    async def _put_right(self) -> None:
        """Takes what the copy knows, and gives it what it lacks. Another deployment's or a newer form is left alone."""
        held = self._core.held.ring
        if held is None:
            return
        try:
            found = await self._copy.get()
        except (KeyringDamaged, WrongSecret):
            await self._put(held)
            raise
        if found is None:
            await self._put(held)
            return
        ring = await self._core.take(found)
        self.foreign_since = None
        self._core.rotation.watch(ring, copy=found)
        wanted = self._core.rotation.remembered(keyring.join(found, ring))
        if keyring.differs(found, wanted, now_s=self._core.clock()) or self._copy.needs_sealing:
            await self._put(wanted)

    async def _put(self, ring: KeyRing) -> None:
        await self._copy.put(ring)
        self._core.health.counts["put_back"] += 1
        self._core.rotation.watch(ring, copy=ring)
        logger.info("put revision %d of the keyring into redis", ring.revision)
