"""What `graced status` and STATUS= show."""

from __future__ import annotations

import math
import re
from pathlib import Path

from core_simulator import Simulator, Work, pool, simulator, started

from graced.core import events as ev
from graced.core.status import LastReload, WorkerReading, line, picture

DAEMON = {"state", "generation", "ready", "uptime", "last_reload", "pools"}
POOL = {"worker", "target", "ready", "busy", "deaths", "backoff", "workers", "last_deaths"}
WORKER = {"slot", "pid", "state", "generation", "rounds", "errors", "busy_for", "age", "rss"}
DEATH = {"slot", "pid", "at", "reason", "rounds"}


def text(made: Simulator, last: LastReload | None = None) -> str:
    readings = {
        p.id: WorkerReading(p.rounds, 0, made.now - p.round_began if p.phase == "busy" else None)
        for p in made.alive()
    }
    return line(made.daemon, readings, last, made.now)


def test_every_key_of_the_contract_and_no_other() -> None:
    made = started(pool(workers=2))
    made.die(made.alive()[0], "killed by SIGSEGV")
    made.settle()
    made.run(1)
    status = made.status()
    assert set(status) == DAEMON
    (jobs,) = status["pools"].values()
    assert set(jobs) == POOL
    assert all(set(w) == WORKER for w in jobs["workers"])
    assert all(set(d) == DEATH for d in jobs["last_deaths"])
    assert set(status["last_reload"]) == {"at", "ok", "reason", "incomplete"}
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    table = page.partition("`graced status --json` says")[2].partition("\n## ")[0]
    for key in (DAEMON | POOL | WORKER | DEATH) - {"pools"}:
        assert re.search(rf"[`.]{key}[`\[]", table), f"docs/commands.md does not say what {key} is"


def test_values_of_a_busy_worker() -> None:
    made = simulator(pool())
    made.work_for = lambda p: Work(round=10.0)
    made.start().until(made.serving)
    made.run(32.5)
    (process,) = made.alive()
    readings = {process.id: WorkerReading(3, 1, 2.5004)}
    shown = picture(made.daemon, readings, lambda m: 25165824, None, made.now)
    assert shown["uptime"] == 32.562
    assert shown["last_reload"] is None
    jobs = shown["pools"]["jobs"]
    assert (jobs["target"], jobs["ready"], jobs["busy"], jobs["deaths"]) == (1, 1, 1, 0)
    assert jobs["workers"] == [
        {
            "slot": 0,
            "pid": process.pid,
            "state": "busy",
            "generation": 1,
            "rounds": 3,
            "errors": 1,
            "busy_for": 2.5,
            "age": 32.512,
            "rss": 25165824,
        }
    ]


def test_states_of_workers() -> None:
    made = simulator(pool(drain_timeout=2.0, stop_timeout=2.0))
    made.work_for = lambda p: Work(setup=1.0, round=math.inf, deaf_to_int=True, dies_late=0.5)
    made.start().until(made.alive)

    def state() -> str:
        (worker,) = made.status()["pools"]["jobs"]["workers"]
        return str(worker["state"])

    seen = [state()]
    made.run(2)
    seen.append(state())
    made.do(ev.DrainAsked())
    while made.exit is None:
        if made.pool().members and seen[-1] != state():
            seen.append(state())
        made.step()
    assert seen == ["starting", "busy", "draining", "interrupted", "killed"]


def test_workers_are_in_the_order_of_their_slots() -> None:
    made = started(pool(workers=3))
    made.die(made.alive(slot=0)[0], "killed by SIGSEGV")
    made.settle()
    made.run(1)
    assert [w["slot"] for w in made.status()["pools"]["jobs"]["workers"]] == [0, 1, 2]


def test_those_on_the_way_out_are_not_ready() -> None:
    made = simulator(pool(workers=2))
    made.work_for = lambda p: Work(round=5.0)
    made.start().run(1)
    made.do(ev.ScaleAsked("jobs", 1))
    jobs = made.status()["pools"]["jobs"]
    assert (jobs["target"], jobs["ready"], jobs["busy"]) == (1, 1, 2)


def test_backoff_is_shown() -> None:
    made = started(pool())
    made.run(1)
    made.work_for = lambda p: Work(setup=1.0, setup_fails="no database")
    made.die(made.alive()[0], "killed by SIGSEGV")
    made.settle()
    made.until(lambda: made.pool().restarts.backoff.active)
    assert made.status()["pools"]["jobs"]["backoff"] == {"failures": 1, "next_start_in": 0.09}
    assert text(made) == (
        "0/1 workers ready; pool jobs in back-off: no database, next start in 90 ms"
    )
    made.until(lambda: made.pool().restarts.backoff.probe)
    assert made.status()["pools"]["jobs"]["backoff"] == {"failures": 1, "next_start_in": None}
    assert text(made).endswith("trying one worker")


def test_line_of_a_daemon_at_work() -> None:
    made = started(pool("a", workers=3), pool("b"))
    assert text(made) == "4/4 workers ready"
    refused = LastReload("then", False, "config.yaml:7:5: no")
    assert text(made, refused) == "4/4 workers ready; reload refused: config.yaml:7:5: no"
    assert text(made, LastReload("then", True, None)) == "4/4 workers ready"
    incomplete = LastReload("then", False, "pool a is in back-off", incomplete=True)
    assert text(made, incomplete) == "4/4 workers ready; reload incomplete: pool a is in back-off"


def test_line_of_a_start_and_of_a_reload() -> None:
    made = simulator(pool(workers=2))
    made.work_for = lambda p: Work(setup=1.0 + p.slot)
    made.start().run(1.5)
    assert text(made) == "starting: 1/2 workers ready"
    made.run(5)
    made.do(ev.ReloadAsked())
    assert text(made) == "reloading: 2/2 workers ready"


def test_line_of_a_drain() -> None:
    made = simulator(pool(workers=4, drain_timeout=30.0))
    made.work_for = lambda p: Work(round=100.0 if p.slot < 2 else None)
    made.start().until(lambda: len(made.serving()) == 4)
    made.alive(slot=2)[0].work.teardown = 100.0
    made.run(1)
    made.do(ev.DrainAsked())
    made.run(11)
    assert text(made) == "draining: 2 of 3 workers busy, oldest round 12 s, 19 s left"


def test_line_of_an_interrupt_and_of_a_failure() -> None:
    made = simulator(pool(workers=2))
    made.work_for = lambda p: Work(round=5.0, frozen=True)
    made.start().run(1)
    made.do(ev.InterruptAsked())
    assert text(made) == "stopping: 2 workers left"
    failed = simulator(pool())
    failed.work_for = lambda p: Work(setup_fails="no")
    failed.start().until_exit()
    assert text(failed) == "failed: pool jobs can't start: no"
