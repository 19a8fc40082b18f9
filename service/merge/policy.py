"""Compiled merge policies: which rule is in force at which place of a payload.

Pure. A policy is compiled once (`policy_parser`) into trees of PATHs. Merging walks these in step with the payload, so
that no member costs a search, however many PATHs a policy has.
"""

from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from service.strict_json import Kind, kind_of, pointer

RuleName = Literal[
    "session", "guest", "guest_if_empty", "drop", "latest", "deep", "sum", "max", "min", "union", "append", "by_key"
]

PROTECTED = (
    *("iss", "sub", "aud", "exp", "nbf", "iat", "jti"),
    *("role", "roles", "group", "groups", "permission", "permissions", "scope", "scp"),
    *("email", "email_verified", "phone_number", "phone_number_verified", "user_id", "uid", "admin", "is_admin"),
    *("st-role", "st-perm", "st-ev", "sessionHandle"),
)
"""Top-level members that a guest may not set, unless a policy says `protect_defaults: false`: identity, privileges."""

RECEIPTS: Final = "merged_guests"
"""The top-level member with the receipts of merged guests; protected under every policy."""

_KIND_OF_RULE: Final[dict[RuleName, Kind]] = {
    "latest": "object",
    "deep": "object",
    "sum": "number",
    "max": "number",
    "min": "number",
    "union": "list",
    "append": "list",
    "by_key": "list",
}
"""The kind of value that a rule is for; the others are for any."""

T = TypeVar("T")


class PathTree(msgspec.Struct, Generic[T], frozen=True):
    """What the most specific PATH says about a place of the payload, and the trees of the places below it."""

    value: T | None = None
    named: dict[str, "PathTree[T] | None"] = {}
    others: "PathTree[T] | None" = None

    @property
    def leads_on(self) -> bool:
        """Whether a PATH leads to something below this place."""
        return self.others is not None or bool(self.named)


def value_at(tree: PathTree[T] | None) -> T | None:
    """The value for the place itself."""
    return None if tree is None else tree.value


def at_member(tree: PathTree[T] | None, name: str) -> PathTree[T] | None:
    """The tree of the member `name` of an object."""
    return tree and tree.named.get(name, tree.others)


def at_element(tree: PathTree[T] | None) -> PathTree[T] | None:
    """The tree of the elements of a list, where `*` stands for these too."""
    return tree and tree.others


class Rule(msgspec.Struct, frozen=True):
    """How the values of one place merge. Options that the rule does not have keep their defaults."""

    name: RuleName
    limit: int | None = None
    keep: Literal["first", "last", "newest"] = "first"
    by: tuple[str, ...] = ()
    floor: int | float | None = None
    ceiling: int | float | None = None
    key: tuple[str, ...] = ()
    fields: "PathTree[Rule] | None" = None

    def fits(self, kind: Kind) -> bool:
        """Whether the rule is for values of this kind."""
        return _KIND_OF_RULE.get(self.name, kind) == kind


Shield = PathTree[Literal[True]] | None
"""The protected places."""

DEEP: Final = Rule("deep")
_BY_KIND: Final[dict[Kind, Rule]] = {"object": DEEP, "list": Rule("union")}
SESSION: Final = Rule("session")


class Policy(msgspec.Struct, frozen=True):
    """A compiled policy."""

    rules: PathTree[Rule] | None
    default: Rule | None
    shield: Shield

    @property
    def root(self) -> "Location":
        """The payload as a whole."""
        return Location(None, None, value_at(self.rules) or DEEP, self.rules, self.shield)

    def rule_at(self, location: "Location", one: Any, other: Any) -> Rule:
        """The rule for two values at a place; `other` decides the kind where no PATH speaks of the place.

        Objects above a PATH merge member by member, whatever else is said.
        """
        if location.rules is not None and location.rules.leads_on and (type(one) is dict or type(other) is dict):
            return DEEP
        if location.rule is not None:
            return location.rule
        kind = kind_of(other)
        if self.default is not None and self.default.fits(kind):
            return self.default
        return _BY_KIND.get(kind, SESSION)


class Location(msgspec.Struct):
    """A place of the payload, and what the policy says about it. `rule` is its own or inherited from above.

    Objects that are no one's member, the payload and the elements of lists, merge `deep` unless a PATH says otherwise.
    The segment of an element is its index, which is known when its list is complete: until then it is provisional, and
    None where the element is not in the list. Everything else never changes.
    """

    parent: "Location | None"
    segment: str | int | None
    rule: Rule | None
    rules: PathTree[Rule] | None
    shield: Shield

    @property
    def path(self) -> str | None:
        """The place's JSON Pointer; None within an element that is not in its list."""
        segments = []
        location = self
        while location.parent is not None:
            if location.segment is None:
                return None
            segments.append(str(location.segment))
            location = location.parent
        return pointer(reversed(segments))

    @property
    def is_protected(self) -> bool:
        """Whether a guest may never set this place."""
        return value_at(self.shield) is not None

    def member(self, name: str) -> "Location":
        """The place of an object's member, which inherits a rule unless that is `deep`."""
        rules = at_member(self.rules, name)
        rule = value_at(rules)
        if rule is None and self.rule is not None and self.rule.name != "deep":
            rule = self.rule
        return Location(self, name, rule, rules, at_member(self.shield, name))

    def element(self, index: int | None, fields: PathTree[Rule] | None) -> "Location":
        """The place of a list's element, where the rules of `fields` begin."""
        return Location(self, index, value_at(fields) or DEEP, fields, at_element(self.shield))
