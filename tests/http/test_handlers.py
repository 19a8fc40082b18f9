import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import msgspec
import pytest
from aiohttp import FormData, encode_basic_auth
from multidict import CIMultiDict

from tests.api import Api
from tests.conftest import MakeApi
from tests.doubles import START_S, HandClock
from tests.openapi import API
from tests.security.wire import check_problem, exchange

KEY = "k" * 20
GOOD_ISSUER = "http://127.0.0.1:8080"


def faults(problem: Mapping[str, Any]) -> list[str]:
    return [each["path"] for each in problem["errors"]]


async def test_an_issued_token_carries_the_payload_and_ten_years(api: Api) -> None:
    answer = await api.post("/v1/issue", {"payload": {"cart": ["tea"]}})

    token = answer.json
    assert answer.status == 201
    assert token["payload"] == {"cart": ["tea"]}
    assert token["version"] == 1
    assert token["issued_at"] == token["first_issued_at"] == int(START_S)
    assert token["expires_at"] == int(START_S) + 315_360_000
    assert token["expires_in"] == 315_360_000
    assert token["bytes"] == len(token["token"])
    assert "Set-Cookie" not in answer.headers


async def test_a_token_verifies_offline_with_an_off_the_shelf_library(api: Api) -> None:
    token = await api.issue(payload={"lang": "de"}, claims={"role_hint": "guest"}, audience=["shop"])
    jwks = (await api.get("/.well-known/jwks.json")).json
    [key] = jwt.PyJWKSet.from_dict(jwks).keys

    decoded = jwt.decode(
        token["token"], key, algorithms=["ES256"], audience="shop", issuer=GOOD_ISSUER, options={"verify_iat": False}
    )

    assert jwt.get_unverified_header(token["token"]) == {"alg": "ES256", "kid": token["key_id"], "typ": "guest+jwt"}
    assert decoded["payload"] == {"lang": "de"}
    assert decoded["role_hint"] == "guest"
    assert decoded["sub"] == token["subject"]


async def test_an_absent_body_issues_an_empty_guest(api: Api) -> None:
    answer = await api.ask("POST", "/v1/issue")

    assert (answer.status, answer.json["payload"]) == (201, {})


CHUNKED = b"Host: x\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize("content_type", [b"", b"Content-Type: application/json\r\n", b"Content-Type: text/plain\r\n"])
async def test_an_empty_chunked_body_is_absent(api: Api, content_type: bytes) -> None:
    issue = await exchange(api, b"POST /v1/issue HTTP/1.1\r\n" + CHUNKED + content_type + b"\r\n0\r\n\r\n")
    introspect = await exchange(api, b"POST /v1/introspect HTTP/1.1\r\n" + CHUNKED + content_type + b"\r\n0\r\n\r\n")

    assert (issue.status, issue.json["payload"]) == (201, {})
    assert (introspect.status, [each["path"] for each in introspect.json["errors"]]) == (422, ["/token"])


async def test_a_chunked_body_of_another_type_is_refused(api: Api) -> None:
    reply = await exchange(api, b"POST /v1/issue HTTP/1.1\r\n" + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n\r\n")

    check_problem(reply, status=415, code="unsupported_media_type")


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 201),
        ("application/json; charset=utf-8", 201),
        ("application/json;charset=utf8", 201),
        ('Application/JSON; Charset="UTF8"', 201),
        ("application/json; charset=latin1", 415),
        ("application/problem+json", 415),
        ("text/plain; charset=utf8", 415),
    ],
)
async def test_json_in_utf_8_is_taken_however_it_is_named(api: Api, content_type: str, status: int) -> None:
    assert (await api.send("/v1/issue", b"{}", content_type=content_type)).status == status


async def test_a_subject_a_ttl_and_an_audience_are_taken_as_given(make_api: MakeApi) -> None:
    api = await make_api(GUEST_AUDIENCE="site")

    token = await api.issue(subject="customer:7", ttl=60, audience="shop")

    assert (token["subject"], token["expires_in"]) == ("customer:7", 60)
    assert (await api.verify(token["token"], audience=["shop", "site"]))["active"]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"payload": []}, "/payload"),
        ({"payload": None}, "/payload"),
        ({"claims": 1}, "/claims"),
        ({"subject": ""}, "/subject"),
        ({"subject": "a b"}, "/subject"),
        ({"subject": "line\n"}, "/subject"),
        ({"subject": "ü"}, "/subject"),
        ({"subject": "x" * 256}, "/subject"),
        ({"ttl": 0}, "/ttl"),
        ({"ttl": -1}, "/ttl"),
        ({"ttl": 1.5}, "/ttl"),
        ({"ttl": True}, "/ttl"),
        ({"ttl": "60"}, "/ttl"),
        ({"ttl": 315_360_001}, "/ttl"),
        ({"audience": ""}, "/audience"),
        ({"audience": []}, "/audience"),
        ({"audience": [1]}, "/audience/0"),
        ({"cookie": 1}, "/cookie"),
        ({"colour": "red"}, "/colour"),
        ([], ""),
        ("text", ""),
    ],
)
async def test_a_body_of_the_wrong_shape_is_refused_with_its_place(api: Api, body: object, path: str) -> None:
    answer = await api.post("/v1/issue", body)

    assert (answer.status, answer.json["code"], faults(answer.json)) == (422, "invalid_request", [path])


@pytest.mark.parametrize(
    "claim", ["iss", "sub", "aud", "iat", "exp", "nbf", "orig_iat", "jti", "ver", "payload", "active"]
)
async def test_the_token_s_own_claims_cannot_be_given(api: Api, claim: str) -> None:
    answer = await api.post("/v1/issue", {"claims": {claim: 1, "fine": 2}})

    assert (answer.status, answer.json["code"], faults(answer.json)) == (422, "reserved_claim", [f"/claims/{claim}"])


async def test_every_value_that_cannot_be_signed_is_listed(api: Api) -> None:
    late = {"ttl": 10**12, "first_issued_at": 10**12}

    refused = await api.post("/v1/issue", late)
    reserved = await api.post("/v1/issue", late | {"claims": {"exp": 1, "iss": "x"}})

    values = ["/ttl", "/first_issued_at", "/first_issued_at"]  # without a subject, and in the future
    assert (refused.json["code"], faults(refused.json)) == ("invalid_request", values)
    assert (reserved.json["code"], faults(reserved.json)) == ("reserved_claim", ["/claims/exp", "/claims/iss", *values])


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"{} {}",
        b'{"payload": {"a": 1, "a": 2}}',
        b'{"payload": {"a": NaN}}',
        b'{"payload": {"a": -Infinity}}',
        b'{"payload": {"a": 1e400}}',
        b'{"payload": {"a": 18446744073709551616}}',
        b'{"payload": {"a": -9223372036854775809}}',
        b'{"payload": {"a": ' + b"9" * 5000 + b"}}",
        b'{"payload": {"a": "\\ud800"}}',
        b'{"payload": {"\\udc00": 1}}',
        b'{"payload": {"a": "\xff"}}',
        b'\xef\xbb\xbf{"payload": {}}',
        b'{"payload": ' + b'{"a":' * 32 + b"1" + b"}" * 32 + b"}",
        b"[" * 100_000,
    ],
)
async def test_what_is_not_strict_json_is_malformed(api: Api, raw: bytes) -> None:
    answer = await api.send("/v1/issue", raw)

    assert (answer.status, answer.json["code"], faults(answer.json)) == (400, "malformed_request", [""])


async def test_null_is_json_but_no_request(api: Api) -> None:
    answer = await api.send("/v1/issue", b"null")

    assert (answer.status, answer.json["code"]) == (422, "invalid_request")


async def test_the_widest_numbers_and_the_deepest_nesting_are_taken(api: Api) -> None:
    deepest = b'{"a":' * 31 + b"1" + b"}" * 31
    answer = await api.send("/v1/issue", b'{"payload": ' + deepest + b"}")
    widest = {"least": -(2**63), "most": 2**64 - 1, "real": 1.7976931348623157e308}

    assert answer.status == 201
    assert (await api.issue(payload=widest))["payload"] == widest


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)
async def test_only_json_in_utf8_is_taken(api: Api, content_type: str) -> None:
    answer = await api.send("/v1/issue", b"{}", content_type=content_type)

    assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("parameters", ["", "; charset=utf-8", ';charset="UTF-8"', "; profile=x; charset=utf-8"])
async def test_parameters_of_the_media_type_do_not_matter_but_the_charset(api: Api, parameters: str) -> None:
    answer = await api.send("/v1/issue", b"{}", content_type=f"Application/JSON{parameters}")

    assert answer.status == 201


async def test_a_compressed_body_is_refused_without_inflating(api: Api) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}

    answer = await api.ask("POST", "/v1/issue", data=b"\x1f\x8b", headers=headers)

    assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")


async def test_a_body_beyond_the_limit_is_refused(make_api: MakeApi) -> None:
    api = await make_api(GUEST_MAX_BODY_BYTES="1024")

    answer = await api.send("/v1/issue", b'{"payload": {"a": "' + b"x" * 1024 + b'"}}')

    assert (answer.status, answer.json["code"], answer.json["limit"]) == (413, "request_too_large", 1024)


async def test_a_token_beyond_the_limit_is_refused_and_nothing_cut(make_api: MakeApi) -> None:
    api = await make_api(GUEST_MAX_TOKEN_BYTES="512")

    answer = await api.post("/v1/issue", {"payload": {"a": "x" * 512}})

    assert (answer.status, answer.json["code"], answer.json["limit"]) == (422, "token_too_large", 512)
    assert answer.json["bytes"] > 512


async def test_unknown_paths_and_wrong_methods_are_distinguished(api: Api) -> None:
    unknown = await api.get("/v1/nothing")
    wrong = await api.get("/v1/issue")

    assert (unknown.status, unknown.json["code"]) == (404, "not_found")
    assert (wrong.status, wrong.json["code"], wrong.headers["Allow"]) == (405, "method_not_allowed", "POST")


async def test_the_cookie_is_set_when_asked_for(make_api: MakeApi) -> None:
    api = await make_api(GUEST_ISSUER="https://guests.example")

    answer = await api.post("/v1/issue", {"cookie": True})

    assert answer.headers["Set-Cookie"] == (
        f"__Host-guest={answer.json['token']}; Max-Age=34560000; HttpOnly; Path=/; SameSite=Lax; Secure"
    )
    assert len(answer.headers["Set-Cookie"]) + answer.json["cookie_bytes_left"] == 4096


async def test_a_cookie_that_no_browser_would_keep_is_refused(make_api: MakeApi) -> None:
    api = await make_api(GUEST_MAX_TOKEN_BYTES="8192")
    body = {"payload": {"a": "x" * 3000}}

    without = await api.post("/v1/issue", body)
    with_cookie = await api.post("/v1/issue", {**body, "cookie": True})

    assert (without.status, without.json["cookie_bytes_left"] < 0) == (201, True)
    assert (with_cookie.status, with_cookie.json["code"]) == (422, "token_too_large")
    assert with_cookie.json["limit"] < with_cookie.json["bytes"]


async def test_one_idempotency_key_is_one_guest(api: Api) -> None:
    first, again, other = [
        (await api.post("/v1/issue", {}, headers={"Idempotency-Key": key})).json["subject"]
        for key in ("visitor-1-abcdefgh", "visitor-1-abcdefgh", "visitor-2-abcdefgh")
    ]

    assert first == again != other


async def test_a_given_subject_outweighs_the_idempotency_key(api: Api) -> None:
    answer = await api.post("/v1/issue", {"subject": "me"}, headers={"Idempotency-Key": "visitor-1-abcdefgh"})

    assert answer.json["subject"] == "me"


@pytest.mark.parametrize("key", ["short", "x" * 129, "with a space inside", "umlaut-ü-umlaut-ü"])
async def test_a_malformed_idempotency_key_is_refused(api: Api, key: str) -> None:
    answer = await api.post("/v1/issue", {}, headers={"Idempotency-Key": key})

    assert (answer.status, answer.json["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("change", "payload"),
    [
        ({"payload": {"b": 2}}, {"b": 2}),
        ({"merge_patch": {"a": None, "b": {"c": 1}}}, {"b": {"c": 1}}),
        (
            {"json_patch": [{"op": "test", "path": "/a", "value": 1}, {"op": "move", "from": "/a", "path": "/z"}]},
            {"z": 1},
        ),
    ],
)
async def test_refreshing_changes_the_payload_and_keeps_the_guest(
    api: Api, clock: HandClock, change: dict[str, Any], payload: dict[str, Any]
) -> None:
    old = await api.issue(payload={"a": 1}, claims={"x": "y"}, audience="shop", ttl=100)
    clock.now_s += 10

    answer = await api.post("/v1/refresh-payload", {"token": old["token"], **change})

    new = answer.json
    assert answer.status == 200
    assert (new["payload"], new["version"], new["subject"]) == (payload, 2, old["subject"])
    assert new["first_issued_at"] == old["first_issued_at"]
    assert (new["issued_at"], new["expires_in"]) == (old["issued_at"] + 10, 100)
    assert new["token_id"] != old["token_id"]
    verified = await api.verify(new["token"], audience="shop")
    assert verified["claims"] == {"x": "y"}


async def test_signing_again_keeps_payload_and_version(api: Api) -> None:
    old = await api.issue(payload={"a": 1})

    new = (await api.post("/v1/refresh-payload", {"token": old["token"], "ttl": 5})).json

    assert (new["payload"], new["version"], new["expires_in"]) == ({"a": 1}, 1, 5)


async def test_replacing_a_payload_by_an_equal_one_keeps_the_version(api: Api) -> None:
    old = await api.issue(payload={"a": 1})

    new = (await api.post("/v1/refresh-payload", {"token": old["token"], "payload": {"a": 1}})).json

    assert new["version"] == 1


async def test_only_one_way_to_change_a_payload_at_a_time(api: Api) -> None:
    old = await api.issue()

    answer = await api.post("/v1/refresh-payload", {"token": old["token"], "payload": {}, "merge_patch": {}})

    assert (answer.status, answer.json["code"]) == (422, "invalid_request")
    assert faults(answer.json) == ["/payload", "/merge_patch"]


async def test_a_failed_test_is_a_conflict_and_a_patch_that_does_not_apply_is_invalid(api: Api) -> None:
    old = await api.issue(payload={"a": 1})

    failed = await api.post(
        "/v1/refresh-payload",
        {"token": old["token"], "json_patch": [{"op": "test", "path": "/a", "value": True}]},
    )
    broken = await api.post(
        "/v1/refresh-payload", {"token": old["token"], "json_patch": [{"op": "remove", "path": "/nothing"}]}
    )

    assert (failed.status, failed.json["code"]) == (409, "patch_conflict")
    assert (broken.status, broken.json["code"], faults(broken.json)) == (422, "invalid_patch", ["/json_patch/0"])


async def test_refreshing_a_bad_token_says_why(api: Api, clock: HandClock) -> None:
    old = await api.issue(ttl=1)
    clock.now_s += 1

    answer = await api.post("/v1/refresh-payload", {"token": old["token"]})

    assert (answer.status, answer.json["code"], answer.json["reason"]) == (422, "invalid_token", "expired")


async def test_a_good_token_is_reported_with_all_that_it_carries(api: Api, clock: HandClock) -> None:
    token = await api.issue(payload={"a": 1}, claims={"b": 2})
    clock.now_s += 10

    verified = await api.verify(token["token"])

    same = {name: value for name, value in token.items() if name not in ("token", "expires_in", "cookie_bytes_left")}
    assert verified | same == verified
    assert verified["expires_in"] == token["expires_in"] - 10
    assert (verified["active"], verified["claims"], verified["refresh_due"]) == (True, {"b": 2}, False)


async def test_a_token_is_due_once_it_is_older_than_the_renewal_age(api: Api, clock: HandClock) -> None:
    token = await api.issue()

    clock.now_s = token["issued_at"] + 86_400
    at_the_age = await api.verify(token["token"])
    clock.now_s += 1
    beyond = await api.verify(token["token"])

    assert (at_the_age["refresh_due"], beyond["refresh_due"]) == (False, True)


async def test_bad_tokens_are_reported_with_their_reason(make_api: MakeApi, clock: HandClock) -> None:
    api = await make_api(GUEST_AUDIENCE="site")
    elsewhere = await make_api(GUEST_AUDIENCE="site", GUEST_ISSUER="https://elsewhere.example")
    good = (await api.issue(ttl=1))["token"]
    header, claims, signature = good.split(".")
    foreign = (await elsewhere.issue())["token"]

    reasons = {
        name: (await api.verify(token, **members)).get("reason")
        for name, token, members in (
            ("good", good, {}),
            ("too long", "x" * 16_385, {}),
            ("two segments", "a.b", {}),
            ("padded", f"{header}.{claims}.{signature}==", {}),
            ("other header", f"e30.{claims}.{signature}", {}),
            ("changed claims", f"{header}.{claims[:-4]}AAAA.{signature}", {}),
            ("another issuer's", foreign, {}),
            ("not for the shop", good, {"audience": "shop"}),
        )
    }
    clock.now_s = int(clock.now_s) + 1.0
    reasons["at its end"] = (await api.verify(good)).get("reason")

    assert reasons == {
        "good": None,
        "too long": "too_large",
        "two segments": "malformed",
        "padded": "malformed",
        "other header": "unknown_key",
        "changed claims": "bad_signature",
        "another issuer's": "wrong_issuer",
        "not for the shop": "wrong_audience",
        "at its end": "expired",
    }


async def test_introspection_answers_the_claims_at_the_top_level(api: Api) -> None:
    token = await api.issue(payload={"a": 1}, claims={"b": 2})

    good = await api.ask("POST", "/v1/introspect", data={"token": token["token"], "token_type_hint": "access_token"})
    bad = await api.ask("POST", "/v1/introspect", data={"token": "nonsense"})

    assert good.json == {
        "active": True,
        "iss": GOOD_ISSUER,
        "sub": token["subject"],
        "iat": token["issued_at"],
        "exp": token["expires_at"],
        "orig_iat": token["first_issued_at"],
        "jti": token["token_id"],
        "ver": 1,
        "payload": {"a": 1},
        "b": 2,
    }
    assert bad.json == {"active": False}


async def test_introspection_takes_a_form_with_one_token(api: Api) -> None:
    without = await api.ask("POST", "/v1/introspect", data={"token_type_hint": "x"})
    twice = await api.ask("POST", "/v1/introspect", data=FormData([("token", "a"), ("token", "b")]))
    as_json = await api.post("/v1/introspect", {"token": "a"})
    not_text = await api.send("/v1/introspect", b"token=\xff", content_type="application/x-www-form-urlencoded")

    assert [(each.status, each.json["code"]) for each in (without, twice, as_json, not_text)] == [
        (422, "invalid_request"),
        (422, "invalid_request"),
        (415, "unsupported_media_type"),
        (400, "malformed_request"),
    ]


@pytest.mark.parametrize(
    ("headers", "form", "status"),
    [
        ({}, {}, 401),
        ({"Authorization": "Bearer " + KEY}, {}, 200),
        ({"X-API-Key": KEY}, {}, 200),
        ({"Authorization": encode_basic_auth("gateway", KEY)}, {}, 200),
        ({"Authorization": encode_basic_auth("gateway", "w" * 20)}, {}, 401),
        ({}, {"client_id": "gateway", "client_secret": KEY}, 200),
        ({}, {"client_id": "gateway", "client_secret": "w" * 20}, 401),
    ],
    ids=["none", "bearer", "header", "basic", "wrong basic", "secret", "wrong secret"],
)
async def test_introspection_takes_the_key_as_oauth_clients_send_it(
    make_api: MakeApi, headers: dict[str, str], form: dict[str, str], status: int
) -> None:
    api = await make_api(GUEST_API_KEYS=KEY)

    answer = await api.ask("POST", "/v1/introspect", data={"token": "x", **form}, headers=headers)

    assert answer.status == status


@pytest.mark.parametrize("path", ["/v1/issue", "/v1/verify"])
async def test_a_client_s_secret_opens_nothing_else(make_api: MakeApi, path: str) -> None:
    api = await make_api(GUEST_API_KEYS=KEY)

    answer = await api.post(path, {}, headers={"Authorization": encode_basic_auth("gateway", KEY)})

    assert answer.status == 401


async def test_merging_hands_over_the_good_guests_and_lists_the_bad_tokens(api: Api) -> None:
    guest = await api.issue(payload={"cart": ["tea"]}, claims={"role_hint": "guest"}, audience="shop")

    answer = await api.post(
        "/v1/merge", {"tokens": ["nonsense", None, guest["token"]], "session": {"cart": ["milk"], "name": "Ada"}}
    )

    merged = answer.json
    assert merged["payload"]["cart"] == ["milk", "tea"]
    assert merged["payload"]["name"] == "Ada"
    assert merged["merged"] is True
    assert merged["guests"] == [{"subject": guest["subject"], "version": 1, "weakened": False}]
    assert merged["skipped"] == [{"index": 0, "reason": "malformed"}]
    assert (merged["next"]["payload"], merged["next"]["version"]) == ({}, 1)
    assert merged["next"]["subject"] != guest["subject"]
    assert (await api.verify(merged["next"]["token"], audience="shop"))["claims"] == {"role_hint": "guest"}


async def test_a_null_session_is_an_empty_one(api: Api) -> None:
    guest = await api.issue(payload={"cart": ["tea"]})

    answer = await api.send("/v1/merge", msgspec.json.encode({"tokens": [guest["token"]], "session": None}))

    assert (answer.status, answer.json["payload"]["cart"], answer.json["conflicts"]) == (200, ["tea"], [])


async def test_a_bad_idempotency_key_is_listed_with_the_faults_of_the_body(api: Api) -> None:
    answer = await api.post("/v1/issue", {"ttl": 0, "cookie": 1}, headers={"Idempotency-Key": "short"})

    assert (answer.status, answer.json["code"], faults(answer.json)) == (
        422,
        "invalid_request",
        ["", "/ttl", "/cookie"],
    )


async def test_merging_again_changes_nothing(api: Api) -> None:
    guest = await api.issue(payload={"cart": ["tea"]})
    body = {"tokens": [guest["token"]], "session": {"cart": ["milk"]}, "policy": {"rules": {"/cart": "append"}}}
    once = (await api.post("/v1/merge", body)).json

    again = (await api.post("/v1/merge", {**body, "session": once["payload"]})).json

    assert again["payload"] == once["payload"]
    assert (again["merged"], again["guests"]) == (False, [])
    assert again["skipped"] == [{"index": 0, "reason": "already_merged", "subject": guest["subject"]}]


async def test_a_token_that_is_no_text_is_a_bad_token_and_a_session_that_is_none_is_malformed(api: Api) -> None:
    skipped = await api.send("/v1/merge", b'{"tokens": ["\\ud800"], "session": {"a": 1}}')
    refused = await api.send("/v1/merge", b'{"tokens": [], "session": {"a": "\\ud800"}}')

    assert (skipped.status, skipped.json["payload"]) == (200, {"a": 1})
    assert skipped.json["skipped"] == [{"index": 0, "reason": "malformed"}]
    assert (refused.status, refused.json["code"]) == (400, "malformed_request")


async def test_strict_merging_fails_on_a_bad_token_and_names_it(api: Api) -> None:
    answer = await api.post("/v1/merge", {"tokens": [None, "nonsense"], "strict": True})

    assert (answer.status, answer.json["code"]) == (422, "invalid_token")
    assert (answer.json["reason"], answer.json["index"]) == ("malformed", 1)


async def test_a_dry_run_signs_nothing_and_sets_no_cookie(api: Api) -> None:
    guest = await api.issue(payload={"a": 1})
    body = {"tokens": [guest["token"]], "cookie": True}

    dry = await api.post("/v1/merge", {**body, "dry_run": True})
    real = await api.post("/v1/merge", body)

    assert dry.json == {**real.json, "next": None}
    assert "Set-Cookie" not in dry.headers
    assert real.headers["Set-Cookie"].startswith(f"guest={real.json['next']['token']}; ")


async def test_without_renewal_the_cookie_is_deleted(api: Api) -> None:
    answer = await api.post("/v1/merge", {"tokens": [], "renew": False, "cookie": True})

    assert answer.json["next"] is None
    assert answer.headers["Set-Cookie"] == "guest=; Max-Age=0; HttpOnly; Path=/; SameSite=Lax"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["guest=; Max-Age=0; HttpOnly; Path=/; SameSite=Lax; Domain=shop.example; Secure"]),
        (
            {"GUEST_COOKIE_NAME": "guest,__Host-guest,old"},
            [
                "guest=; Max-Age=0; HttpOnly; Path=/; SameSite=Lax; Domain=shop.example; Secure",
                "__Host-guest=; Max-Age=0; HttpOnly; Path=/; SameSite=Lax; Secure",
                "old=; Max-Age=0; HttpOnly; Path=/; SameSite=Lax; Secure",
                "old=; Max-Age=0; HttpOnly; Path=/; SameSite=Lax; Domain=shop.example; Secure",
            ],
        ),
    ],
    ids=["one name", "three names"],
)
async def test_a_handed_over_guest_ends_under_every_name(
    make_api: MakeApi, settings: dict[str, str], expected: list[str]
) -> None:
    api = await make_api(GUEST_ISSUER="https://shop.example", GUEST_COOKIE_DOMAIN="shop.example", **settings)
    guest = await api.issue(payload={"a": 1})

    answer = await api.post("/v1/merge", {"tokens": [guest["token"]], "renew": False, "cookie": True})

    assert answer.headers.getall("Set-Cookie") == expected


async def test_policies_are_taken_by_name_or_as_they_are(api: Api) -> None:
    guest = await api.issue(payload={"a": 1})
    body = {"tokens": [guest["token"]], "session": {"a": 2}}

    by_name = await api.post("/v1/merge", {**body, "policy": "guest_replaces"})
    inline = await api.post("/v1/merge", {**body, "policy": {"rules": {"/a": "sum"}}})
    unknown = await api.post("/v1/merge", {**body, "policy": "nope"})
    broken = await api.post("/v1/merge", {**body, "policy": {"rules": {"/a": "add"}, "more": 1}})

    assert (by_name.json["payload"]["a"], inline.json["payload"]["a"]) == (1, 3)
    assert (unknown.status, unknown.json["code"], faults(unknown.json)) == (422, "invalid_policy", ["/policy"])
    assert (broken.status, broken.json["code"]) == (422, "invalid_policy")
    assert sorted(faults(broken.json)) == ["/policy/more", "/policy/rules/~1a"]


async def test_a_report_of_many_conflicts_shows_each_of_a_long_list_s_values_no_more_than_there_is_room(
    api: Api,
) -> None:
    at_odds = [{"id": 1, "seen": index} for index in range(100)]
    guest = await api.issue(payload={"lines": at_odds, "name": "Eve"})
    policy = {"rules": {"/lines": {"rule": "by_key", "key": "id", "fields": {"/seen": "session"}}, "/name": "session"}}
    session = {"lines": [{"id": 1, "seen": ["x"] * 30_000}], "name": "Ada"}

    answer = await api.post("/v1/merge", {"tokens": [guest["token"]], "session": session, "policy": policy})

    conflicts = answer.json["conflicts"]
    assert len(answer.body) < 2 * 1_048_576
    assert {(each["path"], each["kept"], each["rule"]) for each in conflicts[:100]} == {
        ("/lines/0/seen", "session", "session")
    }
    shown = [each for each in conflicts[:100] if "session" in each]
    assert [(each["session"], each["guest"]) for each in shown] == [(["x"] * 30_000, n) for n in range(len(shown))]
    assert 0 < len(shown) < len(conflicts[:100])
    assert not any("guest" in each for each in conflicts[:100] if each not in shown)
    assert conflicts[100:] == [
        {
            "path": "/name",
            "session": "Ada",
            "guest": "Eve",
            "kept": "session",
            "rule": "session",
            "subject": guest["subject"],
        }
    ]


async def test_an_etag_spares_the_jwks(api: Api) -> None:
    first = await api.get("/.well-known/jwks.json")

    same = await api.get("/.well-known/jwks.json", headers={"If-None-Match": f'"x", W/{first.headers["ETag"]}'})
    lines = CIMultiDict([("If-None-Match", '"x"'), ("If-None-Match", first.headers["ETag"])])
    second_line = await api.get("/.well-known/jwks.json", headers=lines)
    other = await api.get("/.well-known/jwks.json", headers={"If-None-Match": '"x"'})

    assert (first.status, same.status, second_line.status, other.status) == (200, 304, 304, 200)
    assert first.headers["Cache-Control"] == "public, max-age=300, stale-if-error=86400"
    assert first.headers["Access-Control-Allow-Origin"] == "*"
    assert [set(key) for key in first.json["keys"]] == [{"kty", "use", "alg", "kid", "crv", "x", "y"}]


@pytest.mark.parametrize("name", ["openid-configuration", "oauth-authorization-server"])
async def test_discovery_points_to_the_jwks(make_api: MakeApi, name: str) -> None:
    api = await make_api(GUEST_ISSUER="https://guests.example/base")

    document = (await api.get(f"/.well-known/{name}")).json

    assert document["issuer"] == "https://guests.example/base"
    assert document["jwks_uri"] == "https://guests.example/base/.well-known/jwks.json"
    assert document["introspection_endpoint"] == "https://guests.example/base/v1/introspect"


async def test_health_readiness_and_metrics(api: Api) -> None:
    await api.issue()
    health = await api.get("/healthz")
    ready = await api.get("/readyz")
    metrics = (await api.get("/metrics")).body.decode()

    assert (health.status, health.json) == (200, {"status": "ok"})
    assert (ready.status, ready.json["ready"], ready.json["role"], ready.json["redis"]) == (200, True, "keeper", "off")
    assert 'guest_sessions_requests_total{route="/v1/issue",status="201"} 1.0' in metrics
    assert "guest_sessions_keyring_revision 1.0" in metrics


@pytest.mark.parametrize(
    ("keys", "methods"),
    [({}, ["none"]), ({"GUEST_API_KEYS": KEY}, ["client_secret_basic", "client_secret_post", "Bearer"])],
)
async def test_discovery_says_how_to_authenticate(make_api: MakeApi, keys: dict[str, str], methods: list[str]) -> None:
    api = await make_api(**keys)

    document = (await api.get("/.well-known/oauth-authorization-server")).json

    # RFC 8414, section 2: a name from the registry of OAuth Access Token Types, where it is no client's method.
    assert document["introspection_endpoint_auth_methods_supported"] == methods


async def counted(api: Api) -> dict[str, float]:
    """How many tokens were issued, verified and so on so far, and why others were refused."""
    text = (await api.get("/metrics")).body.decode()
    found = re.findall(r'^guest_sessions_tokens\w*_total\{\w+="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {name: float(number) for name, number in found}


@pytest.mark.parametrize(
    "present",
    [
        lambda api, token: api.verify(token),
        lambda api, token: api.post("/v1/refresh-payload", {"token": token}),
        lambda api, token: api.post("/v1/merge", {"tokens": [token], "dry_run": True}),
        lambda api, token: api.ask("POST", "/v1/introspect", data={"token": token}),
        lambda api, token: api.get("/v1/auth", headers={"Cookie": f"guest={token}"}),
        lambda api, token: api.get("/v1/auth?mode=ensure", headers={"Authorization": f"Bearer {token}"}),
    ],
    ids=["verify", "refresh", "merge", "introspect", "auth", "ensure"],
)
async def test_a_forged_token_is_counted_wherever_it_comes(api: Api, present: Callable[[Api, str], Any]) -> None:
    token = (await api.issue())["token"]

    await present(api, f"{token[:-5]}AAAAA")

    assert await counted(api) == {"issued": 1, "bad_signature": 1}


async def test_each_thing_done_with_a_token_is_counted_once(api: Api) -> None:
    token = (await api.issue(payload={"a": 1}))["token"]
    await api.verify(token)
    await api.post("/v1/refresh-payload", {"token": token})
    await api.post("/v1/merge", {"tokens": [token], "dry_run": True})
    await api.post("/v1/merge", {"tokens": []})
    before = await counted(api)
    await api.post("/v1/merge", {"tokens": [token]})
    after = await counted(api)

    assert before == {"issued": 2, "verified": 2, "refreshed": 1}
    assert after == {"issued": 3, "verified": 3, "refreshed": 1, "merged": 1}


async def test_a_follower_without_redis_is_not_ready_as_described(make_api: MakeApi) -> None:
    [media] = API["paths"]["/readyz"]["get"]["responses"]["503"]["content"].values()
    described = media["examples"]["follower"]["value"]
    nowhere = {"GUEST_REDIS_URL": "unix:///nonexistent/redis.sock", "GUEST_KEYS_SECRET": "A" * 43}

    ready = await (await make_api(GUEST_KEYS_DIR="none", **nowhere)).get("/readyz")

    assert ready.status == 503
    assert {name: ready.json[name] for name in described} == described


async def test_the_description_and_its_page_are_served(api: Api) -> None:
    description = await api.get("/openapi.yaml")
    page = await api.get("/docs")
    missing = await api.get("/docs/nothing.js")

    assert description.body.startswith(b"openapi: 3.1.0")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert missing.status == 404


async def test_the_page_is_served_behind_a_slash_too(api: Api) -> None:
    async with api.session.get(f"{api.base_url}/docs/") as response:
        assert (response.status, response.content_type) == (200, "text/html")


async def test_configured_keys_are_demanded_and_compared(make_api: MakeApi) -> None:
    api = await make_api(GUEST_API_KEYS=f"{KEY},{'o' * 24}")

    statuses = {
        name: (await api.post("/v1/issue", {}, headers=headers)).status
        for name, headers in (
            ("none", {}),
            ("wrong", {"X-API-Key": "w" * 20}),
            ("beginning", {"X-API-Key": KEY[:-1]}),
            ("not ascii", {"X-API-Key": "ü" * 20}),
            ("basic", {"Authorization": f"Basic {KEY}"}),
            ("header", {"X-API-Key": KEY}),
            ("bearer", {"Authorization": f"bearer {KEY}"}),
            ("second", {"X-API-Key": "o" * 24}),
            ("beside a foreign bearer", {"X-API-Key": KEY, "Authorization": "Bearer something-else"}),
        )
    }

    assert statuses == {
        "none": 401,
        "wrong": 401,
        "beginning": 401,
        "not ascii": 401,
        "basic": 401,
        "header": 201,
        "bearer": 201,
        "second": 201,
        "beside a foreign bearer": 201,
    }


async def test_a_refused_caller_learns_how_to_authenticate(make_api: MakeApi) -> None:
    api = await make_api(GUEST_API_KEYS=KEY)

    answer = await api.post("/v1/verify", {"token": "x"})

    assert answer.json["code"] == "unauthorized"
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="guest-sessions"'


async def test_what_is_for_everyone_asks_for_no_key(make_api: MakeApi) -> None:
    api = await make_api(GUEST_API_KEYS=KEY)

    for path in (
        "/.well-known/jwks.json",
        "/healthz",
        "/readyz",
        "/metrics",
        "/docs",
        "/openapi.yaml",
        "/v1/auth?mode=ensure",
    ):
        assert (await api.get(path)).status == 200, path


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("http://evil.example:8080", 403),
        ("null", 403),
        ("http://127.0.0.1.evil.example", 403),
        ("http://[", 403),
        ("http://127.0.0.1:3000", 201),
        ("http://localhost:8080", 201),
        ("http://[::1]:1", 201),
        ("https://guests.example", 201),
    ],
)
async def test_without_keys_no_foreign_page_may_call(make_api: MakeApi, origin: str, status: int) -> None:
    api = await make_api(GUEST_ISSUER="https://guests.example/base")

    answer = await api.post("/v1/issue", {}, headers={"Origin": origin})

    assert answer.status == status
    assert status == 201 or answer.json["code"] == "forbidden_origin"


async def test_with_keys_the_origin_does_not_matter(make_api: MakeApi) -> None:
    api = await make_api(GUEST_API_KEYS=KEY)

    answer = await api.post("/v1/issue", {}, headers={"Origin": "https://evil.example", "X-API-Key": KEY})

    assert answer.status == 201


async def test_a_body_that_stalls_is_given_up(make_api: MakeApi) -> None:
    api = await make_api(body_timeout_s=0.05)
    host, port = api.base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/issue HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")

    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()

    assert head.startswith(b"HTTP/1.1 408 ")


async def test_a_caller_s_request_id_comes_back_and_one_unfit_for_a_log_does_not(api: Api) -> None:
    given = await api.get("/v1/nothing", headers={"X-Request-Id": "trace-1"})
    unfit = await api.get("/v1/nothing", headers={"X-Request-Id": "a b"})

    assert given.json["request_id"] == given.headers["X-Request-Id"] == "trace-1"
    assert unfit.json["request_id"] == unfit.headers["X-Request-Id"] != "a b"
