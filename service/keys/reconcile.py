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

from service.errors import (
    CacheEmpty,
    CacheUnavailable,
    KeyringDamaged,
    KeyringError,
    KeyringForeign,
    StoreUnavailable,
    WrongSecret,
)
from service.keys import keyring
from service.keys.file_store import Disk, FileStore
from service.keys.generator import KeyGenerator
from service.keys.held import REFUSALS, HeldRing, LoadedRing
from service.keys.keyring import KeyRing

if TYPE_CHECKING:  # a process without Redis need not load its client
    from service.keys.redis_store import RedisStore

logger = logging.getLogger("guest_sessions.keys")

VANISHED: Final = "The keyring's file has vanished; going on with the ring in memory."


class FileKeeper:
    """A keeper's side: brings the ring in its file and the one in memory together, and moves it on when that is due."""

    def __init__(
        self,
        store: FileStore,
        *,
        copy: "RedisStore | None",
        held: HeldRing,
        generator: KeyGenerator,
        patience_s: float | None,
        disk: Disk,
    ) -> None:
        """`patience_s`: for how long Redis must be seen empty before a first ring is made; None: none ever is."""
        self.store = store
        self._copy = copy
        self._held = held
        self._generator = generator
        self._patience_s = patience_s
        self._disk = disk
        self._claimant = generator.claimant()
        self._empty_since: float | None = None

    async def tend(self) -> None:
        """One look at the file, and all that is due then."""
        held, health = self._held, self._held.health
        with health.noted("file"):
            found = await self._disk.run(self.store.read)
            if found is None:
                if held.ring is not None:
                    raise StoreUnavailable(VANISHED)
                found = await self._first_ring()
            loaded = await held.take(found)
            if health.places["redis"] != "unread":  # else at a start: Redis may know more, a successor for one
                await self._move_on(found, loaded)
        if held.ring is not None:
            problem = held.rotation.problem(held.ring)
            health.failed("rotation", "rotation", problem) if problem else health.ok("rotation")

    async def _move_on(self, found: KeyRing, loaded: LoadedRing) -> None:
        """Writes what the file lacks, seals it, and moves the ring on; decided again under the lock."""
        ring, rotation, health = loaded.ring, self._held.rotation, self._held.health
        # A key with damaged numbers does not sign: another takes its place, unless Redis may know the right ones.
        damaged = ring.active is not None and ring.active.kid in loaded.signer.faults
        replace = damaged and health.places["redis"] in ("ok", "off")
        needs_key = rotation.needs_key(ring, replace=replace)
        moved = rotation.advance(ring, None, replace=replace)
        lacking = keyring.differs(found, moved, now_s=rotation.clock()) or rotation.remembered(found) != found
        if not (lacking or needs_key or self.store.needs_sealing):
            return
        fresh = await asyncio.to_thread(self._generator.key) if needs_key else None

        def write() -> KeyRing:
            with self.store.transaction() as tx:
                if tx.ring is None:
                    raise StoreUnavailable(VANISHED)
                tx.ring = written = rotation.advance(keyring.join(tx.ring, ring), fresh, replace=replace)
            return written

        written = await self._disk.run(write)
        if written != found:
            health.counts["moves"] += 1
        await self._held.take(written)

    async def _first_ring(self) -> KeyRing:
        """For an empty folder: the ring in Redis, or a new one where Redis is reachable and empty, or off.

        An unmounted volume must not log every guest out: so it raises where it cannot know.
        """
        theirs = None if self._copy is None else await self._ring_in_redis(self._copy)
        if theirs is None and self._patience_s is None:
            raise KeyringError("There is no keyring, and GUEST_KEYS_REQUIRED says that there must be one.")
        if theirs is not None:
            logger.info("the folder is empty: adopting the ring in redis, revision %d", theirs.revision)
        first = theirs or self._held.rotation.advance(await asyncio.to_thread(self._generator.ring), None)

        def write() -> KeyRing:
            with self.store.transaction() as tx:
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
                self.store.place,
            )
        return written

    async def _ring_in_redis(self, copy: "RedisStore") -> KeyRing | None:
        """The ring in Redis, or None where it stayed empty and this keeper alone may make the first ring."""
        health = self._held.health
        try:
            theirs = await copy.get()
            health.ok("redis")
            if theirs is not None:
                self._empty_since = None
            elif self._patience_s is not None:
                now = self._held.rotation.steady_clock()
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

    def __init__(self, copy: "RedisStore", *, keeps: bool, held: HeldRing) -> None:
        self._copy = copy
        self._keeps = keeps
        self._held = held
        self.foreign_since: float | None = None
        """Since when, by the steady clock, the copy has been another deployment's."""
        self.confirmed_at: float | None = None
        """When, by the steady clock, the copy was last found to hold this ring, or to hold it again."""

    @property
    def is_stray(self) -> bool:
        """Whether a follower has disagreed with the copy for so long that nobody else may take its tokens."""
        ring, rotation = self._held.ring, self._held.rotation
        if self._keeps or ring is None or self.foreign_since is None:
            return False
        return rotation.steady_clock() - self.foreign_since > rotation.lead_s(ring)

    async def tend(self) -> None:
        """One look at the copy: takes what it knows and, as a keeper, gives it what it lacks."""
        held, rotation = self._held, self._held.rotation
        if self._keeps and held.ring is None:
            return  # the file comes first
        with held.health.noted("redis"):
            try:
                found = await self._copy.get()
                if found is not None:
                    ring = (await held.take(found, in_copy=True)).ring
            except (KeyringDamaged, WrongSecret):  # another deployment's ring, or one of a newer form, is left alone
                await self._put()
                raise
            except KeyringForeign:
                self.foreign_since = rotation.steady_clock() if self.foreign_since is None else self.foreign_since
                raise
            self.foreign_since = None
            if found is None and not self._keeps:
                raise CacheEmpty("Redis holds no keyring.")
            if found is None or keyring.differs(found, ring, now_s=rotation.clock()) or self._copy.needs_sealing:
                await self._put()
            self.confirmed_at = rotation.steady_clock()

    async def _put(self) -> None:
        ring = self._held.ring
        if ring is None or not self._keeps:
            return
        await self._copy.put(ring)
        self._held.health.counts["put_back"] += 1
        self._held.rotation.watch(ring, copy=ring)
        logger.info("put revision %d of the keyring into redis", ring.revision)
