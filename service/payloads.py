"""The three ways to change a guest's payload: replace, merge patch (RFC 7396), JSON patch (RFC 6902).

Pure: arguments are never changed. Every result is a JSON object that fits back into a request.
"""

import copy
from collections.abc import Iterable
from typing import Any, Final

import jsonpatch
import msgspec
from jsonpointer import JsonPointerException

from service.errors import Fault, InvalidPatch, PatchConflict

MAX_DEPTH: Final = 32
"""The deepest nesting of a request; a payload is one level inside of it."""
OPERATIONS: Final = ("add", "remove", "replace", "move", "copy", "test")
"""RFC 6902, section 4."""
MAX_OPERATIONS: Final = 1_000
"""Of one JSON patch: some 20 ms of work, so that no request holds up the others."""
MAX_WORKING_BYTES: Final = 1_048_576
"""What a payload may grow to between two operations: `copy` may double it each time, and forty fill any memory."""


class Replace(msgspec.Struct, frozen=True):
    """The payload becomes `payload`."""

    payload: dict[str, Any]

    def apply(self, _payload: dict[str, Any]) -> dict[str, Any]:
        """The new payload."""
        return self.payload


class MergePatch(msgspec.Struct, frozen=True):
    """The payload with `patch` merged in: null deletes, objects merge, all else replaces (RFC 7396, section 2)."""

    patch: dict[str, Any]

    def apply(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The new payload."""
        merged: dict[str, Any] = _merged(payload, self.patch)
        return merged


class JsonPatch(msgspec.Struct, frozen=True):
    """The payload after `operations`, all of them or none (RFC 6902, sections 4 and 5)."""

    operations: list[Any]

    def apply(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The new payload.

        Raises:
            PatchConflict: a `test` failed.
            InvalidPatch: an operation is malformed, does not apply, or makes of the payload what no payload may be.
        """
        if len(self.operations) > MAX_OPERATIONS:
            raise InvalidPatch(
                "The patch is too long.", [Fault("/json_patch", f"has over {MAX_OPERATIONS} operations")]
            )
        document: Any = copy.deepcopy(payload)
        for index, operation in enumerate(self.operations):
            document = _applied(document, operation, f"/json_patch/{index}")
        if not isinstance(document, dict):
            raise InvalidPatch("A payload is an object.", [Fault("/json_patch", "makes the payload something else")])
        if depth(document) >= MAX_DEPTH:
            raise InvalidPatch("The payload is too deep.", [Fault("/json_patch", f"nests over {MAX_DEPTH - 1} levels")])
        return document


Change = Replace | MergePatch | JsonPatch


def depth(value: object) -> int:
    """How many containers are nested in `value`: 0 for a scalar, 1 for {} and []. Stops counting beyond `MAX_DEPTH`."""
    level, found = [value], 0
    while found <= MAX_DEPTH:
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return found
        found += 1
        level = [inner for each in level for inner in _inside(each)]
    return found


def _inside(container: Any) -> Iterable[object]:
    return container.values() if isinstance(container, dict) else container


def _merged(target: object, patch: object) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value)
    return result


def _applied(document: object, operation: Any, path: str) -> object:
    if not isinstance(operation, dict) or operation.get("op") not in OPERATIONS:
        raise InvalidPatch("The patch is malformed.", [Fault(path, "is no operation of RFC 6902")])
    try:
        result: object = jsonpatch.apply_patch(document, [operation], in_place=True)
    except jsonpatch.JsonPatchTestFailed as error:
        raise PatchConflict(f"The test at {path} failed.") from error
    except (jsonpatch.JsonPatchException, JsonPointerException, TypeError, ValueError, LookupError) as error:
        # In our words: the library's would repeat the payload.
        message = f"is malformed, or there is nothing at its path to {operation['op']}"
        raise InvalidPatch("The patch does not apply.", [Fault(path, message)]) from error
    if operation["op"] == "copy" and len(msgspec.json.encode(result)) > MAX_WORKING_BYTES:
        raise InvalidPatch("The payload grows too large.", [Fault(path, f"passes {MAX_WORKING_BYTES} bytes")])
    return result
