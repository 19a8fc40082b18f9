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

OUTAGE = (jwt.PyJWKClientConnectionError, httpx.HTTPError)
log = logging.getLogger(__name__)


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
            state.guest = guest = token and await asyncio.to_thread(self._verified, token)
            state.guest_token = guest and token
            if is_page(request) and (not guest or guest["iat"] < time.time() - self.renew_after_s):
                await self._write(request, {})
        except OUTAGE as error:
            log.warning("no guest sessions for now, cookies stay as they are: %s", error)
        response: Response = await call_next(request)
        for line in state.guest_cookies:
            response.headers.append("Set-Cookie", line)
        return response

    async def save(self, request: Request, payload: dict[str, Any]) -> None:
        """Replaces the guest's payload; makes a guest where there is none yet."""
        await self._write(request, {"payload": payload})

    async def hand_over(self, request: Request, session: dict[str, Any], **options: Any) -> dict[str, Any]:
        """The merge's answer: store its `payload` as the user's session before you answer. Never stops a login."""
        try:
            body = {"tokens": [request.state.guest_token], "session": session, **options}
            return await self._call(request, "/v1/merge", body)
        except OUTAGE as error:
            log.warning("nothing was handed over, the next login will: %s", error)
            return {"payload": session, "merged": False, "guests": [], "skipped": [], "conflicts": []}

    def _verified(self, token: str) -> dict[str, Any] | None:
        try:
            key = self._keys.get_signing_key_from_jwt(token)
            decoded = jwt.decode_complete(token, key, algorithms=["ES256", "RS256"], issuer=self.issuer)
        except jwt.PyJWKClientConnectionError:
            raise
        except jwt.PyJWTError:
            return None
        return decoded["payload"] if decoded["header"].get("typ") == "guest+jwt" else None

    async def _write(self, request: Request, body: dict[str, Any]) -> None:
        """Signs the guest again; makes a new one where there is none, or where the service has revoked it."""
        token = request.state.guest_token
        if not (token and await self._call(request, "/v1/refresh-payload", {"token": token, **body})):
            await self._call(request, "/v1/issue", body)

    async def _call(self, request: Request, path: str, body: dict[str, Any]) -> Any:
        response = await self._http.post(path, json={**body, "cookie": True})
        if response.status_code == 422 and response.json()["code"] == "invalid_token":
            return None
        answer = response.raise_for_status().json()
        request.state.guest_cookies = response.headers.get_list("Set-Cookie")
        new = answer.get("next") if path == "/v1/merge" else answer
        if new:
            request.state.guest_token = new["token"]
            request.state.guest = await asyncio.to_thread(self._verified, new["token"])
        return answer
