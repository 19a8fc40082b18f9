import copy
from collections.abc import Mapping
from typing import Any

import pytest

from service.errors import Fault, InvalidRequest
from service.merge.handover import Candidate, MergedGuest, MergeResult, Skipped, merge_guests
from service.merge.policy_parser import compile_policy
from service.merge.presets import SHIPPED
from service.merge.receipts import receipt_id
from service.tokens.claims import GuestClaims

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


def test_of_one_lineage_only_the_highest_version_counts() -> None:
    newest, older = guest({"n": 2}, version=3), guest({"n": 1}, version=2, issued=9000, token_id="z")

    result = merge({}, older, newest, older)

    assert result.payload["n"] == 2
    assert result.skipped == (Skipped(0, "superseded", "G-1"), Skipped(2, "superseded", "G-1"))
    assert merge({}, newest, older).payload == result.payload


SIBLINGS_POLICY = {"rules": {"/n": "sum", "/log": "append"}, "default": "session"}


@pytest.mark.parametrize(
    "older", [{"issued": 2000, "token_id": "z"}, {"issued": 2001, "token_id": "a"}], ids=["earlier iat", "lesser jti"]
)
def test_siblings_count_as_one_guest_that_loses_and_doubles_nothing(older: dict[str, Any]) -> None:
    first = guest({"n": 5, "log": ["a", "b"], "t": "old", "o": 1}, version=3, **older)
    second = guest({"n": 4, "log": ["a", "c"], "t": "new"}, version=3, issued=2001, token_id="b")

    result = merge({"n": 1, "log": []}, first, second, first, policy=SIBLINGS_POLICY)

    assert {name: result.payload[name] for name in "nto"} == {"n": 6, "t": "new", "o": 1}
    assert result.payload["log"] == ["a", "c", "b"]
    assert result.guests == (MergedGuest("G-1", 3, weakened=False),)
    assert result.skipped == (Skipped(2, "superseded", "G-1"),)
    assert result.last is not None
    assert result.last.token_id == "b"
    assert merge({"n": 1, "log": []}, second, first, policy=SIBLINGS_POLICY).payload == result.payload


def test_a_sibling_that_comes_after_its_version_was_merged_is_merged_already() -> None:
    first, second = guest({"n": 1}, token_id="a"), guest({"n": 2}, token_id="b")
    merged = merge({}, second)

    assert merge(merged.payload, first).skipped == (Skipped(0, "already_merged", "G-1"),)
    assert merge(merged.payload, first, second).skipped == (
        Skipped(0, "already_merged", "G-1"),
        Skipped(1, "already_merged", "G-1"),
    )


def test_siblings_of_equal_payloads_are_one_token_and_its_renewal() -> None:
    first, second = guest({"n": 2}, token_id="a"), guest({"n": 2.0}, token_id="b")

    result = merge({"n": 1}, first, second, policy=SIBLINGS_POLICY)

    assert result.payload["n"] == 3
    assert result.skipped == (Skipped(0, "superseded", "G-1"),)


DERIVED = "G-01234567-89ab-8cde-9f01-23456789abcd"


def test_two_guests_under_one_idempotency_key_are_one_however_many_seconds_apart() -> None:
    first, second = guest({"n": 1}, subject=DERIVED), guest({"n": 1, "m": 1}, subject=DERIVED, started=1007)

    result = merge({}, first, second, policy={"default": "sum"})

    # printf G-01234567-89ab-8cde-9f01-23456789abcd | openssl dgst -sha256 -binary | base64 | tr +/ -_ | cut -c 1-10
    assert result.payload == {"n": 1, "m": 1, "merged_guests": [["zur0wYM3uO", 1]]}
    assert merge(result.payload, guest({"n": 5}, subject=DERIVED, started=2000)).skipped == (
        Skipped(0, "already_merged", DERIVED),
    )


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
    fresh, again = guest({"a": 1}, subject="new", started=1), guest({"a": 1}, subject="again", started=2, version=2)
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


def test_where_all_were_merged_before_the_last_of_them_is_reported_for_what_comes_next() -> None:
    older, newer = guest({"n": 1}, subject="a", started=1), guest({"n": 2}, subject="b", started=2)
    first = merge({}, newer, older)

    again = merge(first.payload, newer, older)

    assert not again.merged
    assert again.last == first.last == newer
    third = guest({"n": 3}, subject="c", started=0)
    assert merge(first.payload, older, third).last == third


# How they fold in


def test_guests_fold_in_by_orig_iat_then_sub_whatever_the_order_of_tokens() -> None:
    late = guest({"log": ["late"]}, subject="a", started=2)
    b, c = guest({"log": ["b"]}, subject="b", started=1), guest({"log": ["c"]}, subject="c", started=1)

    results = [merge({}, *order, policy={"default": "append"}) for order in [(late, c, b), (b, c, late), (c, late, b)]]

    assert [each.payload["log"] for each in results] == [["b", "c", "late"]] * 3
    assert [each.last for each in results] == [late] * 3
    assert [guest.subject for guest in results[0].guests] == ["b", "c", "a"]


def test_an_empty_guest_changes_nothing_and_leaves_no_receipt() -> None:
    result = merge({"a": {"b": 1}}, guest({}, version=3), policy={"rules": {"": "guest"}})

    assert result.payload == {"a": {"b": 1}}
    assert not result.merged
    assert result.skipped == (Skipped(0, "empty", "G-1"),)
    assert result.last == guest({}, version=3)


def test_an_empty_guest_is_skipped_beside_one_that_is_merged() -> None:
    result = merge({}, guest({}, subject="late", started=2000), guest({"a": 1}))

    assert [each.subject for each in result.guests] == ["G-1"]
    assert result.skipped == (Skipped(0, "empty", "late"),)
    assert result.last == guest({"a": 1})


def test_a_guest_that_was_emptied_after_its_merge_is_empty_and_one_merged_before_is_merged_already() -> None:
    merged = merge({}, guest({"a": 1}, version=2)).payload

    assert merge(merged, guest({}, version=3)).skipped == (Skipped(0, "empty", "G-1"),)
    assert merge(merged, guest({}, version=2)).skipped == (Skipped(0, "already_merged", "G-1"),)


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
LATEST = {"rule": "latest", "by": "/at"}


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
        (LATEST, {"at": 1, "x": 1}, {"at": 2, "y": 2}, {"at": 2, "y": 2}),
        (LATEST, {"at": 2, "x": 1}, {"at": 1, "y": 2}, {"at": 2, "x": 1}),
        (LATEST, {"at": 1, "x": 1}, {"at": 1.0, "y": 2}, {"at": 1, "x": 1}),
        (LATEST, {"at": 1}, {"y": 2}, {"at": 1}),
        (LATEST, {"x": 1}, {"at": 0}, {"at": 0}),
        (LATEST, {"x": 1}, {"y": 2}, {"x": 1}),
        (LATEST, {"at": True}, {"at": "noon"}, {"at": True}),
        (LATEST, ABSENT, {"y": 2}, {"y": 2}),
        (LATEST, None, {"y": 2}, {"y": 2}),
        (LATEST, 5, {"at": 1}, 5),
        (LATEST, {"x": 1}, 5, {"x": 1}),
        (LATEST, ABSENT, 5, ABSENT),
        ({"rule": "latest", "by": "/a/1"}, {"a": [9, 1]}, {"a": [0, 2]}, {"a": [0, 2]}),
        (
            LATEST,
            {"at": "2026-01-31T23:59:59.9Z"},
            {"at": "2026-02-01T02:00:00+02:00"},
            {"at": "2026-02-01T02:00:00+02:00"},
        ),
        (
            LATEST,
            {"at": "2026-01-01T00:00:00.000000001Z"},
            {"at": "2026-01-01T00:00:00Z"},
            {"at": "2026-01-01T00:00:00.000000001Z"},
        ),
        (LATEST, {"at": "2026-01-01T00:00:00Z"}, {"at": 1767225601}, {"at": 1767225601}),
    ],
)
def test_a_rule_makes_of_both_values(rule: JSON, session: JSON, from_guest: JSON, result: JSON) -> None:
    merged = folded(session, from_guest, rule)

    assert merged == result
    assert repr(merged) == repr(result)  # 1 == True == 1.0 in Python


BY_SKU = {"rule": "by_key", "key": "sku", "fields": {"/qty": "sum", "/tags": "union", "/price": "drop"}}


@pytest.mark.parametrize(
    ("session", "from_guest", "result"),
    [
        # into the first that has the same key, or at the end
        ([{"sku": "a", "qty": 1}], [{"sku": "b", "qty": 2}], [{"sku": "a", "qty": 1}, {"sku": "b", "qty": 2}]),
        ([{"sku": "a", "qty": 1}, {"sku": "a"}], [{"sku": "a", "qty": 2}], [{"sku": "a", "qty": 3}, {"sku": "a"}]),
        # each guest element: two of one key add up, wherever the first stands
        (ABSENT, [{"sku": "a", "qty": 1}, {"sku": "a", "qty": 2}], [{"sku": "a", "qty": 3}]),
        # a key by JSON equality; the session's spelling stays
        ([{"sku": 1, "qty": 1}], [{"sku": 1.0, "qty": 1}], [{"sku": 1, "qty": 2}]),
        ([{"sku": 1, "qty": 1}], [{"sku": True, "qty": 1}], [{"sku": 1, "qty": 1}, {"sku": True, "qty": 1}]),
        ([{"sku": [1], "qty": 1}], [{"sku": [1.0], "qty": 1}], [{"sku": [1], "qty": 2}]),
        # without the key as in union
        ([{"qty": 1}, 5], [{"qty": 1.0}, {"qty": 2}, 5, 6, None], [{"qty": 1}, 5, {"qty": 2}, 6, None]),
        ([{"sku": None, "qty": 1}], [{"sku": None, "qty": 1}], [{"sku": None, "qty": 1}]),
        ([["sku"]], [["sku"], {"sku": "a"}], [["sku"], {"sku": "a"}]),
        # members without a rule: the fallback of their kind; what `fields` drop is not handed over with a new element
        (
            [{"sku": "a", "name": "A", "tags": [1], "more": {"x": 1}}],
            [{"sku": "a", "name": "B", "tags": [2], "more": {"y": 2}, "price": 1}, {"sku": "b", "price": 0}],
            [{"sku": "a", "name": "A", "tags": [1, 2], "more": {"x": 1, "y": 2}}, {"sku": "b"}],
        ),
        ([], [], []),
        (None, [], []),
        ([{"sku": "a"}], {"sku": "a"}, [{"sku": "a"}]),
    ],
)
def test_by_key_merges_elements_of_one_key(session: JSON, from_guest: JSON, result: JSON) -> None:
    merged = folded(session, from_guest, BY_SKU)

    assert repr(merged) == repr(result)


def test_a_key_of_several_members_needs_all_of_them() -> None:
    rule = {"rule": "by_key", "key": ["sku", "size"], "fields": {"/n": "sum"}}
    session = [{"sku": "a", "size": 1, "n": 1}, {"sku": "a", "size": 2, "n": 1}, {"sku": "a", "n": 1}]

    merged = folded(session, [{"sku": "a", "size": 2, "n": 4}, {"sku": "a", "n": 1}, {"size": 1}], rule)

    assert merged == [session[0], {"sku": "a", "size": 2, "n": 5}, session[2], {"size": 1}]


def test_a_key_is_never_changed_by_a_field_rule() -> None:
    rule = {"rule": "by_key", "key": "id", "fields": {"/*": "sum", "/id": "drop"}}

    assert folded([{"id": 1, "n": 1}], [{"id": 1, "n": 1}, {"id": 2, "n": 1}], rule) == [
        {"id": 1, "n": 2},
        {"id": 2, "n": 1},
    ]


@pytest.mark.parametrize(
    ("rule", "result"),
    [
        ("guest", [{"b": 2, "id": 1}, {"id": 2, "b": 2}]),
        ("session", [{"id": 1, "a": 1}, {"id": 2, "b": 2}]),
        ("drop", [{"id": 1, "a": 1}]),
        ("deep", [{"id": 1, "a": 1, "b": 2}, {"id": 2, "b": 2}]),
        ("sum", [{"id": 1, "a": 1}]),
    ],
)
def test_a_field_rule_for_the_empty_path_speaks_of_the_element_as_a_whole(rule: str, result: JSON) -> None:
    by_id = {"rule": "by_key", "key": "id", "fields": {"": rule}}

    assert folded([{"id": 1, "a": 1}], [{"id": 1, "b": 2}, {"id": 2, "b": 2}], by_id) == result


@pytest.mark.parametrize("fields", [{}, {"": "deep"}, {"/x": "sum"}])
def test_of_a_new_element_at_least_the_key_is_handed_over(fields: JSON) -> None:
    policy = {"rules": {"/x": {"rule": "by_key", "key": "id", "fields": fields}}, "default": "drop"}

    assert merge({}, guest({"x": [{"id": 2, "b": 2}]}), policy=policy).payload["x"] == [{"id": 2}]


def test_fields_nest() -> None:
    inner = {"rule": "by_key", "key": "id", "fields": {"/n": {"rule": "sum", "ceiling": 9}}}
    rule = {"rule": "by_key", "key": "id", "fields": {"/box/lines": inner}}

    merged = folded(
        [{"id": 1, "box": {"lines": [{"id": 1, "n": 5}]}}],
        [{"id": 1, "box": {"lines": [{"id": 1, "n": 5}, {"id": 2, "n": 50}]}}],
        rule,
    )

    assert merged == [{"id": 1, "box": {"lines": [{"id": 1, "n": 9}, {"id": 2, "n": 9}]}}]


def test_the_default_rules_within_elements_too() -> None:
    policy = {"rules": {"/x": {"rule": "by_key", "key": "id"}}, "default": "guest"}

    result = merge({"x": [{"id": 1, "n": 1}]}, guest({"x": [{"id": 1, "n": 2}]}), policy=policy)

    assert result.payload["x"] == [{"id": 1, "n": 2}]


# What one guest says in several elements of one key


@pytest.mark.parametrize(
    ("field", "session", "said", "result"),
    [
        ("sum", 1, [2, None, 3], 6),
        ({"rule": "sum", "ceiling": 9}, 5, [6, -3], 6),
        ("guest", 1, [2, {"b": 1}, 3], 3),
        ("guest", ABSENT, [2, None], 2),
        ("session", ABSENT, [2, 3], 2),
        ("guest_if_empty", "", ["", 3, 4], 3),
        ("union", [1], [[2], 5, [1, 3], [2]], [1, 2, 3]),
        ("append", ABSENT, [[1], [1]], [1, 1]),
        ({"rule": "append", "limit": 3}, [1], [[2, 3], [4]], [1, 2, 3]),
        ("union", {"a": 1}, [[1], [2]], {"a": 1}),
        ("union", ABSENT, [1, 2], ABSENT),
        ("deep", {"a": 1}, [{"b": [1]}, {"b": [2], "c": 1}], {"a": 1, "b": [1, 2], "c": 1}),
        ("deep", 5, [{"b": 1}, {"b": 2}], 5),
        ("drop", ABSENT, [1, 2], ABSENT),
        (BY_SKU, [{"sku": 1, "qty": 1}], [[{"sku": 1, "qty": 2}], [{"sku": 1, "qty": 3}]], [{"sku": 1, "qty": 6}]),
    ],
)
def test_elements_of_one_key_merge_into_one(field: JSON, session: JSON, said: list[JSON], result: JSON) -> None:
    rule = {"rule": "by_key", "key": "id", "fields": {"/x": field}}
    own = {"id": 1} if session == ABSENT else {"id": 1, "x": session}

    (into_one,) = folded([own], [{"id": 1, "x": value} for value in said], rule)
    (new,) = folded(ABSENT, [own, *({"id": 1, "x": value} for value in said)], rule)

    assert into_one.get("x", ABSENT) == result
    assert new["id"] == 1


def test_each_value_is_handled_by_the_rule_of_its_own_kind() -> None:
    rule = {"rule": "by_key", "key": "id"}
    said = [{"id": 1, "x": value} for value in ([1], 5, {"a": 1}, [2], {"b": 1})]

    assert folded([{"id": 1, "x": [0]}], said, rule) == [{"id": 1, "x": [0, 1, 2]}]
    assert folded([{"id": 1, "x": {}}], said, rule) == [{"id": 1, "x": {"a": 1, "b": 1}}]
    assert folded([{"id": 1}], said, rule) == [{"id": 1, "x": [1, 2]}]


def test_objects_above_a_path_merge_member_by_member_however_often_they_come() -> None:
    rule = {"rule": "by_key", "key": "id", "fields": {"/x": "guest", "/x/n": "sum"}}
    said = [{"id": 1, "x": value} for value in ({"n": 1}, 5, {"n": 2, "m": 1})]

    assert folded([{"id": 1}], said, rule) == [{"id": 1, "x": {"n": 3, "m": 1}}]


@pytest.mark.parametrize(
    ("rule", "result"),
    [
        ("guest", [{"id": 1, "b": 3}, {"id": 2, "b": 5}]),
        ("session", [{"id": 1, "a": 1}, {"id": 2, "b": 4}]),
        ("drop", [{"id": 1, "a": 1}]),
        ("union", [{"id": 1, "a": 1}]),
    ],
)
def test_a_field_rule_for_the_empty_path_speaks_of_each_element_of_one_key(rule: str, result: JSON) -> None:
    by_id = {"rule": "by_key", "key": "id", "fields": {"": rule}}
    said = [{"id": 1, "b": 2}, {"id": 2, "b": 4}, {"id": 1.0, "b": 3}, {"id": 2.0, "b": 5}]

    assert repr(sorted_members(folded([{"id": 1, "a": 1}], said, by_id))) == repr(sorted_members(result))


def sorted_members(elements: list[dict[str, JSON]]) -> list[dict[str, JSON]]:
    return [dict(sorted(each.items())) for each in elements]


# Numbers


@pytest.mark.parametrize(
    ("whole", "real", "equal"),
    [
        (10**19, 1e19, True),
        (2**63, 2.0**63, True),
        (-(2**63), -(2.0**63), True),
        (2**53 + 1, 2.0**53, False),
        (2**64 - 1, 2.0**64, False),
        (0, -0.0, True),
    ],
)
def test_a_number_is_found_again_however_it_is_spelt(whole: int, real: float, *, equal: bool) -> None:
    assert folded([whole], [real], "union") == ([whole] if equal else [whole, real])
    assert folded([real], [whole], "union") == ([real] if equal else [real, whole])


@pytest.mark.parametrize(
    ("session", "from_guest", "result"),
    [
        (2**53, 1, 2**53 + 1),
        (2**64 - 2, 1, 2**64 - 1),
        (-(2**63) + 1, -1, -(2**63)),
        (2**53 + 1, 2.0, 2**53 + 3),
        (1, 0.5, 1.5),
        (0.5, 1, 1.5),
        (2**53 + 1, 0.5, 9007199254740994.0),
        (0.5, 0.5, 1.0),
        (1e300, 5, 1e300),
        (5, 1e300, 1e300),
        (1.0, 2, 3),
        (0.1, 0.2, 0.30000000000000004),
    ],
)
def test_whole_numbers_stay_whole_and_exact(session: JSON, from_guest: JSON, result: JSON) -> None:
    assert repr(folded(session, from_guest, "sum")) == repr(result)


@pytest.mark.parametrize(
    ("session", "from_guest"),
    [(2**64 - 1, 1), (-(2**63), -1), (2**64 - 1, 1.0), (1.7e308, 1.7e308), (-1.7e308, -1.7e308)],
)
def test_an_overflow_is_a_conflict_and_the_session_stays(session: JSON, from_guest: JSON) -> None:
    result = merge({"x": session}, guest({"x": from_guest}), policy={"default": "sum"})

    assert result.payload["x"] == session
    assert conflicts(result) == [("/x", session, from_guest, "session", "sum")]


def test_a_ceiling_stands_before_an_overflow() -> None:
    rule = {"rule": "sum", "ceiling": 2**64 - 1}

    result = merge({"x": 2**64 - 2}, guest({"x": 2}), policy={"default": rule})

    assert result.payload["x"] == 2**64 - 1
    assert conflicts(result) == [("/x", 2**64 - 2, 2, "bounded", "sum")]


@pytest.mark.parametrize(
    ("rule", "session", "from_guest", "result", "kept"),
    [
        ({"rule": "sum", "ceiling": 9}, 5, 4, 9, None),
        ({"rule": "sum", "ceiling": 9}, 5, 5, 9, "bounded"),
        ({"rule": "sum", "floor": 0}, 5, -6, 0, "bounded"),
        ({"rule": "max", "ceiling": 9}, 5, 10, 9, "bounded"),
        ({"rule": "min", "floor": 0}, 5, -1, 0, "bounded"),
        ({"rule": "max", "ceiling": 9}, ABSENT, 10, 9, "bounded"),
        ({"rule": "sum", "floor": 1.5}, None, 1, 1.5, "bounded"),
        # at the bound already
        ({"rule": "sum", "ceiling": 9}, 9, 1, 9, "bounded"),
        # the session's alone is never touched
        ({"rule": "sum", "ceiling": 9}, 12, None, 12, None),
        ({"rule": "sum", "ceiling": 9}, 12, 0, 12, None),
        ({"rule": "max", "ceiling": 9}, 12, 10, 12, None),
        ({"rule": "min", "floor": 9}, 3, 4, 3, None),
        # a bound takes nothing of what the session had
        ({"rule": "sum", "ceiling": 99}, 150, 2, 150, "bounded"),
        ({"rule": "sum", "ceiling": 99}, 150, -10, 140, None),
        ({"rule": "sum", "ceiling": 99}, 150, -140, 10, None),
        ({"rule": "sum", "floor": 0}, -5, -2, -5, "bounded"),
        ({"rule": "sum", "floor": 0}, -5, 2, -3, None),
        ({"rule": "max", "ceiling": 9}, 12, 15, 12, "bounded"),
        ({"rule": "min", "floor": 0}, -5, -7, -5, "bounded"),
    ],
)
def test_floor_and_ceiling_hold_where_a_guest_contributed(
    rule: JSON, session: JSON, from_guest: JSON, result: JSON, kept: str | None
) -> None:
    start = {} if session == ABSENT else {"x": session}
    merged = merge(start, guest({"x": from_guest}), policy={"rules": {"/x": rule}})

    assert merged.payload["x"] == result
    assert [each.after for each in merged.changes] == ([] if result == session else [result])
    own = None if session == ABSENT else session
    assert conflicts(merged) == ([] if kept is None else [("/x", own, from_guest, kept, rule["rule"])])


@pytest.mark.parametrize(
    ("rule", "session", "from_guest", "result", "kept"),
    [
        ({"rule": "append", "limit": 3}, [1], [2, 3], [1, 2, 3], None),
        ({"rule": "append", "limit": 3}, [1, 2], [3, 4], [1, 2, 3], "bounded"),
        ({"rule": "append", "limit": 3, "keep": "last"}, [1, 2], [3, 4], [2, 3, 4], "bounded"),
        ({"rule": "union", "limit": 2}, [1, 2], [2, 3], [1, 2], "bounded"),
        ({"rule": "union", "limit": 2, "keep": "last"}, [1, 2], [3, 1], [3, 1], "bounded"),
        ({"rule": "union", "limit": 2}, ABSENT, [1, 2, 3], [1, 2], "bounded"),
        ({"rule": "union", "limit": 2, "keep": "last"}, ABSENT, [1, 2, 3], [2, 3], "bounded"),
        # the session's alone is never touched
        ({"rule": "union", "limit": 2}, [1, 2, 3], [], [1, 2, 3], None),
        ({"rule": "union", "limit": 2}, [1, 2, 3], [3.0], [1, 2, 3], None),
        ({"rule": "union", "limit": 2}, [1, 2, 3], [4], [1, 2, 3], "session"),
        ({"rule": "append", "limit": 2, "keep": "last"}, [1, 2, 3], [], [1, 2, 3], None),
        ({"rule": "append", "limit": 2, "keep": "last"}, [1, 2, 3], [4], [3, 4], "bounded"),
        ({"rule": "append", "limit": 0}, [1], [2], [1], "session"),
        ({"rule": "append", "limit": 0, "keep": "last"}, [1], [2], [1], "session"),
        ({"rule": "append", "limit": 0}, ABSENT, [2], ABSENT, "session"),
        ({"rule": "append", "limit": 0}, [], [2], [], "session"),
        ({"rule": "append", "limit": 0}, ABSENT, [], [], None),
    ],
)
def test_a_limit_holds_where_a_guest_contributed(
    rule: JSON, session: JSON, from_guest: JSON, result: JSON, kept: str | None
) -> None:
    start = {} if session == ABSENT else {"x": session}
    merged = merge(start, guest({"x": from_guest}), policy={"rules": {"/x": rule}})

    assert merged.payload.get("x", ABSENT) == result
    own = None if session == ABSENT else session
    assert conflicts(merged) == ([] if kept is None else [("/x", own, from_guest, kept, rule["rule"])])


def newest(rule: str = "union", **options: JSON) -> JSON:
    return {"rule": rule, "keep": "newest", "by": "/at", **options}


@pytest.mark.parametrize(
    ("rule", "session", "from_guest", "result", "kept"),
    [
        (newest(), [{"at": 1}, {"at": 5}], [{"at": 3}], [{"at": 5}, {"at": 3}, {"at": 1}], None),
        (newest(), [{"at": 1}, {"at": 5}], [{"at": 5.0}], [{"at": 1}, {"at": 5}], None),
        (newest(limit=2), [{"at": 1}, {"at": 5}], [{"at": 3}], [{"at": 5}, {"at": 3}], "bounded"),
        (newest(limit=2), [{"at": 4}, {"at": 5}], [{"at": 3}], [{"at": 4}, {"at": 5}], "session"),
        (newest(limit=1), [{"at": 4}, {"at": 5}], [{"at": 6}], [{"at": 6}], "bounded"),
        (newest(limit=0), [{"at": 4}], [{"at": 6}], [{"at": 4}], "session"),
        (newest("append"), [{"at": 1}, "x"], [{"at": 1}, {"at": 2}], [{"at": 2}, {"at": 1}, {"at": 1}, "x"], None),
        (
            newest(),
            ABSENT,
            ["x", {"at": 1}, {"at": "1970-01-01T00:00:02Z"}],
            [{"at": "1970-01-01T00:00:02Z"}, {"at": 1}, "x"],
            None,
        ),
        (
            newest("by_key", key="id"),
            [{"id": 1, "at": 1}, {"id": 2, "at": 2}],
            [{"id": 1, "at": 3}, {"id": 3, "at": 1}],
            [{"id": 1, "at": 3}, {"id": 2, "at": 2}, {"id": 3, "at": 1}],
            None,
        ),
        (
            newest("by_key", key="id"),
            [{"id": 1, "at": 9}],
            [{"id": 1, "at": 3, "x": 1}],
            [{"id": 1, "at": 9, "x": 1}],
            None,
        ),
        (
            newest("by_key", key="id", by="/o/at"),
            [{"id": 1}],
            [{"id": 1, "o": {"at": 3}}],
            [{"id": 1, "o": {"at": 3}}],
            None,
        ),
    ],
)
def test_the_newest_come_first_and_stay(
    rule: JSON, session: JSON, from_guest: JSON, result: JSON, kept: str | None
) -> None:
    start = {} if session == ABSENT else {"x": session}
    merged = merge(start, guest({"x": from_guest}), policy={"rules": {"/x": rule}})

    assert repr(merged.payload.get("x", ABSENT)) == repr(result)
    assert [each[3] for each in conflicts(merged) if each[0] == "/x"] == ([] if kept is None else [kept])


@pytest.mark.parametrize(
    "fields", [{}, {"/at": "guest"}, {"/at": "session"}, {"/at": "drop"}, {"": "guest"}, {"": "session"}]
)
@pytest.mark.parametrize(("own", "theirs"), [(1, 5), (5, 1)])
def test_of_the_newest_the_later_moment_counts_and_is_no_conflict(fields: JSON, own: int, theirs: int) -> None:
    policy = {"rules": {"/x": newest("by_key", key="id", fields=fields)}}

    merged = merge({"x": [{"id": 1, "at": own}]}, guest({"x": [{"id": 1, "at": theirs}]}), policy=policy)

    assert merged.payload["x"] == [{"id": 1, "at": 5}]
    assert conflicts(merged) == []


def test_the_newest_of_many_guests_are_those_of_each_in_turn() -> None:
    policy = {"rules": {"/x": newest("by_key", key="id", limit=4)}}
    guests = [
        guest({"x": [{"id": (7 * each + number) % 6, "at": 10 * each + number} for number in range(3)]}, started=each)
        for each in range(6)
    ]

    one_by_one: dict[str, JSON] = {"x": []}
    for each in guests:
        one_by_one = merge(one_by_one, each, policy=policy).payload

    together = merge({"x": []}, *guests, policy=policy).payload
    assert together == one_by_one
    assert [line["at"] for line in together["x"]] == [52, 51, 50, 40]


def test_the_newest_leave_elements_with_protected_values() -> None:
    policy = {"rules": {"/x": newest(limit=2)}, "protect": ["/x/*/p"]}

    result = merge({"x": [{"p": 1, "at": 0}, {"at": 2}]}, guest({"x": [{"at": 3}]}), policy=policy)

    assert result.payload["x"] == [{"at": 3}, {"p": 1, "at": 0}]


def test_the_latest_object_keeps_what_is_protected() -> None:
    policy = {"rules": {"/x": LATEST}, "protect": ["/x/p"]}

    result = merge({"x": {"at": 1, "p": 1}}, guest({"x": {"at": 2, "p": 2}}), policy=policy)

    assert result.payload["x"] == {"at": 2, "p": 1}
    assert [each.path for each in result.conflicts] == ["/x/p"]


def test_a_list_that_was_over_its_limit_before_takes_nothing_of_a_guest_by_key_either() -> None:
    lines = [{"sku": sku, "qty": 1} for sku in "abc"]

    result = merge(
        {"x": lines}, guest({"x": [{"sku": "a", "qty": 1}]}), policy={"rules": {"/x": BY_SKU | {"limit": 2}}}
    )

    assert result.payload["x"] == lines
    assert [(each.path, each.kept) for each in result.conflicts] == [("/x", "session")]
    assert result.changes == ()


def test_at_its_limit_a_list_still_merges_by_key() -> None:
    lines = [{"sku": sku, "qty": 1} for sku in "ab"]
    added = [{"sku": "c", "qty": 1}, {"sku": "a", "qty": 1}]

    result = merge({"x": lines}, guest({"x": added}), policy={"rules": {"/x": BY_SKU | {"limit": 2}}})

    assert result.payload["x"] == [{"sku": "a", "qty": 2}, {"sku": "b", "qty": 1}]
    assert [(each.path, each.kept) for each in result.conflicts] == [("/x", "bounded")]
    assert [(each.path, each.before, each.after) for each in result.changes] == [
        ("/x/0/qty", 1, 2),
        ("/x", lines, result.payload["x"]),
    ]


def test_bounds_hold_in_elements_that_a_guest_brought() -> None:
    rule = {"rule": "by_key", "key": "sku", "fields": {"/qty": {"rule": "sum", "ceiling": 10}}}
    start = {"x": [{"sku": "a", "qty": 12}, {"sku": "b", "qty": 9}]}

    result = merge(start, guest({"x": [{"sku": "b", "qty": 2}, {"sku": "c", "qty": 11}]}), policy={"default": rule})

    assert result.payload["x"] == [{"sku": "a", "qty": 12}, {"sku": "b", "qty": 10}, {"sku": "c", "qty": 10}]
    assert conflicts(result) == [("/x/1/qty", 9, 2, "bounded", "sum"), ("/x/2/qty", None, 11, "bounded", "sum")]


# Protected parts


def test_a_rule_for_a_protected_path_has_no_say() -> None:
    policy = {"rules": {"/role": "guest", "/merged_guests": "append"}, "default": "guest"}
    receipts = [["AAAAAAAAAA", 1]]

    result = merge({"merged_guests": receipts}, guest({"role": "admin", "merged_guests": [["x", 9]]}), policy=policy)

    assert result.payload == {"merged_guests": [*receipts, [receipt_id(guest({})), 1]]}
    assert [each.path for each in result.conflicts] == ["/role", "/merged_guests"]


DEFAULT_PROTECT = [
    *("iss", "sub", "aud", "exp", "nbf", "iat", "jti", "role", "roles", "group", "groups"),
    *("permission", "permissions", "scope", "scp", "email", "email_verified", "phone_number", "phone_number_verified"),
    *("user_id", "uid", "admin", "is_admin", "st-role", "st-perm", "st-ev", "sessionHandle", "merged_guests"),
]


def test_what_is_protected_by_default_is_protected_at_the_top_level_only() -> None:
    result = merge({}, guest({"x": dict.fromkeys(DEFAULT_PROTECT, 1), **dict.fromkeys(DEFAULT_PROTECT, 1)}))

    assert result.payload.keys() == {"x", "merged_guests"}
    assert result.payload["x"].keys() == set(DEFAULT_PROTECT)
    assert [each.path for each in result.conflicts] == [f"/{name}" for name in DEFAULT_PROTECT]


def test_a_policy_may_give_up_all_of_these_but_the_receipts() -> None:
    policy = {"protect_defaults": False, "protect": ["/vip"]}

    result = merge({}, guest({"vip": 1, **dict.fromkeys(DEFAULT_PROTECT, 1)}), policy=policy)

    assert result.payload.keys() == set(DEFAULT_PROTECT)
    assert [each.path for each in result.conflicts] == ["/vip", "/merged_guests"]


def test_a_star_in_protect_stands_for_list_elements_too() -> None:
    policy = {"protect": ["/*/*/price"], "default": {"rule": "by_key", "key": "sku"}}
    start = {"cart": [{"sku": "a", "price": 5}]}
    cart = [{"sku": "a", "price": 1}, {"sku": "b", "price": None, "n": 1}]

    result = merge(start, guest({"cart": cart, "o": {"x": {"price": 1, "n": 1}}}), policy=policy)

    assert result.payload["cart"] == [{"sku": "a", "price": 5}, {"sku": "b", "n": 1}]
    assert result.payload["o"] == {"x": {"n": 1}}
    assert conflicts(result) == [
        ("/cart/0/price", None, 1, "session", "protect"),
        ("/o/x/price", None, 1, "session", "protect"),
    ]


def test_a_protected_element_is_cut_out_of_its_list() -> None:
    assert merge({"x": [1]}, guest({"x": [2, 3]}), policy={"protect": ["/x/*"]}).payload["x"] == [1]


def test_a_name_in_protect_is_no_list_index() -> None:
    assert merge({}, guest({"x": [1]}), policy={"protect": ["/x/0"]}).payload["x"] == [1]


def test_protecting_everything_leaves_an_empty_guest() -> None:
    result = merge({"a": 1}, guest({"a": 2}), policy={"protect": [""], "default": "guest"})

    assert result.payload["a"] == 1
    assert conflicts(result) == [("", {"a": 1}, {"a": 2}, "session", "protect")]


@pytest.mark.parametrize(
    ("session", "from_guest", "result", "kept"),
    [
        ({"p": 1, "q": 1}, {"q": 2}, {"q": 2, "p": 1}, "guest"),
        ({"p": 1, "q": 1}, {}, {"p": 1}, "guest"),
        ({"p": 1}, {}, {"p": 1}, "session"),
        ({"p": None, "q": 1}, {"q": 2}, {"q": 2, "p": None}, "guest"),
        ({"o": {"p": 1, "q": 1}}, {"o": {"q": 2}}, {"o": {"q": 2, "p": 1}}, "guest"),
        ({"o": {"p": 1, "q": 1}, "q": 1}, {"q": 2}, {"q": 2, "o": {"p": 1}}, "guest"),
        ({"o": {"p": 1, "q": 1}, "q": 1}, {"q": 2, "o": 5}, {"q": 2, "o": {"p": 1, "q": 1}}, "guest"),
        ({"o": [{"p": 1, "q": 1}], "q": 1}, {"q": 2, "o": []}, {"q": 2, "o": [{"p": 1, "q": 1}]}, "guest"),
        ({"o": [{"q": 1}]}, {"o": []}, {"o": []}, "guest"),
        ({"p": 1, "q": 1}, 5, {"p": 1, "q": 1}, "session"),
        ([{"p": 1}, {"q": 1}], [], [{"p": 1}, {"q": 1}], "session"),
        ({"q": 1}, 5, 5, "guest"),
    ],
)
def test_the_sessions_protected_values_survive_a_guest_rule_above_them(
    session: JSON, from_guest: JSON, result: JSON, kept: str
) -> None:
    policy = {"rules": {"/x": "guest"}, "protect": ["/x/p", "/x/*/p", "/x/*/*/p"]}

    merged = merge({"x": session}, guest({"x": from_guest}), policy=policy)

    assert merged.payload["x"] == result
    rule = "guest" if kept == "guest" else "protect"
    assert conflicts(merged) == [("/x", session, from_guest, kept, rule)]


@pytest.mark.parametrize(
    ("session", "from_guest", "result"),
    [
        ({"p": 1}, {"q": 2}, {"q": 2, "p": 1}),
        ({"p": 1, "q": 1}, {"q": 2}, {"p": 1, "q": 1}),
        ({"p": 1}, 5, {"p": 1}),
        ({}, 5, 5),
    ],
)
def test_what_is_protected_does_not_count_for_empty(session: JSON, from_guest: JSON, result: JSON) -> None:
    policy = {"rules": {"/x": "guest_if_empty"}, "protect": ["/x/p"]}

    assert merge({"x": session}, guest({"x": from_guest}), policy=policy).payload["x"] == result


def test_what_is_empty_on_both_sides_is_no_change() -> None:
    assert merge({"x": [], "y": ""}, guest({"x": [], "y": ""}), policy={"default": "guest_if_empty"}).changes == ()


def test_a_policy_for_the_payload_as_a_whole_keeps_what_is_protected() -> None:
    receipts = [["AAAAAAAAAA", 1]]
    start = {"merged_guests": receipts, "role": "user"}

    result = merge(start, guest({"a": 1}), policy={"rules": {"": "guest_if_empty"}})

    assert result.payload == {"a": 1, "role": "user", "merged_guests": [*receipts, [receipt_id(guest({})), 1]]}
    assert merge(start | {"b": 2}, guest({"a": 1}), policy={"rules": {"": "guest_if_empty"}}).payload.keys() == {
        *("merged_guests", "role", "b")
    }


@pytest.mark.parametrize(
    ("session", "result"),
    [
        ([{"p": 1}, 2, 3], [{"p": 1}, 3, 4]),
        ([2, {"p": 1}, {"p": 2}], [{"p": 1}, {"p": 2}, 4]),
        ([{"p": 1}, {"p": 2}, {"p": 3}], [{"p": 1}, {"p": 2}, {"p": 3}]),
    ],
)
def test_a_limit_never_drops_an_element_with_a_protected_value(session: JSON, result: JSON) -> None:
    policy = {"rules": {"/x": {"rule": "append", "limit": 3, "keep": "last"}}, "protect": ["/x/*/p"]}

    assert merge({"x": session}, guest({"x": [4]}), policy=policy).payload["x"] == result


# The report


@pytest.mark.parametrize(
    ("rule", "session", "from_guest", "expected"),
    [
        ("session", 1, 2, [("session", "session")]),
        ("session", None, 2, [("session", "session")]),
        ("session", 1, 1.0, []),
        ("session", [1, {"a": 1}], [1.0, {"a": 1.0}], []),
        ("session", [1], [True], [("session", "session")]),
        ("session", 1, None, []),
        ("session", ABSENT, 2, []),
        ("guest", 1, 2, [("guest", "guest")]),
        ("guest", 1, 1.0, []),
        ("guest", None, 2, []),
        ("guest_if_empty", 1, 2, []),
        ("guest_if_empty", [], 2, []),
        ("drop", 1, 2, []),
        ("max", 2, 1, []),
        ("min", 1, 2, []),
        ("sum", 1, 2, []),
        ("sum", 1, "2", [("session", "sum")]),
        ("sum", "1", 2, [("session", "sum")]),
        ("sum", ABSENT, "2", [("session", "sum")]),
        ("deep", 1, {}, [("session", "deep")]),
        ("union", {}, [1], [("session", "union")]),
        ("union", [1], [2], []),
        ("append", [1], "a", [("session", "append")]),
    ],
)
def test_what_was_discarded_or_replaced_is_a_conflict(
    rule: str, session: JSON, from_guest: JSON, expected: list[tuple[str, str]]
) -> None:
    start = {} if session == ABSENT else {"x": session}
    result = merge(start, guest({"x": from_guest}), policy={"rules": {"/x": rule}})

    own = None if session == ABSENT else session
    assert conflicts(result) == [("/x", own, from_guest, kept, name) for kept, name in expected]


def test_a_kind_that_no_path_speaks_of_is_reported_with_the_fallback_rule() -> None:
    result = merge({"a": 1, "b": 1, "c": []}, guest({"a": {}, "b": [], "c": "c"}))

    assert [(each.path, each.rule) for each in result.conflicts] == [("/a", "deep"), ("/b", "union"), ("/c", "session")]


def test_a_conflict_names_the_guest_and_the_escaped_path() -> None:
    result = merge(
        {"a/b": {"~": 1}},
        guest({"a/b": {"~": 2}}, subject="first", started=1),
        guest({"a/b": {"~": 3}}, subject="second", started=2),
        policy={"default": "deep", "rules": {"/a~1b/~0": "guest"}},
    )

    assert [(each.path, each.session, each.guest, each.subject) for each in result.conflicts] == [
        ("/a~1b/~0", 1, 2, "first"),
        ("/a~1b/~0", 2, 3, "second"),
    ]


def test_changes_show_what_came_from_whom_by_which_rule() -> None:
    start = {"n": 1, "same": 1, "cart": [{"sku": "a", "qty": 1}]}
    payload = {"n": 2, "same": 1, "cart": [{"sku": "a", "qty": 2}, {"sku": "b", "qty": 1}], "new": {"x": 1, "y": {}}}

    result = merge(start, guest(payload), policy={"rules": {"/n": "sum", "/cart": BY_SKU}})

    assert [(each.path, each.before, each.after, each.rule, each.subject) for each in result.changes] == [
        ("/n", 1, 3, "sum", "G-1"),
        ("/cart/0/qty", 1, 3, "sum", "G-1"),
        ("/cart", start["cart"], [{"sku": "a", "qty": 3}, {"sku": "b", "qty": 1}], "by_key", "G-1"),
        ("/new/x", None, 1, "session", "G-1"),
        ("/new/y", None, {}, "deep", "G-1"),
    ]


def by_id(**options: JSON) -> JSON:
    bounded = {"rule": "sum", "ceiling": 99}
    return {"rules": {"/c": {"rule": "by_key", "key": "id", "fields": {"/q": bounded}, **options}}}


def reported(result: MergeResult) -> tuple[list[tuple[str, str]], list[str]]:
    return [(each.path, each.kept) for each in result.conflicts], [each.path for each in result.changes]


@pytest.mark.parametrize(
    "added", [[{"id": 1, "q": 500}], [{"id": 1, "q": 1}, {"id": 1, "q": 2}], [{"id": 1, "q": 98}, {"id": 1, "q": 9}]]
)
def test_nothing_is_reported_of_an_element_that_the_limit_cut(added: JSON) -> None:
    result = merge({"c": [{"id": 0, "q": 1}]}, guest({"c": added}), policy=by_id(limit=1))

    assert reported(result) == ([("/c", "bounded")], [])


def test_what_a_guest_adds_to_an_element_that_the_limit_cuts_takes_none_of_the_sessions_away() -> None:
    start = [{"id": 1, "q": 1}, {"id": 2, "q": 1}, {"id": 3, "q": 1}]

    result = merge({"c": start}, guest({"c": [{"id": 1, "q": 5}]}), policy=by_id(limit=2, keep="last"))

    assert result.payload["c"] == start
    assert reported(result) == ([("/c", "session")], [])


@pytest.mark.parametrize("session", [{}, {"c": None}])
def test_a_list_none_of_whose_elements_is_handed_over_is_none(session: dict[str, JSON]) -> None:
    result = merge(session, guest({"c": [{"id": 1, "x": 2}]}), policy=by_id(fields={"": "drop"}))

    assert {name: value for name, value in result.payload.items() if name != "merged_guests"} == session


def test_of_several_values_that_replace_one_another_the_last_is_reported() -> None:
    result = merge(
        {"c": [{"id": 1, "n": 0}]},
        guest({"c": [{"id": 1, "n": 1}, {"id": 1, "n": 2}]}),
        policy=by_id(fields={"/n": "guest"}),
    )

    assert conflicts(result) == [("/c/0/n", 0, 2, "guest", "guest")]


def test_each_of_several_values_of_a_kind_that_the_session_s_is_not_is_reported() -> None:
    result = merge(
        {"c": [{"id": 1, "l": 5}]},
        guest({"c": [{"id": 1, "l": [1]}, {"id": 1, "l": [2]}]}),
        policy=by_id(fields={"/l": "union"}),
    )

    assert conflicts(result) == [("/c/0/l", 5, [1], "session", "union"), ("/c/0/l", 5, [2], "session", "union")]


def test_the_key_of_an_element_is_no_field_of_it() -> None:
    result = merge({"c": [{"id": 1, "q": 1}]}, guest({"c": [{"id": 1, "q": 2}]}), policy=by_id(fields={"/*": "sum"}))

    assert result.payload["c"] == [{"id": 1, "q": 3}]
    assert reported(result) == ([], ["/c/0/q", "/c"])


def test_an_object_with_nothing_but_what_is_protected_is_empty_and_an_empty_one_of_the_guest_s_no_news() -> None:
    policy = {"rules": {"/o": "guest_if_empty"}, "protect": ["/o/vip"]}

    result = merge({"o": {"vip": True}}, guest({"o": {}}), policy=policy)

    assert conflicts(result) == [("/o", {"vip": True}, {}, "session", "protect")]


def test_nothing_is_reported_of_an_element_of_the_sessions_that_had_to_go() -> None:
    start, added = [{"id": 0, "q": 98}], [{"id": 0, "q": 5}, {"id": 1, "q": 2}]

    result = merge({"c": start}, guest({"c": added}), policy=by_id(limit=1, keep="last"))

    assert result.payload["c"] == [{"id": 1, "q": 2}]
    assert reported(result) == ([("/c", "bounded")], ["/c"])


@pytest.mark.parametrize(
    ("options", "start", "added", "index"),
    [
        ({}, ["x", "y"], ["x", {"id": 1, "q": 500}], 2),
        ({}, ["x", {"id": 1, "q": 9}], ["x", {"id": 1, "q": 500}], 0),
        ({"limit": 2}, ["x", "y", {"id": 1, "q": 9}], ["z", {"id": 1, "q": 500}], 0),
    ],
)
def test_an_index_is_that_of_the_list_in_the_end(options: JSON, start: JSON, added: JSON, index: int) -> None:
    result = merge({"c": start}, guest({"c": added}), policy=by_id(keep="last", **options))

    assert result.payload["c"][index] == {"id": 1, "q": 99}
    assert (f"/c/{index}/q", "bounded") in reported(result)[0]


def test_an_index_within_an_index_is_that_of_the_list_in_the_end() -> None:
    inner = {"rule": "by_key", "key": "id", "keep": "last", "fields": {"/q~1": {"rule": "sum", "ceiling": 9}}}
    start = {"c": ["x", {"id": 1, "l": ["y", {"id": 1, "q/": 9}]}]}
    added = {"c": ["x", {"id": 1, "l": ["y", {"id": 1, "q/": 1}]}]}

    result = merge(start, guest(added), policy=by_id(keep="last", fields={"/l": inner}))

    assert reported(result)[0] == [("/c/0/l/0/q~1", "bounded")]


def test_an_element_that_is_not_handed_over_is_reported_of_where_it_would_have_come() -> None:
    result = merge({"c": ["x", "y"]}, guest({"c": ["x", {"id": 1}]}), policy=by_id(keep="last", fields={"": "sum"}))

    assert result.payload["c"] == ["y", "x"]
    assert conflicts(result) == [("/c/2", None, {"id": 1}, "session", "sum")]


@pytest.mark.parametrize("rule", ["guest", "session"])
def test_an_equal_element_is_no_conflict_where_fields_take_it_as_a_whole(rule: str) -> None:
    policy = by_id(fields={"": rule})

    assert merge({"c": [{"id": 1, "x": 2}]}, guest({"c": [{"id": 1.0, "x": 2}]}), policy=policy).conflicts == ()
    assert conflicts(merge({"c": [{"id": 1, "x": 2}]}, guest({"c": [{"id": 1, "x": 3}]}), policy=policy)) == [
        ("/c/0", {"id": 1, "x": 2}, {"id": 1, "x": 3}, rule, rule)
    ]


# Size


class Counted(int):
    """A number that counts how often it is looked at to find its equals."""

    looks = 0

    def __repr__(self) -> str:
        Counted.looks += 1
        return int.__repr__(self)


def test_the_sessions_elements_are_identified_once_however_many_guests_and_elements_of_one_key() -> None:
    Counted.looks = 0
    inner = [Counted(number) for number in range(100)]
    start = {"cart": [{"sku": 1, "o": inner}], "l": [Counted(number) for number in range(100)]}
    cart = [{"sku": 1, "o": [number]} for number in range(50, 150)]
    guests = [Candidate(n, guest({"cart": cart, "l": [n, 1000 + n]}, subject=f"{n}")) for n in range(5)]

    result = merge_guests(start, guests, SHIPPED["cart"])

    assert result.payload["cart"] == [{"sku": 1, "o": list(range(150))}]
    assert result.payload["l"] == [*range(100), *range(1000, 1005)]
    assert Counted.looks == 200


@pytest.mark.parametrize("limit", [90, 100, 110])
def test_a_list_whose_elements_move_is_still_identified_once(limit: int) -> None:
    Counted.looks = 0
    start = {"l": [Counted(number) for number in range(100)]}
    policy = compile_policy({"default": {"rule": "union", "keep": "last", "limit": limit}})
    guests = [Candidate(n, guest({"l": [50 + n, 1000 + n]}, subject=f"{n}", started=n)) for n in range(9)]

    merged = merge_guests(start, guests, policy).payload["l"]

    assert merged[-2:] == [58, 1008]
    assert len(merged) == min(limit, 109)
    assert Counted.looks <= 130  # and once more for each element that moves or is cut


def test_what_one_guest_says_of_a_list_in_many_elements_is_one_change() -> None:
    cart = [{"sku": 1, "o": [number]} for number in range(100)]

    result = merge({"cart": [{"sku": 1, "o": []}]}, guest({"cart": cart}), policy={"rules": {"/cart": BY_SKU}})

    assert [each.path for each in result.changes] == ["/cart/0/o", "/cart"]


def test_one_list_at_two_places_is_searched_by_the_key_of_each() -> None:
    shared = [{"a": 1, "b": 2}]
    policy = {"rules": {f"/{name}": {"rule": "by_key", "key": name, "fields": {"/n": "sum"}} for name in "ab"}}
    payload = {"a": [{"a": 1}], "b": [{"b": 2, "n": 1}]}

    result = merge({"a": shared, "b": shared}, guest(payload), policy=policy).payload

    assert (result["a"], result["b"]) == ([{"a": 1, "b": 2}], [{"a": 1, "b": 2, "n": 1}])


@pytest.mark.parametrize("keep", ["first", "last"])
def test_a_list_that_several_guests_add_to_is_what_it_would_be_one_by_one(keep: str) -> None:
    policy = {"default": {"rule": "by_key", "key": "id", "keep": keep, "limit": 6, "fields": {"/n": "sum"}}}
    lists: list[JSON] = [[{"id": 1, "n": 1}, "x"], [{"id": 2, "n": 1}], [{"id": 1, "n": 1}, "x", "y"], ["y", "z", "x"]]
    guests = [guest({"l": each}, started=number) for number, each in enumerate(lists)]

    one_by_one: dict[str, JSON] = {"l": ["w", {"id": 2, "n": 1}]}
    for each in guests:
        one_by_one = merge(one_by_one, each, policy=policy).payload

    assert merge({"l": ["w", {"id": 2, "n": 1}]}, *guests, policy=policy).payload == one_by_one


@pytest.mark.parametrize("rule", ["union", {"rule": "union", "keep": "last"}, BY_SKU])
def test_long_lists_merge(rule: JSON) -> None:
    start, added = [{"sku": n, "qty": 1} for n in range(20_000)], [{"sku": n, "qty": 2} for n in range(10_000, 30_000)]

    merged = folded(start, added, rule)

    assert len(merged) == (30_000 if rule == BY_SKU else 40_000)


def test_values_of_the_greatest_depth_merge() -> None:
    def nested(leaf: JSON) -> JSON:
        value = leaf
        for _ in range(16):
            value = {"a": [value]}
        return value

    assert folded(nested(1), nested(2), {"rule": "union", "limit": 9}) == nested(1)
    assert folded(nested(1)["a"], nested(2)["a"], "union") == [*nested(1)["a"], *nested(2)["a"]]
