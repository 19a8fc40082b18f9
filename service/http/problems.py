"""The one table from an error to its response: RFC 9457 problem documents. And a failed request's line in the log.

Every error that a request can cause has a row here. Any other exception is a bug: it is logged with its traceback, and
the response is a plain 500. Neither a response nor the log repeats a path, as that may hold a token.
"""

import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from service.errors import GuestSessionsError
from service.http.response import Response, ResponseHead

logger = logging.getLogger("guest_sessions.http")

Handler = Callable[[web.Request], Awaitable[Response]]
ErrorRenderer = Callable[[GuestSessionsError, str], Response]
"""Makes the response of an error; the request id is in it and in the log."""

PROBLEMS: Final[Mapping[str, tuple[int, str]]] = {
    "malformed_request": (400, "Malformed request"),
    "unauthorized": (401, "Unauthorized"),
    "forbidden_origin": (403, "Forbidden origin"),
    "not_found": (404, "Not found"),
    "method_not_allowed": (405, "Method not allowed"),
    "request_timeout": (408, "Request timeout"),
    "patch_conflict": (409, "Patch conflict"),
    "stale_token": (409, "Stale token"),
    "request_too_large": (413, "Request too large"),
    "unsupported_media_type": (415, "Unsupported media type"),
    "invalid_request": (422, "Invalid request"),
    "reserved_claim": (422, "Reserved claim"),
    "token_too_large": (422, "Token too large"),
    "invalid_token": (422, "Invalid token"),
    "invalid_patch": (422, "Invalid patch"),
    "invalid_policy": (422, "Invalid policy"),
    "internal_error": (500, "Internal error"),
    "not_ready": (503, "Not ready"),
}
"""`code` → status, title. One title for each code, whatever the occurrence (RFC 9457, section 3.1.3)."""

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


class HttpProblem(GuestSessionsError):
    """A failure that only HTTP knows: its `code` is in `PROBLEMS`, `headers` are sent with it."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] = {},
        facts: Mapping[str, object] = {},
    ) -> None:
        super().__init__(detail, dict(facts))
        self.code = code  # type: ignore[misc]  # one class serves the codes that carry no facts
        self.headers = headers


def problem_response(
    error: GuestSessionsError,
    request_id: str,
    *,
    status: int | None = None,
    headers: Mapping[str, str] = {},
    members: Mapping[str, object] = {},
) -> Response:
    """The response to a request that failed with `error`; `headers` and `members` are added to the usual ones."""
    usual_status, title = PROBLEMS[error.code]
    status = status or usual_status
    document = {
        "type": f"urn:guest-sessions:problem:{error.code}",
        "title": title,
        "status": status,
        "detail": error.detail,
        "code": error.code,
        "request_id": request_id,
        **error.facts,
        **members,
    }
    lines = {
        "Content-Type": "application/problem+json",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "X-Request-Id": request_id,
        **(error.headers if isinstance(error, HttpProblem) else {}),
        **headers,
    }
    return Response(ResponseHead(status, lines), msgspec.json.encode(document))


def failure_response(
    error: Exception,
    request: web.BaseRequest | None,
    *,
    route: str | None = None,
    render: ErrorRenderer = problem_response,
) -> Response:
    """Logs a failed request and returns its response. `error` is an expected one, one of aiohttp's, or a bug.

    `request` is None where it failed before its head was complete, `route` where no route has been found.
    """
    bug = None
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        error = HttpProblem("method_not_allowed", f"Allowed here: {allowed}.", headers={"Allow": allowed})
    elif isinstance(error, web.HTTPNotFound):
        error = HttpProblem("not_found", "There is no such resource; /docs lists all of them.")
    elif isinstance(error, web.HTTPException):
        error = HttpProblem("malformed_request", "The request is malformed.")
    if not isinstance(error, GuestSessionsError):
        # The last line of defence: the caller learns nothing, the operator everything.
        bug, error = error, HttpProblem("internal_error", "The failure was logged under this request id.")
    request_id = (None if request is None else given_request_id(request)) or secrets.token_hex(16)
    response = render(error, request_id)
    facts = {"code": error.code, "detail": error.detail}
    log_failure(response.status, request, route=route, request_id=request_id, facts=facts, bug=bug)
    return response


def identify(response: Response, request: web.BaseRequest, *, route: str) -> None:
    """Echoes the caller's request id, and logs a failure that has no problem document."""
    request_id = given_request_id(request)
    # A shared cache would give it to other callers.
    if request_id is not None and not response.head.is_public:
        response.add_header("X-Request-Id", request_id)
    if response.status >= HTTPStatus.BAD_REQUEST:
        log_failure(response.status, request, route=route, request_id=request_id, facts={})


def given_request_id(request: web.BaseRequest) -> str | None:
    """The caller's `X-Request-Id` where it is fit for a log and a header."""
    given = request.headers.get("X-Request-Id")
    return given if given is not None and _REQUEST_ID.fullmatch(given) else None


def log_failure(
    status: int,
    request: web.BaseRequest | None,
    *,
    route: str | None,
    request_id: str | None,
    facts: Mapping[str, str],
    bug: Exception | None = None,
) -> None:
    """Writes the one line of a failed request: for 4xx at `debug`, for 5xx at `error`."""
    method = None if request is None else request.method
    logger.log(
        logging.ERROR if status >= HTTPStatus.INTERNAL_SERVER_ERROR else logging.DEBUG,
        "request failed",
        exc_info=bug,
        extra={"request_id": request_id, "status": status, "method": method, "route": route, **facts},
    )
