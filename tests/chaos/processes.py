"""Service processes as an operator starts them, each on a port of its own."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.ports import free_port

START_TIMEOUT_S: Final = 60.0
SERVICE: Final = ("service", "serve")
DRAIN_S: Final = 0.5
"""Between the gateway's last request and the signal, as a rolling restart has it."""
ISSUER: Final = "http://guests.test"


class Replica:
    """One process. `up`: a gateway in front would send it requests."""

    def __init__(self, name: str, variables: dict[str, str], *, log: Path, program: tuple[str, ...] = SERVICE) -> None:
        self.name = name
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.up = False
        self._program = program
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GUEST_")},
            "GUEST_PORT": str(self.port),
            "GUEST_ISSUER": ISSUER,
            "GUEST_LOG_FORMAT": "json",
            **variables,
        }

    def launch(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", *self._program], env=self.environment, stdout=log, stderr=log
            )

    async def ready(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        """Waits until it is ready; what `/readyz` says then."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                try:
                    async with session.get(f"{self.base}/readyz") as response:
                        status = await response.json()
                        if response.status == 200:
                            self.up = True
                            return dict(status)
                except aiohttp.ClientError:
                    pass
                if self._process is None or self._process.poll() is not None:
                    last = self._log.read_text("utf-8").rstrip().rpartition("\n")[2]  # the log's folder goes, too
                    raise RuntimeError(f"{self.name} ended: {last}")
                await asyncio.sleep(0.05)

    async def end(self) -> int | None:
        """Takes it out of the gateway, asks it to end, and returns its exit code; None where it did not end in 30 s."""
        self.up = False
        await asyncio.sleep(DRAIN_S)
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return await asyncio.to_thread(self._process.wait, 30)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


async def command(variables: dict[str, str], *arguments: str) -> str:
    """`guest-sessions …` in a process of its own; its standard output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service",
        *arguments,
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{arguments}: {errors.decode()}")
    return out.decode()
