"""Answers whose bytes are ready: a prepared head and a body, which go out in one piece.

aiohttp's own response keeps its headers in a multidict, fills in what is missing and serialises them anew for each
request; for a short answer that is a third of the whole time. Here what never changes in a head is encoded once. Knows
HTTP's framing (RFC 9112, section 6), nothing of what is answered.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion10, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time

SERVER: Final = "guest-sessions"
"""The `Server` header: no versions, which would tell an attacker what to try."""

LONGEST_COPIED_BYTES: Final = 65_536
"""A longer body, such as an asset of `/docs`, is sent as it lies, not copied behind its head for each client."""


class ResponseHead:
    """Status line and the headers that are the same in every answer of a kind; `Server` is always among them."""

    __slots__ = ("status", "text")

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        self.text = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{_lines({**headers, 'Server': SERVER})}"


class Response(web.StreamResponse):
    """What a handler answers: sent as it is, once."""

    def __init__(
        self, head: ResponseHead, body: bytes = b"", *, extra_headers: Mapping[str, str] | None = None
    ) -> None:
        # Not super().__init__(): it makes the multidict and the state that there is no use for here.
        self.head = head
        self.body = body
        self.extra_headers = "" if extra_headers is None else _lines(extra_headers)

    @property
    def status(self) -> int:
        """The status code."""
        return self.head.status

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Sends the whole answer."""
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        connection = ""
        if not self._keep_alive:
            connection = "Connection: close\r\n"
        elif request.version == HttpVersion10:
            connection = "Connection: keep-alive\r\n"
        writer = request.writer
        with_body = request.method != hdrs.METH_HEAD
        if with_body and len(self.body) > LONGEST_COPIED_BYTES:
            await writer.write(self.encode(connection=connection, with_body=False))
            await writer.write(self.body)
        else:
            await writer.write(self.encode(connection=connection, with_body=with_body))
        # Without this, whoever sends requests and reads no answer would fill the memory with answers.
        await writer.drain()
        self._eof_sent = True
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing to do: `prepare` has sent everything."""

    def encode(self, *, connection: str = "Connection: close\r\n", with_body: bool = True) -> bytes:
        """The answer as it goes over the wire; to HEAD without its body (RFC 9110, section 9.3.2)."""
        body = self.body
        # A 304 has no body, and a length would be that of what it stands for (RFC 9110, section 8.6).
        length = "" if self.head.status == HTTPStatus.NOT_MODIFIED else f"Content-Length: {len(body)}\r\n"
        head = f"{self.head.text}{self.extra_headers}{length}Date: {rfc822_formatted_time()}\r\n{connection}\r\n"
        return head.encode("ascii") + body if with_body else head.encode("ascii")


def _lines(headers: Mapping[str, str]) -> str:
    """Header lines. A line break within one would be an answer of somebody else's making (RFC 9110, section 5.5)."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError("a header holds a line break")
    return lines
