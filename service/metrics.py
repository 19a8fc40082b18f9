"""What Prometheus reads: requests by route and status, tokens by what was done with them, and the keys' health.

Cheap on the good path: a label's child is looked up once and kept.
"""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

Gauges = Callable[[], dict[str, float]]
"""Names of gauges, without the project's prefix, and their values now."""


class Metrics:
    """The process's own registry; nothing global."""

    def __init__(self, gauges: Gauges) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "guest_sessions_requests", "Requests answered", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "guest_sessions_request_seconds", "Time to answer", ("route",), buckets=_BUCKETS_S, registry=self._registry
        )
        self._tokens = Counter(
            "guest_sessions_tokens", "Guest tokens, by what was done with them", ("event",), registry=self._registry
        )
        self._refused = Counter(
            "guest_sessions_tokens_refused", "Guest tokens refused, by reason", ("reason",), registry=self._registry
        )
        self._registry.register(_GaugeCollector(gauges))
        self._request_children: dict[tuple[str, int], Counter] = {}
        self._seconds_children: dict[str, Histogram] = {}
        self._token_children: dict[str, Counter] = {}

    def request(self, route: str, status: int, *, seconds: float) -> None:
        """Counts an answered request."""
        counter = self._request_children.get((route, status))
        if counter is None:
            counter = self._request_children[route, status] = self._requests.labels(route, str(status))
        counter.inc()
        histogram = self._seconds_children.get(route)
        if histogram is None:
            histogram = self._seconds_children[route] = self._seconds.labels(route)
        histogram.observe(seconds)

    def token(self, event: str) -> None:
        """Counts a token: `issued`, `refreshed`, `verified`, `merged`, `minted`."""
        counter = self._token_children.get(event)
        if counter is None:
            counter = self._token_children[event] = self._tokens.labels(event)
        counter.inc()

    def refused(self, reason: str) -> None:
        """Counts a token refused for `reason`."""
        self._refused.labels(reason).inc()

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self._registry)


class _GaugeCollector(Collector):
    """Asks for the values when they are read, so that nothing has to keep them up to date."""

    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"guest_sessions_{name}", name.replace("_", " ").capitalize(), value=value)
