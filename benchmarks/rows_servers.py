"""Queues on a server: how many jobs a second, against peers, and how that grows with hosts.

The server is one of our own on this machine, so it shares the processors with everybody.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Sequence

from benchmarks.bench import Bench, medians, row
from benchmarks.contenders import OURS, Case, Contender
from benchmarks.queues import ServedQueue
from benchmarks.servers import Server, serving
from benchmarks.stage import Stage, Trouble
from benchmarks.table import Kind, Line, Target
from graced import Queue

WAITING = 20_000
SAID = 10  # a worker says that it has done so many
WARM = 0.5  # seconds of work before the clock runs
WATCHED = 3.0  # seconds
PATIENCE = 60.0  # seconds; only failures get here
IDLE = 10.0  # seconds
DAEMONS = (1, 2, 10, 50)
ENGINES = ("postgresql", "redis")


def _fill(who: Contender, server: Server, count: int) -> None:
    server.empty()
    server.durable(False)
    if isinstance(who, ServedQueue):
        who.run(Case(pool={"queue": server.url()}), "fill", count)
    else:
        with Queue.open(server.url(), pool="jobs") as queue:
            queue.submit_many([None] * count)
    server.durable(True)


@contextlib.contextmanager
def _stages(who: Contender, server: Server, case: Case, daemons: int) -> Iterator[list[Stage]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Stage(who, case, SAY_EVERY=str(SAID))) for _ in range(daemons)]


def _case(server: Server, workers: int, worker: str = "chores:Nothing") -> Case:
    return Case(workers=workers, worker=worker, pool={"queue": server.url()})


def _rate(
    who: Contender, server: Server, workers: int, *, waiting: int = WAITING, daemons: int = 1
) -> tuple[float, float]:
    """Return how many jobs are done in a second, and the seconds of its CPU that a server used."""
    _fill(who, server, waiting)
    with _stages(who, server, _case(server, workers), daemons) as stages:
        for stage in stages:  # all take part
            stage.wait("some", deadline=PATIENCE)
        time.sleep(WARM)
        began, cpu = time.monotonic_ns(), server.cpu()
        time.sleep(WATCHED)
        end, cpu = time.monotonic_ns(), server.cpu() - cpu
        words = [word.at for stage in stages for word in stage.said("some", began)]
        done = SAID * sum(at <= end for at in words)
    if not done:
        raise Trouble(f"{who.name}: fewer than {SAID} jobs in {WATCHED} s")
    return done / (end - began) * 1e9, cpu / (end - began) * 1e9


def _peers(bench: Bench, engine: str, kind: Kind, ratios: tuple[float, ...]) -> list[Line]:
    lines = []
    everybody = [OURS, *(peer for peer in bench.served if peer.server == engine)]
    with serving(engine) as server:
        for workers, ratio in zip((1, 4, 16), ratios, strict=True):
            found = bench.in_turn(lambda w, n=workers: _rate(w, server, n)[0], 3, everybody)  # type: ignore[misc]
            title = f"jobs a second on {engine}, {workers} worker{'s' if workers > 1 else ''}"
            target = Target(kind, ratio)
            count = len(found[OURS.name])
            line = Line(title, "", medians(found), target, samples=count, against=target.other)
            lines.append(line)
    return lines


@row("postgresql", "jobs that do nothing, committed durably on a PostgreSQL: 1, 4, 16 workers")
def postgresql(bench: Bench) -> list[Line]:
    """Compare with those that have their queue there."""
    return _peers(bench, "postgresql", "at least times procrastinate", (1.5, 3, 3))


@row("redis", "the same on a Redis that syncs each write")
def redis(bench: Bench) -> list[Line]:
    """Compare with those that have their queue there."""
    return _peers(bench, "redis", "at least times dramatiq", (1, 2, 2))


@row("two-hosts", "two daemons of 8 workers on one server, against one of 8")
def two_hosts(bench: Bench) -> list[Line]:
    """Compare in turn."""
    lines = []
    for engine in ENGINES:
        found: dict[int, list[float]] = {1: [], 2: []}
        with serving(engine) as server:
            for _ in range(bench.times(3)):
                for daemons, rates in found.items():
                    rates.append(_rate(OURS, server, 8, daemons=daemons)[0])
        one, two = (statistics.median(found[daemons]) for daemons in (1, 2))
        lines.append(Line(f"{engine}: jobs a second, one host", "", {OURS.name: one}))
        lines.append(Line("… two hosts, times one", "", {OURS.name: two / one}, note=f"{two:,.0f}"))
    return lines


@row("servers-backlog", "4 workers and many more waiting on a server: --backlog")
def backlog(bench: Bench) -> list[Line]:
    """Compare a short queue with a long one, in turn."""
    lines = []
    for engine in ENGINES:
        found: dict[int, list[float]] = {WAITING: [], bench.backlog: []}
        with serving(engine) as server:
            for _ in range(bench.times(3)):
                for waiting, rates in found.items():
                    rates.append(_rate(OURS, server, 4, waiting=waiting)[0])
        few, many = (statistics.median(rates) for rates in found.values())
        title = f"{engine}: jobs a second, 4 workers, {bench.backlog:,} waiting"
        lines.append(Line(title, "", {OURS.name: many}))
        share = {OURS.name: many / few}
        lines.append(Line(f"… of that with {WAITING:,}", "", share, Target("at least", 0.9)))
    return lines


@row("servers-growth", "1, 2, 10 and 50 daemons of one worker on one server")
def growth(bench: Bench) -> list[Line]:
    """Show where the curve bends."""
    lines = []
    for engine in ENGINES:
        with serving(engine) as server:
            for daemons in DAEMONS:
                lines += _grown(bench, server, daemons)
    return lines


def _grown(bench: Bench, server: Server, daemons: int) -> list[Line]:
    rate, cpu = _rate(OURS, server, 1, daemons=daemons)
    _fill(OURS, server, 0)
    with (
        _stages(OURS, server, _case(server, 1, "chores:Telling"), daemons) as stages,
        Queue.open(server.url(), pool="jobs") as queue,
    ):
        for stage in stages:
            stage.wait("ready", deadline=PATIENCE)
        ways = [_way(stages, queue) for _ in range(bench.times(20) + 1)][1:]
        time.sleep(IDLE + 2)  # a PostgreSQL counts what was asked some seconds later
        asked, used = server.requests(), server.cpu()
        time.sleep(IDLE)
        asked, used = server.requests() - asked, server.cpu() - used
    found = {
        "jobs a second": rate,
        "… CPU of the server, %": 100 * cpu,
        "… submit → handle() begins, ms": statistics.median(ways),
        "… idle: requests a second": asked / IDLE,
        "… idle: CPU of the server, %": 100 * used / IDLE,
    }
    title = f"{server.name}, {daemons} daemon{'s' if daemons > 1 else ''}: "
    return [
        Line(title + what if number == 0 else what, "", {OURS.name: value})
        for number, (what, value) in enumerate(found.items())
    ]


def _way(stages: Sequence[Stage], queue: Queue) -> float:
    """Submit a job and see it done; return the ms until it began."""
    began = time.monotonic_ns()
    job = queue.submit(None)
    queue.wait(job, PATIENCE)
    time.sleep(0.02)  # so that everybody sleeps again
    [at] = [word.at for stage in stages for word in stage.said("begin", began)]
    return (at - began) / 1e6
