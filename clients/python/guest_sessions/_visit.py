"""The rules of one request's guest, once for every framework.

Its coroutines await nothing but the exchange that they are given. Over a blocking exchange they never suspend, so that
`run` takes them to their end without an event loop.
"""

import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, TypeVar

from guest_sessions._cookies import CookiePolicy
from guest_sessions._errors import GuestError
from guest_sessions._payloads import Codec, P
from guest_sessions._service import Answer, Service
from guest_sessions._tokens import Token, UnknownKey, Verifier, newest_of_first

logger = logging.getLogger("guest_sessions")
T = TypeVar("T")
Post = Callable[[str, Mapping[str, Any], str | None], Awaitable[Answer]]

MAX_ASKED: Final = 3
"""Tokens of one request that the service is asked about: a visitor with hundreds makes no hundred calls."""
MAX_MERGED: Final = 32
"""Tokens that a merge takes."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """The result of handing a guest over: store `payload` as the user's session, whatever the other members say.

    `guests`, `skipped` and `conflicts` are the service's report. `unexpected_guest`: the request's guest is not the one
    that `expect` names, so nothing was merged. `error`: why the service could not merge; the guest is as it was, and
    the next login hands it over.
    """

    payload: dict[str, Any]
    merged: bool = False
    guests: Sequence[Mapping[str, Any]] = ()
    skipped: Sequence[Mapping[str, Any]] = ()
    conflicts: Sequence[Mapping[str, Any]] = ()
    unexpected_guest: bool = False
    error: GuestError | None = None


@dataclass(frozen=True, slots=True)
class Rules(Generic[P]):
    """What all requests have in common."""

    service: Service
    verifier: Verifier
    cookie: CookiePolicy
    renew_after_s: int
    codec: Codec[P]


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What the rules look at: `header` returns a header's value or None; `cookies` is the Cookie header."""

    method: str
    header: Callable[[str], str | None]
    cookies: str


@dataclass(slots=True)
class Visit(Generic[P]):
    """One request's guest, and what the response has to carry for it."""

    rules: Rules[P]
    request: RequestFacts
    token: Token | None = None
    is_new: bool = False
    _good: list[Token] = field(default_factory=list)
    """The good tokens of the request, of which a hand-over sends all."""
    _unread: list[UnknownKey] = field(default_factory=list)
    _is_bearer: bool = False
    _is_moving: bool = False
    """Whether the token came under a later cookie name, and is due to be set under the first."""
    _headers: list[tuple[str, str]] = field(default_factory=list)
    _has_begun: bool = False

    def __post_init__(self) -> None:
        cookie, header = self.rules.cookie, self.request.cookies
        scheme, _, credentials = (self.request.header("Authorization") or "").partition(" ")
        sources = [list(dict.fromkeys(cookie.values(header, name))) for name in cookie.names]
        sources.append([credentials.strip(" ")] if scheme.lower() == "bearer" else [])
        read = [[self.rules.verifier.verify(raw) for raw in source] for source in sources]
        # One source counts: else a plain name, which a sibling subdomain can set, would open what `__Host-` closes.
        position = next(
            itertools.chain(
                (i for i, found in enumerate(read) if any(isinstance(each, Token) for each in found)),
                (i for i, found in enumerate(read) if any(isinstance(each, UnknownKey) for each in found)),
                (i for i, source in enumerate(sources) if source),
            ),
            0,
        )
        self._good = [each for each in read[position] if isinstance(each, Token)]
        self._unread = [each for each in read[position] if isinstance(each, UnknownKey)]
        self._is_bearer = position == len(cookie.names)
        self._is_moving = 0 < position < len(cookie.names)
        self.token = newest_of_first(self._good)

    @property
    def is_unread(self) -> bool:
        """Whether a token came along that only the service could verify, and that it could not be asked about."""
        return self.token is None and bool(self._unread)

    @property
    def _is_navigation(self) -> bool:
        """Whether a person opens a page: no bot, no prefetch, no fetch().

        A service worker that passes a navigation on makes `empty` of its destination.
        """
        header = self.request.header
        pages = {"document", "empty", "iframe"} if self.rules.cookie.partitioned else {"document", "empty"}
        return (
            self.request.method == "GET"
            and header("Sec-Fetch-Mode") == "navigate"
            and header("Sec-Fetch-Dest") in pages
            and header("Sec-Purpose") is None
            and (header("Purpose") or "").lower() != "prefetch"
        )

    async def ensure(self, post: Post) -> None:
        """Before the request is handled: reads its guest; on a page navigation makes or renews one. Raises nothing."""
        self.rules.service.start()
        try:
            if self.is_unread and self.rules.service.available:
                await self._ask_about_unread(post)
            if self._is_navigation and self.rules.service.available and not self.is_unread:
                if self.token is None:
                    await self._issue(post, {})
                elif self._is_moving or self.token.issued_at <= time.time() - self.rules.renew_after_s:
                    await self._renew(post, self.token)
        except GuestError as error:
            if error.code != "unavailable":  # that is logged once for all
                logger.warning("guest-sessions refuses a guest: %s", error)

    async def _ask_about_unread(self, post: Post) -> None:
        """Asks, no more: a new cookie here could overtake that of a change."""
        for unread in self._unread[:MAX_ASKED]:
            answer = await post("/v1/verify", {"token": unread.raw}, None)
            self._unread.remove(unread)
            if answer.body.get("active"):
                self.token = self._token_of(answer.body, unread.raw)
                self._good.append(self.token)
                return

    async def _renew(self, post: Post, token: Token) -> None:
        try:
            await self._refresh(post, token, {})
        except GuestError as error:
            if error.code != "invalid_token":  # revoked, which an offline check does not see
                raise
            self.token = None
            await self._issue(post, {})

    async def change(self, post: Post, change: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Changes the payload as `/v1/refresh-payload` does; the first change without a guest makes one.

        Raises GuestError.
        """
        self._require_unbegun()
        # Another site's request comes without the cookie that the browser holds.
        if self.token is None and (self._unread or self.request.header("Sec-Fetch-Site") == "cross-site"):
            raise GuestError(
                "unreadable_guest", "a guest may be there that could not be read, and is not written over unread"
            )
        body = {**change, **{name: value for name, value in options.items() if value is not None}}
        if self.token is not None:
            try:
                await self._refresh(post, self.token, body)
            except GuestError as error:
                if error.code != "invalid_token":  # revoked: the change begins a new guest
                    raise
                self.token = None
        if self.token is None:
            if "payload" in change:
                await self._issue(post, change)
            else:
                empty = await post("/v1/issue", {}, None)
                await self._refresh(post, self._token_of(empty.body), body)
                self.is_new = True

    async def hand_over(
        self,
        post: Post,
        session: Mapping[str, Any],
        *,
        expect: str | None,
        tokens: Sequence[str],
        options: Mapping[str, Any],
    ) -> HandOver:
        """Merges the guest into the session. Never stops a login: raises only for a value that is not JSON."""
        untouched = HandOver(payload=dict(session))
        if expect is not None and self.token is not None and self.token.subject != expect:
            return replace(untouched, unexpected_guest=True)
        # Of a request that names its guest no other one is handed over, such as a planted one.
        own = [token for token in [self.token, *self._good] if token and expect in {None, token.subject}]
        unread = self._unread if expect is None else []
        others = [*(token.raw for token in own[1:]), *(token.raw for token in unread)]
        raw_tokens = list(dict.fromkeys([*(token.raw for token in own[:1]), *tokens, *others]))[:MAX_MERGED]
        if not raw_tokens:
            return untouched
        # Where the request shows no token, the browser may hold one all the same, which a cookie would replace.
        delivery = {"cookie": not self._is_bearer} if own or unread else {"cookie": False, "renew": False}
        body = {**options, **delivery, "session": session, "tokens": raw_tokens, "strict": False}
        try:
            self._require_unbegun()
            answer = await post("/v1/merge", body, self.token.subject if self.token else None)
            if not (answer.body.keys() >= _REPORT and isinstance(answer.body["payload"], dict)):
                raise self._no_answer()
            result = HandOver(**{name: answer.body[name] for name in _REPORT})
            if (own or unread) and not options.get("dry_run"):
                follower = answer.body.get("next")
                self._adopt(self._token_of(follower) if follower else None, answer)
                self._good, self._unread = [token for token in [self.token] if token], []
                self.is_new = self.token is not None
        except GuestError as error:
            logger.warning("guest-sessions could not hand a guest over: %s", error)
            return replace(untouched, error=error)
        return result

    def forget(self) -> None:
        """Deletes the guest's cookies, without the service."""
        self._require_unbegun()
        self.token, self.is_new, self._good, self._unread = None, False, [], []
        self._headers = [] if self._is_bearer else [("Set-Cookie", line) for line in self.rules.cookie.deletions()]

    def begin_response(self, status: int) -> list[tuple[str, str]]:
        """The headers that the response has to carry; from here on no change is possible.

        A failure (5xx) carries none: the guest is as it was.
        """
        self._has_begun = True
        return self._headers if status < 500 else []  # noqa: PLR2004

    def _require_unbegun(self) -> None:
        if self._has_begun:
            raise GuestError("response_started", "the response has begun; its cookie would not reach the browser")

    async def _issue(self, post: Post, body: Mapping[str, Any]) -> None:
        answer = await post("/v1/issue", {**body, "cookie": not self._is_bearer}, None)
        self._adopt(self._token_of(answer.body), answer)
        self.is_new = True

    async def _refresh(self, post: Post, token: Token, body: Mapping[str, Any]) -> None:
        request = {**body, "token": token.raw, "cookie": not self._is_bearer}
        answer = await post("/v1/refresh-payload", request, token.subject)
        self._adopt(self._token_of(answer.body), answer)

    def _token_of(self, token_object: Mapping[str, Any], raw: str | None = None) -> Token:
        try:
            return Token.of_object(token_object, raw or token_object["token"])
        except (KeyError, TypeError) as error:
            raise self._no_answer() from error

    def _no_answer(self) -> GuestError:
        return self.rules.service.found_unavailable("a response without the members that the service's have")

    def _adopt(self, token: Token | None, answer: Answer) -> None:
        """From here on the service's word counts, for a second change in the same request too."""
        self.token = token
        issuer = self.rules.verifier.refused_issuer(token.raw) if token else None
        if issuer is not None:
            logger.warning(
                "guest-sessions issues tokens of %s, so that no visitor keeps a guest: pass issuer=%r", issuer, issuer
            )
        if self._is_bearer:
            self._headers = [("X-Guest-Token", token.raw)] if token else []
            return
        cookie = self.rules.cookie
        self._headers = [("Set-Cookie", line) for line in answer.set_cookies if cookie.is_set_by(line)]
        if token and not self._headers:
            names = [line.partition("=")[0] for line in answer.set_cookies]
            logger.warning(
                "guest-sessions sets the cookie %s, not %s, so that no visitor keeps a guest: pass cookie=%r",
                ", ".join(names),
                cookie.names[0],
                names[0] if names else None,
            )


_REPORT = {"payload", "merged", "guests", "skipped", "conflicts"}


def run(steps: Coroutine[Any, None, T]) -> T:
    """Returns what the coroutine does; it must not suspend."""
    try:
        steps.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("the exchange suspended, and there is no event loop that would resume it")
