"""The three ways to change a guest's payload: replacement, merge patch (RFC 7396), JSON patch (RFC 6902).

Pure: arguments are never changed. Every result is a JSON object that fits back into a request.
"""

import copy
import re
from typing import Any, Final

import jsonpatch
import msgspec
from jsonpointer import JsonPointerException

from service.errors import Fault, InvalidPatch, PatchConflict
from service.strict_json import MAX_DEPTH, depth, parse_pointer, pointer

OPERATIONS: Final = ("add", "remove", "replace", "move", "copy", "test")
"""RFC 6902, section 4."""
_OPERATIONS_WITH_VALUE: Final = ("add", "replace", "test")
_OPERATIONS_WITH_FROM: Final = ("move", "copy")
_OPERATIONS_ON_VALUES: Final = ("remove", "replace", "test")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")
_POINTER_CHARS: Final = 200
"""Of a pointer in a message."""
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
            InvalidPatch: an operation is malformed, does not apply, or makes the payload invalid.
        """
        if len(self.operations) > MAX_OPERATIONS:
            raise InvalidPatch(
                "The patch is too long.", [Fault("/json_patch", f"has over {MAX_OPERATIONS} operations")]
            )
        faults = [
            Fault(f"/json_patch/{index}", message)
            for index, operation in enumerate(self.operations)
            if (message := _malformed(operation))
        ]
        if faults:
            raise InvalidPatch("The patch is malformed.", faults)
        try:
            document: Any = copy.deepcopy(payload)
            copied_bytes = 0
            for index, operation in enumerate(self.operations):
                if operation["op"] == "copy":
                    encoded = msgspec.json.encode(document)
                    containers = encoded.count(b"{") + encoded.count(b"[")
                    copied_bytes += len(encoded) + _CONTAINER_BYTES * containers
                    if copied_bytes > MAX_COPIED_BYTES:
                        fault = Fault(f"/json_patch/{index}", f"makes it more than {MAX_COPIED_BYTES} bytes")
                        raise InvalidPatch("The patch copies too much.", [fault])
                document = _applied(document, operation, f"/json_patch/{index}")
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


def _malformed(operation: object) -> str:
    """What is wrong with an operation by itself; "" where nothing is."""
    if not isinstance(operation, dict) or operation.get("op") not in OPERATIONS:
        return f"is no operation of RFC 6902: its op must be one of {', '.join(OPERATIONS)}"
    op = operation["op"]
    reasons = []
    for name in ("from", "path") if op in _OPERATIONS_WITH_FROM else ("path",):
        if not isinstance(operation.get(name), str):
            reasons.append(f"has no {name}")
            continue
        try:
            parse_pointer(operation[name])
        except ValueError as error:
            reasons.append(f"has a malformed {name}: {error}")
    # The library looks for the path first, and then calls this a failed test.
    if op in _OPERATIONS_WITH_VALUE and "value" not in operation:
        reasons.append(f"has no value to {op}")
    return "; ".join(reasons)


def _applied(document: object, operation: dict[str, Any], path: str) -> object:
    try:
        result: object = jsonpatch.apply_patch(document, [operation], in_place=True)
    except jsonpatch.JsonPatchTestFailed as error:
        raise PatchConflict(f"The test at {path} failed.") from error
    except (jsonpatch.JsonPatchException, JsonPointerException, TypeError, ValueError, LookupError) as error:
        # The reason in our words: the library's would repeat the payload.
        op, target = operation["op"], parse_pointer(operation["path"])
        missing = _missing(document, target if op in _OPERATIONS_ON_VALUES else target[:-1])
        if missing is None and op in _OPERATIONS_WITH_FROM:
            missing = _missing(document, parse_pointer(operation["from"]))
        reason = f"cannot {op} there: the last segment of its path must be a member's name or an index of the list"
        if op == "move" and operation["path"].startswith(f"{operation['from']}/"):
            reason = "moves a value into itself"
        elif missing is not None:
            reason = f"finds nothing at {pointer(missing)[:_POINTER_CHARS]}"
        raise InvalidPatch("The patch does not apply.", [Fault(path, reason)]) from error
    return result


def _missing(document: object, segments: tuple[str, ...]) -> tuple[str, ...] | None:
    """The shortest beginning of `segments` that leads nowhere."""
    value: Any = document
    for number, segment in enumerate(segments, 1):
        index = int(segment) if _INDEX.fullmatch(segment) else -1
        if isinstance(value, dict) and segment in value:
            value = value[segment]
        elif isinstance(value, list) and 0 <= index < len(value):
            value = value[index]
        else:
            return segments[:number]
    return None
