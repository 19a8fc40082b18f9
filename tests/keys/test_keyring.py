import os

import msgspec
import pytest

from service.errors import InvalidToken, InvalidTransition, KeyringDamaged, KeyringForeign
from service.keys import keyring
from service.keys.held import load
from service.keys.keyring import Key, KeyPolicy, KeyRecord, KeyRing
from service.tokens.service import TokenPolicy, TokenService
from tests.doubles import HandClock, make_test_key, make_test_ring

DAY_S = 86_400


def states(ring: KeyRing) -> dict[str, str]:
    return {key.kid: key.state.value for key in ring.keys}


def key_of(ring: KeyRing, kid: str) -> Key:
    return next(key for key in ring.keys if key.kid == kid)


def record_of(ring: KeyRing, kid: str) -> KeyRecord:
    return next(record for record in ring.records if record.kid == kid)


def rotated(ring: KeyRing, kid: str, *, now_s: float) -> KeyRing:
    return keyring.promote(keyring.stage(ring, make_test_key(kid, now_s=now_s)), now_s=now_s)


def foreign_ring(kid: str, *, now_s: float) -> KeyRing:
    return make_test_ring(kid, now_s=now_s, ring_id="deployment-2")


# --- what follows from the times ---


def test_the_first_key_of_a_deployment_signs_at_once() -> None:
    ring = make_test_ring("a", now_s=100.9)

    assert states(ring) == {"a": "active"}
    assert (ring.revision, key_of(ring, "a").created_at_s, key_of(ring, "a").activated_at_s) == (1, 101, 101)
    assert ring.revoked_before_s == 0


def test_a_staged_key_signs_only_once_it_is_promoted() -> None:
    ring = make_test_ring("a", now_s=100)
    staged = keyring.stage(ring, make_test_key("b", now_s=200))
    promoted = keyring.promote(staged, now_s=800.7)

    assert states(staged) == {"a": "active", "b": "next"}
    assert states(promoted) == {"a": "retired", "b": "active"}
    assert (key_of(promoted, "a").retired_at_s, key_of(promoted, "b").activated_at_s) == (800, 800)
    assert (ring.revision, staged.revision, promoted.revision) == (1, 2, 3)


def test_a_second_key_cannot_be_staged() -> None:
    ring = keyring.stage(make_test_ring("a", now_s=100), make_test_key("b", now_s=200))

    with pytest.raises(InvalidTransition, match="Key b is staged already") as caught:
        keyring.stage(ring, make_test_key("c", now_s=200))
    assert caught.value.code == "illegal_move"


def test_nothing_is_promoted_where_nothing_is_staged() -> None:
    with pytest.raises(InvalidTransition, match="No key is staged"):
        keyring.promote(make_test_ring("a", now_s=100), now_s=200)


def test_of_three_rings_the_latest_activation_is_active() -> None:
    start = make_test_ring("a", now_s=1)
    at_10, at_15, at_20 = (rotated(start, kid, now_s=time_s) for kid, time_s in (("b", 10), ("c", 15), ("d", 20)))

    for one, two, three in ((at_10, at_15, at_20), (at_20, at_10, at_15), (at_15, at_20, at_10)):
        joined = keyring.join(keyring.join(one, two), three)
        assert states(joined) == {"a": "retired", "b": "retired", "c": "retired", "d": "active"}
        assert [key_of(joined, kid).retired_at_s for kid in "abc"] == [10, 15, 20]


def test_activations_of_one_second_are_decided_by_the_kid() -> None:
    start = make_test_ring("a", now_s=1)
    joined = keyring.join(rotated(start, "b", now_s=10), rotated(start, "c", now_s=10))

    assert states(joined) == {"a": "retired", "b": "retired", "c": "active"}
    assert key_of(joined, "b").retired_at_s == 10


def test_of_two_staged_keys_the_later_is_next() -> None:
    start = make_test_ring("a", now_s=100)
    joined = keyring.join(
        keyring.stage(start, make_test_key("b", now_s=200)), keyring.stage(start, make_test_key("c", now_s=201))
    )

    assert states(joined) == {"a": "active", "b": "retired", "c": "next"}
    assert (key_of(joined, "b").passed_over, key_of(joined, "b").retired_at_s) == (True, 201)


def test_a_key_staged_before_the_last_activation_is_passed_over() -> None:
    start = make_test_ring("a", now_s=100)
    joined = keyring.join(keyring.stage(start, make_test_key("b", now_s=200)), rotated(start, "c", now_s=300))

    assert states(joined) == {"a": "retired", "b": "retired", "c": "active"}
    assert key_of(joined, "b").retired_at_s == 300
    assert keyring.stage(joined, make_test_key("d", now_s=400)).staged is not None


def test_a_key_passed_over_is_next_again_if_the_other_is_revoked() -> None:
    start = make_test_ring("a", now_s=100)
    joined = keyring.join(
        keyring.stage(start, make_test_key("b", now_s=200)), keyring.stage(start, make_test_key("c", now_s=201))
    )

    assert states(keyring.revoke(joined, "c", now_s=300)) == {"a": "active", "b": "next", "c": "revoked"}


@pytest.mark.parametrize(("after_s", "published"), [(-1, ["a", "b", "c"]), (0, ["a", "c"])])
def test_a_key_passed_over_leaves_the_jwks_after_a_lead(after_s: int, published: list[str]) -> None:
    start = make_test_ring("a", now_s=100)
    joined = keyring.join(
        keyring.stage(start, make_test_key("b", now_s=200)), keyring.stage(start, make_test_key("c", now_s=201))
    )

    assert [key.kid for key in joined.published(lead_s=600, now_s=801 + after_s)] == published


# --- times never go back ---


def test_a_clock_in_1970_at_promotion_costs_no_key() -> None:
    ring = keyring.stage(make_test_ring("a", now_s=1_800_000_000), make_test_key("b", now_s=0))
    promoted = keyring.promote(ring, now_s=600)
    corrected_s = 1_800_000_700

    assert key_of(promoted, "b").created_at_s == 1_800_000_000
    assert key_of(promoted, "a").retired_at_s == key_of(promoted, "b").activated_at_s == 1_800_000_001
    assert keyring.dead(promoted, now_s=corrected_s) == frozenset()


def test_a_clock_in_2099_lets_later_keys_follow_it() -> None:
    ring = make_test_ring("a", now_s=4_070_908_800)
    ring = keyring.stage(ring, make_test_key("b", now_s=1_800_000_000))
    ring = keyring.promote(ring, now_s=1_800_000_600)

    assert states(ring) == {"a": "retired", "b": "active"}
    assert key_of(ring, "b").activated_at_s == 4_070_908_801
    assert states(rotated(ring, "c", now_s=1_800_001_000))["c"] == "active"


def test_a_key_is_revoked_no_earlier_than_it_was_made() -> None:
    ring = keyring.revoke(make_test_ring("a", now_s=1_800_000_000), "a", now_s=5)

    assert key_of(ring, "a").revoked_at_s == 1_800_000_000


@pytest.mark.parametrize("now_s", [2**31 - 1, 2**31, 2**32 + 1, 253_402_300_800])
def test_dates_past_2038_2106_and_9999_are_dates(now_s: int) -> None:
    ring = rotated(make_test_ring("a", now_s=now_s), "b", now_s=now_s + 600)

    assert key_of(ring, "a").safe_to_drop_from_s == now_s + 600 + 1_000 + 7 * DAY_S


# --- revoking ---


def test_revoking_a_retired_key_forgets_its_private_part() -> None:
    ring = rotated(make_test_ring("a", now_s=100), "b", now_s=200)

    revoked = keyring.revoke(ring, "a", now_s=300)

    assert states(revoked) == {"a": "revoked", "b": "active"}
    assert key_of(revoked, "a").revoked_at_s == 300
    assert "d" not in record_of(revoked, "a").private
    assert "d" in record_of(revoked, "b").private
    assert [key.kid for key in revoked.published(lead_s=600, now_s=300)] == ["b"]


def test_without_the_active_key_nothing_signs_until_a_promotion() -> None:
    ring = keyring.stage(rotated(make_test_ring("a", now_s=1), "b", now_s=100), make_test_key("c", now_s=200))

    revoked = keyring.revoke(ring, "b", now_s=300)

    assert states(revoked) == {"a": "retired", "b": "revoked", "c": "next"}
    assert revoked.active is None
    assert states(keyring.promote(revoked, now_s=300)) == {"a": "retired", "b": "revoked", "c": "active"}


def test_a_key_is_revoked_once_and_for_all() -> None:
    ring = keyring.revoke(make_test_ring("a", now_s=100), "a", now_s=300)

    with pytest.raises(InvalidTransition, match="Key a is revoked already"):
        keyring.revoke(ring, "a", now_s=400)


def test_a_key_that_is_not_there_cannot_be_revoked() -> None:
    with pytest.raises(InvalidTransition, match="There is no key nope"):
        keyring.revoke(make_test_ring("a", now_s=100), "nope", now_s=300)


def test_the_revocation_time_only_grows_and_is_not_ahead() -> None:
    ring = keyring.revoke_before(make_test_ring("a", now_s=100), 200, now_s=200)

    assert (ring.revoked_before_s, ring.revision) == (200, 2)
    assert keyring.revoke_before(ring, 200, now_s=300) is ring
    with pytest.raises(InvalidTransition, match="in the future"):
        keyring.revoke_before(ring, 301, now_s=300)
    with pytest.raises(InvalidTransition, match="cannot be undone"):
        keyring.revoke_before(ring, 199, now_s=300)


# --- lifetimes ---


def test_a_longer_lifetime_is_for_keys_that_sign_or_will() -> None:
    ring = rotated(make_test_ring("a", now_s=100), "b", now_s=200)
    ring = keyring.stage(ring, make_test_key("c", now_s=300))

    longer = keyring.allow_lifetime(ring, 5_000)

    assert {key.kid: key.max_lifetime_s for key in longer.keys} == {"a": 1_000, "b": 5_000, "c": 5_000}
    assert keyring.allow_lifetime(longer, 4_999) is longer


@pytest.mark.parametrize(("after_s", "dead"), [(-1, set()), (0, {"a"}), (1, {"a"})])
def test_a_retired_key_dies_a_week_after_its_last_token(after_s: int, dead: set[str]) -> None:
    ring = rotated(make_test_ring("a", now_s=100), "b", now_s=200)
    safe_from_s = 200 + 1_000 + 7 * DAY_S

    assert key_of(ring, "a").safe_to_drop_from_s == safe_from_s
    assert keyring.dead(ring, now_s=safe_from_s + after_s) == dead
    assert set(states(keyring.forget(ring, dead))) == {"a", "b"} - dead


def test_a_key_passed_over_dies_after_a_week() -> None:
    start = make_test_ring("a", now_s=100, max_lifetime_s=10**9)
    joined = keyring.join(keyring.stage(start, make_test_key("b", now_s=200)), rotated(start, "c", now_s=300))

    assert keyring.dead(joined, now_s=300 + 7 * DAY_S) == {"b"}


def test_a_revoked_key_is_never_dead() -> None:
    ring = keyring.revoke(make_test_ring("a", now_s=100), "a", now_s=300)

    assert key_of(ring, "a").safe_to_drop_from_s == 300
    assert keyring.dead(ring, now_s=10**12) == frozenset()


def test_a_key_that_signs_is_never_safe_to_drop() -> None:
    assert key_of(make_test_ring("a", now_s=100), "a").safe_to_drop_from_s is None


def test_a_dead_key_that_comes_back_is_dead_still() -> None:
    old = rotated(make_test_ring("a", now_s=100), "b", now_s=200)
    dead_at_s = 200 + 1_000 + 7 * DAY_S
    dropped = keyring.forget(old, {"a"})

    assert keyring.dead(keyring.join(dropped, old), now_s=dead_at_s) == {"a"}


def test_rings_that_differ_in_dead_keys_alone_are_equal() -> None:
    old = rotated(make_test_ring("a", now_s=100), "b", now_s=200)
    dropped = keyring.forget(old, {"a"})
    dead_at_s = 200 + 1_000 + 7 * DAY_S

    assert not keyring.differs(dropped, old, now_s=dead_at_s)
    assert keyring.differs(dropped, old, now_s=dead_at_s - 1)
    assert keyring.differs(old, keyring.revoke(old, "a", now_s=dead_at_s), now_s=dead_at_s)


# --- joining ---


def test_joining_what_is_known_gives_the_same_object() -> None:
    older = make_test_ring("a", now_s=100)
    newer = rotated(older, "b", now_s=200)

    assert keyring.join(newer, older) is newer
    assert keyring.join(older, newer) is newer
    assert keyring.join(newer, newer) is newer


def test_two_rings_that_went_apart_lose_no_key() -> None:
    start = make_test_ring("a", now_s=100)
    mine = rotated(start, "b", now_s=200)
    theirs = keyring.stage(rotated(start, "c", now_s=250), make_test_key("d", now_s=260))

    joined = keyring.join(mine, theirs)

    assert states(joined) == {"a": "retired", "b": "retired", "c": "active", "d": "next"}
    assert {key.kid: key.retired_at_s for key in joined.keys} == {"a": 200, "b": 250, "c": None, "d": None}


def test_a_revocation_on_either_side_holds() -> None:
    start = rotated(make_test_ring("a", now_s=100), "b", now_s=200)
    mine = keyring.stage(start, make_test_key("c", now_s=210))
    theirs = keyring.revoke(start, "b", now_s=220)

    for joined in (keyring.join(mine, theirs), keyring.join(theirs, mine)):
        assert states(joined) == {"a": "retired", "b": "revoked", "c": "next"}
        assert "d" not in record_of(joined, "b").private


def test_a_restored_backup_undoes_no_revocation() -> None:
    backup = make_test_ring("stolen", now_s=100)
    revoked = keyring.revoke(backup, "stolen", now_s=200)
    fleet = keyring.promote(keyring.stage(revoked, make_test_key("good", now_s=200)), now_s=200)
    restored = rotated(rotated(backup, "x", now_s=300), "y", now_s=400)
    assert restored.revision > fleet.revision

    joined = keyring.join(fleet, restored)

    assert states(joined) == {"stolen": "revoked", "good": "retired", "x": "retired", "y": "active"}


def test_an_old_backup_brings_no_dropped_key_back_to_sign() -> None:
    backup = keyring.stage(make_test_ring("a", now_s=100), make_test_key("b", now_s=200))
    later = rotated(keyring.promote(backup, now_s=800), "c", now_s=900)
    dropped = keyring.forget(later, {"a", "b"})

    joined = keyring.join(dropped, backup)

    assert states(joined) == {"a": "retired", "b": "retired", "c": "active"}
    assert joined.staged is None


def test_the_later_revocation_time_and_longer_lifetime_hold() -> None:
    start = make_test_ring("a", now_s=100)
    mine = keyring.revoke_before(start, 150, now_s=200)
    theirs = keyring.allow_lifetime(start, 9_000)

    joined = keyring.join(mine, theirs)

    assert (joined.revoked_before_s, key_of(joined, "a").max_lifetime_s) == (150, 9_000)


def test_unknown_members_join_object_by_object() -> None:
    start = make_test_ring("a", now_s=100)
    one = msgspec.structs.replace(start, extra={"hints": {"x": 1, "y": [1]}, "flag": False})
    other = msgspec.structs.replace(start, extra={"hints": {"x": 2, "z": None}, "flag": True, "new": 10**30})

    joined = keyring.join(one, other)

    assert joined.extra == {"flag": True, "hints": {"x": 2, "y": [1], "z": None}, "new": 10**30}
    assert joined == keyring.join(other, one)


def test_rings_of_two_deployments_are_not_joined() -> None:
    mine, theirs = make_test_ring("a", now_s=100), foreign_ring("b", now_s=100)

    with pytest.raises(KeyringForeign, match="deployment-2, not deployment-1"):
        keyring.join(mine, theirs)


@pytest.mark.parametrize("member", ["x", "d"])
def test_damaged_numbers_give_way_to_whole_ones(member: str) -> None:
    whole = make_test_ring("a", now_s=100)
    (record,) = whole.records
    text = record.private[member]
    flipped = record.private | {member: ("B" if text[0] == "A" else "A") + text[1:]}
    damaged = msgspec.structs.replace(whole, records=(msgspec.structs.replace(record, private=flipped),))

    assert keyring.join(whole, damaged) is whole
    assert keyring.join(damaged, whole) is whole
    keyring.refuse_other_keys(damaged, whole)


@pytest.mark.parametrize("member", ["n", "d"])
def test_damaged_rsa_numbers_give_way_to_whole_ones(member: str) -> None:
    key = make_test_key("a", now_s=100, algorithm="RS256")
    whole = keyring.create(key, ring_id="deployment-1", derivation_secret=b"s" * 32)
    (record,) = whole.records
    flipped = record.private | {member: "AQ"}
    damaged = msgspec.structs.replace(whole, records=(msgspec.structs.replace(record, private=flipped),))

    assert keyring.join(whole, damaged) is whole
    assert keyring.join(damaged, whole) is whole


def test_one_name_for_two_whole_keys_is_refused() -> None:
    mine, theirs = make_test_ring("a", now_s=100), make_test_ring("a", now_s=100)

    with pytest.raises(KeyringDamaged, match="Two different keys are named a"):
        keyring.refuse_other_keys(mine, theirs)
    keyring.refuse_other_keys(mine, mine)


# --- another deployment's keys ---


def test_foreign_keys_verify_here_and_do_not_sign() -> None:
    mine = make_test_ring("a", now_s=100)
    theirs = keyring.revoke_before(rotated(foreign_ring("b", now_s=90), "c", now_s=150), 80, now_s=160)
    theirs = keyring.revoke(keyring.stage(theirs, make_test_key("d", now_s=160)), "b", now_s=170)

    taken = keyring.import_foreign(mine, theirs, now_s=200)

    assert states(taken) == {"a": "active", "b": "revoked", "c": "retired", "d": "retired"}
    assert {key.kid: key.revoked_before_s for key in taken.keys} == {"a": None, "b": 80, "c": 80, "d": 80}
    assert (taken.ring_id, taken.revision) == ("deployment-1", 2)
    assert keyring.import_foreign(taken, theirs, now_s=200) is taken


def test_a_foreign_key_never_counts_as_activated() -> None:
    taken = keyring.import_foreign(make_test_ring("a", now_s=100), foreign_ring("b", now_s=9_000), now_s=200)

    assert states(taken) == {"a": "active", "b": "retired"}
    assert states(rotated(taken, "c", now_s=300)) == {"a": "retired", "b": "retired", "c": "active"}
    assert key_of(taken, "b").retired_at_s == 9_000


def test_a_foreign_revocation_time_is_for_its_own_guests() -> None:
    mine = keyring.revoke_before(make_test_ring("a", now_s=100), 50, now_s=100)
    theirs = keyring.revoke_before(foreign_ring("b", now_s=90), 80, now_s=100)

    taken = keyring.import_foreign(mine, theirs, now_s=200)
    later = keyring.import_foreign(taken, keyring.revoke_before(theirs, 95, now_s=100), now_s=200)

    assert taken.revoked_before_s == later.revoked_before_s == 50
    assert [(key.kid, key.revoked_before_s) for key in taken.keys] == [("b", 80), ("a", None)]
    assert [(key.kid, key.revoked_before_s) for key in later.keys] == [("b", 95), ("a", None)]
    assert keyring.import_foreign(later, theirs, now_s=200) is later


async def test_guests_of_both_deployments_keep_their_own_time() -> None:
    policy = KeyPolicy(algorithm="ES256", max_lifetime_s=500, jwks_max_age_s=300, rotate_every_s=0)
    clock = HandClock(1_000)
    own, foreign = make_test_ring("a", now_s=0, ring_id="one"), make_test_ring("b", now_s=0, ring_id="two")

    class Source:
        loaded = load(own, policy, now_s=0)

    source = Source()
    tokens = TokenService(
        TokenPolicy(
            issuers=("http://here",), audience=(), ttl_s=500, max_ttl_s=500, renew_after_s=100, max_token_bytes=3_800
        ),
        keys=source,
        clock=clock,
        random_bytes=os.urandom,
        observe=lambda _event: None,
    )
    issued = {}
    for kid, ring in (("a", own), ("b", foreign)):
        source.loaded = load(ring, policy, now_s=0)
        issued[kid] = (await tokens.issue(payload={})).raw_token

    theirs = keyring.revoke_before(foreign, 1_001, now_s=1_001)
    source.loaded = load(keyring.import_foreign(own, theirs, now_s=1_002), policy, now_s=1_002)

    assert (await tokens.verify(issued["a"])).key.kid == "a"
    for _ in range(2):
        with pytest.raises(InvalidToken) as caught:
            await tokens.verify(issued["b"])
        assert caught.value.reason == "revoked"


def test_imported_again_a_ring_brings_what_happened_since() -> None:
    mine, theirs = make_test_ring("a", now_s=100), rotated(foreign_ring("b", now_s=90), "c", now_s=95)
    taken = keyring.import_foreign(mine, theirs, now_s=200)

    theirs = keyring.revoke(rotated(theirs, "d", now_s=300), "b", now_s=310)
    again = keyring.import_foreign(taken, theirs, now_s=400)

    assert states(again) == {"a": "active", "b": "revoked", "c": "retired", "d": "retired"}
    assert {key.kid: key.retired_at_s for key in again.keys} == {"a": None, "b": 95, "c": 300, "d": 400}


def test_of_own_keys_that_come_back_a_revocation_alone_counts() -> None:
    mine = rotated(make_test_ring("a", now_s=100), "b", now_s=150)
    theirs = keyring.import_foreign(foreign_ring("c", now_s=90), mine, now_s=200)
    theirs = keyring.revoke(keyring.revoke_before(theirs, 180, now_s=200), "a", now_s=210)

    back = keyring.import_foreign(mine, theirs, now_s=300)

    assert states(back) == {"a": "revoked", "b": "active", "c": "retired"}
    assert {key.kid: key.revoked_before_s for key in back.keys} == {"a": None, "b": None, "c": 180}
    assert "d" not in record_of(back, "a").private


def test_no_secret_shows_in_a_repr() -> None:
    ring = make_test_ring("a", now_s=100)

    assert repr(ring) == "KeyRing(ring_id='deployment-1', revision=1, keys=(Key(kid='a', algorithm='ES256'),))"
