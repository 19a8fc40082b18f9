import json
import os
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import InvalidToken, InvalidTransition, KeyringDamaged, KeyringForeign
from service.keys import encoding, keyring
from service.keys.keyring import Key, KeyPolicy, KeyRing, KeyState
from service.keys.manager import LoadedRing
from service.keys.signer import Signer, make_key
from service.tokens.service import TokenPolicy, TokenService
from tests.doubles import HandClock, make_test_key, make_test_ring

DAY_S = 86_400
POLICY = KeyPolicy(algorithm="ES256", max_lifetime_s=1_000, jwks_max_age_s=300, rotate_every_s=30 * DAY_S)


def states(ring: KeyRing) -> dict[str, str]:
    return {key.kid: key.state.value for key in ring.keys}


def rotated(ring: KeyRing, kid: str, *, now_s: float) -> KeyRing:
    return keyring.promote(keyring.stage(ring, make_test_key(kid, now_s=now_s)), now_s=now_s)


def foreign_ring(kid: str, *, now_s: float) -> KeyRing:
    return msgspec.structs.replace(make_test_ring(kid, now_s=now_s), ring_id="deployment-2")


POLICY_OF_TOKENS = TokenPolicy(
    issuers=("http://here",), audience=(), ttl_s=500, max_ttl_s=500, renew_after_s=100, max_token_bytes=3_800
)


def real_key(kid: str) -> Key:
    return keyring.new_key(make_key("ES256"), kid=kid, algorithm="ES256", max_lifetime_s=500, now_s=0)


class Loaded:
    """Keys whose ring a test sets."""

    def __init__(self, ring: KeyRing) -> None:
        self.hold(ring)

    def hold(self, ring: KeyRing) -> None:
        self.loaded = LoadedRing(ring=ring, signer=Signer(ring), jwks=b"", etag="", max_lifetime_s=500)


# --- the moves ---


def test_the_first_key_of_a_deployment_signs_at_once() -> None:
    ring = make_test_ring("a", now_s=100.9)

    assert states(ring) == {"a": "active"}
    assert (ring.revision, ring.active.created_at_s, ring.active.activated_at_s) == (1, 101, 100)
    assert ring.revoked_before_s == 0


def test_a_staged_key_is_published_and_signs_only_once_it_is_promoted() -> None:
    ring = make_test_ring("a", now_s=100)
    staged = keyring.stage(ring, make_test_key("b", now_s=200))
    promoted = keyring.promote(staged, now_s=800.7)

    assert states(staged) == {"a": "active", "b": "next"}
    assert staged.active.kid == "a"
    assert [key.kid for key in staged.published] == ["a", "b"]
    assert states(promoted) == {"a": "retired", "b": "active"}
    assert (promoted.keys[0].retired_at_s, promoted.active.activated_at_s) == (800, 800)
    assert (ring.revision, staged.revision, promoted.revision) == (1, 2, 3)


def test_a_second_key_cannot_be_staged() -> None:
    ring = keyring.stage(make_test_ring("a", now_s=100), make_test_key("b", now_s=200))

    with pytest.raises(InvalidTransition, match="Key b is staged already") as caught:
        keyring.stage(ring, make_test_key("c", now_s=200))
    assert caught.value.code == "illegal_move"


def test_nothing_is_promoted_where_nothing_is_staged() -> None:
    with pytest.raises(InvalidTransition, match="No key is staged"):
        keyring.promote(make_test_ring("a", now_s=100), now_s=200)


def test_no_state_is_ever_left_backwards() -> None:
    order = list(KeyState)

    assert all(order.index(after) > order.index(before) for before in order for after in keyring.MOVES[before])


def test_revoking_a_retired_key_leaves_the_others_and_forgets_its_private_part() -> None:
    ring = rotated(make_test_ring("a", now_s=100), "b", now_s=200)

    revoked = keyring.revoke(ring, "a", spare=make_test_key("z", now_s=300), now_s=300)

    assert states(revoked) == {"a": "revoked", "b": "active"}
    assert revoked.keys[0].revoked_at_s == 300
    assert "d" not in revoked.keys[0].private
    assert "d" in revoked.active.private
    assert [key.kid for key in revoked.published] == ["b"]


def test_revoking_the_active_key_lets_the_staged_one_sign_in_the_same_step() -> None:
    ring = keyring.stage(make_test_ring("a", now_s=100), make_test_key("b", now_s=200))

    revoked = keyring.revoke(ring, "a", spare=make_test_key("z", now_s=300), now_s=300)

    assert states(revoked) == {"a": "revoked", "b": "active"}
    assert revoked.revision == ring.revision + 1


def test_revoking_the_only_key_lets_a_fresh_one_sign_in_the_same_step() -> None:
    revoked = keyring.revoke(make_test_ring("a", now_s=100), "a", spare=make_test_key("z", now_s=300), now_s=300)

    assert states(revoked) == {"a": "revoked", "z": "active"}


def test_revoking_the_staged_key_leaves_the_active_one_signing() -> None:
    ring = keyring.stage(make_test_ring("a", now_s=100), make_test_key("b", now_s=200))

    assert states(keyring.revoke(ring, "b", spare=make_test_key("z", now_s=300), now_s=300)) == {
        "a": "active",
        "b": "revoked",
    }


def test_a_key_is_revoked_once_and_for_all() -> None:
    spare = make_test_key("z", now_s=300)
    ring = keyring.revoke(make_test_ring("a", now_s=100), "a", spare=spare, now_s=300)

    with pytest.raises(InvalidTransition, match="Key a is revoked; it cannot become revoked"):
        keyring.revoke(ring, "a", spare=spare, now_s=400)


def test_a_key_that_is_not_there_cannot_be_revoked() -> None:
    with pytest.raises(InvalidTransition, match="There is no key nope"):
        keyring.revoke(make_test_ring("a", now_s=100), "nope", spare=make_test_key("z", now_s=300), now_s=300)


def test_the_revocation_time_only_grows_and_is_never_in_the_future() -> None:
    ring = keyring.revoke_before(make_test_ring("a", now_s=100), 200, now_s=200)

    assert (ring.revoked_before_s, ring.revision) == (200, 2)
    assert keyring.revoke_before(ring, 200, now_s=300) is ring
    with pytest.raises(InvalidTransition, match="in the future"):
        keyring.revoke_before(ring, 301, now_s=300)
    with pytest.raises(InvalidTransition, match="cannot be undone"):
        keyring.revoke_before(ring, 199, now_s=300)


def test_a_longer_lifetime_is_recorded_for_the_keys_that_sign_or_will_and_never_lowered() -> None:
    ring = rotated(make_test_ring("a", now_s=100), "b", now_s=200)
    ring = keyring.stage(ring, make_test_key("c", now_s=300))

    longer = keyring.allow_lifetime(ring, 5_000)

    assert {key.kid: key.max_lifetime_s for key in longer.keys} == {"a": 1_000, "b": 5_000, "c": 5_000}
    assert keyring.allow_lifetime(longer, 4_999) is longer


@pytest.mark.parametrize(("after_s", "left"), [(-1, {"a", "b"}), (0, {"b"}), (1, {"b"})])
def test_a_retired_key_is_dropped_once_its_last_token_has_been_dead_for_a_week(after_s: int, left: set[str]) -> None:
    ring = rotated(make_test_ring("a", now_s=100), "b", now_s=200)
    safe_from_s = 200 + 1_000 + 7 * DAY_S

    assert ring.keys[0].safe_to_drop_from_s == safe_from_s
    assert {key.kid for key in keyring.drop_dead(ring, {"a", "b"}, now_s=safe_from_s + after_s).keys} == left


def test_revoked_keys_stay_on_record() -> None:
    ring = keyring.revoke(make_test_ring("a", now_s=100), "a", spare=make_test_key("z", now_s=300), now_s=300)

    assert ring.keys[0].safe_to_drop_from_s == 300
    assert keyring.drop_dead(ring, {"a", "z"}, now_s=10**12) is ring


def test_a_key_that_signs_is_never_safe_to_drop() -> None:
    assert make_test_ring("a", now_s=100).active.safe_to_drop_from_s is None


def test_another_deployments_keys_verify_here_and_do_not_sign() -> None:
    mine = make_test_ring("a", now_s=100)
    theirs = msgspec.structs.replace(rotated(make_test_ring("b", now_s=90), "c", now_s=150), ring_id="deployment-2")
    theirs = keyring.stage(keyring.revoke_before(theirs, 80, now_s=160), make_test_key("d", now_s=160))
    theirs = keyring.revoke(theirs, "b", spare=make_test_key("y", now_s=170), now_s=170)
    spare = make_test_key("z", now_s=200)

    taken = keyring.import_foreign(mine, theirs, spare=spare, now_s=200)

    assert states(taken) == {"a": "active", "b": "revoked", "c": "retired", "d": "retired"}
    assert (taken.ring_id, taken.revision) == ("deployment-1", 2)
    assert keyring.import_foreign(taken, theirs, spare=spare, now_s=200) is taken
    assert encoding.from_jwk_set(encoding.to_jwk_set(taken)) == taken


def test_another_deployments_key_without_a_revocation_refuses_no_guest() -> None:
    taken = keyring.import_foreign(make_test_ring("a", now_s=100), foreign_ring("b", now_s=90), spare=None, now_s=200)

    assert {key.kid: key.revoked_before_s for key in taken.keys} == {"a": None, "b": 0}


def test_another_deployments_revocation_time_holds_for_its_own_guests_alone() -> None:
    mine = keyring.revoke_before(make_test_ring("a", now_s=100), 50, now_s=100)
    theirs = keyring.revoke_before(foreign_ring("b", now_s=90), 80, now_s=100)
    spare = make_test_key("z", now_s=200)

    taken = keyring.import_foreign(mine, theirs, spare=spare, now_s=200)
    later = keyring.import_foreign(taken, keyring.revoke_before(theirs, 95, now_s=100), spare=spare, now_s=200)

    assert taken.revoked_before_s == later.revoked_before_s == 50
    assert [(key.kid, key.revoked_before_s) for key in taken.keys] == [("b", 80), ("a", None)]
    assert [(key.kid, key.revoked_before_s) for key in later.keys] == [("b", 95), ("a", None)]
    assert keyring.import_foreign(later, theirs, spare=spare, now_s=200) is later


async def test_guests_of_both_deployments_are_held_against_their_own_revocation_time() -> None:
    clock = HandClock(1_000)
    own, foreign = (keyring.found(real_key(kid), ring_id=kid, derivation_secret=b"s" * 32, now_s=0) for kid in "ab")
    source = Loaded(own)
    tokens = TokenService(
        POLICY_OF_TOKENS, keys=source, clock=clock, random_bytes=os.urandom, observe=lambda _event: None
    )
    issued = {}
    for kid, ring in (("a", own), ("b", foreign)):
        source.hold(ring)
        issued[kid] = (await tokens.issue(payload={})).raw_token

    theirs = keyring.revoke_before(foreign, 1_001, now_s=1_001)
    source.hold(keyring.import_foreign(own, theirs, spare=real_key("z"), now_s=1_002))

    assert (await tokens.verify(issued["a"])).key.kid == "a"
    for _ in range(2):
        with pytest.raises(InvalidToken) as caught:
            await tokens.verify(issued["b"])
        assert caught.value.reason == "revoked"


def test_another_deployments_ring_brings_what_was_revoked_and_retired_there_since() -> None:
    mine, theirs = make_test_ring("a", now_s=100), rotated(foreign_ring("b", now_s=90), "c", now_s=95)
    spare = make_test_key("z", now_s=200)
    taken = keyring.import_foreign(mine, theirs, spare=spare, now_s=200)

    theirs = keyring.revoke(rotated(theirs, "d", now_s=300), "b", spare=spare, now_s=310)
    again = keyring.import_foreign(taken, theirs, spare=spare, now_s=400)

    assert states(again) == {"a": "active", "b": "revoked", "c": "retired", "d": "retired"}
    assert {key.kid: key.retired_at_s for key in again.keys} == {"a": None, "b": 95, "c": 300, "d": 400}


def test_another_key_of_a_known_name_is_not_taken_in() -> None:
    mine, theirs = make_test_ring("a", now_s=100), foreign_ring("a", now_s=90)
    spare = make_test_key("z", now_s=200)

    with pytest.raises(KeyringDamaged, match="Two different keys are named a"):
        keyring.import_foreign(mine, theirs, spare=spare, now_s=200)


def test_of_this_deployments_own_keys_that_come_back_from_another_a_revocation_alone_counts() -> None:
    mine = rotated(make_test_ring("a", now_s=100), "b", now_s=150)
    spare = make_test_key("z", now_s=200)
    theirs = keyring.import_foreign(foreign_ring("c", now_s=90), mine, spare=spare, now_s=200)
    theirs = keyring.revoke(keyring.revoke_before(theirs, 180, now_s=200), "a", spare=spare, now_s=210)

    back = keyring.import_foreign(mine, theirs, spare=spare, now_s=300)

    assert states(back) == {"a": "revoked", "b": "active", "c": "retired"}
    assert {key.kid: key.revoked_before_s for key in back.keys} == {"a": None, "b": None, "c": 180}


# --- when ---


def test_a_staged_key_is_due_after_twice_the_age_that_a_jwks_may_have() -> None:
    ring = make_test_ring("a", now_s=100)

    assert keyring.promotion_due_at_s(ring, POLICY) is None
    assert keyring.promotion_due_at_s(keyring.stage(ring, make_test_key("b", now_s=200)), POLICY) == 200 + 600


def test_the_next_key_is_staged_so_early_that_it_signs_in_time() -> None:
    ring = make_test_ring("a", now_s=100)

    assert keyring.staging_due_at_s(ring, POLICY) == 100 + 30 * DAY_S - 600
    assert keyring.staging_due_at_s(keyring.stage(ring, make_test_key("b", now_s=200)), POLICY) is None
    assert keyring.staging_due_at_s(ring, msgspec.structs.replace(POLICY, rotate_every_s=0)) is None


def test_no_key_is_staged_by_itself_where_the_jwks_is_full() -> None:
    ring = make_test_ring("k0", now_s=100)
    for number in range(1, 127):
        ring = rotated(ring, f"k{number}", now_s=100 + number)
    assert keyring.staging_due_at_s(ring, POLICY) is not None
    assert keyring.staging_due_at_s(rotated(ring, "k127", now_s=300), POLICY) is None


@pytest.mark.parametrize(
    ("max_lifetime_s", "jwks_max_age_s", "least_s"),
    [(315_360_000, 300, 2_527_719), (60, 300, 4_839), (60, 86_400, 172_800)],
)
def test_the_shortest_rotation_keeps_the_jwks_within_its_limit(
    max_lifetime_s: int, jwks_max_age_s: int, least_s: int
) -> None:
    policy = msgspec.structs.replace(POLICY, max_lifetime_s=max_lifetime_s, jwks_max_age_s=jwks_max_age_s)

    assert keyring.least_rotation_s(policy) == least_s


def test_the_shortest_rotation_kept_for_years_never_passes_the_limit() -> None:
    policy = msgspec.structs.replace(POLICY, max_lifetime_s=10 * DAY_S)
    every_s = keyring.least_rotation_s(policy)
    ring = make_test_ring("k0", now_s=0, max_lifetime_s=policy.max_lifetime_s)
    most = 0
    for number in range(1, 400):
        now_s = number * every_s
        key = make_test_key(f"k{number}", now_s=now_s, max_lifetime_s=policy.max_lifetime_s)
        ring = keyring.stage(ring, key)
        most = max(most, len(ring.published))
        ring = keyring.promote(ring, now_s=now_s)
        ring = keyring.drop_dead(ring, keyring.dead(ring, now_s=now_s), now_s=now_s)

    assert most <= keyring.MOST_PUBLISHED_KEYS


@pytest.mark.parametrize("now_s", [2**31 - 1, 2**31, 2**32 + 1, 253_402_300_800])
def test_dates_past_2038_2106_and_9999_are_dates_like_any_other(now_s: int) -> None:
    ring = rotated(make_test_ring("a", now_s=now_s), "b", now_s=now_s + 600)

    assert encoding.from_jwk_set(encoding.to_jwk_set(ring)) == ring
    assert ring.keys[0].safe_to_drop_from_s == now_s + 600 + 1_000 + 7 * DAY_S


# --- joining ---


def test_joining_with_what_is_known_already_changes_nothing() -> None:
    older = make_test_ring("a", now_s=100)
    newer = rotated(older, "b", now_s=200)
    spare = make_test_key("z", now_s=300)

    assert keyring.join(newer, older, spare=spare, now_s=300) is newer
    assert keyring.join(older, newer, spare=spare, now_s=300) is newer
    assert keyring.join(newer, newer, spare=spare, now_s=300) is newer


def test_two_rings_that_went_apart_come_together_without_losing_a_key() -> None:
    start = make_test_ring("a", now_s=100)
    mine = rotated(start, "b", now_s=200)
    theirs = keyring.stage(rotated(start, "c", now_s=250), make_test_key("d", now_s=260))

    joined = keyring.join(mine, theirs, spare=make_test_key("z", now_s=300), now_s=300)

    assert states(joined) == {"a": "retired", "b": "retired", "c": "active", "d": "next"}
    assert joined.revision == 5
    assert {key.kid: key.retired_at_s for key in joined.keys} == {"a": 250, "b": 300, "c": None, "d": None}


def test_of_two_active_keys_the_one_that_signs_since_later_goes_on_however_old_it_is() -> None:
    start = make_test_ring("a", now_s=100)
    mine = keyring.promote(keyring.stage(start, make_test_key("b", now_s=200)), now_s=900)
    theirs = keyring.promote(keyring.stage(start, make_test_key("c", now_s=300)), now_s=800)

    joined = keyring.join(mine, theirs, spare=None, now_s=1_000)

    assert states(joined) == {"a": "retired", "b": "active", "c": "retired"}


def test_of_two_staged_keys_the_earlier_is_set_aside_but_kept() -> None:
    start = make_test_ring("a", now_s=100)
    mine = keyring.stage(start, make_test_key("b", now_s=200))
    theirs = keyring.stage(start, make_test_key("c", now_s=201))

    assert states(keyring.join(mine, theirs, spare=make_test_key("z", now_s=300), now_s=300)) == {
        "a": "active",
        "b": "retired",
        "c": "next",
    }


def test_a_revocation_on_either_side_holds_and_the_staged_key_or_a_fresh_one_takes_over() -> None:
    spare = make_test_key("z", now_s=300)
    start = rotated(make_test_ring("a", now_s=100), "b", now_s=200)
    mine = keyring.stage(start, make_test_key("c", now_s=210))
    theirs = keyring.revoke(start, "b", spare=make_test_key("y", now_s=220), now_s=220)
    theirs = keyring.revoke(theirs, "y", spare=make_test_key("x", now_s=230), now_s=230)
    only_revoked = msgspec.structs.replace(theirs, keys=tuple(key for key in theirs.keys if key.kid != "x"))

    assert states(keyring.join(mine, theirs, spare=spare, now_s=300)) == {
        "a": "retired",
        "b": "revoked",
        "y": "revoked",
        "c": "next",
        "x": "active",
    }
    assert states(keyring.join(mine, only_revoked, spare=spare, now_s=300))["c"] == "active"
    assert states(keyring.join(start, only_revoked, spare=spare, now_s=300))["z"] == "active"


def test_two_rings_that_revoked_each_others_signer_need_a_spare() -> None:
    start = make_test_ring("a", now_s=100)
    revoked = keyring.revoke(start, "a", spare=make_test_key("b", now_s=200), now_s=200)
    without = msgspec.structs.replace(revoked, keys=tuple(key for key in revoked.keys if key.kid == "a"))

    assert not keyring.needs_spare(start, revoked)
    assert keyring.needs_spare(start, without)
    with pytest.raises(InvalidTransition, match="No key is left to sign"):
        keyring.join(start, without, spare=None, now_s=300)
    with pytest.raises(InvalidTransition, match="No key is left to sign"):
        keyring.revoke(start, "a", spare=None, now_s=300)


def test_a_ring_that_came_of_another_by_moves_loses_nothing_and_one_that_went_its_own_way_does() -> None:
    start = keyring.stage(make_test_ring("a", now_s=100), make_test_key("b", now_s=150))
    held = keyring.revoke_before(keyring.promote(start, now_s=200), 50, now_s=200)
    revoked = keyring.revoke(held, "a", spare=None, now_s=300)
    foreign = keyring.import_foreign(held, foreign_ring("c", now_s=90), spare=None, now_s=300)
    later = keyring.import_foreign(
        held, keyring.revoke_before(foreign_ring("c", now_s=90), 90, now_s=100), spare=None, now_s=300
    )

    for ring in (held, revoked, foreign, later):
        assert not keyring.loses(ring, held, gone=())
    assert keyring.loses(start, held, gone=())
    assert keyring.loses(held, revoked, gone=())
    assert keyring.loses(held, foreign, gone=())
    assert not keyring.loses(held, foreign, gone={"c"})
    assert keyring.loses(foreign, later, gone=())


def test_the_later_revocation_time_and_the_longer_lifetime_hold() -> None:
    start = make_test_ring("a", now_s=100)
    mine = keyring.revoke_before(start, 150, now_s=200)
    theirs = keyring.allow_lifetime(start, 9_000)

    joined = keyring.join(mine, theirs, spare=make_test_key("z", now_s=300), now_s=300)

    assert (joined.revoked_before_s, joined.active.max_lifetime_s, joined.revision) == (150, 9_000, 3)


def test_a_key_that_was_dropped_as_dead_does_not_come_back_from_an_old_copy() -> None:
    old = rotated(make_test_ring("a", now_s=100), "b", now_s=200)
    dead_at_s = 200 + 1_000 + 7 * DAY_S
    dropped = keyring.drop_dead(old, {"a"}, now_s=dead_at_s)

    assert keyring.join(dropped, old, spare=None, now_s=dead_at_s, gone={"a"}) is dropped
    copy = keyring.revoke_before(old, 50, now_s=300)  # of the same revision as what has dropped the key
    assert copy.revision == dropped.revision
    assert states(keyring.join(dropped, copy, spare=None, now_s=dead_at_s, gone={"a"})) == {"b": "active"}


def test_no_clock_decides_that_a_key_is_lost_in_joining() -> None:
    old = rotated(make_test_ring("a", now_s=100), "b", now_s=200)
    dropped = keyring.drop_dead(old, {"a"}, now_s=10**12)

    assert states(keyring.join(dropped, old, spare=None, now_s=10**12)) == {"a": "retired", "b": "active"}


def test_rings_of_two_deployments_are_not_joined() -> None:
    mine = make_test_ring("a", now_s=100)
    theirs = msgspec.structs.replace(make_test_ring("b", now_s=100), ring_id="deployment-2")

    with pytest.raises(KeyringForeign, match="deployment-2, not deployment-1"):
        keyring.join(mine, theirs, spare=make_test_key("z", now_s=300), now_s=300)


def test_one_name_for_two_keys_is_damage() -> None:
    mine, theirs = make_test_ring("a", now_s=100), make_test_ring("a", now_s=100)

    with pytest.raises(KeyringDamaged, match="Two different keys are named a"):
        keyring.join(mine, theirs, spare=make_test_key("z", now_s=300), now_s=300)


def _apply(ring: KeyRing, step: tuple[str, int], now_s: int) -> KeyRing:
    name, number = step
    kid = f"{name[0]}{number}-{now_s}"
    key = make_test_key(kid, now_s=now_s)
    chosen = ring.keys[number % len(ring.keys)].kid
    try:
        match name:
            case "stage":
                return keyring.stage(ring, key)
            case "promote":
                return keyring.promote(ring, now_s=now_s)
            case "revoke":
                return keyring.revoke(ring, chosen, spare=key, now_s=now_s)
            case "before":
                return keyring.revoke_before(ring, now_s, now_s=now_s)
            case _:
                return keyring.allow_lifetime(ring, 1_000 + number)
    except InvalidTransition:
        return ring


_steps = st.lists(
    st.tuples(st.sampled_from(["stage", "promote", "revoke", "before", "lifetime"]), st.integers(0, 99)), max_size=12
)


@settings(max_examples=200, deadline=None)
@given(common=_steps, left=_steps, right=_steps)
def test_whatever_two_volumes_did_apart_both_come_to_one_ring_that_loses_nothing(
    common: list[tuple[str, int]], left: list[tuple[str, int]], right: list[tuple[str, int]]
) -> None:
    start = make_test_ring("a", now_s=100)
    for number, step in enumerate(common):
        start = _apply(start, step, 1_000 + number)
    mine = theirs = start
    for number, step in enumerate(left):
        mine = _apply(mine, step, 2_000 + 2 * number)
    for number, step in enumerate(right):
        theirs = _apply(theirs, step, 2_001 + 2 * number)
    spare = make_test_key("spare", now_s=3_000)

    joined = keyring.join(mine, theirs, spare=spare, now_s=3_000)

    assert joined == keyring.join(theirs, mine, spare=spare, now_s=3_000)
    assert joined is keyring.join(joined, mine, spare=spare, now_s=3_001)
    assert {key.kid for key in joined.keys} >= {key.kid for ring in (mine, theirs) for key in ring.keys}
    revoked = {key.kid for ring in (mine, theirs) for key in ring.keys if key.state is KeyState.REVOKED}
    assert {key.kid for key in joined.keys if key.state is KeyState.REVOKED} == revoked
    assert encoding.from_jwk_set(encoding.to_jwk_set(joined)) == joined
    assert joined.revision >= max(mine.revision, theirs.revision)


# --- what others see ---


def test_the_jwks_has_the_public_parts_of_the_keys_that_verify_or_will() -> None:
    ring = rotated(make_test_ring("a", now_s=100), "b", now_s=200)
    ring = keyring.stage(ring, make_test_key("c", now_s=300, algorithm="RS256"))
    ring = keyring.revoke(ring, "a", spare=make_test_key("z", now_s=300), now_s=300)

    jwks = json.loads(encoding.public_jwks(ring))

    assert [(key["kid"], key["alg"], key["kty"], key["use"]) for key in jwks["keys"]] == [
        ("b", "ES256", "EC", "sig"),
        ("c", "RS256", "RSA", "sig"),
    ]
    assert list(jwks["keys"][0]) == ["kty", "use", "alg", "kid", "crv", "x", "y"]
    assert list(jwks["keys"][1]) == ["kty", "use", "alg", "kid", "n", "e"]


def test_no_secret_shows_in_a_repr() -> None:
    ring = make_test_ring("a", now_s=100)

    assert repr(ring) == (
        "KeyRing(ring_id='deployment-1', revision=1, keys=(Key(kid='a', algorithm='ES256', state='active'),))"
    )


# --- the form at rest ---


def stored(ring: KeyRing) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(encoding.to_jwk_set(ring))
    return document


def test_a_ring_at_rest_is_a_jwk_set_that_names_its_purpose() -> None:
    document = stored(rotated(make_test_ring("a", now_s=100), "b", now_s=200))

    assert document["purpose"] == "guest-sessions keyring"
    assert (document["ring"], document["revision"]) == ("deployment-1", 3)
    assert document["keys"][0] | {"x": "", "y": ""} == {
        "kid": "a",
        "alg": "ES256",
        "use": "sig",
        "state": "retired",
        "max_lifetime": 1_000,
        "created_at": 100,
        "activated_at": 100,
        "retired_at": 200,
        "kty": "EC",
        "crv": "P-256",
        "d": "secret-d",
        "x": "",
        "y": "",
    }


def test_a_ring_of_all_states_and_algorithms_comes_back_from_rest_as_it_was() -> None:
    ring = rotated(make_test_ring("a", now_s=100), "b", now_s=200)
    ring = keyring.revoke(ring, "a", spare=make_test_key("z", now_s=300), now_s=300)
    ring = keyring.stage(ring, make_test_key("c", now_s=300, algorithm="RS256"))
    ring = keyring.promote(ring, now_s=900)

    assert encoding.from_jwk_set(encoding.to_jwk_set(ring)) == ring


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"{}", b'{"keys":[]}', b"\xff\xfe", b'{"purpose":"another"}', b"not json"]
)
def test_what_is_no_keyring_is_damaged(content: bytes) -> None:
    with pytest.raises(KeyringDamaged, match="no keyring, or a damaged one") as caught:
        encoding.from_jwk_set(content)
    assert caught.value.code == "keyring_damaged"


def test_a_keyring_cut_off_anywhere_is_damaged() -> None:
    whole = encoding.to_jwk_set(make_test_ring("a", now_s=100)).rstrip()

    for length in range(len(whole)):
        with pytest.raises(KeyringDamaged):
            encoding.from_jwk_set(whole[:length])


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        ("state", "next", "exactly one active key"),
        ("state", "retired", "retired, but not since when"),
        ("activated_at", None, "active, but not since when"),
        ("kty", "RSA", "no whole ES256 key"),
        ("alg", "RS256", "no whole RS256 key"),
        ("alg", "HS256", "no keyring"),
        ("d", None, "no whole ES256 key"),
        ("x", "AAAA", "coordinates"),
        ("x", "A" * 41, "coordinates"),
        ("y", "A" * 44, "coordinates"),
        ("kid", "seventeen-letters", "no keyring"),
        ("extra", 1, "unknown field"),
        ("created_at", -1, "no keyring"),
        ("created_at", True, "no keyring"),
        ("created_at", 9_007_199_254_740_992, "no keyring"),
        ("x", "A" * 1_025, "no keyring"),
        ("x", "A" * 1_024, "coordinates"),
    ],
)
def test_a_damaged_key_is_told_without_its_secret(member: str, value: object, message: str) -> None:
    document = stored(make_test_ring("a", now_s=100))
    document["keys"][0][member] = value

    with pytest.raises(KeyringDamaged, match=message) as caught:
        encoding.from_jwk_set(json.dumps(document).encode())
    assert "secret-d" not in str(caught.value)


def test_the_latest_time_that_every_reader_of_json_takes_is_a_time() -> None:
    document = stored(make_test_ring("a", now_s=100))
    document["keys"][0]["created_at"] = 9_007_199_254_740_991

    assert encoding.from_jwk_set(json.dumps(document).encode()).active.created_at_s == 9_007_199_254_740_991


def test_a_member_that_no_ring_has_is_damage() -> None:
    with pytest.raises(KeyringDamaged, match="unknown field `extra`"):
        encoding.from_jwk_set(json.dumps(stored(make_test_ring("a", now_s=100)) | {"extra": 1}).encode())


def test_two_keys_of_one_name_or_two_that_sign_or_will_are_damage() -> None:
    document = stored(make_test_ring("a", now_s=100))
    document["keys"].append(document["keys"][0])
    with pytest.raises(KeyringDamaged, match="two keys have one kid"):
        encoding.from_jwk_set(json.dumps(document).encode())

    document["keys"][1] = document["keys"][1] | {"kid": "b"}
    with pytest.raises(KeyringDamaged, match="exactly one active key"):
        encoding.from_jwk_set(json.dumps(document).encode())

    document["keys"][0] = document["keys"][0] | {"kid": "c"}
    for key in document["keys"]:
        key["state"] = "next"
    document["keys"].append(stored(make_test_ring("a", now_s=100))["keys"][0])
    with pytest.raises(KeyringDamaged, match="at most one next"):
        encoding.from_jwk_set(json.dumps(document).encode())
