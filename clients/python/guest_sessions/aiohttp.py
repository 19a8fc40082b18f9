"""Guest sessions for aiohttp's server."""

from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.typedefs import Handler

from guest_sessions._cookies import keep_private
from guest_sessions._guest import AsyncGuest
from guest_sessions._payloads import P
from guest_sessions._sessions import BaseSessions
from guest_sessions._visit import RequestFacts, Visit

_VISIT = "guest_sessions.visit"


class GuestSessions(BaseSessions[P]):
    """`sessions.setup(app)`; then `sessions.guest(request)` and `request["guest"]`."""

    def setup(self, app: web.Application) -> None:
        """Adds the middleware; those that are added before it see no guest."""
        app.cleanup_ctx.append(self._run)
        app.middlewares.append(self._middleware)
        app.on_response_prepare.append(self._add_headers)

    def guest(self, request: web.Request) -> AsyncGuest[P]:
        """The request's guest."""
        guest: AsyncGuest[P] = request["guest"]
        return guest

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        cookies = ";".join(request.headers.getall("Cookie", []))  # some proxies send several lines
        visit = self._visit(RequestFacts(request.method, request.headers.get, cookies))
        request[_VISIT], request["guest"] = visit, AsyncGuest(visit)
        await visit.ensure(self._rules.service.post)
        return await handler(request)

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        visit: Visit[P] | None = request.get(_VISIT)  # another middleware may have responded before
        lines = visit.begin_response(response.status) if visit else []
        if lines:
            response.headers.extend(lines)
            response.headers["Cache-Control"] = keep_private(", ".join(response.headers.getall("Cache-Control", [])))

    async def _run(self, _: web.Application) -> AsyncIterator[None]:
        self._rules.service.start()
        yield
        await self.close()
