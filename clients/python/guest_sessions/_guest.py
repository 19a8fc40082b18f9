"""The request's guest as applications see it: awaited in `AsyncGuest`, blocking in `Guest`."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypedDict, Unpack

from guest_sessions._errors import GuestError
from guest_sessions._payloads import P
from guest_sessions._visit import HandOver, Post, Visit, run

Policy = str | Mapping[str, Any]


class ChangeOptions(TypedDict, total=False):
    """`policy`: how a change is merged with one that overtook it; `if_current`: refuse it as `stale_token` instead."""

    policy: Policy
    if_current: bool


class _GuestView(Generic[P]):
    def __init__(self, visit: Visit[P]) -> None:
        self._visit = visit

    @property
    def id(self) -> str | None:
        """The guest's subject; None where the request has no guest."""
        return self._visit.token.subject if self._visit.token else None

    @property
    def version(self) -> int | None:
        """One more with each change of the payload; None without a guest."""
        return self._visit.token.version if self._visit.token else None

    @property
    def payload(self) -> P:
        """The guest's state as the payload type; without a guest that of `{}`, as a new guest's is.

        Raises GuestError `invalid_payload` where the state does not fit the type.
        """
        payload = self._visit.token.payload if self._visit.token else {}
        try:
            return self._visit.rules.codec.decode(payload)
        except (ValueError, TypeError) as error:  # the validation errors of both libraries are a ValueError
            raise GuestError("invalid_payload", "the guest's payload does not fit the payload type") from error

    @property
    def is_new(self) -> bool:
        """Whether the guest was made in this request."""
        return self._visit.is_new

    @property
    def token(self) -> str | None:
        """The guest's token, to be kept like a password: for `hand_over(tokens=…)` where a login ends elsewhere."""
        return self._visit.token.raw if self._visit.token else None

    @property
    def is_unread(self) -> bool:
        """Whether a token came along that cannot be verified while the service is unavailable; changes are refused."""
        return self._visit.is_unread

    def forget(self) -> None:
        """Deletes the guest's cookie, as at log-out on a shared computer. Needs no service."""
        self._visit.forget()


class AsyncGuest(_GuestView[P]):
    """The request's guest; `id` is None where there is none, and the first change then makes one.

    A change that fails raises `GuestError`, and the guest is as it was.
    """

    def __init__(self, visit: Visit[P], post: Post | None = None) -> None:
        super().__init__(visit)
        self._post = post or visit.rules.service.post

    async def patch(self, merge_patch: Mapping[str, Any], **options: Unpack[ChangeOptions]) -> None:
        """Applies a JSON merge patch to the payload (RFC 7396)."""
        await self._visit.change(self._post, {"merge_patch": merge_patch}, options)

    async def apply(self, json_patch: Sequence[Mapping[str, Any]], **options: Unpack[ChangeOptions]) -> None:
        """Applies a JSON patch to the payload (RFC 6902)."""
        await self._visit.change(self._post, {"json_patch": json_patch}, options)

    async def replace(self, payload: P, **options: Unpack[ChangeOptions]) -> None:
        """Replaces the payload."""
        await self._visit.change(self._post, {"payload": self._visit.rules.codec.encode(payload)}, options)

    async def hand_over(
        self,
        session: Mapping[str, Any],
        *,
        policy: Policy | None = None,
        expect: str | None = None,
        tokens: Sequence[str] = (),
        **options: Any,
    ) -> HandOver:
        """Merges the guest into the session of the user who logs in, and begins a new guest. Never stops a login.

        Store the result's `payload`; reading the session, this and storing are one critical section. `expect` is the
        guest's `id` noted when the login began: another guest is not merged. `tokens` are merged beside the request's
        own. Further options are those of `/v1/merge`.
        """
        options |= {} if policy is None else {"policy": policy}
        return await self._visit.hand_over(self._post, session, expect=expect, tokens=tokens, options=options)


class Guest(_GuestView[P]):
    """The request's guest like `AsyncGuest`, for code that blocks."""

    def __init__(self, visit: Visit[P]) -> None:
        super().__init__(visit)
        self._steps = AsyncGuest(visit, visit.rules.service.post_blocking)

    def patch(self, merge_patch: Mapping[str, Any], **options: Unpack[ChangeOptions]) -> None:
        """Applies a JSON merge patch to the payload (RFC 7396)."""
        run(self._steps.patch(merge_patch, **options))

    def apply(self, json_patch: Sequence[Mapping[str, Any]], **options: Unpack[ChangeOptions]) -> None:
        """Applies a JSON patch to the payload (RFC 6902)."""
        run(self._steps.apply(json_patch, **options))

    def replace(self, payload: P, **options: Unpack[ChangeOptions]) -> None:
        """Replaces the payload."""
        run(self._steps.replace(payload, **options))

    def hand_over(
        self,
        session: Mapping[str, Any],
        *,
        policy: Policy | None = None,
        expect: str | None = None,
        tokens: Sequence[str] = (),
        **options: Any,
    ) -> HandOver:
        """Merges the guest into the session of the user who logs in: see `AsyncGuest.hand_over`."""
        return run(self._steps.hand_over(session, policy=policy, expect=expect, tokens=tokens, **options))
