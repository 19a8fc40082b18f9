import asyncio
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.errors import NotReady
from service.keys import encoding, keyring
from service.keys.encryption import Sealer, is_sealed, make_secret
from service.keys.file_store import FileStore
from service.keys.generator import KeyGenerator
from service.keys.keyring import KeyPolicy, KeyRing
from service.keys.manager import FIRST_RING_PATIENCE_S, KeyManager, Pace
from service.keys.rotation import UNSEEN_PATIENCE_S, Rotation, is_full
from tests.doubles import HandClock, MemoryRedis, make_test_key, make_test_material, make_test_ring, memory_store

DAY_S = 86_400
NOON_S = 1_800_000_000
SECRET, OLD_SECRET = make_secret(), make_secret()
POLICY = KeyPolicy(algorithm="ES256", max_lifetime_s=1_000, jwks_max_age_s=300, rotate_every_s=0)
LEAD_S = 600


class World:
    """A volume, a Redis and two clocks, and the processes that share them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = HandClock(NOON_S)
        self.steady_clock = HandClock(0)
        self.cache = MemoryRedis()

    def beside(self, name: str) -> "World":
        """Another volume, with the same Redis and clocks."""
        other = World(self.folder.parent / name)
        other.clock, other.steady_clock, other.cache = self.clock, self.steady_clock, self.cache
        return other

    @property
    def path(self) -> Path:
        return self.folder / "keyring.json"

    def pass_s(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.steady_clock.now_s += seconds

    def file(self, *, secrets: tuple[str, ...] = ()) -> FileStore:
        return FileStore(self.folder, Sealer(secrets) if secrets else None)

    def generator(
        self, *, policy: KeyPolicy = POLICY, make_key: Callable[..., dict[str, Any]] = make_test_material
    ) -> KeyGenerator:
        return KeyGenerator(policy, clock=self.clock, random_bytes=_random_bytes, make_key=make_key)

    def keeper(
        self,
        *,
        secrets: tuple[str, ...] = (),
        policy: KeyPolicy = POLICY,
        cache: MemoryRedis | None = None,
        make_key: Callable[..., dict[str, Any]] = make_test_material,
        pace: Pace | None = None,
    ) -> KeyManager:
        return KeyManager(
            policy,
            generator=self.generator(policy=policy, make_key=make_key),
            file=self.file(secrets=secrets),
            copy=None if cache is None else memory_store(cache, *secrets),
            clock=self.clock,
            steady_clock=self.steady_clock,
            pace=pace or Pace(first_ring_patience_s=0),
        )

    def follower(self, *, secrets: tuple[str, ...] = (SECRET,), policy: KeyPolicy = POLICY) -> KeyManager:
        return KeyManager(
            policy,
            generator=self.generator(policy=policy),
            file=None,
            copy=memory_store(self.cache, *secrets),
            clock=self.clock,
            steady_clock=self.steady_clock,
        )

    def rotate(self, *, secrets: tuple[str, ...] = ()) -> KeyRing:
        """Stages a key, as the command line does."""
        return self.change(lambda ring: keyring.stage(ring, self.generator().key()), secrets=secrets)

    def change(self, move: Callable[[KeyRing], KeyRing], *, secrets: tuple[str, ...] = ()) -> KeyRing:
        with self.file(secrets=secrets).transaction() as tx:
            assert tx.ring is not None
            tx.ring = ring = move(tx.ring)
        return ring

    def now(self) -> float:
        return self.clock()

    def promote(self, ring: KeyRing) -> KeyRing:
        return keyring.promote(ring, now_s=self.clock())


_counter = iter(range(1, 1_000_000))


def _random_bytes(length: int) -> bytes:
    return next(_counter).to_bytes(length, "big")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "keys")


def held(keys: KeyManager) -> KeyRing:
    assert keys.loaded is not None
    return keys.loaded.ring


def states(keys: KeyManager) -> list[str]:
    return [key.state.value for key in held(keys).keys]


def active(keys: KeyManager) -> str:
    key = held(keys).active
    assert key is not None
    return key.kid


async def tick(*processes: KeyManager) -> None:
    """One round of what `run` does for ever."""
    for keys in processes:
        await keys.tend()


# --- first start ---


async def test_a_first_start_makes_one_key_that_signs_and_is_on_disk(world: World) -> None:
    keys = world.keeper()
    assert keys.loaded is None
    assert keys.status().ready is False

    await keys.start()

    assert states(keys) == ["active"]
    assert world.file().read() == held(keys)
    assert world.path.stat().st_mode & 0o777 == 0o600
    assert keys.loaded is not None
    assert json.loads(keys.loaded.jwks)["keys"][0]["kid"] == active(keys)
    assert keys.loaded.etag.startswith('"')


async def test_a_second_start_finds_the_ring_of_the_first(world: World) -> None:
    first, second = world.keeper(), world.keeper()
    await first.start()
    await second.start()

    assert held(second) == held(first)


async def test_a_key_that_fails_its_self_test_never_gets_to_the_disk(world: World) -> None:
    keys = world.keeper(make_key=lambda algorithm, **_options: make_test_material(algorithm) | {"d": "AQ"})

    await keys.start()

    assert keys.loaded is None
    assert world.file().read() is None
    assert "its numbers make no ES256 key" in (keys.status().problem or "")


# --- what lies in the file ---


async def test_with_a_secret_the_file_is_sealed(world: World) -> None:
    await world.keeper(secrets=(SECRET,)).start()

    assert is_sealed(world.path.read_bytes())


async def test_a_plain_file_is_sealed_once_there_is_a_secret(world: World) -> None:
    plain, sealing = world.keeper(), world.keeper(secrets=(SECRET,))
    await plain.start()
    await sealing.start()

    assert held(sealing) == held(plain)
    assert is_sealed(world.path.read_bytes())


async def test_the_secret_can_be_changed_without_a_pause(world: World) -> None:
    old = world.keeper(secrets=(OLD_SECRET, SECRET), cache=world.cache)
    await old.start()
    new = world.keeper(secrets=(SECRET, OLD_SECRET), cache=world.cache)
    await new.start()
    await tick(old)

    assert held(new) == held(old)
    assert old.status().file == "ok"
    assert Sealer([SECRET]).is_current(world.path.read_bytes())
    assert world.cache.content is not None
    assert Sealer([SECRET]).is_current(world.cache.content)


async def test_a_wrong_secret_is_told_as_such_and_nothing_is_overwritten(world: World) -> None:
    await world.keeper(secrets=(OLD_SECRET,)).start()
    content = world.path.read_bytes()
    wrong, none = world.keeper(secrets=(SECRET,)), world.keeper()
    await wrong.start()
    await none.start()

    assert (wrong.loaded, wrong.status().file) == (None, "wrong_secret")
    assert (none.loaded, none.status().file) == (None, "wrong_secret")
    assert world.path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"\n", b"{", b'{"keys":[]}', b"something else altogether"])
async def test_a_damaged_file_is_told_and_never_overwritten(world: World, content: bytes) -> None:
    world.folder.mkdir()
    world.path.write_bytes(content)
    keys = world.keeper()
    await keys.start()
    await tick(keys)

    assert (keys.loaded, keys.status().file) == (None, "keyring_damaged")
    assert world.path.read_bytes() == content


async def test_a_keeper_becomes_ready_once_its_damaged_file_is_put_right(world: World) -> None:
    await world.keeper().start()
    good = world.path.read_bytes()
    world.path.write_bytes(good[:-9])
    keys = world.keeper()
    await keys.start()
    assert keys.loaded is None

    world.path.write_bytes(good)
    await tick(keys)

    assert states(keys) == ["active"]
    assert keys.status().problem is None


# --- what becomes of the file under a running process ---


@pytest.mark.parametrize("fault", ["vanishes", "is damaged", "becomes another's"])
async def test_a_running_keeper_goes_on_when_its_file(
    world: World, fault: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    keys = world.keeper()
    await keys.start()
    world.rotate()
    await tick(keys)
    newer = world.path.read_bytes()
    ring = held(keys)
    other = World(tmp_path / "other")
    await other.keeper().start()
    wrong = {
        "vanishes": None,
        "is damaged": newer[:50],
        "becomes another's": other.path.read_bytes(),
    }[fault]
    world.path.unlink()
    if wrong is not None:
        world.path.write_bytes(wrong)

    caplog.clear()
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            world.pass_s(LEAD_S)
            await tick(keys)

    assert held(keys) == ring
    assert (world.path.read_bytes() if world.path.exists() else None) == wrong
    assert keys.status().problem is not None
    assert len(caplog.records) == 1

    world.path.write_bytes(newer)
    await tick(keys)
    assert keys.status().problem is None
    assert states(keys) == ["retired", "active"]


def staged(world: World) -> Callable[[KeyRing], KeyRing]:
    return lambda ring: keyring.stage(ring, world.generator().key())


@pytest.mark.parametrize("grown", [0, 1, 2, 3])
async def test_a_file_that_went_back_in_time_and_was_changed_gets_back_what_it_lost(world: World, grown: int) -> None:
    keys, other = world.keeper(), world.keeper()
    await keys.start()
    old = world.path.read_bytes()
    world.rotate()
    world.change(lambda ring: keyring.revoke_before(ring, NOON_S - 9, now_s=NOON_S))
    await tick(keys, other)
    lost = held(keys)

    world.path.write_bytes(old)
    moves = [staged(world), lambda ring: keyring.promote(ring, now_s=NOON_S), staged(world)]
    for move in moves[:grown]:
        world.change(move)
    await tick(keys, other)
    await tick(keys, other)

    ring = world.file().read()
    assert ring is not None
    assert held(keys) == held(other) == ring
    assert {key.kid for key in lost.keys} <= {key.kid for key in ring.keys}
    assert (ring.revoked_before_s, ring.revision >= lost.revision) == (NOON_S - 9, True)
    assert keys.status().problem is None


async def test_a_change_by_another_process_is_followed_with_a_new_value(world: World) -> None:
    keys = world.keeper()
    await keys.start()
    before = keys.loaded
    world.rotate()
    await tick(keys)

    assert states(keys) == ["active", "next"]
    assert keys.loaded is not before
    await tick(keys)
    assert states(keys) == ["active", "next"]


# --- rotation ---


@pytest.mark.parametrize(("after_s", "expected"), [(-1, ["active", "next"]), (0, ["retired", "active"])])
async def test_a_staged_key_signs_once_it_was_published_for_its_lead(
    world: World, after_s: int, expected: list[str]
) -> None:
    keys = world.keeper()
    await keys.start()
    world.rotate()
    await tick(keys)
    world.pass_s(LEAD_S + after_s)
    await tick(keys)

    assert states(keys) == expected


async def test_a_clock_that_jumps_ahead_lets_no_key_sign_before_it_was_seen(world: World) -> None:
    keys = world.keeper()
    await keys.start()
    world.rotate()
    await tick(keys)
    world.clock.now_s += 3_600
    await tick(keys)
    assert states(keys) == ["active", "next"]

    world.clock.now_s -= 3_600
    world.pass_s(LEAD_S)
    await tick(keys)
    assert states(keys) == ["retired", "active"]


async def test_a_clock_that_was_set_back_does_not_hold_a_rotation_up(world: World) -> None:
    keys = world.keeper()
    await keys.start()
    world.rotate()
    await tick(keys)
    world.clock.now_s -= 3_600
    world.pass_s(LEAD_S)
    await tick(keys)

    assert states(keys) == ["retired", "active"]


async def test_rotation_by_itself_happens_once_however_many_replicas_run(world: World) -> None:
    policy = msgspec.structs.replace(POLICY, rotate_every_s=30 * DAY_S)
    replicas = [world.keeper(policy=policy) for _ in range(5)]
    for keys in replicas:
        await keys.start()
    world.pass_s(30 * DAY_S - LEAD_S - 1)
    await tick(*replicas)
    assert states(replicas[0]) == ["active"]

    world.pass_s(1)
    await tick(*replicas)
    await tick(*replicas)
    assert [states(keys) for keys in replicas] == [["active", "next"]] * 5

    world.pass_s(LEAD_S)
    await tick(*replicas)
    await tick(*replicas)
    assert [states(keys) for keys in replicas] == [["retired", "active"]] * 5
    assert len({held(keys).revision for keys in replicas}) == 1


async def test_ten_rotations_keep_every_key_that_a_live_token_may_bear(world: World) -> None:
    policy = msgspec.structs.replace(POLICY, rotate_every_s=DAY_S, max_lifetime_s=5 * DAY_S)
    keys = world.keeper(policy=policy)
    await keys.start()
    for _ in range(10 * 24 * 6):
        world.pass_s(600)
        await tick(keys)

    retired = [key for key in held(keys).keys if key.state is keyring.KeyState.RETIRED]
    assert len(retired) in (9, 10)
    for _ in range(20 * 24 * 6):
        world.pass_s(600)
        await tick(keys)
        assert all((key.safe_to_drop_from_s or 10**12) > world.clock() - 3 * 3_600 for key in held(keys).keys)


async def test_a_clock_that_jumps_a_decade_ahead_for_a_moment_costs_no_key(world: World) -> None:
    keys = world.keeper()
    await keys.start()
    world.rotate()
    world.pass_s(LEAD_S)
    await tick(keys)
    world.pass_s(LEAD_S)
    await tick(keys)
    assert states(keys) == ["retired", "active"]

    world.clock.now_s += 3_650 * DAY_S
    await tick(keys)
    world.steady_clock.now_s += 3_599
    await tick(keys)
    world.clock.now_s -= 3_650 * DAY_S
    await tick(keys)
    world.clock.now_s += 3_650 * DAY_S
    await tick(keys)
    assert states(keys) == ["retired", "active"]

    world.steady_clock.now_s += 3_600
    await tick(keys)
    assert states(keys) == ["active"]


async def test_a_clock_that_jumps_while_one_key_is_dead_costs_no_other(world: World) -> None:
    keys = world.keeper(policy=msgspec.structs.replace(POLICY, max_lifetime_s=365 * DAY_S))
    await keys.start()
    for _ in range(2):
        world.pass_s(90 * DAY_S)
        world.rotate()
        world.change(lambda ring: keyring.promote(ring, now_s=world.clock()))
        await tick(keys)
    dead, alive, _ = held(keys).keys
    world.pass_s(372 * DAY_S - 90 * DAY_S)
    await tick(keys)
    world.pass_s(3_600)
    world.clock.now_s += 3_650 * DAY_S
    await tick(keys)

    assert alive.kid in {key.kid for key in held(keys).keys}
    assert dead.kid not in {key.kid for key in held(keys).keys}


async def test_what_one_keeper_drops_as_dead_another_agrees_to(world: World, tmp_path: Path) -> None:
    other = World(tmp_path / "other")
    other.clock, other.steady_clock = world.clock, world.steady_clock
    here = world.keeper(secrets=(SECRET,), cache=world.cache)
    there = other.keeper(secrets=(SECRET,), cache=world.cache)
    await here.start()
    await there.start()
    world.rotate(secrets=(SECRET,))
    world.change(lambda ring: keyring.promote(ring, now_s=NOON_S), secrets=(SECRET,))
    await tick(here, there)
    assert states(there) == ["retired", "active"]

    world.pass_s(1_001 + 7 * DAY_S)
    await tick(here)
    world.pass_s(1_800)
    await tick(there)
    world.pass_s(1_800)
    puts = world.cache.puts
    await tick(here, there, here, there)
    assert (states(here), states(there)) == (["active"], ["retired", "active"])
    assert world.cache.puts == puts, "rings that differ in dead keys alone are equal"

    world.pass_s(1_800)
    await tick(here, there, here, there)
    assert states(here) == states(there) == ["active"]
    assert held(here) == held(there)


async def test_a_rotation_that_stops_as_the_jwks_is_full_is_told_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    keys = world.keeper(policy=msgspec.structs.replace(POLICY, rotate_every_s=30 * DAY_S))
    await keys.start()

    def fill(ring: KeyRing) -> KeyRing:
        while not is_full(ring):
            ring = keyring.promote(keyring.stage(ring, world.generator().key()), now_s=world.clock())
        return ring

    world.change(fill)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            world.pass_s(1)
            await tick(keys)

    told = "The JWKS has 128 keys: no key is rotated by itself any more."
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == [f"rotation: {told}"]
    assert (keys.status().problem, keys.status().file) == (told, "ok")


# --- how long a token may live ---


async def test_a_longer_lifetime_is_on_disk_before_it_is_signed(world: World) -> None:
    await world.keeper().start()
    longer = world.keeper(policy=msgspec.structs.replace(POLICY, max_lifetime_s=5_000))
    await longer.start()

    assert longer.loaded is not None
    assert longer.loaded.max_lifetime_s == 5_000
    ring = world.file().read()
    assert ring is not None
    assert ring.active is not None
    assert ring.active.max_lifetime_s == 5_000


async def test_a_follower_never_signs_longer_than_the_ring_records(world: World) -> None:
    keeper = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keeper.start()
    follower = world.follower(policy=msgspec.structs.replace(POLICY, max_lifetime_s=5_000))
    shorter = world.follower(policy=msgspec.structs.replace(POLICY, max_lifetime_s=10))
    await follower.start()
    await shorter.start()

    assert follower.loaded is not None
    assert shorter.loaded is not None
    assert (follower.loaded.max_lifetime_s, shorter.loaded.max_lifetime_s) == (1_000, 10)


# --- the copy in the cache ---


async def test_a_follower_is_ready_once_there_is_a_ring_and_goes_on_without_the_cache(world: World) -> None:
    follower = world.follower()
    await follower.start()
    assert follower.loaded is None
    assert follower.status().problem == "Redis holds no keyring."

    keeper = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keeper.start()
    await tick(follower)
    assert held(follower) == held(keeper)

    world.cache.available = False
    await tick(keeper, follower)
    assert held(follower) == held(keeper)
    assert (follower.status().redis, keeper.status().redis) == ("cache_unavailable", "cache_unavailable")
    late = world.follower()
    await late.start()
    assert late.loaded is None


async def test_what_goes_to_the_cache_is_sealed(world: World) -> None:
    await world.keeper(secrets=(SECRET,), cache=world.cache).start()

    assert world.cache.content is not None
    assert is_sealed(world.cache.content)


async def test_a_keeper_puts_its_ring_back_after_every_loss_and_everything_wrong(world: World, tmp_path: Path) -> None:
    keeper = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keeper.start()
    follower = world.follower()
    await follower.start()
    older = world.cache.content
    world.rotate(secrets=(SECRET,))
    await tick(keeper, follower)
    other = World(tmp_path / "other")
    await other.keeper(secrets=(SECRET,), cache=other.cache).start()
    ring = held(keeper)
    plain = encoding.to_jwk_set(ring)

    for wrong, code in [
        (None, "cache_empty"),
        (b"garbage", "keyring_damaged"),
        (plain, "keyring_damaged"),
        (Sealer([OLD_SECRET]).seal(plain), "wrong_secret"),
        (Sealer([SECRET]).seal(b'{"purpose":"something else"}'), "keyring_damaged"),
        (older, "ok"),
    ]:
        world.cache.content = wrong
        await tick(follower)
        assert (held(follower), follower.status().redis) == (ring, code)
        await tick(keeper, follower)
        assert (held(keeper), held(follower), follower.status().redis) == (ring, ring, "ok")
        assert world.cache.content != wrong


async def test_each_change_of_health_is_one_line_of_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    keeper = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keeper.start()
    await tick(keeper)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        world.cache.available = False
        for _ in range(5):
            await tick(keeper)
        world.cache.available = True
        for _ in range(5):
            await tick(keeper)

    assert [record.getMessage() for record in caplog.records] == [
        "redis: Redis (single memory:6379) cannot be reached: Connection refused.",
        "redis: ok",
    ]
    assert keeper.status().counts["cache_unavailable"] == 5


async def test_a_keeper_with_an_empty_folder_adopts_the_ring_in_the_cache(world: World, tmp_path: Path) -> None:
    keeper = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keeper.start()
    moved = World(tmp_path / "empty")
    moved.cache = world.cache
    adopting = moved.keeper(secrets=(SECRET,), cache=world.cache)
    await adopting.start()

    assert held(adopting) == held(keeper)
    assert moved.file(secrets=(SECRET,)).read() == held(keeper)


@pytest.mark.parametrize("obstacle", ["gone", "sealed with another secret", "garbage", "claimed"])
async def test_a_keeper_with_an_empty_folder_waits_while_the_cache_is(world: World, obstacle: str) -> None:
    match obstacle:
        case "gone":
            world.cache.available = False
        case "claimed":
            world.cache.founder = b"another"
        case "garbage":
            world.cache.content = b"garbage"
        case _:
            world.cache.content = Sealer([OLD_SECRET]).seal(b"a ring")
    keys = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keys.start()
    await tick(keys)

    assert keys.loaded is None
    assert keys.status().problem is not None
    assert not world.path.exists()

    world.cache.available, world.cache.content, world.cache.founder = True, None, None
    await tick(keys)
    assert states(keys) == ["active"]


@pytest.mark.parametrize("at_first", ["gone", "empty", "garbage"])
async def test_an_empty_cache_is_left_to_the_keeper_that_has_the_ring(
    world: World, tmp_path: Path, at_first: str
) -> None:
    keeper = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keeper.start()
    unmounted = World(tmp_path / "unmounted")
    unmounted.steady_clock = world.steady_clock
    world.cache.available, world.cache.content = at_first != "gone", b"garbage" if at_first == "garbage" else None
    waiting = unmounted.keeper(secrets=(SECRET,), cache=world.cache, pace=Pace())
    await waiting.start()

    world.cache.available, world.cache.content, world.cache.founder = True, None, None
    for _ in range(int(FIRST_RING_PATIENCE_S)):
        await tick(waiting)
        assert waiting.loaded is None
        assert world.cache.content is None
        assert "empty" in (waiting.status().problem or "")
        world.pass_s(1)

    await tick(keeper, waiting)
    assert held(waiting) == held(keeper)


@pytest.mark.parametrize(("after_s", "ready"), [(-0.1, False), (0, True)])
async def test_a_cache_that_was_seen_empty_for_long_enough_is_filled(
    world: World,
    after_s: float,
    ready: bool,  # noqa: FBT001
) -> None:
    keys = world.keeper(secrets=(SECRET,), cache=world.cache, pace=Pace())
    await keys.start()
    world.pass_s(FIRST_RING_PATIENCE_S + after_s)
    await tick(keys)

    assert keys.status().ready is ready


async def test_the_wait_begins_when_the_cache_is_emptied_and_not_before(world: World, tmp_path: Path) -> None:
    await world.keeper(secrets=(SECRET,), cache=world.cache).start()
    late = World(tmp_path / "late")
    late.steady_clock = world.steady_clock
    obstacle = late.folder / "keyring.json.new"
    obstacle.mkdir(parents=True)
    keys = late.keeper(secrets=(SECRET,), cache=world.cache, pace=Pace())
    await keys.start()
    world.pass_s(FIRST_RING_PATIENCE_S)
    obstacle.rmdir()
    world.cache.content = world.cache.founder = None
    await tick(keys)

    assert keys.loaded is None


class FilledOnClaim(MemoryRedis):
    """A cache that a running keeper fills while another claims it."""

    def __init__(self, content: bytes | None) -> None:
        super().__init__()
        self.others = content

    async def set(self, name: str, value: bytes, *, nx: bool = False, ex: int = 0, px: int = 0) -> bool:
        done = await super().set(name, value, nx=nx, ex=ex, px=px)
        if nx:
            self.content = self.others
        return done


async def test_what_is_put_back_while_the_first_ring_is_claimed_is_adopted(world: World, tmp_path: Path) -> None:
    keeper = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keeper.start()
    late = World(tmp_path / "late").keeper(secrets=(SECRET,), cache=FilledOnClaim(world.cache.content))
    await late.start()

    assert held(late) == held(keeper)


async def test_a_founder_that_cannot_write_tells_of_the_disk_and_lets_others_claim(world: World) -> None:
    obstacle = world.folder / "keyring.json.new"
    obstacle.mkdir(parents=True)
    keys = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keys.start()
    await tick(keys)

    assert (keys.status().file, keys.status().redis) == ("store_unavailable", "ok")
    assert "Is a directory" in (keys.status().problem or "")
    assert world.cache.founder is None
    obstacle.rmdir()
    await tick(keys)
    assert states(keys) == ["active"]


async def test_keepers_on_different_volumes_that_start_at_once_end_with_one_ring(tmp_path: Path) -> None:
    cache = MemoryRedis()
    worlds = [World(tmp_path / str(number)) for number in range(5)]
    keepers = [world.keeper(secrets=(SECRET,), cache=cache) for world in worlds]
    await asyncio.gather(*(keys.start() for keys in keepers))
    await tick(*keepers)
    await tick(*keepers)

    assert len({held(keys).ring_id for keys in keepers}) == 1
    assert all(held(keys) == held(keepers[0]) for keys in keepers)


async def test_what_a_keeper_on_another_volume_did_is_joined_into_the_file(world: World, tmp_path: Path) -> None:
    other = World(tmp_path / "other")
    here = world.keeper(secrets=(SECRET,), cache=world.cache)
    there = other.keeper(secrets=(SECRET,), cache=world.cache)
    await here.start()
    await there.start()
    world.change(lambda ring: keyring.revoke_before(ring, NOON_S - 9, now_s=NOON_S), secrets=(SECRET,))
    other.rotate(secrets=(SECRET,))
    for _ in range(3):
        await tick(here, there)

    assert held(here) == held(there)
    assert (states(here), held(here).revoked_before_s) == (["active", "next"], NOON_S - 9)
    assert world.file(secrets=(SECRET,)).read() == other.file(secrets=(SECRET,)).read() == held(here)


@pytest.mark.parametrize("fault", ["vanishes", "is damaged", "cannot be written"])
async def test_a_keeper_follows_the_cache_while_its_file(
    world: World, fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = World(tmp_path / "other")
    here = world.keeper(secrets=(SECRET,), cache=world.cache)
    there = other.keeper(secrets=(SECRET,), cache=world.cache)
    await here.start()
    await there.start()
    good = world.path.read_bytes()
    world.path.unlink()
    if fault == "is damaged":
        world.path.write_bytes(b"junk")
    if fault == "cannot be written":
        world.path.write_bytes(good)
        (world.folder / "keyring.json.new").mkdir()
    kid = active(here)
    other.change(lambda ring: keyring.revoke(ring, kid, now_s=NOON_S), secrets=(SECRET,))
    await tick(there)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            world.pass_s(1)
            await tick(here, there)

    assert held(here) == held(there)
    assert states(here) == ["revoked", "active"]
    assert here.status().redis == "ok"
    assert here.status().file == ("keyring_damaged" if fault == "is damaged" else "store_unavailable")
    assert len([record for record in caplog.records if record.getMessage().startswith("file:")]) == 1
    assert world.path.exists() == (fault != "vanishes")

    if fault == "cannot be written":
        (world.folder / "keyring.json.new").rmdir()
    world.path.write_bytes(good)
    await tick(here)
    assert world.file(secrets=(SECRET,)).read() == held(here) == held(there)
    assert here.status().problem is None


async def test_a_follower_keeps_a_revocation_that_a_rolled_back_file_lost(world: World) -> None:
    keeper = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keeper.start()
    old = world.path.read_bytes()
    follower = world.follower()
    world.change(lambda ring: keyring.revoke_before(ring, NOON_S - 9, now_s=NOON_S), secrets=(SECRET,))
    await tick(keeper)
    await follower.start()

    world.path.write_bytes(old)
    world.rotate(secrets=(SECRET,))
    world.cache.content = None
    restarted = world.keeper(secrets=(SECRET,), cache=world.cache)
    await restarted.start()
    await tick(follower)
    assert (held(restarted).revision, held(restarted).revoked_before_s) == (2, 0)
    assert held(follower).revoked_before_s == NOON_S - 9
    assert len(held(follower).keys) == 2

    await tick(keeper, follower)
    assert held(follower) == held(keeper)
    assert held(keeper).revoked_before_s == NOON_S - 9


# --- the rest ---


async def test_the_status_tells_what_is_held_and_since_when_it_was_confirmed(world: World) -> None:
    keeper = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keeper.start()
    follower = world.follower()
    await follower.start()
    world.cache.available = False
    world.pass_s(30)
    await tick(keeper, follower)

    status = follower.status()
    assert (status.role, status.ready, status.file, status.ring_age_s) == ("follower", True, "off", 30)
    assert (status.revision, status.active_key) == (1, active(keeper))
    assert status.keys == {"next": 0, "active": 1, "retired": 0, "revoked": 0}
    assert (keeper.status().role, keeper.status().ring_age_s, keeper.status().file) == ("keeper", 0, "ok")


async def test_stopping_lets_go_of_the_cache(world: World) -> None:
    keys = world.follower()
    await keys.start()
    await keys.stop()

    assert world.cache.closed


# --- places that disagree ---


async def test_a_restored_backup_takes_no_revocation_back(world: World) -> None:
    shared = {"secrets": (SECRET,), "cache": world.cache}
    keeper = world.keeper(**shared)  # type: ignore[arg-type]
    await keeper.start()
    stolen, backup = active(keeper), world.path.read_bytes()
    world.change(lambda ring: keyring.revoke(ring, stolen, now_s=NOON_S), secrets=(SECRET,))
    await tick(keeper)
    successor = active(keeper)
    assert successor != stolen

    world.path.write_bytes(backup)
    world.cache.available = False
    for number in range(2):
        world.change(
            lambda ring, number=number: world.promote(  # type: ignore[misc]
                keyring.stage(ring, make_test_key(f"after{number}", now_s=NOON_S))
            ),
            secrets=(SECRET,),
        )
    world.cache.available = True
    restarted = world.keeper(**shared)  # type: ignore[arg-type]
    await restarted.start()
    await tick(restarted)

    assert {key.kid: key.state.value for key in held(restarted).keys} == {
        stolen: "revoked",
        successor: "retired",
        "after0": "retired",
        "after1": "active",
    }
    assert world.file(secrets=(SECRET,)).read() == held(restarted)


async def test_two_deployments_on_one_redis_leave_each_other_alone(world: World) -> None:
    here = world.keeper(secrets=(SECRET,), cache=world.cache)
    await here.start()
    other = world.beside("other")
    with other.file(secrets=(SECRET,)).transaction() as tx:
        tx.ring = other.generator().ring()
    there = other.keeper(secrets=(SECRET,), cache=world.cache)
    await there.start()
    puts = world.cache.puts
    for _ in range(9):
        await tick(here, there)

    assert world.cache.puts == puts
    assert held(here).ring_id != held(there).ring_id
    assert (here.status().redis, there.status().redis) == ("ok", "keyring_foreign")
    assert "of deployment" in (there.status().problem or "")
    assert there.status().ready


async def test_a_stray_follower_is_not_ready_after_its_lead(world: World) -> None:
    stray = world.beside("stray").keeper(secrets=(SECRET,), cache=world.cache)
    await stray.start()
    follower = world.follower()
    await follower.start()
    world.cache.content = world.cache.founder = None
    keeper = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keeper.start()

    await tick(follower)
    world.pass_s(LEAD_S)
    await tick(follower)
    assert follower.status().ready
    world.pass_s(1)
    await tick(follower)
    assert not follower.status().ready
    assert follower.status().redis == "keyring_foreign"

    await memory_store(world.cache, SECRET).put(held(stray))
    await tick(follower)
    assert follower.status().ready


async def test_a_newer_form_is_never_overwritten(world: World) -> None:
    keeper = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keeper.start()
    newer = Sealer([SECRET]).seal(b'{"purpose":"guest-sessions keyring","version":3}')
    world.cache.content = newer
    world.path.write_bytes(newer)
    await tick(keeper)
    starting = world.keeper(secrets=(SECRET,), cache=world.cache)
    await starting.start()

    assert (keeper.status().file, keeper.status().redis, keeper.status().ready) == (
        "keyring_newer",
        "keyring_newer",
        True,
    )
    assert (starting.status().file, starting.loaded) == ("keyring_newer", None)
    assert world.path.read_bytes() == world.cache.content == newer


async def test_a_ring_of_0_1_0_keeps_its_form_for_an_hour(world: World) -> None:
    world.folder.mkdir()
    world.path.write_bytes((Path(__file__).parent / "golden/0.1.0/keyring.json").read_bytes())
    keeper = world.keeper()

    await keeper.start()
    world.change(lambda ring: keyring.revoke(ring, "0a00000000000002", now_s=world.now()))
    world.pass_s(3_599)
    await tick(keeper)
    assert "version" not in json.loads(world.path.read_bytes())

    world.pass_s(1)
    await tick(keeper)
    stored = json.loads(world.path.read_bytes())
    assert (stored["version"], list(stored["jwks_ages"])) == (2, ["300"])


async def test_a_later_releases_members_survive_its_older_neighbours(world: World) -> None:
    keeper = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keeper.start()
    document = json.loads(encoding.to_jwk_set(held(keeper))) | {"hints": {"new": True}}
    document["keys"][0]["note"] = "of a later release"
    world.cache.content = Sealer([SECRET]).seal(json.dumps(document).encode())
    kid = active(keeper)
    await tick(keeper)
    world.change(lambda ring: keyring.revoke(ring, kid, now_s=NOON_S), secrets=(SECRET,))
    await tick(keeper)

    ring = world.file(secrets=(SECRET,)).read()
    assert ring is not None
    assert ring.extra == {"hints": {"new": True}}
    assert next(record.extra for record in ring.records if record.kid == kid) == {"note": "of a later release"}
    assert states(keeper) == ["revoked", "active"]


# --- no key that signs ---


async def test_with_none_active_a_keeper_makes_one(world: World) -> None:
    keeper = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keeper.start()
    follower = world.follower()
    await follower.start()
    kid = active(keeper)
    revoked = keyring.revoke(held(keeper), kid, now_s=NOON_S)
    world.cache.content = Sealer([SECRET]).seal(encoding.to_jwk_set(revoked))

    await tick(follower)
    assert (follower.status().ready, follower.status().active_key) == (False, None)
    assert follower.loaded is not None
    with pytest.raises(NotReady):
        follower.loaded.signer.sign(b"{}")

    await tick(keeper)
    await tick(keeper, follower)
    assert states(keeper) == states(follower) == ["revoked", "active"]
    assert follower.status().ready


async def test_a_damaged_retired_key_leaves_the_rest(world: World) -> None:
    await world.keeper().start()
    world.change(lambda ring: world.promote(keyring.stage(ring, make_test_key("b", now_s=NOON_S))))
    document = json.loads(world.path.read_bytes())
    document["keys"][0]["x"] = "AAAA"
    world.path.write_text(json.dumps(document))

    keys = world.keeper()
    await keys.start()
    await tick(keys)

    assert (states(keys), active(keys), keys.status().ready) == (["retired", "active"], "b", True)
    assert f"Key {document['keys'][0]['kid']} is damaged" in (keys.status().problem or "")
    assert json.loads(world.path.read_bytes())["keys"][0]["x"] == "AAAA"
    world.rotate()
    assert json.loads(world.path.read_bytes())["keys"][0]["x"] == "AAAA"


async def test_a_damaged_active_key_is_replaced_or_repaired(world: World) -> None:
    await world.keeper().start()
    good = world.path.read_bytes()
    document = json.loads(good)
    kid = document["keys"][0]["kid"]
    document["keys"][0]["d"] = "AQ"
    world.path.write_text(json.dumps(document))

    keys = world.keeper()
    await keys.start()
    assert states(keys) == ["retired", "active"]
    assert f"Key {kid}" not in active(keys)
    assert keys.status().ready

    repaired = encoding.from_jwk_set(good)
    world.change(lambda ring: keyring.join(ring, repaired))
    await tick(keys)
    assert (states(keys), keys.status().problem) == (["retired", "active"], None)


# --- clocks ---


async def test_a_clock_in_1970_at_promotion_drops_no_live_key(world: World) -> None:
    keys = world.keeper(policy=msgspec.structs.replace(POLICY, max_lifetime_s=365 * DAY_S))
    await keys.start()
    world.rotate()
    await tick(keys)
    first = active(keys)
    world.clock.now_s = 5
    world.pass_s(LEAD_S)
    await tick(keys)
    assert states(keys) == ["retired", "active"]

    world.clock.now_s = NOON_S + 2 * LEAD_S
    for _ in range(3):
        world.pass_s(3_600)
        await tick(keys)
    assert first in {key.kid for key in held(keys).keys}
    assert (held(keys).keys[0].retired_at_s or 0) >= NOON_S


async def test_a_first_start_in_2099_is_reported_and_rotates(world: World, caplog: pytest.LogCaptureFixture) -> None:
    policy = msgspec.structs.replace(POLICY, rotate_every_s=30 * DAY_S)
    world.clock.now_s = 4_070_908_800
    keys = world.keeper(policy=policy)
    await keys.start()
    assert keys.status().problem is None

    world.clock.now_s = NOON_S
    await tick(keys)
    assert "times in the future" in (keys.status().problem or "")
    assert "times in the future" in caplog.text
    world.pass_s(30 * DAY_S - LEAD_S)
    await tick(keys)
    assert states(keys) == ["active", "next"]
    world.pass_s(LEAD_S)
    await tick(keys)
    assert states(keys) == ["retired", "active"]
    world.pass_s(LEAD_S)
    await tick(keys)
    assert states(keys) == ["retired", "active"], "the next one is not due at once"


# --- the lead ---


async def test_a_lowered_max_age_counts_until_it_has_ended(world: World) -> None:
    old = world.keeper(policy=msgspec.structs.replace(POLICY, jwks_max_age_s=3_600))
    await old.start()
    world.pass_s(30 * DAY_S)
    await tick(old)
    new = world.keeper(policy=msgspec.structs.replace(POLICY, jwks_max_age_s=60))
    await new.start()
    world.rotate()
    await tick(new)

    world.pass_s(120)
    await tick(new)
    assert states(new) == ["active", "next"]
    world.pass_s(3_600)
    await tick(new)
    assert states(new) == ["retired", "active"]


async def test_processes_that_differ_in_the_age_do_not_chase(world: World) -> None:
    one = world.keeper(policy=msgspec.structs.replace(POLICY, jwks_max_age_s=3_600))
    other = world.keeper(policy=msgspec.structs.replace(POLICY, jwks_max_age_s=60))
    await one.start()
    await other.start()
    await tick(one, other)
    before = world.path.stat().st_mtime_ns
    for _ in range(29):
        await tick(one, other)
        world.pass_s(1)
    assert world.path.stat().st_mtime_ns == before


async def test_with_redis_the_lead_counts_from_the_copy(world: World) -> None:
    keeper = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keeper.start()
    world.cache.available = False
    world.rotate(secrets=(SECRET,))
    await tick(keeper)
    world.pass_s(LEAD_S)
    await tick(keeper)
    assert states(keeper) == ["active", "next"]

    world.cache.available = True
    await tick(keeper)
    world.pass_s(LEAD_S - 1)
    await tick(keeper)
    assert states(keeper) == ["active", "next"]
    world.pass_s(1)
    await tick(keeper)
    assert states(keeper) == ["retired", "active"]


async def test_a_key_unseen_for_an_hour_signs_and_is_reported(world: World, caplog: pytest.LogCaptureFixture) -> None:
    keeper = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keeper.start()
    world.cache.available = False
    world.rotate(secrets=(SECRET,))
    await tick(keeper)
    world.pass_s(UNSEEN_PATIENCE_S - 1)
    await tick(keeper)
    assert states(keeper) == ["active", "next"]
    world.pass_s(1)
    await tick(keeper)

    assert states(keeper) == ["retired", "active"]
    assert "though Redis has not shown it" in caplog.text


async def test_two_volumes_that_stage_at_once_end_with_one_key(world: World) -> None:
    policy = msgspec.structs.replace(POLICY, rotate_every_s=DAY_S)
    other = world.beside("other")
    here = world.keeper(secrets=(SECRET,), cache=world.cache, policy=policy)
    there = other.keeper(secrets=(SECRET,), cache=world.cache, policy=policy)
    await here.start()
    await there.start()
    await tick(here, there)
    world.pass_s(DAY_S - LEAD_S)
    assert here._file is not None
    assert there._file is not None
    await here._file.tend()
    await there._file.tend()
    await tick(here, there, here, there)

    assert held(here) == held(there)
    assert states(here) == ["active", "retired", "next"]
    for _ in range(2):
        world.pass_s(LEAD_S)
        await tick(here, there, here, there)
    assert held(here) == held(there)
    assert sorted(states(here)) == ["active", "retired", "retired"]
    passed_over = next(key.kid for key in held(here).keys if key.passed_over)
    assert here.loaded is not None
    assert passed_over not in {key["kid"] for key in json.loads(here.loaded.jwks)["keys"]}


def test_a_key_that_redis_has_not_shown_is_reported(world: World) -> None:
    rotation = Rotation(POLICY, clock=world.clock, steady_clock=world.steady_clock, with_copy=True)
    ring = keyring.stage(make_test_ring("a", now_s=NOON_S), make_test_key("b", now_s=NOON_S))

    rotation.watch(ring)
    assert rotation.problem(ring) == "Key b is not seen in Redis: it signs an hour after it was staged."
    rotation.watch(ring, copy=ring)
    assert rotation.problem(ring) is None


# --- sealing, and disks that fail ---


async def test_sealing_is_tried_until_it_holds(world: World) -> None:
    await world.keeper(secrets=(OLD_SECRET,)).start()
    obstacle = world.folder / "keyring.json.new"
    obstacle.mkdir()
    keys = world.keeper(secrets=(SECRET, OLD_SECRET))
    await keys.start()
    await tick(keys)
    assert (keys.status().ready, keys.status().file) == (True, "store_unavailable")

    obstacle.rmdir()
    await tick(keys)
    assert keys.status().file == "ok"
    assert Sealer([SECRET]).is_current(world.path.read_bytes())


async def test_sealing_of_the_copy_is_tried_until_it_holds(world: World) -> None:
    await world.keeper(secrets=(OLD_SECRET,), cache=world.cache).start()
    world.cache.full = True
    keys = world.keeper(secrets=(SECRET, OLD_SECRET), cache=world.cache)
    await keys.start()
    await tick(keys)
    assert keys.status().redis == "cache_unavailable"

    world.cache.full = False
    await tick(keys)
    assert keys.status().redis == "ok"
    assert world.cache.content is not None
    assert Sealer([SECRET]).is_current(world.cache.content)


async def test_processes_with_two_first_secrets_do_not_chase(world: World) -> None:
    old = world.keeper(secrets=(OLD_SECRET, SECRET), cache=world.cache)
    await old.start()
    new = world.keeper(secrets=(SECRET, OLD_SECRET), cache=world.cache)
    await new.start()
    await tick(old, new)
    written, puts = world.path.stat().st_mtime_ns, world.cache.puts
    for _ in range(5):
        await tick(old, new)
    assert (world.path.stat().st_mtime_ns, world.cache.puts) == (written, puts)


async def test_a_hung_disk_is_reported_and_redis_followed(world: World) -> None:
    pace = Pace(first_ring_patience_s=0, disk_timeout_s=0.2)
    keeper = world.keeper(secrets=(SECRET,), cache=world.cache, pace=pace)
    await keeper.start()
    content = world.path.read_bytes()
    world.path.unlink()
    os.mkfifo(world.path)  # opening it hangs until somebody writes
    kid = active(keeper)
    revoked = keyring.revoke(held(keeper), kid, now_s=NOON_S)
    successor = keyring.promote(keyring.stage(revoked, make_test_key("b", now_s=NOON_S)), now_s=NOON_S)
    world.cache.content = Sealer([SECRET]).seal(encoding.to_jwk_set(successor))

    for _ in range(3):
        await tick(keeper)
    assert (keeper.status().file, keeper.status().problem) == (
        "store_unavailable",
        "The disk of the keyring does not respond.",
    )
    assert states(keeper) == ["revoked", "active"]

    writer = os.open(world.path, os.O_RDWR)
    world.path.unlink()
    world.path.write_bytes(content)
    os.write(writer, b"x")
    os.close(writer)
    async with asyncio.timeout(10):
        while keeper.status().file != "ok":
            await asyncio.sleep(0.02)
            await tick(keeper)
    assert world.file(secrets=(SECRET,)).read() == held(keeper)


async def test_a_required_keyring_is_not_made(world: World) -> None:
    pace = Pace(first_ring_patience_s=None)
    alone = world.keeper(pace=pace)
    with_redis = world.keeper(secrets=(SECRET,), cache=world.cache, pace=pace)
    for keys in (alone, with_redis):
        await keys.start()
        await tick(keys)
        assert keys.loaded is None
        assert "GUEST_KEYS_REQUIRED" in (keys.status().problem or "")
    assert not world.path.exists()

    await world.beside("other").keeper(secrets=(SECRET,), cache=world.cache).start()
    await tick(with_redis)
    assert with_redis.status().ready


# --- the ring of another process of this host ---


async def test_a_process_starts_from_the_ring_of_another(world: World) -> None:
    shared: list[bytes] = []
    first = KeyManager(
        POLICY,
        generator=world.generator(),
        file=world.file(),
        copy=None,
        clock=world.clock,
        steady_clock=world.steady_clock,
        on_change=shared.append,
    )
    await first.start()
    world.path.write_bytes(b"damaged")

    second = world.keeper()
    await second.hold(shared[-1])
    assert second.status().ready
    await second.start()
    assert (held(second), second.status().file) == (held(first), "keyring_damaged")
    assert world.path.read_bytes() == b"damaged"


async def test_the_status_says_how_the_file_is_sealed_and_how_old_the_copy_is(world: World) -> None:
    keeper = world.keeper(secrets=(SECRET,), cache=world.cache)
    before = keeper.status()
    await keeper.start()
    seen = keeper.status()
    world.cache.available = False
    world.pass_s(30)
    await tick(keeper)

    assert (before.sealed_with, before.copy_age_s) == (None, None)
    assert (seen.sealed_with, seen.copy_age_s) == ("first", 0)
    assert (keeper.status().sealed_with, keeper.status().copy_age_s) == ("first", 30)


async def test_a_file_without_a_secret_is_sealed_with_none(world: World) -> None:
    keeper = world.keeper()
    await keeper.start()

    assert (keeper.status().sealed_with, keeper.status().copy_age_s) == ("none", None)


async def test_what_a_source_adds_is_counted_once(world: World) -> None:
    keeper = world.keeper()
    await keeper.start()
    await tick(keeper)
    first = keeper.status().counts.get("joined", 0)
    world.rotate()
    await tick(keeper)
    await tick(keeper)

    assert (first, keeper.status().counts["joined"]) == (0, 1)
