"""Guest sessions for FastAPI and Starlette: copy this file. Needs `pyjwt[crypto]` and `httpx`.

`guests = GuestSessions(url, issuer=...)`, then `app.middleware("http")(guests)`; in Starlette `BaseHTTPMiddleware` with
`dispatch=guests`. `request.state.guest` is then the guest's claims or None; `save` writes the payload, `hand_over`
merges it at login. Tokens are checked here, offline, by the JWKS; the service is asked for what changes one only.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
from starlette.requests import Request
from starlette.responses import Response


def is_page(request: Request) -> bool:
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
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        self._http = httpx.AsyncClient(base_url=self.url, headers=headers, timeout=3)
        self._keys = jwt.PyJWKClient(f"{self.url}/.well-known/jwks.json", timeout=2)

    async def __call__(self, request: Request, call_next: Any) -> Response:
        state, token = request.state, request.cookies.get(self.cookie)
        state.guest, state.guest_token, state.guest_cookies = None, token, []
        try:
            state.guest = token and await asyncio.to_thread(self._verified, token)
            if is_page(request) and not state.guest:
                await self._call(request, "/v1/issue", {})
            elif is_page(request) and state.guest["iat"] < time.time() - self.renew_after_s:
                await self._call(request, "/v1/refresh-payload", {"token": token})
        except (jwt.PyJWKClientConnectionError, httpx.HTTPError) as error:
            logging.getLogger(__name__).warning("no guest sessions for now: %s", error)  # the cookie stays as it is
        response: Response = await call_next(request)
        for line in state.guest_cookies:
            response.headers.append("Set-Cookie", line)
        return response

    async def save(self, request: Request, payload: dict[str, Any]) -> None:
        """Replaces the guest's payload; makes a guest where there is none yet."""
        token = request.state.guest and request.state.guest_token
        path, body = ("/v1/refresh-payload", {"token": token}) if token else ("/v1/issue", {})
        await self._call(request, path, {**body, "payload": payload})

    async def hand_over(self, request: Request, session: dict[str, Any], **options: Any) -> dict[str, Any]:
        """The merge's answer: store its `payload` as the user's session before you answer the login."""
        tokens = [request.state.guest_token]
        return await self._call(request, "/v1/merge", {"tokens": tokens, "session": session, **options})

    def _verified(self, token: str) -> dict[str, Any] | None:
        try:
            key = self._keys.get_signing_key_from_jwt(token)
            decoded = jwt.decode_complete(token, key, algorithms=["ES256", "RS256"], issuer=self.issuer)
        except jwt.PyJWKClientConnectionError:
            raise
        except jwt.PyJWTError:
            return None
        return decoded["payload"] if decoded["header"].get("typ") == "guest+jwt" else None

    async def _call(self, request: Request, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = (await self._http.post(path, json={**body, "cookie": True})).raise_for_status()
        answer = response.json()
        request.state.guest_cookies = response.headers.get_list("Set-Cookie")
        new = answer.get("next") if path == "/v1/merge" else answer
        if new:
            request.state.guest_token = new["token"]
            request.state.guest = await asyncio.to_thread(self._verified, new["token"])
        return answer
