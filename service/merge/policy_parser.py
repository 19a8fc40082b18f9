"""The parser of merge policies: from a document that a person wrote to a compiled policy, or to all of its faults.

Pure. A policy comes from the operator or from a holder of an API key, never from a visitor: so it is bounded by the
body that carries it, and by `MAX_PLACES`, as a few PATHs can ask for more than any machine has.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, Literal, TypeVar

from service.errors import Fault, InvalidPolicy
from service.merge.policy import PROTECTED, RECEIPTS, PathTree, Policy, Rule, RuleName
from service.strict_json import MAX_DEPTH, MAX_INTEGER, depth, escape, in_range, parse_pointer, read_json

MAX_FAULTS: Final = 100
"""How many faults of one document are reported."""

MAX_PLACES: Final = 16_384
"""How many places the trees of one policy may have: n PATHs with `*` in different segments can make 2^n of them."""

_LIST_OPTIONS: Final = frozenset({"limit", "keep", "by"})
_OPTIONS: Final[Mapping[RuleName, frozenset[str]]] = {
    "session": frozenset(),
    "guest": frozenset(),
    "guest_if_empty": frozenset(),
    "drop": frozenset(),
    "latest": frozenset({"by"}),
    "deep": frozenset(),
    "sum": frozenset({"floor", "ceiling"}),
    "max": frozenset({"floor", "ceiling"}),
    "min": frozenset({"floor", "ceiling"}),
    "union": _LIST_OPTIONS,
    "append": _LIST_OPTIONS,
    "by_key": _LIST_OPTIONS | {"key", "fields"},
}
_UNREADABLE: Final = Rule("session")
"""Stands for a rule that could not be read; its policy is refused anyway."""

T = TypeVar("T")
Path = tuple[str, ...]


def compile_policy(document: object, *, at: str = "") -> Policy:
    """Compile a decoded policy document, which stands at the JSON Pointer `at` of the caller's input.

    Raises:
        InvalidPolicy: with every fault up to `MAX_FAULTS`; each path starts with `at`.
    """
    parser = _Parser()
    policy = parser.policy(document, at)
    if parser.faults:
        raise InvalidPolicy("The merge policy has faults.", parser.faults)
    return policy


def parse_policy_file(text: bytes, *, format: Literal["json", "toml"]) -> dict[str, Policy]:  # noqa: A002 - the plain word
    """Compile a file of named policies, `{NAME: POLICY}` in UTF-8.

    Raises:
        InvalidPolicy: with the faults of every policy, each path starting with `/NAME`; or one fault at "" where the
            file is not JSON (strictly, without duplicate members) or TOML.
    """
    unreadable = "The file of merge policies cannot be read."
    try:
        decoded = text.decode("utf-8-sig")
        documents, faults = read_json(decoded) if format == "json" else (tomllib.loads(decoded), [])
        if not faults:
            json.dumps(documents, ensure_ascii=False, default=str).encode()  # it can be written back as JSON text
    except (ValueError, RecursionError) as error:
        raise InvalidPolicy(unreadable, [Fault("", str(error))]) from error
    if faults:
        raise InvalidPolicy(unreadable, [Fault("", "; ".join(faults))])
    if type(documents) is not dict or depth(documents) > MAX_DEPTH:
        message = f"must be an object of named policies that nests at most {MAX_DEPTH} levels"
        raise InvalidPolicy("The file of merge policies has faults.", [Fault("", message)])
    parser = _Parser()
    policies = {name: parser.policy(each, f"/{escape(name)}") for name, each in documents.items()}
    if parser.faults:
        raise InvalidPolicy("The file of merge policies has faults.", parser.faults)
    return policies


class _Parser:
    """Reads documents, and notes each fault with its path instead of stopping at the first."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._places = 0

    def policy(self, document: object, at: str) -> Policy:
        self._places = 0
        members = self._members(document, at, known={"rules", "default", "protect", "protect_defaults"})
        defaults = members.get("protect_defaults", True)
        if type(defaults) is not bool:
            self._fault(f"{at}/protect_defaults", "must be true or false")
        protected: list[Path] = [(name,) for name in (*PROTECTED, RECEIPTS)] if defaults else [(RECEIPTS,)]
        own = members.get("protect", [])
        if type(own) is not list:
            self._fault(f"{at}/protect", "must be a list of PATHs")
            own = []
        protected += [self._path(path, f"{at}/protect/{index}") for index, path in enumerate(own)]
        return Policy(
            rules=self._rules(members.get("rules", {}), f"{at}/rules"),
            default=self._rule(members["default"], f"{at}/default") if "default" in members else None,
            shield=self._tree([(path, True) for path in protected], f"{at}/protect"),
        )

    def _fault(self, path: str, message: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(path=path, message=message))

    def _members(self, document: object, at: str, *, known: set[str] | frozenset[str]) -> dict[str, Any]:
        """The members of an object; the unknown ones are faults and left out."""
        if type(document) is not dict:
            self._fault(at, "must be an object")
            return {}
        for name in [name for name in document if name not in known]:
            self._fault(f"{at}/{escape(name)}", f"is unknown here; known are: {', '.join(sorted(known)) or 'none'}")
        return {name: document[name] for name in document if name in known}

    def _rules(self, document: object, at: str) -> PathTree[Rule] | None:
        if type(document) is not dict:
            self._fault(at, "must be an object of PATHs and their rules")
            return None
        places = {path: f"{at}/{escape(path)}" for path in document}
        paths = [self._path(path, place) for path, place in places.items()]
        rules = [self._rule(document[path], place) for path, place in places.items()]
        return self._tree(list(zip(paths, rules, strict=True)), at)

    def _path(self, text: object, at: str) -> Path:
        segments = self._pointer(text, at, "PATH")
        if len(segments) > MAX_DEPTH:
            self._fault(at, f"has more than {MAX_DEPTH} segments, deeper than a payload can nest")
            return ()
        return segments

    def _pointer(self, text: object, at: str, kind: str) -> Path:
        if type(text) is not str:
            self._fault(at, f"must be a {kind}, that is a string")
            return ()
        try:
            return parse_pointer(text)
        except ValueError as error:
            self._fault(at, f"is no {kind}: {error}")
            return ()

    def _rule(self, document: object, at: str) -> Rule:
        named = {"rule": document} if type(document) is str else document
        if type(named) is not dict:
            self._fault(at, 'must be the name of a rule, or an object with "rule" and options')
            return _UNREADABLE
        name = next((each for each in _OPTIONS if each == named.get("rule")), None)
        if name is None:
            where = at if type(document) is str or "rule" not in named else f"{at}/rule"
            self._fault(where, f"must name a rule, one of: {', '.join(_OPTIONS)}")
            return _UNREADABLE
        return self._options(name, self._members(named, at, known=_OPTIONS[name] | {"rule"}), at)

    def _options(self, name: RuleName, options: dict[str, Any], at: str) -> Rule:
        limit, keep = options.get("limit"), options.get("keep", "first")
        if "limit" in options and not (type(limit) is int and 0 <= limit <= MAX_INTEGER):
            self._fault(f"{at}/limit", "must be a whole number, 0 or more")
        if keep not in ("first", "last", "newest"):
            self._fault(f"{at}/keep", 'must be "first", "last" or "newest"')
        sorts = name == "latest" or keep == "newest"
        if sorts and "by" not in options:
            self._fault(f"{at}/by", "must be given, a JSON Pointer to the number or time that decides")
        elif "by" in options and not sorts:
            self._fault(f"{at}/by", 'belongs to "keep": "newest"')
        bounds = {bound: options[bound] for bound in ("floor", "ceiling") if bound in options}
        for bound in [bound for bound, value in bounds.items() if not in_range(value)]:
            self._fault(f"{at}/{bound}", "must be a finite number in the range of 64 bits or a double")
            del bounds[bound]
        if len(bounds) == 2 and bounds["floor"] > bounds["ceiling"]:  # noqa: PLR2004 - both of them
            self._fault(f"{at}/floor", "is above the ceiling")
        key: list[Any] = options["key"] if type(options.get("key")) is list else [options.get("key")]
        if name == "by_key" and not (key and all(type(each) is str for each in key) and len(set(key)) == len(key)):
            self._fault(f"{at}/key", "must be the name of a member, or a list of different ones")
        return Rule(
            name=name,
            limit=limit,
            keep=keep,
            by=self._pointer(options["by"], f"{at}/by", "JSON Pointer") if sorts and "by" in options else (),
            floor=options.get("floor"),
            ceiling=options.get("ceiling"),
            key=tuple(key) if name == "by_key" else (),
            fields=self._rules(options["fields"], f"{at}/fields") if "fields" in options else None,
        )

    def _tree(self, said: Sequence[tuple[Path, T]], at: str) -> PathTree[T] | None:
        if self._places > MAX_PLACES:
            return None  # reported already
        # Of the PATHs that match one place, compared segment by segment, a name comes before `*`.
        ranked = sorted(said, key=lambda each: [segment == "*" for segment in each[0]])
        tree = self._branch([(rank, path, value) for rank, (path, value) in enumerate(ranked)])
        if self._places > MAX_PLACES:
            self._fault(at, f"makes more than {MAX_PLACES} cases: it has too many PATHs, or `*` in too many ways")
        return tree

    def _branch(self, entries: list[tuple[int, Path, T]]) -> PathTree[T] | None:
        """The tree for the PATHs below one place. `entries` are ranked; at each place the lowest rank decides.

        What `*` says is put under every name beside it too, so that merging asks one tree only.
        """
        self._places += bool(entries)
        if not entries or self._places > MAX_PLACES:
            return None
        below: dict[str, list[tuple[int, Path, T]]] = {"*": []}
        for rank, path, value in entries:
            if path:
                below.setdefault(path[0], []).append((rank, path[1:], value))
        any_name = below.pop("*")
        return PathTree(
            value=next((value for _, path, value in entries if not path), None),
            named={name: self._branch(sorted([*each, *any_name], key=itemgetter(0))) for name, each in below.items()},
            others=self._branch(any_name),
        )
