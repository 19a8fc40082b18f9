"""The service as a process of its own, on a free loopback port; ended by its own id."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.log_sieve import keep_out_settings, leaks

SERVE = (sys.executable, "-m", "service", "serve")
START_S = 30.0
DEADLINE_S = 30.0


class Service:
    """A running service; what it prints, on both streams, goes to `log`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.base_url = f"http://127.0.0.1:{self._port()}"

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text("utf-8")

    def stop(self, *, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """Asks it to end and returns its exit code."""
        self.process.send_signal(with_signal)
        return self.process.wait(timeout=START_S)

    def _port(self) -> str:
        """Waits for the log line that names the port."""
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s and self.process.poll() is None:
            found = re.search(r'"port": (\d+)', self.output)
            if found:
                return found[1]
            time.sleep(0.02)
        raise AssertionError(f"the service did not start: {self.output}")


@contextmanager
def running(folder: Path, **variables: str) -> Iterator[Service]:
    """Starts `serve` with these settings and waits until it takes requests."""
    given = {
        "GUEST_KEYS_DIR": str(folder / "keys"),
        "GUEST_PORT": "0",
        "GUEST_ISSUER": "http://guests.test",
        "GUEST_LOG_FORMAT": "json",
        "GUEST_LOG_LEVEL": "debug",
        **variables,
    }
    keep_out_settings(given)
    log = folder / "service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(SERVE, env=environment(given), stdout=output, stderr=output, cwd=folder)  # noqa: S603
    try:
        yield Service(process, log)
    finally:
        process.kill()
        process.wait(timeout=START_S)
    assert leaks(log.read_text("utf-8", errors="replace")) == []


def until(holds: Callable[[], bool]) -> None:
    """Waits for what a real process does; fails at the deadline."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline_s, "it did not come to hold"
        time.sleep(0.02)


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, with no settings but the given ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GUEST_")}
    root = str(Path(__file__).parent.parent)
    return {**kept, "PYTHONPATH": root, **variables}
