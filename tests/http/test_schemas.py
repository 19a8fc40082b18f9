"""The quick look at a body gives what the close one gives, or nothing."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.errors import Fault, GuestSessionsError, InvalidRequest, MalformedRequest
from service.http import schemas
from service.http.schemas import IssueRequest, MergeRequest, RefreshRequest, Request, VerifyRequest

_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=True)
    | st.text(max_size=5)
    | st.sampled_from(["\ud800", ":", "a:b", '"', "0" * 20, "\\", "\x00", "\u003a"])
)
_values = st.recursive(
    _leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=4)
)
_bodies = st.fixed_dictionaries(
    {},
    optional={
        "payload": st.dictionaries(st.text(max_size=2), _values, max_size=4),
        "claims": _values,
        "ttl": st.integers(-1, 100) | st.floats(0, 5),
        "subject": st.text(max_size=3),
        "cookie": st.booleans(),
        "audience": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=2),
        "extra": _values,
    },
)


def outcome(raw: bytes, shape: type[Request] = IssueRequest) -> tuple[str, Any]:
    try:
        return "good", schemas.decode(raw, shape)
    except GuestSessionsError as error:
        return error.code, error.facts


def closely(raw: bytes) -> tuple[str, Any]:
    """The same body by the close look alone."""
    try:
        return "good", msgspec.convert(schemas.decode_object(raw), IssueRequest)
    except GuestSessionsError as error:
        return error.code, error.facts
    except msgspec.ValidationError:
        return "invalid_request", None


@settings(max_examples=300)
@given(_bodies, st.sampled_from([(",", ":"), (", ", ": ")]))
@example({"payload": {"a": 2**64 - 1}}, (",", ":"))
@example({"payload": {"a": 2**64}}, (",", ":"))
@example({"payload": {"a": -(2**63) - 1}}, (",", ":"))
def test_a_body_comes_out_as_if_looked_at_closely(body: dict[str, Any], separators: tuple[str, str]) -> None:
    for escaped in (True, False):
        raw = json.dumps(body, ensure_ascii=escaped, separators=separators).encode("utf-8", "surrogatepass")

        code, value = outcome(raw)

        expected_code, expected = closely(raw)
        assert code == expected_code
        if code == "good":
            assert value == expected


@given(st.text(max_size=3), st.integers(0, 5))
def test_a_member_given_twice_is_never_taken(name: str, value: int) -> None:
    member = f"{json.dumps(name)}:{value}"

    assert outcome(f'{{"payload":{{{member},{member}}}}}'.encode())[0] == "malformed_request"
    assert outcome(f'{{"payload":{{":":1,{member},"b":{{{member},"c":2,{member}}}}}}}'.encode())[0] == (
        "malformed_request"
    )


def test_the_member_that_came_twice_is_named_whatever_it_is() -> None:
    code, facts = outcome(b'{"payload": {"a": 1, "\\ud800\\n": 1, "\\ud800\\n": 2}}')

    assert (code, facts) == (
        "malformed_request",
        {
            "errors": [
                {"path": "", "message": 'an object has the member "\\ud800\\n" twice'},
                {"path": "", "message": "has a lone surrogate"},
            ]
        },
    )


@pytest.mark.parametrize(
    ("raw", "messages"),
    [
        (
            b'{"a": 1, "a": 2, "b": {"c": 1e999, "c": -99999999999999999999}, "d": "\\ud800", "e": 1e999}',
            [
                'an object has the member "c" twice',
                'an object has the member "a" twice',
                "a number is beyond the range of a double",
                "a whole number is beyond 64 bits",
                "has a lone surrogate",
            ],
        ),
        (b'{"a": NaN, "b": Infinity}', ["NaN is no JSON", "Infinity is no JSON"]),
        (
            b'{"a": 1, "a": %s}' % (b"[" * 40 + b"]" * 40),
            ["nests over 32 levels", 'an object has the member "a" twice'],
        ),
        (b'{"a": NaN, "a": 1', ["is not JSON: Expecting ',' delimiter at character 17"]),
        (b"\xff NaN", ["is not UTF-8"]),
    ],
    ids=["a good many", "no numbers", "too deep", "no JSON", "not UTF-8"],
)
def test_every_fault_of_a_malformed_body_is_listed(raw: bytes, messages: list[str]) -> None:
    code, facts = outcome(raw)

    assert code == "malformed_request"
    assert sorted(fault["message"] for fault in facts["errors"]) == sorted(messages)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b'{"payload": 1}', "/payload"),
        (b'{"pay/load": 1}', "/pay~1load"),
        (b'{"audience": ["a", 1]}', "/audience/1"),
        (b'{"payload": [1, 2]}', "/payload"),
        (b'{"subject": ["x"]}', "/subject"),
        (b'{"cookie": [true]}', "/cookie"),
        (b'{"audience": []}', "/audience"),
    ],
)
def test_a_fault_is_reported_at_its_place(raw: bytes, path: str) -> None:
    code, facts = outcome(raw)

    assert code == "invalid_request"
    assert [fault["path"] for fault in facts["errors"]] == [path]


@pytest.mark.parametrize(
    ("shape", "raw", "paths"),
    [
        (
            IssueRequest,
            b'{"ttl": 0, "subject": "a b", "colour": 1, "shape": 2}',
            ["/colour", "/shape", "/subject", "/ttl"],
        ),
        (IssueRequest, b'{"audience": ["a", 1, ""], "payload": []}', ["/audience/1", "/audience/2", "/payload"]),
        (IssueRequest, b'{"audience": []}', ["/audience"]),
        (IssueRequest, b"[]", [""]),
        (RefreshRequest, b'{"merge_patch": {}, "payload": {}}', ["/merge_patch", "/payload", "/token"]),
        (
            RefreshRequest,
            b'{"token": 1, "payload": 1, "json_patch": []}',
            ["/json_patch", "/payload", "/payload", "/token"],
        ),
        (VerifyRequest, b'{"audience": 1}', ["/audience", "/token"]),
        (MergeRequest, b'{"tokens": ["a", 1, null, {}], "renew": 1}', ["/renew", "/tokens/1", "/tokens/3"]),
        (MergeRequest, b'{"tokens": [%s], "policy": null}' % b",".join([b"null"] * 33), ["/policy", "/tokens"]),
        (MergeRequest, b"{}", ["/tokens"]),
    ],
    ids=[
        "members",
        "elements",
        "no element",
        "a list",
        "exclusive",
        "exclusive and wrong",
        "verify",
        "merge",
        "long",
        "empty",
    ],
)
def test_every_fault_is_listed_at_its_place(shape: type[Request], raw: bytes, paths: list[str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        schemas.decode(raw, shape)

    assert sorted(fault.path for fault in refused.value.errors) == paths
    assert all(fault.message for fault in refused.value.errors)


def test_a_fault_of_the_head_comes_with_those_of_the_body() -> None:
    with pytest.raises(InvalidRequest) as refused:
        schemas.decode(b'{"ttl": 0}', IssueRequest, header_faults=[Fault("", "a header is bad")])

    assert [fault.path for fault in refused.value.errors] == ["", "/ttl"]


def test_of_a_hundred_thousand_faults_a_hundred_are_listed() -> None:
    with pytest.raises(InvalidRequest) as refused:
        schemas.decode(b'{"audience": [%s]}' % b",".join([b"1"] * 100_000), IssueRequest)

    assert len(refused.value.errors) == schemas.MAX_FAULTS == 100


@pytest.mark.parametrize("tokens", ['"\\udc00"', '{"a": "\\udc00"}', '{"\\udc00": 1}'])
def test_a_lone_surrogate_is_spared_in_a_list_of_tokens_alone(tokens: str) -> None:
    with pytest.raises(MalformedRequest):
        schemas.decode(f'{{"tokens": {tokens}}}'.encode(), MergeRequest)


@pytest.mark.parametrize("tokens", ['[["\\udc00"]]', '[{"\\udc00": 1}]', '["\\udc00", 1]'])
def test_what_is_no_list_of_texts_is_invalid_with_a_lone_surrogate_too(tokens: str) -> None:
    with pytest.raises(InvalidRequest):
        schemas.decode(f'{{"tokens": {tokens}}}'.encode(), MergeRequest)


def test_a_list_that_is_too_long_is_reported_beside_its_elements() -> None:
    code, facts = outcome(b'{"tokens": [%s]}' % b", ".join([b"1", *[b"null"] * 32]), MergeRequest)

    assert (code, [fault["path"] for fault in facts["errors"]]) == ("invalid_request", ["/tokens", "/tokens/0"])


@pytest.mark.parametrize(
    ("raw", "message"), [(b"token=%ff", "is not UTF-8"), (b"token=x" + b"&a=1" * 100, "has over 100 parameters")]
)
def test_what_is_wrong_with_a_form_is_named(raw: bytes, message: str) -> None:
    with pytest.raises(MalformedRequest) as refused:
        schemas.decode_form(raw)

    assert [(fault.path, fault.message) for fault in refused.value.errors] == [("", message)]
