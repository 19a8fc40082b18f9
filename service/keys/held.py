"""The ring that a process holds, made ready for requests, and how its places are."""

import asyncio
import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, Literal, Protocol

import msgspec

from service.errors import KeyringDamaged, KeyringError, KeyringForeign, KeyringNewer, WrongSecret
from service.keys import encoding, keyring
from service.keys.keyring import KeyPolicy, KeyRing
from service.keys.rotation import Rotation, publication_lead_s
from service.keys.signer import Signer

logger = logging.getLogger("guest_sessions.keys")

REFUSALS: Final = (KeyringDamaged, KeyringForeign, KeyringNewer, WrongSecret)
"""Why a ring that was found in the file or in Redis is not taken."""

Place = Literal["file", "redis", "rotation"]


class LoadedRing(msgspec.Struct, frozen=True, kw_only=True):
    """A ring made ready for requests; a new object whenever the ring changes."""

    ring: KeyRing
    signer: Signer
    jwks: bytes
    etag: str
    max_lifetime_s: int
    """The longest lifetime that may be signed now: what the settings say and the active key is on record for."""


class KeySource(Protocol):
    """Where use cases get the keys from; they ask again at each use."""

    @property
    def loaded(self) -> LoadedRing | None:
        """The keys to use now; None while there are none. Never waits."""


def load(ring: KeyRing, policy: KeyPolicy, *, now_s: float) -> LoadedRing:
    """The ring ready for requests. Takes 0.1 s for an active RSA key."""
    jwks = encoding.public_jwks(ring, lead_s=publication_lead_s(ring, policy, now_s=now_s), now_s=now_s)
    longest_s = policy.max_lifetime_s if ring.active is None else ring.active.max_lifetime_s
    return LoadedRing(
        ring=ring,
        signer=Signer(ring),
        jwks=jwks,
        etag=f'"{hashlib.sha256(jwks).hexdigest()[:32]}"',
        max_lifetime_s=min(policy.max_lifetime_s, longest_s),
    )


class Health:
    """How each place is. Counts every failure; logs a change, not each failure."""

    def __init__(self, *, file: bool, redis: bool) -> None:
        self.places: dict[Place, str] = {
            "file": "unread" if file else "off",
            "redis": "unread" if redis else "off",
            "rotation": "ok",
        }
        self.problems: dict[Place, str] = {}
        self.confirmed_at: float | None = None
        """When, by the steady clock, the ring was last found so at its source."""
        self.counts: Counter[str] = Counter()

    def failed(self, place: Place, code: str, detail: str) -> None:
        """Notes a failure of a place."""
        self.counts[code] += 1
        if self.places[place] != code:
            logger.warning("%s: %s", place, detail)
        self.places[place], self.problems[place] = code, detail

    @contextlib.contextmanager
    def noted(self, place: Place) -> Iterator[None]:
        """Notes how a place is after the block; a `KeyringError` that leaves the block ends here."""
        try:
            yield
        except KeyringError as error:
            self.failed(place, error.code, error.detail)
        else:
            self.ok(place)

    def ok(self, place: Place) -> None:
        """Notes that a place is as it should be."""
        self.problems.pop(place, None)
        if self.places[place] not in ("ok", "off"):
            self.places[place] = "ok"
            logger.info("%s: ok", place)


class HeldRing:
    """The ring in memory. Only ever grows, but for dead keys that were forgotten."""

    def __init__(self, rotation: Rotation, health: Health, *, on_change: Callable[[bytes], None]) -> None:
        self.rotation = rotation
        self.health = health
        self.loaded: LoadedRing | None = None
        self.changed = asyncio.Event()
        """Set with each change."""
        self._on_change = on_change

    @property
    def ring(self) -> KeyRing | None:
        """The ring, None while there is none."""
        return None if self.loaded is None else self.loaded.ring

    async def take(self, found: KeyRing, *, in_copy: bool = False) -> LoadedRing:
        """As `join`, for a ring that was found in the file or, `in_copy`, in Redis."""
        before = self.ring
        loaded = await self.join(found)
        if before is not None and loaded.ring != before:
            self.health.counts["joined"] += 1
        self.health.confirmed_at = self.rotation.steady_clock()
        self.rotation.watch(loaded.ring, copy=found if in_copy else None)
        return loaded

    async def join(self, found: KeyRing) -> LoadedRing:
        """Joins a ring into the one held; returns what is held afterwards.

        Raises:
            KeyringForeign: it is another deployment's.
        """
        rotation = self.rotation
        while True:
            before = self.loaded
            ring = rotation.remembered(found if before is None else keyring.join(before.ring, found))
            if before is not None and ring == before.ring:
                # A key that was passed over leaves the JWKS as time goes by.
                lead_s, now_s = rotation.lead_s(ring), rotation.clock()
                leaves = any(key.passed_over for key in before.ring.keys)
                if not leaves or before.jwks == encoding.public_jwks(before.ring, lead_s=lead_s, now_s=now_s):
                    return before
            loaded = await asyncio.to_thread(load, ring, rotation.policy, now_s=rotation.clock())
            if self.loaded is before:  # else another source was joined meanwhile
                break
        self.loaded = loaded
        self.changed.set()
        self._on_change(encoding.to_jwk_set(ring))
        signs = "no key signs" if ring.active is None else f"{ring.active.kid} signs"
        logger.info("holding revision %d of the keyring: %s, %d keys", ring.revision, signs, len(ring.records))
        return loaded
