"""Each test that SECURITY.md names as the proof of a promise is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_shows_a_promise_is_there() -> None:
    promised = (ROOT / "SECURITY.md").read_text("utf-8").partition("## What is promised")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(test_\w+)`", promised))
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"^(?:async )?def (test_\w+)\(", sources, re.MULTILINE))

    assert len(named) > 20
    assert named - there == set()


def test_every_promise_names_a_test() -> None:
    promised = (ROOT / "SECURITY.md").read_text("utf-8").partition("## What is promised")[2].partition("\n## ")[0]
    rows = [line for line in promised.splitlines() if line.startswith("| ") and "---" not in line][1:]

    assert [row for row in rows if "`test_" not in row.split(" | ")[-1]] == []


def test_every_accepted_finding_is_explained() -> None:
    text = (ROOT / "requirements" / "audit-accepted.list").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]

    assert all(re.fullmatch(r"(CVE|GHSA|PYSEC)-[A-Za-z0-9-]+ .{40,}", line) for line in lines)
