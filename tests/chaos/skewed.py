"""The service with a clock that is off by as many seconds as the file in `TRIAL_CLOCK` says at the moment."""

import asyncio
import os
import signal
import time
from pathlib import Path

from aiohttp import web

from service.app import make_app
from service.config import Settings
from service.http.protocol import Runner


class SkewedClock:
    """Unix time as a wrong clock shows it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self) -> float:
        return time.time() + float(self._file.read_text() or 0)


async def serve() -> None:
    settings = Settings.from_mapping(os.environ)
    runner = Runner(make_app(settings, clock=SkewedClock(Path(os.environ["TRIAL_CLOCK"]))))
    await runner.setup()
    await web.TCPSite(runner, settings.hosts[0], settings.port).start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve())
