"""Jobs: how many a second, how soon one begins, and what it costs to submit one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.bench import Bench, medians, p99, row
from benchmarks.contenders import OURS, Case, Contender
from benchmarks.queues import HUEY, PAYLOAD, Pantry, pantry
from benchmarks.stage import Stage, Trouble
from benchmarks.table import Line, Target
from graced.queue.client_end import ClientEnd
from graced.queue.protocol import QueueGone

WAITING = 20_000
SAID = 50  # a worker says that it has done so many
WARM = 1000  # jobs before the clock runs: all workers have begun
WATCHED = 2.5  # seconds; the queue does not run dry meanwhile
BATCH = 1000
IN_HAND = 8  # a worker has so few jobs that are handled and not yet settled
PATIENCE = 20.0  # seconds; only failures get here


def rate(
    contender: Contender,
    store: Pantry,
    workers: int,
    waiting: int = WAITING,
    top: dict[str, Any] | None = None,
) -> float:
    """Return how many jobs that do nothing are done in a second."""
    with store.serve(contender, waiting) as queue:
        case = Case(workers=workers, worker="chores:Nothing", pool={"queue": queue}, top=top or {})
        with Stage(contender, case) as stage:
            began = stage.wait("fifty", WARM // SAID, deadline=PATIENCE)
            time.sleep(max(0.0, WATCHED - (time.monotonic_ns() - began) / 1e9))
            words = stage.said("fifty", began)
            if contender is OURS:
                _check(stage, waiting, SAID * len(stage.said("fifty")))
    if not words:
        raise Trouble(f"{contender.name}: fewer than {SAID} jobs in {WATCHED} s")
    return SAID * len(words) / (max(word.at for word in words) - began) * 1e9


def _check(stage: Stage, count: int, handled: int) -> None:
    """See that none is lost, and that what was handled is durable but for what is in hand."""
    with _client(stage) as client:
        found = client.counts()
    there = sum(found[state] for state in ("waiting", "taken", "done"))
    if there != count or found["dead"] or found["done"] < handled - IN_HAND * stage.case.workers:
        raise Trouble(f"{handled} of {count} jobs have been handled, and there are {found}")


@contextmanager
def _client(stage: Stage) -> Iterator[ClientEnd]:
    client = _connected(stage, time.monotonic() + PATIENCE)
    try:
        yield client
    finally:
        client.close()


def _connected(stage: Stage, end: float) -> ClientEnd:
    """Connect; the keeper may still be on its way when its first workers are ready."""
    while True:
        try:
            return ClientEnd(str(stage.home / "run" / "queue-jobs.sock"))
        except QueueGone as error:
            if time.monotonic() > end:
                raise Trouble(str(error)) from None
        time.sleep(0.01)


def _rates(bench: Bench, workers: int, ratio: float) -> list[Line]:
    with pantry() as store:
        everybody = [OURS, *bench.queues]
        found = bench.in_turn(lambda who: rate(who, store, workers), 3, everybody)
    title = f"jobs a second, {workers} worker{'s' if workers > 1 else ''}"
    target = Target("at least times huey", ratio)
    rates = medians(found)
    return [Line(title, "", rates, target, samples=len(found[OURS.name]), against=HUEY.name)]


@row("jobs-1", "jobs that do nothing, committed durably, a second: 1 worker")
def jobs_1(bench: Bench) -> list[Line]:
    """Count what one worker does."""
    return _rates(bench, 1, 0.8)


@row("jobs-4", "the same with 4 workers")
def jobs_4(bench: Bench) -> list[Line]:
    """Count what a few do."""
    return _rates(bench, 4, 3)


@row("jobs-8", "the same with 8 workers")
def jobs_8(bench: Bench) -> list[Line]:
    """Count what more do than there are processors."""
    return _rates(bench, 8, 4)


@row("jobs-backlog", "the same with 4 workers and many more waiting: --backlog")
def jobs_backlog(bench: Bench) -> list[Line]:
    """Compare a short queue with a long one."""
    few: list[float] = []
    many: list[float] = []
    with pantry() as store:
        for turn in range(bench.times(3) + 1):
            for found, waiting in ((few, WAITING), (many, bench.backlog)):
                value = rate(OURS, store, 4, waiting)
                found.extend([value] if turn else [])
    large, short = statistics.median(many), statistics.median(few)
    title = f"jobs a second, 4 workers, {bench.backlog:,} waiting"
    target = Target("at least", 0.9)
    return [
        Line(title, "", {OURS.name: large}, samples=len(many)),
        Line(f"… of that with {WAITING:,}", "", {OURS.name: large / short}, target),
    ]


@row("jobs-latency", "a job submitted over an open connection to an idle pool → handle() begins")
def jobs_latency(bench: Bench) -> list[Line]:
    """Time the way of a job through an idle pool."""
    case = Case(worker="chores:Telling")
    with Stage(OURS, case) as stage:
        stage.wait("ready", case.workers)
        with _client(stage) as client:
            found = {OURS.name: [_way(stage, client) for _ in range(bench.times(200) + 1)][1:]}
    title = "submit → handle() begins, idle pool"
    count = len(found[OURS.name])
    return [
        Line(title, "ms", medians(found), Target("at most", 5), samples=count),
        Line("… p99", "ms", p99(found), samples=count),
    ]


def _way(stage: Stage, client: ClientEnd) -> float:
    """Submit a job and see it done; return the ms until it began."""
    began = time.monotonic_ns()
    [job] = client.submit([PAYLOAD])
    at = stage.wait("begin", after=began)
    client.wait(job)
    time.sleep(0.005)  # so that everybody sleeps again
    return (at - began) / 1e6


@row("jobs-submit", "submitting jobs over an open connection, one by one and by the thousand")
def jobs_submit(bench: Bench) -> list[Line]:
    """Time what a client waits for; its jobs are not done meanwhile."""
    case = Case(workers=1, worker="chores:Busy")
    huey = [queue for queue in bench.queues if queue is HUEY]
    with Stage(OURS, case) as stage, _client_of_busy(stage) as client:
        peers = Case(pool={"queue": str(stage.home / "huey.db")})
        measures = {
            OURS: lambda: _each(client, [PAYLOAD], 300),
            HUEY: lambda: float(HUEY.run(peers, "enqueue", 300)),
        }
        single = bench.in_turn(lambda who: measures[who](), 5, [OURS, *huey])
        batch = bench.in_turn(lambda _: _each(client, [PAYLOAD] * BATCH, 10), 5, [OURS])
    return [
        Line("submit one job", "µs", medians(single), against=HUEY.name),
        Line(f"… in batches of {BATCH:,}, each job", "µs", medians(batch)),
    ]


@contextmanager
def _client_of_busy(stage: Stage) -> Iterator[ClientEnd]:
    stage.wait("ready")
    with _client(stage) as client:
        client.submit([PAYLOAD])
        stage.wait("begin")
        yield client


def _each(client: ClientEnd, payloads: Sequence[str], count: int) -> float:
    """Submit batches; return the median of the µs for each job."""
    took = []
    for _ in range(count):
        began = time.perf_counter_ns()
        client.submit(payloads)
        took.append((time.perf_counter_ns() - began) / 1000 / len(payloads))
    return statistics.median(took)
