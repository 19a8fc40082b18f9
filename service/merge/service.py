"""The use cases of merging: handing guests over at login, and changes of one guest that race.

A bad token never blocks a login. A change is made to the state that its caller saw, and merged onto the newest one that
is known. Knows nothing of HTTP.
"""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from service.errors import InvalidToken, StaleToken, TokenTooLarge
from service.merge import three_ways
from service.merge.handover import Candidate, MergeResult, Skipped, merge_guests
from service.merge.policy import Policy
from service.strict_json import equal
from service.tokens.claims import GuestClaims
from service.tokens.compute import NEXT_TURN, Compute, run_inline
from service.tokens.payload_patch import PayloadPatch
from service.tokens.recent import RecentTokens, Successor
from service.tokens.service import SignedToken, TokenService, VerifiedToken


class Merged(msgspec.Struct, frozen=True):
    """The outcome of a merge; `skipped` also lists the tokens that were refused, in the order of their index."""

    result: MergeResult
    skipped: tuple[Skipped, ...]
    next: SignedToken | None


class Refreshed(msgspec.Struct, frozen=True):
    """A guest's next token; `rebased_onto` is the version that the change was merged onto, where it raced another."""

    token: SignedToken
    rebased_onto: int | None


class MergeService:
    """Hands guests over to logged-in sessions, and brings changes of one guest together."""

    def __init__(self, tokens: TokenService, *, recent: RecentTokens | None = None) -> None:
        """`recent` is the memory that all workers of the host share; without, this process has one of its own."""
        self._tokens = tokens
        self._recent = RecentTokens() if recent is None else recent
        self._turns: WeakValueDictionary[tuple[str, ...], asyncio.Lock] = WeakValueDictionary()

    async def refresh(
        self,
        raw_token: str,
        *,
        policy: Policy,
        patch: PayloadPatch | None = None,
        ttl_s: int | None = None,
        if_current: bool = False,
        compute: Compute = run_inline,
    ) -> Refreshed:
        """The same guest's next token, its payload changed by `patch`, or as it is.

        Where a newer token came of this one, the change is merged onto that one's payload; without a change, the newest
        state is signed again. `if_current` asks for `StaleToken` in place of a merge.

        Raises:
            InvalidToken, InvalidRequest, InvalidPatch, PatchConflict, StaleToken, TokenTooLarge, NotReady
        """
        old = (await self._tokens.verify(raw_token, counted=False, remembered=False)).claims
        payload = None
        if patch is not None:
            changed = await compute(lambda: patch.apply(old.payload))
            payload = None if equal(changed, old.payload) else changed
        return await self._sign_next(old, payload, policy=policy, ttl_s=ttl_s, if_current=if_current, compute=compute)

    async def renew(self, token: VerifiedToken) -> SignedToken:
        """A verified guest's next token, with the newest state that is known.

        Raises:
            TokenTooLarge, NotReady
        """
        return (await self._sign_next(token.claims, None)).token

    def is_superseded(self, token: VerifiedToken) -> bool:
        """Whether a newer token is known that came of this one."""
        newest = self._recent.find(token.claims, now_s=self._tokens.clock())
        return newest is not None and newest.is_newer_than(token.claims)

    async def _sign_next(
        self,
        old: GuestClaims,
        payload: dict[str, Any] | None,
        *,
        policy: Policy | None = None,
        ttl_s: int | None = None,
        if_current: bool = False,
        compute: Compute = run_inline,
    ) -> Refreshed:
        """Sign the guest's next token and remember it; `payload` None keeps the newest state.

        Looking for the newest token and remembering the next one are one step: where another request came between, this
        one merges again.
        """
        await NEXT_TURN
        # Slow signatures for one guest wait for each other, so that none of them is made in vain. The lock lives while
        # anybody holds or awaits it.
        turn = self._turns.setdefault(old.lineage, asyncio.Lock()) if self._tokens.signs_slowly else nullcontext()
        async with turn:
            while True:
                now_s = self._tokens.clock()
                seen = self._recent.find(old, now_s=now_s)
                newest = None if seen is None else await self._newest(seen, old, in_any_case=if_current)
                if newest is not None and self._recent.find(old, now_s=now_s) != seen:
                    continue  # another request came between while it was verified: a signature would be in vain
                if if_current and newest is not None and newest.version > old.version:
                    raise StaleToken(version=newest.version)
                # Who changes twice in two minutes may well do so again, and others' changes are merged onto it.
                sign = partial(self._tokens.sign_next, ttl_s=ttl_s, remembered=seen is not None)
                if newest is None or seen is None or not seen.is_newer_than(old):
                    rebased_onto, signed = None, await sign(old, payload=payload)
                elif payload is None or policy is None:
                    rebased_onto, signed = None, await sign(newest)
                else:
                    merged = await compute(partial(three_ways.merge, old.payload, payload, newest.payload, policy))
                    rebased_onto = newest.version
                    signed = await sign(newest, payload=merged)
                if self._recent.replace(seen, old, signed.claims, signed.raw_token, now_s=now_s):
                    break
        await NEXT_TURN
        self._tokens.observe("refreshed")
        return Refreshed(signed, rebased_onto)

    async def _newest(self, seen: Successor, old: GuestClaims, *, in_any_case: bool = False) -> GuestClaims | None:
        """The claims of a remembered token that came of `old`, or in any case, once verified; None where it is bad."""
        if not in_any_case and not seen.is_newer_than(old):
            return None
        try:
            return (await self._tokens.verify(seen.raw_token, counted=False)).claims
        except InvalidToken:
            return None

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
        """Fold the guests of the good tokens into `session`; a bad one contributes nothing and is listed.

        Raises:
            InvalidToken: a token is bad, and `strict`; with its index.
            InvalidRequest: the session's `merged_guests` is malformed.
            NotReady: there is no ring to check with.
        """
        self._tokens.require_keys()
        good: list[Candidate] = []
        refused: list[Skipped] = []
        for index, raw_token in enumerate(raw_tokens):
            if raw_token is None:
                continue
            try:
                claims = (await self._tokens.verify(raw_token)).claims
            except InvalidToken as error:
                if strict:
                    raise InvalidToken(error.reason, subject=error.subject, index=index) from error
                refused.append(Skipped(index, error.reason, error.subject))
                continue
            seen = self._recent.find(claims, now_s=self._tokens.clock())
            newest = None if seen is None else await self._newest(seen, claims)
            good.append(Candidate(index, newest or claims))
        result = await compute(lambda: merge_guests(session, good, policy))
        skipped = sorted([*result.skipped, *refused], key=lambda each: each.index)
        next_guest = None
        if renew:
            last = result.last
            with suppress(TokenTooLarge):  # this must not block a login
                next_guest = await self._tokens.issue(
                    payload={},
                    extra_claims=None if last is None else last.extra_claims,
                    audience=() if last is None else last.audience,
                )
        return Merged(result=result, skipped=tuple(skipped), next=next_guest)
