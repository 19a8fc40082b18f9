"""The signing keys of one deployment as an immutable value: next → active → retired → revoked.

Pure: every move takes `now_s` and gives a new ring; knows nothing of files, Redis or cryptography. Invariants, held by
every move and checked by `encoding.from_jwk_set`: exactly one key is active, at most one is next, and a revision only
grows.
"""

import math
from collections.abc import Container, Iterable, Mapping
from enum import StrEnum
from itertools import groupby
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

from service.errors import InvalidTransition, KeyringDamaged, KeyringForeign

Algorithm = Literal["ES256", "RS256"]


class KeyState(StrEnum):
    """Where a key is in its life."""

    NEXT = "next"
    ACTIVE = "active"
    RETIRED = "retired"
    REVOKED = "revoked"


MOVES: Final[Mapping[KeyState, tuple[KeyState, ...]]] = MappingProxyType(
    {
        # next → retired: two rings that were joined had one each; the other is set aside, as it may have signed.
        KeyState.NEXT: (KeyState.ACTIVE, KeyState.RETIRED, KeyState.REVOKED),
        KeyState.ACTIVE: (KeyState.RETIRED, KeyState.REVOKED),
        KeyState.RETIRED: (KeyState.REVOKED,),
        KeyState.REVOKED: (),
    }
)
"""Where each state may go; never back."""

PUBLISHED: Final = frozenset({KeyState.NEXT, KeyState.ACTIVE, KeyState.RETIRED})
"""The states in the JWKS: what verifies, and what will before it signs."""

_SIGNING: Final = frozenset({KeyState.NEXT, KeyState.ACTIVE})
"""The states that sign, or will: of each there is one at most."""

MOST_PUBLISHED_KEYS: Final = 128
"""A JWKS of 128 ES256 keys is 25 KB; common verifiers refuse one of a few hundred."""

RETENTION_MARGIN_S: Final = 7 * 86_400
"""A retired key outlives its last token by this: replicas that are cut off from the ring go on signing with it."""


class KeyPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings say about keys. `rotate_every_s` 0: by hand alone."""

    algorithm: Algorithm
    max_lifetime_s: int
    jwks_max_age_s: int
    rotate_every_s: int
    rsa_bits: int = 3072

    @property
    def publication_lead_s(self) -> int:
        """How long a key is published before it signs: even a cache filled at the last moment has ended by then."""
        return 2 * self.jwks_max_age_s


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One signing key. `private` is its private JWK (RFC 7517), of a revoked key its public one; never in a `repr`.

    `revoked_before_s` of a key that came from another deployment refuses that deployment's guests of before then, as
    the ring's own time does all of them. None for a key of this deployment.
    """

    kid: str
    algorithm: Algorithm
    state: KeyState
    private: dict[str, Any]
    max_lifetime_s: int
    created_at_s: int
    activated_at_s: int | None = None
    retired_at_s: int | None = None
    revoked_at_s: int | None = None
    revoked_before_s: int | None = None

    def __repr__(self) -> str:
        return f"Key(kid={self.kid!r}, algorithm={self.algorithm!r}, state={self.state.value!r})"

    @property
    def safe_to_drop_from_s(self) -> int | None:
        """From when no live token can bear it; None while it signs or will. A revoked key's tokens are refused."""
        if self.state is KeyState.REVOKED:
            return self.revoked_at_s
        if self.retired_at_s is None:
            return None
        return self.retired_at_s + self.max_lifetime_s + RETENTION_MARGIN_S


class KeyRing(msgspec.Struct, frozen=True, kw_only=True):
    """All keys of one deployment, with what must travel with them; `ring_id` tells deployments apart."""

    ring_id: str
    revision: int
    keys: tuple[Key, ...]
    revoked_before_s: int
    derivation_secret: bytes

    def __repr__(self) -> str:
        return f"KeyRing(ring_id={self.ring_id!r}, revision={self.revision}, keys={self.keys!r})"

    @property
    def active(self) -> Key:
        """The one key that signs."""
        (active,) = (key for key in self.keys if key.state is KeyState.ACTIVE)
        return active

    @property
    def staged(self) -> Key | None:
        """The key that is published and will sign."""
        return next((key for key in self.keys if key.state is KeyState.NEXT), None)

    @property
    def published(self) -> tuple[Key, ...]:
        """The keys of the JWKS."""
        return tuple(key for key in self.keys if key.state in PUBLISHED)


class KeyMaterial(msgspec.Struct, frozen=True):
    """The members that make up a key of one algorithm (RFC 7518, sections 6.2 and 6.3)."""

    kty: str
    public: tuple[str, ...]
    private: tuple[str, ...]


MATERIAL: Final[Mapping[Algorithm, KeyMaterial]] = MappingProxyType(
    {
        "ES256": KeyMaterial("EC", ("crv", "x", "y"), ("d",)),
        "RS256": KeyMaterial("RSA", ("n", "e"), ("d", "p", "q", "dp", "dq", "qi")),
    }
)


# --- the moves ---


def new_key(private: dict[str, Any], *, kid: str, algorithm: Algorithm, max_lifetime_s: int, now_s: float) -> Key:
    """A key that was just made, not yet in any ring.

    Its time is rounded up, so that a lead counted from it is never too short.
    """
    return Key(
        kid=kid,
        algorithm=algorithm,
        state=KeyState.NEXT,
        private=private,
        max_lifetime_s=max_lifetime_s,
        created_at_s=math.ceil(now_s),
    )


def found(key: Key, *, ring_id: str, derivation_secret: bytes, now_s: float) -> KeyRing:
    """A deployment's first ring. Nobody can have cached a JWKS without `key`, so it signs at once."""
    return KeyRing(
        ring_id=ring_id,
        revision=1,
        keys=(_moved(key, KeyState.ACTIVE, now_s),),
        revoked_before_s=0,
        derivation_secret=derivation_secret,
    )


def stage(ring: KeyRing, key: Key) -> KeyRing:
    """Publishes `key` as the next to sign.

    Raises:
        IllegalMove: where one is staged already.
    """
    if ring.staged is not None:
        raise InvalidTransition(f"Key {ring.staged.kid} is staged already.")
    return _changed(ring, (*ring.keys, key))


def promote(ring: KeyRing, *, now_s: float) -> KeyRing:
    """The staged key becomes active, the active one retires. When it is due is for the caller to say.

    Raises:
        IllegalMove: where none is staged.
    """
    if ring.staged is None:
        raise InvalidTransition("No key is staged.")
    moves = {ring.staged.kid: KeyState.ACTIVE, ring.active.kid: KeyState.RETIRED}
    return _changed(ring, (_moved(key, moves[key.kid], now_s) if key.kid in moves else key for key in ring.keys))


def revoke(ring: KeyRing, kid: str, *, spare: Key | None, now_s: float) -> KeyRing:
    """Refuses every token of one key from now on and forgets its private part.

    Where it is the active one, the staged key, or else `spare`, signs in its stead.

    Raises:
        IllegalMove: where there is no such key, it is revoked already, or none is left to sign.
    """
    if all(key.kid != kid for key in ring.keys):
        raise InvalidTransition(f"There is no key {kid}.")
    keys = [_moved(key, KeyState.REVOKED, now_s) if key.kid == kid else key for key in ring.keys]
    return _changed(ring, _with_one_active(keys, spare=spare, now_s=now_s))


def revoke_before(ring: KeyRing, time_s: int, *, now_s: float) -> KeyRing:
    """Refuses every guest whose lineage began before `time_s`.

    Raises:
        IllegalMove: where that is in the future (guests of tomorrow would be refused), or before what already holds.
    """
    if time_s > now_s:
        raise InvalidTransition("The time is in the future.")
    if time_s < ring.revoked_before_s:
        raise InvalidTransition(
            f"Guests from before {ring.revoked_before_s} are revoked already; that cannot be undone."
        )
    return ring if time_s == ring.revoked_before_s else _changed(ring, ring.keys, revoked_before_s=time_s)


def allow_lifetime(ring: KeyRing, max_lifetime_s: int) -> KeyRing:
    """Lets the keys that sign, or will, sign tokens of up to `max_lifetime_s`; never lowers what was allowed."""
    keys = tuple(
        msgspec.structs.replace(key, max_lifetime_s=max(key.max_lifetime_s, max_lifetime_s))
        if key.state in _SIGNING
        else key
        for key in ring.keys
    )
    return ring if keys == ring.keys else _changed(ring, keys)


def dead(ring: KeyRing, *, now_s: float) -> frozenset[str]:
    """The names of the retired keys that no live token can bear. Revoked keys stay on record."""
    return frozenset(
        key.kid
        for key in ring.keys
        if key.state is KeyState.RETIRED and key.safe_to_drop_from_s is not None and key.safe_to_drop_from_s <= now_s
    )


def drop_dead(ring: KeyRing, kids: Container[str], *, now_s: float) -> KeyRing:
    """Leaves out those of the named keys that no live token can bear."""
    dropped = {kid for kid in dead(ring, now_s=now_s) if kid in kids}
    return _changed(ring, (key for key in ring.keys if key.kid not in dropped)) if dropped else ring


def join(
    mine: KeyRing, theirs: KeyRing, *, spare: Key | None, now_s: float, gone: Container[str] = frozenset()
) -> KeyRing:
    """What two rings of one deployment know together: no key is lost, the further state of each holds.

    Answers the newer one as it is where that says it all, else a ring with a revision above both. Where both have an
    active key, the one activated last signs on; where none is left, the staged one or else `spare`. Both sides come to
    the same ring, whoever joins first. `gone`: keys that are known to be dead, and need not come back once one side has
    dropped them; the clock is not asked, as it may be wrong by a decade.

    Raises:
        KeyringForeign: where they are of two deployments.
        KeyringDamaged: where one `kid` names two different keys.
        IllegalMove: where no key is left to sign, and there is no `spare`.
    """
    if mine.ring_id != theirs.ring_id:
        raise KeyringForeign(f"The keyring is of deployment {theirs.ring_id}, not {mine.ring_id}.")
    newer, older = (mine, theirs) if mine.revision >= theirs.revision else (theirs, mine)
    held = {key.kid for key in newer.keys}
    brought = (key for key in older.keys if key.kid in held or key.kid not in gone)
    keys = _with_one_active(_united((*newer.keys, *brought)), spare=spare, now_s=now_s)
    revoked_before_s = max(mine.revoked_before_s, theirs.revoked_before_s)
    says_it_all = (keys, revoked_before_s) == (newer.keys, newer.revoked_before_s)
    if says_it_all and (newer.revision > older.revision or newer == older):
        return newer
    return _changed(newer, keys, revoked_before_s=revoked_before_s)


def needs_spare(mine: KeyRing, theirs: KeyRing) -> bool:
    """Whether two rings together leave no key that signs or will; raises `KeyringDamaged` as `join`."""
    return all(key.state not in _SIGNING for key in _united((*mine.keys, *theirs.keys)))


def loses(ring: KeyRing, held: KeyRing, *, gone: Container[str]) -> bool:
    """Whether `ring` lacks a key or a revocation of `held`, and so cannot have come of it by any move."""
    now = {key.kid: key for key in ring.keys}
    return ring.revoked_before_s < held.revoked_before_s or any(
        _is_lost(key, now.get(key.kid)) for key in held.keys if key.kid not in gone
    )


def _is_lost(key: Key, now: Key | None) -> bool:
    return (
        now is None
        or (key.state is KeyState.REVOKED and now.state is not KeyState.REVOKED)
        or (now.revoked_before_s or 0) < (key.revoked_before_s or 0)
    )


def import_foreign(ring: KeyRing, theirs: KeyRing, *, spare: Key | None, now_s: float) -> KeyRing:
    """The ring with the keys of another deployment's as retired: they verify here and do not sign.

    Their revoked keys stay revoked. Their revocation time holds for the guests of their keys alone: one that refused
    this one's could never be taken back. Taken in again, a ring brings what was revoked or retired there since.

    Raises:
        KeyringDamaged: where one `kid` names two different keys.
    """
    held = {key.kid: key for key in ring.keys}
    brought = tuple(_brought(key, theirs, held=held.get(key.kid), now_s=now_s) for key in theirs.keys)
    as_ours = msgspec.structs.replace(ring, revision=ring.revision - 1, keys=brought)
    return join(ring, as_ours, spare=spare, now_s=now_s)


def _brought(key: Key, theirs: KeyRing, *, held: Key | None, now_s: float) -> Key:
    """A key of another deployment as it is here. Of this one's own, which comes back, a revocation alone counts."""
    if held is not None and held.revoked_before_s is None:
        _check_same(held, key)
        return held if key.state is not KeyState.REVOKED else msgspec.structs.replace(key, revoked_before_s=None)
    aside = _moved(key, KeyState.RETIRED, now_s) if key.state in _SIGNING else key
    return msgspec.structs.replace(aside, revoked_before_s=max(theirs.revoked_before_s, key.revoked_before_s or 0))


# --- when ---


def promotion_due_at_s(ring: KeyRing, policy: KeyPolicy) -> int | None:
    """From when the staged key may sign; None where none is staged."""
    return None if ring.staged is None else ring.staged.created_at_s + policy.publication_lead_s


def staging_due_at_s(ring: KeyRing, policy: KeyPolicy) -> int | None:
    """From when a next key is to be staged by itself; None where none is."""
    if policy.rotate_every_s == 0 or ring.staged is not None or is_full(ring):
        return None
    return (ring.active.activated_at_s or 0) + policy.rotate_every_s - policy.publication_lead_s


def is_full(ring: KeyRing) -> bool:
    """Whether no further key is to be published by itself."""
    return len(ring.published) >= MOST_PUBLISHED_KEYS


def least_rotation_s(policy: KeyPolicy) -> int:
    """The shortest `rotate_every_s` that keeps the JWKS within its limit and leaves each key its publication lead."""
    retired = MOST_PUBLISHED_KEYS - 3  # beside the active and the next, and one that is about to be dropped
    return max(policy.publication_lead_s, math.ceil((policy.max_lifetime_s + RETENTION_MARGIN_S) / retired))


# --- what others see ---


def public_jwk(key: Key) -> dict[str, str]:
    """The public part of a key (RFC 7517, section 4; RFC 7518, section 6), in one fixed order."""
    material = {name: str(key.private[name]) for name in MATERIAL[key.algorithm].public}
    return {"kty": MATERIAL[key.algorithm].kty, "use": "sig", "alg": key.algorithm, "kid": key.kid, **material}


def material_of(key: Key) -> dict[str, Any]:
    """The JWK members of a key; of a revoked one the public members alone."""
    material = MATERIAL[key.algorithm]
    names = material.public if key.state is KeyState.REVOKED else material.public + material.private
    return {"kty": material.kty} | {name: key.private[name] for name in names}


SINCE: Final[Mapping[KeyState, str]] = MappingProxyType(
    {
        KeyState.NEXT: "created_at",
        KeyState.ACTIVE: "activated_at",
        KeyState.RETIRED: "retired_at",
        KeyState.REVOKED: "revoked_at",
    }
)


# --- inside the moves ---


def _moved(key: Key, state: KeyState, now_s: float) -> Key:
    """`key` in its new state, since `now_s` rounded down to whole seconds."""
    if state not in MOVES[key.state]:
        raise InvalidTransition(f"Key {key.kid} is {key.state.value}; it cannot become {state.value}.")
    moved = msgspec.structs.replace(key, state=state, **{f"{SINCE[state]}_s": int(now_s)})
    return msgspec.structs.replace(moved, private=material_of(moved))


def _changed(ring: KeyRing, keys: Iterable[Key], *, revoked_before_s: int | None = None) -> KeyRing:
    """The ring's next revision, its keys in the order of their making."""
    return msgspec.structs.replace(
        ring,
        revision=ring.revision + 1,
        keys=in_order(keys),
        revoked_before_s=ring.revoked_before_s if revoked_before_s is None else revoked_before_s,
    )


def in_order(keys: Iterable[Key]) -> tuple[Key, ...]:
    """The keys in the order of their making."""
    return tuple(sorted(keys, key=lambda key: (key.created_at_s, key.kid)))


def _united(keys: Iterable[Key]) -> list[Key]:
    """One key for each `kid`."""
    by_kid = groupby(sorted(keys, key=lambda key: key.kid), key=lambda key: key.kid)
    united = []
    for _, (one, *others) in by_kid:
        united.append(_merged(one, others[0]) if others else one)
    return united


def _merged(one: Key, other: Key) -> Key:
    """What two records of one key say together: the further state, each step at its earliest, retired at the latest."""
    _check_same(one, other)
    further = max(one, other, key=lambda key: _RANK[key.state])
    return msgspec.structs.replace(
        further,
        max_lifetime_s=max(one.max_lifetime_s, other.max_lifetime_s),
        created_at_s=min(one.created_at_s, other.created_at_s),
        activated_at_s=min(_given(one.activated_at_s, other.activated_at_s), default=None),
        retired_at_s=max(_given(one.retired_at_s, other.retired_at_s), default=None),
        revoked_at_s=min(_given(one.revoked_at_s, other.revoked_at_s), default=None),
        revoked_before_s=max(_given(one.revoked_before_s, other.revoked_before_s), default=None),
    )


def _check_same(one: Key, other: Key) -> None:
    if public_jwk(one) != public_jwk(other):
        raise KeyringDamaged(f"Two different keys are named {one.kid}.")


_RANK: Final = MappingProxyType({state: rank for rank, state in enumerate(KeyState)})


def _given(*times_s: int | None) -> list[int]:
    return [time_s for time_s in times_s if time_s is not None]


def _with_one_active(keys: list[Key], *, spare: Key | None, now_s: float) -> tuple[Key, ...]:
    """Of several active or next keys the latest stays; where none is active, the next or else `spare` becomes it."""
    active, staged = _latest(keys, KeyState.ACTIVE), _latest(keys, KeyState.NEXT)
    aside = [key for key in keys if key.state in _SIGNING and key not in (active, staged)]
    kept = {key.kid: key for key in keys} | {key.kid: _moved(key, KeyState.RETIRED, now_s) for key in aside}
    if active is None:
        successor = staged or spare
        if successor is None:
            raise InvalidTransition("No key is left to sign.")
        kept[successor.kid] = _moved(successor, KeyState.ACTIVE, now_s)
    return in_order(kept.values())


def _latest(keys: Iterable[Key], state: KeyState) -> Key | None:
    of_state = (key for key in keys if key.state is state)
    return max(of_state, key=lambda key: (key.activated_at_s or 0, key.created_at_s, key.kid), default=None)
