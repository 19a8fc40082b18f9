"""Guest sessions for FastAPI, Starlette, Litestar and every other ASGI framework on asyncio."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from guest_sessions._cookies import keep_private
from guest_sessions._guest import AsyncGuest
from guest_sessions._payloads import P
from guest_sessions._sessions import BaseSessions
from guest_sessions._visit import RequestFacts

Message = MutableMapping[str, Any]
Send = Callable[[Any], Awaitable[None]]
# Frameworks describe scopes and messages by types of their own.
App = Callable[[Any, Any, Any], Awaitable[None]]


class GuestSessions(BaseSessions[P]):
    """`app.add_middleware(sessions.middleware)`; then `sessions.guest(request)` and `request.state.guest`."""

    def guest(self, request: Mapping[str, Any]) -> AsyncGuest[P]:
        """The guest of a Starlette or FastAPI request, or of an ASGI scope."""
        guest: AsyncGuest[P] = request["state"]["guest"]
        return guest

    def middleware(self, app: App) -> App:
        """ASGI middleware. Its guest is there in HTTP and WebSocket requests."""

        async def handle(scope: Any, receive: Any, send: Send) -> None:
            if scope["type"] == "lifespan":
                await app(scope, receive, self._closing(send))
                return
            headers: list[tuple[str, str]] = [
                (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]
            ]
            # HTTP/2 may bring the Cookie header in several lines (RFC 9113, section 8.2.3).
            cookies = ";".join(value for name, value in headers if name == "cookie")
            by_name = dict(headers)
            visit = self._visit(
                RequestFacts(scope.get("method", "GET"), lambda name: by_name.get(name.lower()), cookies)
            )
            scope.setdefault("state", {})["guest"] = AsyncGuest(visit)
            await visit.ensure(self._rules.service.post)

            async def send_with_guest(message: Message) -> None:
                if message["type"] in {"http.response.start", "websocket.accept"}:
                    lines = visit.begin_response(message.get("status", 101))
                    if lines:
                        message["headers"] = _with(lines, list(message.get("headers", ())))
                await send(message)

            await app(scope, receive, send_with_guest)

        return handle

    def _closing(self, send: Send) -> Send:
        async def send_and_close(message: Message) -> None:
            if message["type"] in {"lifespan.shutdown.complete", "lifespan.shutdown.failed"}:
                await self.close()
            await send(message)

        return send_and_close


def _with(lines: list[tuple[str, str]], headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The response's headers with the guest's, and with a Cache-Control that keeps them private."""
    caching = [value.decode("latin-1") for name, value in headers if name.lower() == b"cache-control"]
    others = [(name, value) for name, value in headers if name.lower() != b"cache-control"]
    added = [*lines, ("Cache-Control", keep_private(", ".join(caching)))]
    return [*others, *((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in added)]
