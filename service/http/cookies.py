"""The guest cookie: its name and attributes, how it is set, deleted and found in a request (RFC 6265).

Knows nothing of what a token says.
"""

from collections.abc import Iterator
from typing import Final, Literal

import msgspec
from multidict import CIMultiDictProxy

Headers = CIMultiDictProxy[str]
SameSite = Literal["Lax", "Strict", "None"]

MAX_COOKIE_AGE_S: Final = 34_560_000
"""400 days, the most that browsers grant (RFC 6265bis, section 5.5)."""
MAX_COOKIE_BYTES: Final = 4_096
"""Of name, value and attributes together: the least that every browser keeps (RFC 6265, section 6.1)."""


class CookiePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The guest cookie's names and attributes (RFC 6265). The first name is set; all are read, in this order."""

    names: tuple[str, ...]
    domain: str | None
    same_site: SameSite
    secure: bool
    partitioned: bool = False


class GuestCookie:
    """The guest cookie under one policy (RFC 6265, section 4.1)."""

    def __init__(self, policy: CookiePolicy) -> None:
        domain = f"; Domain={policy.domain}" if policy.domain else ""
        secure = "; Secure" if policy.secure else ""
        self.name = policy.names[0]
        self._attributes = f"; HttpOnly; Path=/; SameSite={policy.same_site}{domain}{secure}"
        self._bytes_around = len(self.set("", max_age_s=0)) - len("0")

    def set(self, raw_token: str, *, max_age_s: int) -> str:
        """The `Set-Cookie` value that gives the token to the visitor for at most `max_age_s` seconds."""
        return f"{self.name}={raw_token}; Max-Age={min(max_age_s, MAX_COOKIE_AGE_S)}{self._attributes}"

    def delete(self) -> str:
        """The `Set-Cookie` value that takes the guest cookie away."""
        return f"{self.name}=; Max-Age=0{self._attributes}"

    def bytes_left(self, token_bytes: int, *, max_age_s: int) -> int:
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
