"""Guest sessions for aiohttp: copy this file and `guests.py`, and call `GuestSessions(url, issuer=...).setup(app)`.

`request["guest"]` then has the guest's `claims` or None; its `save` writes the payload, `hand_over` merges it at login.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import guests
from aiohttp import web


class GuestSessions(guests.GuestSessions):
    def setup(self, app: web.Application) -> None:
        app.cleanup_ctx.append(self._connect)
        app.middlewares.append(self._middleware)
        app.on_response_prepare.append(self._set_cookies)

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        cookies = ";".join(request.headers.getall("Cookie", []))
        request["guest"] = guests.Guest(self, request.method, request.headers, cookies)
        await request["guest"].ensure()
        return await handler(request)

    async def _set_cookies(self, request: web.Request, response: web.StreamResponse) -> None:
        if "guest" in request and response.status < 500:  # after a failure the guest is as it was
            response.headers.extend(("Set-Cookie", line) for line in request["guest"].set_cookies)

    async def _connect(self, _: web.Application) -> AsyncIterator[None]:
        jar = aiohttp.DummyCookieJar()  # one guest's cookie is not for the next
        timeout = aiohttp.ClientTimeout(total=3)
        async with aiohttp.ClientSession(headers=self.headers, timeout=timeout, cookie_jar=jar) as self._http:
            following = asyncio.create_task(self.follow_keys())
            yield
            following.cancel()

    async def send(self, path: str, body: bytes | None) -> tuple[Any, list[str]]:
        async with self._http.request("POST" if body else "GET", self.url + path, data=body) as response:
            return await response.json(content_type=None), response.headers.getall("Set-Cookie", [])
