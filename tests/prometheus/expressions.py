"""The PromQL expressions of the examples: alerting rules and dashboard."""

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "examples/prometheus/alerts.yaml"
DASHBOARD = ROOT / "examples/grafana/dashboard.json"


def alerts() -> Iterator[tuple[str, str]]:
    """Name and expression of each alert."""
    for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def panels() -> Iterator[tuple[str, str]]:
    """Title and expressions of each panel, with Grafana's variables as it would fill them in."""
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "2m").replace("$job", "guest-sessions")
