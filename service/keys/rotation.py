"""Which moves of a ring are due, and when: promotion, staging, forgetting. Decides; writes nothing.

Two clocks decide together. The wall clock may jump, so nothing that cannot be undone happens by it alone: this process
must itself have seen a key staged, or dead, for long enough by a clock that only goes forward. And a ring may hold
times from the future, left by a clock that was wrong: then the steady clock alone counts, as nobody can wait for them.
"""

import logging
import math
from typing import Final

import msgspec

from service.keys import Clock, keyring
from service.keys.keyring import FORM, MAX_PUBLISHED_KEYS, RETENTION_MARGIN_S, Key, KeyPolicy, KeyRecord, KeyRing

logger = logging.getLogger("guest_sessions.keys")

DROP_PATIENCE_S: Final = 3_600
"""A key must have been dead for so long by the steady clock before it is forgotten."""
UNSEEN_PATIENCE_S: Final = 3_600
"""With Redis, a key that followers cannot have seen signs all the same after so long."""
AHEAD_S: Final = 300
"""Times of the ring that are later than this clock by more than so much are reported: one of the clocks is wrong."""
UPGRADE_PATIENCE_S: Final = 3_600
"""A ring of 0.1.0 keeps its form for so long after a start: replicas of 0.1.0 beside this one follow it meanwhile."""
AGE_NOTED_EVERY_S: Final = 30
"""How often processes that differ in the JWKS max-age note their own; the older age counts by so much longer."""


class Rotation:
    """Follows one process's ring, by its policy and both clocks. `with_copy`: followers see the keys in Redis alone."""

    def __init__(self, policy: KeyPolicy, *, clock: Clock, steady_clock: Clock, with_copy: bool) -> None:
        self.policy = policy
        self.clock = clock
        self.steady_clock = steady_clock
        self._with_copy = with_copy
        self._started = steady_clock()
        self._since: dict[tuple[str, str], float] = {}
        self._forgotten: set[str] = set()

    def lead_s(self, ring: KeyRing) -> int:
        """`publication_lead_s` under this process's settings and clock."""
        return publication_lead_s(ring, self.policy, now_s=self.clock())

    def watch(self, ring: KeyRing, *, copy: KeyRing | None = None) -> None:
        """Notes since when each key has been active, staged, staged in Redis (`copy`), or dead, without a break.

        A key that has been dead for long enough by both clocks is forgotten: `remembered` leaves it out.
        """
        seen = {("dead", kid) for kid in keyring.dead(ring, now_s=self.clock())}
        if ring.active is not None:
            seen.add(("active", ring.active.kid))
        if ring.staged is not None:
            seen.add(("staged", ring.staged.kid))
            in_copy = ("in copy", ring.staged.kid)
            if in_copy in self._since or (copy is not None and any(r.kid == ring.staged.kid for r in copy.records)):
                seen.add(in_copy)
        now = self.steady_clock()
        self._since = {each: self._since.get(each, now) for each in seen}
        self._forgotten |= {
            kid for what, kid in seen if what == "dead" and self._seen_for_s(what, kid) >= DROP_PATIENCE_S
        }

    def remembered(self, ring: KeyRing) -> KeyRing:
        """The ring without the dead keys that this process has forgotten, which other places may bring back."""
        return keyring.forget(ring, self._forgotten & keyring.dead(ring, now_s=self.clock()))

    def needs_key(self, ring: KeyRing, *, replace: bool = False) -> bool:
        """Whether `advance` needs a fresh key: to stage it, or because none is left to sign."""
        if ring.staged is not None:
            return False
        if ring.active is None or replace:
            return True
        if self.policy.rotate_every_s == 0 or is_full(ring):
            return False
        due_s = self.policy.rotate_every_s - self.lead_s(ring)
        age_s = self.clock() - (ring.active.activated_at_s or 0)
        return (age_s if age_s >= 0 else self._seen_for_s("active", ring.active.kid)) >= due_s

    def advance(self, ring: KeyRing, fresh: KeyRecord | None, *, replace: bool = False) -> KeyRing:
        """The ring after every move that is due. `replace`: the active key's numbers are damaged, another must sign."""
        now_s = self.clock()
        ring = keyring.allow_lifetime(self.remembered(ring), self.policy.max_lifetime_s)
        if ring.form < FORM and self.steady_clock() - self._started >= UPGRADE_PATIENCE_S:
            ring = msgspec.structs.replace(ring, form=FORM)
        if ring.form == FORM:  # the one before has no room for it
            ring = note_jwks_age(ring, self.policy.jwks_max_age_s, now_s=now_s)
        if fresh is not None and self.needs_key(ring, replace=replace):
            ring = keyring.stage(ring, fresh)
        if ring.staged is not None and (ring.active is None or replace or self._may_sign(ring, ring.staged)):
            ring = keyring.promote(ring, now_s=now_s)
        return ring

    def problem(self, ring: KeyRing) -> str | None:
        """What a person should know of the rotation."""
        now_s = self.clock()
        times_s = [key.activated_at_s or key.created_at_s for key in (ring.active, ring.staged) if key is not None]
        if times_s and max(times_s) > now_s + AHEAD_S:
            return "The keyring has times in the future: a clock is or was wrong. Rotation counts from this start on."
        if self.policy.rotate_every_s and ring.staged is None and is_full(ring):
            return f"The JWKS has {MAX_PUBLISHED_KEYS} keys: no key is rotated by itself any more."
        if self._with_copy and ring.staged is not None and self._is_unseen(ring.staged.kid):
            return f"Key {ring.staged.kid} is not seen in Redis: it signs an hour after it was staged."
        return None

    def _may_sign(self, ring: KeyRing, staged: Key) -> bool:
        """Whether the staged key has been published for its lead by both clocks, and where followers see it."""
        lead_s, now_s = self.lead_s(ring), self.clock()
        if 0 <= now_s - staged.created_at_s < lead_s or self._seen_for_s("staged", staged.kid) < lead_s:
            return False
        if not self._with_copy or self._seen_for_s("in copy", staged.kid) >= lead_s:
            return True
        if self._is_unseen(staged.kid) and self._seen_for_s("staged", staged.kid) >= max(UNSEEN_PATIENCE_S, lead_s):
            logger.warning("key %s signs, though Redis has not shown it to followers for an hour", staged.kid)
            return True
        return False

    def _is_unseen(self, kid: str) -> bool:
        return ("in copy", kid) not in self._since

    def _seen_for_s(self, what: str, kid: str) -> float:
        now = self.steady_clock()
        return now - self._since.get((what, kid), now)


def publication_lead_s(ring: KeyRing, policy: KeyPolicy, *, now_s: float) -> int:
    """How long a key is published before it signs: twice the longest age of a JWKS that a verifier may still hold.

    Even a cache filled at the last moment has ended by then.
    """
    ages = {age_s for age_s, noted_s in ring.jwks_ages.items() if noted_s + age_s + AGE_NOTED_EVERY_S > now_s}
    return 2 * max(policy.jwks_max_age_s, _latest_age_s(ring) or 0, *ages)


def promotion_due_at_s(ring: KeyRing, policy: KeyPolicy, *, now_s: float) -> int | None:
    """From when the staged key may sign, by the wall clock; None where none is staged."""
    return None if ring.staged is None else ring.staged.created_at_s + publication_lead_s(ring, policy, now_s=now_s)


def note_jwks_age(ring: KeyRing, age_s: int, *, now_s: float) -> KeyRing:
    """The ring with `age_s` as the JWKS max-age that is published now, and the one before as published until now.

    Where processes differ in it, each notes its own every `AGE_NOTED_EVERY_S`.
    """
    latest = _latest_age_s(ring)
    noted_s = ring.jwks_ages.get(age_s)
    if latest == age_s or (noted_s is not None and 0 <= now_s - noted_s < AGE_NOTED_EVERY_S):
        return ring
    before = {} if latest is None else {latest: max(int(now_s), ring.jwks_ages[latest])}
    noted = {age_s: max([0, int(now_s), *(time_s + 1 for time_s in before.values())])}
    return msgspec.structs.replace(ring, jwks_ages=dict(sorted((ring.jwks_ages | before | noted).items())))


def _latest_age_s(ring: KeyRing) -> int | None:
    return max(ring.jwks_ages, key=lambda age_s: (ring.jwks_ages[age_s], age_s), default=None)


def is_full(ring: KeyRing) -> bool:
    """Whether no further key is to be published by itself."""
    return sum(key.state is not keyring.KeyState.REVOKED for key in ring.keys) >= MAX_PUBLISHED_KEYS


def least_rotation_s(policy: KeyPolicy) -> int:
    """The shortest `rotate_every_s` that keeps the JWKS within its limit and leaves each key its publication lead."""
    retired = MAX_PUBLISHED_KEYS - 3  # beside the active and the next, and one that is about to be dropped
    return max(2 * policy.jwks_max_age_s, math.ceil((policy.max_lifetime_s + RETENTION_MARGIN_S) / retired))
