"""Who may call the API: holders of an API key, or, with none configured, anyone except a web page from elsewhere.

A key is compared in constant time and never logged. The file of API keys is read again when it changes.
"""

import base64
import hashlib
import hmac
import ipaddress
import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote_plus, urlsplit

import msgspec

from service.http.cookies import Headers
from service.http.problems import HttpProblem
from service.keys import Clock

logger = logging.getLogger("guest_sessions.access")

LEAST_API_KEY_CHARS: Final = 20

RELOAD_S: Final = 1.0
"""How often the keys' file is looked at, at most."""


class ApiKeyPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Who may call. No key and no file: anyone who reaches the service, but no foreign web page."""

    api_keys: tuple[str, ...]
    api_keys_file: Path | None
    allowed_origins: frozenset[str]

    def __repr__(self) -> str:
        return f"ApiKeyPolicy(api_keys={len(self.api_keys)}, api_keys_file={self.api_keys_file!r})"


class ApiKeyAuth:
    """The guard in front of the API, under one policy."""

    def __init__(self, policy: ApiKeyPolicy, *, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock
        self._digests = _digests(policy.api_keys)
        self.asks_for_a_key = bool(policy.api_keys) or policy.api_keys_file is not None
        # The settings may be older than the file: a worker is forked with them long after they were read. So the first
        # request reads the keys again; a stamp taken here would count a change since then as read.
        self._stamp: tuple[int, ...] = ()
        self._looked_at_s = -math.inf
        self._reported: str | None = None

    def check(self, headers: Headers, *, form: Mapping[str, str] | None = None) -> None:
        """Lets the request through.

        With `form`, the decoded body of an OAuth client, the key may also come as the client's secret (RFC 6749,
        section 2.3.1), with any client id: the password of `Authorization: Basic`, or `client_secret` in the form.

        Raises:
            HttpProblem: `unauthorized` or `forbidden_origin`.
        """
        if not self.asks_for_a_key:
            # A page from elsewhere, also under a name rebound to this address, must not use a service that asks no key.
            origin = headers.get("Origin")
            if origin is None or origin.lower() in self._policy.allowed_origins or _is_loopback_origin(origin):
                return
            raise HttpProblem("forbidden_origin", "Without an API key configured, only local pages may call.")
        self._reload()
        # Each place may hold the key: a gateway may have put something of its own into the other.
        presented = [credentials(headers, scheme="bearer").strip(), headers.get("X-API-Key", "")]
        if form is not None:
            presented += [*_basic_passwords(headers), form.get("client_secret", "")]
        digests = _digests(key for key in presented if key)
        # Digests of one length, and every key compared: the time says neither a key's length nor which one was close.
        if sum(hmac.compare_digest(digest, known) for digest in digests for known in self._digests):
            return
        challenge = 'Bearer realm="guest-sessions"' + (', error="invalid_token"' if digests else "")
        detail = "A valid API key is needed, as X-API-Key: KEY or Authorization: Bearer KEY."
        raise HttpProblem("unauthorized", detail, headers={"WWW-Authenticate": challenge})

    def _reload(self) -> None:
        file, now_s = self._policy.api_keys_file, self._clock()
        if file is None or 0 <= now_s - self._looked_at_s < RELOAD_S:
            return
        self._looked_at_s = now_s
        try:
            # Changes when the file does, a mounted secret's swap of links included.
            status = file.stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            if stamp == self._stamp:
                return
            keys = parse_api_keys_file(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            # The stamp is not kept: the file may be in the middle of being replaced, and the next look reads it again.
            if str(error) != self._reported:
                self._reported = str(error)
                logger.error("the file of API keys cannot be used, the keys stay as they were: %s", error)  # noqa: TRY400
            return
        self._stamp, self._reported = stamp, None
        self._digests = _digests(keys)
        logger.info("API keys read again: %d", len(keys))


def credentials(headers: Headers, *, scheme: str) -> str:
    """What `Authorization` holds for a scheme (RFC 9110, section 11.4), as it stands there; "" for another scheme."""
    given, _, rest = headers.get("Authorization", "").partition(" ")
    return rest if given.lower() == scheme else ""


def _basic_passwords(headers: Headers) -> list[str]:
    """The password of `Authorization: Basic` (RFC 7617), as it is and form-decoded: clients differ."""
    try:
        decoded = base64.b64decode(credentials(headers, scheme="basic").strip(), validate=True).decode("utf-8")
    except ValueError:
        return []
    _, _, password = decoded.partition(":")
    return [password, unquote_plus(password)]


def _digests(keys: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest() for key in keys)


def _is_loopback_origin(origin: str) -> bool:
    try:
        url = urlsplit(origin)
        return url.scheme in ("http", "https") and is_loopback(url.hostname or "")
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def web_origin(issuer: str) -> str:
    """The web origin of an address as an `Origin` header states it, without a default port (RFC 6454, section 6.2)."""
    url = urlsplit(issuer)
    host = re.sub(r":\d*$", "", url.netloc.lower())
    port = "" if url.port in (None, {"http": 80, "https": 443}[url.scheme]) else f":{url.port}"
    return f"{url.scheme}://{host}{port}"


def parse_api_keys_file(text: str) -> tuple[str, ...]:
    """API keys as a file lists them: one a line, blank lines and `#` comments left out.

    Raises:
        ValueError: naming the line, never the key; or there is no key, which would lock everybody out, or nobody.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    keys = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not keys:
        raise ValueError("holds no key")
    for number, key in keys:
        check_api_key(key, f"line {number}")
    return tuple(key for _, key in keys)


def parse_api_key_list(text: str) -> tuple[str, ...]:
    """API keys as a setting lists them: comma separated.

    Raises:
        ValueError: naming the entry by its number, never the key.
    """
    keys = [key.strip() for key in text.split(",")]
    for number, key in enumerate(keys, 1):
        check_api_key(key, f"entry {number}")
    return tuple(dict.fromkeys(keys))


def check_api_key(key: str, place: str) -> None:
    """Raises `ValueError`, naming the place and never the key, where the key is too short or has other characters."""
    if len(key) < LEAST_API_KEY_CHARS:
        raise ValueError(f"{place} has fewer than {LEAST_API_KEY_CHARS} characters")
    if not all("!" <= character <= "~" for character in key):
        raise ValueError(f"{place} has characters other than visible ASCII")
    if "," in key:
        raise ValueError(f"{place} has a comma: a file has one key a line")
