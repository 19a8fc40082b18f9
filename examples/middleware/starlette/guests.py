"""Guest sessions for FastAPI and Starlette: copy this file. Needs `pyjwt[crypto]` and `httpx`.

`guests = GuestSessions(url, issuer=...)`, then `app.middleware("http")(guests)`; in Starlette `BaseHTTPMiddleware` with
`dispatch=guests`. `request.state.guest` is then the guest's claims or None; `save` writes the payload, `hand_over`
merges it at login. Tokens are checked here, offline, by the JWKS; the service is asked for what changes one only,
and about a token whose key is not known here yet.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

OUTAGE = (httpx.HTTPError, OSError, ValueError)  # no connection, no answer in time, an answer that is not JSON
REFRESH, ALGORITHMS = "/v1/refresh-payload", ["ES256", "RS256"]
NOT_CHECKED = {"verify_aud": False, "verify_iat": False}  # the service sees to `aud`; clocks differ
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
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._keys_end = self._quiet_until = 0.0
        self._following: asyncio.Task[None] | None = None

    async def __call__(self, request: Request, call_next: Any) -> Response:
        if not self._following or self._following.done():
            self._following = asyncio.create_task(self._follow_keys())
        state = request.state
        pairs = (pair.strip().partition("=") for pair in request.headers.get("Cookie", "").split(";"))
        read = [(self._read(value), value) for name, _, value in pairs if name == self.cookie]
        # Of several cookies the first good one counts, else the first that is not known to be bad.
        good, unsure = [one for one in read if one[0]], [one for one in read if one[0] == {}]
        claims, token = next(iter(good + unsure), (None, None))
        state.guest, state.guest_token, state.guest_cookies = claims or None, token, []
        try:
            if claims == {} and self._may_ask():  # this sets no cookie: it could overtake that of a change
                await self._call(request, REFRESH, {"token": token})
            fresh = state.guest and state.guest["iat"] > time.time() - self.renew_after_s
            if is_page(request) and not fresh and self._may_ask():
                await self._write(request, {})
        except OUTAGE as error:
            log.warning("no guest sessions for now, cookies stay as they are: %r", error)
        response: Response = await call_next(request)
        for line in state.guest_cookies:
            response.headers.append("Set-Cookie", line)
        return response

    async def save(self, request: Request, payload: dict[str, Any]) -> None:
        """Replaces the guest's payload; makes a guest where there is none yet. Raises when nothing was saved."""
        if not request.state.guest:
            if request.state.guest_token:
                raise ConnectionError("this guest could not be read, and is not written over unread")
            if request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
                raise HTTPException(403, "Another site's request comes without the guest's cookie.")
        await self._write(request, {"payload": payload})

    async def hand_over(self, request: Request, session: dict[str, Any], **options: Any) -> dict[str, Any]:
        """The merge's answer: store its `payload` as the user's session before you answer. Never stops a login."""
        answer = {"payload": session, "merged": False, "guests": [], "skipped": [], "conflicts": [], "next": None}
        token = request.state.guest_token
        try:
            if token:  # else leave the cookie alone: a login that comes from another site is without it
                body = {"tokens": [token], "session": session, "cookie": True, **options, "strict": False}
                answer = await self._call(request, "/v1/merge", body)
        except OUTAGE as error:
            log.warning("nothing was handed over, the next login will: %r", error)
        return answer

    def _read(self, token: str) -> dict[str, Any] | None:
        """The claims of a good token, None for a bad one, {} where its key is not known here: the service must tell."""
        try:
            header = jwt.get_unverified_header(token)
            if header.get("kid") not in self._keys or time.monotonic() > self._keys_end:
                return {}
            claims = jwt.decode(token, self._keys[header["kid"]], ALGORITHMS, NOT_CHECKED, issuer=self.issuer)
            return claims if header.get("typ") == "guest+jwt" else None
        except (jwt.PyJWTError, ValueError, RecursionError):
            return None

    def _may_ask(self) -> bool:
        """Whether to ask the service: one that was silent is asked by one request in 5 s, the others do not wait."""
        now, quiet_until = time.monotonic(), self._quiet_until
        if quiet_until and now >= quiet_until:
            self._quiet_until = now + 5
        return now >= quiet_until

    async def _write(self, request: Request, body: dict[str, Any]) -> None:
        """Signs the guest again; makes a new one where there is none, or where the service finds the token bad."""
        body = {**body, "cookie": True}
        if request.state.guest_token:
            await self._call(request, REFRESH, {"token": request.state.guest_token, **body})
        if not request.state.guest_token:
            await self._call(request, "/v1/issue", body)

    async def _call(self, request: Request, path: str, body: dict[str, Any]) -> Any:
        try:
            response = await self._http.post(path, json=body)
            answer = response.json()
        except OUTAGE:
            self._quiet_until = time.monotonic() + 5
            raise
        self._quiet_until = 0.0
        if answer.get("code") == "invalid_token":
            request.state.guest = request.state.guest_token = None
            return answer
        response.raise_for_status()
        request.state.guest_cookies = response.headers.get_list("Set-Cookie")
        token = (answer.get("next") or answer).get("token")
        if token:
            request.state.guest = jwt.decode(token, options={"verify_signature": False})  # the service's own word
            request.state.guest_token = token
        return answer

    async def _follow_keys(self) -> None:
        """Fetches the keys every 30 s, so that no request waits for them; the last ones are good for a day."""
        client = jwt.PyJWKClient(f"{self.url}/.well-known/jwks.json", timeout=3)
        while True:
            try:
                keys = await asyncio.to_thread(client.get_signing_keys, refresh=True)
                self._keys, self._keys_end = {key.key_id: key for key in keys}, time.monotonic() + 86_400
            except (jwt.PyJWTError, *OUTAGE) as error:
                log.warning("the keys stay as they are: %r", error)
            await asyncio.sleep(30)
