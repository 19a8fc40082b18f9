"""What Prometheus reads: requests by route and status, tokens by what was done with them, and the keys' health.

Counting must cost next to nothing: a counter is one number in a row of memory. Workers of one service share that
memory, each writes its own row, and whichever is asked adds the rows up; a worker that takes a dead one's place goes on
with its row, so that no counter ever goes back.
"""

import mmap
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Final, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.errors import Reason
from service.http.problems import PROBLEMS

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_BOUNDS: Final = (*map(str, _BUCKETS_S), "+Inf")
_STATUSES: Final = tuple(sorted({200, 201, 304, *(status for status, _ in PROBLEMS.values())}))
_EVENTS: Final = ("issued", "refreshed", "verified", "merged", "minted")
_REASONS: Final[tuple[str, ...]] = get_args(Reason)
_CELL_BYTES: Final = 8

GAUGES: Final = {
    "ready": "1 where there is a key to sign with",
    "keyring_revision": "The keyring's revision",
    "keyring_age_seconds": "Time since the keyring was last found so at its source; -1 for never",
    "keyring_file_ok": "1 where the keyring's file can be read",
    "keyring_refused": "How often since the start a keyring was not taken",
    "keyring_put_back": "How often since the start the keyring was put into Redis",
    "redis_ok": "1 where Redis answers",
    "event_loop_lag_seconds": "How late the event loop last came round",
    "event_loop_longest_lag_seconds": "How late it came round at most since the start",
    "keys_next": "KeyManager that will sign",
    "keys_active": "KeyManager that sign",
    "keys_retired": "KeyManager that verify and no longer sign",
    "keys_revoked": "KeyManager whose tokens are refused",
}
"""Every gauge, without the project's prefix, and what it tells. A process tells its own, not those of other workers."""

Gauges = Callable[[], dict[str, float]]
"""The values of `GAUGES` now."""


class SharedCounters:
    """Rows of numbers in memory that processes forked from this one share; each row is written by one of them."""

    def __init__(self, *, columns: int, rows: int) -> None:
        self._columns = columns
        self._cells = memoryview(mmap.mmap(-1, columns * rows * _CELL_BYTES)).cast("d")

    def row(self, number: int) -> "memoryview[float]":
        """One worker's own numbers, to add to."""
        return self._cells[number * self._columns : (number + 1) * self._columns]

    def totals(self) -> list[float]:
        """Each column's sum."""
        return [sum(self._cells[column :: self._columns]) for column in range(self._columns)]


class RouteMeter:
    """Counts one route's answers in its block of a row: statuses, then the time's buckets, then its sum."""

    def __init__(self, cells: "memoryview[float]") -> None:
        self._cells = cells

    def answered(self, status: int, *, seconds: float) -> None:
        """Counts an answer."""
        cells = self._cells
        cells[_STATUS_COLUMNS[status]] += 1
        cells[_FIRST_BUCKET + bisect_left(_BUCKETS_S, seconds)] += 1
        cells[_SUM] += seconds


_STATUS_COLUMNS: Final = {status: column for column, status in enumerate(_STATUSES)}
_FIRST_BUCKET: Final = len(_STATUSES)
_SUM: Final = _FIRST_BUCKET + len(_BOUNDS)
_BLOCK: Final = _SUM + 1
_MAX_ROUTES: Final = 32
_EVENT_COLUMNS: Final = {event: _MAX_ROUTES * _BLOCK + column for column, event in enumerate((*_EVENTS, *_REASONS))}
COLUMNS: Final = _MAX_ROUTES * _BLOCK + len(_EVENT_COLUMNS)
"""Of the board that `Metrics` counts on."""


class Metrics:
    """What one worker counts, and what all of them have counted."""

    def __init__(self, gauges: Gauges, *, board: SharedCounters | None = None, row: int = 0) -> None:
        """`gauges` are those of the process that is asked; `row` is this worker's own on the board of all."""
        self._board = board or SharedCounters(columns=COLUMNS, rows=1)
        self._cells = self._board.row(row)
        self._routes: list[str] = []
        self._registry = CollectorRegistry()
        self._registry.register(_Reader(self, gauges))

    def meter(self, route: str) -> RouteMeter:
        """What counts the answers of a route. Every worker asks for its routes in the same order."""
        if route not in self._routes:
            if len(self._routes) == _MAX_ROUTES:
                raise ValueError(f"the board has room for {_MAX_ROUTES} routes")
            self._routes.append(route)
        start = self._routes.index(route) * _BLOCK
        return RouteMeter(self._cells[start : start + _BLOCK])

    def token(self, event: str) -> None:
        """Counts a token: `issued`, `refreshed`, `verified`, `merged`, `minted`, or refused for the reason given."""
        self._cells[_EVENT_COLUMNS[event]] += 1

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self._registry)

    def families(self) -> Iterable[Metric]:
        """What has been counted by all workers together."""
        totals = self._board.totals()
        requests = CounterMetricFamily("guest_sessions_requests", "Requests answered", labels=("route", "status"))
        seconds = HistogramMetricFamily("guest_sessions_request_seconds", "Time to answer", labels=("route",))
        for number, route in enumerate(self._routes):
            block = totals[number * _BLOCK : (number + 1) * _BLOCK]
            for status, answers in zip(_STATUSES, block, strict=False):
                if answers:
                    requests.add_metric((route, str(status)), answers)
            buckets = list(accumulate(block[_FIRST_BUCKET:_SUM]))
            if buckets[-1]:
                seconds.add_metric((route,), list(zip(_BOUNDS, buckets, strict=True)), block[_SUM])
        yield from (requests, seconds)
        yield _counter("tokens", "Guest tokens, by what was done with them", "event", _EVENTS, totals)
        yield _counter("tokens_refused", "Guest tokens refused, by reason", "reason", _REASONS, totals)


def _counter(name: str, about: str, label: str, values: Sequence[str], totals: Sequence[float]) -> Metric:
    family = CounterMetricFamily(f"guest_sessions_{name}", about, labels=(label,))
    for value in values:
        if totals[_EVENT_COLUMNS[value]]:
            family.add_metric((value,), totals[_EVENT_COLUMNS[value]])
    return family


class _Reader(Collector):
    """Asks for the values when they are read, so that nothing has to keep them up to date."""

    def __init__(self, metrics: Metrics, gauges: Gauges) -> None:
        self._metrics = metrics
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        yield from self._metrics.families()
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"guest_sessions_{name}", GAUGES[name], value=value)
