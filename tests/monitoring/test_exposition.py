"""The metrics as text: what other programs read in it is what was told."""

from __future__ import annotations

import re
from typing import Any

import pytest
from daemon_harness import ROOT
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_prometheus

from graced.core.counters import PoolCounters
from graced.host.histogram import BOUNDS_MS, BUCKETS
from graced.monitoring.exposition import written
from graced.monitoring.families import families
from graced.queue.tally import OUTCOMES, Tally

WORKER = {"slot": 0, "state": "busy", "rss": 1000}
QUEUE = {"waiting": 5, "taken": None, "dead": 0, "oldest": 2.5, "lease_left": 9.5, "trouble": "x"}
ODD = 'no\\such "pool"\n'


def answer() -> dict[str, Any]:
    counts = {
        **PoolCounters().picture(),
        "rounds": {"ok": 7, "error": 2, "interrupted": 1},
        "busy_seconds": 12.5,
        "round_seconds": {"sum": 4.25, "buckets": [*range(BUCKETS)]},
    }
    counts["deaths"]["SIGSEGV"] = 3
    tally = Tally()
    tally.counted(1, dict.fromkeys(OUTCOMES, 0))
    tally.counted(1, {"submitted": 4, "done": 1, "failed": 3, "dead": 2})
    tally.waited(20)
    tally.took(1_500_000_000)
    pool = {"target": 1, "backoff": None, "workers": [WORKER, WORKER], "queue": QUEUE}
    return {
        "status": {
            "version": "1.2.3", "generation": 4, "uptime": 5.5, "ready": False,
            "pools": {ODD: pool}, "schedules": {"nightly": {"late": 2.5}},
        },
        "counts": {
            "reloads": {"ok": 1, "refused": 2},
            "pools": {ODD: counts, "removed": counts},
            "queues": {ODD: tally.picture()},
        },
    }  # fmt: skip


def samples(text: str, *, openmetrics: bool) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    read = read_openmetrics if openmetrics else read_prometheus
    found = [sample for family in read(text) for sample in family.samples]
    values = {(s.name, frozenset(s.labels.items())): s.value for s in found}
    assert len(values) == len(found), "a series is there twice"
    return values


@pytest.mark.parametrize("openmetrics", [False, True])
def test_every_value_is_read_back(openmetrics: bool) -> None:
    read = samples(written(families(answer()), openmetrics=openmetrics), openmetrics=openmetrics)

    def value(name: str, **labels: str) -> float:
        return read[name, frozenset(labels.items())]

    assert value("graced_build_info", version="1.2.3") == 1
    assert value("graced_uptime_seconds") == 5.5
    assert value("graced_ready") == 0
    assert value("graced_schedule_late_seconds", schedule="nightly") == 2.5
    assert value("graced_reloads_total", result="refused") == 2
    assert value("graced_workers", pool=ODD, state="busy") == 2
    assert value("graced_workers", pool=ODD, state="killed") == 0
    assert value("graced_worker_rss_bytes", pool=ODD, slot="0") == 2000
    assert value("graced_worker_deaths_total", pool=ODD, reason="SIGSEGV") == 3
    assert value("graced_worker_deaths_total", pool="removed", reason="oom") == 0
    assert value("graced_rounds_total", pool=ODD, outcome="interrupted") == 1
    assert value("graced_busy_seconds_total", pool=ODD) == 12.5
    assert value("graced_round_seconds_sum", pool=ODD) == 4.25
    assert value("graced_round_seconds_count", pool=ODD) == sum(range(BUCKETS))
    assert value("graced_round_seconds_bucket", pool=ODD, le="1.0") == sum(range(7))
    assert value("graced_round_seconds_bucket", pool=ODD, le="+Inf") == sum(range(BUCKETS))
    assert value("graced_queue_jobs", pool=ODD, state="waiting") == 5
    assert ("graced_queue_jobs", frozenset({("pool", ODD), ("state", "taken")})) not in read
    assert value("graced_queue_oldest_seconds", pool=ODD) == 2.5
    assert value("graced_queue_trouble", pool=ODD) == 1
    assert value("graced_lease_left_seconds", pool=ODD) == 9.5
    outcomes = {"submitted": 4, "failed": 3, "done": 1, "dead": 2}
    for outcome, number in outcomes.items():
        assert value("graced_jobs_total", pool=ODD, outcome=outcome) == number
    assert value("graced_job_wait_seconds_bucket", pool=ODD, le="0.01") == 0
    assert value("graced_job_wait_seconds_bucket", pool=ODD, le="0.03") == 1
    assert value("graced_job_seconds_sum", pool=ODD) == 1.5
    bounds = {dict(labels)["le"] for name, labels in read if name.endswith("_bucket")}
    assert {float(bound) for bound in bounds} == {float("inf"), *(ms / 1000 for ms in BOUNDS_MS)}


def test_what_is_there_is_documented_and_nothing_else() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(graced_\w+)(?:\{([\w,]+)\})?` \|", page, re.M))
    there = {}
    for family in families(answer()):
        suffix = {"counter": "_total", "info": "_info"}.get(family.kind, "")
        labels = [name for name, _ in family.samples[-1].labels]
        there[family.name + suffix] = ",".join(labels)
    assert told == there
