"""A server between an application or a gateway and guest-sessions, that fails in the ways of servers in between."""

import contextlib
import http.client
import http.server
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.gateways.guest_service import GuestService
from tests.gateways.processes import HOST


@dataclass(frozen=True)
class Request:
    """What came for the service; header names are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Front(http.server.ThreadingHTTPServer):
    """What stands before the service.

    `state`: `open` hands requests on, with a cookie of its own added; `silent`, `byte by byte`, `header by header` and
    `endless` never come to an end;
    `bad gateway` answers with a page of HTML; `losing` hands changes on and closes the connection instead of answering;
    any JSON is itself the answer.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, service: GuestService) -> None:
        super().__init__((HOST, 0), FrontHandler)
        self.service = service
        self.woken = threading.Event()
        self._state = "open"
        self.asked: list[str] = []
        self.cookies: list[str] = []
        self.requests: list[Request] = []
        self.hanging: list[str] = []
        """The paths of requests that get no response in this state, whether or not the other side still waits."""
        self.longest_answer_bytes = 0
        """Of those that never come to an end, as far as the other side took it."""

    @property
    def state(self) -> str:
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        """Whatever hung in the state before ends too."""
        self._state = state
        hanging, self.woken = self.woken, threading.Event()
        hanging.set()

    @property
    def url(self) -> str:
        return f"http://localhost:{self.server_port}"  # by name: aiohttp keeps no cookie of an address


class FrontHandler(http.server.BaseHTTPRequestHandler):
    server: Front

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        woken, state = self.server.woken, self.server.state
        self.server.asked.append(self.path)
        self.server.cookies += self.headers.get_all("Cookie", [])
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append(Request(self.path, headers, body))
        if state in {"silent", "byte by byte", "header by header", "endless"}:
            self.server.hanging.append(self.path)
            with contextlib.suppress(OSError):  # the other side has gone
                self.respond_for_ever(state, woken)
            self.server.hanging.remove(self.path)
        elif state == "bad gateway":
            self.answer(502, [("Content-Type", "text/html")], b"<h1>Bad Gateway</h1>")
        elif state.startswith("{"):
            self.answer(200, [("Content-Type", "application/json")], state.encode())
        else:
            assert state in {"open", "losing"}
            connection = http.client.HTTPConnection(HOST, self.server.service.port, timeout=15)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if state == "losing" and self.command == "POST":
                self.close_connection = True
                return
            kept = [(name, value) for name, value in answer.getheaders() if name in {"Content-Type", "Set-Cookie"}]
            self.answer(answer.status, [*kept, ("Set-Cookie", "balancer=1; Path=/")], content)

    def respond_for_ever(self, state: str, woken: threading.Event) -> None:
        if state == "silent":
            woken.wait()
            return
        self.send_response_only(200)
        if state != "header by header":
            self.end_headers()
        self.flush_headers()
        piece = {"byte by byte": b" ", "header by header": b"X-Filler: 1\r\n", "endless": b" " * 65_536}[state]
        sent_bytes = 0
        while not woken.wait(0 if state == "endless" else 1):
            sent_bytes += self.wfile.write(piece)
            self.server.longest_answer_bytes = max(sent_bytes, self.server.longest_answer_bytes)

    def do_POST(self) -> None:
        self.do_GET()

    def answer(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in [*headers, ("Content-Length", str(len(body)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: the tests read no such log."""


@contextlib.contextmanager
def front(service: GuestService) -> Iterator[Front]:
    with Front(service) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))  # so often it looks whether it is to end
        thread.start()
        try:
            yield server
        finally:
            server.woken.set()
            server.shutdown()
            thread.join()
