"""Guest sessions for FastAPI and Starlette: copy this file and `guests.py`. Needs `httpx`.

`sessions = GuestSessions(url, issuer=...)`, then `app.middleware("http")(sessions)`; in Starlette `BaseHTTPMiddleware`
with `dispatch=sessions`. `request.state.guest` then has the guest's `claims` or None; its `save` writes the payload,
`hand_over` merges it at login.
"""

import asyncio
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import guests
import httpx
from starlette.requests import Request
from starlette.responses import Response


class GuestSessions(guests.GuestSessions):
    _following: asyncio.Task[None] | None = None

    async def __call__(self, request: Request, call_next: Any) -> Response:
        if not self._following or self._following.done():
            jar = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # one guest's cookie is not for the next
            self._http = httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=3, cookies=jar)
            self._following = asyncio.create_task(self.follow_keys())
        cookies = ";".join(request.headers.getlist("Cookie"))  # HTTP/2 may bring them one by one
        guest = request.state.guest = guests.Guest(self, request.method, request.headers, cookies)
        await guest.ensure()
        response: Response = await call_next(request)
        for line in guest.set_cookies if response.status_code < 500 else []:  # after a failure the guest is as it was
            response.headers.append("Set-Cookie", line)
        return response

    async def send(self, path: str, body: bytes | None) -> tuple[Any, list[str]]:
        async with asyncio.timeout(3):  # httpx counts its own anew for each piece
            response = await self._http.request("POST" if body else "GET", path, content=body)
        return response.json(), response.headers.get_list("Set-Cookie")
