"""Serving: one process on one address until it is told to end, then the requests under way are answered to the end."""

import asyncio
import logging
import signal
from collections.abc import Callable

import uvloop
from aiohttp import web

from service.app import make_app, make_runner
from service.settings import Settings

logger = logging.getLogger("guest_sessions.server")


def serve(settings: Settings, *, ready: Callable[[int], None]) -> None:
    """Serves until SIGTERM or SIGINT; `ready` is called with the port once requests are taken.

    Raises:
        OSError: the address cannot be listened on.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, ready=ready))


async def _serve(settings: Settings, *, ready: Callable[[int], None]) -> None:
    ended = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, ended.set)
    runner = make_runner(make_app(settings))
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port, reuse_address=True)
        await site.start()
        ready(runner.addresses[0][1])
        logger.info("serving", extra={"host": settings.host, "port": runner.addresses[0][1]})
        await ended.wait()
        logger.info("ending: no new connections, requests under way are answered")
    finally:
        await runner.cleanup()
