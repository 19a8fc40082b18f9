"""The client connections: aiohttp's server with bounds on time and size, and our own responses to what it refuses.

aiohttp by itself waits 75 s for the rest of a head, lets one grow to megabytes, logs a malformed header line whole (an
API key in it included), echoes it, names its version, and at shutdown drops the rest of a body that is under way. Most
of this has no public switch, so this module, and no other, uses private attributes of aiohttp, pinned in pyproject.toml
to the minor version that the tests passed with:

- `Server._kwargs`, `Server._loop`: the options of the server that the application made, for our own connections.
- `RequestHandler._request_count`, `_waiter`: whether a request is under way, or its head may still be incomplete.
- `RequestHandler._task_handler`: the task that ends with the last response of a connection.
- `RequestHandler._close`: whether the connection ends without a further response.
- `RequestHandler._reading_paused`, `_loop`: to call the parent's method only where it has something to do.

Knows no route, only that most have a path without parameters.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from service.errors import GuestSessionsError
from service.http.problems import HttpProblem, failure_response

HEAD_TIMEOUT_S: Final = 5.0
"""For a request's head, from its first byte on: as long as for a body."""
MAX_LINE_BYTES: Final = 32_768
"""For one line of the head: twice the size that a request's headers usually reach, so that a full cookie jar fits."""
MAX_HEAD_BYTES: Final = 2 * MAX_LINE_BYTES
"""For all lines together; aiohttp alone would keep 128 of the longest, 4 MiB, for each connection."""
KEEPALIVE_S: Final = 75.0
"""Longer than the gateways keep an idle connection (60 s mostly), so that none is closed under a request."""
LINGERING_S: Final = 2.0
"""For the rest of a body that was refused unread, so that its sender sees the response and no reset connection."""
SHUTDOWN_S: Final = 10.0
"""For requests under way at shutdown: twice what a body may take."""
CUT_OFF_S: Final = 1.0
"""For requests that are still there after that."""
WRITE_TIMEOUT_S: Final = 30.0
"""For a client to read the responses that wait for it, as they must not stay in memory for good. Enough for the
largest asset of `/docs` at 60 KB a second."""

_BAD_REQUEST, _REQUEST_TIMEOUT = HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_TIMEOUT
"""Looked up once: Python 3.11 takes 0.3 µs for a member of an enum, as long as for a header."""
_BEYOND_ASCII: Final = re.compile(rb"[\x80-\xff]")
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?")
"""A Host header (RFC 9110, section 7.2). aiohttp accepts any text there."""

_Handler = Callable[[Any], Awaitable[web.StreamResponse]]


class Runner(web.AppRunner):
    """Runs an application over guarded connections."""

    def __init__(
        self,
        app: web.Application,
        *,
        head_timeout_s: float = HEAD_TIMEOUT_S,
        write_timeout_s: float = WRITE_TIMEOUT_S,
    ) -> None:
        super().__init__(
            app,
            access_log=None,
            auto_decompress=False,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGERING_S,
            shutdown_timeout=CUT_OFF_S,
            head_timeout_s=head_timeout_s,  # these two are options of our connections
            write_timeout_s=write_timeout_s,
        )

    def drain(self) -> None:
        """From now on each response is its connection's last, and says so: gateways send the next request elsewhere."""
        assert isinstance(self.server, _Server)  # noqa: S101 - for the types: made by `_make_server`
        self.server.draining = True

    async def shutdown(self) -> None:
        """Waits for the requests under way, whose bodies may still arrive. Idle connections are closed by now."""
        self.drain()
        assert self.server is not None  # noqa: S101 - for the types: it exists until the end of the clean-up
        last = [task for each in self.server.connections if isinstance(each, _Connection) and (task := each.last_task)]
        if last:
            await asyncio.wait(last, timeout=SHUTDOWN_S)
        await super().shutdown()

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handler = _dispatcher(self.app, made.request_handler)
        return _Server(handler, request_factory=made.request_factory, **made._kwargs)  # noqa: SLF001 - see the module


class _Server(web.Server):
    """Makes our connections where aiohttp's server would make its own."""

    draining = False

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


def _dispatcher(app: web.Application, resolve: _Handler) -> _Handler:
    """Calls the handler of a path without parameters directly; all other requests go through aiohttp's router.

    Without it the service reaches 0.90 (`/v1/verify` of a token seen before), 0.89 (`/v1/auth`) and 0.87 (the JWKS) of
    its requests a second: `make bench`, both in turn in one run.

    A request that is dispatched directly passes no middleware and no signal and knows no application, so the
    application must have none.
    """
    if app.middlewares or app.on_response_prepare:
        raise ValueError("middlewares and signals are not supported here")
    direct = {
        (route.method, resource.canonical): route.handler
        for resource in app.router.resources()
        if isinstance(resource, web.PlainResource)
        for route in resource
    }

    def dispatch(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        if not _HOST.fullmatch(request.headers.get(hdrs.HOST, "")):
            raise HttpProblem("malformed_request", "The Host header is not a host and a port.")
        path = request.raw_path.partition("?")[0]
        handler = direct.get((request.method, path)) or direct.get((hdrs.METH_ANY, path))
        if handler is None or hdrs.EXPECT in request.headers:
            return resolve(request)
        return handler(request)  # type: ignore[arg-type]  # no view classes are routed here

    return dispatch


class _Connection(web.RequestHandler):
    """One client's connection. A head is under way while bytes have arrived and no request waits or runs.

    Bytes may arrive before aiohttp has begun to wait for a request: then it has counted none yet.
    """

    __slots__ = (
        "_finished_requests",
        "_head_bytes",
        "_head_timeout_s",
        "_head_timer",
        "_request_line_ended",
        "_server",
        "_write_timeout_s",
        "_write_timer",
    )

    def __init__(self, manager: _Server, *, head_timeout_s: float, write_timeout_s: float, **options: Any) -> None:
        super().__init__(manager, **options)
        self._server = manager
        self._head_timeout_s = head_timeout_s
        self._write_timeout_s = write_timeout_s
        self._finished_requests = 0
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._request_line_ended = False
        self._write_timer: asyncio.TimerHandle | None = None

    @property
    def last_task(self) -> "asyncio.Task[None] | None":
        """While the service ends: what ends with the response to the request under way; None where there is none."""
        return None if self._close else self._task_handler

    def data_received(self, data: bytes) -> None:
        """Bounds the size and the time of a head that is under way."""
        # Gateways pass a target on as the visitor sent it, raw UTF-8 included, which aiohttp's parser refuses.
        if not data.isascii() and not self._request_line_ended and self._awaits_request():
            line, end, rest = data.partition(b"\n")
            data = _BEYOND_ASCII.sub(lambda byte: b"%%%02X" % ord(byte[0]), line) + end + rest
        super().data_received(data)
        if not self._awaits_request():
            if self._head_timer is not None:
                self._end_head()
            return
        self._request_line_ended = self._request_line_ended or b"\n" in data
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HttpProblem("malformed_request", f"The request's head is longer than {MAX_HEAD_BYTES} bytes."))
        elif self._head_timer is None:
            detail = f"The request's head did not arrive within {self._head_timeout_s:g} s."
            problem = HttpProblem("request_timeout", detail)
            self._head_timer = self._loop.call_later(self._head_timeout_s, self._refuse, problem)

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's own signature
        """Called for each body that was read; where nothing is paused there is nothing to resume."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def pause_writing(self) -> None:
        """Called when more waits for the client than the transport should hold."""
        super().pause_writing()
        if self.transport is not None:
            self._write_timer = self._loop.call_later(self._write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Called when the client has read nearly everything."""
        self._end_write_timer()
        super().resume_writing()

    def close(self) -> None:
        """Closes the connection unless a request is under way: aiohttp would drop what has yet to arrive of that.

        aiohttp calls this when the service ends, and once it has waited for the rest of a body that was refused unread.
        """
        if self._awaits_request() or self._finished_requests == self._request_count:
            super().close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called when the connection is closed, by either side."""
        self._end_head()
        self._end_write_timer()
        super().connection_lost(exc)

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """Sends a response; aiohttp's own (404, 405, 417) become problem documents."""
        if resp.status >= _BAD_REQUEST and isinstance(resp, web.HTTPException):
            resp = failure_response(resp, request)
        self._finished_requests = self._request_count
        # The rest of a body that was given up may still arrive: it must not be parsed as a request (RFC 9110,
        # section 15.5.9).
        if resp.status == _REQUEST_TIMEOUT:
            resp.force_close()
        # aiohttp reads a length of 2^64 - 1 as none: the body would be parsed as requests that no gateway has seen.
        if self._server.draining or (not request.body_exists and request.content_length):
            resp.force_close()
        return super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The response to what aiohttp's parser refused, or to a failure outside of any handler."""
        if isinstance(exc, ConnectionError) or request.writer.output_size:
            raise ConnectionError("the client has disconnected, or a part of the response is sent")
        error = exc if isinstance(exc, Exception) else RuntimeError(message or HTTPStatus(status).phrase)
        if isinstance(exc, HttpProcessingError):
            # Its message repeats the request, so neither the log nor the response may contain it.
            detail = f"This is not an HTTP/1.1 request that this service accepts ({type(exc).__name__})."
            error = HttpProblem("malformed_request", detail)
        response = failure_response(error, request)
        response.force_close()
        return response

    def _awaits_request(self) -> bool:
        return self._request_count == 0 or (self._waiter is not None and not self._waiter.done())

    def _end_head(self) -> None:
        self._head_bytes = 0
        self._request_line_ended = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _refuse(self, problem: GuestSessionsError) -> None:
        """Responds before there is a request, and closes the connection."""
        if self.transport is not None:
            self.transport.write(failure_response(problem, None).encode())
        self.force_close()
