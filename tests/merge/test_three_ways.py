"""Three ways: the rules by example, and their laws over arbitrary JSON and policies (see test_laws)."""

import copy
from collections import Counter
from itertools import permutations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from service.merge.policy_parser import compile_policy
from service.merge.three_ways import merge
from service.strict_json import canonical, equal
from tests.merge.test_laws import JSON, law, names, objects, perturbed, policies, scalars, values

ABSENT = "absent"
BY_ID = {"rule": "by_key", "key": "id", "fields": {"/n": "sum", "/tags": "union", "/note": "session"}}


def merged(rule: JSON, base: JSON, mine: JSON, theirs: JSON) -> JSON:
    """What becomes of the member `x`; "absent" where there is none."""
    sides = [{} if value == ABSENT else {"x": value} for value in (base, mine, theirs)]
    before = repr(sides)
    result = merge(sides[0], sides[1], sides[2], compile_policy({"rules": {"/x": rule}}))
    assert repr(sides) == before
    return result.get("x", ABSENT)


@pytest.mark.parametrize(
    ("rule", "base", "mine", "theirs", "result"),
    [
        # one side only
        ("sum", 1, 1, 5, 5),
        ("sum", 1, 5, 1, 5),
        ("session", 1, 2, 1, 2),
        ("drop", 1, 2, 1, 2),
        ("session", 1, 1.0, 3, 3),
        ("session", 1, True, 1, True),
        ("union", [1], ABSENT, [1], ABSENT),
        # numbers
        ("sum", 1, 3, 4, 6),
        ("sum", 1, 2, 2, 3),
        ("sum", ABSENT, 2, 2, 4),
        ("sum", 5, ABSENT, 6, 1),
        ("sum", 5, 7, ABSENT, 2),
        ("sum", 5, ABSENT, ABSENT, ABSENT),
        ("max", 5, ABSENT, ABSENT, ABSENT),
        ("sum", 0.1, 0.3, 0.4, 0.6),
        ("sum", 2**63, 2**63 + 1, 2**63 + 2, 2**63 + 3),
        ("sum", 0, 2**64 - 1, 2**64 - 2, 2**64 - 1),
        ("sum", 0.0, 1.7e308, 1.6e308, 1.7e308),
        ("sum", 1, None, 3, None),
        ("sum", None, 2, 3, 2),
        ({"rule": "sum", "ceiling": 9}, 1, 8, 7, 9),
        ({"rule": "sum", "ceiling": 9}, 1, 12, 7, 12),
        ({"rule": "sum", "ceiling": 9}, 20, 15, 12, 7),
        ({"rule": "sum", "floor": 0}, 5, 1, 2, 0),
        ({"rule": "sum", "floor": 0}, 5, -1, 2, -1),
        ("max", 1, 3, 4, 4),
        ("max", 5, 3, 4, 4),
        ("min", 1, 3, 4, 3),
        ("max", 1, ABSENT, 4, 4),
        ("max", 1, "a", 4, "a"),
        # lists
        ("append", [1], [1, 2], [1, 2], [1, 2, 2]),
        ("append", [1, 2], [2, 3], [1, 2, 4], [2, 4, 3]),
        ("append", [1, 1], [1], [1, 1, 1], [1, 1]),
        ("append", [1], [], [], []),
        ("append", [1], ["a"], ABSENT, ["a"]),
        ("union", [1], [1, 2], [1, 2], [1, 2]),
        ("union", [1, 2], [2, 3], [1, 2, 4], [2, 4, 3]),
        ("union", [1, 2], [2], [1], []),
        ("union", [], [1.0], [1], [1]),
        ("union", [1], [True], [1, 2], [2, True]),
        ("union", ABSENT, [1], [2], [2, 1]),
        ("union", [1], "a", [2], "a"),
        ({"rule": "union", "limit": 1}, [], [1], [2], [2, 1]),
        (
            {"rule": "union", "keep": "newest", "by": "/at"},
            [],
            [{"at": 3}],
            [{"at": 2}, {"at": 9}],
            [{"at": 9}, {"at": 3}, {"at": 2}],
        ),
        # lists by key
        (BY_ID, [], [{"id": 1, "n": 1}], [{"id": 1, "n": 1}], [{"id": 1, "n": 2}]),
        (BY_ID, [{"id": 1, "n": 1}], [{"id": 1, "n": 2}], [{"id": 1, "n": 3}], [{"id": 1, "n": 4}]),
        (BY_ID, [{"id": 1, "n": 1}], [], [{"id": 1, "n": 3}], [{"id": 1, "n": 3}]),
        (BY_ID, [{"id": 1, "n": 1}], [{"id": 1, "n": 3}], [], [{"id": 1, "n": 3}]),
        (BY_ID, [{"id": 1, "n": 1}], [], [{"id": 1, "n": 1}, {"id": 2}], [{"id": 2}]),
        (
            BY_ID,
            [],
            [{"id": 1, "note": "m"}, {"id": 2}],
            [{"id": 3}, {"note": "t", "id": 1.0}],
            [{"id": 3}, {"note": "m", "id": 1.0}, {"id": 2}],
        ),
        (BY_ID, [], [{"id": 1}, {"id": 1, "n": 2}], [{"id": 1}, {"id": 1, "n": 3}], [{"id": 1}, {"id": 1, "n": 5}]),
        (BY_ID, [5], [5, 6, {"n": 1}], [5, {"n": 1}, 7], [5, {"n": 1}, 7, 6]),
        ({**BY_ID, "fields": {"/*": "sum"}}, [], [{"id": 1, "n": 1}], [{"id": 1, "n": 1}], [{"id": 1, "n": 2}]),
        ({**BY_ID, "fields": {"": "guest"}}, [], [{"id": 1, "a": 1}], [{"id": 1, "b": 1}], [{"id": 1, "a": 1}]),
        (
            {**BY_ID, "keep": "newest", "by": "/at"},
            [],
            [{"id": 1, "at": 3}],
            [{"id": 1, "at": 5}],
            [{"id": 1, "at": 5}],
        ),
        # objects
        ("deep", {"a": 1}, {"a": 1, "b": 1}, {"a": 2}, {"a": 2, "b": 1}),
        ("deep", {"a": 1}, {}, {"a": 2}, {"a": 2}),
        ("deep", {"a": 1, "b": 1}, {"b": 1}, {"a": 1}, {}),
        ("deep", 5, {"a": 1}, {"b": 1}, {"b": 1, "a": 1}),
        ("deep", {"a": 1}, 5, {"a": 2}, 5),
        ("guest", {"a": 1}, {"a": 2}, {"a": 1, "b": 1}, {"a": 2}),
        ({"rule": "latest", "by": "/at"}, {"at": 1}, {"at": 2, "m": 1}, {"at": 3}, {"at": 3}),
        ({"rule": "latest", "by": "/at"}, {"at": 1}, {"at": 3, "m": 1}, {"at": 3}, {"at": 3, "m": 1}),
        ({"rule": "latest", "by": "/at"}, {"at": 1}, {"m": 1}, {"at": 0}, {"at": 0}),
        ({"rule": "latest", "by": "/at"}, {"at": 1}, ABSENT, {"at": 0}, {"at": 0}),
        # the later word, null included
        ("session", 1, 2, 3, 2),
        ("guest_if_empty", 1, 2, 3, 2),
        ("session", 1, None, 3, None),
        ("session", None, ABSENT, 3, 3),
    ],
)
def test_a_rule_brings_two_changes_together(rule: JSON, base: JSON, mine: JSON, theirs: JSON, result: JSON) -> None:
    assert repr(merged(rule, base, mine, theirs)) == repr(result)


def test_objects_above_a_path_merge_member_by_member() -> None:
    policy = compile_policy({"rules": {"/a": "guest", "/a/n": "sum", "/b": "guest"}})

    result = merge(
        {"a": {"n": 1, "x": 1}, "b": {"y": 1}},
        {"a": {"n": 2, "x": 2}, "b": {"y": 2}},
        {"a": {"n": 2, "z": 1, "x": 1}, "b": {"y": 1, "z": 1}},
        policy,
    )

    assert result == {"a": {"n": 3, "z": 1, "x": 2}, "b": {"y": 2}}


def test_a_policy_for_the_payload_as_a_whole_takes_the_later_word() -> None:
    assert merge({"a": 1}, {"a": 2}, {"b": 1}, compile_policy({"rules": {"": "guest"}})) == {"a": 2}


def test_limits_and_protection_have_no_part_in_it() -> None:
    policy = compile_policy({"default": {"rule": "union", "limit": 1}, "protect": ["/role", "/l/*"]})

    assert merge({}, {"l": [1], "role": "m"}, {"l": [2], "role": "t"}, policy) == {"l": [2, 1], "role": "m"}


# Laws


@st.composite
def changes(draw: st.DrawFn, number: int = 2) -> list[dict[str, JSON]]:
    """A payload, and so many changes of it."""
    base = draw(objects)
    sides = [perturbed(draw, base) for _ in range(number)]
    return copy.deepcopy([base, *(side if isinstance(side, dict) else {} for side in sides)])


def unordered(value: JSON) -> str:
    """The value's text, whatever the order of list elements, at any depth."""
    if isinstance(value, list):
        return f"[{','.join(sorted(map(unordered, value)))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{name!r}:{unordered(value[name])}' for name in sorted(value))}}}"
    return canonical(value)


@law
@given(changes(1), policies())
def test_nothing_changed_on_one_side_gives_the_other(sides: list[dict[str, JSON]], policy: dict[str, JSON]) -> None:
    base, changed = sides
    compiled = compile_policy(policy)

    assert equal(merge(base, changed, base, compiled), changed)
    assert equal(merge(base, base, changed, compiled), changed)


counting = st.sampled_from(["sum", "append"])


def counts(policy: JSON) -> bool:
    """Whether the policy has a rule that counts what both sides did."""
    if isinstance(policy, dict):
        return policy.get("rule") in ("sum", "append") or any(map(counts, policy.values()))
    return policy in ("sum", "append")


@law
@given(changes(1), policies())
def test_both_sides_the_same_gives_that_but_for_rules_that_count(
    sides: list[dict[str, JSON]], policy: dict[str, JSON]
) -> None:
    assume(not counts(policy))
    base, changed = sides

    assert unordered(merge(base, changed, copy.deepcopy(changed), compile_policy(policy))) == unordered(changed)


@law
@given(st.dictionaries(names, values, max_size=4), values, values, policies())
@example({}, 1, 2, {})
def test_changes_in_different_places_commute(
    base: dict[str, JSON], one: JSON, other: JSON, policy: dict[str, JSON]
) -> None:
    compiled = compile_policy(policy)
    mine, theirs = base | {"one": one}, base | {"other": other}
    assume(compiled.rule_at(compiled.root, mine, theirs).name == "deep")

    assert equal(merge(base, mine, theirs, compiled), merge(base, theirs, mine, compiled))
    assert equal(merge(base, mine, theirs, compiled), base | {"one": one, "other": other})


@law
@given(changes(), policies())
def test_the_inputs_are_never_changed_and_what_comes_of_them_is_of_them(
    sides: list[dict[str, JSON]], policy: dict[str, JSON]
) -> None:
    before = repr(sides)

    result = merge(sides[0], sides[1], sides[2], compile_policy(policy))

    assert repr(sides) == before
    assert set(result) <= {name for side in sides for name in side}


# Carts of a known shape: `n` is a whole number, `u` a set of values, `c` lines by `k` that hold the same.


def cart(inner: st.SearchStrategy[JSON]) -> st.SearchStrategy[dict[str, JSON]]:
    line = st.builds(lambda key, rest: {"k": key} | rest, st.sampled_from(["a", "b", 1]), inner)
    return st.fixed_dictionaries(
        {},
        optional={
            "n": st.integers(-99, 99),
            "u": st.lists(scalars, max_size=4, unique_by=canonical),
            "c": st.lists(line, max_size=3, unique_by=lambda line: canonical(line["k"])),
        },
    )


carts = cart(cart(cart(st.just({}))))
LINES: dict[str, JSON] = {"rule": "by_key", "key": "k", "fields": {"/n": "sum", "/u": "union"}}
CARTS: dict[str, JSON] = {"/n": "sum", "/u": "union", "/c": {**LINES, "fields": {**LINES["fields"], "/c": LINES}}}
CLICKS = compile_policy({"rules": {"/cart": {"rule": "by_key", "key": "sku", "fields": {"/quantity": "sum"}}}})
CART_POLICY = compile_policy({"rules": CARTS})


@law
@given(st.lists(carts, min_size=4, max_size=4))
@example([{"n": 1}, {"n": 2}, {}, {"n": 5}])
@example([{"c": [{"k": 1, "n": 1}]}, {"c": []}, {"c": [{"k": 1, "n": 2}]}, {"c": [{"k": 1, "n": 3}]}])
def test_three_tabs_in_any_order_give_one_result(sides: list[dict[str, JSON]]) -> None:
    base, *tabs = sides
    assume(not any(removes_a_number(base, tab) for tab in tabs))  # where the law ends: docs/merging.md

    results = set()
    for order in permutations(tabs):
        theirs = base
        for mine in order:
            theirs = merge(base, mine, theirs, CART_POLICY)
        results.add(unordered(theirs))

    assert len(results) == 1


def removes_a_number(base: JSON, tab: JSON) -> bool:
    lines = {canonical(line["k"]): line for line in tab.get("c", [])}
    lost = any(removes_a_number(line, lines.get(canonical(line["k"]), line)) for line in base.get("c", []))
    return lost or ("n" in base and "n" not in tab)


def test_a_number_that_one_tab_removes_while_two_change_it_is_where_the_law_of_three_ends() -> None:
    base, two, three = {"n": 53}, {"n": 7}, {"n": 99}
    one: dict[str, JSON] = {}

    assert merge(base, three, merge(base, two, merge(base, one, base, CART_POLICY), CART_POLICY), CART_POLICY) == {
        "n": 0
    }
    assert merge(base, one, merge(base, two, merge(base, three, base, CART_POLICY), CART_POLICY), CART_POLICY) == {}


@law
@given(st.lists(carts, min_size=3, max_size=3))
def test_the_order_of_two_changes_does_not_matter_without_bounds(sides: list[dict[str, JSON]]) -> None:
    base, one, other = sides

    assert unordered(merge(base, one, other, CART_POLICY)) == unordered(merge(base, other, one, CART_POLICY))


@law
@given(st.lists(st.lists(values, max_size=5), min_size=3, max_size=3), st.sampled_from(["union", "append"]))
@example([[1, 1], [1], [1]], "append")
def test_no_element_that_neither_side_removed_is_lost_and_none_is_doubled(lists: list[list[JSON]], rule: str) -> None:
    base, mine, theirs = (Counter(map(canonical, side)) for side in lists)

    result = Counter(map(canonical, merged(rule, lists[0], lists[1], lists[2])))

    for each in base | mine | theirs | result:
        added, also = max(0, mine[each] - base[each]), max(0, theirs[each] - base[each])
        if mine[each] >= base[each] and theirs[each] >= base[each] and lists[1] != lists[0] != lists[2]:
            assert result[each] >= base[each] + max(added, also)
        most = base[each] + (added + also if rule == "append" else max(added, also))
        assert result[each] <= most


@law
@given(st.lists(st.lists(st.builds(dict, k=st.integers(0, 3), n=scalars), max_size=4), min_size=3, max_size=3))
def test_no_line_that_neither_side_removed_is_lost_and_none_is_doubled(lists: list[list[JSON]]) -> None:
    def keys(lines: list[JSON]) -> Counter[int]:
        return Counter(line["k"] for line in lines)

    base, mine, theirs = map(keys, lists)

    result = keys(merged(LINES, lists[0], lists[1], lists[2]))

    for each in base | mine | theirs | result:
        if mine[each] >= base[each] and theirs[each] >= base[each]:
            assert result[each] == max(mine[each], theirs[each])
        assert result[each] <= max(mine[each], theirs[each])


def test_a_thousand_clicks_on_one_cart_are_all_there() -> None:
    base: dict[str, JSON] = {"cart": []}
    theirs = base
    for number in range(1_000):
        theirs = merge(base, {"cart": [{"sku": f"s{number % 7}", "quantity": 1}]}, theirs, CLICKS)

    assert sum(line["quantity"] for line in theirs["cart"]) == 1_000
