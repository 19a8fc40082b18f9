"""How one guest's values fold into the session's, place by place: the rules of merge policies at work.

Pure: nothing that comes in is changed, what is not touched is shared. Every function answers the value that the
session has afterwards; where a guest's value was refused, altered or replaced another, that is noted on the way.
Protected values are cut from the guest before anything else, so no rule ever sees one.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Final, Literal

import msgspec

from service.json_values import canonical, equal, escape, in_range, is_number, kind_of
from service.merge_policies import PathTree, Policy, Rule, RuleName, at_element, at_member, value_at

MISSING: Final = msgspec.UNSET
"""Stands where there is no value; null is one."""

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


class Fold(msgspec.Struct):
    """One guest on its way into the session, and the notes taken."""

    subject: str
    weakened: bool
    policy: Policy
    conflicts: list[Conflict] = []
    changes: list[Change] = []

    def rule_for(self, place: "Place", session: Any, guest: Any) -> Rule:
        """The rule in force: objects above a PATH merge member by member, whatever else is said."""
        if place.rules and place.rules.leads_on and (type(session) is dict or type(guest) is dict):
            return _DEEP
        kind, default = kind_of(guest), self.policy.default
        chosen = place.rule or (default if default and default.fits(kind) else _BY_KIND.get(kind, _ELSE))
        weaker = _WEAKENED.get(chosen.name) if self.weakened else None
        return msgspec.structs.replace(chosen, name=weaker) if weaker else chosen


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
    merged: dict[str, Any] = fold_root(fold, root, session, allowed) if allowed else session
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


def fold_root(fold: Fold, place: Place, session: Any, guest: dict[str, Any]) -> Any:
    """Folds an object that is no one's member: its members by their rules, unless a PATH "" speaks of it as a whole."""
    rule = place.rule
    if rule is None or rule.name == "deep" or (place.rules and place.rules.leads_on):
        return _deep(Case(fold, place, _DEEP, {} if session is MISSING else session, guest))
    return _apply(Case(fold, place, rule, session, guest))


def fold_value(fold: Fold, place: Place, session: Any, guest: Any) -> Any:
    """Folds one value into the session's; `MISSING` in and out where there is none. A guest's null is missing."""
    if guest is None:
        return session
    return _apply(Case(fold, place, fold.rule_for(place, session, guest), session, guest))


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
    return case.refuse("protect") if value is case.session else case.take(value)


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
    own = case.session or []
    conflicts, changes = len(case.fold.conflicts), len(case.fold.changes)
    merged = own + case.guest if case.rule.name == "append" else _union(case, own)
    kept = _limit(case, own, merged)
    if kept is own:
        del case.fold.conflicts[conflicts:], case.fold.changes[changes:]
    if kept is not merged:
        case.note("session" if kept is own else "bounded")
    if case.is_vacant:
        return case.take(kept) if kept or not case.guest else case.session
    return own if equal(kept, own) else case.take(kept)


def _limit(case: Case, own: list[Any], merged: list[Any]) -> list[Any]:
    """Holds the limit, unless nothing of the guest is in the list: what is the session's alone is never cut."""
    limit = case.rule.limit
    if limit is None or len(merged) <= limit or equal(merged, own):
        return merged
    if case.rule.keep == "first":
        return own if len(own) > limit or limit == 0 else merged[:limit]
    elements = at_element(case.place.shield)
    kept = _newest(merged, limit, elements)
    return own if kept is None or equal(kept, _newest(own, limit, elements)) else kept


def _newest(values: list[Any], limit: int, shield: Shield) -> list[Any] | None:
    """The last `limit` elements, but those with protected values stay; None where these leave no room."""
    pinned = {index for index, value in enumerate(values) if protected_part(value, shield) is not MISSING}
    room = limit - len(pinned)
    if room <= 0:
        return None
    loose = [index for index in range(len(values)) if index not in pinned]
    stay = pinned.union(loose[-room:])
    return [value for index, value in enumerate(values) if index in stay]


def _union(case: Case, own: list[Any]) -> list[Any]:
    """The guest's elements that are not there yet follow; those with a key that is there merge into that element.

    Linear: `where` finds the first element of each identity. An element that moved leaves a hole until the end.
    """
    rule, merged = case.rule, list(own)
    where: dict[str, int] = {}
    for index, value in enumerate(own):
        where.setdefault(_identity(value, rule.key), index)
    for value in case.guest:
        identity = _identity(value, rule.key)
        index = where.get(identity, len(merged))
        has_key = identity.startswith(_KEYED)
        if index == len(merged):
            added = _element(case, index, MISSING, value) if has_key else value
            if added is MISSING:
                continue
        elif has_key:
            merged[index] = _element(case, index, merged[index], value)
            continue
        elif rule.keep == "last":
            added, merged[index] = merged[index], MISSING
        else:
            continue
        where[identity] = len(merged)
        merged.append(added)
    return [value for value in merged if value is not MISSING]


_KEYED: Final = "key "


def _identity(value: Any, key: tuple[str, ...]) -> str:
    """What makes two elements of a list one: their key where they have it, else all of them."""
    if key and type(value) is dict:
        names = []
        for name in key:
            if value.get(name) is None:
                return canonical(value)
            names.append(value[name])
        return _KEYED + canonical(names)
    return canonical(value)


def _element(case: Case, index: int, session: Any, guest: dict[str, Any]) -> Any:
    """Merges an element by `fields`. Its key is no field: equal on both sides, it stays as it is.

    `MISSING` where `fields` have a rule for "", the element as a whole, that does not hand a new one over.
    """
    key = {name: guest[name] for name in case.rule.key}
    rest = {name: value for name, value in guest.items() if name not in key}
    changes = len(case.fold.changes)
    folded = fold_root(case.fold, case.place.element(index, case.rule.fields), session, rest)
    if session is MISSING:
        del case.fold.changes[changes:]  # the list's own change says it
        return MISSING if folded is MISSING else key | folded
    return folded | {name: session[name] for name in key}


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
