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

OUTAGE = (jwt.PyJWKClientConnectionError, aiohttp.ClientError, TimeoutError)
log = logging.getLogger(__name__)


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
        await self._write(request, {"payload": payload})

    async def hand_over(self, request: web.Request, session: dict[str, Any], **options: Any) -> dict[str, Any]:
        """The merge's answer: store its `payload` as the user's session before you answer. Never stops a login."""
        try:
            body = {"tokens": [request["guest_token"]], "session": session, **options}
            return await self._call(request, "/v1/merge", body)
        except OUTAGE as error:
            log.warning("nothing was handed over, the next login will: %s", error)
            return {"payload": session, "merged": False, "guests": [], "skipped": [], "conflicts": []}

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        request["guest"], request["guest_cookies"] = None, []
        request["guest_token"] = token = request.cookies.get(self.cookie)
        try:
            request["guest"] = guest = token and await asyncio.to_thread(self._verified, token)
            request["guest_token"] = guest and token
            if is_page(request) and (not guest or guest["iat"] < time.time() - self.renew_after_s):
                await self._write(request, {})
        except OUTAGE as error:
            log.warning("no guest sessions for now, cookies stay as they are: %s", error)
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

    async def _write(self, request: web.Request, body: dict[str, Any]) -> None:
        """Signs the guest again; makes a new one where there is none, or where the service has revoked it."""
        token = request["guest_token"]
        if not (token and await self._call(request, "/v1/refresh-payload", {"token": token, **body})):
            await self._call(request, "/v1/issue", body)

    async def _call(self, request: web.Request, path: str, body: dict[str, Any]) -> Any:
        async with self._http.post(self.url + path, json={**body, "cookie": True}) as response:
            answer = await response.json(content_type=None)
            if response.status == 422 and answer["code"] == "invalid_token":
                return None
            response.raise_for_status()
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
