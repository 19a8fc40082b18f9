"""Hostile bodies and header values through the API as it is served."""

import itertools
import logging
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest

from tests.api import Api
from tests.conftest import MakeApi
from tests.security.bodies import INVALID, MALFORMED
from tests.security.wire import check_problem, connected, exchange

KEY = "k" * 20
FORM = "application/x-www-form-urlencoded"
POSTS = ("/v1/issue", "/v1/refresh-payload", "/v1/verify", "/v1/merge", "/v1/introspect")
BREAKS = (
    "\r\nX-Injected: 1",
    "\nX-Injected: 1",
    "\rX-Injected: 1",
    "\x00",
    "\x1b[2J",
    "\u2028X-Injected: 1",
    "\x85",
    "é",
)


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_not_strict_json_is_malformed_for_every_endpoint(api: Api, name: str) -> None:
    for path in ("/v1/issue", "/v1/refresh-payload", "/v1/verify", "/v1/merge"):
        answer = await api.send(path, MALFORMED[name])

        assert (answer.status, answer.json["code"]) == (400, "malformed_request"), path
        assert [each["path"] for each in answer.json["errors"]] == [""]


@pytest.mark.parametrize("name", INVALID)
async def test_json_of_another_shape_is_invalid(api: Api, name: str) -> None:
    answer = await api.send("/v1/issue", INVALID[name])

    assert (answer.status, answer.json["code"]) == (422, "invalid_request")


async def test_a_prototype_is_a_name_like_any_other(api: Api) -> None:
    odd = {"__proto__": {"admin": True}, "constructor": {"prototype": {}}, "toString": 1, "hasOwnProperty": None}

    issued = await api.issue(payload=odd, claims={"__proto__": {"admin": True}})
    patched = await api.post("/v1/refresh-payload", {"token": issued["token"], "merge_patch": {"__proto__": {"a": 1}}})
    merged = await api.post("/v1/merge", {"tokens": [issued["token"]], "session": {"__proto__": {"b": 2}}})

    assert issued["payload"] == odd
    assert patched.json["payload"]["__proto__"] == {"admin": True, "a": 1}
    assert merged.json["payload"]["__proto__"] == {"admin": True, "a": 1, "b": 2}
    assert "admin" not in merged.json["payload"]


@pytest.mark.parametrize("text", BREAKS)
async def test_no_text_breaks_out_into_a_header_or_the_log(
    make_api: MakeApi, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    api = await make_api(GUEST_AUTH_HEADERS="payload,token")
    issued = await api.post(
        "/v1/issue", {"payload": {text: text}, "claims": {f"c{text}": text}, "audience": [f"a{text}"], "cookie": True}
    )
    token = issued.json["token"]
    answers = [
        issued,
        await api.get("/v1/auth", headers={"Cookie": f"guest={token}"}),
        await api.post("/v1/issue", {"subject": f"s{text}"}),
        await api.post("/v1/issue", {f"m{text}": 1}),
        await api.post("/v1/verify", {"token": text, "audience": text}),
        await api.post("/v1/merge", {"tokens": [token, text], "session": {text: text}}),
        await api.post("/v1/merge", {"tokens": [], "policy": f"p{text}"}),
        await api.post("/v1/merge", {"tokens": [], "policy": {"rules": {f"/{text}": f"r{text}"}}}),
        await api.post(
            "/v1/refresh-payload", {"token": token, "json_patch": [{"op": text, "path": f"/{text}", "value": 1}]}
        ),
        await api.send("/v1/introspect", urlencode({"token": text, text: text}).encode(), content_type=FORM),
    ]

    assert issued.status == 201
    for answer in answers:
        assert answer.status < 500
        for name, value in answer.headers.items():
            assert "injected" not in name.lower()
            assert (name + value).isascii()
            assert (name + value).isprintable()
    assert "X-Injected" not in caplog.text


@pytest.mark.parametrize(
    "header",
    ["X-API-Key", "Authorization", "Origin", "Idempotency-Key", "X-Request-Id", "If-None-Match", "Content-Type"],
)
@pytest.mark.parametrize(
    "raw", [b"\xff\xfe\x80", b"\xc3\xbc" * 12, b"\xed\xa0\x80", b"", b" ", b'"', b"," * 1_000, b"a" * 16_000]
)
async def test_header_values_of_any_bytes_get_a_described_answer(make_api: MakeApi, header: str, raw: bytes) -> None:
    guarded = await make_api(GUEST_API_KEYS=KEY)
    for api, target in itertools.product(
        (guarded, await make_api()), (b"POST /v1/issue", b"GET /v1/auth", b"GET /.well-known/jwks.json")
    ):
        head = b"%s HTTP/1.1\r\nHost: x\r\n%s: %s\r\nContent-Length: 0\r\n\r\n" % (target, header.encode(), raw)

        reply = await exchange(api, head)

        assert reply.status in (200, 201, 401, 403, 415, 422)


@pytest.mark.parametrize("key", [b"\xff" * 20, b"\xc3\xbc" * 10, KEY.encode() + b"\xff", b"\x80" + KEY.encode()])
async def test_an_api_key_beyond_ascii_is_a_wrong_one(make_api: MakeApi, key: bytes) -> None:
    api = await make_api(GUEST_API_KEYS=KEY)
    for header in (b"X-API-Key: ", b"Authorization: Bearer "):
        head = b"POST /v1/issue HTTP/1.1\r\nHost: x\r\n" + header + key + b"\r\nContent-Length: 0\r\n\r\n"

        check_problem(await exchange(api, head), status=401, code="unauthorized")


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        (b"evil.example", b"http://evil.example", 403),  # DNS rebinding: the page's own name leads here
        (b"evil.example:8080", b"http://evil.example:8080", 403),
        (b"127.0.0.1", b"https://evil.example", 403),
        (b"127.0.0.1", b"null", 403),
        (b"127.0.0.1", b"", 403),
        (b"127.0.0.1", b"http://127.0.0.1.evil.example", 403),
        (b"127.0.0.1", b"http://evil.example#http://127.0.0.1", 403),
        (b"127.0.0.1", b"http://127.0.0.1@evil.example", 403),
        (b"127.0.0.1", b"file://127.0.0.1", 403),
        (b"127.0.0.1", b"http://[::1", 403),
        (b"127.0.0.1", b"http://\xff", 403),
        (b"127.0.0.1", b"http://localhost:3000", 201),
    ],
)
async def test_a_page_from_elsewhere_cannot_use_an_unguarded_service(
    api: Api, host: bytes, origin: bytes, status: int
) -> None:
    head = b"POST /v1/issue HTTP/1.1\r\nHost: %s\r\nOrigin: %s\r\nContent-Length: 0\r\n\r\n" % (host, origin)

    assert (await exchange(api, head)).status == status


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_what_a_page_may_send_without_asking_is_not_taken_as_json(api: Api, content_type: str) -> None:
    # These three need no preflight, so that any page could send them (the Fetch standard's simple requests).
    answer = await api.send("/v1/issue", b"{}", content_type=content_type)

    assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"])
async def test_no_method_but_post_does_anything(api: Api, method: str) -> None:
    for path in POSTS:
        async with connected(api) as wire:
            wire.writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = await wire.reader.readuntil(b"\r\n\r\n")

        assert head.startswith(b"HTTP/1.1 405 ") or method == "CONNECT"
        assert b"Allow: POST\r\n" in head or method == "CONNECT"


async def test_a_form_with_a_thousand_members_or_a_token_twice_is_refused(api: Api) -> None:
    many = await api.send("/v1/introspect", b"&".join(b"a=1" for _ in range(1_000)), content_type=FORM)
    twice = await api.send("/v1/introspect", b"token=a&token=b", content_type=FORM)
    broken = await api.send("/v1/introspect", b"token=%ff%fe", content_type=FORM)

    assert (many.status, many.json["code"]) == (400, "malformed_request")
    assert (twice.status, twice.json["code"]) == (422, "invalid_request")
    assert (broken.status, broken.json["code"]) == (400, "malformed_request")


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


async def test_depth_cannot_be_gathered_over_several_requests(api: Api) -> None:
    issued = await api.issue(payload={"a": deep(29)})
    patch = [{"op": "copy", "from": "/a", "path": "/a/0/0/0"}]

    patched = await api.post("/v1/refresh-payload", {"token": issued["token"], "json_patch": patch})
    merged = await api.post(
        "/v1/merge", {"tokens": [issued["token"]], "session": {"a": [1]}, "policy": {"rules": {"/a": "append"}}}
    )
    again = await api.send("/v1/merge", msgspec.json.encode({"tokens": [], "session": merged.json["payload"]}))

    assert (patched.status, patched.json["code"]) == (422, "invalid_patch")
    assert (merged.status, again.status) == (200, 200)
