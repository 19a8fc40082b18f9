"""The ring at rest: a JWK Set (RFC 7517, section 5) with the times of each key; and the JWKS for verifiers.

Knows nothing of where the bytes are kept, or whether they are sealed. The form has a version. Members that this release
does not know are kept and written back, so that replicas of two releases with one version of the form can share a ring.
Version 1 is that of release 0.1.0, which stored states and refuses every member that it does not know.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

import msgspec

from service.errors import InvalidTransition, KeyringDamaged, KeyringNewer
from service.keys.keyring import FORM, Key, KeyRecord, KeyRing, KeyState, public_jwk
from service.keys.material import MEMBERS, fault, without_private

PURPOSE: Final = "guest-sessions keyring"

_Time = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
_MAX_AGES: Final = 1_000


class _StoredKey(msgspec.Struct, frozen=True, kw_only=True):
    """The members of a key that are not its numbers. Version 2 has no `state`."""

    kid: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,16}$")]
    alg: str
    use: Literal["sig"] = "sig"
    state: KeyState | None = None
    max_lifetime: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
    created_at: _Time
    activated_at: _Time | None = None
    retired_at: _Time | None = None
    revoked_at: _Time | None = None
    revoked_before: _Time | None = None


class _StoredRing(msgspec.Struct, frozen=True, kw_only=True):
    """The members of a ring."""

    version: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)] = 1
    purpose: Literal["guest-sessions keyring"]
    ring: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{8,64}$")]
    revision: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
    revoked_before: _Time
    derivation_secret: str
    jwks_ages: Annotated[
        dict[Annotated[str, msgspec.Meta(pattern="^[0-9]{1,9}$")], _Time], msgspec.Meta(max_length=_MAX_AGES)
    ] = {}
    keys: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]


class _Purpose(msgspec.Struct, frozen=True):
    """What every version of the form has, to the end of time."""

    purpose: Literal["guest-sessions keyring"]
    version: int = 1


_KEY_MEMBERS: Final = frozenset(_StoredKey.__struct_fields__) | MEMBERS
_TIMES: Final = ("max_lifetime", "created_at", "activated_at", "retired_at", "revoked_at", "revoked_before")
"""The members of a key that a record has under the same names, with their unit."""
_RING_MEMBERS: Final = frozenset(_StoredRing.__struct_fields__)


def to_jwk_set(ring: KeyRing) -> bytes:
    """The whole ring, private parts included, as JSON for people and programs."""
    unknown = any([ring.extra, *(record.extra for record in ring.records)])
    if ring.form == 1 and ring.active is not None and not ring.jwks_ages and not unknown:
        return _version_1(ring, ring.keys)  # else 0.1.0 cannot read it in any form
    ages = {str(age_s): time_s for age_s, time_s in ring.jwks_ages.items()}
    keys = [record.extra | _life(record) | record.private for record in ring.records]
    return _written(ring, ring.extra | {"version": FORM}, {"jwks_ages": ages, "keys": keys})


def from_jwk_set(stored: bytes) -> KeyRing:
    """The ring of `to_jwk_set`, or of release 0.1.0.

    A key whose numbers are damaged is kept as it is, for its times count; `faults` lists it, and it neither signs nor
    verifies.

    Raises:
        KeyringNewer: the form is of a later version.
        KeyringDamaged: this is anything else; the message holds nothing of a key.
    """
    try:
        document = msgspec.json.decode(stored)
        version = msgspec.convert(document, _Purpose).version
        if version > FORM:
            raise KeyringNewer(
                f"The keyring was made by a newer version of this service (form {version}; this one knows {FORM})."
            )
        parsed = msgspec.convert(document, _StoredRing)
        lives = [msgspec.convert(each, _StoredKey) for each in parsed.keys]
        secret = base64.b64decode(parsed.derivation_secret, validate=True)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, binascii.Error) as error:
        # Where it is damaged, but not what stands there: that may be part of a key.
        where = re.search(r"`(\$[^`]*)`", str(error))
        raise KeyringDamaged(f"This is no keyring, or a damaged one{f', at {where[1]}' if where else ''}.") from None
    if not 32 <= len(secret) <= 64:  # noqa: PLR2004 - 32 is what is made; the rest is room for a later release
        raise KeyringDamaged("The keyring is damaged: its secret is not of 32 to 64 bytes.")
    if len({life.kid for life in lives}) != len(lives):
        raise KeyringDamaged("The keyring is damaged: two keys have one kid.")
    records = []
    for life, raw in zip(lives, parsed.keys, strict=True):
        numbers = {name: value for name, value in raw.items() if name in MEMBERS}
        record = KeyRecord(
            kid=life.kid,
            algorithm=life.alg,
            private=numbers if life.revoked_at is None else without_private(numbers),
            extra={name: value for name, value in raw.items() if name not in _KEY_MEMBERS},
            **{f"{name}_s": getattr(life, name) for name in _TIMES},
        )
        records.append(record)
    if parsed.version == 1:
        records = _without_states(lives, records)
    return KeyRing(
        ring_id=parsed.ring,
        revision=parsed.revision,
        records=tuple(sorted(records, key=lambda record: (record.created_at_s, record.kid))),
        revoked_before_s=parsed.revoked_before,
        derivation_secret=secret,
        jwks_ages=dict(sorted((int(age_s), time_s) for age_s, time_s in parsed.jwks_ages.items())),
        extra={name: value for name, value in document.items() if name not in _RING_MEMBERS},
        form=parsed.version,
    )


def faults(ring: KeyRing) -> dict[str, str]:
    """What is wrong with the keys whose numbers are not whole, by kid."""
    found = {key.kid: fault(key.algorithm, key.private, private=key.state is not KeyState.REVOKED) for key in ring.keys}
    return {kid: reason for kid, reason in found.items() if reason is not None}


def public_jwks(ring: KeyRing, *, lead_s: int, now_s: float) -> bytes:
    """The JWKS (RFC 7517, section 5) as verifiers get it."""
    damaged = faults(ring)
    published = ring.published(lead_s=lead_s, now_s=now_s)
    return msgspec.json.encode({"keys": [public_jwk(key) for key in published if key.kid not in damaged]})


def to_jwk_set_0_1_0(ring: KeyRing) -> bytes:
    """The ring in the form of release 0.1.0, to go back to it; what that one does not know is left out.

    Raises:
        InvalidTransition: no key is active, which that release cannot express.
    """
    if ring.active is None:
        raise InvalidTransition("No key signs at the moment, and 0.1.0 needs one: let a key sign first.")
    damaged = faults(ring)
    return _version_1(ring, [key for key in ring.keys if key.kid not in damaged])


def _version_1(ring: KeyRing, keys: Iterable[Key]) -> bytes:
    return _written(ring, {}, {"keys": [_life(key, state=key.state) | key.private for key in keys]})


def _written(ring: KeyRing, first: dict[str, Any], last: dict[str, Any]) -> bytes:
    """By the standard library: unknown members may hold numbers of any size."""
    members = {
        "purpose": PURPOSE,
        "ring": ring.ring_id,
        "revision": ring.revision,
        "revoked_before": ring.revoked_before_s,
        "derivation_secret": base64.b64encode(ring.derivation_secret).decode(),
    }
    document = first | members | last
    return json.dumps(document, indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _life(record: KeyRecord, *, state: KeyState | None = None) -> dict[str, Any]:
    stored = {"kid": record.kid, "alg": record.algorithm, "use": "sig", "state": state and state.value}
    stored |= {name: getattr(record, f"{name}_s") for name in _TIMES}
    return {name: value for name, value in stored.items() if value is not None}


_SINCE: Final = {
    KeyState.NEXT: "created_at",
    KeyState.ACTIVE: "activated_at",
    KeyState.RETIRED: "retired_at",
    KeyState.REVOKED: "revoked_at",
}


def _without_states(lives: list[_StoredKey], records: list[KeyRecord]) -> list[KeyRecord]:
    """Version 1 as times alone.

    It stored states, and of the deployment's own keys a time of retirement that now follows from the next activation;
    keys of another deployment are those with a `revoked_before`. Its clock may have been set back between two
    activations; the key that was active is the one activated last all the same.
    """
    for life in lives:
        if life.state is None or getattr(life, _SINCE[life.state]) is None:
            raise KeyringDamaged(f"Key {life.kid} is damaged: it has no state, or no time since when.")
    if [life.state for life in lives].count(KeyState.ACTIVE) != 1:
        raise KeyringDamaged("The keyring is damaged: it must have exactly one active key.")
    own = [
        life.activated_at or 0 for life in lives if life.revoked_before is None and life.state is not KeyState.ACTIVE
    ]
    converted = []
    for life, record in zip(lives, records, strict=True):
        times: dict[str, int | None] = {}
        if life.revoked_before is not None:
            times["retired_at_s"] = life.retired_at or life.revoked_at
        elif life.activated_at is not None:
            times["retired_at_s"] = None
        if life.state is KeyState.ACTIVE and own and max(own) >= (life.activated_at or 0):
            times["activated_at_s"] = max(own) + 1
        converted.append(msgspec.structs.replace(record, **times))
    return converted
