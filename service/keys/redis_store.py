"""The sealed ring in Redis: the only import of `redis`. May always miss; knows nothing of what a ring means.

Every call ends within its timeout, and whatever goes wrong in it is `CacheUnavailable`. No message holds a password.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, Final, TypeVar

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from service.errors import CacheUnavailable
from service.keys.redis_url import RedisAddress

log = logging.getLogger("guest_sessions.redis")

RING_KEY: Final = "guest-sessions:keyring"
CHANNEL: Final = "guest-sessions:keyring:changed"
CLAIM_KEY: Final = "guest-sessions:keyring:founder"

TIMEOUT_S: Final = 1.5
"""For one call, connecting included: with the poll of 1 s, a change is still seen soon after a stall."""
CLAIM_S: Final = 30
"""Longer than making a key and putting it on disk can take; a founder that was killed holds others up for so long."""
LONGEST_VALUE_BYTES: Final = 4 * 2**20
"""Several times a full ring of RSA keys; what is longer is cut there, and so is found damaged."""
NO_BYTES: Final = b"no bytes at all"
"""Stands for an answer, or a value, of another type; it opens as little as any other garbage."""
PING_EVERY_S: Final = 5.0
"""A subscription that has been silent for so long is asked for a sign of life, and given up when it gives none."""
HEED_EVERY_S: Final = 0.15
"""A look at the ring for each word of a flood would cost every request its time; this much later is soon enough."""
MOST_WORDS: Final = 100
"""Taken in at one go, in some milliseconds; a server that sends more has to wait for the next turn."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0

LONGEST_MESSAGE_CHARS: Final = 200
"""Of what the client says of a failure: it stands in the log and in `/readyz`."""

T = TypeVar("T")


class RedisCache:
    """A `ports.KeyCache`. Connects when first asked."""

    def __init__(
        self,
        address: RedisAddress,
        *,
        timeout_s: float = TIMEOUT_S,
        ping_every_s: float = PING_EVERY_S,
        heed_every_s: float = HEED_EVERY_S,
    ) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._ping_every_s = ping_every_s
        self._heed_every_s = heed_every_s
        self._sentinel: Any = None
        self._client: Any = None

    async def get(self) -> bytes | None:
        """The bytes, none where there are none; at most `LONGEST_VALUE_BYTES` of them."""
        try:
            value = await self._call(self._redis.getrange(RING_KEY, 0, LONGEST_VALUE_BYTES))
        except _WrongTypeError:
            return NO_BYTES
        return (value or None) if isinstance(value, bytes) else NO_BYTES

    async def put(self, sealed: bytes) -> None:
        """Stores the bytes and tells the other replicas."""
        await self._call(self._redis.set(RING_KEY, sealed))
        await self._call(self._redis.publish(CHANNEL, "changed"))

    async def claim(self, founder: bytes) -> bool:
        """True for one founder in `CLAIM_S`."""
        if await self._call(self._redis.set(CLAIM_KEY, founder, nx=True, ex=CLAIM_S)):
            return True
        return await self._has_claim(founder)

    async def release(self, founder: bytes) -> None:
        """Lets the claim end at once; with the rights that a claim needs, which deleting is not among."""
        if await self._has_claim(founder):
            await self._call(self._redis.set(CLAIM_KEY, founder, px=1))

    async def _has_claim(self, founder: bytes) -> bool:
        return bool(await self._call(self._redis.getrange(CLAIM_KEY, 0, -1)) == founder)

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yields for words of a change and after each (re-)subscription; subscribes anew, with growing pauses.

        Of all words within `HEED_EVERY_S` it makes one.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            subscription = self._redis.pubsub()
            try:
                await self._call(self._redis.initialize())  # a cluster's subscription needs to know its nodes
                await self._call(subscription.subscribe(CHANNEL))
                while True:
                    if not await self._drained(subscription):
                        await self._word(subscription)
                    pause_s = FIRST_PAUSE_S
                    yield
                    await asyncio.sleep(self._heed_every_s)
            except CacheUnavailable as error:
                log.debug("the subscription ended: %s", error.detail)
            finally:
                with contextlib.suppress(CacheUnavailable):
                    await self._call(subscription.aclose())
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def close(self) -> None:
        """Lets go of all connections."""
        with contextlib.suppress(CacheUnavailable):
            if self._client is not None:
                await self._call(self._client.aclose())
            if self._sentinel is not None:
                for sentinel in self._sentinel.sentinels:
                    await self._call(sentinel.aclose())

    @property
    def _redis(self) -> Any:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _connect(self) -> Any:
        address = self._address
        options = self._options(username=address.username, password=address.password)
        if address.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in address.nodes]
            return RedisCluster(startup_nodes=nodes, **options)
        if address.kind == "sentinel":
            ask = self._options(username=address.sentinel_username, password=address.sentinel_password)
            self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
                address.nodes, sentinel_kwargs=ask, **options, db=address.db
            )
            return self._sentinel.master_for(address.service)
        if address.path is not None:
            return Redis(unix_socket_path=address.path, db=address.db, **options)
        ((host, port),) = address.nodes
        return Redis(host=host, port=port, db=address.db, **options)

    def _options(self, *, username: str | None, password: str | None) -> dict[str, Any]:
        tls = {
            "ssl": True,
            "ssl_ca_certs": self._address.ca_file,
            "ssl_certfile": self._address.certificate_file,
            "ssl_keyfile": self._address.key_file,
            "ssl_check_hostname": self._address.check_hostname,
        }
        return {
            "username": username,
            "password": password,
            "socket_timeout": self._timeout_s,
            "socket_connect_timeout": self._timeout_s,
            "retry": Retry(NoBackoff(), 1),  # once: a kept connection may have died since
            "protocol": 2,
        } | (tls if self._address.tls else {})

    async def _word(self, subscription: PubSub) -> None:
        """Waits for a word of a change, or the confirmation of the subscription, and makes sure that it lives."""
        asked = False
        while True:
            message = await self._call(subscription.get_message(timeout=self._ping_every_s), grace_s=self._ping_every_s)
            if message is not None and message["type"] != "pong":
                return
            if message is None and asked:
                raise CacheUnavailable(f"Redis ({self._address}) gives no sign of life.")
            asked = message is None
            if asked:
                await self._call(subscription.ping())

    async def _drained(self, subscription: PubSub) -> bool:
        """Takes in the words that have come meanwhile; whether there were any."""
        for number in range(MOST_WORDS):
            if await self._call(subscription.get_message(timeout=0)) is None:
                return number > 0
        return True

    async def _call(self, call: Awaitable[T], *, grace_s: float = 0) -> T:
        """The answer, or `CacheUnavailable` within the timeout and `grace_s` more.

        The client calls `asyncio.wait_for`, which up to Python 3.11 loses a cancellation that comes together with the
        answer (python/cpython#86296); a process could then never be ended. So a lost one is raised again.
        """
        task = asyncio.current_task()
        cancelled = 0 if task is None else task.cancelling()
        try:
            return await self._answer(call, within_s=self._timeout_s + grace_s)
        finally:
            if task is not None and task.cancelling() > cancelled:
                raise asyncio.CancelledError

    async def _answer(self, call: Awaitable[T], *, within_s: float) -> T:
        try:
            async with asyncio.timeout(within_s):
                return await call
        except TimeoutError as error:
            raise CacheUnavailable(f"Redis ({self._address}) did not answer in time.") from error
        except ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                raise _WrongTypeError(f"Redis ({self._address}) holds something else under the ring's name.") from error
            raise CacheUnavailable(f"Redis ({self._address}) refused: {error}.") from error
        except Exception as error:
            # A server that lies makes the client raise nearly anything; all of it means the same, and none may pass.
            raise CacheUnavailable(f"Redis ({self._address}) cannot be used: {_told(error)}") from error


class _WrongTypeError(CacheUnavailable):
    """Something else is stored under the ring's name."""


def _told(error: Exception) -> str:
    """The failure's kind and its first line: the client's messages may hold whole objects, line after line."""
    first_line, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first_line[:LONGEST_MESSAGE_CHARS]}" if first_line else type(error).__name__
