"""The signing keys of one deployment as a value that only grows. Pure: no files, no Redis, no clock of its own.

Times are stored, per key: when it was created, activated, revoked (the earliest that anybody knows), stored as
retired (the latest), and for how long it may have signed (the greatest). `join` takes two rings member by member and
nothing else, so it is commutative, associative and idempotent, and asks neither a clock nor a revision: whatever order
backups, restores, imports, partitions and restarts come in, no revocation is undone and no key is lost as long as one
place still knows of it.

What a key does follows from the joined times and is never stored. Of the deployment's own activated keys, the one
activated last is active, unless it is revoked; the others have been retired since the next activation. Of the keys
that were never activated, the one created last is next; others are passed over and never sign. For this, times never
go back, whatever the clock says: each move puts its own time behind those that it builds on.
"""

import json
import math
from collections.abc import Callable, Collection, Iterable
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, TypeVar

import msgspec

from service.errors import InvalidTransition, KeyringDamaged, KeyringForeign
from service.keys.material import MATERIAL, MEMBERS, Algorithm, soundness, without_private

K = TypeVar("K", int, str)
V = TypeVar("V")


class KeyState(StrEnum):
    """Where a key is in its life."""

    NEXT = "next"
    ACTIVE = "active"
    RETIRED = "retired"
    REVOKED = "revoked"


MAX_PUBLISHED_KEYS: Final = 128
"""A JWKS of 128 ES256 keys is 25 KB; common verifiers refuse one of a few hundred."""

FORM: Final = 2
"""The version of the form at rest that this release writes; 0.1.0 wrote 1, which says no version."""

RETENTION_MARGIN_S: Final = 7 * 86_400
"""A retired key outlives its last token by this: replicas that are cut off from the ring go on signing with it."""


class KeyPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings say about keys. `rotate_every_s` 0: by hand alone."""

    algorithm: Algorithm
    max_lifetime_s: int
    jwks_max_age_s: int
    rotate_every_s: int
    rsa_bits: int = 3072


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The stored members of a key. `private` is its private JWK (RFC 7517), of a revoked key its public one.

    `retired_at_s` is stored for keys of another deployment, which verify here and never sign. Of such a key,
    `revoked_before_s` refuses that deployment's guests of before then, as the ring's own time does all of them.
    `extra` are members that a later release wrote.
    """

    kid: str
    algorithm: str
    private: dict[str, Any]
    max_lifetime_s: int
    created_at_s: int
    activated_at_s: int | None = None
    retired_at_s: int | None = None
    revoked_at_s: int | None = None
    revoked_before_s: int | None = None
    extra: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(kid={self.kid!r}, algorithm={self.algorithm!r})"


class Key(KeyRecord, frozen=True, kw_only=True):
    """A key as it stands in its ring: its record, and what follows from the ring. `retired_at_s` is filled in.

    `passed_over`: never activated, and another key was made or activated since; it has signed nothing.
    """

    state: KeyState
    passed_over: bool = False

    @property
    def safe_to_drop_from_s(self) -> int | None:
        """From when no live token can bear it; None while it signs or will. A revoked key's tokens are refused."""
        if self.state is KeyState.REVOKED:
            return self.revoked_at_s
        if self.retired_at_s is None:
            return None
        return self.retired_at_s + RETENTION_MARGIN_S + (0 if self.passed_over else self.max_lifetime_s)


class KeyRing(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All keys of one deployment, and all that must travel with them; `ring_id` tells deployments apart.

    `revision` counts moves, for people alone. `jwks_ages` has each JWKS max-age that was ever published, in seconds,
    with the time when it last was. `extra` are members that a later release wrote. `form` is the version
    of the form at rest: a ring of 0.1.0 keeps the form that 0.1.0 reads until the upgrade is over.
    """

    ring_id: str
    revision: int
    records: tuple[KeyRecord, ...]
    revoked_before_s: int
    derivation_secret: bytes
    jwks_ages: dict[int, int] = {}
    extra: dict[str, Any] = {}
    form: int = FORM

    def __repr__(self) -> str:
        return f"KeyRing(ring_id={self.ring_id!r}, revision={self.revision}, keys={self.keys!r})"

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """The keys with their states, in the order of their making."""
        own = _activated(self.records)
        latest_s = _latest_activation_s(self.records)
        waiting = sorted(
            (r for r in self.records if r.activated_at_s is r.retired_at_s is r.revoked_at_s is None),
            key=lambda record: (record.created_at_s, record.kid),
        )
        staged = waiting[-1] if waiting and waiting[-1].created_at_s >= latest_s else None
        ends = {one.kid: other.activated_at_s for one, other in pairwise(own)}

        keys = []
        for record in self.records:
            retired_at_s = ends.get(record.kid) if record.retired_at_s is None else record.retired_at_s
            passed_over = False
            if record.revoked_at_s is not None:
                state = KeyState.REVOKED
            elif retired_at_s is not None:
                state = KeyState.RETIRED
            elif record.activated_at_s is not None:
                state = KeyState.ACTIVE
            elif record is staged:
                state = KeyState.NEXT
            else:  # by the next activation, or by the next key that was made
                state, passed_over = KeyState.RETIRED, True
                activations = [each.activated_at_s or 0 for each in own]
                made = [each.created_at_s for each in waiting[waiting.index(record) + 1 :]]
                retired_at_s = min([time_s for time_s in activations if time_s > record.created_at_s] + made)
            members = msgspec.structs.asdict(record) | {"retired_at_s": retired_at_s}
            keys.append(Key(**members, state=state, passed_over=passed_over))
        return tuple(keys)

    @property
    def active(self) -> Key | None:
        """The one key that signs; None where that one is revoked."""
        return next((key for key in self.keys if key.state is KeyState.ACTIVE), None)

    @property
    def staged(self) -> Key | None:
        """The key that is published and will sign."""
        return next((key for key in self.keys if key.state is KeyState.NEXT), None)

    def published(self, *, lead_s: int, now_s: float) -> tuple[Key, ...]:
        """The keys of the JWKS: what verifies, and what will before it signs. A key passed over leaves after a lead."""
        return tuple(
            key
            for key in self.keys
            if key.state is not KeyState.REVOKED
            and not (key.passed_over and key.retired_at_s is not None and key.retired_at_s + lead_s <= now_s)
        )


# --- joining ---


def join(mine: KeyRing, theirs: KeyRing) -> KeyRing:
    """What two rings of one deployment know together: commutative, associative, idempotent, and never behind either.

    Where one of the two knows it all, that one is returned, with the states that were worked out for it.

    Raises:
        KeyringForeign: they are of two deployments.
    """
    if mine.ring_id != theirs.ring_id:
        raise KeyringForeign(f"The keyring is of deployment {theirs.ring_id}, not {mine.ring_id}.")
    one, other = ({record.kid: record for record in ring.records} for ring in (mine, theirs))
    joined = KeyRing(
        ring_id=mine.ring_id,
        revision=max(mine.revision, theirs.revision),
        records=_in_order(_joined_members(one, other, _joined).values()),
        revoked_before_s=max(mine.revoked_before_s, theirs.revoked_before_s),
        derivation_secret=max(mine.derivation_secret, theirs.derivation_secret),
        jwks_ages=_joined_members(mine.jwks_ages, theirs.jwks_ages, max),
        extra=_joined_unknown(mine.extra, theirs.extra),
        form=max(mine.form, theirs.form),
    )
    return mine if joined == mine else theirs if joined == theirs else joined


def differs(found: KeyRing, joined: KeyRing, *, now_s: float) -> bool:
    """Whether the place that holds `found` lacks a part of `joined`; rings that differ in dead keys alone are equal."""
    ignored = dead(joined, now_s=now_s)
    return forget(found, ignored) != forget(join(found, joined), ignored)


def dead(ring: KeyRing, *, now_s: float) -> frozenset[str]:
    """The names of the retired keys that no live token can bear. Revoked keys are never forgotten."""
    return frozenset(
        key.kid
        for key in ring.keys
        if key.state is KeyState.RETIRED and key.safe_to_drop_from_s is not None and key.safe_to_drop_from_s <= now_s
    )


def forget(ring: KeyRing, kids: Collection[str]) -> KeyRing:
    """The ring without these keys, which must be dead: a join may bring them back, and they are dead still."""
    records = tuple(record for record in ring.records if record.kid not in kids)
    return ring if len(records) == len(ring.records) else msgspec.structs.replace(ring, records=records)


_JOINED_BY: Final[dict[str, Callable[..., int | None]]] = {
    "max_lifetime_s": max,
    "created_at_s": min,
    "activated_at_s": min,
    "retired_at_s": max,
    "revoked_at_s": min,
    "revoked_before_s": max,
}


def _joined(one: KeyRecord, other: KeyRecord) -> KeyRecord:
    if one == other:
        return one
    numbers = [(each.algorithm, each.private) for each in (one, other)]
    better = one if numbers[0] == numbers[1] else max(one, other, key=_sound_first)
    members: dict[str, Any] = {"extra": _joined_unknown(one.extra, other.extra)}
    for name, choose in _JOINED_BY.items():
        known = [value for each in (one, other) if (value := getattr(each, name)) is not None]
        members[name] = choose(known, default=None)
    if members["revoked_at_s"] is not None:
        members["private"] = without_private(better.private)
    return msgspec.structs.replace(better, **members)


def _sound_first(record: KeyRecord) -> tuple[bool, str, str, int, str]:
    """The order in which one of two records' numbers is taken: those that make a key, then any fixed order."""
    sound, public = soundness(record.algorithm, record.private), without_private(record.private)
    return sound > 0, record.algorithm, _canonical(public), sound, _canonical(record.private)


def _joined_members(one: dict[K, V], other: dict[K, V], choose: Callable[[V, V], V]) -> dict[K, V]:
    """The members of both objects, in a fixed order; `choose` joins those that both have."""
    both = {name: choose(one[name], other[name]) for name in one.keys() & other.keys()}
    return dict(sorted((one | other | both).items()))


def _joined_unknown(one: Any, other: Any) -> Any:
    """Objects member by member, else the greater canonical JSON; an object is greater than any other value."""
    if isinstance(one, dict) and isinstance(other, dict):
        return _joined_members(one, other, _joined_unknown)
    return max(one, other, key=_canonical)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


# --- the moves ---


def new_key(private: dict[str, Any], *, kid: str, algorithm: Algorithm, max_lifetime_s: int, now_s: float) -> KeyRecord:
    """A key that was just made, not yet in any ring.

    Its time is rounded up, so that a lead counted from it is never too short.
    """
    return KeyRecord(
        kid=kid,
        algorithm=algorithm,
        private={name: value for name, value in private.items() if name in MEMBERS},
        max_lifetime_s=max_lifetime_s,
        created_at_s=math.ceil(now_s),
    )


def create(key: KeyRecord, *, ring_id: str, derivation_secret: bytes) -> KeyRing:
    """A deployment's first ring. Nobody can have cached a JWKS without `key`, so it signs at once."""
    return KeyRing(
        ring_id=ring_id,
        revision=1,
        records=(msgspec.structs.replace(key, activated_at_s=key.created_at_s),),
        revoked_before_s=0,
        derivation_secret=derivation_secret,
    )


def stage(ring: KeyRing, key: KeyRecord) -> KeyRing:
    """Publishes `key` as the next to sign, created no earlier than the latest activation.

    Raises:
        InvalidTransition: one is staged already.
    """
    if ring.staged is not None:
        raise InvalidTransition(f"Key {ring.staged.kid} is staged already.")
    created_at_s = max(key.created_at_s, _latest_activation_s(ring.records))
    return _changed(ring, [*ring.records, msgspec.structs.replace(key, created_at_s=created_at_s)])


def promote(ring: KeyRing, *, now_s: float) -> KeyRing:
    """The staged key becomes active, later than any other was; the one before is retired by that.

    Raises:
        InvalidTransition: none is staged.
    """
    staged = ring.staged
    if staged is None:
        raise InvalidTransition("No key is staged.")
    activated_at_s = max(int(now_s), staged.created_at_s, _latest_activation_s(ring.records) + 1)
    return _with(ring, staged.kid, activated_at_s=activated_at_s)


def revoke(ring: KeyRing, kid: str, *, now_s: float) -> KeyRing:
    """Refuses every token of one key and forgets its private part. Of the active one, no key signs until a promotion.

    Raises:
        InvalidTransition: there is no such key, or it is revoked already.
    """
    key = next((key for key in ring.keys if key.kid == kid), None)
    if key is None:
        raise InvalidTransition(f"There is no key {kid}.")
    if key.state is KeyState.REVOKED:
        raise InvalidTransition(f"Key {kid} is revoked already.")
    revoked_at_s = max(int(now_s), key.activated_at_s or key.created_at_s)
    return _with(ring, kid, revoked_at_s=revoked_at_s, private=without_private(key.private))


def revoke_before(ring: KeyRing, time_s: int, *, now_s: float) -> KeyRing:
    """Refuses every guest whose lineage began before `time_s`.

    Raises:
        InvalidTransition: that is in the future (guests of tomorrow would be refused), or before what already holds.
    """
    if time_s > now_s:
        raise InvalidTransition("The time is in the future.")
    if time_s < ring.revoked_before_s:
        raise InvalidTransition(
            f"Guests from before {ring.revoked_before_s} are revoked already; that cannot be undone."
        )
    return ring if time_s == ring.revoked_before_s else _changed(ring, ring.records, revoked_before_s=time_s)


def allow_lifetime(ring: KeyRing, max_lifetime_s: int) -> KeyRing:
    """Lets the keys that sign, or will, sign tokens of up to `max_lifetime_s`; never lowers what was allowed."""
    lower = [key.kid for key in (ring.active, ring.staged) if key is not None and key.max_lifetime_s < max_lifetime_s]
    for kid in lower:
        ring = _with(ring, kid, max_lifetime_s=max_lifetime_s)
    return ring


def import_foreign(ring: KeyRing, theirs: KeyRing, *, now_s: float) -> KeyRing:
    """The ring with the keys of another deployment's as retired: they verify here and never sign.

    Their revoked keys stay revoked. Their revocation time holds for the guests of their keys alone: one that refused
    this one's could never be taken back. Imported again, a ring brings what was revoked or retired there since. Of this
    deployment's own keys that come back a revocation alone counts. Raises as `refuse_other_keys`.
    """
    refuse_other_keys(ring, theirs)
    own = {record.kid: record for record in ring.records if record.retired_at_s is None}
    brought = []
    for record, key in zip(theirs.records, theirs.keys, strict=True):
        held = own.get(key.kid)
        if held is None:
            times_s = (int(now_s), key.created_at_s, key.activated_at_s or 0, key.revoked_at_s or 0)
            times = {
                "retired_at_s": key.retired_at_s or max(times_s),
                "revoked_before_s": max(theirs.revoked_before_s, key.revoked_before_s or 0),
            }
            brought.append(msgspec.structs.replace(record, **times))
        elif key.revoked_at_s is not None:
            brought.append(msgspec.structs.replace(held, revoked_at_s=key.revoked_at_s))
    joined = join(ring, msgspec.structs.replace(ring, records=_in_order(brought)))
    return ring if joined == ring else _changed(joined, joined.records)


def refuse_other_keys(ring: KeyRing, theirs: KeyRing) -> None:
    """Raises `KeyringDamaged` where one name stands for two different keys, both of them whole."""
    held = {record.kid: record for record in ring.records}
    for other in theirs.records:
        one = held.get(other.kid)
        if one is None or without_private(one.private) == without_private(other.private):
            continue
        if soundness(one.algorithm, one.private) and soundness(other.algorithm, other.private):
            raise KeyringDamaged(f"Two different keys are named {one.kid}.")


def _with(ring: KeyRing, kid: str, **members: Any) -> KeyRing:
    changed = (msgspec.structs.replace(each, **members) if each.kid == kid else each for each in ring.records)
    return _changed(ring, changed)


def _changed(ring: KeyRing, records: Iterable[KeyRecord], **members: Any) -> KeyRing:
    """The ring's next revision."""
    return msgspec.structs.replace(ring, revision=ring.revision + 1, records=_in_order(records), **members)


def _in_order(records: Iterable[KeyRecord]) -> tuple[KeyRecord, ...]:
    return tuple(sorted(records, key=lambda record: (record.created_at_s, record.kid)))


def _activated(records: Iterable[KeyRecord]) -> list[KeyRecord]:
    """The deployment's own keys that ever signed, revoked ones included, in the order of their activation."""
    own = (record for record in records if record.activated_at_s is not None and record.retired_at_s is None)
    return sorted(own, key=lambda record: (record.activated_at_s or 0, record.kid))


def _latest_activation_s(records: Iterable[KeyRecord]) -> int:
    return max((record.activated_at_s or 0 for record in _activated(records)), default=-1)


def public_jwk(key: KeyRecord) -> dict[str, str]:
    """The public part of a key (RFC 7517, section 4; RFC 7518, section 6), in one fixed order."""
    material = MATERIAL[key.algorithm]
    members = {name: str(key.private.get(name, "")) for name in material.public}
    return {"kty": material.kty, "use": "sig", "alg": key.algorithm, "kid": key.kid, **members}
