from collections.abc import Iterator
from typing import Any, get_args

import jwt
import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from service import errors
from service.http.problems import PROBLEMS
from service.merge.policy_parser import compile_policy
from service.merge.receipts import Candidate, merge_guests
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


def test_the_example_of_a_merge_is_what_the_merge_gives() -> None:
    operation = API["paths"]["/v1/merge"]["post"]
    asked = operation["requestBody"]["content"]["application/json"]["examples"]["cart"]["value"]
    told = example_at("/v1/merge", "200", "cart")
    candidates = [
        Candidate(index, claims.parse(jwt.decode(token, options={"verify_signature": False})))
        for index, token in enumerate(asked["tokens"])
        if token is not None
    ]

    merged = merge_guests(asked["session"], candidates, compile_policy(asked["policy"]))

    answer = {name: getattr(merged, name) for name in ("payload", "merged", "guests", "skipped", "conflicts")}
    assert msgspec.json.decode(msgspec.json.encode(answer)) == {name: told[name] for name in answer}


def test_every_problem_of_a_request_is_described_with_its_code() -> None:
    described = {
        schema["properties"]["code"]["const"]
        for name, schema in API["components"]["schemas"].items()
        if name.endswith("Problem") and name != "Problem"
    }

    assert set(error_codes(errors.GuestSessionsError)) <= described


def test_the_example_problems_have_the_status_and_the_title_of_the_table() -> None:
    shown = {
        value["code"]: (value["status"], value["title"])
        for _, _, value in examples(API)
        if isinstance(value, dict) and "code" in value
    }

    assert shown == {code: row for code, row in PROBLEMS.items() if code != "internal_error"}


def test_reasons_and_reserved_claims_are_those_of_the_code() -> None:
    schemas = API["components"]["schemas"]

    assert schemas["Reason"]["enum"] == list(get_args(errors.Reason))
    assert set(schemas["FurtherClaims"]["propertyNames"]["not"]["enum"]) == claims.RESERVED


def test_no_answer_under_v1_may_be_kept_by_a_cache() -> None:
    kept = [
        f"{method} {path} {status}"
        for path, method, operation in operations()
        if path.startswith("/v1/")
        for status, response in operation["responses"].items()
        if resolved(resolved(response)["headers"]["Cache-Control"])["schema"] != {"const": "no-store"}
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
        ("RefreshRequest", {"token": "t", "payload": {}, "merge_patch": {}}),
        ("RefreshRequest", {"token": "t", "json_patch": [{"op": "add", "path": "/a"}]}),
        ("VerifyRequest", {"token": None}),
        ("MergeRequest", {"tokens": [1]}),
        ("MergeRequest", {"tokens": ["t"] * 33}),
        ("MergeRequest", {"tokens": [], "policy": {"rules": {"no-slash": "sum"}}}),
        ("MergeRequest", {"tokens": [], "policy": {"rules": {"/a": {"rule": "by_key"}}}}),
        ("MergeRequest", {"tokens": [], "policy": {"default": {"rule": "sum", "limit": 3}}}),
        ("PublicJwk", {"kty": "EC", "d": "x"}),
        ("BadVerdict", {"active": False, "reason": "because"}),
    ],
)
def test_what_is_refused_does_not_fit(schema: str, value: object) -> None:
    assert faults({"$ref": f"#/components/schemas/{schema}"}, value) != []
