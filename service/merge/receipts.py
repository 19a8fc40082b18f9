"""The receipts of merged guests, which a session carries in its payload: up to which version a guest was merged.

Pure. Receipts make merging idempotent without a store, and hold no id of a visitor.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from service.errors import Fault, InvalidRequest
from service.merge.policy import RECEIPTS
from service.tokens.claims import GuestClaims

MAX_RECEIPTS: Final = 64
"""Receipts that a session carries: about 1.1 KB. A guest whose receipt fell out would be merged again."""

RECEIPT_CHARS: Final = 10
"""Characters of a guest's id in its receipt: 60 bits, so that 64 guests share one with a chance of 2^-49."""

_ID: Final = re.compile(rf"[A-Za-z0-9_-]{{{RECEIPT_CHARS}}}")
_MALFORMED: Final = f"must be [ID, VER]: {RECEIPT_CHARS} base64url characters, and a whole number from 1"


class Receipts:
    """The highest version of each guest that was merged into a session."""

    def __init__(self, session: Mapping[str, Any]) -> None:
        """Read the session's `merged_guests`.

        Raises:
            InvalidRequest: `/session/merged_guests`, or each entry of it that is not `[ID, VER]`.
        """
        entries = session.get(RECEIPTS, [])
        at = f"/session/{RECEIPTS}"
        if type(entries) is not list:
            raise InvalidRequest("The session's receipts are malformed.", [Fault(at, "must be a list of [ID, VER]")])
        self._versions: dict[str, int] = {}
        faults = []
        for index, entry in enumerate(entries):
            match entry:
                case [str(name), int(version)] if _ID.fullmatch(name) and version >= 1 and type(version) is int:
                    self._versions[name] = max(version, self._versions.pop(name, version))
                case _:
                    faults.append(Fault(f"{at}/{index}", _MALFORMED))
        if faults:
            raise InvalidRequest("The session's receipts are malformed.", faults)

    def version_of(self, claims: GuestClaims) -> int:
        """The version up to which the guest was merged; 0 where it was not."""
        return self._versions.get(receipt_id(claims), 0)

    def add(self, claims: GuestClaims) -> None:
        """Record the guest as merged, as the newest."""
        name = receipt_id(claims)
        self._versions.pop(name, None)
        self._versions[name] = claims.version

    def to_json(self) -> list[list[str | int]]:
        """The newest ones as `merged_guests` carries them, newest last."""
        newest = list(self._versions.items())[-MAX_RECEIPTS:]
        return [[name, version] for name, version in newest]


def receipt_id(claims: GuestClaims) -> str:
    """The digest that stands for a guest in `merged_guests`, so that the session holds no id of a visitor."""
    lineage = ".".join(claims.lineage)
    return base64.urlsafe_b64encode(hashlib.sha256(lineage.encode()).digest())[:RECEIPT_CHARS].decode()
