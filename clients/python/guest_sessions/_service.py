"""The exchange with the service: requests, the keys that are followed beside them, and whether it is available.

One daemon thread in each process follows the keys, whatever the framework. It has no event loop: under gevent all
requests would be in it. A service that was found unavailable is not asked by any request until the thread has reached
it again.
"""

import asyncio
import json
import logging
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, TypeVar

import httpx

from guest_sessions._errors import GuestError
from guest_sessions._tokens import Verifier

logger = logging.getLogger("guest_sessions")

T = TypeVar("T")

TIMEOUT_S: Final = 3
FOLLOW_EVERY_S: Final = 5
LOOK_AGAIN_EVERY_S: Final = 1
MAX_ANSWER_BYTES: Final = 4 << 20  # a merge's response holds the session and its conflicts


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful response: its JSON object and its `Set-Cookie` values."""

    body: dict[str, Any]
    set_cookies: list[str]


_Connections = AsyncGenerator[httpx.AsyncClient, None]


class Service:
    """One guest-sessions service, as all requests of this process see it."""

    def __init__(self, url: str, *, api_key: str | None, verifier: Verifier) -> None:
        key = (api_key or "").strip()  # a file brings a line break
        if not all("!" <= character <= "~" for character in key):
            raise ValueError("api_key has characters that no header can carry")
        self._url = url.rstrip("/")
        # Compressed, a small response could fill the memory.
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        self._headers |= {"X-API-Key": key} if key else {}
        self._verifier = verifier
        self._available = True
        self._http: httpx.Client
        self._tls = httpx.create_ssl_context()  # once, since it reads all certificates of the authorities
        self._async_http: dict[asyncio.AbstractEventLoop, tuple[httpx.AsyncClient, _Connections]] = {}
        self._exchanges: set[asyncio.Task[Answer]] = set()
        self._follower: threading.Thread | None = None
        self._starting = threading.Lock()
        self._look = threading.Event()
        self._closed = threading.Event()

    @property
    def available(self) -> bool:
        """False from a failed call until the service has been reached again."""
        return self._available

    def start(self) -> None:
        """Sees to it that the keys are followed in this process; a fork leaves the thread behind."""
        with self._starting:
            if self._follower is None or not self._follower.is_alive() or self._closed.is_set():
                self._closed = threading.Event()
                self._http = httpx.Client(headers=self._headers, verify=self._tls, cookies=_no_cookies())
                self._follower = threading.Thread(
                    target=self._follow, args=(self._http, self._closed), name="guest-sessions-keys", daemon=True
                )
                self._follower.start()

    async def close(self) -> None:
        """Ends the thread and this event loop's connections; a later request starts again."""
        self._closed.set()
        self._look.set()
        await self._close_connections()

    async def post(self, path: str, body: Mapping[str, Any], guest_id: str | None) -> Answer:
        """Posts the JSON object; raises GuestError, and TypeError or ValueError for a value that is not JSON."""
        content = json.dumps(body).encode()
        self._require_available()
        # A request that is cancelled may hold its place in httpx' pool for ever. So none is when its visitor goes, and
        # the deadline ends the pool, too.
        exchange = asyncio.create_task(self._exchange(path, content, guest_id))
        self._exchanges.add(exchange)  # event loops hold their tasks weakly
        exchange.add_done_callback(self._ended)
        return await asyncio.shield(exchange)

    def _ended(self, exchange: asyncio.Task[Answer]) -> None:
        self._exchanges.discard(exchange)
        if not exchange.cancelled():
            exchange.exception()  # without a visitor nobody else retrieves it

    async def _exchange(self, path: str, content: bytes, guest_id: str | None) -> Answer:
        http = await self._http_of_loop()
        answer = bytearray()
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),  # httpx measures each read by itself
                http.stream("POST", self._url + path, content=content, headers=_routing(guest_id)) as response,
            ):
                async for chunk in response.aiter_raw():
                    answer += chunk
                    if len(answer) > MAX_ANSWER_BYTES:
                        break
        except httpx.HTTPError as error:
            raise self.found_unavailable(_reason(error)) from error
        except TimeoutError as error:
            if self._async_http.get(asyncio.get_running_loop(), (None,))[0] is http:
                await self._close_connections()
            raise self.found_unavailable(_reason(error)) from error
        return self._answer(response, answer)

    async def _close_connections(self) -> None:
        if opened := self._async_http.pop(asyncio.get_running_loop(), None):
            await opened[1].aclose()

    async def _http_of_loop(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        opened = self._async_http.get(loop)
        if opened is None or opened[0].is_closed:
            for ended in [each for each in list(self._async_http) if each.is_closed()]:
                self._async_http.pop(ended, None)
            connections = self._connections()
            opened = await anext(connections), connections
            self._async_http[loop] = opened
        return opened[0]

    async def _connections(self) -> _Connections:
        """A generator, which an event loop closes as it ends: under WSGI each asynchronous view has its own loop."""
        async with httpx.AsyncClient(
            headers=self._headers, timeout=TIMEOUT_S, verify=self._tls, cookies=_no_cookies()
        ) as http:
            yield http

    async def post_blocking(self, path: str, body: Mapping[str, Any], guest_id: str | None) -> Answer:
        """Posts like `post` and blocks meanwhile: this coroutine never suspends."""
        content = json.dumps(body).encode()
        self._require_available()
        exchange: Future[Answer] = Future()
        arguments = (exchange, self._exchange_blocking, self._http, "POST", path, content, guest_id)
        # In a thread, since nothing else ends the wait for a name server, of a minute in Kubernetes.
        threading.Thread(target=copy_context().run, args=(_fulfil, *arguments), daemon=True).start()
        try:
            return exchange.result(TIMEOUT_S)
        except TimeoutError as error:
            raise self.found_unavailable(_reason(error)) from error

    def _exchange_blocking(
        self, http: httpx.Client, method: str, path: str, content: bytes | None, guest_id: str | None
    ) -> Answer:
        answer = bytearray()
        timeouts = dict.fromkeys(("connect", "read", "write"), _TimeLeft()) | {"pool": TIMEOUT_S}
        try:
            with http.stream(
                method,
                self._url + path,
                content=content,
                headers=_routing(guest_id),
                extensions={"timeout": timeouts},
            ) as response:
                for chunk in response.iter_raw():
                    answer += chunk
                    if len(answer) > MAX_ANSWER_BYTES:
                        break
        except (httpx.HTTPError, TimeoutError) as error:
            raise self.found_unavailable(_reason(error)) from error
        return self._answer(response, answer)

    def _answer(self, response: httpx.Response, content: bytearray) -> Answer:
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            body = None
        if response.is_success and isinstance(body, dict):
            return Answer(body, response.headers.get_list("Set-Cookie"))
        if response.is_client_error and isinstance(body, dict) and isinstance(body.get("code"), str):
            facts = {name: value for name, value in body.items() if name not in {"type", "title", "detail", "code"}}
            raise GuestError(body["code"], str(body.get("detail") or body.get("title") or ""), facts)
        raise self.found_unavailable(f"status {response.status_code}, and not as the service responds")

    def found_unavailable(self, reason: str) -> GuestError:
        """Has the thread look again at once, so that one failed call costs the next visitor nothing."""
        if self._available:
            logger.warning("guest-sessions is unavailable, cookies stay as they are: %s", reason)
        self._available = False
        self._look.set()
        return _unavailable()

    def _require_available(self) -> None:
        if not self._available:
            raise _unavailable()

    def _follow(self, http: httpx.Client, closed: threading.Event) -> None:
        while not closed.is_set():
            self._fetch_keys(http)
            self._look.clear()
            self._look.wait(FOLLOW_EVERY_S if self._available else LOOK_AGAIN_EVERY_S)
        http.close()

    def _fetch_keys(self, http: httpx.Client) -> None:
        try:
            jwks = self._exchange_blocking(http, "GET", "/.well-known/jwks.json", None, None).body
            if not self._verifier.learn(jwks):
                self.found_unavailable("no JWK Set under /.well-known/jwks.json")
                return
        except GuestError as error:
            if error.code != "unavailable":
                logger.warning("guest-sessions does not give its keys: %s", error)
            return
        if not self._available:
            logger.warning("guest-sessions is available again")
        self._available = True


def _fulfil(future: Future[T], call: Callable[..., T], *arguments: object) -> None:
    try:
        future.set_result(call(*arguments))
    except BaseException as error:  # noqa: BLE001  (it is raised where the result is asked for)
        future.set_exception(error)


class _TimeLeft:
    """The timeout of a socket that is set again before each operation: what is left until one deadline for all.

    httpx gives each address, write and read its timeout alone. A service that sends a header line every two seconds, or
    a response of status 103, would have a visitor wait for ever. In whole seconds, since no other number is looked at
    that late.
    """

    def __init__(self) -> None:
        self._deadline_s = time.monotonic() + TIMEOUT_S

    def __index__(self) -> int:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the response did not end in time")
        return math.ceil(left_s)

    def __float__(self) -> float:  # which gevent's sockets take
        return float(self.__index__())


def _no_cookies() -> CookieJar:
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # one visitor's cookie is not for the next


def _routing(guest_id: str | None) -> dict[str, str]:
    # A balancer may keep a guest at one replica, which remembers its newest token.
    return {"X-Guest-Id": guest_id} if guest_id else {}


def _reason(error: Exception) -> str:
    # The text of a protocol error may quote the request.
    text = "" if isinstance(error, httpx.ProtocolError) else str(error)
    return f"{type(error).__name__}: {text}"


def _unavailable() -> GuestError:
    return GuestError("unavailable", "guest-sessions is unavailable; the guest is as it was")
