"""Handing guests over to a logged-in session: which guests count, how they fold in, and the report on it.

Pure. Knows verified claims, never tokens. The laws that it keeps are in docs/merging.md; two of them carry the rest: a
guest is folded in once (its receipt is part of the session), and in an order that is the guests' own.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from service.errors import Reason
from service.merge.fold import AppliedChange, Conflict, MergeState, fold_guest
from service.merge.policy import RECEIPTS, Policy
from service.merge.receipts import Receipts
from service.strict_json import equal
from service.tokens.claims import GuestClaims


class Candidate(msgspec.Struct, frozen=True):
    """The verified claims of the token at `index` of the request."""

    index: int
    claims: GuestClaims


class MergedGuest(msgspec.Struct, frozen=True):
    """A guest that was merged; `weakened` where part of it may have been before."""

    subject: str
    version: int
    weakened: bool


class Skipped(msgspec.Struct, frozen=True):
    """A token that contributed nothing, good or bad; `subject` once its signature was found good."""

    index: int
    reason: Literal["superseded", "already_merged", "empty"] | Reason
    subject: str | None


class MergeResult(msgspec.Struct, frozen=True):
    """The session after a merge, and the report; `changes` list what came from whom.

    `last` is the guest merged last. Where none was, it is the last of those merged before, as when the response to an
    earlier request was lost, or else the last of the empty ones; None where there is no guest at all.
    """

    payload: dict[str, Any]
    guests: tuple[MergedGuest, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    changes: tuple[AppliedChange, ...] = ()
    last: GuestClaims | None = None

    @property
    def merged(self) -> bool:
        """Whether any guest was merged."""
        return bool(self.guests)


def merge_guests(session: dict[str, Any], candidates: Sequence[Candidate], policy: Policy) -> MergeResult:
    """Fold the guests that count into the session, in the order of `orig_iat`, then `sub`.

    Raises:
        InvalidRequest: the session's `merged_guests` are malformed; paths start with `/session`.
    """
    receipts = Receipts(session)
    merging: list[GuestClaims] = []
    known: list[GuestClaims] = []
    empty: list[GuestClaims] = []
    lineages, skipped = _newest_of_each_lineage(candidates)
    for siblings in lineages:
        *older, newest = [each.claims for each in siblings]
        if newest.version <= receipts.version_of(newest):
            skipped += [Skipped(each.index, "already_merged", newest.subject) for each in siblings]
            known.append(newest)
            continue
        # Changes of one state that raced are one guest: what several have is not doubled, so they merge weakened.
        payload, state = newest.payload, MergeState(policy)
        for guest in older:
            payload = fold_guest(state, payload, guest.payload, subject=guest.subject, weakened=True)
        if payload:
            merging.append(msgspec.structs.replace(newest, payload=payload))
        else:
            skipped += [Skipped(each.index, "empty", newest.subject) for each in siblings]
            empty.append(newest)
    skipped.sort(key=lambda each: each.index)
    if not merging:
        return MergeResult(payload=session, skipped=tuple(skipped), last=next(reversed(known or empty), None))
    payload, merged, state = session, [], MergeState(policy)
    for guest in merging:
        weakened = receipts.version_of(guest) > 0
        payload = fold_guest(state, payload, guest.payload, subject=guest.subject, weakened=weakened)
        receipts.add(guest)
        merged.append(MergedGuest(guest.subject, guest.version, weakened))
    return MergeResult(
        payload={**payload, RECEIPTS: receipts.to_json()},
        guests=tuple(merged),
        skipped=tuple(skipped),
        conflicts=tuple(state.conflicts),
        changes=tuple(state.changes),
        last=merging[-1],
    )


def _newest_of_each_lineage(candidates: Iterable[Candidate]) -> tuple[list[list[Candidate]], list[Skipped]]:
    """Of each lineage the tokens with the highest version and different payloads, in the order in which guests fold.

    They are ordered from old to new. The others are skipped, as superseded.
    """
    skipped: list[Skipped] = []
    lineages: dict[tuple[str, ...], list[Candidate]] = {}
    # Of one token that came twice, the first counts.
    by_age = sorted(
        candidates,
        key=lambda each: (each.claims.version, each.claims.issued_at_s, each.claims.token_id, -each.index),
        reverse=True,
    )
    for candidate in by_age:
        siblings = lineages.setdefault(candidate.claims.lineage, [])
        is_sibling = not siblings or (
            candidate.claims.version == siblings[0].claims.version
            and not any(equal(candidate.claims.payload, each.claims.payload) for each in siblings)
        )
        if is_sibling:
            siblings.append(candidate)
        else:
            skipped.append(Skipped(candidate.index, "superseded", candidate.claims.subject))
    in_order = sorted(lineages.values(), key=lambda each: (each[0].claims.first_issued_at_s, each[0].claims.subject))
    return [siblings[::-1] for siblings in in_order], skipped
