"""Responses whose bytes are ready: a prepared head and a body, sent in one piece.

aiohttp's own response keeps its headers in a multidict, fills in what is missing and serialises them again for each
request; for a short response that is a third of the whole time. Here the constant part of a head is encoded once. Knows
HTTP's framing (RFC 9112, section 6), not the content.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import HttpVersion10, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time

SERVER: Final = "guest-sessions"
"""The `Server` header: without versions, which would show an attacker what to try."""

MAX_COPIED_BYTES: Final = 65_536
"""A longer body, such as an asset of `/docs`, is sent as it is, not copied behind its head for each client."""


class ResponseHead:
    """Status line and the headers that are the same in every response of a kind; `Server` is always among them."""

    __slots__ = ("has_length", "is_public", "status", "text")

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.is_public = "public" in headers.get("Cache-Control", "")
        # A 304 has no body, and its length would be that of the response it stands for (RFC 9110, section 8.6).
        self.has_length = status != HTTPStatus.NOT_MODIFIED
        self.text = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{_lines({**headers, 'Server': SERVER})}"


class Response(web.StreamResponse):
    """A handler's response: sent unchanged, once.

    Of aiohttp's response only the interface remains that its server uses: `status`, `keep_alive`, `force_close`,
    `prepare` and `write_eof`. So `StreamResponse.__init__` does not run: it would make the multidict and the state that
    nothing here reads.
    """

    __slots__ = ("body", "extra_headers", "head", "keep_alive", "status")

    status: int
    """The status code. A slot, as `keep_alive`: each is read several times for a request."""
    keep_alive: bool | None
    """Whether the connection stays open; None while the request has not been looked at."""

    def __init__(
        self, head: ResponseHead, body: bytes = b"", *, extra_headers: Mapping[str, str] | None = None
    ) -> None:
        self.head = head
        self.body = body
        self.extra_headers = "" if extra_headers is None else _lines(extra_headers)
        self.keep_alive = None
        self.status = head.status

    def force_close(self) -> None:
        """Closes the connection after this response."""
        self.keep_alive = False

    def add_header(self, name: str, value: str) -> None:
        """Adds a header to this response."""
        self.extra_headers += _lines({name: value})

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Sends the whole response."""
        if self.keep_alive is None:
            self.keep_alive = request.keep_alive
        connection = ""
        if not self.keep_alive:
            connection = "Connection: close\r\n"
        elif request.version == HttpVersion10:
            connection = "Connection: keep-alive\r\n"
        writer = request.writer
        with_body = request.method != hdrs.METH_HEAD
        if with_body and len(self.body) > MAX_COPIED_BYTES:
            await writer.write(self.encode(connection=connection, with_body=False))
            await writer.write(self.body)
        else:
            await writer.write(self.encode(connection=connection, with_body=with_body))
        # Without this, a client that sends requests and reads no response would fill the memory with responses.
        await writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Does nothing: `prepare` has sent everything."""

    def encode(self, *, connection: str = "Connection: close\r\n", with_body: bool = True) -> bytes:
        """The bytes of the response; to HEAD without its body (RFC 9110, section 9.3.2)."""
        body = self.body
        length = f"Content-Length: {len(body)}\r\n" if self.head.has_length else ""
        head = f"{self.head.text}{self.extra_headers}{length}Date: {rfc822_formatted_time()}\r\n{connection}\r\n"
        return head.encode("ascii") + body if with_body else head.encode("ascii")


def json_response(head: ResponseHead, value: object) -> Response:
    """A response whose body is `value` as JSON."""
    return Response(head, msgspec.json.encode(value))


def _lines(headers: Mapping[str, str]) -> str:
    """Header lines. A line break in one would let a caller write headers of its own (RFC 9110, section 5.5)."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError("a header holds a line break")
    return lines
