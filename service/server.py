"""Serving: one process or several on one address until told to end, then the requests under way are answered."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import uvloop
from aiohttp import web

from service.app import Shared, make_app, make_runner
from service.config import Settings
from service.errors import InvalidSettings
from service.supervisor import Seat, Supervisor

logger = logging.getLogger("guest_sessions.server")

LAST_REQUESTS_S: Final = 0.25
"""Between the last connection taken and the closing of idle ones: its request may still be on its way."""
BACKLOG: Final = 1_024
"""Connections that wait to be taken: a burst of that many is not refused while a worker is replaced."""


class CannotListen(OSError):
    """`host` and `port` cannot be listened on; `reason` is the system's."""

    def __init__(self, host: str, port: int, reason: OSError) -> None:
        super().__init__(reason.errno, reason.strerror)
        self.host = host
        self.port = port
        self.reason = reason


def listen(hosts: Iterable[str], port: int) -> list[socket.socket]:
    """Sockets for every address of the hosts, taken before any worker starts and shared by all of them.

    Where `port` is 0, the system chooses it for the first address, and the others take the same.

    So a fault is told once, and what waits to be taken outlives the worker that would have taken it: with a socket of
    its own for each (SO_REUSEPORT), the connections that the kernel had given a dead or ending one would be reset.

    Raises:
        CannotListen: one of the addresses cannot be listened on; none of the others is kept.
    """
    sockets: list[socket.socket] = []
    bound: set[str] = set()
    for host in hosts:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, address in found:
                if address[0] not in bound:
                    bound.add(str(address[0]))
                    sockets.append(socket.create_server((address[0], port), family=family, backlog=BACKLOG))
                    port = sockets[0].getsockname()[1]
        except OSError as error:
            for each in sockets:
                each.close()
            raise CannotListen(host, port, error) from error
    return sockets


def serve(
    settings: Settings,
    sockets: Sequence[socket.socket],
    *,
    ready: Callable[[int], None],
    reread: Callable[[], Settings],
) -> bool:
    """Serves on the sockets until SIGTERM or SIGINT; `ready` is called with the port once requests are taken.

    With several workers, SIGHUP starts each of them anew under the settings that `reread` gives, or leaves all as they
    are where these have faults; address and number of workers stay. A process that serves alone cannot be started anew
    without a pause: it goes on, and says so. False where the workers could not even start.
    """
    port = sockets[0].getsockname()[1]

    def announce() -> None:
        ready(port)
        logger.info("serving", extra={"hosts": settings.hosts, "port": port, "workers": settings.workers})

    if settings.workers == 1:
        _run(settings, sockets, shared=Shared.by(1), ready=announce)
        return True
    # One more than there are: when they are restarted in turn, the new one counts beside the old one.
    shared = Shared.by(settings.workers + 1)

    current = [settings]

    def work(seat: Seat) -> None:
        _run(current[0], sockets, shared=shared, ready=seat.tell_ready, seat=seat)

    def prepare_restart() -> bool:
        try:
            current[0] = reread()
        except InvalidSettings as error:
            faults = {fault.path: fault.message for fault in error.errors}
            logger.error("the settings have faults: no worker is restarted", extra={"faults": faults})  # noqa: TRY400 - they say it all
            return False
        return True

    return Supervisor(number=settings.workers, work=work, ready=announce, prepare_restart=prepare_restart).run()


def _run(
    settings: Settings,
    sockets: Sequence[socket.socket],
    *,
    shared: Shared,
    ready: Callable[[], None],
    seat: Seat | None = None,
) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, sockets, shared=shared, ready=ready, seat=seat))


async def _serve(
    settings: Settings,
    sockets: Sequence[socket.socket],
    *,
    shared: Shared,
    ready: Callable[[], None],
    seat: Seat | None,
) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, ended.set)
    if seat is None:
        loop.add_signal_handler(signal.SIGHUP, logger.warning, "a single worker is not restarted: SIGHUP is ignored")
    else:
        loop.add_reader(seat.parent, ended.set)
    runner = make_runner(make_app(settings, shared=shared, row=seat.number if seat else 0))
    await runner.setup()
    try:
        for each_socket in sockets:
            await web.SockSite(runner, each_socket, backlog=BACKLOG).start()
        ready()
        await ended.wait()
        logger.info("ending: no new connections, requests under way are answered")
        runner.drain()
        for site in list(runner.sites):
            await site.stop()
        await asyncio.sleep(LAST_REQUESTS_S)
    finally:
        await runner.cleanup()
