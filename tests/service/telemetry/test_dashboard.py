"""Every query of the dashboard and of the operations page names what `/metrics` exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry.metrics import Metrics
from tests.support.service_http import Api

ROOT = Path(__file__).parents[3]
DASHBOARD = json.loads((ROOT / "docker" / "grafana" / "bnrecal.json").read_text())
VARIABLES = {"$__rate_interval": "5m", "$job": "all"}
# What Prometheus adds to each series, and the boundary of a bucket.
ADDED = {"job", "instance", "le"}
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}

QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
}
OPERATIONS = (ROOT / "docs" / "operations.md").read_text().partition("## What failures")[2]
DOCUMENTED = {
    query: query for query in re.findall(r"`([^`]*\b(?:bnrecal|process)_[a-z_]+[^`]*)`", OPERATIONS)
}


def nodes(node: Any) -> Iterator[Any]:
    """Yield an expression and all of its parts."""
    yield node
    for name in ("expr", "lhs", "rhs", "param", "args", "vector_selector"):
        found = getattr(node, name, None)
        for part in found if isinstance(found, list) else [found]:
            if part is not None and not isinstance(part, str | int | float):
                yield from nodes(part)


def used(query: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each metric of a query, with the labels that are selected."""
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    for node in nodes(promql_parser.parse(query)):
        if isinstance(node, promql_parser.VectorSelector):
            yield str(node.name), {one.name for one in node.matchers.matchers}


def grouped(query: str) -> set[str]:
    """Return the labels that a query groups by."""
    found = re.findall(r"\bby \(([^)]*)\)", query)
    return {label.strip() for labels in found for label in labels.split(",")}


def exported(api: Api) -> dict[str, set[str]]:
    """Return the names of all series of `/metrics`, with their labels."""
    families = list(text_string_to_metric_families(api.http.get("/metrics").text))
    known = Metrics().labels
    found = {}
    for family in families:
        for suffix in SUFFIXES[family.type]:
            base = family.name + ("_total" if family.type == "counter" else "")
            found[family.name + suffix] = set(known.get(base, ())) | ADDED
    return found


@pytest.mark.parametrize("queries", [QUERIES, DOCUMENTED], ids=["dashboard", "operations"])
def test_queries_name_exported_metrics_and_their_labels(api: Api, queries: dict[str, str]) -> None:
    series = exported(api)
    assert len(queries) >= 10
    for title, query in queries.items():
        metrics = dict(used(query))
        assert metrics, title
        for name, labels in metrics.items():
            assert name in series, title
            assert labels <= series[name], title
        assert grouped(query) <= set.union(*(series[name] for name in metrics)), title


def test_legends_name_labels_of_their_query(api: Api) -> None:
    series = exported(api)
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            labels = grouped(target["expr"])
            if not re.search(r"\b(sum|max|count)\b", target["expr"]):
                labels = set.union(*(series[name] for name, _ in used(target["expr"])))
            assert shown <= labels, panel["title"]


def test_values_of_labels_are_those_of_the_service() -> None:
    from service.repositories.lifecycle import ENDED

    pattern = r'state!~"([^"]+)"'
    (states,) = {found for query in QUERIES.values() for found in re.findall(pattern, query)}
    assert set(states.split("|")) == set(ENDED)


@pytest.mark.parametrize(
    "query",
    [
        "bnrecal_request_total",
        "rate(bnrecal_run_seconds[5m])",
        'bnrecal_problems_total{status="500"}',
    ],
)
def test_planted_faults_are_found(api: Api, query: str) -> None:
    with pytest.raises(AssertionError):
        test_queries_name_exported_metrics_and_their_labels(
            api, dict.fromkeys(map(str, range(10)), query)
        )


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
