"""Prometheus' own code reads the alerting rules and every expression. `make test-prometheus`; needs Go."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.prometheus.expressions import ALERTS, alerts, panels

pytestmark = pytest.mark.skipif(shutil.which("go") is None, reason="Go is not here")


@pytest.fixture(scope="module")
def promcheck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("promcheck") / "promcheck"
    source = Path(__file__).parent / "promcheck"
    build = ["go", "build", "-o", str(program), "."]
    subprocess.run(build, cwd=source, check=True, timeout=900)  # noqa: S603 - ours
    return program


def check(program: Path, expressions: list[str], *files: Path) -> "subprocess.CompletedProcess[str]":
    given = "\n".join(" ".join(each.split()) for each in expressions)
    return subprocess.run([program, *files], input=given, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - ours


def test_the_alerts_are_rules_that_prometheus_takes(promcheck: Path) -> None:
    done = check(promcheck, [], ALERTS)

    assert (done.returncode, done.stderr) == (0, "")


def test_every_expression_is_promql(promcheck: Path) -> None:
    done = check(promcheck, [expression for _, expression in [*alerts(), *panels()]])

    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_none_is_noticed(promcheck: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("groups: [{name: a, rules: [{alert: B, expr: 'sum(', for: 1m}]}]")

    assert check(promcheck, ["sum(rate(a[5m])"]).returncode == 1
    assert check(promcheck, [], rules).returncode == 1
