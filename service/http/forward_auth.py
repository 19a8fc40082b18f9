"""Forward authentication for gateways: who the guest of a request is, and who gets a new one.

Serves `auth_request` (nginx), `forward_auth` (Caddy), ForwardAuth (Traefik) and `ext_authz` (Envoy). Whatever comes in,
the response is 200 or 401 with an empty body: Envoy passes nothing but 200 on, nginx makes a 500 of most others.
"""

from base64 import urlsafe_b64encode
from collections.abc import Iterator
from itertools import islice
from typing import Final, Literal

import msgspec

from service.errors import InvalidToken, NotReady, TokenTooLarge
from service.http.cookies import GuestCookie, Headers
from service.http.rate_limit import Network, RateLimiter, client_network
from service.tokens.claims import GuestClaims
from service.tokens.service import SignedToken, TokenService, VerifiedToken

MAX_SIGNATURES: Final = 8
"""Checked for one request: paths and domains set a few tokens, and a head holds hundreds."""
MAX_LOOKED_AT: Final = 180
"""Tokens of one request, those included whose refusal costs no signature: as many cookies as Chromium keeps for a site.
A head of 64 KiB could hold 8,000, 60 ms of work."""


class ForwardAuthPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How `/v1/auth` answers: what counts as a first visit, what goes upstream, how many guests one address gets."""

    ensure_on: Literal["navigate", "any"]
    headers: frozenset[str]
    """Of `payload`, `token` and `access`: the identity headers beside the three that are always there."""
    rate_limit_per_s: float
    trusted_proxies: tuple[Network, ...]
    access_audience: tuple[str, ...] = ()
    """Who may take the access token of `X-Guest-Access-Token`."""


class AuthDecision(msgspec.Struct, frozen=True):
    """What one request to `/v1/auth` gets. `headers` are the identity headers and, where one is set, the cookie."""

    outcome: Literal["known", "new", "nobody"]
    headers: dict[str, str]


class ForwardAuth:
    """`/v1/auth` under one policy."""

    def __init__(
        self, policy: ForwardAuthPolicy, *, tokens: TokenService, cookie: GuestCookie, limiter: RateLimiter
    ) -> None:
        self._policy = policy
        self._tokens = tokens
        self._cookie = cookie
        self._limiter = limiter
        # Empty, they make a gateway that copies them overwrite what a client sent under these names.
        names = ["X-Guest-Id", "X-Guest-Version", "X-Guest-New"]
        names += [f"X-Guest-{name.title()}" for name in sorted(policy.headers)]
        self._nobody = AuthDecision("nobody", dict.fromkeys(names, ""))

    async def verify(self, headers: Headers) -> AuthDecision | None:
        """The guest of a good token; None without one."""
        found = await self._find(headers)
        return None if found is None else self._known(*found)

    def presents_a_token(self, headers: Headers) -> bool:
        """Whether the request came with anything that could be a guest token."""
        return next(self._candidates(headers), "") != ""

    async def ensure(self, headers: Headers, *, method: str, peer: str | None) -> AuthDecision:
        """The visitor's guest: signed again where that is due, a new one on a first visit, or nobody."""
        found = await self._find(headers)
        if found is None:
            return await self._first_visit(headers, method=method, peer=peer)
        raw_token, token = found
        if token.refresh_due:
            try:
                renewed = await self._tokens.renew(token)
            except (NotReady, TokenTooLarge):
                return self._known(raw_token, token)
            if self._cookie.bytes_left(len(renewed.raw_token), max_age_s=renewed.claims.lifetime_s) >= 0:
                return self._signed(renewed, outcome="known")
        return self._known(raw_token, token)

    async def _first_visit(self, headers: Headers, *, method: str, peer: str | None) -> AuthDecision:
        forwarded_for = headers.getall("X-Forwarded-For", ())
        client = client_network(peer, forwarded_for=forwarded_for, trusted=self._policy.trusted_proxies)
        if not self._may_mint(headers, method=method) or not self._limiter.allows(client):
            return self._nobody
        try:
            return self._signed(await self._tokens.issue(payload={}), outcome="new")
        except (NotReady, TokenTooLarge):
            return self._nobody

    async def _find(self, headers: Headers) -> tuple[str, VerifiedToken] | None:
        signatures = 0
        for raw_token in islice(self._candidates(headers), MAX_LOOKED_AT):
            try:
                return raw_token, await self._tokens.verify(raw_token)
            except InvalidToken as error:
                # A subject is set once the signature was found good.
                signatures += error.reason == "bad_signature" or error.subject is not None
                if signatures == MAX_SIGNATURES:
                    return None
            except NotReady:
                return None
        return None

    def _candidates(self, headers: Headers) -> Iterator[str]:
        yield from self._cookie.tokens(headers)
        scheme, _, credentials = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            yield credentials.strip()

    def _may_mint(self, headers: Headers, *, method: str) -> bool:
        """Whether this is a page navigation: not an image, prefetch or bot, which would each get a guest in vain."""
        if self._policy.ensure_on == "any":
            return True
        original = headers.get("X-Forwarded-Method") or headers.get("X-Original-Method") or method
        return (
            original == "GET"
            and headers.get("Sec-Fetch-Mode") == "navigate"
            and headers.get("Sec-Fetch-Dest") == "document"
            and "Sec-Purpose" not in headers
            and headers.get("Purpose", "").lower() != "prefetch"
        )

    def _known(self, raw_token: str, token: VerifiedToken) -> AuthDecision:
        return AuthDecision("known", self._identity(token.claims, raw_token=raw_token, is_new=False))

    def _signed(self, token: SignedToken, *, outcome: Literal["known", "new"]) -> AuthDecision:
        headers = self._identity(token.claims, raw_token=token.raw_token, is_new=outcome == "new")
        headers["Set-Cookie"] = self._cookie.set(token.raw_token, max_age_s=token.claims.lifetime_s)
        return AuthDecision(outcome, headers)

    def _identity(self, claims: GuestClaims, *, raw_token: str, is_new: bool) -> dict[str, str]:
        headers = {
            "X-Guest-Id": claims.subject,
            "X-Guest-Version": str(claims.version),
            "X-Guest-New": "1" if is_new else "0",
        }
        if "payload" in self._policy.headers:
            payload = urlsafe_b64encode(msgspec.json.encode(claims.payload))
            headers["X-Guest-Payload"] = payload.rstrip(b"=").decode("ascii")
        if "token" in self._policy.headers:
            headers["X-Guest-Token"] = raw_token
        return headers
