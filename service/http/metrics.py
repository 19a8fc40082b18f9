"""The Prometheus metrics: requests by route and status, tokens by event, the keys' health, the event loop's lag.

Counting must cost next to nothing: a counter is one number in a row of memory. Workers of one service share that
memory, each writes its own row, and the one that is scraped adds the rows up; a worker that replaces a dead one
continues its row, so that no counter ever goes back.
"""

import asyncio
import logging
import mmap
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Final, get_args

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.errors import Reason
from service.http.problems import PROBLEMS
from service.keys import Clock

logger = logging.getLogger("guest_sessions.metrics")

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
MAX_ROUTES: Final = 32
LOOP_CHECK_S: Final = 0.25
"""How often the event loop's lag is measured: often enough to catch most delays that a person would feel."""
LAG_WINDOW_S: Final = 60.0
"""Over which the longest lag is reported: longer than most scrape intervals, so no delay falls between scrapes."""
LOGGED_LAG_S: Final = 1.0
"""From which lag on a warning is logged."""

GAUGES: Final = {
    "ready": "1 where there is a key to sign with",
    "keyring_revision": "The keyring's revision",
    "keyring_age_seconds": "Time since the keyring was last confirmed at its source; -1 for never",
    "keyring_file_ok": "1 where the keyring's file can be read",
    "keyring_file_sealed": "1 where the keyring's file is sealed with the first secret",
    "keyring_joined": "How often since the start a source's keyring added to the one held",
    "keyring_refused": "How often since the start a keyring was not taken",
    "keyring_put_back": "How often since the start the keyring was put into Redis",
    "redis_ok": "1 where Redis responds",
    "redis_copy_age_seconds": "Time since Redis was last found to hold the keyring; -1 for never, or without Redis",
    "event_loop_lag_seconds": "How late the event loop came round at most in the last minute",
    "event_loop_longest_lag_seconds": "How late it came round at most since the start",
    "keys_next": "Keys that will sign",
    "keys_active": "Keys that sign",
    "keys_retired": "Keys that verify and no longer sign",
    "keys_revoked": "Keys whose tokens are refused",
}
"""Every gauge, without the project's prefix, and its help text. A process reports its own, not other workers'."""

Gauges = Callable[[], dict[str, float]]
"""Returns the current values of `GAUGES`."""

_CELL_BYTES: Final = 8
EVENTS: Final = ("issued", "refreshed", "rebased", "stale", "verified", "exchanged", "merged", "minted")
_REASONS: Final[tuple[str, ...]] = get_args(Reason)
_BOUNDS: Final = (*map(str, BUCKETS_S), "+Inf")
_STATUSES: Final = tuple(sorted({200, 201, 304, *(status for status, _ in PROBLEMS.values())}))
# A row holds a block of cells for each route (responses by status, then by duration, then the durations' sum), then the
# cells of the events.
_STATUS_COLUMNS: Final = {status: column for column, status in enumerate(_STATUSES)}
_FIRST_BUCKET: Final = len(_STATUSES)
_SUM: Final = _FIRST_BUCKET + len(_BOUNDS)
_BLOCK: Final = _SUM + 1
_EVENT_COLUMNS: Final = {event: MAX_ROUTES * _BLOCK + column for column, event in enumerate((*EVENTS, *_REASONS))}
_COLUMNS: Final = MAX_ROUTES * _BLOCK + len(_EVENT_COLUMNS)


class SharedCounters:
    """Rows of numbers in memory that processes forked from this one share; each row is written by one of them."""

    def __init__(self, rows: int) -> None:
        self._cells = memoryview(mmap.mmap(-1, rows * _COLUMNS * _CELL_BYTES)).cast("d")

    def row(self, number: int) -> "memoryview[float]":
        """One worker's own numbers, to add to."""
        return self._cells[number * _COLUMNS : (number + 1) * _COLUMNS]

    def totals(self) -> list[float]:
        """Each column's sum."""
        return [sum(self._cells[column::_COLUMNS]) for column in range(_COLUMNS)]


class Metrics(Collector):
    """The counts of one worker, and the sums of all workers."""

    def __init__(self, gauges: Gauges, *, board: SharedCounters | None = None, row: int = 0) -> None:
        """`gauges` are those of the process that is scraped; `row` is this worker's own on the board of all."""
        self._gauges = gauges
        self._board = board or SharedCounters(1)
        self._cells = self._board.row(row)
        self._routes: list[str] = []

    def meter(self, route: str) -> Callable[[int, float], None]:
        """Returns what counts a response of the route, by its status and the seconds that it took.

        Every worker asks for its routes in the same order.
        """
        if route not in self._routes:
            if len(self._routes) == MAX_ROUTES:
                raise ValueError(f"the board has room for {MAX_ROUTES} routes")
            self._routes.append(route)
        start = self._routes.index(route) * _BLOCK
        cells = self._cells[start : start + _BLOCK]

        def count(status: int, seconds: float) -> None:
            cells[_STATUS_COLUMNS[status]] += 1
            cells[_FIRST_BUCKET + bisect_left(BUCKETS_S, seconds)] += 1
            cells[_SUM] += seconds

        return count

    def token(self, event: str) -> None:
        """Counts a token: by what was done with it, one of `EVENTS`, or by the reason why it was refused."""
        self._cells[_EVENT_COLUMNS[event]] += 1

    def text(self) -> bytes:
        """The metrics in the exposition format, version 0.0.4."""
        return generate_latest(self)

    def collect(self) -> Iterable[Metric]:
        """The sums of all workers, and this process's gauges."""
        totals = self._board.totals()
        requests = CounterMetricFamily("guest_sessions_requests", "Requests answered", labels=("route", "status"))
        seconds = HistogramMetricFamily("guest_sessions_request_seconds", "Time to answer", labels=("route",))
        for number, route in enumerate(self._routes):
            block = totals[number * _BLOCK : (number + 1) * _BLOCK]
            for status, responses in zip(_STATUSES, block, strict=False):
                if responses:
                    requests.add_metric((route, str(status)), responses)
            buckets = list(accumulate(block[_FIRST_BUCKET:_SUM]))
            if buckets[-1]:
                seconds.add_metric((route,), list(zip(_BOUNDS, buckets, strict=True)), block[_SUM])
        yield from (requests, seconds)
        yield _counter("tokens", "Guest tokens by event", "event", EVENTS, totals)
        yield _counter("tokens_refused", "Guest tokens refused, by reason", "reason", _REASONS, totals)
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"guest_sessions_{name}", GAUGES[name], value=value)


def _counter(name: str, about: str, label: str, values: Sequence[str], totals: Sequence[float]) -> Metric:
    family = CounterMetricFamily(f"guest_sessions_{name}", about, labels=(label,))
    for value in values:
        if totals[_EVENT_COLUMNS[value]]:
            family.add_metric((value,), totals[_EVENT_COLUMNS[value]])
    return family


class LoopLag:
    """Measures how late the event loop comes round; every request of the process waits as long.

    Does not know what blocks it. `steady_clock` never goes back.
    """

    def __init__(self, *, steady_clock: Clock, check_every_s: float = LOOP_CHECK_S) -> None:
        self._clock = steady_clock
        self._check_every_s = check_every_s
        self._window: deque[tuple[float, float]] = deque()  # time and lag
        self.longest_s = 0.0

    @property
    def recent_s(self) -> float:
        """The longest lag of the last `LAG_WINDOW_S`."""
        return max((lag_s for _, lag_s in self._window), default=0.0)

    async def run(self) -> None:
        """Measures until cancelled."""
        while True:
            started_s = self._clock()
            await asyncio.sleep(self._check_every_s)
            now_s = self._clock()
            lag_s = max(0.0, now_s - started_s - self._check_every_s)
            self._window.append((now_s, lag_s))
            while self._window[0][0] < now_s - LAG_WINDOW_S:
                self._window.popleft()
            self.longest_s = max(self.longest_s, lag_s)
            if lag_s >= LOGGED_LAG_S:
                logger.warning("the event loop was blocked", extra={"seconds": round(lag_s, 3)})
