"""Verified tokens, remembered for a while: the same token comes with every request of its visitor.

What is remembered is that a token's signature is good under one ring, and the claims that it signs. What time, issuer,
revocation and audience make of the claims is never remembered: that is checked at every use. Bounded in entries and in
bytes. A token is found by the whole of its text, so that no two can be taken for each other.
"""

from typing import Final

from service.keys.keyring import Key
from service.tokens.claims import GuestClaims

MAX_ENTRIES: Final = 8_192
MAX_BYTES: Final = 3 * 1_048_576
"""Of both generations together at the most: for common tokens of 500 bytes it is 2 MiB, for 1,000 of them."""
_OBJECT_BYTES: Final = 240
_LIST_BYTES: Final = 96
_MEMBER_BYTES: Final = 96
"""What CPython takes at most for an object or a list, and for a member of one."""

CachedClaims = tuple[Key, GuestClaims]


class TokenCache:
    """Two generations: the young one takes what is new, and when it is full becomes the old one, which is dropped.

    A token found in the old one moves to the young one. So the tokens in use stay, and a look-up keeps no order.
    """

    def __init__(self, *, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries // 2
        self._max_bytes = max_bytes // 2
        self._young: dict[str, tuple[CachedClaims, int]] = {}
        self._old: dict[str, tuple[CachedClaims, int]] = {}
        self._young_bytes = 0

    def find(self, raw_token: str) -> CachedClaims | None:
        """Key and claims of a token that was put here."""
        entry = self._young.get(raw_token)
        if entry is None:
            entry = self._old.pop(raw_token, None)
            if entry is None:
                return None
            self._keep(raw_token, entry)
        return entry[0]

    def put(self, raw_token: str, found: CachedClaims, *, body: bytes) -> None:
        """Remembers a token whose signature is good; `body` is the JSON of its claims."""
        self._keep(raw_token, (found, len(raw_token) + _size_bytes(body)))

    def _keep(self, raw_token: str, entry: tuple[CachedClaims, int]) -> None:
        size_bytes = entry[1]
        if len(self._young) >= self._max_entries or self._young_bytes + size_bytes > self._max_bytes:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        if size_bytes <= self._max_bytes:
            self._young[raw_token] = entry
            self._young_bytes += size_bytes


def _size_bytes(body: bytes) -> int:
    """What an entry takes in memory at most: each container has a bracket, each further member a comma.

    The claims that every token has stand for the entry itself and what holds it: 8 members and one object, 1 KB.
    """
    texts_bytes = len(body) if body.isascii() else 4 * len(body)
    containers_bytes = _OBJECT_BYTES * body.count(b"{") + _LIST_BYTES * body.count(b"[")
    return texts_bytes + containers_bytes + _MEMBER_BYTES * body.count(b",")
