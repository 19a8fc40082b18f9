"""Guest sessions for aiohttp: copy this file, `GuestSessions(url, issuer=...).setup(app)`. Needs `pyjwt[crypto]`.

`request["guest"]` is then the guest's claims or None; `save` writes the payload, `hand_over` merges it at login. Tokens
are checked here, offline, by the JWKS; the service is asked for a new guest, a renewal, a change and a hand-over only.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import jwt
from aiohttp import web


def is_page(request: web.Request) -> bool:
    """Whether a person opens a page: bots, prefetches and fetch() get no guest."""
    said = request.headers.get
    purpose = said("Sec-Purpose", said("Purpose", ""))
    navigation = (request.method, said("Sec-Fetch-Mode"), said("Sec-Fetch-Dest")) == ("GET", "navigate", "document")
    return navigation and "prefetch" not in purpose


@dataclass
class GuestSessions:
    url: str
    issuer: str
    cookie: str = "__Host-guest"
    api_key: str | None = None
    renew_after_s: int = 30 * 86_400  # browsers forget a cookie after 400 days

    def __post_init__(self) -> None:
        self._keys = jwt.PyJWKClient(f"{self.url}/.well-known/jwks.json", timeout=2)

    def setup(self, app: web.Application) -> None:
        app.cleanup_ctx.append(self._connect)
        app.middlewares.append(self._middleware)
        app.on_response_prepare.append(self._send_cookies)

    async def save(self, request: web.Request, payload: dict[str, Any]) -> None:
        """Replaces the guest's payload; makes a guest where there is none yet."""
        token = request["guest"] and request["guest_token"]
        path, body = ("/v1/refresh-payload", {"token": token}) if token else ("/v1/issue", {})
        await self._call(request, path, {**body, "payload": payload})

    async def hand_over(self, request: web.Request, session: dict[str, Any], **options: Any) -> dict[str, Any]:
        """The merge's answer: store its `payload` as the user's session before you answer the login."""
        tokens = [request["guest_token"]]
        return await self._call(request, "/v1/merge", {"tokens": tokens, "session": session, **options})

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        request["guest"], request["guest_cookies"] = None, []
        request["guest_token"] = token = request.cookies.get(self.cookie)
        try:
            request["guest"] = guest = token and await asyncio.to_thread(self._verified, token)
            if is_page(request) and not guest:
                await self._call(request, "/v1/issue", {})
            elif is_page(request) and guest["iat"] < time.time() - self.renew_after_s:
                await self._call(request, "/v1/refresh-payload", {"token": token})
        except (jwt.PyJWKClientConnectionError, aiohttp.ClientError, TimeoutError) as error:
            logging.getLogger(__name__).warning("no guest sessions for now: %s", error)  # the cookie stays as it is
        return await handler(request)

    def _verified(self, token: str) -> dict[str, Any] | None:
        try:
            key = self._keys.get_signing_key_from_jwt(token)
            decoded = jwt.decode_complete(token, key, algorithms=["ES256", "RS256"], issuer=self.issuer)
        except jwt.PyJWKClientConnectionError:
            raise
        except jwt.PyJWTError:
            return None
        return decoded["payload"] if decoded["header"].get("typ") == "guest+jwt" else None

    async def _call(self, request: web.Request, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._http.post(self.url + path, json={**body, "cookie": True}) as response:
            response.raise_for_status()
            answer = await response.json()
            request["guest_cookies"] = response.headers.getall("Set-Cookie", [])
        new = answer.get("next") if path == "/v1/merge" else answer
        if new:
            request["guest_token"] = new["token"]
            request["guest"] = await asyncio.to_thread(self._verified, new["token"])
        return answer

    async def _connect(self, _: web.Application) -> AsyncIterator[None]:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=3)) as self._http:
            yield

    async def _send_cookies(self, request: web.Request, response: web.StreamResponse) -> None:
        for line in request.get("guest_cookies", []):
            response.headers.add("Set-Cookie", line)
