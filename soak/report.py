"""The tally as text, as a table for a terminal, and as an SVG chart. Pure."""

from collections.abc import Callable, Sequence
from typing import Final
from xml.sax.saxutils import escape

from rich.table import Table

from soak.tally import Sample, Tally

PROMISES: Final = (
    "forged accepted",
    "valid refused",
    "good refused",
    "5xx",
    "hang",
    "memory",
    "connection",
    "merge",
    "stalled",
    "rotation",
)

_WIDTH, _HEIGHT, _LEFT, _RIGHT = 900, 130, 70, 20
_STYLE: Final = (
    ".bg{fill:#fff}text{font:12px sans-serif;fill:#333}.t{font-weight:bold}.l{fill:none;stroke:#2b6cb0}"
    ".g{stroke:#ddd}@media(prefers-color-scheme:dark){.bg{fill:#111}text{fill:#ccc}.g{stroke:#333}.l{stroke:#63b3ed}}"
)


def as_table(tally: Tally, *, total_s: float) -> Table:
    """How it stands now."""
    table = Table(title=f"soak: {tally.elapsed_s:,.0f} of {total_s:,.0f} s", min_width=60)
    table.add_column("what")
    table.add_column("figure", justify="right")
    last = tally.samples[-1] if tally.samples else Sample(0, 0, 0, 0, 0)
    table.add_row("good requests", f"{tally.good.total():,}")
    table.add_row("hostile requests", f"{tally.hostile.total():,}")
    table.add_row("rotations, Redis troubles", f"{tally.events['rotation']}, {_troubles(tally)}")
    table.add_row("latency now, p50 / p99", f"{last.p50_ms:.1f} / {last.p99_ms:.1f} ms")
    table.add_row("memory", f"{last.rss_mib:.1f} MiB")
    for promise in PROMISES:
        broken = tally.broken[promise]
        table.add_row(promise, f"[red]{broken}[/red]" if broken else "[green]0[/green]")
    return table


def as_text(tally: Tally) -> str:
    """The whole report."""
    samples = tally.samples
    lines = [
        f"{tally.elapsed_s:,.0f} s, {tally.requests:,} requests ({tally.requests / tally.elapsed_s:,.0f}/s)",
        *_counts("good", tally.good),
        *_counts("hostile", tally.hostile),
        *_counts("refused", tally.refusals),
        *_counts("statuses", {str(status): number for status, number in sorted(tally.statuses.items())}),
        *_counts("meanwhile", tally.events),
        (
            f"latency of good requests: p50 {tally.latency_ms(0.5):.2f} ms, p99 {tally.latency_ms(0.99):.2f} ms, "
            f"p99.9 {tally.latency_ms(0.999):.2f} ms, longest {tally.latency_ms(1):.2f} ms"
        ),
        (
            f"memory: {samples[0].rss_mib:.1f} MiB at first, {samples[-1].rss_mib:.1f} at last, "
            f"at most {max(each.rss_mib for each in samples):.1f}; "
            f"growth after {tally.warm_up_s:.0f} s: {tally.rss_growth_mib():+.1f} MiB"
        ),
        (
            f"longest stall of an event loop: the service's {tally.service_lag_s:.2f} s, "
            f"the load's own {tally.own_lag_s:.2f} s"
        ),
        *(f"{promise}: {tally.broken[promise]}" for promise in PROMISES),
        *tally.faults,
    ]
    return "\n".join(lines) + "\n"


def as_svg(tally: Tally) -> str:
    """Memory, latency and throughput over time."""
    charts: list[tuple[str, Callable[[Sample], float]]] = [
        ("Memory, MiB", lambda each: each.rss_mib),
        ("p99 latency of good requests, ms", lambda each: each.p99_ms),
        ("p50 latency of good requests, ms", lambda each: each.p50_ms),
    ]
    height = _HEIGHT * len(charts) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">',
        f'<style>{_STYLE}</style><rect class="bg" width="{_WIDTH}" height="{height}"/>',
    ]
    for number, (title, value) in enumerate(charts):
        parts += _chart(title, [(each.at_s, value(each)) for each in tally.samples], top=_HEIGHT * number)
    return "\n".join([*parts, "</svg>", ""])


def _chart(title: str, points: Sequence[tuple[float, float]], *, top: int) -> list[str]:
    last_s = max(at_s for at_s, _ in points) or 1.0
    most = max(value for _, value in points) or 1.0
    bottom, plot = top + _HEIGHT - 12, _HEIGHT - 50
    place = [
        f"{_LEFT + at_s / last_s * (_WIDTH - _LEFT - _RIGHT):.1f},{bottom - value / most * plot:.1f}"
        for at_s, value in points
    ]
    return [
        f'<text class="t" x="{_LEFT}" y="{top + 24}">{escape(title)}</text>',
        f'<text x="8" y="{bottom - plot + 4}">{most:,.1f}</text><text x="8" y="{bottom}">0</text>',
        f'<line class="g" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>',
        f'<polyline class="l" points="{" ".join(place)}"/>',
        f'<text x="{_WIDTH - 80}" y="{top + 24}">{last_s:,.0f} s</text>',
    ]


def _counts(title: str, counts: "dict[str, int]") -> list[str]:
    return [f"{title}: " + ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items()))] if counts else []


def _troubles(tally: Tally) -> int:
    return sum(number for name, number in tally.events.items() if name.startswith("Redis"))
