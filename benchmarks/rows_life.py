"""The life of a pool: start, stop, drain, a worker killed, the main process killed."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from benchmarks.bench import Bench, medians, p99, row
from benchmarks.contenders import LIMIT, OURS, Case, Contender
from benchmarks.stage import DEADLINE, Stage
from benchmarks.table import Line, Target


def _start(contender: Contender, case: Case) -> float:
    with Stage(contender, case) as stage:
        return (stage.wait("ready", case.workers) - stage.started) / 1e6


@row("start", "start → all ready, 4 workers")
def start(bench: Bench) -> list[Line]:
    """Time the start of a small pool."""
    found = bench.in_turn(lambda who: _start(who, Case()), 25)
    return [Line("start → all ready, N = 4", "ms", medians(found), Target("times raw", 4))]


@row("start-256", "the same with 256 workers")
def start_256(bench: Bench) -> list[Line]:
    """Time the start of a large pool."""
    found = bench.in_turn(lambda who: _start(who, Case(workers=256)), 7)
    return [Line("start → all ready, N = 256", "ms", medians(found), Target("times raw", 2.5))]


def _stop(contender: Contender) -> float:
    with Stage(contender, Case()) as stage:
        stage.ready()
        return stage.gone_after(lambda: stage.send(signal.SIGTERM))


@row("stop", "SIGTERM while idle → all gone")
def stop(bench: Bench) -> list[Line]:
    """Time a stop with nothing to finish."""
    found = bench.in_turn(_stop, 25)
    return [Line("SIGTERM, idle → all gone", "ms", medians(found), Target("times raw", 2))]


def _drain(contender: Contender) -> float:
    case = Case(worker="trials:Rounds", pool={"options": {"seconds": 2}})
    with Stage(contender, case) as stage:
        last = stage.wait("begin", case.workers)
        time.sleep(max(0.0, 0.5 - (time.monotonic_ns() - last) / 1e9))
        began = time.monotonic_ns()
        ended = began + stage.gone_after(lambda: stage.send(signal.SIGTERM)) * 1e6
        return (ended - last) / 1e6 - 2000


@row("drain", "SIGTERM 0.5 s into rounds of 2 s → all gone, beyond the last round's end")
def drain(bench: Bench) -> list[Line]:
    """Time what a drain needs beyond its rounds."""
    found = bench.in_turn(_drain, 3, [OURS])
    title = "drain 0.5 s into rounds of 2 s, over the ideal"
    return [Line(title, "ms", medians(found), Target("at most", 30))]


def _kill_one(stage: Stage) -> float:
    """Kill a worker; return the ms until another is ready, once that has done a round."""
    victim = stage.worker_pids()[0]
    began = time.monotonic_ns()
    os.kill(victim, signal.SIGKILL)
    came = stage.wait("ready", after=began)
    if stage.contender is OURS:
        stage.wait("idle", after=began)
    return (came - began) / 1e6


@row("kill", "a worker killed with -9 → its replacement ready")
def kill(bench: Bench) -> list[Line]:
    """Time replacements, one at a time, limit and graced in turn."""
    with Stage(LIMIT, Case()) as raw, Stage(OURS, Case()) as ours:
        stages = {LIMIT.name: raw.ready(), OURS.name: ours.ready()}
        found = bench.in_turn(lambda who: _kill_one(stages[who.name]), 150, [LIMIT, OURS])
    for peer in bench.peers:
        found |= bench.in_turn(_start_and_kill, 10, [peer])
    title = "worker killed → replacement ready"
    return [
        Line(title, "ms", medians(found), Target("at most", 5)),
        Line("… p99", "ms", p99(found), Target("at most", 30), samples=len(found[OURS.name])),
    ]


def _start_and_kill(contender: Contender) -> float:
    with Stage(contender, Case()) as stage:
        return _kill_one(stage.ready())


def _orphan(contender: Contender) -> float:
    with Stage(contender, Case()) as stage:
        stage.ready()
        workers = stage.worker_pids()
        return stage.gone_after(lambda: stage.send(signal.SIGKILL), workers)


@row("orphan", "the main process killed with -9 → idle workers gone")
def orphan(bench: Bench) -> list[Line]:
    """Time how long workers outlive their main process; the limit's do for ever."""
    found = bench.in_turn(_orphan, 15, [OURS])
    title = "main process killed → idle workers gone"
    return [Line(title, "ms", medians(found), Target("at most", 20))]


def _everybody(stage: Stage) -> int:
    now = time.monotonic_ns()
    for pid in stage.tree():
        with contextlib.suppress(ProcessLookupError):  # who was there for a birth alone
            os.kill(pid, signal.SIGTERM)
    return now


def _finished(contender: Contender) -> float:
    case = Case(workers=20, worker="trials:Rounds", pool={"options": {"seconds": 1}})
    with Stage(contender, case) as stage:
        stage.wait("begin", case.workers)
        stage.gone_after(lambda: _everybody(stage))
        if (status := stage.exit_status()) != 0:
            return float(-status)
        return float(len(stage.said("end")))


@row("term-all", "SIGTERM to every process at once with 20 rounds in hand: finished")
def term_all(bench: Bench) -> list[Line]:
    """Count rounds that a signal to everybody leaves whole."""
    found = bench.in_turn(_finished, 3, [OURS])
    title = "SIGTERM to all, 20 rounds in hand: finished"
    return [Line(title, "", {OURS.name: min(found[OURS.name])}, Target("at least", 20))]


def _crashing(contender: Contender, case: Case, seconds: float) -> tuple[int, float]:
    """Let it crash for so long; return its starts and the CPU ms of all its processes."""
    before = os.times()
    with Stage(contender, case) as stage:
        time.sleep(seconds)
        starts = len(stage.said("ready"))
        if stage.process.poll() is None:
            stage.send(signal.SIGTERM)
            stage.process.wait(DEADLINE)
    after = os.times()
    used = after.children_user + after.children_system
    return starts, (used - before.children_user - before.children_system) * 1000


@row("crash", "a worker that is gone as soon as it is ready, for 10 s: starts, CPU")
def crash(bench: Bench) -> list[Line]:
    """Count what a crash loop costs; after the pool was once ready nobody gives up."""
    seconds = 10 * min(1.0, bench.factor)
    starts, cpu = {}, {}
    for who in (LIMIT, OURS):
        case = Case(workers=2, worker="trials:ExitsInStep", crash=True)
        starts[who.name], cpu[who.name] = _crashing(who, case, seconds)
    raised = _crashing(OURS, Case(worker="trials:RaisesInSetup"), seconds)
    return [
        Line("worker exits at once, 10 s: starts", "", starts, Target("at most", 24)),
        Line("… CPU of all processes", "ms", cpu, Target("at most", 500)),
        Line("setup() raises: starts, then exit 1", "", {OURS.name: raised[0]}),
    ]
