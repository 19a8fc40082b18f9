"""Guest tokens: verified offline by the service's JWK Set, and which of several counts."""

import contextlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
from jwt.types import Options

_ALGORITHMS = frozenset({"ES256", "RS256"})
# The service looks at `aud`. `iat` is not compared with the clock: the signature vouches, and clocks differ.
_NOT_CHECKED: Options = {"verify_aud": False, "verify_iat": False}


@dataclass(frozen=True, slots=True)
class Token:
    """A verified guest token with what it says; times are Unix seconds."""

    raw: str = field(repr=False)
    subject: str
    version: int
    issued_at: int
    first_issued_at: int
    payload: dict[str, Any]

    def __post_init__(self) -> None:
        """Raises TypeError for members that no guest token has."""
        texts, numbers = (self.raw, self.subject), (self.version, self.issued_at, self.first_issued_at)
        are_texts, are_numbers = (isinstance(each, str) for each in texts), (isinstance(each, int) for each in numbers)
        if not (all(are_texts) and all(are_numbers) and isinstance(self.payload, dict)):
            raise TypeError("not the members of a guest token")

    @classmethod
    def of_object(cls, token_object: Mapping[str, Any], raw: str) -> "Token":
        """From the members of the service's token object. Raises KeyError where one is missing, TypeError if wrong."""
        return cls(
            raw=raw,
            subject=token_object["subject"],
            version=token_object["version"],
            issued_at=token_object["issued_at"],
            first_issued_at=token_object["first_issued_at"],
            payload=token_object["payload"],
        )

    @property
    def lineage(self) -> tuple[str, int | None]:
        """The guest. A subject made of an `Idempotency-Key`, `G-` and a UUID of version 8, is one guest by itself."""
        with contextlib.suppress(ValueError):
            if self.subject.startswith("G-") and uuid.UUID(self.subject[2:]).version == 8:  # noqa: PLR2004
                return self.subject, None
        return self.subject, self.first_issued_at


@dataclass(frozen=True, slots=True)
class UnknownKey:
    """A guest token whose key is not known here, as just after a rotation: the service has to be asked."""

    raw: str = field(repr=False)


class Verifier:
    """Verifies guest tokens by the keys that were seen last."""

    def __init__(self, issuers: Sequence[str]) -> None:
        self._issuers = issuers
        self._keys: Mapping[str, jwt.PyJWK] = {}

    def learn(self, jwks: object) -> bool:
        """Takes over the keys of a JWK Set (RFC 7517); False, with the former keys kept, where it has no usable one."""
        members = jwks.get("keys") if isinstance(jwks, dict) else None
        keys = {}
        for member in members if isinstance(members, list) else []:
            # A key of a kind that PyJWT does not know is no reason to give up the others.
            with contextlib.suppress(jwt.PyJWTError, ValueError, TypeError, AttributeError):
                key = jwt.PyJWK(member)
                if key.key_id and key.algorithm_name in _ALGORITHMS:
                    keys[key.key_id] = key
        self._keys = keys or self._keys
        return bool(keys)

    def verify(self, raw: str) -> Token | UnknownKey | None:
        """Checks `typ`, the signature, `iss` and `exp` (RFC 7519); None for a bad token."""
        # ValueError: text that is not ASCII. RecursionError: a header of nested lists. The others: no guest's claims.
        with contextlib.suppress(jwt.PyJWTError, ValueError, RecursionError, KeyError, TypeError):
            header = jwt.get_unverified_header(raw)
            if header.get("typ") != "guest+jwt":
                return None
            key = self._keys.get(header.get("kid", ""))
            if key is None:
                return UnknownKey(raw)
            claims = jwt.decode(raw, key, options=_NOT_CHECKED, issuer=self._issuers)
            return Token(raw, claims["sub"], claims["ver"], claims["iat"], claims["orig_iat"], claims["payload"])
        return None

    def refused_issuer(self, raw: str) -> str | None:
        """The `iss` of a token that the service just made, where none with it is taken here."""
        with contextlib.suppress(jwt.PyJWTError, ValueError, RecursionError, KeyError):
            issuer: str = jwt.decode(raw, options={"verify_signature": False})["iss"]
            return None if issuer in self._issuers else issuer
        return None


def newest_of_first(tokens: Iterable[Token]) -> Token | None:
    """Of the first token's guest the highest version, of equal ones the one that was signed last."""
    tokens = list(tokens)
    same_guest = (token for token in tokens if token.lineage == tokens[0].lineage)
    return max(same_guest, key=lambda token: (token.version, token.issued_at), default=None)
