"""The guest's cookie in requests and responses (RFC 6265), and the caching of what carries one (RFC 9111)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CookiePolicy:
    """Which cookies are the guest's, as the service is configured (`GUEST_COOKIE_…`).

    The first name is the one that the service sets; a later one is read only where no earlier one holds a good token.
    """

    names: Sequence[str]
    domain: str | None
    secure: bool
    partitioned: bool

    def values(self, header: str, name: str) -> Iterator[str]:
        """Every value that the Cookie header has under the name, in its order, without quotes.

        Only SP and HTAB are white space there (RFC 6265, section 4.2.1; RFC 9110, section 5.6.3). `str.strip()` would
        take a cookie that a sibling subdomain set under U+00A0 and `__Host-guest` for one with the prefix.
        """
        for pair in header.split(";"):
            found, _, value = pair.strip(" \t").partition("=")
            if found == name and value:
                yield value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value

    def is_set_by(self, line: str) -> bool:
        """Whether the `Set-Cookie` value sets the guest's cookie, under whichever of its names."""
        return line.partition("=")[0] in self.names

    def deletions(self) -> list[str]:
        """`Set-Cookie` values that delete the guest's cookies: with the domain, and the host-only ones beside it."""
        attributes = "; Path=/; Max-Age=0; HttpOnly; SameSite=" + ("None; Partitioned" if self.partitioned else "Lax")
        lines = []
        for name in self.names:
            prefixed = name.startswith(("__Host-", "__Secure-"))  # browsers ignore these without `Secure`
            line = f"{name}={attributes}" + ("; Secure" if self.secure or prefixed or self.partitioned else "")
            if self.domain and not name.startswith("__Host-"):
                lines.append(f"{line}; Domain={self.domain}")
            lines.append(line)
        return lines


def keep_private(cache_control: str | None) -> str:
    """The response's Cache-Control with `private`, and without what lets a shared cache store it."""
    kept = [
        directive
        for directive in (part.strip(" \t") for part in (cache_control or "").split(","))
        if directive and directive.partition("=")[0].lower() not in {"public", "private", "s-maxage"}
    ]
    return ", ".join(["private", *kept])
