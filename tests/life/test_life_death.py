"""Deaths: what is started again and how soon, what is told, and what nobody leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from daemon_harness import SOON, TESTS, Daemon, children, comm, wait_gone


def test_a_killed_worker_is_back(daemon: Daemon) -> None:
    daemon.pool(workers=2).start().ready()
    victim = daemon.events.matching("^setup jobs 1 ")[0].pid
    os.kill(victim, signal.SIGKILL)
    again = daemon.events.wait("^setup jobs 1 ", 2)[1]
    assert again.pid != victim
    pool = daemon.status()["pools"]["jobs"]
    assert pool["deaths"] == 1
    assert pool["last_deaths"][0]["pid"] == victim
    assert pool["last_deaths"][0]["slot"] == 1
    assert "SIGKILL" in pool["last_deaths"][0]["reason"]


def test_all_workers_killed_at_once_are_back(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Ticks", workers=8).start().ready()
    victims = daemon.worker_pids()
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    last = daemon.events.wait("^setup ", 16)[-1]
    gone = wait_gone(victims)
    assert last.at - gone < SOON
    daemon.until(lambda: daemon.status()["pools"]["jobs"]["ready"] == 8)
    assert daemon.status()["pools"]["jobs"]["deaths"] == 8


def test_a_worker_that_exits_at_once_is_not_started_in_a_loop(daemon: Daemon) -> None:
    daemon.pool("sample_workers:ExitsInStep", workers=2).start()
    first = daemon.events.wait("^setup ")[0].at
    daemon.events.wait("^setup ", 5)
    daemon.events.collect(first + 10 - time.monotonic())
    assert len([line for line in daemon.events.matching("^setup ") if line.at < first + 10]) <= 24
    assert daemon.status()["pools"]["jobs"]["backoff"] is not None
    asked = daemon.send(signal.SIGTERM)
    assert daemon.ended() - asked < SOON
    daemon.nothing_left()


DEATHS = {
    "exit": ({"how": "exit", "code": 3}, "exited with status 3 in a round"),
    "exit 0": ({"how": "exit", "code": 0}, "exited with status 0 in a round"),
    "SIGSEGV": ({"how": "SIGSEGV"}, "SIGSEGV"),
    "SIGKILL": ({"how": "SIGKILL"}, "SIGKILL"),
    "SIGABRT": ({"how": "SIGABRT"}, "SIGABRT"),
}


@pytest.mark.parametrize("name", DEATHS)
def test_deaths_are_told_in_words(daemon: Daemon, name: str) -> None:
    options, words = DEATHS[name]
    marks = daemon.home / "marks"
    marks.mkdir()
    daemon.pool("sample_workers:Dies", options={**options, "marks": str(marks)}).start()
    pid = daemon.events.wait("^dying")[0].pid
    daemon.events.wait("^setup ", 2)
    deaths = daemon.until(lambda: daemon.status()["pools"]["jobs"]["last_deaths"])
    assert deaths[0]["pid"] == pid
    assert daemon.log.matching(rf"jobs/0.*{pid}.*({words}).*again"), str(daemon.log)


def test_a_round_that_raises_leaves_the_worker(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Raises", max_errors=1000000).start()
    pids = {line.pid for line in daemon.events.wait("^raising", 5)}
    assert len(pids) == 1
    daemon.log.wait("no such luck")
    daemon.log.wait(r"sample_workers\.py.*step")
    daemon.send(signal.SIGINT)
    daemon.ended(0)


def test_a_worker_with_too_many_errors_is_replaced(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Raises", max_errors=3).start().ready()
    daemon.events.wait("^setup ", 2)
    first = daemon.events.matching("^setup ")[0].pid
    assert len([line for line in daemon.events.matching("^raising") if line.pid == first]) == 3
    assert len([line for line in daemon.events.matching("^teardown") if line.pid == first]) <= 1


def test_a_dead_worker_s_children_go_with_it(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Parent").start().ready()
    child = int(daemon.events.wait("^child")[0].words[1])
    os.kill(daemon.worker_pids()[0], signal.SIGKILL)
    wait_gone([child])
    daemon.events.wait("^child", 2)
    second = int(daemon.events.matching("^child")[1].words[1])
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    wait_gone([second])
    daemon.nothing_left()


def test_workers_do_not_outlive_the_main_process(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Parent", workers=4).start().ready()
    killed = daemon.send(signal.SIGKILL)
    daemon.ended(-9)
    assert daemon.nothing_left() - killed < SOON
    assert len(daemon.events.matching("^teardown")) == 4  # they went down the ladder


def test_rounds_are_finished_after_the_main_process_s_death(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Gated", workers=3, options={"gate": daemon.gate()}).start().ready()
    daemon.events.wait("^begin ", 3)
    daemon.send(signal.SIGKILL)
    daemon.ended(-9)
    daemon.open_gate()
    daemon.nothing_left()
    assert len(daemon.events.matching("^end ")) == 3
    assert len(daemon.events.matching("^teardown ")) == 3


def test_a_new_daemon_may_start_while_the_old_workers_leave(daemon: Daemon) -> None:
    options = {"gate": daemon.gate()}
    daemon.pool("sample_workers:Gated", options=options, drain_timeout="2m").start().ready()
    old = daemon.events.wait("^begin ")[0].pid
    daemon.send(signal.SIGKILL)
    daemon.ended(-9)
    daemon.pool().start().ready(2)
    assert not daemon.events.matching("^end ")  # the old worker is still at its round
    daemon.open_gate()
    assert daemon.events.wait("^end ")[0].pid == old
    wait_gone([old])
    assert old not in daemon.worker_pids()
    daemon.send(signal.SIGINT)
    daemon.ended(0)
    daemon.nothing_left()


def test_the_main_process_may_die_during_an_import(daemon: Daemon) -> None:
    daemon.module(
        "slow", "import time\nfrom sample_workers import *\nsay('importing')\ntime.sleep(60)\n"
    )
    daemon.pool("slow:Idle", path=[".", str(TESTS)]).start()
    daemon.events.wait("^importing")
    daemon.send(signal.SIGKILL)
    daemon.ended(-9)
    daemon.nothing_left()


def test_a_killed_zygote_does_not_stop_the_pool(daemon: Daemon) -> None:
    daemon.pool(workers=2).start().ready()
    zygotes = [pid for pid in children(daemon.pid) if comm(pid) == "graced-zygote"]
    assert len(zygotes) == 1
    before = daemon.worker_pids()
    os.kill(zygotes[0], signal.SIGKILL)
    wait_gone(zygotes)
    os.kill(before[0], signal.SIGKILL)
    daemon.events.wait("^setup ", 3)
    daemon.until(lambda: daemon.status()["pools"]["jobs"]["ready"] == 2)
    assert before[1] in daemon.worker_pids()
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    daemon.nothing_left()


def test_strange_signals_are_never_fatal(daemon: Daemon) -> None:
    daemon.pool(workers=2).start().ready()
    pids = daemon.worker_pids()
    for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
        daemon.send(number)
    daemon.log.wait("SIGUSR2")
    assert daemon.worker_pids() == pids


def test_sigquit_writes_every_stack_and_goes_on(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Rounds", workers=2, options={"seconds": 60}).start().ready()
    pids = sorted(line.pid for line in daemon.events.wait("^begin ", 2))
    daemon.send(signal.SIGQUIT)
    daemon.log.wait(r"sample_workers\.py.*step", 2)
    daemon.log.wait(r"supervisor/loop\.py")
    assert sorted(daemon.worker_pids()) == pids
    daemon.send(signal.SIGINT)
    daemon.ended(0)


STRAY = """
import os, subprocess, sys
from sample_workers import Idle, say

class Stray(Idle):
    def step(self):
        self.extend(3600)
        child = subprocess.Popen(["sleep", "3600"], process_group=0)
        os.setpgid(0, {group})
        say("strayed", child.pid)
        while True:
            try:
                self.wait(3600)
                os.pause() if hasattr(os, "pause") else __import__("signal").pause()
            except BaseException as error:
                say("went on")
"""


def test_a_worker_that_leaves_its_group_is_killed_all_the_same(daemon: Daemon) -> None:
    """Into its child's; that of the main process is in another session."""
    daemon.module("stray", STRAY.format(group="child.pid"))
    limits = {"path": [".", str(TESTS)], "drain_timeout": 0.1, "stop_timeout": 0.1}
    daemon.configure(
        {"jobs": {"worker": "stray:Stray", **limits}, "idle": {"worker": "sample_workers:Idle"}}
    )
    daemon.start().ready()
    strayed = daemon.events.wait("^strayed ")[0]
    daemon.send(signal.SIGTERM)
    daemon.ended(1)
    assert daemon.events.matching("^teardown"), "the others left in order"
    wait_gone([strayed.pid])
    daemon.nothing_left()


CLAIMS = """
import os
from sample_workers import Idle, say
from graced.host.scoreboard import CHILD_GROUP, PID

class Claims(Idle):
    def step(self):
        with open(os.environ["CLAIMED"]) as claimed:
            for number in claimed.read().split():
                self._graced.writer.words[CHILD_GROUP] = int(number)
        say("claimed")
        os._exit(3)
"""


def test_a_group_that_is_not_the_worker_s_is_not_believed(daemon: Daemon) -> None:
    """Nor is a number that is none: 2**40 had ended the main process."""
    daemon.module("claims", CLAIMS)
    claimed = daemon.home / "claimed"
    pool = {"worker": "claims:Claims", "path": [".", str(TESTS)], "env": {"CLAIMED": str(claimed)}}
    other = subprocess.Popen(["sleep", "3600"], process_group=0)
    try:
        daemon.configure({"jobs": {"worker": "sample_workers:Idle"}}).start().ready()
        idle = daemon.worker_pids()[0]
        for number in (2**40, -1, 1, daemon.pid, os.getpgid(daemon.pid), idle, other.pid):
            claimed.write_text(str(number))
            daemon.configure({"jobs": {"worker": "sample_workers:Idle"}, "claims": pool})
            daemon.send(signal.SIGHUP)
            daemon.events.wait("^claimed")
            daemon.events.forget()
            daemon.configure({"jobs": {"worker": "sample_workers:Idle"}})
            daemon.run("reload")
        assert other.poll() is None
        assert daemon.status()["pools"]["jobs"]["deaths"] == 0
    finally:
        other.kill()
        other.wait()


def test_an_exit_out_of_a_teardown_is_said(daemon: Daemon) -> None:
    """It counts as a death: what the teardown was for has not been done."""
    daemon.module(
        "leaves",
        "import os\nfrom sample_workers import Idle\n"
        "class L(Idle):\n  teardown = lambda _: os._exit(0)\n",
    )
    daemon.pool("leaves:L", path=[".", str(TESTS)]).start().ready()
    os.kill(daemon.events.wait("^setup")[0].pid, signal.SIGTERM)
    daemon.log.wait(r"died: exited with status 0 in teardown\(\), after")
    daemon.events.wait("^setup", 2)


HASTY = """
from sample_workers import Idle, say
from graced.host.scoreboard import PID

class Hasty(Idle):
    def __init__(self):
        self._graced.writer.words[PID] = 65536
"""


def test_who_is_born_is_known_before_it_can_say_otherwise(daemon: Daemon) -> None:
    """Its zygote had reported what the worker had written meanwhile: that one was never killed."""
    daemon.module("hasty", HASTY)
    pool = {"worker": "hasty:Hasty", "path": [str(daemon.home), str(TESTS)], "workers": 20}
    daemon.configure({"jobs": pool}).start().ready()
    assert set(daemon.worker_pids()) == {line.pid for line in daemon.events.matching("^setup ")}
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    daemon.nothing_left()
