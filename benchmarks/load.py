"""The load: a number of keep-alive connections, each with one request under way, over raw protocols.

One connection costs a few microseconds a request here, so that the server is what limits.
"""

import asyncio
import random
import re
import time
from collections.abc import Iterator
from typing import Final, cast

import msgspec

ANSWER_TIMEOUT_S: Final = 30.0
MAX_LATE_S: Final = 0.05
"""What a connection may fall behind its pace; more would be a burst that nobody asked for."""
_LENGTH: Final = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Burst(msgspec.Struct, frozen=True, kw_only=True):
    """What one burst of load found."""

    requests: int
    seconds: float
    latencies_s: list[float]
    body_bytes: int
    """Of the last answer."""

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return self.requests / self.seconds


class WrongAnswer(Exception):
    """The server answered something else than the operation asks for."""


class Connection(asyncio.Protocol):
    """One keep-alive connection: sends a request, reads the answer, reports it, and is then free for the next."""

    def __init__(self) -> None:
        self.load: Load | None = None
        self.due_at_s = 0.0
        self.is_open = False
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._sent_at_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Waits for a load."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own, no subclass of asyncio's
        self.is_open = True

    def send(self, request: bytes) -> None:
        """Sends one request; the answer is reported to the load."""
        self._sent_at_s = time.perf_counter()
        if self._transport is not None:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Adds up to a whole answer."""
        received = self._received = self._received + data if self._received else data
        head_end = received.find(b"\r\n\r\n")
        if head_end < 0 or self.load is None:
            return
        length = _LENGTH.search(received, 0, head_end)
        body_bytes = int(length[1]) if length else 0
        if len(received) < head_end + 4 + body_bytes:
            return
        self._received = b""
        latency_s = time.perf_counter() - self._sent_at_s
        self.load.answered(self, received, body_bytes=body_bytes, latency_s=latency_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """A server that hangs up under load has failed."""
        self.is_open = False
        if self.load is not None:
            self.load.lost(exc)

    def close(self) -> None:
        """Hangs up."""
        if self._transport is not None:
            self._transport.close()


class Load:
    """One burst: every connection sends its next request as soon as the last one is answered, or at its pace."""

    def __init__(
        self, requests: Iterator[bytes], *, ends_at_s: float, expects: bytes, pause_s: float | None = None
    ) -> None:
        """`pause_s`: from one request of a connection to its next; None: the next one follows the answer."""
        self._loop = asyncio.get_running_loop()
        self._pause_s = pause_s
        self._requests = requests
        self._ends_at_s = ends_at_s
        self._expects = expects
        self._under_way = 0
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._body_bytes = 0
        self._latencies_s: list[float] = []

    async def over(self) -> tuple[list[float], int]:
        """When the last answer has come: every latency, and the size of the last body."""
        await self._over
        return self._latencies_s, self._body_bytes

    def join(self, connection: Connection) -> None:
        """Takes a connection in; where there is a pace, spread over it, so that not all send at once."""
        connection.load = self
        connection.due_at_s = self._loop.time() - random.random() * (self._pause_s or 0)  # noqa: S311 - no secret
        self._ready(connection)

    def answered(self, connection: Connection, answer: bytes, *, body_bytes: int, latency_s: float) -> None:
        """Counts an answer."""
        self._under_way -= 1
        self._body_bytes = body_bytes
        self._latencies_s.append(latency_s)
        if answer[9:11] != b"20" or self._expects not in answer:
            self._fail(WrongAnswer(answer[:500].decode("latin-1")))
            return
        self._ready(connection)

    def lost(self, error: Exception | None) -> None:
        """A connection is gone."""
        self._fail(error or WrongAnswer("the server hung up"))

    def _ready(self, connection: Connection) -> None:
        """Gives a free connection its next request: at once, or when its pace says so."""
        if self._pause_s is None:
            self._go_on(connection)
            return
        # By a schedule, not after a pause: a late answer must not lower the load that comes after it.
        connection.due_at_s = max(connection.due_at_s + self._pause_s, self._loop.time() - MAX_LATE_S)
        self._loop.call_at(connection.due_at_s, self._go_on, connection)

    def _go_on(self, connection: Connection) -> None:
        request = next(self._requests, None) if time.perf_counter() < self._ends_at_s else None
        if request is not None:
            self._under_way += 1
            connection.send(request)
        elif not self._under_way and not self._over.done():
            self._over.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self._over.done():
            self._over.set_exception(error)


class Connections:
    """So many connections to one server, kept from burst to burst: to open one costs as much as several requests."""

    def __init__(self, port: int, *, number: int) -> None:
        self._port = port
        self._number = number
        self._open: list[Connection] = []

    async def burst(
        self, requests: Iterator[bytes], *, seconds: float, expects: bytes, per_s: float | None = None
    ) -> Burst:
        """Loads the server for `seconds`, or until the requests run out; with `per_s` no faster than that.

        Raises:
            WrongAnswer: one answer was not 200 or 201, or did not contain what it should.
        """
        await self._replenish()
        started_s = time.perf_counter()
        pause_s = None if per_s is None else self._number / per_s
        load = Load(requests, ends_at_s=started_s + seconds, expects=expects, pause_s=pause_s)
        try:
            for connection in self._open:
                load.join(connection)
            async with asyncio.timeout(seconds + ANSWER_TIMEOUT_S):
                latencies_s, body_bytes = await load.over()
        finally:
            for connection in self._open:
                connection.load = None
        elapsed_s = time.perf_counter() - started_s
        return Burst(requests=len(latencies_s), seconds=elapsed_s, latencies_s=latencies_s, body_bytes=body_bytes)

    def close(self) -> None:
        """Hangs up."""
        for connection in self._open:
            connection.close()

    async def _replenish(self) -> None:
        """Opens the connections that are missing: servers close those that have been idle for long."""
        loop = asyncio.get_running_loop()
        self._open = [connection for connection in self._open if connection.is_open]
        while len(self._open) < self._number:
            _, connection = await loop.create_connection(Connection, "127.0.0.1", self._port)
            self._open.append(connection)
