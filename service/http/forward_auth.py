"""Forward authentication for gateways: who the guest of a request is, and who gets a new one.

Serves `auth_request` (nginx), `forward_auth` (Caddy), ForwardAuth (Traefik) and `ext_authz` (Envoy). Whatever comes in,
the response is 200 or 401 with an empty body: Envoy passes nothing but 200 on, nginx makes a 500 of most others.
"""

from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, Literal

import msgspec

from service.errors import InvalidToken, NotReady, TokenTooLarge
from service.http.auth import credentials
from service.http.cookies import GuestCookie, Headers
from service.http.rate_limit import Network, RateLimiter, client_network
from service.merge.service import MergeService
from service.tokens.service import SignedToken, TokenService, VerifiedToken

MAX_SIGNATURES: Final = 8
"""Checked for one request: paths and domains set a few tokens, and a head holds hundreds."""
MAX_LOOKED_AT: Final = 180
"""Tokens of one request, those included whose refusal costs no signature: as many cookies as Chromium keeps for a site.
A head of 64 KiB could hold 8,000, 60 ms of work."""


_EXTRA_HEADERS: Final = {
    "payload": "X-Guest-Payload",
    "token": "X-Guest-Token",
    "access": "X-Guest-Access-Token",
}
"""The further identity headers, by their name in `GUEST_AUTH_HEADERS`."""


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


class _Found(msgspec.Struct, frozen=True):
    """A good token, and where in the request it was."""

    raw_token: str
    token: VerifiedToken
    is_cookie: bool
    is_old_name: bool


class ForwardAuth:
    """`/v1/auth` under one policy."""

    def __init__(
        self,
        policy: ForwardAuthPolicy,
        *,
        tokens: TokenService,
        merges: MergeService,
        cookie: GuestCookie,
        limiter: RateLimiter,
    ) -> None:
        self._policy = policy
        self._tokens = tokens
        self._merges = merges
        self._cookie = cookie
        self._limiter = limiter
        # Empty, they make a gateway that copies them overwrite what a client sent under these names.
        names = ["X-Guest-Id", "X-Guest-Version", "X-Guest-New"]
        names += [_EXTRA_HEADERS[name] for name in sorted(policy.headers)]
        self._nobody = AuthDecision("nobody", dict.fromkeys(names, ""))
        # A service worker that passes a navigation on turns its `document` into `empty`.
        self._page_destinations = {"document", "empty"} | ({"iframe"} if cookie.partitioned else set())

    async def verify(self, headers: Headers) -> AuthDecision | None:
        """The guest of a good token; None without one."""
        found = await self._find(headers)
        return None if found is None else await self._decide(found.token, raw_token=found.raw_token)

    def presents_a_token(self, headers: Headers) -> bool:
        """Whether the request came with anything that could be a guest token."""
        return any(self._presented(headers))

    async def ensure(self, headers: Headers, *, method: str, peer: str | None) -> AuthDecision:
        """The visitor's guest: signed again where that is due, a new one on a first visit, or nobody."""
        found = await self._find(headers)
        if found is None:
            return await self._first_visit(headers, method=method, peer=peer)
        # The owner of a Bearer token keeps it elsewhere than in a cookie, and would have two guests with one.
        if found.is_cookie and self._may_set(headers, method=method):
            renewed = await self._renewed(found)
            if renewed is not None:
                return await self._decide(renewed, raw_token=renewed.raw_token, sets_cookie=True)
        return await self._decide(found.token, raw_token=found.raw_token)

    async def _renewed(self, found: _Found) -> SignedToken | None:
        """The guest's next token for the cookie; None where none is due or it does not fit."""
        if not (found.token.refresh_due or found.is_old_name or self._merges.is_superseded(found.token)):
            return None
        try:
            renewed = await self._merges.renew(found.token)
        except (NotReady, TokenTooLarge):
            return None
        fits = self._cookie.bytes_left(len(renewed.raw_token), max_age_s=renewed.claims.lifetime_s) >= 0
        return renewed if fits else None

    async def _first_visit(self, headers: Headers, *, method: str, peer: str | None) -> AuthDecision:
        forwarded_for = headers.getall("X-Forwarded-For", ())
        client = client_network(peer, forwarded_for=forwarded_for, trusted=self._policy.trusted_proxies)
        if not self._may_set(headers, method=method) or not self._limiter.allows(client):
            return self._nobody
        try:
            made = await self._tokens.issue(payload={})
            return await self._decide(made, raw_token=made.raw_token, is_new=True, sets_cookie=True)
        except (NotReady, TokenTooLarge):
            return self._nobody

    async def _find(self, headers: Headers) -> _Found | None:
        """The token that counts: of the first cookie name that has a good one, else the Bearer token.

        Of the first good token's guest it is the one with the highest `ver`, then the latest `iat`. A domain that is
        set later leaves a host-only twin of the cookie, which browsers send first and nobody renews.
        """
        signatures = looked_at = 0
        names = len(self._cookie.names)
        for rank, raw_tokens in enumerate(self._presented(headers)):
            found: _Found | None = None
            for raw_token in raw_tokens:
                if signatures == MAX_SIGNATURES or looked_at == MAX_LOOKED_AT:
                    break
                looked_at += 1
                try:
                    token = await self._tokens.verify(raw_token)
                except NotReady:
                    break
                except InvalidToken as error:
                    # A subject is set once the signature was found good.
                    signatures += error.reason == "bad_signature" or error.subject is not None
                    continue
                signatures += 1
                claims, counted = token.claims, None if found is None else found.token.claims
                if counted is None or (
                    claims.lineage == counted.lineage
                    and (claims.version, claims.issued_at_s) > (counted.version, counted.issued_at_s)
                ):
                    found = _Found(raw_token, token, is_cookie=rank < names, is_old_name=0 < rank < names)
            if found is not None:
                return found
        return None

    def _presented(self, headers: Headers) -> Iterator[list[str]]:
        """The tokens of each cookie name in turn, then the Bearer token (RFC 6750, section 2.1) if there is one."""
        yield from self._cookie.tokens(headers)
        bearer = credentials(headers, scheme="bearer").strip(" ")
        if bearer:
            yield [bearer]

    def _may_set(self, headers: Headers, *, method: str) -> bool:
        """Whether the response to this request may set the cookie.

        By default for page navigations alone: an image, a prefetch or a bot would each get a guest in vain, and the
        cookie of a request that runs beside others could overtake the cookie of a change.
        """
        original = headers.get("X-Forwarded-Method") or headers.get("X-Original-Method") or method
        if self._policy.ensure_on == "any":
            # A browser drops the cookie of a CORS preflight (Fetch standard, section 4.8).
            return not (original == "OPTIONS" and "Access-Control-Request-Method" in headers)
        return (
            original == "GET"
            and headers.get("Sec-Fetch-Mode") == "navigate"
            and headers.get("Sec-Fetch-Dest") in self._page_destinations
            and "Sec-Purpose" not in headers
            and headers.get("Purpose", "").lower() != "prefetch"
        )

    async def _decide(
        self, token: VerifiedToken | SignedToken, *, raw_token: str, is_new: bool = False, sets_cookie: bool = False
    ) -> AuthDecision:
        headers = {
            "X-Guest-Id": token.claims.subject,
            "X-Guest-Version": str(token.claims.version),
            "X-Guest-New": "1" if is_new else "0",
        }
        if "payload" in self._policy.headers:
            payload = urlsafe_b64encode(msgspec.json.encode(token.claims.payload))
            headers["X-Guest-Payload"] = payload.rstrip(b"=").decode("ascii")
        if "token" in self._policy.headers:
            headers["X-Guest-Token"] = raw_token
        if "access" in self._policy.headers:
            headers["X-Guest-Access-Token"] = ""
            with suppress(NotReady):  # no key signs at the moment; the guest is known all the same
                access_token = await self._tokens.reused_access_token(token, audience=self._policy.access_audience)
                headers["X-Guest-Access-Token"] = access_token.raw_token
        if sets_cookie:
            headers["Set-Cookie"] = self._cookie.set(raw_token, max_age_s=token.claims.lifetime_s)
        return AuthDecision("new" if is_new else "known", headers)
