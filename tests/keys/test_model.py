"""A fleet in random order: keepers, followers, files, backups, Redis, partitions, restores, replays, clocks, operators.

Afterwards all is healed, and must agree: no revocation that a place knew is undone, no key that signed is unknown while
its tokens live, one key signs and the same everywhere, and all places are equal but for dead keys. `make laws` tries
more.
"""

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.errors import InvalidToken, KeyringError
from service.keys import encoding, keyring
from service.keys.admin import KeyAdmin
from service.keys.encryption import Sealer, make_secret
from service.keys.file_store import FileStore
from service.keys.generator import KeyGenerator
from service.keys.keyring import KeyPolicy, KeyRing, KeyState
from service.keys.manager import KeyManager, Pace
from tests.doubles import HandClock, MemoryRedis, memory_store

EXAMPLES = int(os.environ.get("RING_MODEL_EXAMPLES", "25"))
STEPS = 40
SECRET = make_secret()
YEAR_S = 365 * 86_400
NOON_S = 1_800_000_000.0
POLICY = KeyPolicy(algorithm="ES256", max_lifetime_s=10 * YEAR_S, jwks_max_age_s=300, rotate_every_s=2 * 86_400)
PROCESSES = {"keeper a1": "a", "keeper a2": "a", "keeper b": "b", "follower 1": None, "follower 2": None}
SKEWS_S = (0.0, 0.0, 3_600.0, -3_600.0, -50.0 * YEAR_S, 5.0 * YEAR_S)

_numbers = itertools.count(1)


def random_bytes(length: int) -> bytes:
    return next(_numbers).to_bytes(length, "big")


class Link(MemoryRedis):
    """One process's way to the Redis that all share."""

    def __init__(self, redis: MemoryRedis) -> None:
        super().__init__()
        self.redis = redis

    async def getrange(self, name: str, start: int, end: int) -> bytes:
        self._reply()
        return await self.redis.getrange(name, start, end)

    async def set(self, name: str, value: bytes, *, nx: bool = False, ex: int = 0, px: int = 0) -> bool:
        self._reply()
        return await self.redis.set(name, value, nx=nx, ex=ex, px=px)


class Process:
    """One process's keys, with its own clock and its own way to Redis."""

    def __init__(self, name: str, folder: Path | None, redis: MemoryRedis, now: HandClock, steady: HandClock) -> None:
        self.name = name
        self.folder = folder
        self.link = Link(redis)
        self.skew_s = 0.0
        self._now = now
        self._steady = steady
        self.keys = self.make()

    def clock(self) -> float:
        return max(self._now() + self.skew_s, 0)

    def file(self) -> FileStore | None:
        return None if self.folder is None else FileStore(self.folder, Sealer([SECRET]), sync=lambda _descriptor: None)

    def make(self) -> KeyManager:
        generator = KeyGenerator(POLICY, clock=self.clock, random_bytes=random_bytes)
        return KeyManager(
            POLICY,
            generator=generator,
            file=self.file(),
            copy=memory_store(self.link, SECRET),
            clock=self.clock,
            steady_clock=self._steady,
            pace=Pace(first_ring_patience_s=0),
        )

    def admin(self) -> KeyAdmin:
        async def pass_no_time(_seconds: float) -> None:
            if not self.link.available:
                raise TimeoutError  # as the deadline around it would, in the end

        return KeyAdmin(
            generator=KeyGenerator(POLICY, clock=self.clock, random_bytes=random_bytes),
            file=self.file(),
            copy=memory_store(self.link, SECRET),
            sealer=Sealer([SECRET]),
            clock=self.clock,
            pause=pass_no_time,
        )

    @property
    def ring(self) -> KeyRing | None:
        return None if self.keys.loaded is None else self.keys.loaded.ring


names = st.sampled_from(sorted(PROCESSES))
keepers = st.sampled_from([name for name, volume in PROCESSES.items() if volume is not None])
volumes = st.sampled_from("ab")


class Fleet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        shm = Path("/dev/shm")  # noqa: S108 - in memory, so that thousands of runs wear out no disk
        self.base = Path(tempfile.mkdtemp(dir=shm if shm.is_dir() else None))
        self.loop = asyncio.Runner()
        self.redis = MemoryRedis()
        self.now, self.steady = HandClock(NOON_S), HandClock(0)
        self.processes = {
            name: Process(name, None if volume is None else self.base / volume, self.redis, self.now, self.steady)
            for name, volume in PROCESSES.items()
        }
        self.backups: list[tuple[str, bytes]] = []
        self.copies: list[bytes] = []
        self.signed: dict[str, str] = {}
        self.revoked: dict[str, set[str]] = {}

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run(work)

    def path(self, volume: str) -> Path:
        return self.base / volume / "keyring.json"

    @initialize()
    def start(self) -> None:
        for process in self.processes.values():
            self.run(process.keys.start())

    # --- what happens ---

    @rule(name=names)
    def tick(self, name: str) -> None:
        self.run(self.processes[name].keys.tend())

    @rule(seconds=st.sampled_from([1, 1, 299, 601, 4_000, 90_000]))
    def pass_time(self, seconds: int) -> None:
        self.now.now_s += seconds
        self.steady.now_s += seconds

    @rule(name=names, skew_s=st.sampled_from(SKEWS_S))
    def jump(self, name: str, skew_s: float) -> None:
        self.processes[name].skew_s = skew_s

    @rule(name=names)
    def partition(self, name: str) -> None:
        link = self.processes[name].link
        link.available = not link.available

    @rule(name=names)
    def restart(self, name: str) -> None:
        process = self.processes[name]
        self.revoked.pop(name, None)
        process.keys = process.make()
        self.run(process.keys.start())

    @rule(volume=volumes)
    def back_up(self, volume: str) -> None:
        if self.path(volume).exists():
            self.backups.append((volume, self.path(volume).read_bytes()))

    @precondition(lambda self: self.backups)
    @rule(data=st.data(), volume=volumes)
    def restore(self, data: st.DataObject, volume: str) -> None:
        _, content = data.draw(st.sampled_from(self.backups))
        if self.path(volume).exists():
            self.path(volume).write_bytes(content)

    @rule()
    def copy_of_redis(self) -> None:
        if self.redis.content is not None:
            self.copies.append(self.redis.content)

    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        self.redis.content = data.draw(st.sampled_from([None, b"garbage", *self.copies]))

    @rule(name=keepers, act=st.sampled_from(["rotate", "now", "revoke", "before", "import", "drop"]), data=st.data())
    def operate(self, name: str, act: str, data: st.DataObject) -> None:
        admin = self.processes[name].admin()
        try:
            ring: KeyRing = self.run(admin.ring())
            match act:
                case "rotate":
                    self.run(admin.rotate())
                case "now":
                    self.run(admin.rotate_now())
                case "revoke":
                    self.run(admin.revoke(data.draw(st.sampled_from([key.kid for key in ring.keys]))))
                case "before":
                    self.run(admin.revoke_before(int(NOON_S) - data.draw(st.integers(0, 9))))
                case "drop":
                    self.run(admin.drop())
                case "import" if self.backups:
                    self.run(admin.import_ring(data.draw(st.sampled_from(self.backups))[1]))
                case _:
                    pass
        except KeyringError:
            pass  # no file yet, revoked already, and the like: nothing was done

    @rule(name=names)
    def sign(self, name: str) -> None:
        loaded = self.processes[name].keys.loaded
        if loaded is not None and loaded.signer.kid:
            self.signed[loaded.signer.kid] = loaded.signer.sign(b"{}")

    # --- what holds at any time ---

    @invariant()
    def no_process_forgets_a_revocation(self) -> None:
        for name, process in self.processes.items():
            if process.ring is not None:
                now = revoked_in(process.ring)
                assert self.revoked.get(name, set()) <= now, f"{name} lost a revocation"
                self.revoked[name] = now

    # --- what holds after healing ---

    def teardown(self) -> None:
        try:
            self.heal()
        finally:
            self.loop.close()
            shutil.rmtree(self.base)

    def places(self) -> dict[str, KeyRing]:
        found = {name: process.ring for name, process in self.processes.items()}
        for volume in "ab":
            if self.path(volume).exists():
                plain = Sealer([SECRET]).open(self.path(volume).read_bytes())
                found[f"file {volume}"] = encoding.from_jwk_set(plain)
        if self.redis.content not in (None, b"garbage"):
            found["redis"] = encoding.from_jwk_set(Sealer([SECRET]).open(self.redis.content or b""))
        return {name: ring for name, ring in found.items() if ring is not None}

    def heal(self) -> None:
        before = self.places()
        # A follower never writes: what no other place knows any more stays with it until it is restarted.
        kept = [ring for name, ring in before.items() if not name.startswith("follower")]
        if not kept:
            return  # nothing was ever ticked
        for process in self.processes.values():
            process.link.available, process.skew_s = True, 0
        for _ in range(5):
            self.pass_time(1)
            for name in self.processes:
                self.tick(name)
        places, now_s = self.places(), self.now()
        assert places.keys() == {*PROCESSES, "file a", "file b", "redis"}

        whole = places["file a"]
        assert whole.active is not None
        known = set().union(*(revoked_in(ring) for ring in kept))
        assert known <= revoked_in(whole), f"lost {known - revoked_in(whole)}"
        assert whole.revoked_before_s >= max(ring.revoked_before_s for ring in kept)
        for name, ring in places.items():
            joined = keyring.join(whole, ring)
            assert not keyring.differs(ring, joined, now_s=now_s), f"{name} lacks something"
            if name.startswith("follower") and name in before and not includes(whole, before[name]):
                continue
            assert not keyring.differs(whole, joined, now_s=now_s), f"{name} has more"
            assert ring.active is not None
            assert ring.active.kid == whole.active.kid, f"{name} signs with another key"
        kids = {record.kid for ring in kept for record in ring.records}
        for kid, token in self.signed.items():
            if kid in kids:
                for process in self.processes.values():
                    revoked = kid in revoked_in(process.ring or whole)
                    assert takes(process, token) is not revoked, f"{process.name} and a token of {kid}"


def includes(larger: KeyRing, smaller: KeyRing) -> bool:
    return keyring.join(larger, smaller) == larger


def revoked_in(ring: KeyRing) -> set[str]:
    return {key.kid for key in ring.keys if key.state is KeyState.REVOKED}


def takes(process: Process, token: str) -> bool:
    assert process.keys.loaded is not None
    try:
        process.keys.loaded.signer.verify(token)
    except InvalidToken as error:
        if error.reason != "revoked":
            raise
        return False
    return True


TestFleet = Fleet.TestCase
TestFleet.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    derandomize="RING_MODEL_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.reuse, Phase.generate],
)
