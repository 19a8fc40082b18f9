"""JSON values: the strict decoder, and the bounds, kinds, equality and pointers of decoded values.

Pure. Equality is JSON's, not Python's: numbers are equal by value whatever their spelling (1 = 1.0), and a boolean is
no number (true ≠ 1), also deep inside.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, Literal

Kind = Literal["null", "boolean", "number", "string", "list", "object"]

MAX_DEPTH: Final = 32
"""The deepest nesting of a document."""
MIN_INTEGER: Final = -(2**63)
MAX_INTEGER: Final = 2**64 - 1
"""Whole numbers fit a signed or an unsigned 64-bit integer, so that every reader takes them."""
MAX_SAFE_INTEGER: Final = 2**53 - 1
"""Up to here JavaScript's doubles distinguish all whole numbers (RFC 8259, section 6)."""

_NAME_CHARS: Final = 64
"""Of a member's name in a message."""

_KINDS: dict[type, Kind] = {
    type(None): "null",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "list",
    dict: "object",
}

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_BAD_ESCAPE = re.compile(r"~(?![01])")


def read_json(text: str) -> tuple[Any, list[str]]:
    """Decodes JSON (RFC 8259), and lists what two readers may read in two ways, or not at all (RFC 7493, I-JSON).

    Double members and numbers that do not survive are such faults, each listed once; the value has gaps in their place.

    Raises:
        json.JSONDecodeError: it is not JSON.
        RecursionError: it nests hundreds of levels deep.
    """
    faults: dict[str, None] = {}

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            for name, times in Counter(name for name, _ in pairs).items():
                if times > 1:
                    faults[f"an object has the member {json.dumps(name[:_NAME_CHARS])} twice"] = None
        return result

    def whole(digits: str) -> int:
        # Twenty digits and a sign are the longest; Python's own limit is 4,300, at the cost of their square.
        value = int(digits) if len(digits) <= 20 else MAX_INTEGER + 1  # noqa: PLR2004 - the comment above says why
        if MIN_INTEGER <= value <= MAX_INTEGER:
            return value
        faults["a whole number is beyond 64 bits"] = None
        return 0

    def real(digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            faults["a number is beyond the range of a double"] = None
        return value

    def constant(name: str) -> None:
        faults[f"{name} is no JSON"] = None

    decoder = json.JSONDecoder(object_pairs_hook=members, parse_int=whole, parse_float=real, parse_constant=constant)
    return decoder.decode(text), list(faults)


def kind_of(value: Any) -> Kind:
    """The kind of a decoded JSON value."""
    return _KINDS[type(value)]


def is_number(value: object) -> bool:
    """Whether the value is a JSON number; for Python, but not for JSON, a boolean would be one."""
    return type(value) is int or type(value) is float


def in_range(value: object) -> bool:
    """Whether the value is a number that JSON readers agree on: 64 bits when whole, else a finite double."""
    if type(value) is int:
        return MIN_INTEGER <= value <= MAX_INTEGER
    return type(value) is float and math.isfinite(value)


def depth(value: object) -> int:
    """How many containers are nested in `value`: 0 for a scalar, 1 for {} and []. Stops counting beyond `MAX_DEPTH`."""
    level: list[Any] = [value]
    found = 0
    while found <= MAX_DEPTH:
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return found
        found += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return found


def equal(one: Any, other: Any) -> bool:
    """JSON equality, in time linear in the smaller value."""
    # What Python finds unequal is so in JSON, too; of what it finds equal, only booleans and numbers are in doubt.
    return one is other or (bool(one == other) and _equally_typed(one, other))


def _equally_typed(one: Any, other: Any) -> bool:
    """Whether of two values that are equal for Python each boolean of one stands where the other has one."""
    if type(one) is dict:
        return all(value is other[name] or _equally_typed(value, other[name]) for name, value in one.items())
    if type(one) is list:
        return all(
            value is another or _equally_typed(value, another) for value, another in zip(one, other, strict=True)
        )
    return (type(one) is bool) == (type(other) is bool)


def canonical(value: Any) -> str:
    """A text that two values share if and only if they are equal, so that a set finds equals in constant time.

    A text and no tuple, because only the hashes of texts are seeded: nobody can prepare values whose hashes collide.
    """
    kind = type(value)
    if kind is str:
        return f"{len(value)}:{value}"
    if kind is dict:
        members = (f"{len(name)}:{name}={canonical(member)}" for name, member in value.items())
        return f"{{{','.join(sorted(members))}}}"
    if kind is list:
        return f"[{','.join(map(canonical, value))}]"
    # No whole number beyond 64 bits is spelt without a point here, and 1e308 would be one of 309 digits.
    if kind is float and value.is_integer() and MIN_INTEGER <= value <= MAX_INTEGER:
        return str(int(value))
    return repr(value)


def escape(segment: str) -> str:
    """One reference token as a JSON Pointer spells it (RFC 6901, section 3)."""
    return segment.replace("~", "~0").replace("/", "~1") if "~" in segment or "/" in segment else segment


def parse_rfc3339(text: str) -> float | None:
    """Unix seconds of a time in RFC 3339's form, `2026-01-31T12:00:00Z`; None where the text is of another form."""
    if _RFC3339.fullmatch(text) is None:
        return None
    try:
        return datetime.fromisoformat(text.upper()).timestamp()
    except ValueError:
        return None


def pointer(segments: Iterable[str]) -> str:
    """The JSON Pointer (RFC 6901) with these reference tokens."""
    return "".join(f"/{escape(segment)}" for segment in segments)


def parse_pointer(text: str) -> tuple[str, ...]:
    """The reference tokens of a JSON Pointer (RFC 6901, section 4).

    Raises:
        ValueError: where the text is none; says why.
    """
    if text and not text.startswith("/"):
        raise ValueError('a JSON Pointer is "" or starts with "/"')
    if _BAD_ESCAPE.search(text):
        raise ValueError('in a JSON Pointer "~" is written "~0", and "/" within a name "~1"')
    return tuple(segment.replace("~1", "/").replace("~0", "~") for segment in text.split("/")[1:])
