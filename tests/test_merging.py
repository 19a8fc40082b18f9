import copy
from collections.abc import Mapping
from typing import Any

import pytest

from service.claims import GuestClaims
from service.errors import Fault, InvalidRequest
from service.merge_policies import SHIPPED, compile_policy
from service.merging import Candidate, MergedGuest, MergeResult, Skipped, merge_guests, receipt_id

JSON = Any


def guest(
    payload: dict[str, JSON], *, subject: str = "G-1", started: int = 1000, version: int = 1, **claims: Any
) -> GuestClaims:
    issued = claims.get("issued", started)
    return GuestClaims(
        issuer="https://guests.example",
        subject=subject,
        audience=(),
        issued_at_s=issued,
        expires_at_s=issued + 60,
        first_issued_at_s=started,
        token_id=claims.get("token_id", "t-1"),
        version=version,
        payload=payload,
    )


def merge(session: dict[str, JSON], *guests: GuestClaims, policy: Mapping[str, JSON] | None = None) -> MergeResult:
    """Merges, and sees to it that nothing that came in was changed."""
    candidates = [Candidate(index, claims) for index, claims in enumerate(guests)]
    before = copy.deepcopy((session, candidates))
    result = merge_guests(session, candidates, SHIPPED["default"] if policy is None else compile_policy(dict(policy)))
    assert (session, candidates) == before
    return result


def folded(session: JSON, guest_value: JSON, rule: JSON) -> JSON:
    """What becomes of the member `x` under a rule, "absent" where there is none; the session "absent" has none."""
    start = {} if session == "absent" else {"x": session}
    result = merge(start, guest({"x": guest_value}), policy={"rules": {"/x": rule}})
    return result.payload.get("x", "absent")


def conflicts(result: MergeResult) -> list[tuple[str, JSON, JSON, str, str]]:
    return [(each.path, each.session, each.guest, each.kept, each.rule) for each in result.conflicts]


# Which guests count


def test_without_a_guest_the_session_comes_back_as_it_is() -> None:
    session = {"cart": [1], "merged_guests": [["AAAAAAAAAA", 3]]}

    result = merge(session)

    assert result == MergeResult(payload=session)
    assert not result.merged
    assert result.last is None


def test_a_merged_guest_leaves_its_receipt_in_the_session() -> None:
    result = merge({}, guest({"a": 1}, version=7))

    # printf G-1.1000 | openssl dgst -sha256 -binary | base64 | tr +/ -_ | cut -c 1-10
    assert result.payload == {"a": 1, "merged_guests": [["GoTmWbQgY0", 7]]}
    assert result.guests == (MergedGuest("G-1", 7, weakened=False),)
    assert result.merged


def test_merging_again_changes_nothing() -> None:
    first = merge({"n": 1}, guest({"n": 2}), policy={"default": "sum"})

    again = merge(first.payload, guest({"n": 2}), policy={"default": "sum"})

    assert again.payload == first.payload
    assert again.payload["n"] == 3
    assert again.skipped == (Skipped(0, "already_merged", "G-1"),)
    assert not again.merged


def test_an_older_version_than_the_receipt_is_already_merged() -> None:
    first = merge({}, guest({"n": 2}, version=5))

    assert merge(first.payload, guest({"n": 1}, version=4)).skipped == (Skipped(0, "already_merged", "G-1"),)


@pytest.mark.parametrize(
    ("newest", "older"),
    [
        (guest({"n": 2}, version=3), guest({"n": 1}, version=2, issued=9000, token_id="z")),
        (guest({"n": 2}, issued=2001), guest({"n": 1}, issued=2000, token_id="z")),
        (guest({"n": 2}, token_id="b"), guest({"n": 1}, token_id="a")),
    ],
    ids=["highest ver", "then latest iat", "then greatest jti"],
)
def test_of_one_lineage_only_the_newest_counts(newest: GuestClaims, older: GuestClaims) -> None:
    result = merge({}, older, newest, older)

    assert result.payload["n"] == 2
    assert result.skipped == (Skipped(0, "superseded", "G-1"), Skipped(2, "superseded", "G-1"))
    assert merge({}, newest, older).payload == result.payload


def test_one_token_given_twice_counts_once() -> None:
    result = merge({}, guest({"n": 2}), guest({"n": 2}), policy={"default": "sum"})

    assert result.payload["n"] == 2
    assert result.skipped == (Skipped(1, "superseded", "G-1"),)


def test_the_same_subject_started_at_another_time_is_another_guest() -> None:
    result = merge({}, guest({"n": 1}), guest({"n": 2}, started=1001), policy={"default": "sum"})

    assert result.payload["n"] == 3
    assert len(result.payload["merged_guests"]) == 2


def test_a_guest_that_went_on_after_its_merge_merges_weakened_never_double() -> None:
    policy = {
        "rules": {
            "/n": "sum",
            "/log": "append",
            "/cart": {"rule": "by_key", "key": "sku", "fields": {"/qty": "sum", "/notes": "append"}},
        }
    }
    start = {"n": 1, "log": ["s"], "cart": [{"sku": "a", "qty": 1, "notes": ["s"]}]}
    payload = {"n": 2, "log": ["g"], "cart": [{"sku": "a", "qty": 2, "notes": ["g"]}]}
    first = merge(start, guest(payload), policy=policy)
    payload_later = {"n": 2, "log": ["g", "h"], "cart": [{"sku": "a", "qty": 4, "notes": ["g", "h"]}]}

    later = merge(first.payload, guest(payload_later, version=2), policy=policy)

    assert first.payload["cart"] == [{"sku": "a", "qty": 3, "notes": ["s", "g"]}]
    assert later.payload["n"] == 3
    assert later.payload["log"] == ["s", "g", "h"]
    assert later.payload["cart"] == [{"sku": "a", "qty": 4, "notes": ["s", "g", "h"]}]
    assert later.guests == (MergedGuest("G-1", 2, weakened=True),)
    assert later.payload["merged_guests"] == [[receipt_id(guest({})), 2]]


def test_receipts_are_newest_last_and_at_most_64() -> None:
    old = [[f"{number:010d}", 1] for number in range(64)]
    fresh, again = guest({}, subject="new", started=1), guest({}, subject="again", started=2, version=2)
    old[5] = [receipt_id(again), 1]

    result = merge({"merged_guests": old}, again, fresh)

    expected = [*old[1:5], *old[6:], [receipt_id(fresh), 1], [receipt_id(again), 2]]
    assert result.payload["merged_guests"] == expected[-64:]
    assert len(expected) == 64


@pytest.mark.parametrize(
    ("receipts", "path"),
    [
        (None, ""),
        ({}, ""),
        ("AAAAAAAAAA", ""),
        ([["AAAAAAAAAA", 1], 5], "/1"),
        ([["AAAAAAAAAA"]], "/0"),
        ([["AAAAAAAAAA", 1, 1]], "/0"),
        ([["AAAAAAAAA", 1]], "/0"),
        ([["AAAAAAAAA=", 1]], "/0"),
        ([["AAAAAAAAAA\n", 1]], "/0"),
        ([["AAAAAAAAAA", 0]], "/0"),
        ([["AAAAAAAAAA", True]], "/0"),
        ([["AAAAAAAAAA", 1.0]], "/0"),
        ([[1, "AAAAAAAAAA"]], "/0"),
    ],
)
def test_malformed_receipts_are_refused_with_their_path(receipts: JSON, path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        merge({"merged_guests": receipts}, guest({}))

    assert refused.value.code == "invalid_request"
    assert [each.path for each in refused.value.errors] == [f"/session/merged_guests{path}"]


def test_every_malformed_receipt_is_named() -> None:
    with pytest.raises(InvalidRequest) as refused:
        merge({"merged_guests": [1, ["AAAAAAAAAA", 1], []]})

    message = "must be [ID, VER]: 10 base64url characters, and a whole number from 1"
    assert refused.value.errors == (
        Fault("/session/merged_guests/0", message),
        Fault("/session/merged_guests/2", message),
    )


def test_of_two_receipts_for_one_guest_the_higher_version_holds() -> None:
    name = receipt_id(guest({}))

    result = merge({"merged_guests": [[name, 3], [name, 2]]}, guest({}, version=3))

    assert result.skipped == (Skipped(0, "already_merged", "G-1"),)


# How they fold in


def test_guests_fold_in_by_orig_iat_then_sub_whatever_the_order_of_tokens() -> None:
    late = guest({"log": ["late"]}, subject="a", started=2)
    b, c = guest({"log": ["b"]}, subject="b", started=1), guest({"log": ["c"]}, subject="c", started=1)

    results = [merge({}, *order, policy={"default": "append"}) for order in [(late, c, b), (b, c, late), (c, late, b)]]

    assert [each.payload["log"] for each in results] == [["b", "c", "late"]] * 3
    assert [each.last for each in results] == [late] * 3
    assert [guest.subject for guest in results[0].guests] == ["b", "c", "a"]


def test_an_empty_guest_changes_nothing_but_the_receipts() -> None:
    result = merge({"a": {"b": 1}}, guest({}), policy={"rules": {"": "guest"}})

    assert result.payload == {"a": {"b": 1}, "merged_guests": [[receipt_id(guest({})), 1]]}
    assert result.merged
    assert result.conflicts == ()


def test_protected_values_are_cut_and_reported() -> None:
    result = merge({"role": "user", "uid": 7}, guest({"role": "admin", "uid": 7.0, "admin": True, "scope": None}))

    assert result.payload == {"role": "user", "uid": 7, "merged_guests": [[receipt_id(guest({})), 1]]}
    assert {each.subject for each in result.conflicts} == {"G-1"}
    assert conflicts(result) == [
        ("/role", "user", "admin", "session", "protect"),
        ("/admin", None, True, "session", "protect"),
    ]


# The rules

ABSENT = "absent"


@pytest.mark.parametrize(
    ("rule", "session", "from_guest", "result"),
    [
        ("session", 1, 2, 1),
        ("session", None, 2, None),
        ("session", ABSENT, 2, 2),
        ("session", ABSENT, None, ABSENT),
        ("guest", 1, 2, 2),
        ("guest", 1, None, 1),
        ("guest", {"a": 1}, {"b": 2}, {"b": 2}),
        ("guest", {"a": 1}, 5, 5),
        ("guest_if_empty", 0, 5, 0),
        ("guest_if_empty", False, 5, False),
        ("guest_if_empty", "", 5, 5),
        ("guest_if_empty", [], 5, 5),
        ("guest_if_empty", {}, 5, 5),
        ("guest_if_empty", None, 5, 5),
        ("guest_if_empty", ABSENT, 5, 5),
        ("guest_if_empty", [0], 5, [0]),
        ("drop", ABSENT, 1, ABSENT),
        ("drop", 1, 2, 1),
        ("deep", {"a": 1, "b": 2}, {"b": 3, "c": 4}, {"a": 1, "b": 2, "c": 4}),
        ("deep", None, {"a": 1}, {"a": 1}),
        ("deep", 5, {"a": 1}, 5),
        ("deep", {"a": 1}, 5, {"a": 1}),
        ("deep", ABSENT, 5, ABSENT),
        ("deep", ABSENT, {}, {}),
        ("deep", ABSENT, {"a": None}, ABSENT),
        ("sum", 1, 2, 3),
        ("sum", None, 2, 2),
        ("sum", "1", 2, "1"),
        ("sum", 1, "2", 1),
        ("sum", True, 2, True),
        ("sum", 1, True, 1),
        ("sum", ABSENT, True, ABSENT),
        ("max", 1, 2, 2),
        ("max", 2, 1, 2),
        ("min", 1, 2, 1),
        ("min", 2, 1, 1),
        ("union", [1, True, "a", [1], {"a": 1}], [1.0, True, "a", [1.0], {"a": 1.0}], [1, True, "a", [1], {"a": 1}]),
        ("union", [1], [True, [True]], [1, True, [True]]),
        ("union", [[1]], [[True]], [[1], [True]]),
        ("union", [1, 1], [2, 2], [1, 1, 2]),
        ("union", ABSENT, [1, 1], [1]),
        ("union", ABSENT, "a", ABSENT),
        ({"rule": "union", "keep": "last"}, [1, 2, 3], [1, 4], [2, 3, 1, 4]),
        ("append", [1], [1, 2], [1, 1, 2]),
        ("append", {"a": 1}, [1], {"a": 1}),
    ],
)
def test_a_rule_makes_of_both_values(rule: JSON, session: JSON, from_guest: JSON, result: JSON) -> None:
    merged = folded(session, from_guest, rule)

    assert merged == result
    assert repr(merged) == repr(result)  # 1 == True == 1.0 in Python
