"""The servers under load: real processes, pinned to one core, and what they cost in processor time."""

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.load import Connections

START_TIMEOUT_S: Final = 20.0
CONNECTIONS: Final = 32
_NS: Final = 1e9


class Server(msgspec.Struct, frozen=True):
    """A running server, and the load's connections to it."""

    name: str
    port: int
    pid: int
    connections: Connections

    def cpu_s(self) -> float:
        """Processor time that all its threads have used so far, to the nanosecond, in user and kernel mode."""
        # The clock id of another process, as clock_getcpuclockid(3) builds it on Linux.
        return time.clock_gettime_ns((~self.pid << 3) | 2) / _NS


def cores() -> tuple[int | None, int | None]:
    """One core for the server and one for the load; None, None on a machine of a single core."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[-1]) if len(allowed) > 1 else (None, None)


def pin(core: int | None) -> None:
    """Keeps this process, and what it starts from now on, on one core."""
    if core is not None:
        os.sched_setaffinity(0, {core})


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    *,
    port: int,
    core: int | None,
    variables: Mapping[str, str],
    folder: Path | None = None,
) -> Iterator[Server]:
    """Runs a command on `core`, in `folder`, while the context lasts."""
    connections = Connections(port, number=CONNECTIONS)
    before = os.sched_getaffinity(0)
    pin(core)
    try:
        process = subprocess.Popen(  # noqa: S603 - our own servers
            command,
            env={**os.environ, **variables},
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
    finally:
        os.sched_setaffinity(0, before)
    try:
        yield Server(name, port, process.pid, connections)
    finally:
        connections.close()
        process.terminate()
        process.wait(START_TIMEOUT_S)


async def answering(server: Server) -> None:
    """Waits until the server takes connections.

    Raises:
        TimeoutError: it does not.
    """
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
