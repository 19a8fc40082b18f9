from email.utils import parsedate_to_datetime

import pytest

from service.http.response import Response, ResponseHead
from tests.api import Api
from tests.security.wire import connected, exchange

HEAD = ResponseHead(200, {"Content-Type": "text/plain"})


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\r\nX-Forged: b", "\n", "b\r"])
def test_a_line_break_in_a_header_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        ResponseHead(200, {"X-A": value})
    with pytest.raises(ValueError, match="line break"):
        Response(HEAD, extra_headers={"X-A": value})
    with pytest.raises(ValueError, match="line break"):
        Response(HEAD, extra_headers={f"X-A{value}": "b"})


def test_an_answer_is_its_head_its_own_headers_its_length_and_its_body() -> None:
    head, _, body = Response(HEAD, b"body", extra_headers={"X-A": "b"}).encode().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)

    assert (first, body) == ("HTTP/1.1 200 OK", b"body")
    assert parsedate_to_datetime(headers.pop("Date")).tzinfo is not None
    assert headers == {
        "Content-Type": "text/plain",
        "Server": "guest-sessions",
        "X-A": "b",
        "Content-Length": "4",
        "Connection": "close",
    }


async def test_head_has_the_headers_of_get_and_no_body(api: Api) -> None:
    got, asked = await api.get("/.well-known/jwks.json"), await api.ask("HEAD", "/.well-known/jwks.json")
    dates = {"Date"}

    assert asked.body == b""
    assert {name: value for name, value in asked.headers.items() if name not in dates} == {
        name: value for name, value in got.headers.items() if name not in dates
    }
    assert int(asked.headers["Content-Length"]) == len(got.body)


async def test_not_modified_has_no_length(api: Api) -> None:
    etag = (await api.get("/.well-known/jwks.json")).headers["ETag"]
    answer = await api.get("/.well-known/jwks.json", headers={"If-None-Match": etag})

    assert (answer.status, answer.body, answer.headers["ETag"]) == (304, b"", etag)
    assert "Content-Length" not in answer.headers


@pytest.mark.parametrize(
    ("request_line", "header", "connection"),
    [
        (b"GET /healthz HTTP/1.1", b"X-A: b", None),
        (b"GET /healthz HTTP/1.1", b"Connection: close", "close"),
        (b"GET /healthz HTTP/1.0", b"Connection: keep-alive", "keep-alive"),
        (b"GET /healthz HTTP/1.0", b"X-A: b", "close"),
    ],
)
async def test_the_connection_goes_on_as_the_client_asked(
    api: Api, request_line: bytes, header: bytes, connection: str | None
) -> None:
    request = b"%b\r\nHost: x\r\n%b\r\n\r\n" % (request_line, header)
    async with connected(api) as wire:
        wire.writer.write(request)
        first = await wire.reply()
        if connection == "close":
            assert await wire.rest() == b""
        else:
            wire.writer.write(request)
            assert (await wire.reply()).status == 200

    assert (first.status, first.headers.get("connection")) == (200, connection)


@pytest.mark.parametrize(
    "target",
    [b"/healthz", b"/healthz?a=b", b"/healthz?", b"/%68ealthz", b"http://x.example/healthz", b"/healthz#a"],
)
async def test_a_path_is_found_however_it_is_written(api: Api, target: bytes) -> None:
    reply = await exchange(api, b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)

    assert (reply.status, reply.json) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    "target", [b"/healthz/", b"//healthz", b"/HEALTHZ", b"healthz", b"/healthz%00", b"/healthz;a=b"]
)
async def test_what_only_resembles_a_path_is_not_found(api: Api, target: bytes) -> None:
    reply = await exchange(api, b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)

    assert reply.status in (400, 404)
