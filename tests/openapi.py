"""Holds answers of the service against `openapi.yaml`."""

from pathlib import Path
from typing import Any

import msgspec
import yaml
from openapi_schema_validator import OAS31Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

ROOT = Path(__file__).parent.parent
API: dict[str, Any] = yaml.safe_load((ROOT / "openapi.yaml").read_text(encoding="utf-8"))
MAY_HOLD_MORE = {"Introspection", "Metadata", "Readiness"}
"""Responses with members that no schema lists, such as further claims."""


def closed(node: Any, name: str = "") -> Any:
    """The document without room for further members: those are for later versions, this one must list its own."""
    if isinstance(node, dict):
        result = {key: closed(value, key) for key, value in node.items()}
        if "properties" in node and node.get("additionalProperties") is True and name not in MAY_HOLD_MORE:
            result["additionalProperties"] = False
        return result
    return [closed(each) for each in node] if isinstance(node, list) else node


REGISTRY: Registry[Any] = Registry().with_resource("urn:api", DRAFT202012.create_resource(closed(API)))


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """What a local reference points to; the node itself where it is none."""
    while "$ref" in node:
        target: Any = API
        for segment in node["$ref"].removeprefix("#/").split("/"):
            target = target[segment.replace("~1", "/").replace("~0", "~")]
        node = target
    return node


def faults(schema: dict[str, Any], value: object) -> list[str]:
    """What is wrong with `value` under a schema of the document."""
    # References within the schema are relative to the whole document, so it is validated as a part of it.
    return [error.message for error in OAS31Validator(absolute(schema), registry=REGISTRY).iter_errors(value)]


def absolute(node: Any) -> Any:
    """The schema with its references anchored to the whole document."""
    if isinstance(node, dict):
        return {
            name: "urn:api" + value if name == "$ref" and isinstance(value, str) else absolute(value)
            for name, value in node.items()
        }
    return [absolute(each) for each in node] if isinstance(node, list) else node


def check_answer(*, method: str, path: str, status: int, headers: dict[str, str], body: bytes) -> None:
    """Asserts that the document foretells this answer: status, headers, media type and every member of the body.

    Paths and methods that the document does not have must be answered 404 and 405, as its description says.
    """
    item = _path_item(path)
    if path.startswith("/v1/auth"):
        method = "GET"  # described for all methods, which gateways pass on
    if item is None:
        assert status == 404, f"{path} is in no description"
        return _check_problem(headers, body)
    if method.lower() not in item:
        if method == "HEAD" and "get" in item:
            return None
        assert status == 405, f"{method} {path} is in no description, and was answered {status}"
        return _check_problem(headers, body)
    responses = item[method.lower()]["responses"]
    assert str(status) in responses, f"{method} {path} answered {status}; described are {sorted(responses)}"
    response = resolved(responses[str(status)])
    for name, header in response.get("headers", {}).items():
        if resolved(header).get("required"):
            assert name.lower() in headers, f"{method} {path} {status} came without {name}"
    _check_content(response.get("content", {}), status, headers, body)
    return None


def _path_item(path: str) -> dict[str, Any] | None:
    path = path.partition("?")[0]
    if path in API["paths"]:
        return dict(API["paths"][path])
    for template, item in API["paths"].items():
        prefix, brace, _ = template.partition("{")
        if brace and path.startswith(prefix):
            return dict(item)
    return None


def _check_content(content: dict[str, Any], status: int, headers: dict[str, str], body: bytes) -> None:
    if not content:
        assert body == b"", "a body where none is described"
        return
    media_type = headers["content-type"].partition(";")[0]
    assert media_type in content, f"{media_type} is not among {sorted(content)}"
    if media_type.endswith("json"):
        answer = msgspec.json.decode(body)
        assert faults(content[media_type]["schema"], answer) == []
        if media_type == "application/problem+json":
            shown = {resolved(each)["value"]["code"] for each in content[media_type]["examples"].values()}
            assert answer["status"] == status
            assert answer["code"] in shown, f"{answer['code']} has no example"


def _check_problem(headers: dict[str, str], body: bytes) -> None:
    assert headers["content-type"] == "application/problem+json"
    assert faults({"$ref": "#/components/schemas/Problem"}, msgspec.json.decode(body)) == []
