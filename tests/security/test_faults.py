"""What the machine and its operator do to a running service: no descriptors left, ended under load, crowded out."""

import asyncio
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import msgspec
import pytest

from tests.api import Api
from tests.conftest import MakeApi
from tests.processes import Service, running
from tests.security.wire import connected

HALF_HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: "
HALF_BODY = b"POST /v1/issue HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"


def port_of(service: Service) -> int:
    return int(service.base_url.rpartition(":")[2])


def status_of(connection: HTTPConnection) -> int:
    connection.request("GET", "/healthz")
    response = connection.getresponse()
    response.read()
    return response.status


def cpu_s(service: Service) -> float:
    fields = Path(f"/proc/{service.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@contextmanager
def crowd(port: int, size: int) -> Iterator[None]:
    """That many connections that say nothing."""
    with ExitStack() as stack:
        for _ in range(size):
            silent = stack.enter_context(socket.socket())
            silent.settimeout(0.05)
            try:
                silent.connect(("127.0.0.1", port))
            except OSError:
                break  # the queue of those who wait to be let in is full too
        yield


def test_without_descriptors_left_it_serves_those_who_are_in_and_recovers(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        inside = HTTPConnection("127.0.0.1", port_of(service), timeout=10)
        assert status_of(inside) == 200
        resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (64, 64))
        before_s = cpu_s(service)

        with crowd(port_of(service), 300):
            during = [status_of(inside) for _ in range(50)]
        deadline_s, recovered = time.monotonic() + 20, 0
        while not recovered and time.monotonic() < deadline_s:
            newcomer = HTTPConnection("127.0.0.1", port_of(service), timeout=2)
            try:
                recovered = status_of(newcomer)
            except OSError:
                time.sleep(0.1)
            newcomer.close()
        inside.close()
        used_s = cpu_s(service) - before_s
        ended = service.stop()
        lines = service.output.splitlines()

    assert (set(during), recovered, ended) == ({200}, 200, 0)
    assert used_s < 5  # it did not spin
    assert len(lines) < 100


class Caller(threading.Thread):
    """Asks again and again until it is not answered any more; no answer may be broken."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.answered = 0
        self.broken: list[str] = []

    def run(self) -> None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        while True:
            try:
                connection.request("POST", "/v1/issue", b"{}", {"Content-Type": "application/json"})
                response = connection.getresponse()
            except (OSError, HTTPException):
                return (
                    connection.close()
                )  # not let in, or closed before the first byte of an answer: may be asked again
            try:
                body = msgspec.json.decode(response.read())
            except (OSError, HTTPException, msgspec.DecodeError) as error:
                self.broken.append(repr(error))
                return connection.close()
            if response.status != 201 or "token" not in body:
                self.broken.append(f"{response.status} {body}")
            self.answered += 1


def test_asked_to_end_under_load_it_breaks_no_answer_and_exits_0(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        callers = [Caller(port_of(service)) for _ in range(8)]
        for caller in callers:
            caller.start()
        while sum(caller.answered for caller in callers) < 100:
            time.sleep(0.01)

        exit_code = service.stop(with_signal=signal.SIGTERM)
        for caller in callers:
            caller.join(timeout=20)

    assert exit_code == 0
    assert [caller.broken for caller in callers] == [[]] * 8
    assert "Traceback" not in service.output


@pytest.mark.parametrize("half", [HALF_HEAD, HALF_BODY, b""], ids=["half a head", "half a body", "nothing"])
async def test_200_slow_clients_keep_nobody_waiting(make_api: MakeApi, half: bytes) -> None:
    api: Api = await make_api()
    token = (await api.issue())["token"]
    async with asyncio.timeout(60):
        async with ExitStackOfWires(api, 200, half):
            for _ in range(20):
                assert (await api.verify(token))["active"]


class ExitStackOfWires:
    """Many connections at once that have sent the same bytes."""

    def __init__(self, api: Api, size: int, sent: bytes) -> None:
        self._api, self._size, self._sent = api, size, sent

    async def __aenter__(self) -> None:
        self._open = [connected(self._api) for _ in range(self._size)]
        for wire in await asyncio.gather(*(each.__aenter__() for each in self._open)):
            wire.writer.write(self._sent)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(each.__aexit__(None, None, None) for each in self._open))


def test_half_a_head_that_comes_with_the_connection_is_given_up_too(tmp_path: Path) -> None:
    with running(tmp_path) as service, ExitStack() as stack:
        silent = [stack.enter_context(socket.socket()) for _ in range(50)]
        for each in silent:
            each.settimeout(20)
            each.connect(("127.0.0.1", port_of(service)))
            each.sendall(HALF_HEAD)

        answers = [each.recv(17) for each in silent]

    assert answers == [b"HTTP/1.1 408 Requ"] * 50
