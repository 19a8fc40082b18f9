"""Guest sessions for Django, in synchronous and asynchronous views."""

from collections.abc import Callable
from http.cookies import Morsel
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from guest_sessions._cookies import keep_private
from guest_sessions._guest import AsyncGuest, Guest
from guest_sessions._payloads import P
from guest_sessions._sessions import BaseSessions
from guest_sessions._visit import RequestFacts, Visit, run


class GuestSessions(BaseSessions[P]):
    """Give `sessions.middleware` a name in a module and list it in MIDDLEWARE.

    Then `sessions.guest(request)` and `request.guest` block, as in synchronous views; `sessions.aguest(request)` and
    `request.aguest` are awaited.
    """

    def guest(self, request: HttpRequest) -> Guest[P]:
        """The request's guest, for synchronous views."""
        guest: Guest[P] = request.guest
        return guest

    def aguest(self, request: HttpRequest) -> AsyncGuest[P]:
        """The request's guest, for asynchronous views."""
        guest: AsyncGuest[P] = request.aguest
        return guest

    @sync_and_async_middleware  # type: ignore[untyped-decorator]
    def middleware(self, get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
        """Django middleware, to be named in MIDDLEWARE."""

        async def handle_async(request: HttpRequest) -> HttpResponseBase:
            visit = self._visit_of(request)
            await visit.ensure(self._rules.service.post)
            return _respond(visit, await get_response(request))

        def handle(request: HttpRequest) -> HttpResponseBase:
            visit = self._visit_of(request)
            run(visit.ensure(self._rules.service.post_blocking))
            return _respond(visit, get_response(request))

        return handle_async if iscoroutinefunction(get_response) else handle

    def _visit_of(self, request: HttpRequest) -> Visit[P]:
        visit = self._visit(RequestFacts(request.method, request.headers.get, request.headers.get("Cookie", "")))
        request.guest, request.aguest = Guest(visit), AsyncGuest(visit)
        return visit


class _SetCookie(Morsel[str]):
    """A `Set-Cookie` value as the service gave it: http.cookies knows no `Partitioned`, nor two of one name."""

    def __init__(self, line: str) -> None:
        super().__init__()
        name, _, rest = line.partition("=")
        value = rest.partition(";")[0]
        self.set(name, value, value)
        self.line = line

    def OutputString(self, attrs: Any = None) -> str:  # noqa: ARG002, N802  (Morsel's)
        return self.line


def _respond(visit: Visit[Any], response: HttpResponseBase) -> HttpResponseBase:
    lines = visit.begin_response(response.status_code)
    for number, (name, value) in enumerate(lines):
        if name == "Set-Cookie":
            dict.__setitem__(response.cookies, f"guest-sessions {number}", _SetCookie(value))
        else:
            response[name] = value
    if lines:
        response["Cache-Control"] = keep_private(response.get("Cache-Control"))
    return response
