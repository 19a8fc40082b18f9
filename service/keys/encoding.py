"""The form of a ring at rest: a JWK Set (RFC 7517, section 5) with the life of each key; and the JWKS for verifiers.

Knows nothing of where the bytes are kept, or whether they are sealed.
"""

from typing import Annotated, Final, Literal

import msgspec

from service.errors import KeyringDamaged
from service.keys.keyring import MATERIAL, SINCE, Algorithm, Key, KeyRing, KeyState, in_order, material_of, public_jwk

PURPOSE: Final = "guest-sessions keyring"
_P256_CHARS: Final = 43
"""Length in base64url of a coordinate of 32 bytes; no other length encodes so many (RFC 7518, section 6.2.1.2)."""

_Base64url = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]+$", max_length=1_024)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class _StoredKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A private JWK with its life."""

    kid: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,16}$")]
    alg: Algorithm
    use: Literal["sig"]
    state: KeyState
    max_lifetime: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
    created_at: _Time
    activated_at: _Time | None = None
    retired_at: _Time | None = None
    revoked_at: _Time | None = None
    revoked_before: _Time | None = None
    kty: Literal["EC", "RSA"]
    crv: Literal["P-256"] | None = None
    x: _Base64url | None = None
    y: _Base64url | None = None
    n: _Base64url | None = None
    e: _Base64url | None = None
    d: _Base64url | None = None
    p: _Base64url | None = None
    q: _Base64url | None = None
    dp: _Base64url | None = None
    dq: _Base64url | None = None
    qi: _Base64url | None = None


class _StoredRing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JWK Set (RFC 7517, section 5) with what makes it a ring."""

    purpose: Literal["guest-sessions keyring"]
    ring: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{8,64}$")]
    revision: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
    revoked_before: _Time
    derivation_secret: Annotated[bytes, msgspec.Meta(min_length=32, max_length=64)]
    keys: Annotated[tuple[_StoredKey, ...], msgspec.Meta(min_length=1)]


def to_jwk_set(ring: KeyRing) -> bytes:
    """The whole ring, private parts included, as JSON for people and programs."""
    stored = _StoredRing(
        purpose=PURPOSE,
        ring=ring.ring_id,
        revision=ring.revision,
        revoked_before=ring.revoked_before_s,
        derivation_secret=ring.derivation_secret,
        keys=tuple(_to_stored(key) for key in ring.keys),
    )
    return msgspec.json.format(msgspec.json.encode(stored), indent=2) + b"\n"


def from_jwk_set(stored: bytes) -> KeyRing:
    """The ring of `to_jwk_set`.

    Raises:
        KeyringDamaged: where it is anything else, or breaks an invariant; the message holds no key.
    """
    try:
        parsed = msgspec.json.decode(stored, type=_StoredRing)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise KeyringDamaged(f"This is no keyring, or a damaged one: {error}") from error
    ring = KeyRing(
        ring_id=parsed.ring,
        revision=parsed.revision,
        keys=in_order(_from_stored(key) for key in parsed.keys),
        revoked_before_s=parsed.revoked_before,
        derivation_secret=parsed.derivation_secret,
    )
    _check_states(ring)
    return ring


def _to_stored(key: Key) -> _StoredKey:
    return _StoredKey(
        kid=key.kid,
        alg=key.algorithm,
        use="sig",
        state=key.state,
        max_lifetime=key.max_lifetime_s,
        created_at=key.created_at_s,
        activated_at=key.activated_at_s,
        retired_at=key.retired_at_s,
        revoked_at=key.revoked_at_s,
        revoked_before=key.revoked_before_s,
        **material_of(key),
    )


def _from_stored(stored: _StoredKey) -> Key:
    material = MATERIAL[stored.alg]
    names = material.public if stored.state is KeyState.REVOKED else material.public + material.private
    if stored.kty != material.kty or any(getattr(stored, name) is None for name in names):
        raise KeyringDamaged(f"Key {stored.kid} is damaged: it is no whole {stored.alg} key.")
    if material.kty == "EC" and any(len(getattr(stored, name)) != _P256_CHARS for name in ("x", "y")):
        raise KeyringDamaged(f"Key {stored.kid} is damaged: its coordinates are not of 32 bytes each.")
    if getattr(stored, SINCE[stored.state]) is None:
        raise KeyringDamaged(f"Key {stored.kid} is damaged: it is {stored.state.value}, but not since when.")
    return Key(
        kid=stored.kid,
        algorithm=stored.alg,
        state=stored.state,
        private={"kty": stored.kty} | {name: getattr(stored, name) for name in names},
        max_lifetime_s=stored.max_lifetime,
        created_at_s=stored.created_at,
        activated_at_s=stored.activated_at,
        retired_at_s=stored.retired_at,
        revoked_at_s=stored.revoked_at,
        revoked_before_s=stored.revoked_before,
    )


def _check_states(ring: KeyRing) -> None:
    states = [key.state for key in ring.keys]
    if len({key.kid for key in ring.keys}) != len(ring.keys):
        raise KeyringDamaged("The keyring is damaged: two keys have one kid.")
    if states.count(KeyState.ACTIVE) != 1 or states.count(KeyState.NEXT) > 1:
        raise KeyringDamaged("The keyring is damaged: it must have exactly one active key and at most one next.")


def public_jwks(ring: KeyRing) -> bytes:
    """The JWKS (RFC 7517, section 5) as verifiers get it."""
    return msgspec.json.encode({"keys": [public_jwk(key) for key in ring.published]})
