"""Real processes on 127.0.0.1 for tests: started with a log file, waited for by what they answer, ended by their id."""

import contextlib
import http.client
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"


def wait_until(holds: Callable[[], object], *, what: str, within_s: float = 60) -> None:
    """Returns as soon as `holds` does; fails, naming `what`, when it has not after `within_s`."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"waited {within_s} s in vain: {what}"
        time.sleep(0.05)


def accepts(port: int) -> bool:
    """Whether anybody listens on the port."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def running(
    command: Iterable[object], *, port: int, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The command as a process, from when it listens on `port`; ended with SIGTERM, or SIGKILL after 10 s."""
    with log.open("wb") as output:
        program, *arguments = map(str, command)
        process = subprocess.Popen([program, *arguments], stdout=output, stderr=output, env=env)  # noqa: S603
        try:
            wait_until(
                lambda: accepts(port) or process.poll() is not None, what=f"{program} on port {port}", within_s=120
            )
            assert process.poll() is None, log.read_text(errors="replace")
            yield process
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and waits for its end."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Answer:
    """What came back over the wire."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Every value of a header, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self) -> Any:
        """The body, which must be JSON."""
        return json.loads(self.body)


def send(
    port: int,
    path: str,
    *,
    method: str = "GET",
    headers: Sequence[tuple[str, str]] = (),
    body: bytes | None = None,
    source: str = HOST,
) -> Answer:
    """One request from the loopback address `source`, its header lines as given besides Host and Content-Length."""
    connection = http.client.HTTPConnection(HOST, port, timeout=60, source_address=(source, 0))
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, tuple(response.getheaders()), response.read())
    finally:
        connection.close()
