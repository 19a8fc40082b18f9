"""What was measured, as a text table, as JSON, and as an SVG chart."""

import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final
from xml.sax.saxutils import escape

import msgspec

from benchmarks.operations import Operation

CONSTANT: Final = "constant"
SERVICE: Final = "guest-sessions"
PEER: Final = "FastAPI + PyJWT"
GO_PEER: Final = "Go net/http + golang-jwt"
BEFORE: Final = "before"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One burst against one server."""

    per_s: float
    cpu_us: float
    """Processor time of the server for one request, in microseconds."""
    p50_ms: float
    p99_ms: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One operation: medians over the rounds. Ratios are taken round by round, so that what slows all slows none."""

    operation: Operation
    per_s: dict[str, float]
    cpu_us: dict[str, float]
    p50_ms: dict[str, float]
    p99_ms: dict[str, float]
    ratio: dict[str, float]
    """Of answers a second to those of the constant handler."""
    cpu_ratio: dict[str, float]
    """The same by processor time: what the ratio would be on an idle machine."""
    spread: dict[str, tuple[float, float]]
    """The quarter and three quarter points of `ratio`."""


def summarise(operation: Operation, rounds: Sequence[dict[str, Sample]]) -> Row:
    """The medians of the rounds, each of which has one sample for each server."""
    servers = rounds[0].keys()
    ratios = {name: [each[name].per_s / each[CONSTANT].per_s for each in rounds] for name in servers}
    return Row(
        operation=operation,
        per_s={name: median(each[name].per_s for each in rounds) for name in servers},
        cpu_us={name: median(each[name].cpu_us for each in rounds) for name in servers},
        p50_ms={name: median(each[name].p50_ms for each in rounds) for name in servers},
        p99_ms={name: median(each[name].p99_ms for each in rounds) for name in servers},
        ratio={name: median(values) for name, values in ratios.items()},
        cpu_ratio={name: median(each[CONSTANT].cpu_us / each[name].cpu_us for each in rounds) for name in servers},
        spread={name: (_point(values, 0.25), _point(values, 0.75)) for name, values in ratios.items()},
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def machine() -> dict[str, Any]:
    """What it was measured on."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    model = next(models, platform.machine())
    cpus = sum(line.startswith("processor") for line in lines)
    return {"cpu": model, "cpus": cpus, "python": platform.python_version(), "kernel": platform.release()}


def as_text(rows: Sequence[Row], *, about: str) -> str:
    """A table for a terminal."""
    head = f"{'operation':<36}{'constant':>10}{'service':>10}{'µs cpu':>8}{'ratio':>7}{'by cpu':>8}{'floor':>7}"
    lines = [about, "", f"{head}{'aim':>6}{'p50 ms':>8}{'p99 ms':>8}   others' ratio"]
    for row in rows:
        operation = row.operation
        others = [
            f"{name} {row.ratio[name]:.2f} (by cpu {row.cpu_ratio[name]:.2f})"
            for name in row.ratio
            if name not in (CONSTANT, SERVICE)
        ]
        lines.append(
            f"{operation.label:<36}{row.per_s[CONSTANT]:>10,.0f}{row.per_s[SERVICE]:>10,.0f}"
            f"{row.cpu_us[SERVICE]:>8.1f}{row.ratio[SERVICE]:>7.2f}{row.cpu_ratio[SERVICE]:>8.2f}"
            f"{_number(operation.floor):>7}{_number(operation.aim):>6}"
            f"{row.p50_ms[SERVICE]:>8.2f}{row.p99_ms[SERVICE]:>8.2f}   {', '.join(others)}"
        )
    return "\n".join([*lines, "", "constant, service: responses a second of one core; ratio: service / constant"])


def as_json(rows: Sequence[Row], *, about: dict[str, Any]) -> bytes:
    """Everything, for a machine."""
    return msgspec.json.format(msgspec.json.encode({"about": about, "rows": rows}, enc_hook=bytes.decode), indent=2)


_WIDTH: Final = 920
_LEFT: Final = 300
_SCALE: Final = 440
"""Pixels from 0 to the constant handler."""
_BAR: Final = 13
_LABEL: Final = 125
"""Beside a bar. One that is too long for the picture is cut, and its label says so with an arrow."""
_ROW: Final = 60
_SERIES: Final = ((SERVICE, "s"), (PEER, "p"), (GO_PEER, "o"))
_STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#57606a}.t{font-weight:600;fill:#1f2328}"
    ".s{fill:#2f6feb}.p{fill:#b3bac2}.o{fill:#54aeb8}.g{stroke:#d0d7de}.f{stroke:#cf222e;stroke-width:2}.bg{fill:#fff}"
    "@media(prefers-color-scheme:dark){text{fill:#8d96a0}.t{fill:#e6edf3}.bg{fill:#0d1117}.g{stroke:#30363d}"
    ".p{fill:#6e7681}.f{stroke:#ff7b72}}"
)


def as_svg(rows: Sequence[Row], *, about: str) -> str:
    """A bar for the service and for each peer in each row, on the scale of the constant handler."""
    height = 120 + _ROW * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">',
        f'<style>{_STYLE}</style><rect class="bg" width="{_WIDTH}" height="{height}"/>',
        '<text class="t" x="16" y="26">Responses a second, as a share of what a constant aiohttp handler gives</text>',
        f'<text x="16" y="46">{escape(about)}</text>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = _LEFT + _SCALE * share
        parts.append(f'<line class="g" x1="{x}" x2="{x}" y1="64" y2="{height - 52}"/>')
        parts.append(f'<text x="{x - 14}" y="{height - 34}">{share:.2f}</text>')
    for number, row in enumerate(rows):
        parts += _bars(row, y=72 + _ROW * number)
    legend = height - 8
    for (name, style), x in zip(_SERIES, (16, 140, 270), strict=True):
        parts.append(f'<rect class="{style}" x="{x}" y="{legend - 11}" width="12" height="12"/>')
        parts.append(f'<text x="{x + 18}" y="{legend}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _bars(row: Row, *, y: int) -> list[str]:
    parts = [f'<text class="t" x="16" y="{y + 16}">{escape(row.operation.label)}</text>']
    for number, (name, style) in enumerate(_SERIES):
        offset = number * (_BAR + 2)
        if name not in row.ratio:
            continue
        widest = _WIDTH - _LEFT - _LABEL
        width = min(row.ratio[name] * _SCALE, widest)
        parts.append(f'<rect class="{style}" x="{_LEFT}" y="{y + offset}" width="{width:.1f}" height="{_BAR}"/>')
        label = f"{'→ ' if width == widest else ''}{row.ratio[name]:.2f} · {row.per_s[name]:,.0f}/s"
        parts.append(f'<text x="{_LEFT + width + 6:.1f}" y="{y + offset + 11}">{label}</text>')
    return parts


def _point(values: Sequence[float], share: float) -> float:
    return percentile(sorted(values), share)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
