"""The laws of the ring, over arbitrary times, unknown members and damaged numbers; `make laws` tries many more."""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import InvalidTransition
from service.keys import encoding, keyring
from service.keys.keyring import FORM, KeyRecord, KeyRing, KeyState
from service.keys.rotation import note_jwks_age
from tests.doubles import make_test_key

laws = settings(
    max_examples=int(os.environ.get("RING_LAW_EXAMPLES", "100")),
    derandomize="RING_LAW_EXAMPLES" not in os.environ,
    deadline=None,
)


@cache
def numbers(kid: str) -> dict[str, Any]:
    return make_test_key(kid, now_s=0).private


times = st.integers(0, 12)
maybe = st.none() | times
unknown = st.dictionaries(
    st.sampled_from(["hint", "note"]),
    st.integers(0, 2)
    | st.booleans()
    | st.text("ab", max_size=2)
    | st.dictionaries(st.sampled_from("rs"), st.integers(0, 2)),
    max_size=2,
)


@st.composite
def records(draw: st.DrawFn, kid: str) -> KeyRecord:
    """Any record of a key, possible or not: whole, public alone, or with damaged numbers."""
    revoked_at_s = draw(maybe)
    private = dict(numbers(kid))
    match draw(st.sampled_from(["whole", "whole", "whole", "public", "bad x", "bad d"])):
        case "public":
            del private["d"]
        case "bad x":
            private["x"] = private["y"]
        case "bad d":
            private["d"] = numbers("other")["d"]
    if revoked_at_s is not None:
        private.pop("d", None)
    return KeyRecord(
        kid=kid,
        algorithm="ES256",
        private=private,
        max_lifetime_s=draw(st.integers(1, 5)),
        created_at_s=draw(times),
        activated_at_s=draw(maybe),
        retired_at_s=draw(st.none() | st.none() | times),
        revoked_at_s=revoked_at_s,
        revoked_before_s=draw(maybe),
        extra=draw(unknown),
    )


@st.composite
def rings(draw: st.DrawFn) -> KeyRing:
    kids = draw(st.sets(st.sampled_from("abcd"), min_size=1))
    made = [draw(records(kid)) for kid in kids]
    return KeyRing(
        ring_id="deployment-1",
        revision=draw(st.integers(1, 5)),
        records=tuple(sorted(made, key=lambda record: (record.created_at_s, record.kid))),
        revoked_before_s=draw(times),
        derivation_secret=draw(st.sampled_from([b"s" * 32, b"t" * 32])),
        jwks_ages=draw(st.dictionaries(st.sampled_from([60, 300]), times)),
        extra=draw(unknown),
        form=draw(st.sampled_from([1, 2])),
    )


def includes(larger: KeyRing, smaller: KeyRing) -> bool:
    return keyring.join(larger, smaller) == larger


@laws
@given(a=rings(), b=rings())
def test_a_join_is_commutative(a: KeyRing, b: KeyRing) -> None:
    assert keyring.join(a, b) == keyring.join(b, a)


@laws
@given(a=rings(), b=rings(), c=rings())
def test_a_join_is_associative(a: KeyRing, b: KeyRing, c: KeyRing) -> None:
    assert keyring.join(a, keyring.join(b, c)) == keyring.join(keyring.join(a, b), c)


@laws
@given(a=rings(), b=rings())
def test_a_join_is_idempotent_and_above_both(a: KeyRing, b: KeyRing) -> None:
    joined = keyring.join(a, b)

    assert keyring.join(a, a) == a
    assert includes(joined, a)
    assert includes(joined, b)
    assert keyring.join(joined, joined) == joined


@laws
@given(a=rings(), b=rings())
def test_a_join_loses_no_key_and_no_revocation(a: KeyRing, b: KeyRing) -> None:
    joined = keyring.join(a, b)

    assert {record.kid for record in joined.records} == {record.kid for ring in (a, b) for record in ring.records}
    revoked = {key.kid for ring in (a, b) for key in ring.keys if key.state is KeyState.REVOKED}
    assert {key.kid for key in joined.keys if key.state is KeyState.REVOKED} == revoked
    assert joined.revoked_before_s == max(a.revoked_before_s, b.revoked_before_s)


@laws
@given(ring=rings())
def test_at_most_one_is_active_and_one_next(ring: KeyRing) -> None:
    states = [key.state for key in ring.keys]

    assert states.count(KeyState.ACTIVE) <= 1
    assert states.count(KeyState.NEXT) <= 1
    for key in ring.keys:
        assert key.state in (KeyState.ACTIVE, KeyState.NEXT, KeyState.REVOKED) or key.retired_at_s is not None


@laws
@given(ring=rings(), fresh=st.sampled_from("xyz"), now_s=st.integers(-5, 30), kid=st.sampled_from("abcdxyz"))
def test_every_move_only_adds(ring: KeyRing, fresh: str, now_s: int, kid: str) -> None:
    key = msgspec.structs.replace(make_test_key(fresh, now_s=max(now_s, 0)), private=numbers(fresh))
    moves: tuple[Callable[[KeyRing], KeyRing], ...] = (
        lambda ring: keyring.stage(ring, key),
        lambda ring: keyring.promote(ring, now_s=now_s),
        lambda ring: keyring.revoke(ring, kid, now_s=now_s),
        lambda ring: keyring.revoke_before(ring, max(now_s, 0), now_s=now_s),
        lambda ring: keyring.allow_lifetime(ring, 4),
        lambda ring: note_jwks_age(ring, 60, now_s=now_s),
    )
    for move in moves:
        try:
            moved = move(ring)
        except InvalidTransition:
            continue
        assert includes(moved, ring)
        ring = moved


@laws
@given(ring=rings(), other=rings(), now_s=st.integers(-5, 30))
def test_what_is_promoted_is_active_whatever_the_clock(ring: KeyRing, other: KeyRing, now_s: int) -> None:
    joined = keyring.join(ring, other)
    if joined.staged is None:
        joined = keyring.stage(joined, msgspec.structs.replace(make_test_key("x", now_s=0), private=numbers("x")))
    assert joined.staged is not None
    promoted = keyring.promote(joined, now_s=now_s)

    assert promoted.active is not None
    assert promoted.active.kid == joined.staged.kid
    assert (promoted.active.activated_at_s or 0) >= promoted.active.created_at_s


@laws
@given(a=rings(), b=rings(), now_s=st.integers(0, 10**6))
def test_dead_keys_alone_make_no_difference(a: KeyRing, b: KeyRing, now_s: int) -> None:
    joined = keyring.join(a, b)
    dead = keyring.dead(joined, now_s=now_s)
    forgotten = keyring.forget(joined, dead)

    assert not keyring.differs(forgotten, joined, now_s=now_s)
    assert all(key.state is KeyState.RETIRED for key in joined.keys if key.kid in dead)
    assert dead <= keyring.dead(keyring.join(forgotten, joined), now_s=now_s)


@laws
@given(ring=rings())
def test_a_ring_comes_back_from_rest_as_it_was(ring: KeyRing) -> None:
    ring = msgspec.structs.replace(ring, form=FORM)

    assert encoding.from_jwk_set(encoding.to_jwk_set(ring)) == ring
