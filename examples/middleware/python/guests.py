"""The guest of each request, whatever the framework: copy this file and `guests_….py` of yours.

Needs `pyjwt[crypto]>=2.10`. Tokens are checked here, offline, by the JWKS; the service is asked for a new guest, a
renewal, a change and a hand-over only, and about a token whose key is not known here yet.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import jwt

# What a browser says when a person opens a page, and no prefetch: bots and fetch() get no guest either.
PAGE = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Purpose": None, "Purpose": None}
NOT_CHECKED = {"verify_aud": False, "verify_iat": False}  # the service sees to `aud`; clocks differ
log = logging.getLogger(__name__)


class NotSaved(Exception):
    """The guest is as it was; the text says why."""


class GuestSessions:
    """What all requests share. A framework's own subclass sends requests, and keeps `follow_keys` running."""

    # Tokens are renewed after 30 days, as browsers forget a cookie after 400.
    def __init__(self, url, *, issuer, cookie="__Host-guest", api_key=None, renew_after_s=30 * 86_400) -> None:
        self.url, self.issuer, self.cookie, self.renew_after_s = url, issuer, cookie, renew_after_s
        self.headers = {"X-API-Key": (api_key or "").strip(), "Content-Type": "application/json"}
        self.keys, self.away = {}, False

    # Sends a GET, or POSTs the JSON, within 3 s; returns the answer's JSON and its `Set-Cookie` lines.
    send: Callable[[str, bytes | None], Awaitable[tuple[Any, list[str]]]]

    async def fetch_keys(self) -> None:
        with contextlib.suppress(Exception):  # of an answer that is no JWK Set: the last keys count
            jwks = await Guest(self, "", {}, "").ask("/.well-known/jwks.json")
            self.keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(jwks)}

    async def follow_keys(self) -> None:
        """Fetches the keys every 5 s, beside the requests, and so finds out whether the service is there."""
        while True:
            await self.fetch_keys()
            await asyncio.sleep(5)

    def tokens(self, cookies: str) -> Iterator[tuple[dict[str, Any] | None, str]]:
        """Claims of each token that is not bad; None where its key is not known here: then the service must tell."""
        for pair in cookies.split(";"):
            # Only SP and HTAB are white space here (RFC 6265, section 4.2.1). Any other space belongs to the name:
            # stripping it would make `__Host-guest` of a cookie that the browser does not protect.
            name, _, token = pair.strip(" \t").partition("=")
            with contextlib.suppress(jwt.PyJWTError, ValueError, RecursionError):  # a bad token is none
                header = jwt.get_unverified_header(token) if name == self.cookie else {}
                if header.get("typ") == "guest+jwt":
                    key = self.keys.get(header.get("kid"))
                    yield (jwt.decode(token, key, options=NOT_CHECKED, issuer=self.issuer) if key else None), token


class Guest:
    """One request's guest: its `claims`, or None; its `token`; and `set_cookies`, which the response has to carry."""

    def __init__(self, sessions: GuestSessions, method: str, headers: Mapping[str, str], cookies: str) -> None:
        self._sessions, self._method, self._headers, self.set_cookies = sessions, method, headers, []
        # Of several cookies the first good one counts, else the first that is not known to be bad.
        self.claims, self.token = min(sessions.tokens(cookies), key=lambda each: not each[0], default=(None, None))

    async def ensure(self) -> None:
        """Before the request is handled: a guest for a visitor who opens a page, anew or again where it got old."""
        if self.token and not self.claims and not self._sessions.away:
            # It is asked about, no more: a cookie could overtake that of a change.
            await self.ask("/v1/refresh-payload", {"token": self.token})
        fresh = self.claims and self.claims["iat"] > time.time() - self._sessions.renew_after_s
        page = self._method == "GET" and all(self._headers.get(name) == value for name, value in PAGE.items())
        if page and not fresh and not self._sessions.away:
            await self._sign({"cookie": True})

    async def save(self, payload: dict[str, Any]) -> None:
        """Replaces the guest's payload; makes a guest where there is none yet. Raises NotSaved."""
        elsewhere = self._headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}
        if not self.claims and (self.token or elsewhere):  # another site's request comes without the cookie
            raise NotSaved("a guest may be there that could not be read, and is not written over unread")
        answer = await self._sign({"payload": payload, "cookie": True})
        if "token" not in answer:
            raise NotSaved(answer.get("detail", "guest-sessions is away"))

    async def hand_over(self, session: dict[str, Any], **options: Any) -> dict[str, Any]:
        """The merge's answer: store its `payload` as the user's session before you answer. Never stops a login."""
        body = {**options, "tokens": [self.token], "session": session, "cookie": True, "strict": False}
        nothing = {"payload": session, "merged": False, "guests": [], "skipped": [], "conflicts": [], "next": None}
        # Without a token leave the cookie alone: a login that comes from another site does not show it.
        return nothing | (await self.ask("/v1/merge", body) if self.token else {})

    async def _sign(self, body: dict[str, Any]) -> dict[str, Any]:
        """Signs the guest again; makes a new one where there is none, or where the service finds the token bad."""
        answer = await self.ask("/v1/refresh-payload", {**body, "token": self.token}) if self.token else {}
        return answer if self.token else await self.ask("/v1/issue", body)

    async def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The service's answer, {} without one. Its word counts from then on: a token that it gives, or finds bad."""
        data = json.dumps(body).encode() if body else None  # what is no JSON is the caller's fault
        try:
            answer, lines = await self._sessions.send(path, data)
            token = (answer.get("next") or answer).get("token")
            claims = token and jwt.decode(token, options={"verify_signature": False})
        except Exception as error:  # noqa: BLE001  (whatever the HTTP client raises, or what answers is something else)
            # No %r: aiohttp's errors show the API key by it.
            log.warning("guest-sessions is away, cookies stay as they are: %s: %s", type(error).__name__, error)
            self._sessions.away = True  # nobody else waits for it, until `follow_keys` finds it there again
            return {}
        self._sessions.away = False
        cookies = [line for line in lines if line.startswith(f"{self._sessions.cookie}=")]
        if token or cookies or answer.get("code") == "invalid_token":
            self.claims, self.token, self.set_cookies = claims, token, cookies
        elif not answer.keys() & {"payload", "keys"}:
            log.warning("guest-sessions refuses %s: %s", path, answer)
        if token and not cookies and body.get("cookie"):
            log.warning("guest-sessions sets another cookie than %s: nobody keeps a guest", self._sessions.cookie)
        return answer
