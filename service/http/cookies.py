"""The guest cookie: its name and attributes, how it is set, deleted and found in a request (RFC 6265).

Knows nothing of what a token says.
"""

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
    """The guest cookie's names and attributes (RFC 6265). The first name is set, the others are only read.

    `partitioned` keeps one cookie for each top-level site that shows this one in a frame (CHIPS).
    """

    names: tuple[str, ...]
    domain: str | None
    same_site: SameSite
    secure: bool
    partitioned: bool = False


class GuestCookie:
    """The guest cookie under one policy (RFC 6265, section 4.1)."""

    def __init__(self, policy: CookiePolicy) -> None:
        self.partitioned = policy.partitioned
        self.names = policy.names
        self._policy = policy
        self._attributes = _attributes(policy, domain=policy.domain)
        self._overhead_bytes = len(self.set("", max_age_s=0)) - len("0")

    def set(self, raw_token: str, *, max_age_s: int) -> str:
        """The `Set-Cookie` value that gives the token to the visitor for at most `max_age_s` seconds."""
        return f"{self.names[0]}={raw_token}; Max-Age={min(max_age_s, MAX_COOKIE_AGE_S)}{self._attributes}"

    def deletions(self) -> list[str]:
        """The `Set-Cookie` values that delete the guest's cookies: under its name, and under each that is only read.

        One of the latter may be from a time without a domain, or have a prefix that allows none or demands `Secure`.
        """
        lines = [f"{self.names[0]}=; Max-Age=0{self._attributes}"]
        for name in self.names[1:]:
            secure = name.startswith(("__Host-", "__Secure-"))
            domains = [None] if name.startswith("__Host-") else dict.fromkeys([None, self._policy.domain])
            lines += [f"{name}=; Max-Age=0{_attributes(self._policy, domain=each, secure=secure)}" for each in domains]
        return lines

    def bytes_left(self, token_bytes: int, *, max_age_s: int) -> int:
        """How much longer the token may get before a browser drops the cookie; negative where it does already."""
        age_digits = len(str(min(max_age_s, MAX_COOKIE_AGE_S)))
        return MAX_COOKIE_BYTES - self._overhead_bytes - token_bytes - age_digits

    def tokens(self, headers: Headers) -> list[list[str]]:
        """The values of each name's cookies, the names in their order, the values in the request's.

        Several paths or domains may each have set one. A value may stand in quotes (RFC 6265, section 4.1.1). Only SP
        and HTAB are white space: any other space before a name makes it another name, which browsers do not protect.
        """
        found: dict[str, list[str]] = {name: [] for name in self.names}
        for line in headers.getall("Cookie", ()):
            for pair in line.split(";"):
                name, _, value = pair.strip(" \t").partition("=")
                if value and name in found:
                    quoted = len(value) > 1 and value[0] == value[-1] == '"'
                    found[name].append(value[1:-1] if quoted else value)
        return list(found.values())


def _attributes(policy: CookiePolicy, *, domain: str | None, secure: bool = False) -> str:
    return "".join(
        [
            f"; HttpOnly; Path=/; SameSite={policy.same_site}",
            f"; Domain={domain}" if domain else "",
            "; Secure" if policy.secure or secure else "",
            "; Partitioned" if policy.partitioned else "",
        ]
    )
