"""A request's body: read whole, of the media type that the endpoint takes, within size and time.

Owns the bounds on bodies and on the work that large ones cause. Does not look at the content.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from aiohttp import hdrs, web

from service.http.problems import HttpProblem
from service.http.response import Response
from service.tokens.compute import Compute, OffloadThread, run_inline

BODY_TIMEOUT_S: Final = 5.0
"""For the whole body to arrive; a stalled one would otherwise be held for as long as the client likes."""
LARGE_BODY_BYTES: Final = 16_384
"""A larger body is processed in a thread: one token takes milliseconds of work, 256 KiB of lists up to seconds."""
MAX_LARGE_BODIES: Final = 2
"""How many large bodies are decoded at a time: each takes ten times its size, and one thread does the work anyway."""


class Body(msgspec.Struct, frozen=True):
    """A request's body. `compute` runs a function whose time grows with the body, without blocking other requests."""

    raw: bytes
    compute: Compute


class BodyReader:
    """Reads bodies and hands them to handlers, large ones at most `MAX_LARGE_BODIES` at a time."""

    def __init__(self, *, timeout_s: float = BODY_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._offload = OffloadThread()
        self._large_bodies = asyncio.Semaphore(MAX_LARGE_BODIES)

    async def pass_to(
        self, handler: Callable[[web.Request, Body], Awaitable[Response]], request: web.Request, *, media_type: str
    ) -> Response:
        """Returns the handler's response to the request with its body.

        Raises:
            HttpProblem: as `read_body`; and whatever the handler raises.
        """
        raw = await read_body(request, media_type=media_type, timeout_s=self._timeout_s)
        if len(raw) <= LARGE_BODY_BYTES:
            return await handler(request, Body(raw, run_inline))
        async with self._large_bodies:
            return await handler(request, Body(raw, self._offload))


async def read_body(request: web.Request, *, media_type: str, timeout_s: float) -> bytes:
    """Reads the body; b"" where there is none.

    Raises:
        HttpProblem: `unsupported_media_type`, `request_too_large`, `request_timeout` or `malformed_request`.
    """
    _check_codings(request)
    announced_bytes = request.content_length or 0
    if announced_bytes > request.client_max_size:
        raise _too_large(request, {"bytes": announced_bytes})
    if not request.body_exists:
        return b""
    if announced_bytes:
        _check_media_type(request, media_type)
    try:
        if request.content.is_eof() and announced_bytes:
            return request.content.read_nowait()  # it arrived together with the head: nothing to wait for
        async with asyncio.timeout(timeout_s):
            body = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise _too_large(request, {}) from error
    except TimeoutError as error:
        raise HttpProblem("request_timeout", f"The body did not arrive within {timeout_s:g} s.") from error
    except web.RequestPayloadError as error:
        raise HttpProblem("malformed_request", "The body's transfer coding is broken.") from error
    if body:  # a chunked one that is empty is absent, and needs no type
        _check_media_type(request, media_type)
    return body


def _check_codings(request: web.Request) -> None:
    if hdrs.CONTENT_ENCODING in request.headers:
        raise HttpProblem("unsupported_media_type", "No Content-Encoding is supported.")
    if request.headers.get(hdrs.TRANSFER_ENCODING, "chunked").lower() != "chunked":
        raise HttpProblem("unsupported_media_type", "No Transfer-Encoding but chunked is supported.")


def _check_media_type(request: web.Request, media_type: str) -> None:
    given = request.headers.get(hdrs.CONTENT_TYPE, "")
    if given == media_type:
        return
    essence, *parameters = [part.strip().lower() for part in given.split(";")]
    charsets = {each.removeprefix("charset=").strip('"') for each in parameters if each.startswith("charset=")}
    if essence != media_type or not charsets <= {"utf-8", "utf8"}:
        raise HttpProblem("unsupported_media_type", f"The body must be {media_type} in UTF-8.")


def _too_large(request: web.Request, facts: dict[str, int]) -> HttpProblem:
    limit = request.client_max_size
    return HttpProblem("request_too_large", f"The body is longer than {limit} bytes.", facts={**facts, "limit": limit})
