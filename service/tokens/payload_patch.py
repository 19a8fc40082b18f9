"""The three ways to change a guest's payload: replacement, merge patch (RFC 7396), JSON patch (RFC 6902).

Pure: arguments are never changed. Every result is a JSON object that fits back into a request.
"""

import copy
from typing import Any, Final

import jsonpatch
import msgspec
from jsonpointer import JsonPointerException

from service.errors import Fault, InvalidPatch, PatchConflict
from service.strict_json import MAX_DEPTH, depth

OPERATIONS: Final = ("add", "remove", "replace", "move", "copy", "test")
"""RFC 6902, section 4."""
_OPERATIONS_WITH_VALUE: Final = ("add", "replace", "test")
MAX_OPERATIONS: Final = 1_000
"""Of one JSON patch: some 20 ms of work, so that no request holds up the others."""
MAX_COPIED_BYTES: Final = 262_144
"""The sizes of the payload at each `copy` of one JSON patch, added up. Copies double a payload, forty fill any memory;
and a copy that replaces the last one costs time without growing anything."""
_CONTAINER_BYTES: Final = 24
"""Copying an object or a list takes as long as copying so many bytes of plain values, at the least."""


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
        try:
            document = self._applied_to(copy.deepcopy(payload))
        except RecursionError as error:
            # A few moves nest a payload hundreds of levels deep, and take it apart again before the end.
            raise InvalidPatch(
                "The payload is too deep.", [Fault("/json_patch", "nests too deeply on the way")]
            ) from error
        if not isinstance(document, dict):
            raise InvalidPatch("A payload is an object.", [Fault("/json_patch", "makes the payload something else")])
        if depth(document) >= MAX_DEPTH:  # a payload is one level inside of a request
            raise InvalidPatch("The payload is too deep.", [Fault("/json_patch", f"nests over {MAX_DEPTH - 1} levels")])
        return document

    def _applied_to(self, document: Any) -> Any:
        copied = 0
        for index, operation in enumerate(self.operations):
            _check_operation(operation, f"/json_patch/{index}")
            if operation["op"] == "copy":
                copied += _cost_of_copy(document)
                _check_copied(copied, f"/json_patch/{index}")
            document = _applied(document, operation, f"/json_patch/{index}")
        return document


PayloadPatch = Replace | MergePatch | JsonPatch


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


def _check_operation(operation: object, path: str) -> None:
    if not isinstance(operation, dict) or operation.get("op") not in OPERATIONS:
        raise InvalidPatch("The patch is malformed.", [Fault(path, "is no operation of RFC 6902")])
    # The library looks for the path first, and then calls this a failed test.
    if operation["op"] in _OPERATIONS_WITH_VALUE and "value" not in operation:
        raise InvalidPatch("The patch is malformed.", [Fault(path, f"has no value to {operation['op']}")])


def _cost_of_copy(document: object) -> int:
    """What a copy of the whole may cost, in bytes of JSON."""
    encoded = msgspec.json.encode(document)
    return len(encoded) + _CONTAINER_BYTES * (encoded.count(b"{") + encoded.count(b"["))


def _check_copied(copied_bytes: int, path: str) -> None:
    if copied_bytes > MAX_COPIED_BYTES:
        raise InvalidPatch("The patch copies too much.", [Fault(path, f"makes it more than {MAX_COPIED_BYTES} bytes")])


def _applied(document: object, operation: dict[str, Any], path: str) -> object:
    try:
        result: object = jsonpatch.apply_patch(document, [operation], in_place=True)
    except jsonpatch.JsonPatchTestFailed as error:
        raise PatchConflict(f"The test at {path} failed.") from error
    except (jsonpatch.JsonPatchException, JsonPointerException, TypeError, ValueError, LookupError) as error:
        # In our words: the library's would repeat the payload.
        message = f"is malformed, or there is nothing at its path to {operation['op']}"
        raise InvalidPatch("The patch does not apply.", [Fault(path, message)]) from error
    return result
