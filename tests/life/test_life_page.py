"""The page in a real browser, as people see it by day, at night and on a telephone."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from chromium import PROGRAM, Chromium
from daemon_harness import Daemon
from test_life_web import web_pid

FAILING = """
from graced import JobWorker

class Failing(JobWorker):
    def handle(self, job):
        raise ValueError("no such customer")
"""
BACK = "getComputedStyle(document.body).backgroundColor"
SIDEWAYS = "document.documentElement.scrollWidth > innerWidth"
ROWS = "[...document.querySelectorAll('#pools tbody tr')].map((row) => row.innerText)"
EVIDENCE = "document.querySelector('.words').getBoundingClientRect().right"
POOLS = "[...document.querySelectorAll('#pools h3')].map((name) => name.innerText)"


@pytest.mark.skipif(PROGRAM is None, reason="needs a browser: apt install chromium")
def test_the_page_of_a_daemon_in_trouble(daemon: Daemon, tmp_path: Path, port: int) -> None:
    daemon.module("failing", FAILING)
    jobs = {"worker": "failing:Failing", "path": [str(daemon.home)]}
    pools = {"jobs": jobs, "idle": {"worker": "sample_workers:Idle", "workers": 2}}
    address = f"127.0.0.1:{port}"
    web = {"listen": f"tcp://{address}"}
    daemon.configure(pools, web=web).start().ready()
    daemon.demand("submit", "--pool", "jobs", "--max-attempts", "1", "--json", '"nightly"')
    daemon.until(lambda: daemon.status()["pools"]["jobs"]["queue"]["dead"] == 1)
    daemon.configure({**pools, "jobs": {**jobs, "worker": "failing:Missing"}}, web=web)
    assert daemon.run("reload").returncode == 1

    with Chromium(tmp_path) as page:
        page.do("Page.navigate", url=f"http://{address}/")
        daemon.until(lambda: "no such customer" in page.text())
        text = page.text()
        assert re.search(r"reload refused at .*Missing", text)
        assert "queue jobs: 1 dead job" in text
        assert sorted(page.value(POOLS)) == ["idle", "jobs"]
        rows = page.value(ROWS)
        pids = [*daemon.worker_pids("idle"), *daemon.worker_pids("jobs")]
        assert len(rows) == len(pids) == 3
        assert all(any(str(pid) in row.split() for row in rows) for pid in pids)

        light = page.value(BACK)
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        page.do("Emulation.setEmulatedMedia", features=dark)
        assert brightness(light) > 600
        assert brightness(page.value(BACK)) < 150
        assert not page.value(SIDEWAYS)
        phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        page.do("Emulation.setDeviceMetricsOverride", **phone)
        assert page.value("innerWidth") == 360
        assert not page.value(SIDEWAYS)
        assert page.value(EVIDENCE) <= 360

        asked = page.requests()
        assert len(asked) > 4
        assert [url for url in asked if not url.startswith(f"http://{address}/")] == []
        assert page.errors() == []
        web = web_pid(daemon)
        os.kill(web, signal.SIGSTOP)  # it accepts, and does not answer
        daemon.until(lambda: "connection lost" in page.text())
        os.kill(web, signal.SIGCONT)
        daemon.until(lambda: "connection lost" not in page.text())
        daemon.demand("stop")
        daemon.until(lambda: "connection lost" in page.text())


def brightness(color: str) -> int:
    """Return the sum of red, green and blue, as in `rgb(14, 18, 23)`."""
    return sum(map(int, re.findall(r"\d+", color)))
