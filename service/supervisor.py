"""Several processes that do the same work: starts them, replaces the dead, restarts them in turn, ends them together.

Knows processes and signals, not what the work is. A worker is forked, so that it shares what its parent has opened and
mapped; the parent itself has no thread and no event loop, or forking would not be safe. SIGTERM and SIGINT end all;
SIGHUP starts every worker anew, one after the other, the new one before the old one ends; to a worker itself it says
nothing, as a terminal that hangs up sends it to all.
"""

import logging
import os
import selectors
import signal
import time
from collections.abc import Callable
from typing import Final, NoReturn

import msgspec

logger = logging.getLogger("guest_sessions.supervisor")

END_S: Final = 15.0
"""For a worker that was told to end: half as long again as its requests under way get. Then it is killed."""
START_S: Final = 30.0
"""For a worker to become ready, when workers are restarted in turn."""
LEAST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0
"""Before a dead worker is replaced: at first hardly any, then twice as long with each that dies young."""
GROWN_UP_S: Final = 10.0
"""A worker that has lived for so long did not die of its start."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Seat(msgspec.Struct, frozen=True):
    """What a worker is given: its number among those alive, and the two pipes that join it to its parent."""

    number: int
    parent: int
    """A file descriptor that reads its end when the parent has died: then the worker should end too."""
    told: int
    """A file descriptor to write one byte to when the worker is ready."""

    def tell_ready(self) -> None:
        """Tells the parent that work has begun."""
        os.write(self.told, b"1")
        os.close(self.told)


Work = Callable[[Seat], None]


class _Worker(msgspec.Struct):
    pid: int
    seat: int
    heard: int | None
    started_at_s: float
    ready: bool = False
    ending_since_s: float | None = None


class Supervisor:
    """Keeps `number` workers at `work`."""

    def __init__(
        self,
        *,
        number: int,
        work: Work,
        ready: Callable[[], None],
        prepare_restart: Callable[[], bool],
        fork: Callable[[], int] = os.fork,
    ) -> None:
        """`work` runs in each worker and returns at its end. `ready` is called once, when the first ones all are.

        `prepare_restart` is called before workers are restarted in turn; False where that must not be.
        """
        self._number = number
        self._work = work
        self._ready = ready
        self._prepare_restart = prepare_restart
        self._fork = fork
        self._workers: dict[int, _Worker] = {}
        self._turn: list[int] = []
        self._pause_s = LEAST_PAUSE_S
        self._next_start_at_s = 0.0
        self._announced = False
        self._ending = False
        self._failed = False
        self._alive, self._lifeline = os.pipe()
        self._selector = selectors.DefaultSelector()

    def run(self) -> bool:
        """Works until told to end; False where the first workers could not start."""
        woken, wake = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(wake, False)
        self._selector.register(woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for each in _SIGNALS:
            signal.signal(each, _nothing)
        while not (self._ending and not self._workers):
            self._look_after()
            self._hear(woken)
        return not self._failed

    def _look_after(self) -> None:
        """Starts, ends and kills what is due."""
        now_s = time.monotonic()
        for worker in self._workers.values():
            if worker.ending_since_s is not None and now_s - worker.ending_since_s > END_S:
                logger.warning("a worker does not end and is killed", extra={"worker": worker.pid})
                os.kill(worker.pid, signal.SIGKILL)
                worker.ending_since_s = now_s
        if not self._ending and now_s >= self._next_start_at_s:
            while len(self._workers) < self._number + bool(self._turn) and self._start():
                pass
        self._take_turns(now_s)

    def _take_turns(self, now_s: float) -> None:
        """Ends the next old worker once a new one is ready to take its place, and no other is ending."""
        if not self._turn or self._ending:
            return
        young = [worker for worker in self._workers.values() if not worker.ready]
        if any(now_s - worker.started_at_s > START_S for worker in young):
            logger.error("a new worker does not become ready: the old ones stay")
            self._turn.clear()
        elif not young and sum(worker.ending_since_s is None for worker in self._workers.values()) > self._number:
            self._end(self._turn.pop(0))

    def _hear(self, woken: int) -> None:
        """Waits for a signal or for word of a worker, and takes it in."""
        due_in_s = max(0.0, self._next_start_at_s - time.monotonic())
        for key, _ in self._selector.select(timeout=min(1.0, due_in_s) if due_in_s else 1.0):
            if key.fd == woken:
                for number in os.read(woken, 4096):
                    self._obey(number)
            else:
                self._heard_from(key.data)

    def _obey(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._bury()
        elif number == signal.SIGHUP:
            if self._announced and self._prepare_restart():
                logger.info("restarting all workers in turn")
                self._turn = list(self._workers)
        else:
            self._end_all()

    def _heard_from(self, worker: _Worker) -> None:
        if worker.heard is None:
            return  # it has died since
        worker.ready = os.read(worker.heard, 1) == b"1"
        self._forget(worker)
        if not self._announced and [each.ready for each in self._workers.values()] == [True] * self._number:
            self._announced = True
            self._ready()

    def _start(self) -> bool:
        """One more worker; False, until the next try is due, where the system has no process or pipe to give."""
        taken = {worker.seat for worker in self._workers.values()}
        number = next(number for number in range(self._number + 1) if number not in taken)
        pipe: tuple[int, ...] = ()
        # Blocked, so that none reaches the worker while it would still be taken for one to the parent.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            heard, told = pipe = os.pipe()
            pid = self._fork()
            if pid == 0:
                self._be_worker(Seat(number, self._alive, told))
        except OSError as error:
            for each in pipe:
                os.close(each)
            self._pause(2 * self._pause_s)
            logger.error(  # noqa: TRY400 - they say it all
                "a worker could not be started: %s", error.strerror, extra={"pause_s": self._pause_s}
            )
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(told)
        worker = self._workers[pid] = _Worker(pid, number, heard, time.monotonic())
        self._selector.register(heard, selectors.EVENT_READ, data=worker)
        return True

    def _be_worker(self, seat: Seat) -> NoReturn:
        """The rest of the worker's life; never returns into the parent's code."""
        exit_code = 1
        try:
            signal.set_wakeup_fd(-1)
            for each in _SIGNALS:
                signal.signal(each, signal.SIG_IGN if each == signal.SIGHUP else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os.close(self._lifeline)
            self._work(seat)
            exit_code = 0
        except Exception:
            logger.exception("a worker failed")
        finally:
            logging.shutdown()
            os._exit(exit_code)

    def _end_all(self) -> None:
        self._ending = True
        for pid in self._workers:
            self._end(pid)

    def _end(self, pid: int) -> None:
        worker = self._workers.get(pid)
        if worker is not None and worker.ending_since_s is None:
            worker.ending_since_s = time.monotonic()
            os.kill(pid, signal.SIGTERM)

    def _bury(self) -> None:
        """Takes note of the workers that have ended."""
        for pid in list(self._workers):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._note_end(self._workers.pop(pid), os.waitstatus_to_exitcode(status))

    def _note_end(self, worker: _Worker, exit_code: int) -> None:
        self._forget(worker)
        if worker.ending_since_s is not None:
            return
        if not self._announced:
            # What keeps the first ones from starting will keep all others: that is for a person to see.
            self._failed = True
            self._end_all()
            return
        if self._turn and not worker.ready:
            logger.error("a new worker could not start: the old ones stay", extra={"exit_code": exit_code})
            self._turn.clear()
            return
        lived_s = time.monotonic() - worker.started_at_s
        self._pause(LEAST_PAUSE_S if lived_s > GROWN_UP_S else 2 * self._pause_s)
        logger.error(
            "a worker died and is replaced",
            extra={"worker": worker.pid, "exit_code": exit_code, "pause_s": self._pause_s},
        )

    def _pause(self, pause_s: float) -> None:
        """Starts no worker for so long, or for the longest pause."""
        self._pause_s = min(pause_s, LONGEST_PAUSE_S)
        self._next_start_at_s = time.monotonic() + self._pause_s

    def _forget(self, worker: _Worker) -> None:
        """Closes a worker's pipe, if that is not done yet."""
        if worker.heard is not None:
            self._selector.unregister(worker.heard)
            os.close(worker.heard)
            worker.heard = None


def _nothing(_number: int, _frame: object) -> None:
    """The signal's number comes through the wake-up pipe."""
