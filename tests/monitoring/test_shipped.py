"""The alerts and the dashboard that are shipped ask for metrics and labels that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from daemon_harness import ROOT

FOLDER = ROOT / "packaging" / "monitoring"
PAGE = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
OF_PROMETHEUS = {"job", "instance", "le"}  # labels that every series has, or that buckets have


def known() -> dict[str, set[str]]:
    """Return the series that there are, as documented, and the labels of each."""
    found: dict[str, set[str]] = {"up": set()}
    for name, labels, kind in re.findall(r"^\| `(\w+)(?:\{([\w,]+)\})?` \| (\w+) \|", PAGE, re.M):
        for suffix in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
            found[name + suffix] = set(labels.split(",")) - {""}
    return found


def expressions() -> Iterator[tuple[str, str]]:
    rules = yaml.safe_load((FOLDER / "graced.rules.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["summary"]
            assert rule["labels"]["severity"] in ("info", "warning", "critical")
            yield rule["alert"], rule["expr"]
    board: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in board["templating"]["list"][1:]:
        yield variable["name"], variable["query"]


@pytest.mark.parametrize(("name", "text"), list(expressions()))
def test_every_query_asks_for_what_there_is(name: str, text: str) -> None:
    series = known()
    asked = re.findall(r"\b(graced_\w+|up)\b", text)
    assert asked
    for metric in asked:
        assert metric in series, f"{name}: there is no {metric}"
    labels = {label for metric in asked for label in series[metric]} | OF_PROMETHEUS
    by = [word for words in re.findall(r"by \(([\w, ]+)\)", text) for word in words.split(", ")]
    for label in [*re.findall(r"(\w+)(?:=~|!=|=)\"", text), *by]:
        assert label in labels, f"{name}: {label} is no label of {asked}"


def test_every_metric_is_used() -> None:
    """What nobody looks at need not be counted."""
    used = " ".join(text for _, text in expressions())
    aside = {"up", "graced_build_info", "graced_generation"}
    for metric in known().keys() - aside:
        if not metric.endswith(("_sum", "_count")):
            assert metric in used, metric


def test_both_are_shipped() -> None:
    for file in FOLDER.iterdir():
        assert file.name in PAGE, file.name
    shipped = Path(ROOT / "packaging" / "deb" / "debian" / "python3-graced.examples").read_text()
    assert "packaging/monitoring/" in shipped
    assert "packaging/monitoring/" in (ROOT / "packaging" / "rpm" / "graced.spec").read_text()
