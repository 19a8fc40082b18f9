import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.errors import KeyringError, StoreUnavailable
from service.keys import encoding, keyring
from service.keys.admin import FOLLOW_S, KeyAdmin
from service.keys.encryption import Sealer, is_sealed, make_secret
from service.keys.file_store import FileStore
from service.keys.generator import KeyGenerator, KeyMaker, RingFile, SignerMaker
from service.keys.keyring import KeyPolicy, KeyRing
from service.keys.manager import FOUNDING_PATIENCE_S, LEAST_BETWEEN_PUTS_S, KeyManager, Pace
from tests.doubles import BrokenCodec, HandClock, MemoryRedis, StubCodec, make_stub_key, memory_store

DAY_S = 86_400
NOON_S = 1_800_000_000
SECRET, OLD_SECRET = make_secret(), make_secret()
POLICY = KeyPolicy(algorithm="ES256", max_lifetime_s=1_000, jwks_max_age_s=300, rotate_every_s=0)
LEAD_S = 600


class World:
    """A volume, a cache and two clocks, and the processes that share them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = HandClock(NOON_S)
        self.steady_clock = HandClock(0)
        self.cache = MemoryRedis()

    @property
    def path(self) -> Path:
        return self.folder / "keyring.json"

    def pass_s(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.steady_clock.now_s += seconds

    def file(
        self, *, secrets: tuple[str, ...] = (), policy: KeyPolicy = POLICY, make_signer: SignerMaker = StubCodec
    ) -> RingFile:
        mint = self.mint(policy=policy, make_signer=make_signer)
        return RingFile(FileStore(self.folder), Sealer(secrets) if secrets else None, mint)

    def mint(
        self, *, policy: KeyPolicy = POLICY, make_signer: SignerMaker = StubCodec, make_key: KeyMaker = make_stub_key
    ) -> KeyGenerator:
        return KeyGenerator(policy, make_key=make_key, make_signer=make_signer, random_bytes=_random_bytes)

    def keeper(
        self,
        *,
        secrets: tuple[str, ...] = (),
        policy: KeyPolicy = POLICY,
        cache: MemoryRedis | None = None,
        make_signer: SignerMaker = StubCodec,
        poll_s: float = 1,
        founding_patience_s: float = 0,
    ) -> KeyManager:
        return KeyManager(
            policy,
            mint=self.mint(policy=policy, make_signer=make_signer),
            file=self.file(secrets=secrets, policy=policy, make_signer=make_signer),
            copy=None if cache is None else memory_store(cache, *secrets),
            clock=self.clock,
            steady_clock=self.steady_clock,
            pace=Pace(file_poll_s=poll_s, cache_poll_s=poll_s, founding_patience_s=founding_patience_s),
        )

    def follower(self, *, secrets: tuple[str, ...] = (SECRET,), policy: KeyPolicy = POLICY) -> KeyManager:
        return KeyManager(
            policy,
            mint=self.mint(policy=policy),
            file=None,
            copy=memory_store(self.cache, *secrets),
            clock=self.clock,
            steady_clock=self.steady_clock,
        )

    def rotate(self, *, secrets: tuple[str, ...] = ()) -> KeyRing:
        """Stages a key, as the command line does."""
        return self.change(lambda ring: keyring.stage(ring, self.mint().key(self.clock)), secrets=secrets)

    def change(self, move: Callable[[KeyRing], KeyRing], *, secrets: tuple[str, ...] = ()) -> KeyRing:
        def decide(current: KeyRing | None) -> KeyRing:
            assert current is not None
            return move(current)

        return self.file(secrets=secrets).update(decide)


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


async def tick(*processes: KeyManager) -> None:
    """One round of what `run` does for ever."""
    for keys in processes:
        await keys._tend_file()
        await keys._tend_copy()


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
    assert json.loads(keys.loaded.jwks)["keys"][0]["kid"] == held(keys).active.kid
    assert keys.loaded.etag.startswith('"')


async def test_a_second_start_finds_the_ring_of_the_first(world: World) -> None:
    first, second = world.keeper(), world.keeper()
    await first.start()
    await second.start()

    assert held(second) == held(first)


async def test_a_key_that_fails_its_self_test_never_gets_to_the_disk(world: World) -> None:
    keys = world.keeper(make_signer=BrokenCodec)

    await keys.start()

    assert keys.loaded is None
    assert world.file().read() is None
    assert "failed its self-test" in (keys.status().problem or "")


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
    return lambda ring: keyring.stage(ring, world.mint().key(world.clock))


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

    world.pass_s(1_000 + 7 * DAY_S)
    await tick(here)
    world.pass_s(1_801)
    await tick(there)
    world.pass_s(1_799)
    await tick(here, there, here, there)
    assert states(here) == states(there) == ["retired", "active"], "the other has not seen it dead for long enough"

    world.pass_s(1_801)
    await tick(here, there, here, there)
    assert states(here) == states(there) == ["active"]
    assert held(here) == held(there)


async def test_a_rotation_that_stops_as_the_jwks_is_full_is_told_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    keys = world.keeper(policy=msgspec.structs.replace(POLICY, rotate_every_s=30 * DAY_S))
    await keys.start()

    def fill(ring: KeyRing) -> KeyRing:
        while not keyring.is_full(ring):
            ring = keyring.promote(keyring.stage(ring, world.mint().key(world.clock)), now_s=world.clock())
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
        (older, "keyring_older"),
        (other.cache.content, "keyring_foreign"),
    ]:
        world.pass_s(LEAST_BETWEEN_PUTS_S)
        world.cache.content = wrong
        await tick(follower)
        assert (held(follower), follower.status().redis) == (ring, code)
        await tick(keeper, follower)
        assert (held(keeper), held(follower), follower.status().redis) == (ring, ring, "ok")


async def test_a_copy_that_lags_behind_the_file_is_no_rollback_but_one_that_goes_back_is(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = world.keeper(secrets=(SECRET,), cache=world.cache)
    await keeper.start()
    older = world.cache.content
    world.rotate(secrets=(SECRET,))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        await tick(keeper)
        assert keeper.status().redis == "ok"
        assert not caplog.records
        world.cache.content = older
        world.pass_s(LEAST_BETWEEN_PUTS_S)
        await tick(keeper)
    assert [record.getMessage() for record in caplog.records] == [
        "redis: The keyring is of revision 1, older than 2, which was seen."
    ]
    assert world.cache.content != older
    assert (keeper.status().counts["keyring_older"], keeper.status().counts["put_back"]) == (1, 3)


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
    waiting = unmounted.keeper(secrets=(SECRET,), cache=world.cache, founding_patience_s=FOUNDING_PATIENCE_S)
    await waiting.start()

    world.cache.available, world.cache.content, world.cache.founder = True, None, None
    for _ in range(int(FOUNDING_PATIENCE_S)):
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
    keys = world.keeper(secrets=(SECRET,), cache=world.cache, founding_patience_s=FOUNDING_PATIENCE_S)
    await keys.start()
    world.pass_s(FOUNDING_PATIENCE_S + after_s)
    await tick(keys)

    assert keys.status().ready is ready


async def test_the_wait_begins_when_the_cache_is_emptied_and_not_before(world: World, tmp_path: Path) -> None:
    await world.keeper(secrets=(SECRET,), cache=world.cache).start()
    late = World(tmp_path / "late")
    late.steady_clock = world.steady_clock
    obstacle = late.folder / "keyring.json.new"
    obstacle.mkdir(parents=True)
    keys = late.keeper(secrets=(SECRET,), cache=world.cache, founding_patience_s=FOUNDING_PATIENCE_S)
    await keys.start()
    world.pass_s(FOUNDING_PATIENCE_S)
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


async def test_two_deployments_on_one_cache_do_not_chase_each_other(world: World, tmp_path: Path) -> None:
    here = world.keeper(secrets=(SECRET,), cache=world.cache)
    await here.start()
    other = World(tmp_path / "other")
    other.file(secrets=(SECRET,)).update(lambda _: other.mint().ring(other.clock))
    there = other.keeper(secrets=(SECRET,), cache=world.cache)
    await there.start()
    for _ in range(9):
        await tick(here, there)

    assert here.status().counts["put_back"] + there.status().counts["put_back"] <= 3
    assert held(here).ring_id != held(there).ring_id


async def test_keepers_on_different_volumes_that_start_at_once_end_with_one_ring(tmp_path: Path) -> None:
    cache = MemoryRedis()
    worlds = [World(tmp_path / str(number)) for number in range(5)]
    keepers = [world.keeper(secrets=(SECRET,), cache=cache) for world in worlds]
    for keys in keepers:
        await keys._tend_file()
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
    kid = held(here).active.kid
    spare = other.mint().key(other.clock)
    other.change(lambda ring: keyring.revoke(ring, kid, spare=spare, now_s=NOON_S), secrets=(SECRET,))
    await tick(there)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            world.pass_s(LEAST_BETWEEN_PUTS_S)
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
    assert (held(follower).revision, held(follower).revoked_before_s) == (3, NOON_S - 9)
    assert len(held(follower).keys) == 2

    await tick(keeper, follower)
    assert held(follower) == held(keeper)
    assert held(keeper).revoked_before_s == NOON_S - 9


# --- what an operator does ---


class Operator:
    """Operations on a world's keys, whose pauses are what the test makes of them."""

    def __init__(
        self,
        world: World,
        *,
        secrets: tuple[str, ...] = (),
        cache: MemoryRedis | None = None,
        make_key: KeyMaker = make_stub_key,
    ) -> None:
        self.world = world
        self.pauses: list[tuple[float, list[str]]] = []
        self.operations = KeyAdmin(
            POLICY,
            mint=world.mint(make_key=make_key),
            file=world.file(secrets=secrets),
            copy=None if cache is None else memory_store(cache, *secrets),
            sealer=Sealer(secrets) if secrets else None,
            clock=world.clock,
            make_keys=lambda: world.keeper(secrets=secrets, cache=cache),
            pause=self._pause,
        )

    async def _pause(self, seconds: float) -> None:
        ring = self.world.file().read()
        assert ring is not None
        self.pauses.append((seconds, [key.state.value for key in ring.keys]))
        self.world.pass_s(seconds)


@pytest.fixture
async def operator(world: World) -> Operator:
    operator = Operator(world)
    await operator.operations.init()
    return operator


async def test_a_key_that_shall_sign_now_is_published_and_followed_before_it_signs(operator: Operator) -> None:
    done = await operator.operations.rotate_now()

    assert operator.pauses == [(FOLLOW_S, ["active", "next"])]
    assert [key.state.value for key in done.ring.keys] == ["retired", "active"]
    assert done.before is not None
    assert [key.state.value for key in done.before.keys] == ["active"]


@pytest.mark.parametrize(("age_s", "pauses"), [(FOLLOW_S - 1, 1), (FOLLOW_S, 0)])
async def test_a_key_that_everybody_knows_already_signs_at_once(operator: Operator, age_s: float, pauses: int) -> None:
    staged = (await operator.operations.rotate()).ring.staged
    operator.world.pass_s(age_s)
    done = await operator.operations.rotate_now()

    assert len(operator.pauses) == pauses
    assert staged is not None
    assert done.ring.active.kid == staged.kid
    assert len(done.ring.keys) == 2


async def test_a_key_that_another_process_let_sign_meanwhile_is_not_rotated_twice(world: World) -> None:
    class Busy(Operator):
        async def _pause(self, seconds: float) -> None:
            await super()._pause(seconds)
            self.world.change(lambda ring: keyring.promote(ring, now_s=NOON_S))

    operator = Busy(world)
    await operator.operations.init()
    done = await operator.operations.rotate_now()

    assert [key.state.value for key in done.ring.keys] == ["retired", "active"]


async def test_the_key_that_signs_is_revoked_once_its_successor_is_known(operator: Operator) -> None:
    first = await operator.operations.ring()
    done = await operator.operations.revoke(first.active.kid)

    assert operator.pauses == [(FOLLOW_S, ["active", "next"])]
    assert [key.state.value for key in done.ring.keys] == ["revoked", "active"]
    assert done.before == first


async def test_a_key_that_does_not_sign_is_revoked_at_once(operator: Operator) -> None:
    first = (await operator.operations.rotate_now()).ring.keys[0]
    operator.pauses.clear()
    done = await operator.operations.revoke(first.kid)

    assert operator.pauses == []
    assert [key.state.value for key in done.ring.keys] == ["revoked", "active"]


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.99])
async def test_a_second_rotate_lets_no_key_sign_before_it_was_published_for_its_lead(
    world: World, fraction: float
) -> None:
    def make_slowly(algorithm: keyring.Algorithm) -> dict[str, Any]:
        world.pass_s(0.7)
        return make_stub_key(algorithm)

    operator = Operator(world, make_key=make_slowly)
    await operator.operations.init()
    world.pass_s(fraction)
    await operator.operations.rotate()
    world.pass_s(LEAD_S - 0.1)
    assert (await operator.operations.rotate()).ring.staged is not None

    world.pass_s(2.1)
    assert (await operator.operations.rotate()).ring.staged is None


@pytest.mark.parametrize("wrong", [b"garbage", Sealer([OLD_SECRET]).seal(b"a ring")], ids=["garbage", "another secret"])
async def test_a_ring_forced_over_what_nobody_can_open_is_told_as_done(world: World, wrong: bytes) -> None:
    world.cache.content = wrong
    done = await Operator(world, secrets=(SECRET,), cache=world.cache).operations.init()

    assert (done.status.redis, done.status.problem) == ("ok", None)
    assert world.cache.content != wrong


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
    assert (status.revision, status.active_key) == (1, held(keeper).active.kid)
    assert status.keys == {"next": 0, "active": 1, "retired": 0, "revoked": 0}
    assert (keeper.status().role, keeper.status().ring_age_s, keeper.status().file) == ("keeper", 0, "ok")


async def test_stopping_lets_go_of_the_cache(world: World) -> None:
    keys = world.follower()
    await keys.start()
    await keys.stop()

    assert world.cache.closed


def test_an_update_that_the_disk_refuses_is_no_update(tmp_path: Path) -> None:
    world = World(tmp_path / "keys")
    (tmp_path / "keys").write_bytes(b"a file where the folder should be")

    with pytest.raises(StoreUnavailable):
        world.file().update(lambda _: world.mint().ring(world.clock))
    assert issubclass(StoreUnavailable, KeyringError)
