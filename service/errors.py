"""What may go wrong, as types: one root, each class with a stable `code` and its facts as fields.

Knows nothing of HTTP: `problems` maps each code to a status. A message (`detail`) is written for the caller and never
holds a token, a key or a secret.
"""

from collections.abc import Iterable
from typing import ClassVar, Literal

import msgspec

Reason = Literal[
    "too_large",
    "malformed",
    "unknown_key",
    "revoked",
    "bad_signature",
    "wrong_issuer",
    "expired",
    "wrong_audience",
]
"""Why a guest token is refused; the first check that fails, in the order of `tokens.TokenService.verify`."""


class Fault(msgspec.Struct, frozen=True):
    """One fault of an input: `path` is a JSON Pointer (RFC 6901) into it, "" for the whole."""

    path: str
    message: str


class GuestSessionsError(Exception):
    """The root of every failure that this project expects; anything else is a bug.

    `facts` are the further members of the problem document (RFC 9457, section 3.2), JSON values all.
    """

    code: ClassVar[str]

    def __init__(self, detail: str, facts: dict[str, object] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = facts or {}


class _WithFaults(GuestSessionsError):
    """An input that is wrong in one or several places."""

    def __init__(self, detail: str, errors: Iterable[Fault] = ()) -> None:
        self.errors = tuple(errors)
        super().__init__(detail, {"errors": [msgspec.to_builtins(fault) for fault in self.errors]})


class MalformedRequest(_WithFaults):
    """The body is not the JSON (RFC 8259, I-JSON strict) that this service takes."""

    code = "malformed_request"


class InvalidRequest(_WithFaults):
    """The body is JSON, but not of the shape that the endpoint takes."""

    code = "invalid_request"


class ReservedClaim(_WithFaults):
    """`claims` names a claim that belongs to the guest token itself."""

    code = "reserved_claim"


class InvalidPatch(_WithFaults):
    """A merge patch or JSON patch is malformed or does not apply to the payload."""

    code = "invalid_patch"


class PatchConflict(GuestSessionsError):
    """A `test` operation of a JSON patch failed (RFC 6902, section 4.6)."""

    code = "patch_conflict"


class StaleToken(GuestSessionsError):
    """A change was to be made to the newest state alone, and a newer one is known, of `version`."""

    code = "stale_token"

    def __init__(self, *, version: int) -> None:
        super().__init__(f"The guest has a newer token, of version {version}.", {"version": version})


class InvalidPolicy(_WithFaults):
    """A merge policy has faults; `errors` names each by its path in the policy."""

    code = "invalid_policy"


class InvalidToken(GuestSessionsError):
    """A guest token was refused for `reason`, of several the one at `index`; `subject` if its signature was good."""

    code = "invalid_token"

    def __init__(self, reason: Reason, *, subject: str | None = None, index: int | None = None) -> None:
        facts: dict[str, object] = {"reason": reason} if index is None else {"reason": reason, "index": index}
        super().__init__(f"The guest token is not valid: {reason}.", facts)
        self.reason: Reason = reason
        self.subject = subject


class TokenTooLarge(GuestSessionsError):
    """A new token would be of `bytes` bytes, more than `limit`; nothing is ever cut to fit."""

    code = "token_too_large"

    def __init__(self, *, size_bytes: int, limit_bytes: int) -> None:
        detail = f"The token would be {size_bytes} bytes long; the limit is {limit_bytes}."
        super().__init__(detail, {"bytes": size_bytes, "limit": limit_bytes})


class NotReady(GuestSessionsError):
    """There is no key to sign with (yet)."""

    code = "not_ready"


class InvalidSettings(_WithFaults):
    """The settings have faults, every one of them listed; `path` of each is the variable's name."""

    code = "invalid_settings"


class KeyringError(GuestSessionsError):
    """The keyring cannot be read, written or moved on as asked."""

    code = "keyring_error"


class InvalidTransition(KeyringError):
    """A key cannot go from its state to the one asked for."""

    code = "illegal_move"


class KeyringDamaged(KeyringError):
    """The bytes are no keyring of this service: cut off, altered, or something else altogether."""

    code = "keyring_damaged"


class KeyringForeign(KeyringError):
    """The keyring belongs to another deployment."""

    code = "keyring_foreign"


class KeyringNewer(KeyringError):
    """The keyring was written by a newer release, in a form that this one does not know."""

    code = "keyring_newer"


class WrongSecret(KeyringError):
    """The keyring is sealed, and no secret at hand opens it."""

    code = "wrong_secret"


class StoreUnavailable(KeyringError):
    """The keyring's file cannot be read or written now: permissions, a full or read-only disk, a lock."""

    code = "store_unavailable"


class CacheUnavailable(KeyringError):
    """Redis cannot be reached, or did not answer in time."""

    code = "cache_unavailable"


class CacheEmpty(KeyringError):
    """Redis answers, and holds no keyring."""

    code = "cache_empty"
