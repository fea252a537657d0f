"""Metrics of the real daemon: exact, whatever died meanwhile, and never less than before."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from daemon_harness import Daemon
from prometheus_client.parser import text_string_to_metric_families

TOLD = """
import os
from graced import Worker

class Told(Worker):
    def step(self):
        word = os.read(os.open(self.options["words"], os.O_RDWR), 1)
        if word == b"r":
            raise ValueError("as told")
        if word == b"k":
            os.kill(os.getpid(), 9)
"""


class Scraper:
    """Reads the metrics again and again; a count that has become less is a failure."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.last: dict[str, float] = {}

    def __call__(self) -> dict[str, float]:
        done = self.daemon.run("metrics")
        assert done.returncode == 0, done.stderr
        now = {}
        for family in text_string_to_metric_families(done.stdout):
            for sample in family.samples:
                key = " ".join([sample.name, *sample.labels.values()])
                now[key] = sample.value
                if family.type != "gauge" and key in self.last:
                    assert sample.value >= self.last[key], f"{key} was {self.last[key]}"
        self.last |= now
        return now

    def until(self, **wanted: int) -> dict[str, float]:
        """Wait until rounds of `jobs` have ended so, and all workers are there again."""

        def there() -> dict[str, float] | None:
            now = self()
            rounds = {how: now[f"graced_rounds_total jobs {how}"] for how in ("ok", "error")}
            return now if rounds == wanted and now["graced_ready"] else None

        return self.daemon.until(there)


@pytest.fixture
def words(daemon: Daemon) -> Iterator[int]:
    """What workers are told to do in their next rounds, a letter each."""
    fd = os.open(daemon.gate(), os.O_RDWR)
    yield fd
    os.close(fd)


def test_counts_are_exact_over_deaths_reloads_and_removal(daemon: Daemon, words: int) -> None:
    daemon.module("told", TOLD)
    jobs = {
        "worker": "told:Told",
        "path": [str(daemon.home)],
        "options": {"words": str(daemon.short / "gate")},
        "drain_timeout": "100ms",  # a worker waits for a word in its round
    }
    other = {"worker": "sample_workers:Silent"}
    daemon.configure({"jobs": jobs, "other": other}).start().ready()
    scraper = Scraper(daemon)
    begin = scraper.until(ok=0, error=0)
    assert begin["graced_worker_deaths_total jobs SIGKILL"] == 0

    os.write(words, b"gggrrg")
    scraper.until(ok=4, error=2)
    os.write(words, b"k")
    scraper.daemon.until(lambda: scraper()["graced_worker_deaths_total jobs SIGKILL"] == 1)
    os.write(words, b"g")  # its record is a new one
    scraper.until(ok=5, error=2)

    daemon.configure({"other": other})
    assert daemon.run("reload").returncode == 0
    daemon.until(lambda: "graced_workers_target jobs" not in scraper())
    daemon.configure({"jobs": jobs, "other": other})
    assert daemon.run("reload").returncode == 0
    daemon.configure({"jobs": {**jobs, "worker": "told:Missing"}, "other": other})
    assert daemon.run("reload").returncode == 1
    os.write(words, b"gr")
    end = scraper.until(ok=6, error=3)

    assert end["graced_rounds_total jobs interrupted"] == 1  # by the first reload
    assert end["graced_round_seconds_count jobs"] == 6 + 3 + 1
    assert end["graced_worker_deaths_total jobs SIGKILL"] == 1
    assert end["graced_worker_replacements_total jobs death"] == 1
    assert end["graced_worker_replacements_total jobs reload"] == 0  # it was gone, and came anew
    assert end["graced_worker_replacements_total other reload"] == 2
    assert end["graced_worker_stops_total jobs interrupt"] == 1
    assert end["graced_worker_stops_total other drain"] == 2
    assert end["graced_reloads_total ok"] == 2
    assert end["graced_reloads_total refused"] == 1
    assert 0 < end["graced_round_seconds_sum jobs"] <= end["graced_busy_seconds_total jobs"]
