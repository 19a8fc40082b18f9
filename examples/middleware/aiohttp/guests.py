"""Guest sessions for aiohttp: copy this file, `GuestSessions(url, issuer=...).setup(app)`. Needs `pyjwt[crypto]`.

`request["guest"]` is then the guest's claims or None; `save` writes the payload, `hand_over` merges it at login. Tokens
are checked here, offline, by the JWKS; the service is asked for a new guest, a renewal, a change and a hand-over only,
and about a token whose key is not known here yet.
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

OUTAGE = (aiohttp.ClientError, OSError, ValueError)  # no connection, no answer in time, an answer that is not JSON
REFRESH, ALGORITHMS = "/v1/refresh-payload", ["ES256", "RS256"]
NOT_CHECKED = {"verify_aud": False, "verify_iat": False}  # the service sees to `aud`; clocks differ
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
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._keys_end = self._quiet_until = 0.0

    def setup(self, app: web.Application) -> None:
        app.cleanup_ctx.append(self._connect)
        app.middlewares.append(self._middleware)
        app.on_response_prepare.append(self._send_cookies)

    async def save(self, request: web.Request, payload: dict[str, Any]) -> None:
        """Replaces the guest's payload; makes a guest where there is none yet. Raises when nothing was saved."""
        if not request["guest"]:
            if request["guest_token"]:
                raise ConnectionError("this guest could not be read, and is not written over unread")
            if request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
                raise web.HTTPForbidden(text="Another site's request comes without the guest's cookie.")
        await self._write(request, {"payload": payload})

    async def hand_over(self, request: web.Request, session: dict[str, Any], **options: Any) -> dict[str, Any]:
        """The merge's answer: store its `payload` as the user's session before you answer. Never stops a login."""
        answer = {"payload": session, "merged": False, "guests": [], "skipped": [], "conflicts": [], "next": None}
        token = request["guest_token"]
        try:
            if token:  # else leave the cookie alone: a login that comes from another site is without it
                body = {"tokens": [token], "session": session, "cookie": True, **options, "strict": False}
                answer = await self._call(request, "/v1/merge", body)
        except OUTAGE as error:
            log.warning("nothing was handed over, the next login will: %r", error)
        return answer

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        pairs = (pair.strip().partition("=") for pair in request.headers.get("Cookie", "").split(";"))
        read = [(self._read(value), value) for name, _, value in pairs if name == self.cookie]
        # Of several cookies the first good one counts, else the first that is not known to be bad.
        good, unsure = [one for one in read if one[0]], [one for one in read if one[0] == {}]
        claims, token = next(iter(good + unsure), (None, None))
        request["guest"], request["guest_token"], request["guest_cookies"] = claims or None, token, []
        try:
            if claims == {} and self._may_ask():  # this sets no cookie: it could overtake that of a change
                await self._call(request, REFRESH, {"token": token})
            fresh = request["guest"] and request["guest"]["iat"] > time.time() - self.renew_after_s
            if is_page(request) and not fresh and self._may_ask():
                await self._write(request, {})
        except OUTAGE as error:
            log.warning("no guest sessions for now, cookies stay as they are: %r", error)
        return await handler(request)

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

    async def _write(self, request: web.Request, body: dict[str, Any]) -> None:
        """Signs the guest again; makes a new one where there is none, or where the service finds the token bad."""
        body = {**body, "cookie": True}
        if request["guest_token"]:
            await self._call(request, REFRESH, {"token": request["guest_token"], **body})
        if not request["guest_token"]:
            await self._call(request, "/v1/issue", body)

    async def _call(self, request: web.Request, path: str, body: dict[str, Any]) -> Any:
        try:
            async with self._http.post(self.url + path, json=body) as response:
                answer = await response.json()
        except OUTAGE:
            self._quiet_until = time.monotonic() + 5
            raise
        self._quiet_until = 0.0
        if answer.get("code") == "invalid_token":
            request["guest"] = request["guest_token"] = None
            return answer
        response.raise_for_status()
        request["guest_cookies"] = response.headers.getall("Set-Cookie", [])
        token = (answer.get("next") or answer).get("token")
        if token:
            request["guest"] = jwt.decode(token, options={"verify_signature": False})  # the service's own word
            request["guest_token"] = token
        return answer

    async def _connect(self, _: web.Application) -> AsyncIterator[None]:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=3)) as self._http:
            following = asyncio.create_task(self._follow_keys())
            yield
            following.cancel()

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

    async def _send_cookies(self, request: web.Request, response: web.StreamResponse) -> None:
        for line in request.get("guest_cookies", []):
            response.headers.add("Set-Cookie", line)
