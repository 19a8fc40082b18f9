from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.errors import InvalidTransition, KeyringDamaged, KeyringForeign
from service.keys import encoding, keyring
from service.keys.admin import FOLLOW_S, PREPARE_S, KeyAdmin
from service.keys.encryption import Sealer, make_secret
from service.keys.keyring import KeyRing
from service.keys.material import Algorithm
from tests.doubles import MemoryRedis, make_test_key, make_test_material, make_test_ring, memory_store
from tests.keys.test_manager import NOON_S, POLICY, World

DAY_S = 86_400
SECRET, OLD_SECRET = make_secret(), make_secret()


class Operator:
    """Operations on a world's keys; its pauses move the world's clocks."""

    def __init__(
        self,
        world: World,
        *,
        secrets: tuple[str, ...] = (),
        cache: MemoryRedis | None = None,
        make_key: Callable[..., dict[str, Any]] = make_test_material,
        algorithm: Algorithm | None = None,
    ) -> None:
        self.world = world
        self.pauses: list[tuple[float, list[str]]] = []
        self.secrets = secrets
        self.admin = KeyAdmin(
            generator=world.generator(make_key=make_key),
            file=world.file(secrets=secrets),
            copy=None if cache is None else memory_store(cache, *secrets),
            sealer=Sealer(secrets) if secrets else None,
            clock=world.clock,
            algorithm=algorithm,
            pause=self.pause,
        )

    async def pause(self, seconds: float) -> None:
        ring = self.world.file(secrets=self.secrets).read()
        assert ring is not None
        self.pauses.append((seconds, states(ring)))
        self.world.pass_s(seconds)
        if sum(pause_s for pause_s, _ in self.pauses) > PREPARE_S:
            raise TimeoutError  # as the deadline around it would


def states(ring: KeyRing) -> list[str]:
    return [key.state.value for key in ring.keys]


def active(ring: KeyRing) -> str:
    assert ring.active is not None
    return ring.active.kid


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "keys")


@pytest.fixture
async def operator(world: World) -> Operator:
    operator = Operator(world)
    await operator.admin.init()
    return operator


# --- rotating ---


async def test_a_key_that_shall_sign_now_is_first_followed(operator: Operator) -> None:
    done = await operator.admin.rotate_now()

    assert operator.pauses == [(FOLLOW_S, ["active", "next"])]
    assert states(done.ring) == ["retired", "active"]
    assert done.before is not None
    assert states(done.before) == ["active"]


@pytest.mark.parametrize(("age_s", "pauses"), [(FOLLOW_S - 1, 1), (FOLLOW_S, 0)])
async def test_a_key_that_is_known_already_signs_at_once(operator: Operator, age_s: float, pauses: int) -> None:
    staged = (await operator.admin.rotate()).ring.staged
    operator.world.pass_s(age_s)
    done = await operator.admin.rotate_now()

    assert len(operator.pauses) == pauses
    assert staged is not None
    assert active(done.ring) == staged.kid
    assert len(done.ring.keys) == 2


async def test_a_key_promoted_meanwhile_is_not_rotated_twice(world: World) -> None:
    class Busy(Operator):
        async def pause(self, seconds: float) -> None:
            await super().pause(seconds)
            self.world.change(self.world.promote)

    operator = Busy(world)
    await operator.admin.init()
    done = await operator.admin.rotate_now()

    assert states(done.ring) == ["retired", "active"]


async def test_rotate_stages_and_never_promotes(operator: Operator) -> None:
    first = await operator.admin.rotate()
    operator.world.pass_s(10 * DAY_S)
    again = await operator.admin.rotate()

    assert states(first.ring) == states(again.ring) == ["active", "next"]
    assert again.before == again.ring


async def test_rotate_with_a_clock_ahead_promotes_nothing(operator: Operator) -> None:
    await operator.admin.rotate()
    operator.world.clock.now_s += 365 * DAY_S

    assert states((await operator.admin.rotate()).ring) == ["active", "next"]


async def test_a_bare_shell_raises_no_lifetime(world: World) -> None:
    with world.file().transaction() as tx:
        tx.ring = make_test_ring("a", now_s=NOON_S, max_lifetime_s=60)
    assert POLICY.max_lifetime_s > 60

    done = await Operator(world).admin.rotate_now()

    assert [key.max_lifetime_s for key in done.ring.keys] == [60, 60]


@pytest.mark.parametrize(("asked", "made"), [(None, "RS256"), ("ES256", "ES256")], ids=["as the active", "as asked"])
async def test_a_new_key_has_the_algorithm_of_the_active(
    world: World, asked: Algorithm | None, made: Algorithm
) -> None:
    with world.file().transaction() as tx:
        key = make_test_key("a", now_s=NOON_S, algorithm="RS256")
        tx.ring = keyring.create(key, ring_id="deployment-1", derivation_secret=b"s" * 32)

    staged = (await Operator(world, algorithm=asked).admin.rotate()).ring.staged

    assert staged is not None
    assert staged.algorithm == made


async def test_rotate_now_waits_5_s_at_most_for_redis(world: World) -> None:
    operator = Operator(world, secrets=(SECRET,), cache=world.cache)
    await operator.admin.init()
    world.cache.available = False

    done = await operator.admin.rotate_now()

    assert sum(pause_s for pause_s, _ in operator.pauses) <= PREPARE_S + FOLLOW_S / 4
    assert states(done.ring) == ["retired", "active"]
    assert done.redis == "cache_unavailable"


async def test_an_operation_joins_what_redis_knows(world: World) -> None:
    operator = Operator(world, secrets=(SECRET,), cache=world.cache)
    first = (await operator.admin.init()).ring
    staged = keyring.stage(first, make_test_key("elsewhere", now_s=NOON_S))
    world.cache.content = Sealer([SECRET]).seal(encoding.to_jwk_set(staged))

    done = await operator.admin.rotate()

    assert done.ring.staged is not None
    assert done.ring.staged.kid == "elsewhere"


# --- revoking ---


async def test_the_key_that_signs_is_revoked_after_its_successor(operator: Operator) -> None:
    first = await operator.admin.ring()
    done = await operator.admin.revoke(active(first))

    assert operator.pauses == [(FOLLOW_S, ["active", "next"])]
    assert states(done.ring) == ["revoked", "active"]
    assert done.before == first


async def test_a_key_that_does_not_sign_is_revoked_at_once(operator: Operator) -> None:
    first = (await operator.admin.rotate_now()).ring.keys[0]
    operator.pauses.clear()
    done = await operator.admin.revoke(first.kid)

    assert operator.pauses == []
    assert states(done.ring) == ["revoked", "active"]


async def test_a_successor_that_signs_already_stays(world: World) -> None:
    class Busy(Operator):
        async def pause(self, seconds: float) -> None:
            await super().pause(seconds)
            self.world.change(self.world.promote)

    operator = Busy(world)
    kid = active((await operator.admin.init()).ring)

    assert states((await operator.admin.revoke(kid)).ring) == ["revoked", "active"]


# --- dropping ---


async def test_drop_forgets_what_no_token_can_bear(operator: Operator) -> None:
    await operator.admin.rotate_now()
    operator.world.pass_s(POLICY.max_lifetime_s + 7 * DAY_S - 1)
    assert len((await operator.admin.drop()).ring.keys) == 2

    operator.world.pass_s(10)
    assert states((await operator.admin.drop()).ring) == ["active"]


async def test_drop_cleans_the_copy_too(world: World) -> None:
    operator = Operator(world, secrets=(SECRET,), cache=world.cache)
    await operator.admin.init()
    await operator.admin.rotate_now()
    world.pass_s(POLICY.max_lifetime_s + 8 * DAY_S)
    await operator.admin.drop()

    copy = await memory_store(world.cache, SECRET).get()
    assert copy is not None
    assert states(copy) == ["active"]


# --- init and Redis ---


@pytest.mark.parametrize("wrong", [b"garbage", Sealer([OLD_SECRET]).seal(b"a ring")], ids=["garbage", "another secret"])
async def test_init_writes_over_what_nobody_can_open(world: World, wrong: bytes) -> None:
    world.cache.content = wrong
    done = await Operator(world, secrets=(SECRET,), cache=world.cache).admin.init()

    assert (done.redis, done.problem) == ("ok", None)
    assert world.cache.content != wrong


async def test_init_leaves_another_deployments_copy_alone(world: World) -> None:
    await Operator(world.beside("other"), secrets=(SECRET,), cache=world.cache).admin.init()
    theirs = world.cache.content
    operator = Operator(world, secrets=(SECRET,), cache=world.cache)

    done = await operator.admin.init()
    assert (done.redis, world.cache.content) == ("keyring_foreign", theirs)
    assert "another deployment's" in (done.problem or "")

    replaced = await operator.admin.init(replace=True)
    copy = await memory_store(world.cache, SECRET).get()
    assert (replaced.redis, replaced.ring) == ("ok", done.ring)
    assert copy == done.ring


async def test_init_makes_no_second_ring(operator: Operator) -> None:
    with pytest.raises(InvalidTransition, match="There is a keyring already"):
        await operator.admin.init()


# --- importing ---


async def test_an_old_backup_brings_no_used_key_back_to_sign(operator: Operator) -> None:
    await operator.admin.rotate()
    backup = encoding.to_jwk_set(await operator.admin.ring())
    await operator.admin.rotate_now()
    await operator.admin.rotate_now()
    operator.world.pass_s(POLICY.max_lifetime_s + 8 * DAY_S)
    signing = active((await operator.admin.drop()).ring)

    done = await operator.admin.import_ring(backup)

    assert (active(done.ring), done.ring.staged) == (signing, None)
    assert states(done.ring) == ["retired", "retired", "active"]


async def test_another_deployments_ring_is_imported_as_foreign_alone(operator: Operator) -> None:
    theirs = encoding.to_jwk_set(make_test_ring("b", now_s=NOON_S, ring_id="deployment-2"))

    with pytest.raises(KeyringForeign):
        await operator.admin.import_ring(theirs)
    done = await operator.admin.import_foreign(theirs)
    assert sorted(states(done.ring)) == ["active", "retired"]


async def test_a_damaged_key_is_not_imported(operator: Operator) -> None:
    ring = await operator.admin.ring()
    content = encoding.to_jwk_set(ring).replace(ring.records[0].private["x"].encode(), b"A" * 43)

    with pytest.raises(KeyringDamaged, match="its numbers make no ES256 key"):
        await operator.admin.import_ring(content)


async def test_another_key_of_a_known_name_is_not_imported(operator: Operator) -> None:
    ring = await operator.admin.ring()
    other = make_test_ring(active(ring), now_s=NOON_S, ring_id=ring.ring_id)

    with pytest.raises(KeyringDamaged, match="Two different keys are named"):
        await operator.admin.import_ring(encoding.to_jwk_set(other))


# --- listing ---


async def test_the_list_says_which_secret_seals_what(world: World) -> None:
    await Operator(world, secrets=(OLD_SECRET,), cache=world.cache).admin.init()
    listing = await Operator(world, secrets=(SECRET, OLD_SECRET), cache=world.cache).admin.list()
    plain = await Operator(world.beside("plain")).admin.init()

    assert (listing.file, listing.redis, listing.problem) == ("other", "other", None)
    assert states(plain.ring) == ["active"]
    assert (await Operator(world.beside("plain")).admin.list()).file == "none"


async def test_the_list_goes_on_without_redis(world: World) -> None:
    await Operator(world, secrets=(SECRET,), cache=world.cache).admin.init()
    world.cache.available = False
    listing = await Operator(world, secrets=(SECRET,), cache=world.cache).admin.list()

    assert (listing.file, listing.redis) == ("first", None)
    assert "cannot be reached" in (listing.problem or "")
