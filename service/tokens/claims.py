"""The guest token's claims: build, check, renew.

Pure: takes `now_s`, random ids and the settings' values as parameters; knows nothing of signatures, clocks or HTTP.
Invariant: `GuestClaims` holds claims of the right shape only; `parse` is the one door for those that come from outside.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, field

from service.errors import Fault, InvalidToken
from service.strict_json import MAX_SAFE_INTEGER

REGISTERED = frozenset({"iss", "sub", "aud", "iat", "exp", "orig_iat", "jti", "ver", "payload"})
"""The claims that the token itself owns (RFC 7519, section 4.1, and this project's own)."""

RESERVED = REGISTERED | {"nbf", "active", "token_type"}
"""What the caller's `claims` may not name: `nbf` would change validity, the others would lie in introspection."""

CLIENT_ID: Final = "guest-sessions"
"""The `client_id` of access tokens: no client of its own asks for them."""

_DERIVED_SUBJECT: Final = re.compile(r"G-[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
"""A guest's id that was derived from an `Idempotency-Key`: a UUID of version 8 (RFC 9562, section 5.8)."""

Subject = Annotated[str, Meta(pattern=r"\A[!-~]{1,255}\Z")]
"""A guest's id: 1 to 255 characters from U+0021 to U+007E, so that it fits a header as it stands."""

NumericDate = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
"""Whole Unix seconds, up to where every verifier reads the same."""

_Text = Annotated[str, Meta(min_length=1)]


class GuestClaims(msgspec.Struct, frozen=True):
    """The claims of one guest token."""

    issuer: _Text = field(name="iss")
    subject: Subject = field(name="sub")
    audience: tuple[_Text, ...] = field(name="aud")
    issued_at_s: NumericDate = field(name="iat")
    expires_at_s: NumericDate = field(name="exp")
    first_issued_at_s: NumericDate = field(name="orig_iat")
    token_id: _Text = field(name="jti")
    version: Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER)] = field(name="ver")
    payload: dict[str, Any]
    extra_claims: dict[str, Any] = {}

    @property
    def lifetime_s(self) -> int:
        """How long the token was made to live, in seconds."""
        return self.expires_at_s - self.issued_at_s

    @property
    def lineage(self) -> tuple[str, ...]:
        """What all tokens of one guest share: subject and first time, or a derived subject alone."""
        if _DERIVED_SUBJECT.fullmatch(self.subject):
            return (self.subject,)
        return self.subject, str(self.first_issued_at_s)

    def to_json(self) -> dict[str, Any]:
        """The claims as the token's body carries them (RFC 7519, section 4)."""
        return {
            "iss": self.issuer,
            "sub": self.subject,
            **_audience_member(self.audience),
            "iat": self.issued_at_s,
            "exp": self.expires_at_s,
            "orig_iat": self.first_issued_at_s,
            "jti": self.token_id,
            "ver": self.version,
            "payload": self.payload,
            **self.extra_claims,
        }


def first(  # noqa: PLR0913 - each is a claim, given by name
    *,
    issuer: str,
    subject: str,
    audience: tuple[str, ...],
    ttl_s: int,
    token_id: str,
    payload: dict[str, Any],
    extra_claims: dict[str, Any],
    now_s: float,
    first_issued_at_s: int | None = None,
) -> GuestClaims:
    """The claims of a lineage's first token, issued at `now_s`, which is rounded down to whole seconds.

    `first_issued_at_s` is given for a guest that began earlier, elsewhere.
    """
    issued_at_s = int(now_s)
    return GuestClaims(
        issuer=issuer,
        subject=subject,
        audience=audience,
        issued_at_s=issued_at_s,
        expires_at_s=issued_at_s + ttl_s,
        first_issued_at_s=issued_at_s if first_issued_at_s is None else first_issued_at_s,
        token_id=token_id,
        version=1,
        payload=payload,
        extra_claims=extra_claims,
    )


def first_time_faults(
    first_issued_at_s: int, *, subject: str | None, revoked_before_s: int, now_s: float
) -> list[Fault]:
    """Why no guest that is imported can have begun then; empty if one can."""
    messages = []
    if subject is None:
        messages.append("needs a subject beside it: it is for a guest that is imported")
    if first_issued_at_s > now_s:
        messages.append("is in the future")
    if first_issued_at_s < revoked_before_s:
        messages.append("is before the time from which guests are good: they were revoked")
    return [Fault("/first_issued_at", each) for each in messages]


def renewed(
    old: GuestClaims,
    *,
    issuer: str,
    audience: tuple[str, ...],
    ttl_s: int,
    token_id: str,
    payload: dict[str, Any] | None,
    now_s: float,
) -> GuestClaims:
    """The claims of the same guest's next token; `payload` None keeps payload and version as they are.

    `audience` is for a token without one, from before the deployment had an audience.
    """
    issued_at_s = int(now_s)
    return msgspec.structs.replace(
        old,
        issuer=issuer,
        audience=old.audience or audience,
        issued_at_s=issued_at_s,
        expires_at_s=issued_at_s + ttl_s,
        token_id=token_id,
        version=old.version if payload is None else old.version + 1,
        payload=old.payload if payload is None else payload,
    )


def access(
    guest: GuestClaims,
    *,
    issuer: str,
    audience: tuple[str, ...],
    ttl_s: int,
    token_id: str,
    with_payload: bool,
    now_s: float,
) -> dict[str, Any]:
    """The claims of an access token (RFC 9068, section 2.2) that stands for the guest, never beyond the guest token."""
    issued_at_s = int(now_s)
    return {
        "iss": issuer,
        "sub": guest.subject,
        **_audience_member(audience),
        "iat": issued_at_s,
        "exp": min(issued_at_s + ttl_s, guest.expires_at_s),
        "jti": token_id,
        "ver": guest.version,
        "client_id": CLIENT_ID,
        **({"payload": guest.payload} if with_payload else {}),
    }


def parse(claims: Mapping[str, Any]) -> GuestClaims:
    """Takes the decoded claims of a token whose signature is good.

    Raises:
        InvalidToken: `malformed`, where a claim is missing or of the wrong type or range. Strict beyond RFC 7519: dates
            are integers, and a boolean or a float is none. `aud` is a string or a list of strings (section 4.1.3).
    """
    audience = claims.get("aud", ())
    if type(audience) is str:
        audience = (audience,)
    elif "aud" in claims and not (type(audience) is list and audience):
        raise InvalidToken("malformed")
    extra_claims = {name: value for name, value in claims.items() if name not in REGISTERED}
    try:
        return msgspec.convert({**claims, "aud": audience, "extra_claims": extra_claims}, GuestClaims)
    except msgspec.ValidationError as error:
        raise InvalidToken("malformed") from error


def check(
    claims: GuestClaims,
    *,
    issuers: tuple[str, ...],
    audience: tuple[str, ...],
    audience_since_s: float | None = None,
    demanded: Sequence[str] = (),
    revoked_before_s: int,
    now_s: float,
) -> None:
    """Check the claims against what this deployment accepts, in the contract's order.

    `audience` and what the caller `demanded` must all be among the token's; a token without any that was issued before
    `audience_since_s` need not have the former. `iat` is not compared with now: the signature vouches for it.

    Raises:
        InvalidToken: `wrong_issuer`, `revoked`, `expired` (RFC 7519, section 4.1.4: `exp` ≤ now) or `wrong_audience`.
    """
    if claims.issuer not in issuers:
        raise InvalidToken("wrong_issuer", subject=claims.subject)
    if claims.first_issued_at_s < revoked_before_s:
        raise InvalidToken("revoked", subject=claims.subject)
    if claims.expires_at_s <= now_s:
        raise InvalidToken("expired", subject=claims.subject)
    from_before = audience_since_s is not None and not claims.audience and claims.issued_at_s < audience_since_s
    if not {*demanded, *(() if from_before else audience)} <= set(claims.audience):
        raise InvalidToken("wrong_audience", subject=claims.subject)


def _audience_member(audience: tuple[str, ...]) -> dict[str, str | tuple[str, ...]]:
    if not audience:
        return {}
    return {"aud": audience[0] if len(audience) == 1 else audience}
