"""The laws of docs/merging.md, over arbitrary JSON and arbitrary policies.

MERGE_LAW_EXAMPLES sets how many examples each law is tried on; `make laws` tries 10,000 new ones each time.
"""

import copy
import json
import os
from collections.abc import Iterator
from itertools import product
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from service.claims import GuestClaims
from service.json_values import canonical, equal, parse_pointer
from service.merge_policies import compile_policy
from service.merging import Candidate, MergeResult, merge_guests

JSON = Any

law = settings(
    max_examples=int(os.environ.get("MERGE_LAW_EXAMPLES", "200")),
    derandomize="MERGE_LAW_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

# Few names and few values, so that guests and sessions meet often.

names = st.sampled_from(["a", "b", "c", "role", "/~", "*"])
edges = st.sampled_from([0, 1, 2, -1, 0.0, 1.0, 0.5, -0.0, 1e308, -1e308, 2**53 + 1, 2**64 - 1, -(2**63)])
finite = st.one_of(edges, st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False))
scalars = st.one_of(st.sampled_from([None, True, False, "", "a", "b"]), finite)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)
objects = st.dictionaries(names, values, max_size=3)

segments = ["/a", "/b", "/c", "/role", "/~1~0", "/*"]
paths = st.sampled_from(["", *segments, *map("".join, product(segments, segments)), "/a/b/c", "/*/*/a", "/a/*/*"])


some_bounds = st.sampled_from([0, 1, 3, 0.5, -2, 2**63, -1e308, 1e308])
bounds: st.SearchStrategy[dict[str, JSON]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"floor": some_bounds}),
    st.fixed_dictionaries({"ceiling": some_bounds}),
    st.tuples(some_bounds, some_bounds).map(sorted).map(lambda pair: {"floor": pair[0], "ceiling": pair[1]}),
)
limits = st.fixed_dictionaries({}, optional={"limit": st.integers(0, 4)})
limits_and_keep = st.fixed_dictionaries(
    {}, optional={"limit": st.integers(0, 4), "keep": st.sampled_from(["first", "last"])}
)
key_names = st.one_of(names, st.sampled_from([["a", "b"], ["b"], ["a", "c"]]))


def with_options(rule_names: list[str], options: st.SearchStrategy[dict[str, JSON]]) -> st.SearchStrategy[JSON]:
    return st.builds(lambda name, chosen: {"rule": name, **chosen}, st.sampled_from(rule_names), options)


number_rules = with_options(["sum", "max", "min"], bounds)
list_rules = with_options(["union", "append"], limits_and_keep)


def rules(plain: list[str], list_options: st.SearchStrategy[dict[str, JSON]]) -> st.SearchStrategy[JSON]:
    simple = st.one_of(st.sampled_from(plain), number_rules, with_options(["union", "append"], list_options))

    def by_key(inner: st.SearchStrategy[JSON]) -> st.SearchStrategy[JSON]:
        return st.builds(
            lambda key, fields, options: {"rule": "by_key", "key": key, "fields": fields, **options},
            key_names,
            st.dictionaries(paths, inner, max_size=2),
            list_options,
        )

    return st.recursive(simple, by_key, max_leaves=3)


every_rule = rules(["session", "guest", "guest_if_empty", "drop", "deep"], limits_and_keep)
keeping_rules = rules(["session", "drop", "deep"], limits)
"""Those that never take anything of the session away."""


def policies(rule: st.SearchStrategy[JSON] = every_rule) -> st.SearchStrategy[dict[str, JSON]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "rules": st.dictionaries(paths, rule, max_size=4),
            "default": rule,
            "protect": st.lists(paths.filter(bool), max_size=2),
            "protect_defaults": st.booleans(),
        },
    )


def guest(payload: dict[str, JSON], *, started: int, subject: str = "G", version: int = 1) -> GuestClaims:
    return GuestClaims("https://guests.example", subject, (), started, started + 60, started, "t", version, payload)


@st.composite
def some_guests(draw: st.DrawFn) -> list[GuestClaims]:
    payloads = draw(st.lists(objects, min_size=1, max_size=3))
    return [
        guest(
            each, started=draw(st.integers(1, 2)), subject=draw(st.sampled_from("xy")), version=draw(st.integers(1, 2))
        )
        for each in payloads
    ]


def merge(session: dict[str, JSON], guests: list[GuestClaims], policy: dict[str, JSON]) -> MergeResult:
    return merge_guests(session, [Candidate(*each) for each in enumerate(guests)], compile_policy(policy))


def without_receipts(payload: dict[str, JSON]) -> dict[str, JSON]:
    return {name: value for name, value in payload.items() if name != "merged_guests"}


@law
@given(objects, policies())
def test_without_a_guest_the_session_comes_back_equal(session: dict[str, JSON], policy: dict[str, JSON]) -> None:
    result = merge(session, [], policy)

    assert equal(result.payload, session)
    assert (result.merged, result.conflicts, result.changes) == (False, (), ())


@law
@given(objects, policies())
def test_an_empty_guest_changes_nothing(session: dict[str, JSON], policy: dict[str, JSON]) -> None:
    result = merge(session, [guest({}, started=1)], policy)

    assert equal(without_receipts(result.payload), session)
    assert result.merged
    assert (result.conflicts, result.changes) == ((), ())


@law
@given(objects, some_guests(), policies())
def test_merging_again_changes_nothing(
    session: dict[str, JSON], guests: list[GuestClaims], policy: dict[str, JSON]
) -> None:
    first = merge(session, guests, policy)
    again = merge(first.payload, guests, policy)

    assert repr(again.payload) == repr(first.payload)
    assert (again.merged, again.conflicts, again.changes) == (False, (), ())


@law
@given(objects, some_guests(), policies(), st.randoms(use_true_random=False))
def test_the_order_of_tokens_changes_nothing(
    session: dict[str, JSON], guests: list[GuestClaims], policy: dict[str, JSON], random: Any
) -> None:
    # Two different tokens with the same ver, iat and jti cannot be: a jti is unique.
    assume(len({(*each.lineage, each.version) for each in guests}) == len(guests))
    other = copy.copy(guests)
    random.shuffle(other)

    one, two = merge(session, guests, policy), merge(session, other, policy)

    assert repr((one.payload, one.guests, one.conflicts, one.changes, one.last)) == repr(
        (two.payload, two.guests, two.conflicts, two.changes, two.last)
    )


@law
@given(objects, some_guests(), policies())
def test_inputs_are_never_changed(session: dict[str, JSON], guests: list[GuestClaims], policy: dict[str, JSON]) -> None:
    before = repr((session, guests, policy))

    merge(session, guests, policy)

    assert repr((session, guests, policy)) == before


def depth(value: JSON) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def all_numbers(value: JSON) -> Iterator[int | float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from all_numbers(each)
    elif type(value) in (int, float):
        yield value


@law
@given(objects, some_guests(), policies())
def test_the_result_is_json_that_fits_back_in(
    session: dict[str, JSON], guests: list[GuestClaims], policy: dict[str, JSON]
) -> None:
    payload = merge(session, guests, policy).payload
    back = json.loads(json.dumps(payload, allow_nan=False))

    assert equal(back, payload)
    assert depth(payload) <= max(3, depth(session), *(depth(each.payload) for each in guests))
    assert all(-(2**63) <= each < 2**64 for each in all_numbers(payload) if type(each) is int)
    assert not merge(back, guests, policy).merged


def survives(before: JSON, after: JSON) -> bool:
    """Whether all that was there is still there: members, elements in their places; numbers may have changed."""
    if isinstance(before, dict):
        return isinstance(after, dict) and all(n in after and survives(v, after[n]) for n, v in before.items())
    if isinstance(before, list):
        return isinstance(after, list) and len(after) >= len(before) and all(map(survives, before, after))
    if type(before) in (int, float):
        return type(after) in (int, float)
    return before is None or equal(before, after)


@law
@given(objects, some_guests(), policies(keeping_rules))
def test_all_of_the_session_is_still_there_unless_a_rule_says_otherwise(
    session: dict[str, JSON], guests: list[GuestClaims], policy: dict[str, JSON]
) -> None:
    assert survives(session, merge(session, guests, policy).payload)


def found(value: JSON, path: tuple[str, ...]) -> Iterator[str]:
    """The values at a protected PATH; `*` stands for members and elements."""
    if not path:
        yield canonical(value)
    elif isinstance(value, dict):
        for name in value:
            if path[0] in ("*", name):
                yield from found(value[name], path[1:])
    elif isinstance(value, list) and path[0] == "*":
        for each in value:
            yield from found(each, path[1:])


@law
@given(objects, some_guests(), policies())
def test_no_protected_path_is_ever_written_or_lost(
    session: dict[str, JSON], guests: list[GuestClaims], policy: dict[str, JSON]
) -> None:
    payload = without_receipts(merge(session, guests, policy).payload)

    protected = [*policy.get("protect", []), *(["/role"] if policy.get("protect_defaults", True) else [])]
    for path in map(parse_pointer, protected):
        assert sorted(found(payload, path)) == sorted(found(session, path))


@law
@given(st.one_of(st.just({}), st.fixed_dictionaries({"a": finite})), finite, number_rules)
def test_floor_and_ceiling_hold_wherever_a_guest_contributed(session: dict[str, JSON], added: JSON, rule: JSON) -> None:
    result = merge(session, [guest({"a": added}, started=1)], {"rules": {"/a": rule}}).payload

    if "a" in result and not equal(result["a"], session.get("a")):
        assert rule.get("floor", result["a"]) <= result["a"] <= rule.get("ceiling", result["a"])


@law
@given(
    st.one_of(st.just({}), st.fixed_dictionaries({"a": st.lists(values, max_size=6)})),
    st.lists(values, max_size=6),
    list_rules,
)
def test_a_limit_holds_wherever_a_guest_contributed(session: dict[str, JSON], added: list[JSON], rule: JSON) -> None:
    result = merge(session, [guest({"a": added}, started=1)], {"rules": {"/a": rule}}).payload

    if "a" in result and not equal(result["a"], session.get("a")):
        assert len(result["a"]) <= rule.get("limit", len(result["a"]))


@law
@given(objects, some_guests(), every_rule)
def test_bounds_never_touch_what_is_the_sessions_alone(
    session: dict[str, JSON], guests: list[GuestClaims], rule: JSON
) -> None:
    payload = merge(session, guests, {"default": rule}).payload

    for name in session.keys() - {name for each in guests for name in each.payload}:
        assert payload[name] is session[name]


def without_negative(value: JSON) -> JSON:
    if isinstance(value, dict):
        return {name: without_negative(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_negative(each) for each in value]
    return abs(value) if type(value) in (int, float) else value


@law
@given(objects.map(without_negative), objects.map(without_negative), policies(keeping_rules))
def test_a_guest_that_comes_again_under_a_higher_version_is_never_doubled(
    session: dict[str, JSON], payload: dict[str, JSON], policy: dict[str, JSON]
) -> None:
    first = merge(session, [guest(payload, started=1)], policy)
    later = merge(first.payload, [guest(payload, started=1, version=2)], policy)

    assert equal(without_receipts(later.payload), without_receipts(first.payload))


whole_numbers = st.integers(-1000, 1000)
histories = st.dictionaries(
    st.sampled_from(["sum", "append", "union"]),
    st.tuples(whole_numbers, st.lists(values, max_size=3)),
)
three_rules = {"rules": {"/sum": "sum", "/append": "append", "/union": "union"}}


def payload_of(history: dict[str, tuple[int, list[JSON]]]) -> dict[str, JSON]:
    return {name: number if name == "sum" else elements for name, (number, elements) in history.items()}


@law
@given(histories, histories, histories)
def test_merge_and_going_on_with_next_and_merge_equals_one_merge_of_everything(
    start: dict[str, tuple[int, list[JSON]]],
    before: dict[str, tuple[int, list[JSON]]],
    after: dict[str, tuple[int, list[JSON]]],
) -> None:
    session, one, two = payload_of(start), payload_of(before), payload_of(after)
    everything = {
        name: one[name] + two[name] if name in one and name in two else (one | two)[name] for name in one | two
    }

    first = merge(session, [guest(one, started=1)], three_rules).payload
    stepwise = merge(first, [guest(two, started=2)], three_rules).payload
    at_once = merge(session, [guest(everything, started=1)], three_rules).payload

    assert equal(without_receipts(stepwise), without_receipts(at_once))
