import json
from itertools import product
from typing import Any

import pytest

from service.errors import Fault, InvalidPolicy
from service.merge.handover import Candidate, merge_guests
from service.merge.policy import Policy
from service.merge.policy_parser import compile_policy, parse_policy_file
from service.merge.presets import SHIPPED, SHIPPED_DOCUMENTS
from service.tokens.claims import GuestClaims

JSON = Any
RULE_NAMES = "session, guest, guest_if_empty, drop, latest, deep, sum, max, min, union, append, by_key"


def merged(policy: Policy, session: dict[str, JSON], payload: dict[str, JSON]) -> dict[str, JSON]:
    claims = GuestClaims("https://guests.example", "G-1", (), 1, 2, 1, "t", 1, payload)
    result = dict(merge_guests(session, [Candidate(0, claims)], policy).payload)
    del result["merged_guests"]
    return result


def faults(document: JSON) -> list[tuple[str, str]]:
    with pytest.raises(InvalidPolicy) as refused:
        compile_policy(document)
    assert refused.value.code == "invalid_policy"
    return [(fault.path, fault.message) for fault in refused.value.errors]


def file_faults(text: bytes, kind: Any) -> list[Fault]:
    with pytest.raises(InvalidPolicy) as refused:
        parse_policy_file(text, format=kind)
    return list(refused.value.errors)


# Refused documents


@pytest.mark.parametrize(
    ("document", "path", "message"),
    [
        (5, "", "must be an object"),
        ([], "", "must be an object"),
        ({"rule": {}}, "/rule", "is unknown here; known are: default, protect, protect_defaults, rules"),
        ({"rules": []}, "/rules", "must be an object of PATHs and their rules"),
        ({"rules": None}, "/rules", "must be an object of PATHs and their rules"),
        ({"default": None}, "/default", 'must be the name of a rule, or an object with "rule" and options'),
        ({"default": "Sum"}, "/default", f"must name a rule, one of: {RULE_NAMES}"),
        ({"default": {"rule": 5}}, "/default/rule", f"must name a rule, one of: {RULE_NAMES}"),
        ({"default": {"rule": ["sum"]}}, "/default/rule", f"must name a rule, one of: {RULE_NAMES}"),
        ({"default": {"limit": 5}}, "/default", f"must name a rule, one of: {RULE_NAMES}"),
        ({"rules": {"a": "sum"}}, "/rules/a", 'is no PATH: a JSON Pointer is "" or starts with "/"'),
        ({"rules": {"#/a": "sum"}}, "/rules/#~1a", 'is no PATH: a JSON Pointer is "" or starts with "/"'),
        (
            {"rules": {"/~~01": "sum"}},
            "/rules/~1~0~001",
            'is no PATH: in a JSON Pointer "~" is written "~0", and "/" within a name "~1"',
        ),
        ({"rules": {"/a" * 33: "sum"}}, "/rules/" + "~1a" * 33, "is no PATH: "),
        ({"protect": "/a"}, "/protect", "must be a list of PATHs"),
        ({"protect": ["/a", 5]}, "/protect/1", "must be a PATH, that is a string"),
        ({"protect": ["/a", "b"]}, "/protect/1", 'is no PATH: a JSON Pointer is "" or starts with "/"'),
        ({"protect_defaults": 0}, "/protect_defaults", "must be true or false"),
        (
            {"default": {"rule": "sum", "limit": 1}},
            "/default/limit",
            "is unknown here; known are: ceiling, floor, rule",
        ),
        (
            {"default": {"rule": "union", "key": "a"}},
            "/default/key",
            "is unknown here; known are: by, keep, limit, rule",
        ),
        ({"default": {"rule": "deep", "fields": {}}}, "/default/fields", "is unknown here; known are: rule"),
        ({"default": {"rule": "union", "limit": -1}}, "/default/limit", "must be a whole number, 0 or more"),
        ({"default": {"rule": "union", "limit": True}}, "/default/limit", "must be a whole number, 0 or more"),
        ({"default": {"rule": "union", "limit": 1.0}}, "/default/limit", "must be a whole number, 0 or more"),
        ({"default": {"rule": "union", "limit": None}}, "/default/limit", "must be a whole number, 0 or more"),
        ({"default": {"rule": "append", "keep": "oldest"}}, "/default/keep", 'must be "first", "last" or "newest"'),
        ({"default": {"rule": "append", "keep": []}}, "/default/keep", 'must be "first", "last" or "newest"'),
        ({"default": {"rule": "append", "keep": "newest"}}, "/default/by", "must be given, a JSON Pointer"),
        ({"default": "latest"}, "/default/by", "must be given, a JSON Pointer"),
        ({"default": {"rule": "latest", "by": 5}}, "/default/by", "must be a JSON Pointer, that is a string"),
        ({"default": {"rule": "latest", "by": "at"}}, "/default/by", "is no JSON Pointer: a JSON Pointer is"),
        ({"default": {"rule": "union", "by": "/at"}}, "/default/by", 'belongs to "keep": "newest"'),
        ({"default": {"rule": "sum", "by": "/at"}}, "/default/by", "is unknown here; known are: ceiling, floor, rule"),
        (
            {"default": {"rule": "max", "floor": "1"}},
            "/default/floor",
            "must be a finite number in the range of 64 bits or a double",
        ),
        (
            {"default": {"rule": "max", "ceiling": True}},
            "/default/ceiling",
            "must be a finite number in the range of 64 bits or a double",
        ),
        (
            {"default": {"rule": "min", "ceiling": 2**64}},
            "/default/ceiling",
            "must be a finite number in the range of 64 bits or a double",
        ),
        ({"default": {"rule": "sum", "floor": 2, "ceiling": 1.5}}, "/default/floor", "is above the ceiling"),
        ({"default": "by_key"}, "/default/key", "must be the name of a member, or a list of different ones"),
        (
            {"default": {"rule": "by_key", "key": []}},
            "/default/key",
            "must be the name of a member, or a list of different",
        ),
        (
            {"default": {"rule": "by_key", "key": [1]}},
            "/default/key",
            "must be the name of a member, or a list of different",
        ),
        (
            {"default": {"rule": "by_key", "key": ["a", "a"]}},
            "/default/key",
            "must be the name of a member, or a list of",
        ),
        (
            {"rules": {"/a/b": {"rule": "by_key", "key": "k", "fields": {"/x": {"rule": "sum", "flor": 1}}}}},
            "/rules/~1a~1b/fields/~1x/flor",
            "is unknown here; known are: ceiling, floor, rule",
        ),
        (
            {"default": {"rule": "by_key", "key": "k", "fields": []}},
            "/default/fields",
            "must be an object of PATHs and their",
        ),
    ],
)
def test_a_fault_is_named_with_its_path(document: JSON, path: str, message: str) -> None:
    (fault,) = faults(document)

    assert fault[0] == path
    assert fault[1].startswith(message) or message == "is no PATH: "


def test_all_faults_are_named_at_once() -> None:
    document = {
        "x": 1,
        "rules": {"a": "sum", "/b": "summ", "/c": {"rule": "union", "limit": "9", "keep": 9}},
        "default": 1,
        "protect": ["", 1],
        "protect_defaults": "no",
    }

    assert {path for path, _ in faults(document)} == {
        "/x",
        "/rules/a",
        "/rules/~1b",
        "/rules/~1c/limit",
        "/rules/~1c/keep",
        "/default",
        "/protect/1",
        "/protect_defaults",
    }


def test_paths_of_faults_start_where_the_caller_says() -> None:
    with pytest.raises(InvalidPolicy) as refused:
        compile_policy({"default": "x"}, at="/policy")

    assert [fault.path for fault in refused.value.errors] == ["/policy/default"]


def nested(depth: int) -> JSON:
    rule: JSON = "session"
    for _ in range(depth):
        rule = {"rule": "by_key", "key": "k", "fields": {"/x": rule}}
    return rule


def test_fields_nest_as_deep_as_a_document_can() -> None:
    compile_policy({"default": nested(50)})


def test_a_path_has_as_many_segments_as_a_payload_nests_and_a_limit_is_any_whole_number_of_json() -> None:
    compile_policy({"rules": {"/a" * 32: {"rule": "union", "limit": 18_446_744_073_709_551_615}}})

    assert [path for path, _ in faults({"default": {"rule": "union", "limit": 18_446_744_073_709_551_616}})] == [
        "/default/limit"
    ]


def test_a_policy_has_no_bound_on_its_paths_and_names_but_the_places_that_they_make() -> None:
    by_key = {"rule": "by_key", "key": [str(number) for number in range(500)], "fields": {"/x": "sum"}}
    compile_policy({"rules": {f"/{number}{'x' * 1_000}": by_key for number in range(2_000)}})

    assert faults({"protect": [f"/{number}" for number in range(20_000)]}) == [
        ("/protect", "makes more than 16384 cases: it has too many PATHs, or `*` in too many ways")
    ]


def test_a_hundred_faults_are_reported_and_no_more() -> None:
    assert len(faults({"protect": ["no PATH"] * 500})) == 100


def test_a_hundred_faults_are_reported_of_a_file_and_no_more() -> None:
    assert len(file_faults(json.dumps({f"{number}": 5 for number in range(101)}).encode(), "json")) == 100


def test_stars_that_multiply_are_a_fault_and_cost_nothing() -> None:
    diagonal = ["/".join(["", *("a" if column == row else "*" for column in range(20))]) for row in range(20)]

    assert faults({"rules": dict.fromkeys(diagonal, "sum")}) == [
        ("/rules", "makes more than 16384 cases: it has too many PATHs, or `*` in too many ways")
    ]
    assert [path for path, _ in faults({"protect": diagonal})] == ["/protect"]


def test_a_policy_with_every_member_compiles() -> None:
    by_key = {"rule": "by_key", "key": ["a", "b"], "limit": 0, "keep": "newest", "by": "/at", "fields": {"": "deep"}}
    compile_policy(
        {
            "rules": {
                "": "deep",
                "/a~1b/~0": {"rule": "sum", "floor": -1.5, "ceiling": -1.5},
                "/*/x": by_key,
                "//": "drop",
            },
            "default": {"rule": "guest"},
            "protect": ["/x/*/y"],
            "protect_defaults": False,
        }
    )


# Which rule


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"/a/b": "guest", "/a/*": "session", "/*/b": "session", "/*/*": "session"}, "guest"),
        ({"/a/*": "guest", "/*/b": "session", "/*/*": "session"}, "guest"),
        ({"/*/b": "guest", "/*/*": "session"}, "guest"),
        ({"/*/*": "guest", "/a": "session"}, "guest"),
        ({"/a": "guest", "/*": "session"}, "guest"),
        ({"/*": "guest", "": "session"}, "guest"),
        ({"": "guest"}, "guest"),
        ({"/a": "guest", "/a/c": "session"}, "guest"),
        ({"/a": "deep", "": "guest"}, "session"),
        ({"/a": "deep", "/a/c": "guest"}, "session"),
        ({"/b": "guest", "/a/b/c": "guest", "/a/c": "guest"}, "session"),
    ],
)
def test_the_most_specific_path_decides_then_the_nearest_ancestor(rules: JSON, expected: str) -> None:
    both: dict[str, JSON] = {"a": {"b": "session"}}

    for order in (rules, dict(reversed(rules.items()))):
        result = merged(compile_policy({"rules": order}), both, {"a": {"b": "guest"}})
        assert result == {"a": {"b": expected}}


def test_specificity_is_compared_segment_by_segment_for_every_pair_of_paths() -> None:
    every = ["/".join(["", *each]) for each in product("a*", repeat=3)]

    for position, better in enumerate(every):
        for worse in every[position + 1 :]:
            policy = compile_policy({"rules": {worse: "session", better: "guest"}})
            assert merged(policy, {"a": {"a": {"a": 1}}}, {"a": {"a": {"a": 2}}}) == {"a": {"a": {"a": 2}}}


@pytest.mark.parametrize(
    ("default", "result"),
    [
        ("sum", {"n": 3, "s": "s", "l": [1, 2], "o": {"x": 3, "y": 0}, "b": True}),
        ("max", {"n": 2, "s": "s", "l": [1, 2], "o": {"x": 2, "y": 0}, "b": True}),
        ("min", {"n": 1, "s": "s", "l": [1, 2], "o": {"x": 1, "y": 0}, "b": True}),
        ({"rule": "union", "limit": 1}, {"n": 1, "s": "s", "l": [1], "o": {"x": 1, "y": 0}, "b": True}),
        ("append", {"n": 1, "s": "s", "l": [1, 1, 2], "o": {"x": 1, "y": 0}, "b": True}),
        ({"rule": "by_key", "key": "k"}, {"n": 1, "s": "s", "l": [1, 2], "o": {"x": 1, "y": 0}, "b": True}),
        ("guest", {"n": 2, "s": "g", "l": [1, 2], "o": {"x": 2, "y": 0}, "b": False}),
        ("deep", {"n": 1, "s": "s", "l": [1, 2], "o": {"x": 1, "y": 0}, "b": True}),
        ("drop", {"n": 1, "s": "s", "l": [1], "o": {"x": 1}, "b": True}),
        (None, {"n": 1, "s": "s", "l": [1, 2], "o": {"x": 1, "y": 0}, "b": True}),
    ],
)
def test_the_default_rules_where_it_fits_the_kind_else_deep_union_session(default: JSON, result: JSON) -> None:
    policy = compile_policy({} if default is None else {"default": default})
    session = {"n": 1, "s": "s", "l": [1], "o": {"x": 1}, "b": True}

    assert merged(policy, session, {"n": 2, "s": "g", "l": [1, 2], "o": {"x": 2, "y": 0}, "b": False}) == result


def test_the_least_as_the_default_is_for_numbers() -> None:
    assert merged(compile_policy({"default": "min"}), {"n": 5}, {"n": 3}) == {"n": 3}


def test_objects_above_a_path_merge_member_by_member_whatever_else_is_said() -> None:
    policy = compile_policy({"rules": {"/a": "guest", "/a/n": "sum"}})

    assert merged(policy, {"a": {"n": 1, "x": 1, "y": 1}}, {"a": {"n": 2, "x": 2}}) == {"a": {"n": 3, "x": 2, "y": 1}}
    assert merged(policy, {}, {"a": {"n": 2, "x": 2}}) == {"a": {"n": 2, "x": 2}}
    assert merged(policy, {"a": None}, {"a": {"n": 2}}) == {"a": {"n": 2}}
    assert merged(policy, {"a": {"n": 1}}, {"a": 5}) == {"a": {"n": 1}}
    assert merged(policy, {"a": 5}, {"a": {"n": 1}}) == {"a": 5}
    assert merged(policy, {"a": 5}, {"a": 6}) == {"a": 6}


def test_a_path_escapes_slash_and_tilde_and_takes_empty_names() -> None:
    policy = compile_policy({"rules": {"/a~1b/~0": "sum", "//": "sum", "/~01": "sum"}})

    assert merged(policy, {"a/b": {"~": 1}, "": {"": 1}, "~1": 1}, {"a/b": {"~": 1}, "": {"": 1}, "~1": 1}) == {
        "a/b": {"~": 2},
        "": {"": 2},
        "~1": 2,
    }


# Files


def test_a_file_in_json_or_toml_gives_the_same_policies() -> None:
    in_json = b"""{"cart": {"rules": {"/cart": {"rule": "by_key", "key": "sku", "fields": {"/n": "sum"}}}},
                   "latest": {"default": "guest", "protect": ["/vip"]}}"""
    in_toml = b"""
        [cart.rules]
        "/cart" = { rule = "by_key", key = "sku", fields = { "/n" = "sum" } }

        [latest]
        default = "guest"
        protect = ["/vip"]
    """

    policies = parse_policy_file(in_json, format="json")

    assert policies == parse_policy_file(in_toml, format="toml")
    assert merged(policies["latest"], {"a": 1, "vip": False}, {"a": 2, "vip": True}) == {"a": 2, "vip": False}


def test_a_file_may_start_with_a_byte_order_mark() -> None:
    assert parse_policy_file(b'\xef\xbb\xbf{"a": {}}', format="json").keys() == {"a"}


def test_faults_in_a_file_start_with_the_policys_name() -> None:
    text = b'{"a/b": {"default": "x"}, "good": {}, "c": {"rules": {"/x": {"rule": "sum", "limit": 1}}}, "d": 5}'

    assert [fault.path for fault in file_faults(text, "json")] == ["/a~1b/default", "/c/rules/~1x/limit", "/d"]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (b"{", "json", "Expecting property name"),
        (b"[]", "json", "must be an object of named policies"),
        (
            b'{"a": ' + b'{"a": ' * 40 + b"1" + b"}" * 41,
            "json",
            "must be an object of named policies that nests at most 32",
        ),
        (b'{"a": {}, "a": {}}', "json", 'an object has the member "a" twice'),
        (b'{"a": {"default": {"rule": "max", "floor": NaN}}}', "json", "NaN is no JSON"),
        (b'{"a": {"default": {"rule": "max", "floor": 1%s}}}' % (b"0" * 50), "json", "a whole number is"),
        (b'{"a": {"rules": {"/\\ud800": "sum"}}}', "json", "'utf-8' codec can't encode character"),
        (b'{"a": "\xff"}', "json", "'utf-8' codec can't decode byte 0xff"),
        (b"[" * 100_000, "json", "maximum recursion depth exceeded"),
        (b"a = [" + b"[" * 100_000, "toml", "maximum recursion depth exceeded"),
        (b"a = ", "toml", "Invalid value"),
        (b"[a]\n[a]", "toml", "Cannot declare ('a',) twice"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_fault(text: bytes, kind: str, message: str) -> None:
    (fault,) = file_faults(text, kind)

    assert fault.path == ""
    assert fault.message.startswith(message)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1979-05-27", "18446744073709551616"])
def test_what_toml_has_and_json_lacks_is_no_bound(value: str) -> None:
    text = f'[a.rules]\n"/n" = {{ rule = "sum", ceiling = {value} }}\n'.encode()

    assert [fault.path for fault in file_faults(text, "toml")] == ["/a/rules/~1n/ceiling"]


# Shipped policies

CART = {"cart": [{"sku": "a", "quantity": 2}, {"sku": "b", "quantity": 98}]}
GUEST_CART = {"cart": [{"sku": "b", "quantity": 3}, {"sku": "c", "quantity": 1}, {"sku": "a", "quantity": 1}]}


@pytest.mark.parametrize(
    ("name", "quantities"),
    [
        ("default", [("a", 2), ("b", 98), ("b", 3), ("c", 1), ("a", 1)]),
        ("cart", [("a", 3), ("b", 99), ("c", 1)]),
        ("highest_quantity_wins", [("a", 2), ("b", 98), ("c", 1)]),
        ("saved_cart_wins", [("a", 2), ("b", 98)]),
        ("guest_if_empty", [("a", 2), ("b", 98)]),
        ("guest_replaces", [("b", 3), ("c", 1), ("a", 1)]),
    ],
)
def test_the_shipped_policies_merge_two_carts(name: str, quantities: JSON) -> None:
    result = merged(SHIPPED[name], CART, GUEST_CART)["cart"]

    assert [(line["sku"], line["quantity"]) for line in result] == quantities


@pytest.mark.parametrize("member", ["quantity", "qty"])
@pytest.mark.parametrize("name", ["cart", "highest_quantity_wins"])
def test_no_shipped_cart_takes_less_than_nothing_from_a_guest(name: str, member: str) -> None:
    def line(sku: str, quantity: int) -> JSON:
        return {"sku": sku, member: quantity}

    result = merged(SHIPPED[name], {"cart": [line("a", 5)]}, {"cart": [line("a", -7), line("b", -1), line("c", 0)]})

    assert result["cart"] == [line("a", 0 if name == "cart" else 5), line("b", 0), line("c", 0)]


@pytest.mark.parametrize(
    ("name", "member", "limit"),
    [
        ("cart", "cart", 100),
        ("highest_quantity_wins", "cart", 100),
        ("preferences", "favourites", 500),
        ("preferences", "recently_viewed", 50),
    ],
)
def test_shipped_lists_grow_by_guests_to_their_limit(name: str, member: str, limit: int) -> None:
    def elements(start: int, stop: int) -> list[JSON]:
        return [{"sku": number, "quantity": 1} if member == "cart" else number for number in range(start, stop)]

    result = merged(SHIPPED[name], {member: elements(0, limit - 1)}, {member: elements(limit, limit + 2)})[member]

    assert len(result) == limit
    assert result == (
        elements(1, limit - 1) + elements(limit, limit + 2)
        if member == "recently_viewed"
        else elements(0, limit - 1) + elements(limit, limit + 1)
    )


@pytest.mark.parametrize(
    "name", ["default", "cart", "highest_quantity_wins", "saved_cart_wins", "guest_if_empty", "guest_replaces"]
)
def test_under_every_shipped_policy_a_first_cart_is_the_guests(name: str) -> None:
    assert merged(SHIPPED[name], {}, GUEST_CART) == GUEST_CART


def test_guest_if_empty_takes_the_guests_cart_where_the_saved_one_is_empty() -> None:
    assert merged(SHIPPED["guest_if_empty"], {"cart": []}, GUEST_CART) == GUEST_CART


def test_preferences_takes_the_latest_choice_but_never_a_consent_that_was_given_otherwise() -> None:
    session = {
        "preferences": {"theme": "light", "size": 12},
        "consent": {"marketing": False},
        "favourites": ["a", "b"],
        "recently_viewed": ["a", "b"],
    }
    payload = {
        "preferences": {"theme": "dark"},
        "consent": {"marketing": True, "statistics": True},
        "favourites": ["c", "a"],
        "recently_viewed": ["a", "c"],
    }

    assert merged(SHIPPED["preferences"], session, payload) == {
        "preferences": {"theme": "dark", "size": 12},
        "consent": {"marketing": False, "statistics": True},
        "favourites": ["a", "b", "c"],
        "recently_viewed": ["b", "a", "c"],
    }


def test_the_shipped_policies_are_the_compiled_documents() -> None:
    assert SHIPPED.keys() == SHIPPED_DOCUMENTS.keys()
    assert all(SHIPPED[name] == compile_policy(document) for name, document in SHIPPED_DOCUMENTS.items())
