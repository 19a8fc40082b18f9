"""Who may call the API: holders of an API key, or, with none configured, anyone but a foreign web page.

A key is compared in constant time and never logged. The keys' file is re-read when it changes.
"""

import hashlib
import hmac
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from multidict import CIMultiDictProxy

from service.ports import Clock
from service.problems import HttpProblem
from service.settings import AccessPolicy, is_loopback, parse_api_keys_file

logger = logging.getLogger("guest_sessions.access")

RELOAD_S: Final = 1.0
"""How often the keys' file is looked at, at most."""


class Access:
    """The guard in front of the API, under one policy."""

    def __init__(self, policy: AccessPolicy, *, clock: Clock) -> None:
        self._policy = policy
        self._clock = clock
        self._digests = _digests(policy.api_keys)
        self.asks_for_a_key = bool(policy.api_keys) or policy.api_keys_file is not None
        # The settings may be older than the file: a worker is forked with them long after they were read. So the first
        # request reads the keys again; a stamp taken here would count a change since then as read.
        self._stamp: _Stamp | None = ()
        self._looked_at_s = -math.inf

    def check(self, headers: CIMultiDictProxy[str]) -> None:
        """Lets the request through.

        Raises:
            HttpProblem: `unauthorized` or `forbidden_origin`.
        """
        if self.asks_for_a_key:
            self._reload()
            self._check_key(headers)
        else:
            self._check_origin(headers.get("Origin"))

    def _check_key(self, headers: CIMultiDictProxy[str]) -> None:
        presented = _digests(_presented(headers))
        if not presented:
            raise _unauthorized('Bearer realm="guest-sessions"')
        # Digests of one length, and every key compared: the time tells neither a key's length nor which one was close.
        if not sum(hmac.compare_digest(digest, known) for digest in presented for known in self._digests):
            raise _unauthorized('Bearer realm="guest-sessions", error="invalid_token"')

    def _check_origin(self, origin: str | None) -> None:
        """A page from elsewhere, also under a name rebound to this address, must not use a service that asks no key."""
        if origin is None or origin.lower() in self._policy.allowed_origins or _is_loopback_origin(origin):
            return
        raise HttpProblem("forbidden_origin", "Without an API key configured, only local pages may call.")

    def _reload(self) -> None:
        now_s = self._clock()
        if self._policy.api_keys_file is None or 0 <= now_s - self._looked_at_s < RELOAD_S:
            return
        self._looked_at_s = now_s
        stamp = _stamp(self._policy.api_keys_file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            keys = parse_api_keys_file(self._policy.api_keys_file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            logger.error("the API keys' file is unusable, the keys stay as they were: %s", error)  # noqa: TRY400
            return
        self._digests = _digests(keys)
        logger.info("API keys read again: %d", len(keys))


def _presented(headers: CIMultiDictProxy[str]) -> list[str]:
    """Each place may hold the key: a gateway may have put something of its own into the other."""
    scheme, _, credentials = headers.get("Authorization", "").partition(" ")
    bearer = credentials.strip() if scheme.lower() == "bearer" else ""
    return [key for key in (bearer, headers.get("X-API-Key", "")) if key]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _digests(keys: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(_digest(key) for key in keys)


_Stamp = tuple[int, ...]


def _stamp(path: Path) -> _Stamp | None:
    """What changes when the file does, a mounted secret's swap of links included; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _is_loopback_origin(origin: str) -> bool:
    try:
        url = urlsplit(origin)
        return url.scheme in ("http", "https") and is_loopback(url.hostname or "")
    except ValueError:
        return False


def _unauthorized(challenge: str) -> HttpProblem:
    return HttpProblem("unauthorized", "A valid API key is needed.", headers={"WWW-Authenticate": challenge})
