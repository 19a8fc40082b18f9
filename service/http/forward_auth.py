"""Forward authentication for gateways: the guest cookie, the identity headers, and who gets a new guest.

What `auth_request`, `forward_auth`, ForwardAuth and `ext_authz` call. Answers 200 or 401, with an empty body, whatever
comes in: Envoy lets nothing but 200 through, nginx turns most else into a 500.
"""

import ipaddress
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from itertools import islice
from typing import Final, Literal

import msgspec
from multidict import CIMultiDictProxy

from service.errors import InvalidToken, NotReady, TokenTooLarge
from service.http.rate_limit import RateLimiter
from service.tokens.claims import GuestClaims
from service.tokens.service import SignedToken, TokenService, VerifiedToken

Headers = CIMultiDictProxy[str]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
SameSite = Literal["Lax", "Strict", "None"]

MAX_COOKIE_AGE_S: Final = 34_560_000
"""400 days, the most that browsers grant (RFC 6265bis, section 5.5)."""
MAX_COOKIE_BYTES: Final = 4_096
"""Of name, value and attributes together: the least that every browser keeps (RFC 6265, section 6.1)."""
MAX_SIGNATURES: Final = 8
"""Checked for one request: paths and domains set a few tokens, and a head holds hundreds."""
MAX_LOOKED_AT: Final = 180
"""Tokens of one request, those included whose refusal costs no signature: as many cookies as Chromium keeps for a site.
A head of 64 KiB could hold 8,000, 60 ms of work."""


class CookiePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The guest cookie's name and attributes (RFC 6265)."""

    name: str
    domain: str | None
    same_site: SameSite
    secure: bool


class GuestCookie:
    """The guest cookie under one policy (RFC 6265, section 4.1)."""

    def __init__(self, policy: CookiePolicy) -> None:
        domain = f"; Domain={policy.domain}" if policy.domain else ""
        secure = "; Secure" if policy.secure else ""
        self.name = policy.name
        self._attributes = f"; HttpOnly; Path=/; SameSite={policy.same_site}{domain}{secure}"
        self._bytes_around = len(self.set("", max_age_s=0)) - len("0")

    def set(self, raw_token: str, *, max_age_s: int) -> str:
        """The `Set-Cookie` value that gives the token to the visitor for at most `max_age_s` seconds."""
        return f"{self.name}={raw_token}; Max-Age={min(max_age_s, MAX_COOKIE_AGE_S)}{self._attributes}"

    def delete(self) -> str:
        """The `Set-Cookie` value that takes the guest cookie away."""
        return f"{self.name}=; Max-Age=0{self._attributes}"

    def bytes_left(self, *, token_bytes: int, max_age_s: int) -> int:
        """How much longer the token may get before a browser drops the cookie; negative where it does already."""
        age_digits = len(str(min(max_age_s, MAX_COOKIE_AGE_S)))
        return MAX_COOKIE_BYTES - self._bytes_around - token_bytes - age_digits

    def tokens(self, headers: Headers) -> Iterator[str]:
        """Every cookie of our name in the request, in its order; several paths or domains may each have set one."""
        for header in headers.getall("Cookie", ()):
            for pair in header.split(";"):
                name, _, value = pair.strip(" \t").partition("=")
                if name == self.name and value:
                    yield value.strip('"')


class ForwardAuthPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How `/v1/auth` answers: what counts as a first visit, what goes upstream, how many guests one address gets."""

    ensure_on: Literal["navigate", "any"]
    headers: frozenset[str]
    rate_limit_per_s: float
    trusted_proxies: tuple[Network, ...]


class ForwardAuth:
    """`/v1/auth` under one policy."""

    def __init__(
        self, policy: ForwardAuthPolicy, *, tokens: TokenService, cookie: GuestCookie, limiter: RateLimiter
    ) -> None:
        self._policy = policy
        self._tokens = tokens
        self._cookie = cookie
        self._limiter = limiter

    async def verify(self, headers: Headers) -> dict[str, str] | None:
        """The identity headers of a good token; None without one."""
        found = await self._find(headers)
        return None if found is None else self._identity(found[1].claims, raw_token=found[0], new=False)

    def presents_a_token(self, headers: Headers) -> bool:
        """Whether the request came with anything that could be a guest token."""
        return next(self._candidates(headers), "") != ""

    async def ensure(self, headers: Headers, *, method: str, peer: str | None) -> dict[str, str]:
        """The identity headers of the visitor's guest, a new one on a first visit; empty ones where there is none."""
        found = await self._find(headers)
        if found is not None:
            return await self._known(*found)
        if not self._may_mint(headers, method=method) or not self._limiter.allows(self._client(headers, peer)):
            return self._nobody()
        try:
            return self._given(await self._tokens.issue(payload={}), new=True)
        except (NotReady, TokenTooLarge):
            return self._nobody()

    async def _find(self, headers: Headers) -> tuple[str, VerifiedToken] | None:
        signatures = 0
        for raw_token in islice(self._candidates(headers), MAX_LOOKED_AT):
            try:
                return raw_token, await self._tokens.verify(raw_token)
            except InvalidToken as error:
                # A subject is told once the signature was found good.
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

    async def _known(self, raw_token: str, token: VerifiedToken) -> dict[str, str]:
        if token.refresh_due:
            try:
                renewed = await self._tokens.renew(token)
            except (NotReady, TokenTooLarge):
                return self._identity(token.claims, raw_token=raw_token, new=False)
            if self._fits(renewed):
                return self._given(renewed, new=False)
        return self._identity(token.claims, raw_token=raw_token, new=False)

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

    def _client(self, headers: Headers, peer: str | None) -> str:
        """The address that the rate limit counts: the last one that no trusted proxy vouches for as its own."""
        hops = [hop.strip() for header in headers.getall("X-Forwarded-For", ()) for hop in header.split(",")]
        address = _address(peer or "")
        for hop in reversed(hops):
            if address is None or not self._is_trusted(address):
                break
            address = _address(hop)
        return _network_of(address)

    def _is_trusted(self, address: "_Address") -> bool:
        return any(address.version == each.version and address in each for each in self._policy.trusted_proxies)

    def _fits(self, token: SignedToken) -> bool:
        size_bytes = len(token.raw_token)
        return self._cookie.bytes_left(token_bytes=size_bytes, max_age_s=token.claims.lifetime_s) >= 0

    def _given(self, token: SignedToken, *, new: bool) -> dict[str, str]:
        headers = self._identity(token.claims, raw_token=token.raw_token, new=new)
        headers["Set-Cookie"] = self._cookie.set(token.raw_token, max_age_s=token.claims.lifetime_s)
        return headers

    def _identity(self, claims: GuestClaims, *, raw_token: str, new: bool) -> dict[str, str]:
        headers = {
            "X-Guest-Id": claims.subject,
            "X-Guest-Version": str(claims.version),
            "X-Guest-New": "1" if new else "0",
        }
        if "payload" in self._policy.headers:
            headers["X-Guest-Payload"] = _base64url(msgspec.json.encode(claims.payload))
        if "token" in self._policy.headers:
            headers["X-Guest-Token"] = raw_token
        return headers

    def _nobody(self) -> dict[str, str]:
        """Empty identity headers, so that a gateway which copies them overwrites what a client sent."""
        names = ["X-Guest-Id", "X-Guest-Version", "X-Guest-New"]
        names += [f"X-Guest-{name.title()}" for name in sorted(self._policy.headers)]
        return dict.fromkeys(names, "")


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(text: str) -> _Address | None:
    """An address as proxies write it: bare, in brackets, or with a port."""
    bare = text.partition("]")[0].lstrip("[") if text.startswith("[") else text
    bare = bare.partition(":")[0] if bare.count(":") == 1 else bare
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _network_of(address: _Address | None) -> str:
    """What one subscriber has: an IPv4 address, or an IPv6 network of 64 bits, which is one home's."""
    if address is None:
        return "unknown"
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)  # noqa: PLR2004


def _base64url(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
