"""The parser of merge policies: from a document that a person wrote to a compiled policy, or to all of its faults.

Pure. Owns what a policy may say and how much of it.
"""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Literal, NoReturn, TypeVar

from service.errors import Fault, InvalidPolicy
from service.merge.policy import PROTECTED, RECEIPTS, PathTree, Policy, Rule, RuleName
from service.strict_json import MAX_DEPTH, MAX_INTEGER, escape, in_range, parse_json, parse_pointer

MAX_FIELDS_DEPTH: Final = 16
"""How deep `fields` nest: a JSON document of `MAX_DEPTH` has no room for more."""

MAX_PATHS: Final = 512
"""How many PATHs one policy may have, those of `fields` and `protect` included."""

MAX_PATH_CHARS: Final = 1024
"""The longest PATH; a token of a few kilobytes has no use for more."""

MAX_KEY_NAMES: Final = 16
"""How many members may make up one key: each is looked up in each element of both lists."""

MAX_FAULTS: Final = 100
MAX_FAULT_CHARS: Final = 2**16
"""How many faults of one document are told, and how long their paths may be together before it is enough: each repeats
the PATHs above it, so that a small body could ask for an answer of megabytes."""

MAX_PLACES: Final = 4096
"""How many places the trees of one policy may have: n PATHs with `*` in different segments can make 2^n of them."""

_OPTIONS: Mapping[RuleName, frozenset[str]] = {
    "session": frozenset(),
    "guest": frozenset(),
    "guest_if_empty": frozenset(),
    "drop": frozenset(),
    "deep": frozenset(),
    "sum": frozenset({"floor", "ceiling"}),
    "max": frozenset({"floor", "ceiling"}),
    "min": frozenset({"floor", "ceiling"}),
    "union": frozenset({"limit", "keep"}),
    "append": frozenset({"limit", "keep"}),
    "by_key": frozenset({"limit", "keep", "key", "fields"}),
}

T = TypeVar("T")


def compile_policy(document: object, *, at: str = "") -> Policy:
    """Compiles a decoded policy document, which stands at the JSON Pointer `at` of what the caller sent.

    Raises:
        InvalidPolicy: with every fault up to `MAX_FAULTS`, each path a JSON Pointer that starts with `at`; behind a
            PATH that is too long none is looked for, and where there are too many PATHs that alone is told.
    """
    return _parse(lambda parser: parser.policy(document, at), "The merge policy has faults.")


def parse_policy_file(text: bytes, *, format: Literal["json", "toml"]) -> dict[str, Policy]:  # noqa: A002 - the plain word
    """Compiles a file of named policies, `{NAME: POLICY}` in UTF-8.

    Raises:
        InvalidPolicy: with the faults of every policy, each path starting with `/NAME`; or one fault at "" where the
            file is not JSON (strictly, without duplicate members) or TOML.
    """
    documents = _decode(text, _DECODERS[format])
    return _parse(
        lambda parser: {name: parser.policy(each, f"/{escape(name)}") for name, each in documents.items()},
        "The file of merge policies has faults.",
    )


def _parse(read: Callable[["_Parser"], T], complaint: str) -> T:
    parser = _Parser()
    with suppress(_EnoughFaultsError):
        result = read(parser)
        if not parser.faults:
            return result
    raise InvalidPolicy(complaint, parser.faults)


class _EnoughFaultsError(Exception):
    """Ends the reading of a document: what is wrong with it was told."""


class _Parser:
    """Reads one document, and takes down each fault with its path instead of stopping at the first.

    Bounds on the size of a document do stop it, by `_EnoughFaultsError`.
    """

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._told_chars = 0
        self._places = 0

    def policy(self, document: object, at: str) -> Policy:
        self._places = 0
        if _paths_of(document) > MAX_PATHS:
            self._fault(at, f"has too many PATHs: a policy has at most {MAX_PATHS}")
            return _NO_POLICY
        members = self._members(document, at, known={"rules", "default", "protect", "protect_defaults"})
        defaults = members.get("protect_defaults", True)
        if type(defaults) is not bool:
            self._fault(f"{at}/protect_defaults", "must be true or false")
        protected = [(name,) for name in (*PROTECTED, RECEIPTS)] if defaults else [(RECEIPTS,)]
        own = self._protect(members.get("protect", []), f"{at}/protect")
        default = members.get("default")
        return Policy(
            rules=self._rules(members.get("rules", {}), f"{at}/rules", depth=0),
            default=self._rule(default, f"{at}/default", depth=0) if "default" in members else None,
            shield=self._tree([(path, True) for path in [*protected, *own]], f"{at}/protect"),
        )

    def _fault(self, path: str, message: str) -> None:
        self.faults.append(Fault(path=path, message=message))
        self._told_chars += len(path)
        if len(self.faults) == MAX_FAULTS or self._told_chars > MAX_FAULT_CHARS:
            raise _EnoughFaultsError

    def _stop(self, path: str, message: str) -> NoReturn:
        self._fault(path, message)
        raise _EnoughFaultsError

    def _members(self, document: object, at: str, *, known: set[str] | frozenset[str]) -> dict[str, Any]:
        """The members of an object; the unknown ones are faults and left out."""
        if type(document) is not dict:
            self._fault(at, "must be an object")
            return {}
        for name in [name for name in document if name not in known]:
            self._fault(f"{at}/{escape(name)}", f"is unknown here; known are: {', '.join(sorted(known)) or 'none'}")
        return {name: document[name] for name in document if name in known}

    def _rules(self, document: object, at: str, *, depth: int) -> PathTree[Rule] | None:
        if type(document) is not dict:
            self._fault(at, "must be an object of PATHs and their rules")
            return None
        if depth > MAX_FIELDS_DEPTH:
            self._fault(at, f"nests deeper than {MAX_FIELDS_DEPTH} times")
            return None
        places = [f"{at}/{escape(path)}" for path in document]
        paths = [self._path(path, place) for path, place in zip(document, places, strict=True)]
        rules = [self._rule(rule, place, depth=depth) for rule, place in zip(document.values(), places, strict=True)]
        return self._tree(list(zip(paths, rules, strict=True)), at)

    def _protect(self, document: object, at: str) -> list[tuple[str, ...]]:
        if type(document) is not list:
            self._fault(at, "must be a list of PATHs")
            return []
        return [self._path(path, f"{at}/{index}") for index, path in enumerate(document)]

    def _path(self, text: object, at: str) -> tuple[str, ...]:
        if type(text) is not str:
            self._fault(at, "must be a PATH, that is a string")
            return ()
        if len(text) > MAX_PATH_CHARS:
            self._stop(at, f"is longer than {MAX_PATH_CHARS} characters")
        try:
            segments = parse_pointer(text)
        except ValueError as error:
            self._fault(at, f"is no PATH: {error}")
            return ()
        if len(segments) > MAX_DEPTH:
            self._fault(at, f"has more than {MAX_DEPTH} segments, deeper than a payload can nest")
            return ()
        return segments

    def _rule(self, document: object, at: str, *, depth: int) -> Rule:
        named = {"rule": document} if type(document) is str else document
        if type(named) is not dict:
            self._fault(at, 'must be the name of a rule, or an object with "rule" and options')
            return _NO_RULE
        name = next((each for each in _OPTIONS if each == named.get("rule")), None)
        if name is None:
            where = at if type(document) is str or "rule" not in named else f"{at}/rule"
            self._fault(where, f"must name a rule, one of: {', '.join(_OPTIONS)}")
            return _NO_RULE
        return self._options(name, self._members(named, at, known=_OPTIONS[name] | {"rule"}), at, depth=depth)

    def _options(self, name: RuleName, options: dict[str, Any], at: str, *, depth: int) -> Rule:
        limit, keep = options.get("limit"), options.get("keep", "first")
        if "limit" in options and not (type(limit) is int and 0 <= limit <= MAX_INTEGER):
            self._fault(f"{at}/limit", "must be a whole number, 0 or more")
        if keep not in ("first", "last"):
            self._fault(f"{at}/keep", 'must be "first" or "last"')
        self._bounds(options, at)
        return Rule(
            name=name,
            limit=limit,
            keep=keep,
            floor=options.get("floor"),
            ceiling=options.get("ceiling"),
            key=self._key(options.get("key"), f"{at}/key") if name == "by_key" else (),
            fields=self._rules(options["fields"], f"{at}/fields", depth=depth + 1) if "fields" in options else None,
        )

    def _bounds(self, options: dict[str, Any], at: str) -> None:
        good = {name: options[name] for name in ("floor", "ceiling") if name in options and in_range(options[name])}
        for name in options.keys() & {"floor", "ceiling"} - good.keys():
            self._fault(f"{at}/{name}", "must be a finite number in the range of 64 bits or a double")
        if len(good) == 2 and good["floor"] > good["ceiling"]:  # noqa: PLR2004 - both of them
            self._fault(f"{at}/floor", "is above the ceiling")

    def _key(self, document: object, at: str) -> tuple[str, ...]:
        names = document if type(document) is list else [document]
        if not names or not all(type(name) is str for name in names) or len(set(names)) < len(names):
            self._fault(at, "must be the name of a member, or a list of different ones")
            return ()
        if len(names) > MAX_KEY_NAMES:
            self._fault(at, f"has more than {MAX_KEY_NAMES} names")
            return ()
        return tuple(names)

    def _tree(self, said: Sequence[tuple[tuple[str, ...], T]], at: str) -> PathTree[T] | None:
        if self._places > MAX_PLACES:
            return None  # that was told
        ranked = sorted(said, key=_specificity)
        tree = self._branch([(rank, path, value) for rank, (path, value) in enumerate(ranked)])
        if self._places > MAX_PLACES:
            self._fault(at, f"has `*` in so many ways that they make more than {MAX_PLACES} cases")
        return tree

    def _branch(self, entries: list[tuple[int, tuple[str, ...], T]]) -> PathTree[T] | None:
        """The tree of what is said below one place. `entries` are ranked; at each place the lowest rank speaks.

        What `*` says is put under every name beside it too, so that merging asks one tree only.
        """
        self._places += bool(entries)
        if not entries or self._places > MAX_PLACES:
            return None
        below: dict[str, list[tuple[int, tuple[str, ...], T]]] = {"*": []}
        for rank, path, value in entries:
            if path:
                below.setdefault(path[0], []).append((rank, path[1:], value))
        any_name = below.pop("*")
        return PathTree(
            value=next((value for _, path, value in entries if not path), None),
            named={name: self._branch(sorted([*each, *any_name], key=_rank)) for name, each in below.items()},
            others=self._branch(any_name),
        )


def _specificity(said: tuple[tuple[str, ...], object]) -> tuple[bool, ...]:
    """Orders the PATHs that match one place: segment by segment, a name before `*`."""
    return tuple(segment == "*" for segment in said[0])


def _rank(entry: tuple[int, object, object]) -> int:
    return entry[0]


def _decode(text: bytes, decoder: Callable[[str], object]) -> dict[str, object]:
    """The document, where it can be written back as UTF-8 JSON text; else one fault."""
    try:
        documents = decoder(text.decode("utf-8-sig"))
        json.dumps(documents, ensure_ascii=False, default=str).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidPolicy("The file of merge policies cannot be read.", [Fault("", str(error))]) from error
    if type(documents) is not dict:
        raise InvalidPolicy(
            "The file of merge policies has faults.", [Fault("", "must be an object of named policies")]
        )
    return documents


_DECODERS: Mapping[str, Callable[[str], object]] = {"json": parse_json, "toml": tomllib.loads}


def _paths_of(document: object) -> int:
    """How many PATHs a document has, those of `fields` and `protect` included; counted before any of them is read."""
    paths, waiting = 0, [document]
    while waiting and paths <= MAX_PATHS:
        each = waiting.pop()
        if type(each) is not dict:
            continue
        for name in ("rules", "fields"):
            rules = each.get(name)
            if type(rules) is dict:
                paths += len(rules)
                waiting.extend(rules.values())
        protect = each.get("protect")
        paths += len(protect) if type(protect) is list else 0
        waiting.append(each.get("default"))
    return paths


_NO_RULE = Rule("session")
"""Stands where a rule could not be read; the policy is refused anyway."""

_NO_POLICY = Policy(rules=None, default=None, shield=None)
"""The same for a policy."""
