"""The alerts, the dashboard and the documentation name metrics, labels and values that the service has."""

import re
from collections.abc import Iterator
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.errors import Reason
from service.http.problems import PROBLEMS
from tests.api import Api
from tests.prometheus.expressions import ROOT, alerts, panels

EXPRESSIONS = [*alerts(), *panels()]
SELECTOR = re.compile(r"(guest_sessions_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|!~|=|!=)"([^"]*)"')
OF_PROMETHEUS = {"job", "instance"}
POSSIBLE = {
    "reason": set(get_args(Reason)),
    "status": {str(status) for status, _ in PROBLEMS.values()} | {"200", "201", "304"},
}


@pytest.fixture
async def labels(api: Api) -> dict[str, set[str]]:
    """The names of the labels of each series of a service that has done a little of everything."""
    token = (await api.issue(payload={"cart": ["tea"]}))["token"]
    await api.post("/v1/refresh-payload", {"token": token})
    await api.post("/v1/merge", {"tokens": [token]})
    await api.get("/v1/auth?mode=ensure", headers={"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"})
    await api.verify("nonsense")
    text = (await api.get("/metrics")).body.decode()
    return {
        sample.name: set(sample.labels) for family in text_string_to_metric_families(text) for sample in family.samples
    }


def matchers(text: str) -> Iterator[tuple[str, str, str]]:
    found = MATCHER.findall(text)
    assert ", ".join(f'{name}{operator}"{value}"' for name, operator, value in found) == text
    yield from found


@pytest.mark.parametrize(
    ("name", "expression"), EXPRESSIONS, ids=[f"{n}-{name}" for n, (name, _) in enumerate(EXPRESSIONS)]
)
def test_an_expression_names_what_the_service_has(labels: dict[str, set[str]], name: str, expression: str) -> None:
    selectors = SELECTOR.findall(expression)

    assert selectors, name
    for series, selector in selectors:
        assert series in labels
        for label, operator, value in matchers(selector):
            assert label in labels[series] | OF_PROMETHEUS
            if label in POSSIBLE and operator in ("=", "=~"):
                assert all(any(re.fullmatch(each, one) for one in POSSIBLE[label]) for each in value.split("|"))


def test_the_grouping_is_by_labels_that_the_series_have(labels: dict[str, set[str]]) -> None:
    grouped = [
        (label.strip(), expression)
        for _, expression in EXPRESSIONS
        for group in re.findall(r"by \(([^)]*)\)", expression)
        for label in group.split(",")
    ]
    known = set.union(*labels.values()) | OF_PROMETHEUS

    assert [each for each in grouped if each[0] not in known] == []


def test_a_wrong_issuer_is_among_the_forgeries() -> None:
    [expression] = [expression for name, expression in alerts() if name == "GuestSessionsForgery"]

    assert 'reason=~"bad_signature|unknown_key|wrong_issuer"' in expression


def test_every_metric_is_documented_and_no_other(labels: dict[str, set[str]]) -> None:
    table = (ROOT / "docs/operations.md").read_text("utf-8").partition("## Metrics")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`(?:guest_sessions)?(_\w+)[`{]", table))
    documented |= (
        {f"_keys{each}" for each in ("_active", "_retired", "_revoked")} if "_keys_next" in documented else set()
    )
    served = {re.sub(r"_(bucket|sum|count|created)$", "", name).removeprefix("guest_sessions") for name in labels}

    assert documented - {"_active", "_retired", "_revoked"} == served
