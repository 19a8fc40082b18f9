"""JSON values as Python has them after decoding: their kinds, their equality, and the pointers to them.

Pure. Equality is JSON's, not Python's: numbers are equal by value whatever their spelling (1 = 1.0), and a boolean is
no number (true ≠ 1), also deep inside.
"""

import re
from collections.abc import Iterable
from typing import Any, Literal

Kind = Literal["null", "boolean", "number", "string", "list", "object"]

_KINDS: dict[type, Kind] = {
    type(None): "null",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "list",
    dict: "object",
}

_BAD_ESCAPE = re.compile(r"~(?![01])")


def kind_of(value: Any) -> Kind:
    """The kind of a decoded JSON value."""
    return _KINDS[type(value)]


def is_number(value: object) -> bool:
    """Whether the value is a JSON number; for Python, but not for JSON, a boolean would be one."""
    return type(value) is int or type(value) is float


def equal(one: Any, other: Any) -> bool:
    """JSON equality, in time linear in the smaller value."""
    # What Python finds unequal is so in JSON, too; of what it finds equal, only booleans and numbers are in doubt.
    return one is other or (bool(one == other) and _equally_typed(one, other))


def _equally_typed(one: Any, other: Any) -> bool:
    """Whether of two values that are equal for Python each boolean of one stands where the other has one."""
    if type(one) is dict:
        return all(_equally_typed(value, other[name]) for name, value in one.items())
    if type(one) is list:
        return all(map(_equally_typed, one, other))
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
    if kind is float and value.is_integer():
        return str(int(value))
    return repr(value)


def escape(segment: str) -> str:
    """One reference token as a JSON Pointer spells it (RFC 6901, section 3)."""
    return segment.replace("~", "~0").replace("/", "~1") if "~" in segment or "/" in segment else segment


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
