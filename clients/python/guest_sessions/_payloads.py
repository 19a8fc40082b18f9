"""Payload types: how a guest's JSON object becomes the application's type, and back."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Generic

if sys.version_info >= (3, 13):
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

P = TypeVar("P", default=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Codec(Generic[P]):
    """`decode` raises the validating library's error where the object does not fit the type."""

    decode: Callable[[dict[str, Any]], P]
    encode: Callable[[P], Any]


def codec_for(kind: type[P] | None) -> Codec[P]:
    """For dictionaries (None), pydantic models and msgspec Structs; dataclasses and TypedDicts by whichever is here.

    Raises TypeError where neither is.
    """
    if kind is None:
        return Codec(lambda payload: payload, lambda payload: payload)
    if not hasattr(kind, "model_validate") and find_spec("msgspec"):
        msgspec = import_module("msgspec")
        return Codec(lambda payload: msgspec.convert(payload, kind), msgspec.to_builtins)
    if find_spec("pydantic"):
        adapter = import_module("pydantic").TypeAdapter(kind)
        return Codec(adapter.validate_python, lambda payload: adapter.dump_python(payload, mode="json"))
    raise TypeError(f"install msgspec or pydantic to have guests' payloads as {kind.__name__}")
