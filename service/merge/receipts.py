"""Merging guests into a logged-in session: which guests count, their receipts, and the report of what happened.

Pure. Knows claims that were verified, never tokens. The laws that it keeps are in docs/merging.md; the two that carry
the rest: a guest is folded in once (its receipt is part of the session), and in an order that is the guests' own.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from service.errors import Fault, InvalidRequest
from service.merge.fold import AppliedChange, Conflict, MergeState, fold_guest
from service.merge.policy import RECEIPTS, Policy
from service.tokens.claims import GuestClaims

MAX_RECEIPTS: Final = 64
"""Receipts that a session carries: about 1.1 KB. A guest whose receipt fell out would merge anew."""

RECEIPT_CHARS: Final = 10
"""Characters of a guest's id in its receipt: 60 bits, so that 64 guests share one by a chance of 2^-49."""

_RECEIPT_ID = re.compile(rf"[A-Za-z0-9_-]{{{RECEIPT_CHARS}}}")


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
    """A good token that contributed nothing."""

    index: int
    reason: Literal["superseded", "already_merged"]
    subject: str


class MergeResult(msgspec.Struct, frozen=True):
    """What a merge came to. `changes` tells what came from whom.

    `last` is the guest merged last. Where all were merged before, it is the last of these, as when the answer to the
    first request was lost; None where there is no guest at all.
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
    """Folds the guests that count into the session, in the order of `orig_iat`, then `sub`.

    Raises:
        InvalidRequest: where the session's `merged_guests` are malformed; paths start with `/session`.
    """
    receipts = parse_receipts(session)
    newest, superseded = _newest_of_each(candidates)
    counted = [each for each in newest if not _is_merged(each.claims, receipts)]
    known = [each for each in newest if _is_merged(each.claims, receipts)]
    already = [Skipped(each.index, "already_merged", each.claims.subject) for each in known]
    skipped = tuple(sorted([*superseded, *already], key=lambda each: each.index))
    if not counted:
        return MergeResult(payload=session, skipped=skipped, last=known[-1].claims if known else None)
    return _fold_all(session, [each.claims for each in counted], policy, receipts=receipts, skipped=skipped)


def receipt_id(claims: GuestClaims) -> str:
    """What stands for a guest in `merged_guests`: a digest, so that no id of a visitor is left in the session."""
    digest = hashlib.sha256(f"{claims.subject}.{claims.first_issued_at_s}".encode()).digest()
    return base64.urlsafe_b64encode(digest)[:RECEIPT_CHARS].decode()


def parse_receipts(session: Mapping[str, Any]) -> dict[str, int]:
    """The session's `merged_guests` as the highest version of each id, oldest first.

    Raises:
        InvalidRequest: `/session/merged_guests`, or each entry of it that is not `[ID, VER]`.
    """
    entries = session.get(RECEIPTS, [])
    at = f"/session/{RECEIPTS}"
    if type(entries) is not list:
        raise InvalidRequest("The session's receipts are malformed.", [Fault(at, "must be a list of [ID, VER]")])
    faults = [Fault(f"{at}/{index}", _MALFORMED) for index, entry in enumerate(entries) if not _is_receipt(entry)]
    if faults:
        raise InvalidRequest("The session's receipts are malformed.", faults)
    receipts: dict[str, int] = {}
    for name, version in entries:
        receipts[name] = max(version, receipts.pop(name, version))
    return receipts


_MALFORMED: Final = f"must be [ID, VER]: {RECEIPT_CHARS} base64url characters, and a whole number from 1"


def _is_receipt(entry: object) -> bool:
    match entry:
        case [str(name), int(version)] if type(version) is int:
            return version >= 1 and _RECEIPT_ID.fullmatch(name) is not None
    return False


def _is_merged(claims: GuestClaims, receipts: Mapping[str, int]) -> bool:
    return claims.version <= receipts.get(receipt_id(claims), 0)


def _newest_of_each(candidates: Iterable[Candidate]) -> tuple[list[Candidate], list[Skipped]]:
    """The newest token of each lineage, in the order in which they fold; the others are superseded."""
    ordered = sorted(candidates, key=_age)
    newest = {each.claims.lineage: each for each in ordered}
    others = [each for each in ordered if newest[each.claims.lineage] is not each]
    in_order = sorted(newest.values(), key=lambda each: (each.claims.first_issued_at_s, each.claims.subject))
    return in_order, [Skipped(each.index, "superseded", each.claims.subject) for each in others]


def _age(candidate: Candidate) -> tuple[int, int, str, int]:
    """Orders the tokens of a lineage from old to new; of one token that came twice, the first counts."""
    claims = candidate.claims
    return claims.version, claims.issued_at_s, claims.token_id, -candidate.index


def _fold_all(
    session: dict[str, Any],
    guests: Sequence[GuestClaims],
    policy: Policy,
    *,
    receipts: dict[str, int],
    skipped: tuple[Skipped, ...],
) -> MergeResult:
    payload, merged, state = session, [], MergeState(policy)
    for claims in guests:
        name = receipt_id(claims)
        weakened = receipts.pop(name, 0) > 0
        payload = fold_guest(state, payload, claims.payload, subject=claims.subject, weakened=weakened)
        receipts[name] = claims.version
        merged.append(MergedGuest(claims.subject, claims.version, weakened))
    return MergeResult(
        payload={**payload, RECEIPTS: [list(receipt) for receipt in receipts.items()][-MAX_RECEIPTS:]},
        guests=tuple(merged),
        skipped=skipped,
        conflicts=tuple(state.conflicts),
        changes=tuple(state.changes),
        last=guests[-1],
    )
