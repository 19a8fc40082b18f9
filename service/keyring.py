"""The signing keys of one deployment as an immutable value: next → active → retired → revoked.

Pure: every move takes `now_s` and gives a new ring; knows nothing of files, Redis or cryptography.
"""

from enum import StrEnum
from typing import Any, Literal

import msgspec

Algorithm = Literal["ES256", "RS256"]


class KeyState(StrEnum):
    """Where a key is in its life."""

    NEXT = "next"
    ACTIVE = "active"
    RETIRED = "retired"
    REVOKED = "revoked"


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One signing key. `private` is its private JWK (RFC 7517); secret, and never in a `repr`."""

    kid: str
    algorithm: Algorithm
    state: KeyState
    private: dict[str, Any]
    max_lifetime_s: int
    created_at_s: int
    activated_at_s: int | None = None
    retired_at_s: int | None = None
    revoked_at_s: int | None = None

    def __repr__(self) -> str:
        return f"Key(kid={self.kid!r}, algorithm={self.algorithm!r}, state={self.state.value!r})"


class KeyRing(msgspec.Struct, frozen=True, kw_only=True):
    """All keys of one deployment, with what must travel with them."""

    ring_id: str
    revision: int
    keys: tuple[Key, ...]
    revoked_before_s: int
    derivation_secret: bytes

    def __repr__(self) -> str:
        return f"KeyRing(ring_id={self.ring_id!r}, revision={self.revision}, keys={self.keys!r})"
