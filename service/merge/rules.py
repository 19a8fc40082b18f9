"""The rules of a merge policy on values: numbers, moments, lists, and the protected parts of a value.

Pure: nothing that comes in is changed, and unchanged parts are shared. Knows no places and takes no notes: `fold` walks
through payloads and applies these. The rules' names and kinds are in `policy`, their options in `policy_parser`.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final

import msgspec

from service.merge.policy import Rule, Shield, at_element, at_member
from service.strict_json import canonical, equal, in_range, is_number, parse_rfc3339

MISSING: Final = msgspec.UNSET
"""Stands where there is no value; null is one. It equals itself alone."""

# Numbers


def add(*numbers: float) -> int | float:
    """The sum: whole and exact where all are whole, however they are spelt; else the double next to the exact sum."""
    if all(type(number) is int or (number.is_integer() and in_range(int(number))) for number in numbers):
        return sum(map(int, numbers))
    try:
        return float(sum(map(Fraction, numbers)))
    except OverflowError:
        return float("inf")


def combine(rule: Rule, one: float, other: float) -> int | float:
    """Two numbers under `sum`, `max` or `min`, not yet bounded."""
    if rule.name == "sum":
        return add(one, other)
    return max(one, other) if rule.name == "max" else min(one, other)


def clamp(rule: Rule, value: float, *before: float) -> int | float:
    """The number within the rule's bounds, which give way to the numbers that were there `before`."""
    if rule.floor is not None and value < (floor := min((rule.floor, *before))):
        return floor
    if rule.ceiling is not None and value > (ceiling := max((rule.ceiling, *before))):
        return ceiling
    return value


# Moments

Moment = int | float | Fraction
_FRACTION: Final = re.compile(r"\.([0-9]+)")
_FRACTION_DIGITS: Final = 18


def moment(value: Any, by: Sequence[str]) -> Moment | None:
    """The number or the RFC 3339 time (in Unix seconds, exactly) at the pointer `by` in the value; None without one."""
    for segment in by:
        if type(value) is dict:
            value = value.get(segment)
        elif type(value) is list and segment.isascii() and segment.isdigit() and str(int(segment[:9])) == segment:
            value = value[int(segment)] if int(segment) < len(value) else None
        else:
            return None
    if is_number(value):
        found: Moment = value
        return found
    if type(value) is not str:
        return None
    fraction = _FRACTION.search(value)
    seconds = parse_rfc3339(_FRACTION.sub("", value, count=1))
    if seconds is None or fraction is None:
        return seconds
    digits = fraction[1][:_FRACTION_DIGITS]
    return int(seconds) + Fraction(int(digits), 10 ** len(digits))


def is_later(one: Any, other: Any, by: Sequence[str]) -> bool:
    """Whether the moment of one value is later than that of the other; having one counts as later."""
    mine, theirs = moment(one, by), moment(other, by)
    return mine is not None and (theirs is None or mine > theirs)


def _newest_first(when: Moment | None) -> tuple[bool, Moment]:
    return (True, 0) if when is None else (False, -when)


def newest_first(values: list[Any], by: Sequence[str]) -> list[Any]:
    """The elements in the order of their moments, latest first, and at last those without one."""
    return sorted(values, key=lambda value: _newest_first(moment(value, by)))


def with_later_moment(element: Any, others: Sequence[Any], by: Sequence[str]) -> Any:
    """An element with the latest moment of those that were merged into it."""
    for other in others:
        if is_later(other, element, by):
            element = _with_value_of(other, element, by)
    return element


def _with_value_of(source: Any, target: Any, by: Sequence[str]) -> Any:
    if not by or type(source) is not dict:
        return source
    below = target if type(target) is dict else {}
    return {**below, by[0]: _with_value_of(source[by[0]], below.get(by[0]), by[1:])}


# Lists

_KEYED: Final = "key "

Handle = int | str
"""An element of a list that is being merged: the slot that it has in the index, or its identity where it is new."""


def identify(value: Any, key: Sequence[str]) -> str:
    """What makes two elements of a list one: their members under `key` where they have all of them, else the whole."""
    if not key or type(value) is not dict or any(value.get(name) is None for name in key):
        return canonical(value)
    return _KEYED + canonical([value[name] for name in key])


def is_keyed(identity: str) -> bool:
    """Whether an element with this identity has the key."""
    return identity.startswith(_KEYED)


class ListIndex:
    """A session's list in which elements are found by their identity, kept from one guest to the next.

    Each element has a slot, a number that it keeps while others move or go: so a list is identified once, however many
    guests add to it. `slots` has the elements in the order of the list.
    """

    __slots__ = ("_next_slot", "key", "slots", "values", "where")

    def __init__(self, values: list[Any], key: tuple[str, ...]) -> None:
        self.values = values
        self.key = key
        self.slots: dict[Handle, Any] = {}
        self.where: dict[str, list[int]] = {}
        self._next_slot = len(values)
        for slot, value in enumerate(values):
            self.slots[slot] = value
            self.where.setdefault(identify(value, key), []).append(slot)

    def first(self, identity: str) -> int | None:
        """The slot of the first element with this identity."""
        slots = self.where.get(identity)
        return slots[0] if slots else None

    def sort_in(self, said: Sequence[Any], *, keep: str) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
        """What comes last in the list, new or moved there, by identity; and the guest's elements of each key.

        A new element with a key is `MISSING` among the first, as its fields are still to be merged.
        """
        last: dict[str, Any] = {}
        keyed: dict[str, list[dict[str, Any]]] = {}
        for value in said:
            identity = identify(value, self.key)
            slot = self.first(identity)
            if is_keyed(identity):
                keyed.setdefault(identity, []).append(value)
                if slot is None:
                    last.setdefault(identity, MISSING)
            elif identity in last:
                if keep == "last":
                    last[identity] = last.pop(identity)
            elif slot is None:
                last[identity] = value
            elif keep == "last":
                last[identity] = self.slots[slot]
        return last, keyed

    def become(self, values: list[Any], handles: Sequence[Handle]) -> None:
        """Index `values` from now on; an element whose handle is its identity gets a new slot."""
        slots: dict[Handle, Any] = {}
        came: list[tuple[str, int]] = []
        for handle, value in zip(handles, values, strict=True):
            if type(handle) is int:
                slots[handle] = value
            else:
                came.append((str(handle), self._next_slot))
                slots[self._next_slot] = value
                self._next_slot += 1
        if len(slots) - len(came) < len(self.slots):
            left = {identify(value, self.key) for slot, value in self.slots.items() if slot not in slots}
            for identity in left:
                self.where[identity] = [slot for slot in self.where[identity] if slot in slots]
        for identity, slot in came:
            self.where.setdefault(identity, []).append(slot)
        self.values, self.slots = values, slots


def limited(
    rule: Rule, own: list[Any], merged: list[Any], shield: Shield, moments: Sequence[Moment | None] = ()
) -> Sequence[int] | None:
    """Which elements of `merged` the limit leaves, in their order; None where nothing of the guest is among them.

    A list that is the session's alone is never cut or sorted, and elements that hold a protected value (`shield` is the
    list's) stay. `moments` are those of `merged`, for `keep: newest`.
    """
    limit = len(merged) if rule.limit is None else rule.limit
    if (len(merged) <= limit and rule.keep != "newest") or equal(merged, own):
        return range(len(merged))
    if rule.keep == "first":
        return None if len(own) > limit or limit == 0 else range(limit)
    elements = at_element(shield)
    if rule.keep == "newest":
        pinned = _protected_elements(merged, elements)
        room = limit - len(pinned)
        if len(merged) > limit and room <= 0:
            return None
        order = sorted(range(len(merged)), key=lambda index: _newest_first(moments[index]))
        stay = pinned.union([index for index in order if index not in pinned][:room])
        kept = [index for index in order if index in stay]
        return kept if any(index >= len(own) or merged[index] is not own[index] for index in kept) else None
    after, before = _last(merged, limit, elements), _last(own, limit, elements)
    if after is None or before is None:
        return after
    return None if equal([merged[index] for index in after], [own[index] for index in before]) else after


def _last(values: list[Any], limit: int, shield: Shield) -> list[int] | None:
    """The indexes of the last `limit` elements, those with protected values among them; None where these fill it."""
    pinned = _protected_elements(values, shield)
    room = limit - len(pinned)
    if room <= 0:
        return None
    loose = [index for index in range(len(values)) if index not in pinned]
    return sorted(pinned.union(loose[-room:]))


def _protected_elements(values: list[Any], shield: Shield) -> set[int]:
    """The indexes of the elements that hold a protected value."""
    if not shield:
        return set()
    return {index for index, value in enumerate(values) if protected_part(value, shield) is not MISSING}


# Protected parts


def protected_part(value: Any, shield: Shield) -> Any:
    """The protected parts of the value, in their places; a list is so as a whole. `MISSING` where there are none."""
    if not shield:
        return MISSING
    if shield.value:
        return value
    if type(value) is dict:
        parts = {name: protected_part(member, at_member(shield, name)) for name, member in value.items()}
        return {name: part for name, part in parts.items() if part is not MISSING} or MISSING
    if type(value) is list:
        elements = at_element(shield)
        return value if any(protected_part(element, elements) is not MISSING for element in value) else MISSING
    return MISSING


def with_protected(session: Any, guest: Any, shield: Shield) -> Any:
    """The guest's value with the session's protected ones in their places; the session's if there is no place."""
    part = protected_part(session, shield)
    if part is MISSING:
        return guest
    if type(guest) is not dict or type(part) is not dict:
        return session
    return guest | {
        name: with_protected(session[name], guest[name], at_member(shield, name)) if name in guest else kept
        for name, kept in part.items()
    }
