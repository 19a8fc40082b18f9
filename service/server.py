"""Serving: one process or several on the same sockets, until a signal ends them; requests under way are completed."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from functools import partial
from typing import Final, cast

import uvloop
from aiohttp import web

from service.app import Shared, make_app, make_key_operations
from service.config import Settings
from service.errors import GuestSessionsError, InvalidSettings
from service.http.auth import is_loopback
from service.http.protocol import Runner

logger = logging.getLogger("guest_sessions.server")

LAST_REQUESTS_S: Final = 0.25
"""Between the last connection taken and the closing of idle ones: its request may still be on its way."""
SYSTEMD_FIRST_FD: Final = 3
"""Of the sockets that systemd passes (sd_listen_fds(3))."""
BACKLOG: Final = 1_024
"""Connections that wait to be taken: a burst of that many is not refused while a worker is replaced."""
_SO_ATTACH_FILTER: Final = 26
_DROP_SYN: Final = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
)
"""Of Linux (socket(7), bpf(2)): a filter of packets. It loads the flags of the TCP header; with SYN nothing passes."""


class CannotListen(OSError):
    """`host` and `port` cannot be listened on; `reason` is the system's."""

    def __init__(self, host: str, port: int, reason: OSError) -> None:
        super().__init__(reason.errno, reason.strerror)
        self.host = host
        self.port = port
        self.reason = reason


def inherited(variables: MutableMapping[str, str], *, hosts: Iterable[str]) -> list[socket.socket]:
    """The sockets that systemd has opened for this process (sd_listen_fds(3)), none where it was not started so.

    Takes systemd's variables out of `variables`: they are for no child of this process. The rules that keep a start
    safe look at `hosts`, so sockets that are reachable from elsewhere need one in `hosts` that is, too.

    Raises:
        ValueError: a socket is not TCP, or reachable from elsewhere where no host is.
    """
    pid, number = variables.pop("LISTEN_PID", ""), variables.pop("LISTEN_FDS", "")
    variables.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):
        return []
    sockets = [socket.socket(fileno=SYSTEMD_FIRST_FD + index) for index in range(int(number))]
    for each in sockets:
        each.set_inheritable(False)
        if each.family not in (socket.AF_INET, socket.AF_INET6) or each.type != socket.SOCK_STREAM:
            raise ValueError("systemd has passed a socket that is not TCP")
        address = each.getsockname()[0]
        if not is_loopback(address) and all(is_loopback(host) for host in hosts):
            raise ValueError(f"systemd has passed a socket on {address}, so GUEST_HOST must be that address, too")
    return sockets


def listen(hosts: Iterable[str], port: int) -> list[socket.socket]:
    """Sockets for every address of the hosts, taken before any worker starts and shared by all of them.

    Where `port` is 0, the system chooses it for the first address, and the others take the same.

    So a fault is reported once, and a waiting connection outlives the worker that would have accepted it: with a socket
    for each (SO_REUSEPORT), the connections that the kernel had given to a dead or ending worker would be reset.

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


def turn_away(sockets: Iterable[socket.socket]) -> None:
    """Lets no new connection into the queues of the sockets, which all processes share, while these are emptied.

    One that came between the last look at a queue and the close of its socket would be reset. Its client tries again
    within a second, and is refused then. Other systems than Linux have no such filters, nor has every sandbox.
    """
    program = array("B", _DROP_SYN)
    instructions = struct.pack("HP", 4, program.buffer_info()[0])
    for each in sockets if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):
            each.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, instructions)


def serve(
    settings: Settings,
    sockets: Sequence[socket.socket],
    *,
    are_inherited: bool,
    ready: Callable[[int], None],
    reread: Callable[[], Settings],
) -> None:
    """Serves on the sockets until SIGTERM or SIGINT; `ready` is called with the port once connections are accepted.

    Sockets that `are_inherited` stay open in another process, and take connections for the next one that serves.

    With several workers it ends by exiting, and SIGHUP replaces each of them under the settings that `reread` returns;
    sockets and the number of workers stay. Where these settings have faults or do not open the keyring, nothing is
    restarted. A process that serves alone cannot be replaced without a pause: it ignores SIGHUP, and says so.
    """
    port = sockets[0].getsockname()[1]
    shared = Shared.by(settings.workers + 1)
    current = [settings]

    def announce() -> None:
        ready(port)
        logger.info("serving", extra={"hosts": settings.hosts, "port": port, "workers": settings.workers})

    is_alone = settings.workers == 1
    own = () if are_inherited else sockets

    async def work(row: int, ended: asyncio.Event, ready: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, ended.set)
        runner = Runner(make_app(current[0], shared=shared, row=row))
        await _serve(runner, sockets, ended=ended, ready=ready, closing=own if is_alone else ())

    async def work_alone() -> None:
        said = "a single worker is not restarted: SIGHUP is ignored"
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, logger.warning, said)
        await work(0, asyncio.Event(), announce)

    def may_restart() -> bool:
        try:
            settings = reread()
            asyncio.run(make_key_operations(settings).ring())
        except InvalidSettings as error:
            faults = {fault.path: fault.message for fault in error.errors}
            logger.error("the settings have faults: no worker is restarted", extra={"faults": faults})  # noqa: TRY400 - they say it all
            return False
        except GuestSessionsError as error:
            logger.error("no worker is restarted: %s", error.detail)  # noqa: TRY400 - the reason says it all
            return False
        current[0] = settings
        logger.info("restarting the workers one by one")
        return True

    if is_alone:
        uvloop.run(work_alone())
        return
    # Imported here: a process that serves alone does not need gunicorn.
    from service.workers import Workers  # noqa: PLC0415

    Workers(
        work,
        number=settings.workers,
        sockets=sockets,
        ready=announce,
        may_restart=may_restart,
        close=partial(turn_away, own),
    ).run()


async def _serve(
    runner: Runner,
    sockets: Sequence[socket.socket],
    *,
    ended: asyncio.Event,
    ready: Callable[[], None],
    closing: Iterable[socket.socket],
) -> None:
    """`closing` are those of the sockets that no other process goes on with."""
    await runner.setup()
    server = cast(web.Server, runner.server)
    try:
        for each in sockets:
            await web.SockSite(runner, each.dup(), backlog=BACKLOG).start()
        ready()
        await ended.wait()
        logger.info("ending: no new connections, requests under way are completed")
        turn_away(closing)
        runner.drain()
        for site in list(runner.sites):
            await site.stop()
        # What clients have opened already is accepted before the sockets are closed: that would reset it.
        accepted = []
        for each in sockets:
            each.setblocking(False)  # noqa: FBT003 - the standard library's own signature
            with each, contextlib.suppress(BlockingIOError, ConnectionError):
                for _ in range(BACKLOG):
                    accepted.append(each.accept()[0])  # noqa: PERF401 - connections accepted before an error are kept
        for connection in accepted:
            await asyncio.get_running_loop().connect_accepted_socket(server, connection)
        for _ in range(5):  # a process that got no processor meanwhile reads in each turn what has come
            await asyncio.sleep(LAST_REQUESTS_S / 5)
    finally:
        await runner.cleanup()
