"""Folding one guest's payload into the session's: the walk through both, and the notes taken on the way.

Pure: nothing that comes in is changed, and untouched parts are shared. Every function returns the value that the
session has afterwards. Where a guest's value was refused or altered, or replaced another, that is noted. Protected
values are cut from the guest before anything else, so no rule ever sees one.

Linear in session and guest: no value of the session is copied or searched twice for one guest. So a place is folded
once with all that the guest has for it, which is several values where several elements of its list have one key.
"""

from collections.abc import Sequence
from typing import Any, Final, Literal, TypeVar

import msgspec

from service.merge.policy import SESSION, Location, Policy, Rule, RuleName
from service.merge.rules import (
    MISSING,
    Handle,
    ListIndex,
    Moment,
    clamp,
    combine,
    is_later,
    limited,
    moment,
    with_later_moment,
    with_protected,
)
from service.strict_json import equal, in_range, is_number

_WEAKENED: Final[dict[RuleName, RuleName]] = {"sum": "max", "append": "union"}
"""The rules that would double values that were merged before, and the ones that replace them."""

T = TypeVar("T", dict[str, Any], list[Any])
Kept = Literal["session", "guest", "bounded"]


class Conflict(msgspec.Struct, frozen=True):
    """A guest's value that was discarded or altered, or that replaced the session's; a missing one is null."""

    path: str
    session: Any
    guest: Any
    kept: Kept
    rule: str
    subject: str


class AppliedChange(msgspec.Struct, frozen=True):
    """A value of the session that a guest changed: `before` and `after`, a missing one is null."""

    path: str
    before: Any
    after: Any
    rule: str
    subject: str


class MergeState(msgspec.Struct):
    """One merge: the guest that is folding in, the notes taken of it, the report on all guests, and the lists' indexes.

    Notes hold a location, as paths are only known when all lists are complete.
    """

    policy: Policy
    subject: str = ""
    weakened: bool = False
    conflicts: list[Conflict] = []
    changes: list[AppliedChange] = []
    conflict_notes: list[tuple[Location, Any, Any, Kept, str]] = []
    change_notes: list[tuple[Location, Any, Any, str]] = []
    indexes: dict[str | None, ListIndex] = {}
    moments: dict[str | None, tuple[list[Any], list[Moment | None]]] = {}

    def rule_at(self, location: Location, session: Any, guest: Any) -> Rule:
        """The rule in force for this guest."""
        rule = self.policy.rule_at(location, session, guest)
        if self.weakened and rule.name in _WEAKENED:
            return msgspec.structs.replace(rule, name=_WEAKENED[rule.name])
        return rule

    def index_of(self, location: Location, values: list[Any], rule: Rule) -> ListIndex:
        """The index of the list at a location, from an earlier guest where that left the very same list."""
        path = location.path
        found = self.indexes.get(path)
        if found is None or found.values is not values or found.key != rule.key:
            found = self.indexes[path] = ListIndex(values, rule.key)
        return found

    def moments_of(self, location: Location, values: list[Any], rule: Rule) -> list[Moment | None]:
        """When each element of the list was, from an earlier guest where that left the very same list."""
        known, moments = self.moments.get(location.path, (None, []))
        return moments if known is values else [moment(value, rule.by) for value in values]

    def report(self) -> None:
        """Turn the notes into the report. Nothing is reported of an element that is not in its list."""
        for location, session, guest, kept, rule in self.conflict_notes:
            if (path := location.path) is not None:
                self.conflicts.append(Conflict(path, _or_null(session), _or_null(guest), kept, rule, self.subject))
        for location, before, after, rule in self.change_notes:
            if (path := location.path) is not None:
                self.changes.append(AppliedChange(path, _or_null(before), after, rule, self.subject))
        self.conflict_notes.clear()
        self.change_notes.clear()

    def without_protected(self, location: Location, session: Any, guest: Any) -> Any:
        """The guest's value without its protected parts, `MISSING` if it is one. A part that differs is a conflict."""
        if not location.shield:
            return guest
        if location.is_protected:
            if guest is not None:
                RuleContext(self, location, SESSION, session).refuse(guest, by="protect")
            return MISSING
        if type(guest) is dict:
            members = session if type(session) is dict else {}
            parts = (
                (name, self.without_protected(location.member(name), members.get(name, MISSING), guest[name]))
                for name in guest
            )
            return {name: part for name, part in parts if part is not MISSING}
        if type(guest) is list:
            elements = (
                self.without_protected(location.element(index, None), MISSING, value)
                for index, value in enumerate(guest)
            )
            return [element for element in elements if element is not MISSING]
        return guest

    def fold_value(self, location: Location, session: Any, guests: Sequence[Any]) -> Any:
        """Fold everything that the guest has for one place; `MISSING` in and out where there is no value.

        A guest's null is no value. All values under the rule of the first come first, then those under the next one's.
        """
        if len(guests) == 1:
            guest = guests[0]
            if guest is None:
                return session
            return self.apply(location, self.rule_at(location, session, guest), session, guests)
        waiting = [guest for guest in guests if guest is not None]
        while waiting:
            rules = [self.rule_at(location, session, guest) for guest in waiting]
            now = [guest for guest, rule in zip(waiting, rules, strict=True) if rule.name == rules[0].name]
            waiting = [guest for guest, rule in zip(waiting, rules, strict=True) if rule.name != rules[0].name]
            session = self.apply(location, rules[0], session, now)
        return session

    def apply(self, location: Location, rule: Rule, session: Any, guests: Sequence[Any]) -> Any:
        """One rule on one or several values of a guest: objects and lists are gathered, others follow one another."""
        match rule.name:
            case "drop":
                return session
            case "deep":
                return RuleContext(self, location, rule, session).merge_objects(guests)
            case "union" | "append" | "by_key":
                return RuleContext(self, location, rule, session).merge_lists(guests)
            case "guest":
                return RuleContext(self, location, rule, session).replace(guests[-1])
            case "session":
                single = RuleContext.keep_session
            case "guest_if_empty":
                single = RuleContext.fill_empty
            case "latest":
                single = RuleContext.take_latest
            case "sum" | "max" | "min":
                single = RuleContext.combine_numbers
        for guest in guests:
            session = single(RuleContext(self, location, rule, session), guest)
        return session


class RuleContext(msgspec.Struct, frozen=True):
    """One rule at work at one place. `session` is the session's value, `MISSING` where it has none."""

    state: MergeState
    location: Location
    rule: Rule
    session: Any

    @property
    def is_vacant(self) -> bool:
        """Whether the session has no value here: missing, or null."""
        return self.session is MISSING or self.session is None

    def take(self, value: Any) -> Any:
        """The session's value is `value` from now on."""
        self.state.change_notes.append((self.location, self.session, value, self.rule.name))
        return value

    def refuse(self, guest: Any, *, by: str = "") -> Any:
        """The session's value stays; that is a conflict where the guest's differs."""
        if not equal(self.session, guest):
            self.note(guest, "session", by=by)
        return self.session

    def note(self, guest: Any, kept: Kept, *, by: str = "") -> None:
        """Note a conflict."""
        self.state.conflict_notes.append((self.location, self.session, guest, kept, by or self.rule.name))

    def of_type(self, kind: type[T], guests: Sequence[Any]) -> list[T]:
        """The guest's values of this type, if the session's is of it too or there is none; the others are refused."""
        fits = self.is_vacant or type(self.session) is kind
        found = []
        for guest in guests:
            if fits and type(guest) is kind:
                found.append(guest)
            else:
                self.refuse(guest)
        return found

    def keep_session(self, guest: Any) -> Any:
        """`session`: the guest's value only where the session has none."""
        return self.take(guest) if self.session is MISSING else self.refuse(guest)

    def replace(self, guest: Any) -> Any:
        """The guest's value as a whole, with what is protected in the session's; `guest` reports the session's."""
        value = with_protected(self.session, guest, self.location.shield)
        if equal(value, self.session):
            return self.refuse(guest, by="protect")
        if self.rule.name == "guest" and not self.is_vacant:
            self.note(guest, "guest")
        return self.take(value)

    def fill_empty(self, guest: Any) -> Any:
        """`guest_if_empty`: the guest's value where the session's is empty but for protected members."""
        if type(self.session) is dict:
            empty = all(self.location.member(name).is_protected for name in self.session)
        else:
            empty = self.is_vacant or self.session in ("", [])
        return self.replace(guest) if empty else self.session

    def take_latest(self, guest: Any) -> Any:
        """`latest`: the object with the later moment."""
        if not self.of_type(dict, [guest]):
            return self.session
        later = self.is_vacant or is_later(guest, self.session, self.rule.by)
        return self.replace(guest) if later else self.session

    def combine_numbers(self, guest: Any) -> Any:
        """`sum`, `max`, `min`, within the bounds."""
        session = self.session
        if not is_number(guest) or not (self.is_vacant or is_number(session)):
            return self.refuse(guest)
        combined = guest if self.is_vacant else combine(self.rule, session, guest)
        if combined == session:
            return session
        bounded = clamp(self.rule, combined) if self.is_vacant else clamp(self.rule, combined, session)
        if not in_range(bounded):
            self.note(guest, "session")
            return session
        if bounded != combined:
            self.note(guest, "bounded")
        return session if bounded == session else self.take(bounded)

    def merge_objects(self, guests: Sequence[Any]) -> Any:
        """`deep`: member by member. What several objects of the guest have for one member is folded at once."""
        session = self.session
        objects = self.of_type(dict, guests)
        if not objects:
            return session
        said: dict[str, list[Any]] = {}
        for guest in objects:
            for name, value in guest.items():
                said.setdefault(name, []).append(value)
        merged = dict(session) if session else {}
        for name, values in said.items():
            folded = self.state.fold_value(self.location.member(name), merged.get(name, MISSING), values)
            if folded is not MISSING:
                merged[name] = folded
        if not self.is_vacant:
            return merged
        # A new object none of whose members is handed over does not come into being; an empty one does.
        return (merged or session) if said else self.take(merged)

    def merge_lists(self, guests: Sequence[Any]) -> Any:
        """`union`, `append`, `by_key`: the guest's elements follow, merge into the same ones, or move to the end."""
        lists = self.of_type(list, guests)
        if not lists:
            return self.session
        said = lists[0] if len(lists) == 1 else [value for values in lists for value in values]
        own = self.session or []
        if self.rule.name == "append":
            return self.bounded(own, said, [*own, *said])[0]
        return self.merge_elements(own, said)

    def merge_elements(self, own: list[Any], said: list[Any]) -> Any:
        """`union` and `by_key`: merge the guest's elements into those that are the same, the others follow."""
        rule = self.rule
        index = self.state.index_of(self.location, own, rule)
        last, keyed = index.sort_in(said, keep=rule.keep)
        listed = dict(index.slots)
        for identity, value in last.items():
            if (slot := index.first(identity)) is not None:
                del listed[slot]
            listed[identity] = value
        touched: dict[Handle, Location] = {}
        for identity, elements in keyed.items():
            slot = index.first(identity)
            handle: Handle = identity if slot is None else slot
            touched[handle] = self.location.element(slot, rule.fields)
            listed[handle] = self.merge_element(touched[handle], listed[handle], elements)
            if listed[handle] is MISSING:
                del listed[handle]
        merged, kept = self.bounded(own, said, list(listed.values()))
        for handle, place in touched.items():
            # An element that no rule hands over would have come last; one that the limit cut has no index.
            place.segment = None if kept is None or handle in listed else len(kept)
        if kept is None or (merged is self.session and not touched):
            return merged
        handles = list(listed)
        handles = [handles[position] for position in kept]
        for position, handle in enumerate(handles):
            if handle in touched:
                touched[handle].segment = position
        if merged is not self.session:
            index.become(merged, handles)
        return merged

    def bounded(self, own: list[Any], said: list[Any], merged: list[Any]) -> tuple[Any, Sequence[int] | None]:
        """The list after its limit, and which elements of `merged` it has; None where the session's stays."""
        state, rule = self.state, self.rule
        moments: list[Moment | None] = []
        if rule.keep == "newest":
            moments = state.moments_of(self.location, own, rule)
            moments = [
                moments[index] if index < len(own) and value is own[index] else moment(value, rule.by)
                for index, value in enumerate(merged)
            ]
        kept = limited(rule, own, merged, self.location.shield, moments)
        if kept is None:
            self.note(said, "session")
            return self.session, None
        values = merged if kept == range(len(merged)) else [merged[position] for position in kept]
        if len(kept) < len(merged):
            self.note(said, "bounded")
        if equal(values, own) and (said or not self.is_vacant):
            return self.session, kept
        if rule.keep == "newest":
            state.moments[self.location.path] = values, [moments[position] for position in kept]
        return self.take(values), kept

    def merge_element(self, place: Location, session: Any, guests: Sequence[dict[str, Any]]) -> Any:
        """Merge elements of one key into the session's by `fields`. The key is no field: equal on both sides, it stays.

        `MISSING` where `fields` have a rule for "", the element as a whole, that does not hand a new one over.
        """
        state, names = self.state, self.rule.key
        rule = state.policy.rule_at(place, session, guests[0])
        own, fields = session, guests
        if rule.name == "deep":
            own = {} if session is MISSING else session
            fields = [{name: member for name, member in guest.items() if name not in names} for guest in guests]
        if self.rule.keep == "newest":
            # All have the latest moment before they merge: no rule takes it away, and none reports it as a conflict.
            latest, *others = fields if session is MISSING else [own, *fields]
            latest = with_later_moment(latest, others, self.rule.by)
            own = own if session is MISSING else latest
            fields = [with_later_moment(each, [latest], self.rule.by) for each in fields]
        noted = len(state.change_notes)
        folded = state.apply(place, rule, own, fields)
        if folded is MISSING or folded is session:
            return folded
        if session is MISSING:
            del state.change_notes[noted:]  # the change of the list says it
            key = {name: guests[0][name] for name in names}
            return key | folded | key
        return folded | {name: session[name] for name in names}


def fold_guest(
    state: MergeState, session: dict[str, Any], guest: dict[str, Any], *, subject: str, weakened: bool
) -> dict[str, Any]:
    """Fold one guest's payload into the session's; without a value from the guest, the very same session."""
    state.subject, state.weakened = subject, weakened
    root = state.policy.root
    allowed = state.without_protected(root, session, guest)
    if allowed:
        session = state.apply(root, state.policy.rule_at(root, session, allowed), session, [allowed])
    state.report()
    return session


def _or_null(value: Any) -> Any:
    return None if value is MISSING else value
