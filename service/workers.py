"""Several processes on the same sockets: gunicorn forks them, replaces those that die or hang, and ends them all.

This module overrides two decisions of gunicorn: to give up where one fork or the start of one worker fails, and to end
the old workers on SIGHUP before the new ones are ready. They are replaced one by one, each once its successor is ready.
"""

import asyncio
import logging
import mmap
import os
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from socket import socket
from types import SimpleNamespace
from typing import Any, Final

import uvloop
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker

logger = logging.getLogger("guest_sessions.workers")

HANG_S: Final = 30
"""A worker without a sign of life for so long is killed. One that was asked to end gives none any more."""
END_S: Final = 15
"""For all workers to end: half as long again as their requests under way get."""
PAUSE_S: Final = 2.0
"""From the start of a worker that died to the start of the next one, at least: a crash loop must not take a core."""
MEMORY_DIR: Final = Path("/dev/shm")  # noqa: S108 - gunicorn's files there have random names, and are unlinked at once
"""For gunicorn's heartbeats: a disk that hangs must not look like workers that hang, and may be read-only."""

Work = Callable[[int, asyncio.Event, Callable[[], None]], Coroutine[Any, Any, None]]
"""Serves in a worker: gets its row, the event that ends it, and what to call once it accepts connections."""


class _Log(Logger):  # type: ignore[misc]  # gunicorn has no types
    def setup(self, _cfg: Any) -> None:
        self.error_log = logging.getLogger("guest_sessions.gunicorn")
        self.error_log.setLevel(max(logging.INFO, logging.getLogger().level))  # below, it lists all its own settings


class _Worker(Worker):  # type: ignore[misc]
    row: int
    is_ending = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.ready = mmap.mmap(-1, 1)  # not 0 once it accepts connections; its parent has the same memory
        self.started_at_s = time.monotonic()

    def init_signals(self) -> None:
        for each in self.SIGNALS:  # a terminal that closes sends SIGHUP to every process
            ignored = each in (signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH)
            signal.signal(each, signal.SIG_IGN if ignored else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, Arbiter.SIGNALS)

    def run(self) -> None:
        async def serve() -> None:
            ended = asyncio.Event()
            work = asyncio.create_task(self.wsgi(self.row, ended, self.report_ready))
            while not work.done():
                if os.getppid() != self.ppid:
                    ended.set()
                if not ended.is_set():
                    self.notify()
                await asyncio.wait([work], timeout=1)
            await work

        uvloop.run(serve())

    def report_ready(self) -> None:
        self.ready[0] = 1
        os.kill(self.ppid, signal.SIGCHLD)  # wakes the parent: the state of a child has changed


class Workers(Arbiter):  # type: ignore[misc]
    """`run` serves until SIGTERM or SIGINT and exits then: with 0, or with 1 where the first workers did not start."""

    def __init__(
        self,
        work: Work,
        *,
        number: int,
        sockets: Sequence[socket],
        ready: Callable[[], None],
        may_restart: Callable[[], bool],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """`ready` is called once all the first workers accept connections, `may_restart` on SIGHUP, `close` last."""
        config = Config()
        for name, value in {
            "workers": number,
            "worker_class": _Worker,
            "logger_class": _Log,
            "timeout": HANG_S,
            "graceful_timeout": END_S,
            "worker_tmp_dir": str(MEMORY_DIR) if MEMORY_DIR.is_dir() else None,
            "control_socket_disable": True,
            "pre_fork": self.take_row,
            "child_exit": self.note_end,
        }.items():
            config.set(name, value)
        super().__init__(SimpleNamespace(cfg=config, wsgi=lambda: work))
        self.LISTENERS = list(sockets)
        self.WORKERS: dict[int, _Worker] = {}
        self._ready, self._may_restart, self._close = ready, may_restart, close
        self._announced = self._restart_asked = False
        self._outdated_age = 0
        self._next_start_at_s = 0.0

    def manage_workers(self) -> None:
        """Starts and ends the workers that are due; gunicorn calls it every second and after each signal."""
        ready = [worker for worker in self.WORKERS.values() if worker.ready[0] and not worker.is_ending]
        if not self._announced and len(ready) == self.num_workers:
            self._announced = True
            self._ready()
        outdated = [worker for worker in ready if worker.age <= self._outdated_age]
        if self._restart_asked and self._announced and not outdated:
            self._restart_asked = False
            if self._may_restart():
                self._outdated_age, outdated = self.worker_age, ready
        wanted = self.num_workers + bool(outdated)
        while len(self.WORKERS) < wanted and time.monotonic() >= self._next_start_at_s:
            self.spawn_worker()
        if len(ready) > self.num_workers:
            oldest = min(ready, key=lambda worker: worker.age)
            oldest.is_ending = True
            self.kill_worker(oldest.pid, signal.SIGTERM)

    def spawn_worker(self) -> None:
        """Forks a worker. Signals wait meanwhile, so that none reaches it while it has the handlers of its parent."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        try:
            super().spawn_worker()  # in the worker, it does not return
        except OSError as error:
            self._next_start_at_s = time.monotonic() + PAUSE_S
            logger.error("a worker could not be started: %s", error.strerror)  # noqa: TRY400 - the reason says it all
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)

    def stop(self, graceful: bool = True) -> None:  # noqa: FBT001, FBT002 - gunicorn's own signature
        """Ends the workers, and the process after them."""
        self._close()
        super().stop(graceful)

    def take_row(self, _: Arbiter, worker: _Worker) -> None:
        """Gives the worker that is about to be forked the first row that is free."""
        worker.row = min(set(range(len(self.WORKERS) + 1)) - {each.row for each in self.WORKERS.values()})

    def note_end(self, _: Arbiter, worker: _Worker) -> None:
        """Decides what follows from the end of a worker."""
        if worker.is_ending or not self.LISTENERS:
            return
        if not self._announced:  # what keeps these from starting would keep all others
            raise HaltServer("The workers could not start.", 1)
        if not worker.ready[0] and self._outdated_age:
            logger.error("a new worker could not start: the old ones stay")
            self._outdated_age = 0
        self._next_start_at_s = worker.started_at_s + PAUSE_S

    def handle_hup(self) -> None:
        """The restart begins once all workers are up and no other is under way."""
        self._restart_asked = True

    handle_int = handle_quit = Arbiter.handle_term
    # These would change the number of workers, or their program: gunicorn reports them as unhandled instead.
    handle_ttin = handle_ttou = handle_usr2 = None
