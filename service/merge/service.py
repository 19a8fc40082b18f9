"""The merge use case: verify the guests' tokens, fold the good ones into the session, issue the next guest.

A bad token never blocks a login. Knows nothing of HTTP.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from service.errors import InvalidToken, Reason, TokenTooLarge
from service.merge.handover import Candidate, MergeResult, Skipped, merge_guests
from service.merge.policy import Policy
from service.tokens.claims import GuestClaims
from service.tokens.compute import Compute, run_inline
from service.tokens.service import SignedToken, TokenService


class Refused(msgspec.Struct, frozen=True):
    """A bad token of a merge; `subject` once its signature was found good."""

    index: int
    reason: Reason
    subject: str | None


class Merged(msgspec.Struct, frozen=True):
    """What a merge gave; `skipped` also lists the tokens that were refused, in the order of their index."""

    result: MergeResult
    skipped: tuple[Skipped | Refused, ...]
    next: SignedToken | None


class MergeService:
    """Hands guests over to logged-in sessions."""

    def __init__(self, tokens: TokenService) -> None:
        self._tokens = tokens

    async def merge(
        self,
        raw_tokens: Sequence[str | None],
        *,
        session: dict[str, Any],
        policy: Policy,
        strict: bool = False,
        renew: bool = True,
        compute: Compute = run_inline,
    ) -> Merged:
        """Folds the guests of the good tokens into `session`; a bad one contributes nothing and is listed.

        Raises:
            InvalidToken: a token is bad, and `strict`; its index is told.
            InvalidRequest: the session's `merged_guests` is malformed.
            NotReady: there is no ring to check with.
        """
        self._tokens.require_keys()
        good, refused = await self._sort_out(raw_tokens, strict=strict)
        result = await compute(lambda: merge_guests(session, good, policy))
        skipped: list[Skipped | Refused] = [*result.skipped, *refused]
        skipped.sort(key=lambda each: each.index)
        return Merged(result=result, skipped=tuple(skipped), next=await self._successor(result.last) if renew else None)

    async def _sort_out(
        self, raw_tokens: Sequence[str | None], *, strict: bool
    ) -> tuple[list[Candidate], list[Refused]]:
        good: list[Candidate] = []
        refused: list[Refused] = []
        for index, raw_token in enumerate(raw_tokens):
            if raw_token is None:
                continue
            try:
                good.append(Candidate(index, (await self._tokens.verify(raw_token)).claims))
            except InvalidToken as error:
                if strict:
                    raise InvalidToken(error.reason, subject=error.subject, index=index) from error
                refused.append(Refused(index, error.reason, error.subject))
        return good, refused

    async def _successor(self, last: GuestClaims | None) -> SignedToken | None:
        """A new guest in the place of those handed over; None where it does not fit, as that must not block a login."""
        try:
            if last is None:
                return await self._tokens.issue(payload={})
            return await self._tokens.issue(payload={}, extra_claims=last.extra_claims, audience=last.audience)
        except TokenTooLarge:
            return None
