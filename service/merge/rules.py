"""What the rules of a merge policy make of values: numbers, lists, and what is protected in a value.

Pure: nothing that comes in is changed, and unchanged parts are shared. Knows no places and takes no notes: `fold` walks
through payloads and applies these.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final

import msgspec

from service.merge.policy import Rule, Shield, at_element, at_member, value_at
from service.strict_json import canonical, equal, in_range

MISSING: Final = msgspec.UNSET
"""Stands where there is no value; null is one."""

# Numbers


def add(*numbers: float) -> int | float:
    """The sum: whole and exact where all are whole, however they are spelt; else the double next to the exact sum."""
    if all(map(_is_whole, numbers)):
        return sum(map(int, numbers))
    try:
        return float(sum(map(Fraction, numbers)))
    except OverflowError:
        return float("inf")


def _is_whole(number: float) -> bool:
    return type(number) is int or (number.is_integer() and in_range(int(number)))


def combine(rule: Rule, one: float, other: float) -> int | float:
    """Two numbers under `sum`, `max` or `min`, not yet bounded."""
    if rule.name == "sum":
        return add(one, other)
    return max(one, other) if rule.name == "max" else min(one, other)


def clamp(rule: Rule, value: float) -> int | float:
    """The number within the rule's bounds."""
    if rule.floor is not None and value < rule.floor:
        return rule.floor
    if rule.ceiling is not None and value > rule.ceiling:
        return rule.ceiling
    return value


# Lists

_KEYED: Final = "key "


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
        self.slots: dict[int, Any] = dict(enumerate(values))
        self.where: dict[str, list[int]] = {}
        self._next_slot = len(values)
        for slot, value in self.slots.items():
            self.where.setdefault(identify(value, key), []).append(slot)

    def first(self, identity: str) -> int | None:
        """The slot of the first element with this identity."""
        slots = self.where.get(identity)
        return slots[0] if slots else None

    def become(self, values: list[Any], slots: dict[int, Any], last: dict[str, Any]) -> None:
        """Index `values` from now on: the elements that stay in their slots, then those that come last, by identity."""
        if len(slots) < len(self.slots):
            gone = {identify(value, self.key) for slot, value in self.slots.items() if slot not in slots}
            for identity in gone:
                self.where[identity] = [slot for slot in self.where[identity] if slot in slots]
        self.values, self.slots = values, slots
        for identity, value in last.items():
            slots[self._next_slot] = value
            self.where.setdefault(identity, []).append(self._next_slot)
            self._next_slot += 1


def limited(rule: Rule, own: list[Any], merged: list[Any], shield: Shield) -> Sequence[int] | None:
    """Which elements of `merged` the limit leaves; None where nothing of the guest is among them.

    What is the session's alone is never cut, and elements that hold a protected value (`shield` is the list's) stay.
    """
    limit = rule.limit
    if limit is None or len(merged) <= limit or equal(merged, own):
        return range(len(merged))
    if rule.keep == "first":
        return None if len(own) > limit or limit == 0 else range(limit)
    elements = at_element(shield)
    stay, before = _last(merged, limit, elements), _last(own, limit, elements)
    if stay is None or (before and equal([merged[index] for index in stay], [own[index] for index in before])):
        return None
    return stay


def _last(values: list[Any], limit: int, shield: Shield) -> list[int] | None:
    """The last `limit` elements, but those with protected values stay; None where these leave no room."""
    pinned = {index for index, value in enumerate(values) if protected_part(value, shield) is not MISSING}
    room = limit - len(pinned)
    if room <= 0:
        return None
    loose = [index for index in range(len(values)) if index not in pinned]
    return sorted(pinned.union(loose[-room:]))


# What is protected


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


def without_protected(value: Any, shield: Shield) -> Any:
    """An object without its protected members; any other value as it is."""
    if type(value) is not dict or not shield:
        return value
    below = ((name, member, at_member(shield, name)) for name, member in value.items())
    return {name: without_protected(member, tree) for name, member, tree in below if not value_at(tree)}


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
