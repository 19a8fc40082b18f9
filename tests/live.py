"""The service as a process of its own, started as a person would, without settings of this machine."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 60
END_S = 20


def environment() -> dict[str, str]:
    """What a person's shell has: this Python first, no settings of this project, no proxy for the loopback address."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GUEST_")}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "no_proxy": "127.0.0.1"}


@contextmanager
def served(folder: Path, **variables: str) -> Iterator[str]:
    """The address where the service listens, in `folder` and under further settings; it must end with exit code 0."""
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(  # our own words
        [sys.executable, "-m", "service", "serve"],
        cwd=folder,
        env={**environment(), "GUEST_PORT": address.partition(":")[2], **variables},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until_ready(address, process)
        yield address
    finally:
        process.terminate()
        assert process.wait(timeout=END_S) == 0


def free_port() -> int:
    """A port of the loopback address that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(address: str, process: "subprocess.Popen[bytes]") -> None:
    """Returns once the service is ready; fails where its process has ended before, or does not get so far."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with opener.open(f"http://{address}/readyz", timeout=1):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    raise AssertionError("the service did not become ready")
