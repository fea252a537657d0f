"""Reloads, storms of them, stops amid them, and workers that hang."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from benchmarks.bench import Bench, medians, row
from benchmarks.contenders import LIMIT, OURS, Case, Contender, configure
from benchmarks.stage import Stage, Trouble
from benchmarks.table import Line, Target


def _reload(contender: Contender) -> tuple[float, float]:
    """Reload; return the ms until all new are ready, and the ms with fewer than N ready."""
    with Stage(contender, Case()) as stage:
        stage.ready()
        old = set(stage.worker_pids())
        began = stage.send(signal.SIGHUP)
        count = stage.case.workers
        stage.wait("ready", count, after=began)
        done = _new_ready(stage, old, began, count)
        return (done - began) / 1e6, _below(stage, old, began, done) / 1e6


def _new_ready(stage: Stage, old: set[int], began: int, count: int) -> int:
    fresh = [w.at for w in stage.said("ready", began) if w.pid not in old]
    if len(fresh) < count:
        raise Trouble(f"{stage.contender.name}: not all workers are new")
    return sorted(fresh)[count - 1]


def _below(stage: Stage, old: set[int], began: int, done: int) -> int:
    """Return for how long there were fewer than N, by what workers say when they come and go."""
    if stage.contender is not OURS:
        return 0
    moves = [(w.at, 1) for w in stage.said("ready", began)]
    moves += [(w.at, -1) for w in stage.said("leaving", began) if w.pid in old]
    level, since, below = 0, began, 0
    for at, change in sorted(moves):
        below += at - since if level < 0 else 0
        level, since = level + change, min(at, done)
    return below


@row("reload", "SIGHUP → all new workers ready, and the time below N")
def reload(bench: Bench) -> list[Line]:
    """Time a reload. The limit ends its workers first, so gunicorn is the one to beat."""
    gaps: list[float] = []

    def measure(who: Contender) -> float:
        took, below = _reload(who)
        gaps.extend([below] if who is OURS else [])
        return took

    found = bench.in_turn(measure, 15)
    return [
        Line("reload → all new ready", "ms", medians(found), Target("times gunicorn", 1.2)),
        Line("… time below N ready, worst", "ms", {OURS.name: max(gaps)}, Target("at most", 0)),
    ]


def _storm(contender: Contender) -> float:
    with Stage(contender, Case()) as stage:
        stage.ready()
        began = time.monotonic()
        for number in range(1000):
            stage.send(signal.SIGHUP)
            time.sleep(max(0.0, began + (number + 1) / 1000 - time.monotonic()))
        took = stage.gone_after(lambda: stage.send(signal.SIGTERM))
        return took + (1e6 if stage.exit_status() else 0)


@row("hups", "1,000 SIGHUPs in a second, then SIGTERM → all gone, exit 0")
def hups(bench: Bench) -> list[Line]:
    """Time the stop after a storm."""
    found = bench.in_turn(_storm, 3, [OURS])
    title = "1,000 HUPs in a second, SIGTERM → gone"
    return [Line(title, "ms", medians(found), Target("at most", 1000))]


def _reload_stop(contender: Contender) -> float:
    with Stage(contender, Case()) as stage:
        stage.ready()
        stage.send(signal.SIGHUP)
        time.sleep(0.1)
        took = stage.gone_after(lambda: stage.send(signal.SIGTERM))
        return took + (1e6 if stage.exit_status() else 0)


@row("reload-stop", "a reload, 100 ms later SIGTERM → all gone")
def reload_stop(bench: Bench) -> list[Line]:
    """Time a stop on the heels of a reload."""
    found = bench.in_turn(_reload_stop, 15, [LIMIT, OURS])
    title = "reload, SIGTERM after 100 ms → gone"
    return [Line(title, "ms", medians(found), Target("at most", 50))]


def _found(contender: Contender) -> float:
    """Return how late a worker that hangs is killed."""
    case = Case(workers=1, worker="trials:Deaf", pool={"round_timeout": 0.5, "stop_timeout": 0.5})
    with Stage(contender, case) as stage:
        began = stage.wait("deaf")
        victim = stage.said("deaf")[0].pid
        return stage.gone_after(lambda: began, [victim]) - 500


def _hung_stop(contender: Contender) -> float:
    """Return how much later than the ladder says a deaf worker is gone."""
    case = Case(workers=1, worker="trials:Deaf", pool={"drain_timeout": 0.5, "stop_timeout": 0.5})
    with Stage(contender, case) as stage:
        stage.wait("deaf")
        return stage.gone_after(lambda: stage.send(signal.SIGTERM)) - 1000


@row("hung", "a worker hangs with all signals blocked: found, and stopped")
def hung(bench: Bench) -> list[Line]:
    """Time what comes after round_timeout, and after the ladder."""
    late = medians(bench.in_turn(_found, 3, [OURS]))
    gone = medians(bench.in_turn(_hung_stop, 3, [OURS]))
    return [
        Line("hung worker: gone after round_timeout", "ms", late),
        Line("hung worker, SIGTERM → gone after the ladder", "ms", gone, Target("at most", 50)),
    ]


def _broken(contender: Contender) -> float:
    """Reload with a module that can't be read; return how many old workers live and work on."""
    with Stage(contender, Case()) as stage:
        stage.ready()
        before = stage.worker_pids()
        configure(stage.case, stage.home, worker="broken:Worker", path=[str(stage.home)])
        (stage.home / "broken.py").write_text("def (:\n")
        stage.send(signal.SIGHUP)
        _await_in_log(stage, "refused")
        after = stage.worker_pids()
        return float(len([pid for pid in after if pid in before]) if after == before else 0)


def _await_in_log(stage: Stage, word: str) -> None:
    log = Path(stage.home / "log")
    end = time.monotonic() + 10
    while word not in log.read_text():
        if time.monotonic() > end or not os.path.exists(f"/proc/{stage.pid}"):
            raise Trouble(f"nothing is {word}:\n{log.read_text()}")
        time.sleep(0.01)


@row("broken", "a reload with a module that can't be imported: old workers that go on")
def broken(bench: Bench) -> list[Line]:
    """Count who survives a broken reload."""
    found = bench.in_turn(_broken, 2, [OURS])
    title = "reload with a broken module: old workers go on"
    return [Line(title, "", {OURS.name: min(found[OURS.name])}, Target("at least", 4))]
