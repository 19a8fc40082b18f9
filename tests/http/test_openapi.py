import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, get_args

import jwt
import msgspec
import pytest
import yaml
from openapi_spec_validator import OpenAPIV31SpecValidator

from service import errors
from service.http.problems import PROBLEMS
from service.merge.handover import Candidate, merge_guests
from service.merge.policy import RuleName
from service.merge.policy_parser import compile_policy
from service.tokens import claims
from tests.openapi import API, ROOT, faults, resolved

METHODS = ("get", "head", "post", "put", "patch", "delete", "options", "trace")


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in API["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


def examples(node: object, place: str = "#") -> Iterator[tuple[str, dict[str, Any], object]]:
    """Every example of a media type or a parameter, with its schema and its place."""
    if isinstance(node, dict):
        if "examples" in node and "schema" in node:
            for name, example in node["examples"].items():
                yield f"{place}/{name}", node["schema"], resolved(example)["value"]
        for name, value in node.items():
            yield from examples(value, f"{place}/{name}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from examples(value, f"{place}/{index}")


def schemas(node: object = API, place: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema, however deep, with its place; none of the examples."""
    if isinstance(node, dict):
        if isinstance(node.get("type"), str | list) or any(word in node for word in ("$ref", "const", "enum", "oneOf")):
            yield place, node
        for name, value in node.items():
            if name not in ("example", "examples", "enum", "required"):
                yield from schemas(value, f"{place}/{name}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from schemas(value, f"{place}/{index}")


def objects_below(nodes: Iterable[object]) -> dict[str, dict[str, Any]]:
    """The object schemas that parts of the document lead to, by name."""
    found: dict[str, dict[str, Any]] = {}
    pending = list(nodes)
    while pending:
        for reference in re.findall(r'"\$ref":\s*"([^"]+)"', json.dumps(pending.pop())):
            if reference not in found:
                found[reference] = resolved({"$ref": reference})
                pending.append(found[reference])
    return {place.rpartition("/")[2]: schema for place, schema in found.items() if "properties" in schema}


def example_at(path: str, status: str, name: str) -> Any:
    [media] = API["paths"][path]["get" if "jwks" in path else "post"]["responses"][status]["content"].values()
    return resolved(media["examples"][name])["value"]


def error_codes(root: type[errors.GuestSessionsError]) -> Iterator[str]:
    for kind in root.__subclasses__():
        # The rest is met at start or on the command line, never by a request.
        if kind.__module__ != errors.__name__ or kind in (errors.KeyringError, errors.InvalidSettings):
            continue
        if "code" in vars(kind):
            yield kind.code
        yield from error_codes(kind)


def test_the_description_is_valid_openapi_3_1() -> None:
    assert API["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(API).iter_errors()] == []


def test_the_package_carries_the_description() -> None:
    carried = ROOT / "service" / "openapi.yaml"

    assert carried.read_bytes() == (ROOT / "openapi.yaml").read_bytes()


@pytest.mark.parametrize(("place", "schema", "value"), [pytest.param(*each, id=each[0]) for each in examples(API)])
def test_every_example_fits_its_schema(place: str, schema: dict[str, Any], value: object) -> None:
    assert faults(schema, value) == [], place


def test_every_json_body_has_an_example() -> None:
    bare = [
        f"{method} {path} {status}"
        for path, method, operation in operations()
        for status, response in [("request", operation.get("requestBody", {})), *operation["responses"].items()]
        for media, content in resolved(response).get("content", {}).items()
        if media.endswith("json") and not content.get("examples")
    ]

    assert bare == []


@pytest.mark.parametrize(("path", "name"), [("/v1/issue", "cart"), ("/v1/refresh-payload", "merge_patch")])
def test_the_example_tokens_verify_under_the_example_keys_and_say_what_stands_beside_them(path: str, name: str) -> None:
    [key] = jwt.PyJWKSet.from_dict(example_at("/.well-known/jwks.json", "200", "one_key")).keys
    answer = example_at(path, "201" if path == "/v1/issue" else "200", name)

    decoded = jwt.decode(answer["token"], key, algorithms=["ES256"], options={"verify_exp": False, "verify_iat": False})

    assert jwt.get_unverified_header(answer["token"]) == {"alg": "ES256", "kid": answer["key_id"], "typ": "guest+jwt"}
    assert answer["bytes"] == len(answer["token"])
    assert answer["expires_in"] == answer["expires_at"] - answer["issued_at"]
    assert decoded == {
        "iss": "https://guests.example.com",
        "sub": answer["subject"],
        "iat": answer["issued_at"],
        "exp": answer["expires_at"],
        "orig_iat": answer["first_issued_at"],
        "jti": answer["token_id"],
        "ver": answer["version"],
        "payload": answer["payload"],
    }


def test_the_example_access_token_verifies_under_the_example_keys() -> None:
    [key] = jwt.PyJWKSet.from_dict(example_at("/.well-known/jwks.json", "200", "one_key")).keys
    response = example_at("/v1/token", "200", "payload")
    guest = example_at("/v1/issue", "201", "cart")

    decoded = jwt.decode_complete(
        response["access_token"],
        key,
        algorithms=["ES256"],
        options={"verify_exp": False, "verify_iat": False, "verify_aud": False},
    )

    assert decoded["header"] == {"alg": "ES256", "kid": guest["key_id"], "typ": "at+jwt"}
    assert decoded["payload"] == {
        "iss": "https://guests.example.com",
        "sub": guest["subject"],
        "aud": "search",
        "iat": guest["issued_at"],
        "exp": guest["issued_at"] + response["expires_in"],
        "jti": "01J9Z3X8K6T2V5",
        "ver": guest["version"],
        "client_id": "guest-sessions",
        "payload": guest["payload"],
    }


def test_the_example_of_a_merge_is_what_the_merge_gives() -> None:
    operation = API["paths"]["/v1/merge"]["post"]
    asked = operation["requestBody"]["content"]["application/json"]["examples"]["cart"]["value"]
    described = example_at("/v1/merge", "200", "cart")
    candidates = [
        Candidate(index, claims.parse(jwt.decode(token, options={"verify_signature": False})))
        for index, token in enumerate(asked["tokens"])
        if token is not None
    ]

    merged = merge_guests(asked["session"], candidates, compile_policy(asked["policy"]))

    answer = {name: getattr(merged, name) for name in ("payload", "merged", "guests", "skipped", "conflicts")}
    assert msgspec.json.decode(msgspec.json.encode(answer)) == {name: described[name] for name in answer}


def test_every_problem_of_a_request_is_described_with_its_code() -> None:
    described = API["components"]["schemas"]["ProblemCode"]["enum"]

    assert set(error_codes(errors.GuestSessionsError)) <= set(described)
    assert set(described) == set(PROBLEMS)


def test_the_example_problems_have_the_status_and_the_title_of_the_table() -> None:
    shown = {
        value["code"]: (value["status"], value["title"])
        for _, _, value in examples(API)
        if isinstance(value, dict) and "code" in value and "error" not in value  # OAuth has other statuses
    }

    # These two are in no operation's responses: one is a bug, the other is for methods that are no operation.
    assert shown == {
        code: row for code, row in PROBLEMS.items() if code not in ("internal_error", "method_not_allowed")
    }


def test_reasons_and_reserved_claims_are_those_of_the_code() -> None:
    schemas = API["components"]["schemas"]

    reasons = list(get_args(errors.Reason))
    assert schemas["Reason"]["enum"] == reasons
    assert schemas["SkippedToken"]["properties"]["reason"]["enum"] == [
        *reasons,
        "superseded",
        "already_merged",
        "empty",
    ]
    assert set(schemas["MergeRuleName"]["enum"]) == set(get_args(RuleName))
    assert set(schemas["FurtherClaims"]["propertyNames"]["not"]["enum"]) == claims.RESERVED


def test_no_answer_under_v1_may_be_kept_by_a_cache() -> None:
    kept = [
        f"{method} {path} {status}"
        for path, method, operation in operations()
        if path.startswith("/v1/")
        for status, response in operation["responses"].items()
        if resolved(resolved(response)["headers"]["Cache-Control"])["schema"].get("const") != "no-store"
    ]

    assert kept == []


def test_gateways_never_see_a_status_but_200_and_401() -> None:
    seen = {
        status
        for path, _, operation in operations()
        if path.startswith("/v1/auth")
        for status in operation["responses"]
    }

    assert seen == {"200", "401"}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ("IssueRequest", {"payload": {}, "colour": "red"}),
        ("IssueRequest", {"claims": {"exp": 1}}),
        ("IssueRequest", {"subject": "with space"}),
        ("IssueRequest", {"subject": "x" * 256}),
        ("IssueRequest", {"ttl": 0}),
        ("RefreshRequest", {}),
        ("RefreshRequest", {"token": "t", "json_patch": [{"op": "add"}]}),
        ("RefreshRequest", {"token": "t", "json_patch": [{"op": "increment", "path": "/a"}]}),
        ("VerifyRequest", {"token": None}),
        ("RefreshRequest", {"token": "t", "if_current": "yes"}),
        ("TokenExchangeRequest", {"grant_type": "client_credentials", "subject_token": "t", "audience": "search"}),
        ("MergeRequest", {"tokens": [1]}),
        ("MergeRequest", {"tokens": ["t"] * 33}),
        ("MergeRequest", {"tokens": [], "policy": {"rules": {"no-slash": "sum"}}}),
        ("MergeRequest", {"tokens": [], "policy": {"rules": {"/a": {"key": "id"}}}}),
        ("MergeRequest", {"tokens": [], "policy": {"default": {"rule": "sum", "step": 3}}}),
        ("PublicJwk", {"kty": "EC", "use": "sig", "alg": "ES256", "kid": "k", "d": "x"}),
        ("BadVerdict", {"active": False, "reason": "because"}),
    ],
)
def test_what_is_refused_does_not_fit(schema: str, value: object) -> None:
    assert faults({"$ref": f"#/components/schemas/{schema}"}, value) != []


# What generators of clients trip over; `make test-clients` runs them.


def test_nothing_of_yaml_is_used_that_json_lacks() -> None:
    text = (ROOT / "openapi.yaml").read_text("utf-8")

    assert [event for event in yaml.parse(text) if getattr(event, "anchor", None)] == []
    # An unquoted comma in a description ends it, and makes a member without a value of the rest.
    assert [place for place, schema in schemas() if None in schema.values()] == []


def test_no_schema_uses_a_word_that_generators_misread() -> None:
    words = {"allOf", "anyOf", "not", "default", "prefixItems", "uniqueItems", "unevaluatedProperties", "if"}
    used = {(place, word) for place, schema in schemas() for word in words & schema.keys()}

    assert used == set()
    assert [place for place, schema in schemas() if schema.get("items") is False] == []


def test_numbers_have_a_format_that_holds_them() -> None:
    formats = {
        place: (schema["type"], schema.get("format"))
        for place, schema in schemas()
        if schema.get("type") in ("integer", "number")
    }

    assert formats.pop("#/components/schemas/Problem/properties/status") == ("integer", "int32")
    assert set(formats.values()) == {("integer", "int64"), ("number", "double")}


def test_constants_are_plain_and_have_a_type() -> None:
    constants = {
        place: (schema.get("type"), schema.get("enum", [schema.get("const")]))
        for place, schema in schemas()
        if "const" in schema or "enum" in schema
    }
    strange = {
        place: values
        for place, (kind, values) in constants.items()
        if not all(isinstance(value, str if kind == "string" else bool) for value in values)
    }

    assert strange == {}
    assert {kind for kind, _ in constants.values()} == {"string", None}


def test_responses_may_get_further_members_and_requests_may_not() -> None:
    responses = objects_below(operation["responses"] for _, _, operation in operations())
    requests = objects_below(operation.get("requestBody") for _, _, operation in operations())

    assert [name for name, schema in responses.items() if schema.get("additionalProperties") is not True] == []
    # RFC 6749, section 3.2, and RFC 6902, section 4: unknown parameters and members are ignored.
    assert {name for name, schema in requests.items() if schema.get("additionalProperties") is not False} == {
        "IntrospectionRequest",
        "JsonPatchOperation",
        "TokenExchangeRequest",
    }


def test_every_object_with_members_has_a_name() -> None:
    assert [place for place, schema in schemas() if "properties" in schema and place.count("/") > 3] == []


def test_no_client_sends_an_optional_list_or_object_unasked() -> None:
    sent = [
        f"{name}/{member}"
        for name, schema in objects_below(operation.get("requestBody") for _, _, operation in operations()).items()
        for member, kind in schema["properties"].items()
        if resolved(kind).get("type") in ("array", "object") and member not in schema.get("required", ())
        if not {"$ref", "description"} <= kind.keys()
    ]

    assert sent == []


def test_a_payload_is_any_object() -> None:
    for name in ("IssueRequest", "RefreshRequest", "TokenObject", "GoodVerdict", "Introspection", "MergeResult"):
        payload = resolved(API["components"]["schemas"][name]["properties"]["payload"])

        assert (payload["type"], payload["additionalProperties"], payload.get("properties")) == ("object", True, None)


def test_the_gateways_endpoint_is_in_no_generated_client() -> None:
    described = {path: set(item) - {"parameters"} for path, item in API["paths"].items() if path.startswith("/v1/auth")}

    assert described == {"/v1/auth": {"get"}, "/v1/auth/{path}": {"get"}}
    assert all(API["paths"][path]["get"]["x-internal"] for path in described)
