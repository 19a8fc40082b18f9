"""Merging two changes of one state: `mine`, a change that was made to `base`, onto `theirs`, another one.

Pure, and by the rules of the same policies as the fold at login, which is the case without a base. A value that equals
`base` on one side gives way to the other side. Then the rule of the place decides, and at last the later word, `mine`.
Null is a value here. A limit and `protect` have no part in it: both sides are the guest's own.
"""

from collections import Counter
from typing import Any

import msgspec

from service.merge.policy import Location, Policy, Rule
from service.merge.rules import (
    MISSING,
    add,
    clamp,
    identify,
    is_keyed,
    is_later,
    newest_first,
    with_later_moment,
)
from service.strict_json import canonical, equal, in_range, is_number

_Handle = tuple[str, int]
"""An element of a list: its identity, and how many of the same come before it."""


def merge(base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any], policy: Policy) -> dict[str, Any]:
    """The payload that has the changes of both sides."""
    merged: dict[str, Any] = ThreeWays(policy).value(policy.root, base, mine, theirs)
    return merged


class ThreeWays(msgspec.Struct, frozen=True):
    """A merge under one policy. Every method takes a place and its three values, `MISSING` where there is none."""

    policy: Policy

    def value(self, location: Location, base: Any, mine: Any, theirs: Any) -> Any:
        """One place; `MISSING` in and out where there is no value."""
        if equal(mine, base):
            return theirs
        if equal(theirs, base):
            return mine
        rule = self.policy.rule_at(location, theirs, theirs if mine is MISSING else mine)
        present = [value for value in (theirs, mine) if value is not MISSING]
        if rule.name == "sum" and present and all(map(is_number, present)) and (base is MISSING or is_number(base)):
            # A missing one is 0. Beyond the bounds the result lies only as far as a side did already.
            total = clamp(rule, add(*present, *([] if base is MISSING else [-base])), *present)
            return total if in_range(total) else present[-1]
        if mine is MISSING or theirs is MISSING:
            return theirs if mine is MISSING else mine  # removed on one side, changed on the other: it stays
        return self.apply(location, rule, base, mine, theirs)

    def apply(self, location: Location, rule: Rule, base: Any, mine: Any, theirs: Any) -> Any:
        """A rule on two values that both differ from `base`. Where a kind does not fit, mine is the later word."""
        kinds = {type(mine), type(theirs)}
        match rule.name:
            case "max" | "min" if is_number(mine) and is_number(theirs):
                return (max if rule.name == "max" else min)(theirs, mine)
            case "append" if kinds == {list}:
                return _ordered(rule, _appended(base if type(base) is list else [], mine, theirs))
            case "union" | "by_key" if kinds == {list}:
                return _ordered(rule, self.elements(location, rule, base if type(base) is list else [], mine, theirs))
            case "latest" if kinds == {dict}:
                return theirs if is_later(theirs, mine, rule.by) else mine
            case "deep" if kinds == {dict}:
                return self.members(location, base if type(base) is dict else {}, mine, theirs)
            case _:
                return mine

    def members(
        self, location: Location, base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
    ) -> dict[str, Any]:
        """`deep`: each member by its own rule."""
        merged = {
            name: self.value(
                location.member(name),
                base.get(name, MISSING),
                mine.get(name, MISSING),
                theirs.get(name, MISSING),
            )
            for name in dict.fromkeys([*theirs, *mine])
        }
        return {name: value for name, value in merged.items() if value is not MISSING}

    def elements(
        self, location: Location, rule: Rule, base: list[Any], mine: list[Any], theirs: list[Any]
    ) -> list[Any]:
        """`union` and `by_key`: each element by itself, in their order, then what only mine has."""
        known, ours, others = _by_handle(base, rule), _by_handle(mine, rule), _by_handle(theirs, rule)
        merged = [
            self.element(location, rule, handle, *(side.get(handle, MISSING) for side in (known, ours, others)))
            for handle in dict.fromkeys([*others, *ours])
        ]
        return [value for value in merged if value is not MISSING]

    def element(self, location: Location, rule: Rule, handle: _Handle, base: Any, mine: Any, theirs: Any) -> Any:
        """One element; one that both sides added is merged by `fields` as if it had been `{}` before."""
        if equal(mine, base):
            return theirs
        if equal(theirs, base):
            return mine
        if mine is MISSING or theirs is MISSING:
            return theirs if mine is MISSING else mine
        if not is_keyed(handle[0]):
            return theirs
        place = location.element(None, rule.fields)
        fields = [
            {name: member for name, member in side.items() if name not in rule.key}
            for side in ({} if base is MISSING else base, mine, theirs)
        ]
        merged = self.value(place, *fields)
        if rule.keep == "newest":
            merged = with_later_moment(merged, (mine, theirs), rule.by)
        key = {name: theirs[name] for name in rule.key}
        return (
            {name: key.get(name, merged.get(name)) for name in theirs if name in key or name in merged} | merged | key
        )


def _appended(base: list[Any], mine: list[Any], theirs: list[Any]) -> list[Any]:
    """Theirs less what mine removed, plus what mine added; equal elements are counted."""
    before, after = Counter(map(canonical, base)), Counter(map(canonical, mine))
    result = []
    for left_out, values in ((before - after, theirs), (before & after, mine)):
        for value in values:
            identity = canonical(value)
            if left_out[identity] > 0:
                left_out[identity] -= 1
            else:
                result.append(value)
    return result


def _by_handle(values: list[Any], rule: Rule) -> dict[_Handle, Any]:
    counts: Counter[str] = Counter()
    found: dict[_Handle, Any] = {}
    for value in values:
        identity = identify(value, rule.key)
        found[identity, counts[identity]] = value
        counts[identity] += 1
    return found


def _ordered(rule: Rule, values: list[Any]) -> list[Any]:
    return newest_first(values, rule.by) if rule.keep == "newest" else values
