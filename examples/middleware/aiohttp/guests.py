"""Guest sessions for aiohttp: copy this file, `GuestSessions(url, issuer=...).setup(app)`. Needs `pyjwt[crypto]`.

`request["guest"]` is then the guest's claims or None; `save` writes the payload, `hand_over` merges it at login. Tokens
are checked here, offline, by the JWKS; the service is asked for a new guest, a renewal, a change and a hand-over only,
and about a token whose key is not known here yet.
"""

import asyncio
import contextlib
import logging
import time
from typing import Any

import aiohttp
import jwt
from aiohttp import web

# What a browser says when a person opens a page, and no prefetch: bots and fetch() get no guest either.
PAGE = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Purpose": None, "Purpose": None}
NOT_CHECKED = {"verify_aud": False, "verify_iat": False}  # the service sees to `aud`; clocks differ
log = logging.getLogger(__name__)


class GuestSessions:
    # Tokens are renewed after 30 days, as browsers forget a cookie after 400.
    def __init__(self, url, *, issuer, cookie="__Host-guest", api_key=None, renew_after_s=30 * 86_400) -> None:
        self._url, self._issuer, self._cookie, self._renew_after_s = url, issuer, cookie, renew_after_s
        self._headers, self._keys, self._away = {"X-API-Key": api_key or ""}, {}, False

    def setup(self, app: web.Application) -> None:
        app.cleanup_ctx.append(self._connect)
        app.middlewares.append(self._middleware)
        app.on_response_prepare.append(self._send_cookies)

    async def save(self, request: web.Request, payload: dict[str, Any]) -> None:
        """Replaces the guest's payload; makes a guest where there is none yet. Raises when nothing was saved."""
        if request["guest_token"] and not request["guest"]:
            raise ConnectionError("this guest could not be read, and is not written over unread")
        if not request["guest_token"] and request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
            raise web.HTTPForbidden(text="Another site's request comes without the guest's cookie.")
        answer = await self._sign(request, {"payload": payload, "cookie": True})
        if "token" not in answer:
            raise ConnectionError(answer.get("detail", "guest-sessions is away"))

    async def hand_over(self, request: web.Request, session: dict[str, Any], **options: Any) -> dict[str, Any]:
        """The merge's answer: store its `payload` as the user's session before you answer. Never stops a login."""
        answer = {"payload": session, "merged": False, "guests": [], "skipped": [], "conflicts": [], "next": None}
        if request["guest_token"]:  # else leave the cookie alone: a login that comes from another site is without it
            body = {**options, "tokens": [request["guest_token"]], "session": session, "cookie": True, "strict": False}
            answer |= await self._ask(request, "/v1/merge", body)
        return answer

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        # Of several cookies the first good one counts, else the first that is not known to be bad.
        claims, token = min(self._tokens(request), key=lambda each: not each[0], default=(None, None))
        request.update(guest=claims or None, guest_token=token, guest_cookies=[])
        if claims == {} and not self._away:  # it is asked about, no more: a cookie could overtake that of a change
            await self._ask(request, "/v1/refresh-payload", {"token": token})
        fresh = request["guest"] and request["guest"]["iat"] > time.time() - self._renew_after_s
        page = request.method == "GET" and all(request.headers.get(name) == value for name, value in PAGE.items())
        if page and not fresh and not self._away:
            await self._sign(request, {"cookie": True})
        return await handler(request)

    def _tokens(self, request: web.Request) -> Any:
        """The claims of each token that is not bad, {} where its key is not known here: then the service must tell."""
        for pair in request.headers.get("Cookie", "").split(";"):
            name, _, token = pair.strip().partition("=")
            with contextlib.suppress(jwt.PyJWTError, ValueError, RecursionError):  # a bad token is none
                header = jwt.get_unverified_header(token) if name == self._cookie else {}
                if header.get("typ") == "guest+jwt":
                    key = self._keys.get(header.get("kid"))
                    yield (jwt.decode(token, key, options=NOT_CHECKED, issuer=self._issuer) if key else {}), token

    async def _sign(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        """Signs the guest again; makes a new one where there is none, or where the service finds the token bad."""
        if request["guest_token"]:
            answer = await self._ask(request, "/v1/refresh-payload", {**body, "token": request["guest_token"]})
        if not request["guest_token"]:
            answer = await self._ask(request, "/v1/issue", body)
        return answer

    async def _ask(self, request: Any, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The service's answer, {} without one. Its word counts from then on: a token that it gives, or finds bad."""
        try:
            async with self._http.request("POST" if body else "GET", self._url + path, json=body) as response:
                answer = await response.json()
                token = (answer.get("next") or answer).get("token")
        except (aiohttp.ClientError, OSError, ValueError, AttributeError) as error:  # or what answers is something else
            log.warning("guest-sessions is away, cookies stay as they are: %r", error)
            self._away = True  # nobody else waits for it, until `_follow_keys` finds it there again
            return {}
        self._away = False
        cookies = [line for line in response.headers.getall("Set-Cookie", []) if line.startswith(f"{self._cookie}=")]
        if token or cookies or answer.get("code") == "invalid_token":
            guest = token and jwt.decode(token, options={"verify_signature": False})
            request.update(guest=guest, guest_token=token, guest_cookies=cookies)
        elif not response.ok:
            log.warning("guest-sessions refuses %s: %s", path, answer)
        return answer

    async def _connect(self, _: web.Application) -> Any:
        async with aiohttp.ClientSession(headers=self._headers, timeout=aiohttp.ClientTimeout(total=3)) as self._http:
            following = asyncio.create_task(self._follow_keys())
            yield
            following.cancel()

    async def _follow_keys(self) -> None:
        """Fetches the keys every 5 s, beside the requests; the last ones count while the service is away."""
        while True:
            jwks = await self._ask(None, "/.well-known/jwks.json")
            with contextlib.suppress(jwt.PyJWTError):
                self._keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(jwks)}
            await asyncio.sleep(5)

    async def _send_cookies(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.extend(("Set-Cookie", line) for line in request.get("guest_cookies", []))
