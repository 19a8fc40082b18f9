"""How one guest's values fold into the session's, place by place: the rules of merge policies at work.

Pure: nothing that comes in is changed, what is not touched is shared. Every function answers the value that the
session has afterwards; where a guest's value was refused, altered or replaced another, that is noted on the way.
Protected values are cut from the guest before anything else, so no rule ever sees one.

Linear in session and guest: no value of the session is copied or searched twice for one guest. So what a guest says of
one place in several elements of one key is gathered (`Several`) before it meets the session's value.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import compress
from typing import Any, Final, Literal, TypeVar

import msgspec

from service.merge.policy import PathTree, Policy, Rule, RuleName, at_element, at_member, value_at
from service.strict_json import canonical, equal, escape, in_range, is_number, kind_of

MISSING: Final = msgspec.UNSET
"""Stands where there is no value; null is one."""


class Several(tuple[Any, ...]):
    """What a guest says of one place where several elements of its list have the same key, in their order."""

    __slots__ = ()


Shield = PathTree[Literal[True]] | None

_WEAKENED: Mapping[RuleName, RuleName] = {"sum": "max", "append": "union"}
"""The rules that would double what was merged before, and what stands in for them."""

_DEEP: Final = Rule("deep")
_BY_KIND: Mapping[str, Rule] = {"object": _DEEP, "list": Rule("union")}
_ELSE: Final = Rule("session")


class Conflict(msgspec.Struct, frozen=True):
    """A guest's value that was discarded or altered, or that replaced the session's; a missing one is null."""

    path: str
    session: Any
    guest: Any
    kept: Literal["session", "guest", "bounded"]
    rule: str
    subject: str


class Change(msgspec.Struct, frozen=True):
    """A value of the session that a guest changed: `before` and `after`, a missing one is null."""

    path: str
    before: Any
    after: Any
    rule: str
    subject: str


class Index(msgspec.Struct, frozen=True):
    """Where in `values` the first element of each identity under `key` stands."""

    values: list[Any]
    key: tuple[str, ...]
    where: dict[str, int]


class Fold(msgspec.Struct):
    """One guest on its way into the session, and the notes taken.

    `indexes` are of lists that guests before this one went into, so that a session's elements are identified once and
    not for each guest; by the list's `id`, which stays its own as the index holds the list.
    """

    subject: str
    weakened: bool
    policy: Policy
    conflicts: list[Conflict] = []
    changes: list[Change] = []
    indexes: dict[int, Index] = {}

    def forget(self, mark: tuple[int, int]) -> None:
        """Strikes out the notes taken since `mark`."""
        conflicts, changes = mark
        del self.conflicts[conflicts:], self.changes[changes:]

    def renumber(self, mark: tuple[int, int], place: "Place", numbers: Callable[[int], int | None]) -> None:
        """Gives the elements of a list in the notes taken since `mark` the indexes that they ended up with.

        The notes of an element that is not there in the end, whose number is None, are struck out.
        """
        conflicts, changes = mark
        at = f"{place.path}/"
        self.conflicts[conflicts:] = _renumbered(self.conflicts[conflicts:], at, numbers)
        self.changes[changes:] = _renumbered(self.changes[changes:], at, numbers)

    @property
    def mark(self) -> tuple[int, int]:
        """How many notes were taken so far."""
        return len(self.conflicts), len(self.changes)

    def rule_for(self, place: "Place", session: Any, guest: Any) -> Rule:
        """The rule in force: objects above a PATH merge member by member, whatever else is said."""
        if place.rules and place.rules.leads_on and (type(session) is dict or type(guest) is dict):
            return _DEEP
        kind, default = kind_of(guest), self.policy.default
        chosen = place.rule or (default if default and default.fits(kind) else _BY_KIND.get(kind, _ELSE))
        weaker = _WEAKENED.get(chosen.name) if self.weakened else None
        return msgspec.structs.replace(chosen, name=weaker) if weaker else chosen


N = TypeVar("N", Conflict, Change)


def _renumbered(notes: list[N], at: str, numbers: Callable[[int], int | None]) -> Iterator[N]:
    for note in notes:
        index, slash, below = note.path.removeprefix(at).partition("/")
        number = numbers(int(index))
        if number is not None:
            yield msgspec.structs.replace(note, path=f"{at}{number}{slash}{below}")


class Place(msgspec.Struct, frozen=True):
    """A place in the payload, and what the policy says about it: `rule` is its own or handed down from above."""

    parent: "Place | None"
    segment: str
    rule: Rule | None
    rules: PathTree[Rule] | None
    shield: Shield

    @property
    def path(self) -> str:
        """The place's JSON Pointer; worked out only for what is reported."""
        return "" if self.parent is None else f"{self.parent.path}/{escape(self.segment)}"

    @property
    def is_protected(self) -> bool:
        """Whether a guest may never set this place."""
        return value_at(self.shield) is not None

    @property
    def is_whole(self) -> bool:
        """Whether the place's own rule takes an object as a whole, not member by member."""
        return self.rule is not None and self.rule.name != "deep" and not (self.rules and self.rules.leads_on)

    def member(self, name: str) -> "Place":
        """The place of an object's member; a rule is handed down unless it is `deep`."""
        rules = at_member(self.rules, name)
        rule = value_at(rules)
        if rule is None and self.rule is not None and self.rule.name != "deep":
            rule = self.rule
        return Place(self, name, rule, rules, at_member(self.shield, name))

    def element(self, index: int, fields: PathTree[Rule] | None) -> "Place":
        """The place of an element of a list; `fields` start afresh."""
        return Place(self, str(index), value_at(fields), fields, at_element(self.shield))


class Case(msgspec.Struct, frozen=True):
    """One guest's value meets the session's at one place, under one rule. `session` may be `MISSING`."""

    fold: Fold
    place: Place
    rule: Rule
    session: Any
    guest: Any

    @property
    def is_vacant(self) -> bool:
        """Whether the session has no value here: missing, or null."""
        return self.session is MISSING or self.session is None

    def both_are(self, fits: Callable[[Any], bool]) -> bool:
        """Whether the guest's value is of a kind, and the session's too unless it is missing."""
        return fits(self.guest) and (self.is_vacant or fits(self.session))

    def take(self, value: Any) -> Any:
        """The session's value is `value` from now on."""
        self.fold.changes.append(
            Change(self.place.path, _or_null(self.session), value, self.rule.name, self.fold.subject)
        )
        return value

    def refuse(self, rule: str = "") -> Any:
        """The session's value stays; that is a conflict where the guest's differs."""
        if self.session is MISSING or not equal(self.session, self.guest):
            self.note("session", rule)
        return self.session

    def note(self, kept: Literal["session", "guest", "bounded"], rule: str = "") -> None:
        """Takes down a conflict."""
        self.fold.conflicts.append(
            Conflict(
                self.place.path, _or_null(self.session), self.guest, kept, rule or self.rule.name, self.fold.subject
            )
        )


def fold_guest(fold: Fold, session: dict[str, Any], guest: dict[str, Any]) -> dict[str, Any]:
    """Folds one guest's payload into the session's; without a guest's value, the very same session."""
    rules = fold.policy.rules
    root = Place(None, "", value_at(rules), rules, fold.policy.shield)
    allowed = cut(fold, root, session, guest)
    merged: dict[str, Any] = fold_root(fold, root, session, [allowed]) if allowed else session
    return merged


def cut(fold: Fold, place: Place, session: Any, guest: Any) -> Any:
    """The guest's value without what is protected; `MISSING` where all of it is. What differs is a conflict."""
    if not place.shield:
        return guest
    if place.is_protected:
        if guest is not None:
            Case(fold, place, _ELSE, session, guest).refuse("protect")
        return MISSING
    if type(guest) is dict:
        members = session if type(session) is dict else {}
        kept = ((name, cut(fold, place.member(name), members.get(name, MISSING), guest[name])) for name in guest)
        return {name: value for name, value in kept if value is not MISSING}
    if type(guest) is list:
        elements = (cut(fold, place.element(index, None), MISSING, value) for index, value in enumerate(guest))
        return [value for value in elements if value is not MISSING]
    return guest


def fold_root(fold: Fold, place: Place, session: Any, guests: Sequence[dict[str, Any]]) -> Any:
    """Folds objects that are no one's member: their members by their rules, unless a PATH "" speaks of the whole."""
    if place.rule and place.is_whole:
        return _in_turn(fold, place, place.rule, session, guests)
    return _in_turn(fold, place, _DEEP, {} if session is MISSING else session, guests)


def fold_value(fold: Fold, place: Place, session: Any, guest: Any) -> Any:
    """Folds one value into the session's; `MISSING` in and out where there is none. A guest's null is missing."""
    if guest is None:
        return session
    if type(guest) is Several:
        return _fold_several(fold, place, session, guest)
    return _apply(Case(fold, place, fold.rule_for(place, session, guest), session, guest))


def _fold_several(fold: Fold, place: Place, session: Any, guests: Several) -> Any:
    """Folds what a guest says of one place: all that goes by the rule of the first, then by that of the next."""
    waiting = [guest for guest in guests if guest is not None]
    while waiting:
        rules = [fold.rule_for(place, session, guest) for guest in waiting]
        alike = [rule.name == rules[0].name for rule in rules]
        session = _in_turn(fold, place, rules[0], session, list(compress(waiting, alike)))
        waiting = [guest for guest, done in zip(waiting, alike, strict=True) if not done]
    return session


def _in_turn(fold: Fold, place: Place, rule: Rule, session: Any, guests: Sequence[Any]) -> Any:
    for guest in guests if len(guests) == 1 else _gathered(rule, session, guests):
        session = _apply(Case(fold, place, rule, session, guest))
    return session


def _gathered(rule: Rule, session: Any, guests: Sequence[Any]) -> Sequence[Any]:
    """As few values as say the same: of those that replace one another the last, and one object or list of many."""
    if rule.name == "guest":
        return guests[-1:]
    fits, gather = _GATHER.get(rule.name, (None, None))
    if not fits or not gather or not (session is MISSING or session is None or fits(session)):
        return guests
    fitting = [guest for guest in guests if fits(guest)]
    return [*(guest for guest in guests if not fits(guest)), *([gather(fitting)] if fitting else [])]


def _gather_objects(objects: Sequence[dict[str, Any]]) -> dict[str, Any]:
    members: dict[str, list[Any]] = {}
    for each in objects:
        for name, value in each.items():
            members.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else Several(values) for name, values in members.items()}


def _gather_lists(lists: Sequence[list[Any]]) -> list[Any]:
    return [value for values in lists for value in values]


def _apply(case: Case) -> Any:
    return _RULES[case.rule.name](case)


def _session(case: Case) -> Any:
    return case.take(case.guest) if case.session is MISSING else case.refuse()


def _guest(case: Case) -> Any:
    if case.is_vacant:
        return case.take(case.guest)
    value = with_protected(case.session, case.guest, case.place.shield)
    if equal(value, case.session):
        return case.refuse("protect")
    case.note("guest")
    return case.take(value)


def _guest_if_empty(case: Case) -> Any:
    if not case.is_vacant and not _is_empty(without_protected(case.session, case.place.shield)):
        return case.session
    value = with_protected(case.session, case.guest, case.place.shield)
    return case.refuse("protect") if equal(value, case.session) else case.take(value)


def _drop(case: Case) -> Any:
    return case.session


def _deep(case: Case) -> Any:
    if not case.both_are(_is_object):
        return case.refuse()
    merged = dict(case.session) if case.session else {}
    for name, value in case.guest.items():
        folded = fold_value(case.fold, case.place.member(name), merged.get(name, MISSING), value)
        if folded is not MISSING:
            merged[name] = folded
    if not case.is_vacant:
        return merged
    return case.take(merged) if not case.guest else merged or case.session


def _number(case: Case) -> Any:
    if not case.both_are(is_number):
        return case.refuse()
    combined = case.guest if case.is_vacant else _ARITHMETIC[case.rule.name](case.session, case.guest)
    if combined == case.session:
        return case.session
    bounded = _clamp(combined, case.rule)
    if not in_range(bounded):
        case.note("session")
        return case.session
    if bounded != combined:
        case.note("bounded")
    return case.session if bounded == case.session else case.take(bounded)


def add(one: float, other: float) -> int | float:
    """The sum: whole and exact where both are whole, however they are spelt; else the double next to the exact sum."""
    if _is_whole(one) and _is_whole(other):
        return int(one) + int(other)
    if type(one) is type(other):
        return one + other
    return float(Fraction(one) + Fraction(other))


def _is_whole(number: float) -> bool:
    return type(number) is int or (number.is_integer() and in_range(int(number)))


def _clamp(value: float, rule: Rule) -> int | float:
    if rule.floor is not None and value < rule.floor:
        return rule.floor
    if rule.ceiling is not None and value > rule.ceiling:
        return rule.ceiling
    return value


def _list(case: Case) -> Any:
    if not case.both_are(_is_list):
        return case.refuse()
    own, mark = case.session or [], case.fold.mark
    index = Index(own + case.guest, (), {}) if case.rule.name == "append" else _union(case, own)
    slots = index.values
    places = [index for index, value in enumerate(slots) if value is not MISSING]
    merged = slots if len(places) == len(slots) else [slots[index] for index in places]
    stay = _limit(case, own, merged)
    if stay is None:
        case.fold.forget(mark)
        case.note("session")
        return case.session
    kept = merged if len(stay) == len(merged) else [merged[index] for index in stay]
    if len(kept) < len(slots) and mark != case.fold.mark:
        # An element that no rule handed over would have come last; one that the limit cut has no number.
        numbers = dict.fromkeys(places) | {places[index]: number for number, index in enumerate(stay)}
        case.fold.renumber(mark, case.place, lambda index: numbers.get(index, len(kept)))
    if kept is not merged:
        case.note("bounded")
    if case.is_vacant and not kept and case.guest:
        return case.session
    result: list[Any] = own if not case.is_vacant and equal(kept, own) else case.take(kept)
    if kept is slots and index.where:
        case.fold.indexes[id(result)] = msgspec.structs.replace(index, values=result)
    return result


def _limit(case: Case, own: list[Any], merged: list[Any]) -> Sequence[int] | None:
    """Which elements the limit lets stay; None where nothing of the guest is in: the session's alone is never cut."""
    limit = case.rule.limit
    if limit is None or len(merged) <= limit or equal(merged, own):
        return range(len(merged))
    if case.rule.keep == "first":
        return None if len(own) > limit or limit == 0 else range(limit)
    elements = at_element(case.place.shield)
    stay, before = _newest(merged, limit, elements), _newest(own, limit, elements)
    if stay is None or (before and equal([merged[index] for index in stay], [own[index] for index in before])):
        return None
    return stay


def _newest(values: list[Any], limit: int, shield: Shield) -> list[int] | None:
    """The last `limit` elements, but those with protected values stay; None where these leave no room."""
    pinned = {index for index, value in enumerate(values) if protected_part(value, shield) is not MISSING}
    room = limit - len(pinned)
    if room <= 0:
        return None
    loose = [index for index in range(len(values)) if index not in pinned]
    return sorted(pinned.union(loose[-room:]))


def _union(case: Case, own: list[Any]) -> Index:
    """The guest's elements that are not there yet follow; those with a key that is there merge into that element.

    Linear: `where` finds the first element of each identity, and all that has one key merges at once. An element that
    moved leaves `MISSING` behind, and so does one that no rule hands over: the notes have been given these indexes.
    """
    rule, slots = case.rule, list(own)
    where = _where(case, own)
    keyed: dict[int, list[dict[str, Any]]] = {}
    for value in case.guest:
        identity = _identity(value, rule.key)
        index = where.get(identity, len(slots))
        if identity.startswith(_KEYED):
            keyed.setdefault(index, []).append(value)
        if index == len(slots):
            where[identity] = index
            slots.append(MISSING if index in keyed else value)
        elif index not in keyed and rule.keep == "last":
            where[identity] = len(slots)
            slots.append(slots[index])
            slots[index] = MISSING
    for index, values in keyed.items():
        slots[index] = _element(case, index, slots[index], values)
    return Index(slots, rule.key, where)


def _where(case: Case, own: list[Any]) -> dict[str, int]:
    """Where the first element of each identity stands; for the caller to change, as the list is about to."""
    index = case.fold.indexes.pop(id(own), None)
    if index and index.key == case.rule.key:
        return index.where
    where: dict[str, int] = {}
    for number, value in enumerate(own):
        where.setdefault(_identity(value, case.rule.key), number)
    return where


_KEYED: Final = "key "


def _identity(value: Any, key: tuple[str, ...]) -> str:
    """What makes two elements of a list one: their key where they have it, else all of them."""
    if not key or type(value) is not dict or any(value.get(name) is None for name in key):
        return canonical(value)
    return _KEYED + canonical([value[name] for name in key])


def _element(case: Case, index: int, session: Any, guests: Sequence[dict[str, Any]]) -> Any:
    """Merges elements of one key into the session's by `fields`. The key is no field: equal on both sides, it stays.

    `MISSING` where `fields` have a rule for "", the element as a whole, that does not hand a new one over.
    """
    place, names = case.place.element(index, case.rule.fields), case.rule.key
    rest = guests if place.is_whole else [_without(each, names) for each in guests]
    changes = len(case.fold.changes)
    folded = fold_root(case.fold, place, session, rest)
    if folded is MISSING or folded is session:
        return folded
    if session is MISSING:
        del case.fold.changes[changes:]  # the list's own change says it
        key = {name: guests[0][name] for name in names}
        return key | folded | key
    return folded | {name: session[name] for name in names}


def _without(value: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: member for name, member in value.items() if name not in names}


def protected_part(value: Any, shield: Shield) -> Any:
    """What of the value is protected, in its place; a list is so as a whole. `MISSING` where nothing is."""
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
    """What of an object is not protected."""
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


def _is_empty(value: Any) -> bool:
    return value is None or (type(value) in (str, list, dict) and not value)


def _is_object(value: object) -> bool:
    return type(value) is dict


def _is_list(value: object) -> bool:
    return type(value) is list


def _or_null(value: Any) -> Any:
    return None if value is MISSING else value


_ARITHMETIC: Mapping[RuleName, Callable[[Any, Any], Any]] = {"sum": add, "max": max, "min": min}

_GATHER: Mapping[RuleName, tuple[Callable[[Any], bool], Callable[[Sequence[Any]], Any]]] = {
    "deep": (_is_object, _gather_objects),
    "union": (_is_list, _gather_lists),
    "append": (_is_list, _gather_lists),
    "by_key": (_is_list, _gather_lists),
}

_RULES: Mapping[RuleName, Callable[[Case], Any]] = {
    "session": _session,
    "guest": _guest,
    "guest_if_empty": _guest_if_empty,
    "drop": _drop,
    "deep": _deep,
    "sum": _number,
    "max": _number,
    "min": _number,
    "union": _list,
    "append": _list,
    "by_key": _list,
}
