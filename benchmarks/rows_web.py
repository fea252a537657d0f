"""To be looked at: what the page's process and a scrape each second cost."""

from __future__ import annotations

import shutil
import socket
import statistics
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.bench import Bench, row
from benchmarks.contenders import OURS, Case
from benchmarks.queues import pantry
from benchmarks.rows_jobs import rate
from benchmarks.rows_rest import calls
from benchmarks.stage import Stage, pss
from benchmarks.table import Line, Target

EVERY = 1.0  # seconds between two scrapes
PATIENCE = 10.0  # seconds; only failures get here
PAGE = ("", "page.css", "page.js", "icon.svg")


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _served(port: int) -> Case:
    return Case(top={"web": {"listen": f"tcp://127.0.0.1:{port}"}})


def _get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=PATIENCE) as answer:
        return bytes(answer.read())


@contextmanager
def _scraped(port: int) -> Iterator[None]:
    """Ask for the metrics each second, as Prometheus does; not yet and no more there is no harm."""
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(EVERY):
            with suppress(OSError):
                _get(port, "metrics")

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@row("web", "jobs a second with the page's process and a scrape a second, and what it takes idle")
def web(bench: Bench) -> list[Line]:
    """Compare a daemon that is looked at with one that is not, in turn."""
    alone: list[float] = []
    watched: list[float] = []
    with pantry() as store:
        for turn in range(bench.times(5) + 1):
            for found, top in ((alone, {}), (watched, _served(port := _port()).top)):
                with _scraped(port):
                    value = rate(OURS, store, 4, top=top)
                found.extend([value] if turn else [])
    ratio = statistics.median(watched) / statistics.median(alone)
    title = f"jobs a second, 4 workers, a scrape each {EVERY:g} s"
    return [
        Line(title, "", {OURS.name: statistics.median(watched)}, samples=len(watched)),
        Line("… of that without web", "", {OURS.name: ratio}, Target("at least", 0.95)),
        *_idle(),
        *_weights(),
    ]


def _idle() -> list[Line]:
    title = "idle with web: system calls a second"
    if shutil.which("strace") is None:
        return [Line(title, "", {}, note="needs strace")]
    found = calls(OURS, _served(_port()))
    return [Line(title, "", {OURS.name: found}, Target("at most", 0))]


def _weights() -> list[Line]:
    port = _port()
    with Stage(OURS, _served(port)) as stage:
        stage.ready()
        page = sum(len(_reached(port, path)) for path in PAGE)
        _get(port, "metrics")
        pids = [p for p in stage.tree() if Path(f"/proc/{p}/comm").read_text() == "graced-web\n"]
        memory = sum(map(pss, pids))
    return [
        Line("graced-web: memory (PSS)", "MB", {OURS.name: memory}, Target("at most", 20)),
        Line("the page, with all that belongs to it", "kB", {OURS.name: page / 1000}),
    ]


def _reached(port: int, path: str) -> bytes:
    """Return what is served once it is: its process may still be on its way."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return _get(port, path)
        except OSError:
            if time.monotonic() > end:
                raise
        time.sleep(0.05)
