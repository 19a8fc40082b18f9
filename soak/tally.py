"""What the traffic saw: counts, latencies, memory, and whatever must never happen. Pure but for the clock given."""

from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

HANG_S: Final = 5.0
WARM_UP_S: Final = 120.0
"""Until caches have filled and the allocator has settled; in a short run a quarter of it."""
MAX_RSS_GROWTH_MIB: Final = 10.0
"""After that."""
MOST_FAULTS_TOLD: Final = 10
"""Of each broken promise."""


class Sample(msgspec.Struct, frozen=True):
    """One look at the service, seconds after the start."""

    at_s: float
    rss_mib: float
    requests: int
    p50_ms: float
    p99_ms: float


class Tally:
    """Counts as the traffic reports."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started_s = clock()
        self.good: Counter[str] = Counter()
        self.hostile: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.events: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self.faults: list[str] = []
        self.samples: list[Sample] = []
        self.own_lag_s = 0.0
        self.service_lag_s = 0.0
        self._latencies_ms: list[float] = []
        self._all_latencies_us: Counter[int] = Counter()

    @property
    def elapsed_s(self) -> float:
        """Since the start."""
        return self._clock() - self._started_s

    @property
    def requests(self) -> int:
        """Good and hostile ones."""
        return self.good.total() + self.hostile.total()

    def answered(self, kind: str, *, status: int, seconds: float, hostile: bool = False) -> None:
        """One exchange. A 5xx and a hang are broken promises, whatever the request."""
        (self.hostile if hostile else self.good)[kind] += 1
        self.statuses[status] += 1
        if status >= 500:  # noqa: PLR2004 - a server's fault
            self.fault("5xx", f"{kind}: {status}")
        if seconds > HANG_S:
            self.fault("hang", f"{kind}: {seconds:.1f} s")
        if not hostile:
            self._latencies_ms.append(seconds * 1e3)
            self._all_latencies_us[int(seconds * 1e5) * 10] += 1

    def fault(self, promise: str, what: str) -> None:
        """A promise was broken."""
        self.broken[promise] += 1
        if self.broken[promise] <= MOST_FAULTS_TOLD:
            self.faults.append(f"{self.elapsed_s:8.1f} s  {promise}: {what}")

    def lagged(self, *, own_s: float, service_s: float) -> None:
        """How late the event loops came round: this load's own, which is no fault of the service, and the service's."""
        self.own_lag_s = max(self.own_lag_s, own_s)
        self.service_lag_s = max(self.service_lag_s, service_s)

    def sample(self, rss_mib: float) -> None:
        """Takes the latencies since the last sample together."""
        ordered, self._latencies_ms = sorted(self._latencies_ms), []
        p50, p99 = (ordered[int(len(ordered) * share)] if ordered else 0.0 for share in (0.5, 0.99))
        self.samples.append(Sample(self.elapsed_s, rss_mib, self.requests, p50, p99))

    def latency_ms(self, share: float) -> float:
        """Of all good requests, to 10 µs."""
        wanted, seen = share * self._all_latencies_us.total(), 0
        for microseconds in sorted(self._all_latencies_us):
            seen += self._all_latencies_us[microseconds]
            if seen >= wanted:
                return microseconds / 1e3
        return 0.0

    def rss_growth_mib(self) -> float:
        """From the median of the tenth of the samples after the warm-up to that of the last tenth."""
        warm = [each.rss_mib for each in self.samples if each.at_s >= self.warm_up_s] or [0.0]
        tenth = max(1, len(warm) // 10)
        return _median(warm[-tenth:]) - _median(warm[:tenth])

    @property
    def warm_up_s(self) -> float:
        """What of the time so far is not looked at for growth."""
        return min(WARM_UP_S, self.elapsed_s / 4)

    def end(self) -> None:
        """Nothing more comes; what can be judged by the whole only is judged now."""
        grown_mib = self.rss_growth_mib()
        if grown_mib >= MAX_RSS_GROWTH_MIB:
            self.fault("memory", f"grew by {grown_mib:.1f} MiB")


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
