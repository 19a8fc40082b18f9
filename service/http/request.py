"""A request's body: read whole, of the media type that the endpoint takes, within size and time. Knows no content."""

import asyncio

from aiohttp import hdrs, web

from service.http.problems import HttpProblem


async def read_body(request: web.Request, *, media_type: str, timeout_s: float) -> bytes:
    """The body's bytes; none where there is no body.

    Raises:
        HttpProblem: `unsupported_media_type`, `request_too_large`, `request_timeout` or `malformed_request`.
    """
    headers = request.headers
    if hdrs.CONTENT_ENCODING in headers:
        raise HttpProblem("unsupported_media_type", "No Content-Encoding is taken.")
    announced_bytes = request.content_length or 0
    if announced_bytes > request.client_max_size:
        raise _too_large(request, {"bytes": announced_bytes})
    if not request.body_exists:
        return b""
    if not _is_media_type(headers.get(hdrs.CONTENT_TYPE), media_type):
        raise HttpProblem("unsupported_media_type", f"The body must be {media_type} in UTF-8.")
    if headers.get(hdrs.TRANSFER_ENCODING, "chunked").lower() != "chunked":
        raise HttpProblem("unsupported_media_type", "No Transfer-Encoding but chunked is taken.")
    try:
        if request.content.is_eof() and announced_bytes:
            return request.content.read_nowait()  # has come already, with the head: nothing to wait for
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise _too_large(request, {}) from error
    except TimeoutError as error:
        raise HttpProblem("request_timeout", f"The body did not come within {timeout_s:g} s.") from error
    except web.RequestPayloadError as error:
        raise HttpProblem("malformed_request", "The body's transfer coding is broken.") from error


def _too_large(request: web.Request, known: dict[str, int]) -> HttpProblem:
    limit = request.client_max_size
    return HttpProblem("request_too_large", f"The body is longer than {limit} bytes.", facts={**known, "limit": limit})


def _is_media_type(header: str | None, media_type: str) -> bool:
    if header == media_type:
        return True
    essence, *parameters = [part.strip().lower() for part in (header or "").split(";")]
    charsets = {each.removeprefix("charset=").strip('"') for each in parameters if each.startswith("charset=")}
    return essence == media_type and charsets <= {"utf-8"}
