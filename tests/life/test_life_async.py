"""Asynchronous workers: many jobs at once, each of which ends as one alone would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from daemon_harness import Daemon
from test_life_jobs import ended, listed, stream, submitted

HERE = str(Path(__file__).parent)
TESTS = str(Path(__file__).parents[1])
QUICK = {"first": "10ms", "factor": 2, "limit": "50ms"}


def pool(daemon: Daemon, **keys: Any) -> Daemon:
    options = {"gate": str(daemon.home / "gate"), **keys.pop("options", {})}
    keys = {"concurrency": 5, "retry": QUICK, "options": options, **keys}
    return daemon.pool("sample_async_workers:Jobs", path=[HERE, TESTS], **keys)


def steps(daemon: Daemon, worker: str = "Steps", **keys: Any) -> Daemon:
    return daemon.pool(f"sample_async_workers:{worker}", path=[HERE, TESTS], **keys)


def submit(daemon: Daemon, do: str, *words: str, **payload: Any) -> int:
    return submitted(daemon, "--json", json.dumps({"do": do, **payload}), *words)


def open_gate(daemon: Daemon) -> None:
    (daemon.home / "gate").touch()


@pytest.mark.parametrize("uvloop", [False, True])
def test_a_thousand_jobs_are_in_hand_at_once(daemon: Daemon, uvloop: bool) -> None:
    pool(daemon, concurrency=1000, options={"uvloop": uvloop}).start().ready()
    daemon.events.wait("setup uvloop" if uvloop else "setup asyncio")
    done = stream(daemon, [json.dumps({"do": "meet", "count": 1000})] * 1000)
    assert done.returncode == 0
    jobs = ended(daemon, "done", 1000)
    assert {(job["result"], job["attempts"]) for job in jobs} == {(1000, 1)}

    def rests() -> bool:
        [worker] = daemon.workers()
        return (worker["rounds"], worker["errors"], worker["state"]) == (1000, 0, "ready")

    daemon.until(rests)
    assert daemon.run("stop").returncode == 0
    daemon.ended(0)
    daemon.events.wait("teardown")
    daemon.nothing_left()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_drain_finishes_what_is_in_hand_and_takes_no_more(daemon: Daemon, how: int) -> None:
    """Also the one that begins when the main process is killed."""
    pool(daemon, concurrency=3).start().ready()
    stream(daemon, [json.dumps({"do": "gated"})] * 5)
    daemon.events.wait("begin", 3)
    daemon.send(how)
    if how == signal.SIGTERM:
        daemon.draining(1)
        assert daemon.workers()[0]["busy_for"] > 0
    else:
        daemon.ended()
    open_gate(daemon)
    daemon.ended()
    daemon.nothing_left()
    assert len(daemon.events.matching("^end")) == 3
    assert len(daemon.events.matching("^begin")) == 3
    daemon.start().ready(2)
    assert [job["attempts"] for job in ended(daemon, "done", 5)] == [1] * 5


def test_each_job_tells_how_far_it_is(daemon: Daemon) -> None:
    pool(daemon, concurrency=3).start().ready()
    for place in "abc":
        submit(daemon, "gated", at=place)
    told = [{"fraction": 0.5, "text": place} for place in "abc"]
    daemon.until(lambda: [job["progress"] for job in listed(daemon, "--state", "taken")] == told)


def test_an_interrupt_cancels_each_task_once_and_costs_no_attempt(daemon: Daemon) -> None:
    pool(daemon, max_attempts=1).start().ready()
    stream(daemon, [json.dumps({"do": "gated"})] * 5)
    daemon.events.wait("begin", 5)
    daemon.send(signal.SIGINT)
    daemon.ended(0)
    assert len(daemon.events.matching("^cut")) == 5
    daemon.events.wait("teardown")
    open_gate(daemon)
    daemon.start().ready(2)
    assert [job["attempts"] for job in ended(daemon, "done", 5)] == [1] * 5


def test_a_job_that_takes_too_long_is_cancelled_alone(daemon: Daemon) -> None:
    pool(daemon, round_timeout="700ms", max_attempts=1).start().ready()
    slow = submit(daemon, "hangs")
    waits, extended = submit(daemon, "until_drained"), submit(daemon, "extended")
    [job] = ended(daemon, "dead")
    assert job["id"] == slow
    assert job["evidence"]["timed_out"] is True
    assert "took longer than round_timeout" in job["evidence"]["reason"]
    [job] = ended(daemon, "done")
    assert (job["id"], job["result"]) == (extended, "in time")
    assert daemon.status()["pools"]["jobs"]["deaths"] == 0
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    assert len(daemon.events.matching(f"^end {waits}")) == 1


@pytest.mark.parametrize("how", ["blocks", "blocks_in_section", "goes_on"])
def test_what_no_cancelling_ends_is_killed_with_its_stack(daemon: Daemon, how: str) -> None:
    pool(daemon, round_timeout="300ms", stop_timeout="300ms", max_attempts=1).start().ready()
    late = submit(daemon, how)
    [job] = ended(daemon, "dead")
    assert job["id"] == late
    assert f"in {how}" in job["evidence"]["stack"]
    daemon.log.wait("is stuck")
    daemon.log.wait(f"in {how}")


def test_a_job_is_cancelled_alone(daemon: Daemon) -> None:
    pool(daemon).start().ready()
    first, second = submit(daemon, "gated"), submit(daemon, "gated")
    daemon.events.wait("begin", 2)
    assert daemon.run("jobs", "cancel", str(first)).returncode == 0
    daemon.events.wait(f"cut {first}")
    [job] = ended(daemon, "dead")
    assert (job["id"], job["evidence"]["reason"]) == (first, "cancelled")
    open_gate(daemon)
    assert ended(daemon, "done")[0]["id"] == second
    assert len(daemon.events.matching("^setup")) == 1


def test_what_nobody_awaits_is_logged_and_each_line_has_its_job(daemon: Daemon) -> None:
    pool(daemon).start().ready()
    submit(daemon, "forgets")
    ids = {name: submit(daemon, "logs", name=name) for name in ("one", "two")}
    ended(daemon, "done", 3)
    daemon.log.wait("Task exception was never retrieved")
    daemon.log.wait("LookupError: nobody awaits this")
    for name, id in ids.items():
        assert len(daemon.log.wait(f"about {name} job={id}$", 3)) == 3


def test_stacks_show_where_each_task_stands(daemon: Daemon) -> None:
    pool(daemon).start().ready()
    ids = [submit(daemon, "gated") for _ in range(2)]
    daemon.events.wait("begin", 2)
    both = f"Task job {ids[0]}, job {ids[1]} (most recent call first):"

    def told() -> bool:  # one of them may be looking at the gate just then
        shown = daemon.run("stacks").stdout
        return both in shown and "in gated" in shown

    daemon.until(told)


@pytest.mark.parametrize("how", ["kill", "leaves"])
def test_the_jobs_of_one_that_dies_are_tried_again(daemon: Daemon, how: str) -> None:
    pool(daemon, max_attempts=2).start().ready()
    stream(daemon, [json.dumps({"do": "gated"})] * 3)
    daemon.events.wait("begin", 3)
    if how == "kill":
        os.kill(daemon.worker_pids()[0], signal.SIGKILL)
    else:
        submit(daemon, "leaves", "--max-attempts", "1")
        daemon.log.wait("exited with status 7 .*sys.exit")
    daemon.events.wait("begin . 2", 3)
    open_gate(daemon)
    assert [job["attempts"] for job in ended(daemon, "done", 3)] == [2] * 3
    assert len(listed(daemon, "--state", "dead")) == (how == "leaves")


def test_reloads_and_the_keeper_s_death_lose_no_job(daemon: Daemon) -> None:
    pool(daemon, workers=2).start().ready()
    stream(daemon, [json.dumps({"do": "logs", "name": "x"})] * 500)
    submit(daemon, "until_drained")
    for _ in range(2):
        [keeper] = daemon.until(lambda: [p for p, n in daemon.left().items() if "keeper" in n])
        os.kill(keeper, signal.SIGKILL)
        assert daemon.run("reload").returncode == 0
    daemon.events.wait("begin 501")
    assert daemon.run("reload").returncode == 0  # in which it ends, if it has not before
    jobs = ended(daemon, "done", 501)
    assert {job["attempts"] for job in jobs} == {1}


# AsyncWorker


def test_rounds_of_an_async_worker(daemon: Daemon) -> None:
    steps(daemon, options={"seconds": 0.01, "raises": True}, max_errors=10_000).start().ready()
    daemon.events.wait("woken False", 3)
    daemon.log.wait("ValueError: a step that raises")
    assert daemon.workers()[0]["errors"] > 0
    steps(daemon)
    assert daemon.run("reload").returncode == 0
    [new] = daemon.until(lambda: [w for w in daemon.workers() if w["generation"] == 2])
    daemon.until(lambda: new["pid"] in {line.pid for line in daemon.events.matching("^waits")})
    daemon.until(lambda: len(daemon.workers()) == 1)  # the old one is gone
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    said = [line.text for line in daemon.events.lines]
    assert said[-4:] == ["out", "woken True", "teardown True", "stopped"]


def test_a_round_waits_as_long_as_one_of_its_tasks_and_no_other(daemon: Daemon) -> None:
    steps(daemon, "Company").start().ready()
    daemon.events.wait("heard 0")
    daemon.events.wait("heard 1", 2)
    assert daemon.workers()[0]["state"] == "ready"
    daemon.send(signal.SIGTERM)
    daemon.ended(0)


def test_an_interrupt_cancels_the_step(daemon: Daemon) -> None:
    steps(daemon).start().ready()
    daemon.events.wait("waits")
    daemon.send(signal.SIGINT)
    daemon.ended(0)
    assert [line.text for line in daemon.events.lines][-3:] == ["out", "teardown True", "stopped"]
    assert "Traceback" not in str(daemon.log)


def test_a_setup_that_hangs_is_cancelled(daemon: Daemon) -> None:
    steps(daemon, options={"hangs": True}).start()
    daemon.events.wait("hangs")
    daemon.send(signal.SIGTERM)
    daemon.ended()
    daemon.events.wait("cleaned up")
    daemon.nothing_left()


def test_a_run_of_its_own(daemon: Daemon) -> None:
    steps(daemon, "Loop").start().ready()
    daemon.events.wait("round")
    daemon.send(signal.SIGTERM)
    daemon.ended(0)


def test_what_is_refused(daemon: Daemon) -> None:
    daemon.module(
        "wrong",
        "from graced import *\n"
        "class Plain(AsyncJobWorker):\n    def handle(self, job): pass\n"
        "class Jobs(JobWorker):\n    async def handle(self, job): pass\n"
        "class One(JobWorker):\n    def handle(self, job): pass\n",
    )
    several = {name: {"worker": f"wrong:{name}", "path": ["."]} for name in ("Plain", "Jobs")}
    daemon.configure({**several, "One": {"worker": "wrong:One", "path": ["."], "concurrency": 2}})
    said = daemon.run("check").stderr
    assert "handle() is no coroutine function; write async def handle" in said
    assert "or Jobs a graced.AsyncJobWorker" in said
    assert "wrong:One does one job at a time, and concurrency is 2" in said


def test_asyncio_is_imported_by_asynchronous_workers_alone(daemon: Daemon) -> None:
    code = (
        "import sys, graced, graced.cli.main, graced.supervisor.start, graced.zygote.process\n"
        "from graced import JobWorker, SocketWorker\n"
        "from graced.workers import Command, Program\n"
        "assert 'asyncio' not in sys.modules\n"
        "from graced import AsyncWorker\n"
        "assert 'asyncio' in sys.modules\n"
    )
    subprocess.run([daemon.python, "-c", code], env=daemon.environment(), check=True)
