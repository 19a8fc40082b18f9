"""The laws of docs/merging.md, over arbitrary JSON and arbitrary policies.

MERGE_LAW_EXAMPLES sets how many examples each law is tried on; `make laws` tries 10,000 new ones each time. The rows
of `@example` are what chance meets too seldom: each stands for a fault in the code that hundreds of examples let pass.
"""

import copy
import json
import os
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from service.merge.handover import Candidate, MergeResult, merge_guests
from service.merge.policy_parser import compile_policy
from service.strict_json import canonical, equal, parse_pointer
from service.tokens.claims import GuestClaims

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
) | st.fixed_dictionaries(
    {"keep": st.just("newest"), "by": st.sampled_from(["", "/b", "/c"])}, optional={"limit": st.integers(0, 4)}
)
latest_rules = st.fixed_dictionaries({"rule": st.just("latest"), "by": st.sampled_from(["/a", "/b", "/b/a"])})
key_names = st.one_of(names, st.sampled_from([["a", "b"], ["b"], ["a", "c"]]))


def with_options(rule_names: list[str], options: st.SearchStrategy[dict[str, JSON]]) -> st.SearchStrategy[JSON]:
    return st.builds(lambda name, chosen: {"rule": name, **chosen}, st.sampled_from(rule_names), options)


number_rules = with_options(["sum", "max", "min"], bounds)
list_rules = with_options(["union", "append"], limits_and_keep)


def rules(plain: list[str], list_options: st.SearchStrategy[dict[str, JSON]]) -> st.SearchStrategy[JSON]:
    simple = st.one_of(st.sampled_from(plain), number_rules, with_options(["union", "append"], list_options))
    if "guest" in plain:
        simple = simple | latest_rules

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


def guest(
    payload: dict[str, JSON],
    *,
    started: int = 1,
    subject: str = "G",
    version: int = 1,
    issued: int = 1,
    token_id: str = "t",
) -> GuestClaims:
    return GuestClaims("https://guests.example", subject, (), issued, issued + 60, started, token_id, version, payload)


class Login(NamedTuple):
    """A session, and the guests that come to it."""

    session: dict[str, JSON]
    guests: list[GuestClaims]


def login(session: dict[str, JSON], *payloads: dict[str, JSON]) -> Login:
    return Login(session, [guest(each, started=number) for number, each in enumerate(payloads)])


def perturbed(draw: st.DrawFn, value: JSON) -> JSON:
    """Something like the value: parts of it gone, changed, new, or there twice."""
    match draw(st.integers(0, 5)):
        case 0:
            return draw(values)
        case 1:
            return value
    if isinstance(value, dict):
        kept = {name: perturbed(draw, each) for name, each in value.items() if draw(st.integers(0, 3))}
        return kept | draw(st.dictionaries(names, scalars, max_size=1))
    if isinstance(value, list):
        kept_elements = [perturbed(draw, each) for each in value if draw(st.integers(0, 3))]
        return kept_elements + draw(st.lists(st.sampled_from([*value, 1, "a"]), max_size=2))
    return draw(finite) if type(value) in (int, float) else value


@st.composite
def payloads_like(draw: st.DrawFn, session: dict[str, JSON]) -> dict[str, JSON]:
    alike = perturbed(draw, session)
    return copy.deepcopy(alike) if isinstance(alike, dict) else draw(objects)


@st.composite
def logins(draw: st.DrawFn, sessions: st.SearchStrategy[dict[str, JSON]] = objects) -> Login:
    """Tokens differ in at least one of the claims that distinguish them."""
    session = draw(sessions)
    lineage = st.tuples(st.integers(1, 2), st.sampled_from("xy"))
    tokens = st.tuples(lineage, st.integers(1, 2), st.integers(1, 2), st.sampled_from("st"))
    return Login(
        session,
        [
            guest(
                draw(payloads_like(session)),
                started=started,
                subject=subject,
                version=version,
                issued=issued,
                token_id=token_id,
            )
            for (started, subject), version, issued, token_id in draw(
                st.lists(tokens, min_size=1, max_size=3, unique=True)
            )
        ],
    )


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
@example({"a": 1}, {"rules": {"": "guest"}})
def test_an_empty_guest_changes_nothing(session: dict[str, JSON], policy: dict[str, JSON]) -> None:
    result = merge(session, [guest({})], policy)

    assert result.payload is session
    assert [each.reason for each in result.skipped] == ["empty"]
    assert (result.merged, result.conflicts, result.changes) == (False, (), ())


@law
@given(logins(), policies())
def test_merging_again_changes_nothing(come: Login, policy: dict[str, JSON]) -> None:
    first = merge(come.session, come.guests, policy)
    again = merge(first.payload, come.guests, policy)

    assert repr(again.payload) == repr(first.payload)
    assert (again.merged, again.conflicts, again.changes) == (False, (), ())
    assert first.last is None or (again.last is not None and again.last.token_id == first.last.token_id)


@law
@given(logins(), policies(), st.randoms(use_true_random=False))
@example(Login({}, [guest({"a": 1}, issued=2), guest({"a": 2}, issued=1)]), {}, None)
@example(Login({}, [guest({"a": 1}, token_id="s"), guest({"a": 2}, token_id="t")]), {}, None)
def test_the_order_of_tokens_changes_nothing(come: Login, policy: dict[str, JSON], random: Any) -> None:
    other = copy.copy(come.guests)
    if random is None:
        other.reverse()
    else:
        random.shuffle(other)

    one, two = merge(come.session, come.guests, policy), merge(come.session, other, policy)

    assert repr((one.payload, one.guests, one.conflicts, one.changes, one.last)) == repr(
        (two.payload, two.guests, two.conflicts, two.changes, two.last)
    )


@law
@given(logins(), policies())
@example(
    login({"a": [1, 2, 3]}, {"a": [1]}, {"a": [4, 5]}, {"a": [5]}),
    {"default": {"rule": "union", "limit": 2}},
)
@example(login({"a": 1}, {"b": 1}, {"a": 1}), {"rules": {"": "session"}})
def test_guests_that_come_together_are_as_if_they_came_one_after_another(come: Login, policy: dict[str, JSON]) -> None:
    together = merge(*come, policy)
    skipped = {each.index for each in together.skipped}
    counted = [each for index, each in enumerate(come.guests) if index not in skipped]
    assume(len({each.lineage for each in counted}) == len(counted))  # siblings come as one guest

    results = [MergeResult(come.session)]
    for each in sorted(counted, key=lambda claims: (claims.first_issued_at_s, claims.subject)):
        results.append(merge(results[-1].payload, [each], policy))

    # Receipts are written at the end: those of the guests before are not yet in the report on the payload as a whole.
    conflicts = [
        (note.path, note.guest, note.kept, note.rule)
        for each in results
        for note in each.conflicts
        if note.path or not equal(without_receipts(note.session), note.guest)
    ]
    changes = [(note.path, note.rule) for each in results for note in each.changes]
    assert equal(together.payload, results[-1].payload)
    assert repr([(note.path, note.guest, note.kept, note.rule) for note in together.conflicts]) == repr(conflicts)
    assert [(note.path, note.rule) for note in together.changes] == changes


@law
@given(logins(), policies())
@example(login({"a": [1]}, {"a": [2]}), {})
@example(login({"a": [1]}, {"a": [2]}, {"a": [3]}), {"default": "append"})
@example(login({"a": [{"b": 1, "c": [1]}]}, {"a": [{"b": 1, "c": [2]}]}), {"default": {"rule": "by_key", "key": "b"}})
def test_inputs_are_never_changed(come: Login, policy: dict[str, JSON]) -> None:
    before = repr((come, policy))

    merge(*come, policy)

    assert repr((come, policy)) == before


def placed(payload: JSON, path: tuple[str, ...], value: JSON) -> JSON:
    """The payload with a value at a place; as it is where there is no such place."""
    if not path:
        return value
    if isinstance(payload, dict):
        return payload | {path[0]: placed(payload.get(path[0]), path[1:], value)}
    if isinstance(payload, list) and int(path[0]) < len(payload):
        index = int(path[0])
        return [*payload[:index], placed(payload[index], path[1:], value), *payload[index + 1 :]]
    return payload if isinstance(payload, list) else {path[0]: placed(None, path[1:], value)}


@law
@given(logins(), policies())
@example(
    login({"a": [{"b": 1, "c": 1}]}, {"a": [{"b": 2, "c": 1}, {"b": 2, "c": 2}]}),
    {"default": {"rule": "by_key", "key": "b", "limit": 1, "fields": {"/c": "sum"}}},
)
@example(
    login({"a": [{"b": 1, "c": 1}, 2]}, {"a": [{"b": 1, "c": 1}]}),
    {"default": {"rule": "by_key", "key": "b", "limit": 1, "fields": {"/c": "sum"}}},
)
def test_the_report_lists_all_that_changed(come: Login, policy: dict[str, JSON]) -> None:
    result = merge(*come, policy)

    replayed: JSON = come.session
    for each in result.changes:
        replayed = placed(replayed, parse_pointer(each.path), each.after)
    assert equal(without_receipts(replayed), without_receipts(result.payload))


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
@given(logins(), policies())
@example(login({"a": 2**64 - 1}, {"a": 1}), {"default": "sum"})
@example(login({"a": 1.7e308}, {"a": 1.7e308}), {"default": "sum"})
def test_the_result_is_json_that_fits_back_in(come: Login, policy: dict[str, JSON]) -> None:
    payload = merge(*come, policy).payload
    back = json.loads(json.dumps(payload, allow_nan=False))

    assert equal(back, payload)
    assert depth(payload) <= max(3, depth(come.session), *(depth(each.payload) for each in come.guests))
    assert all(-(2**63) <= each < 2**64 for each in all_numbers(payload) if type(each) is int)
    assert not merge(back, come.guests, policy).merged


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
@given(logins(), policies(keeping_rules))
@example(login({"a": [1, 2, 3]}, {"a": [4]}), {"default": {"rule": "union", "limit": 1}})
def test_all_of_the_session_is_still_there_unless_a_rule_says_otherwise(come: Login, policy: dict[str, JSON]) -> None:
    assert survives(come.session, merge(*come, policy).payload)


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
@given(logins(), policies())
@example(login({"a": {"b": 1, "c": 1}}, {"a": {"c": 2}}), {"default": "guest", "protect": ["/a/b"]})
@example(login({}, {"a": [{"b": 1, "c": 2}]}), {"protect": ["/a/*/b"]})
@example(login({"a": [1]}, {"a": [2]}), {"protect": ["/a/*"]})
@example(
    login({"a": [{"b": 1}, 2]}, {"a": [3]}),
    {"default": {"rule": "append", "limit": 2, "keep": "last"}, "protect": ["/a/*/b"]},
)
def test_no_protected_path_is_ever_written_or_lost(come: Login, policy: dict[str, JSON]) -> None:
    payload = without_receipts(merge(*come, policy).payload)

    protected = [*policy.get("protect", []), *(["/role"] if policy.get("protect_defaults", True) else [])]
    for path in map(parse_pointer, protected):
        assert sorted(found(payload, path)) == sorted(found(come.session, path))


# Lines of a known shape, so that a law knows which rule is in force where: `b` is a number, `c` holds lines again.


def lines(inner: st.SearchStrategy[JSON]) -> st.SearchStrategy[JSON]:
    line = st.fixed_dictionaries({"a": st.integers(0, 2)}, optional={"b": finite, "c": inner})
    return st.lists(line | scalars, max_size=4)


line_lists = lines(lines(lines(st.just([]))))
shelves = st.fixed_dictionaries({}, optional={"b": finite, "c": line_lists})


@st.composite
def line_rules(draw: st.DrawFn, deeper: int = 2) -> JSON:
    fields = {"/b": draw(number_rules), "/c": draw(line_rules(deeper - 1) if deeper else list_rules)}
    return {"rule": "by_key", "key": "a", "fields": fields, **draw(limits_and_keep)}


shelf_policies = st.builds(
    lambda number, lines: {"rules": {"/b": number, "/c": lines}}, number_rules, line_rules() | list_rules
)


@st.composite
def unlimited_line_rules(draw: st.DrawFn, deeper: int = 2) -> JSON:
    plain = st.sampled_from(["session", "guest", "guest_if_empty", "drop"])
    lists = [plain, st.sampled_from(["union", "append"]), *([unlimited_line_rules(deeper - 1)] if deeper else [])]
    fields = {"/b": draw(plain | number_rules), "/c": draw(st.one_of(lists))}
    return {"rule": "by_key", "key": "a", "fields": fields}


@law
@given(line_lists, line_lists, unlimited_line_rules())
@example(
    [{"a": 1, "b": 1}], [{"a": 1, "b": 2}, {"a": 1, "b": 3}], {"rule": "by_key", "key": "a", "fields": {"": "guest"}}
)
@example(
    [{"a": 1, "b": 1}], [{"a": 1, "b": 2}, {"a": 1, "b": 3}], {"rule": "by_key", "key": "a", "fields": {"/b": "guest"}}
)
def test_elements_of_one_key_are_as_if_they_came_one_after_another(own: JSON, said: JSON, rule: JSON) -> None:
    policy = {"rules": {"/l": rule}}

    together = merge(*login({"l": own}, {"l": said}), policy).payload
    one_by_one = merge(*login({"l": own}, *({"l": [each]} for each in said)), policy).payload

    assert equal(together["l"], one_by_one["l"])


def assert_bounded(rule: JSON, own: JSON, value: JSON) -> None:
    """Holds a value against its rule, unless it is what the session had."""
    if equal(own, value):
        return
    if type(value) in (int, float):
        before = [own] if type(own) in (int, float) else []
        assert min([rule.get("floor", value), *before]) <= value <= max([rule.get("ceiling", value), *before])
    elif isinstance(value, list):
        assert len(value) <= rule.get("limit", len(value))
        for each in value if rule["rule"] == "by_key" else []:
            assert_line_bounded(rule["fields"], own if isinstance(own, list) else [], each)


def assert_line_bounded(fields: JSON, own: list[JSON], line: JSON) -> None:
    if not isinstance(line, dict) or any(equal(each, line) for each in own):
        return
    before = next((each for each in own if isinstance(each, dict) and equal(each["a"], line["a"])), {})
    for name in line.keys() - {"a"}:
        assert_bounded(fields[f"/{name}"], before.get(name), line[name])


@law
@given(shelves, st.lists(shelves, min_size=1, max_size=2), shelf_policies)
@example({"b": 5}, [{"b": -9}], {"rules": {"/b": {"rule": "sum", "floor": 0}, "/c": "union"}})
def test_bounds_and_limits_hold_wherever_a_guest_contributed(
    session: dict[str, JSON], payloads: list[dict[str, JSON]], policy: dict[str, JSON]
) -> None:
    result = merge(*login(session, *payloads), policy).payload

    for name in result.keys() & {"b", "c"}:
        assert_bounded(policy["rules"][f"/{name}"], session.get(name), result[name])


@law
@given(logins(), every_rule)
def test_bounds_never_touch_what_is_the_sessions_alone(come: Login, rule: JSON) -> None:
    payload = merge(*come, {"default": rule}).payload

    for name in come.session.keys() - {name for each in come.guests for name in each.payload}:
        assert payload[name] is come.session[name]


@st.composite
def parts_of(draw: st.DrawFn, value: JSON) -> JSON:
    """The value with members and elements taken out, in another order, elements also there twice."""
    if isinstance(value, dict):
        return {name: draw(parts_of(each)) for name, each in value.items() if draw(st.integers(0, 3))}
    if isinstance(value, list) and value:
        return draw(st.lists(st.sampled_from(value), max_size=4))
    return value


resting_policies = policies(
    st.one_of(
        st.sampled_from(["session", "guest_if_empty", "drop", "deep"]),
        with_options(["max", "min"], bounds),
        with_options(["union"], limits),
    )
).map(lambda policy: {name: said for name, said in policy.items() if name != "protect"})
"""Under `protect` an element without its protected members is another."""


@law
@given(objects.flatmap(lambda session: st.tuples(st.just(session), parts_of(session))), resting_policies)
@example(({"a": 12}, {"a": 12}), {"default": {"rule": "max", "ceiling": 9}})
@example(({"a": 12}, {"a": 11}), {"default": {"rule": "max", "ceiling": 9}})
@example(({"a": [1, 2]}, {"a": [2]}), {"default": {"rule": "union", "limit": 1}})
def test_bounds_never_touch_what_a_guest_only_says_again(
    both: tuple[dict[str, JSON], dict[str, JSON]], policy: dict[str, JSON]
) -> None:
    session, payload = both

    result = merge(session, [guest(payload)], policy)

    assert repr(without_receipts(result.payload)) == repr(session)
    assert result.changes == ()
    assert not [each for each in result.conflicts if each.rule == "union" and isinstance(each.guest, list)]


@law
@given(objects, bounds)
@example({"a": 12}, {"ceiling": 9})
def test_bounds_never_touch_what_a_guest_adds_nothing_to(session: dict[str, JSON], some: dict[str, JSON]) -> None:
    nothing = {name: 0 for name, value in session.items() if type(value) in (int, float)}

    result = merge(session, [guest(nothing)], {"default": {"rule": "sum", **some}})

    assert equal(without_receipts(result.payload), session)
    assert result.changes == ()


def without_negative(value: JSON) -> JSON:
    if isinstance(value, dict):
        return {name: without_negative(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_negative(each) for each in value]
    return abs(value) if type(value) in (int, float) else value


@law
@given(logins(objects.map(without_negative)), policies(keeping_rules))
@example(login({"a": 1}, {"a": 2}), {"default": "sum"})
@example(login({"a": [1]}, {"a": [2]}), {"default": "append"})
@example(
    login({"a": [{"b": 1, "c": 1}]}, {"a": [{"b": 1, "c": 2}]}),
    {"default": {"rule": "by_key", "key": "b", "fields": {"/c": "sum"}}},
)
def test_a_guest_that_comes_again_under_a_higher_version_is_never_doubled(come: Login, policy: dict[str, JSON]) -> None:
    payload = without_negative(come.guests[0].payload)
    first = merge(come.session, [guest(payload)], policy)
    later = merge(copy.deepcopy(first.payload), [guest(payload, version=2)], policy)

    assert equal(without_receipts(later.payload), without_receipts(first.payload))


# Payloads to merge in pieces: `n` is a number, `l` and `u` are lists, `o` an object of the same, `c` lines by `k`.

whole_numbers = st.integers(-1000, 1000)


def pieces(inner: st.SearchStrategy[JSON]) -> st.SearchStrategy[dict[str, JSON]]:
    lists = st.lists(values, max_size=3)
    line = st.builds(lambda key, piece: {"k": key} | piece, st.sampled_from([1, 1.0, 2, "a", None]), inner)
    return st.fixed_dictionaries(
        {}, optional={"n": whole_numbers, "l": lists, "u": lists, "o": inner, "c": st.lists(line, max_size=3)}
    )


some_pieces = pieces(pieces(pieces(st.just({}))))


@st.composite
def adding_rules(draw: st.DrawFn, deeper: int = 2) -> dict[str, JSON]:
    """A rule that adds for some of the places, each by its kind."""
    lists = st.sampled_from(["append", "union"])
    some: dict[str, JSON] = {
        "/l": draw(lists),
        "/u": draw(lists),
        "/o/l": draw(lists),
        "/*/u": draw(lists),
        "/o": "deep",
        "/o/n": "sum",
    }
    if deeper:
        inner = st.builds(lambda fields: {"rule": "by_key", "key": "k", "fields": fields}, adding_rules(deeper - 1))
        some |= {"/c": draw(inner), "/o/c": draw(inner)}
    return {path: rule for path, rule in some.items() if draw(st.booleans())}


def together(one: JSON, other: JSON) -> JSON:
    if isinstance(one, dict):
        both = {name: together(one[name], other[name]) for name in one.keys() & other.keys()}
        return one | other | both
    return one + other


@law
@given(some_pieces, some_pieces, some_pieces, adding_rules())
def test_merge_and_going_on_with_next_and_merge_equals_one_merge_of_everything(
    session: dict[str, JSON], before: dict[str, JSON], after: dict[str, JSON], some: dict[str, JSON]
) -> None:
    policy = {"rules": some, "default": "sum"}

    first = merge(session, [guest(before, started=1)], policy).payload
    stepwise = merge(first, [guest(after, started=2)], policy).payload
    at_once = merge(session, [guest(together(before, after))], policy).payload

    assert equal(without_receipts(stepwise), without_receipts(at_once))
