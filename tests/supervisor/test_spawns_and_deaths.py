"""Births, signals and deaths as the main process performs them, with children of the test's own."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from daemon_harness import DEADLINE, SOON

from graced import settings
from graced.core import actions as ac
from graced.core import events as ev
from graced.host import process
from graced.host.channel import Channel
from graced.host.scoreboard import Scoreboard
from graced.host.stackdump import Stacks
from graced.log.logger import Log
from graced.supervisor import children
from graced.supervisor.children import Children
from graced.supervisor.monitor import ScoreboardMonitor

POOL = settings.Pool("jobs")
ZYGOTE = 1


class Main:
    """The part of a main process that has children; its zygote is a channel only."""

    def __init__(self, records: int = 8) -> None:
        self.events: list[ev.Event] = []
        self.scoreboard = Scoreboard(records)
        self.stacks = Stacks.create()
        self.monitor = ScoreboardMonitor()
        self.monitor.allow_leases(3600.0)
        self.ours, self.theirs = Channel.pair()
        self.zygote = subprocess.Popen(["sleep", "600"], process_group=0)
        ahead = {ZYGOTE: (self.zygote.pid, self.ours, self.stacks.lend())}
        self.children = Children(
            self.scoreboard,
            self.stacks,
            self.monitor,
            selectors.DefaultSelector(),
            self.events.append,
            lambda action: pytest.fail("no zygote is to be forked"),
            ahead,
            Log(),
        )
        self.children.start_zygote(ac.StartZygote(ZYGOTE, POOL, 1))
        self.forked: list[int] = []

    def order(self, *workers: int) -> None:
        orders = tuple(
            ac.SpawnOrder(worker, "jobs", slot, 0, 0) for slot, worker in enumerate(workers)
        )
        self.children.spawn(ac.Spawn(ZYGOTE, orders), POOL)

    def fork(self, code: str) -> int:
        """Start a child as a zygote would, that leads its own group."""
        child = subprocess.Popen([sys.executable, "-Sc", code], process_group=0)
        child.returncode = 0  # it is not this object that reaps it
        self.forked.append(child.pid)
        return child.pid

    def say(self, *message: object) -> None:
        """Let the zygote say something."""
        self.theirs.send(message)
        for key, events in self.children._selector.select(DEADLINE):
            key.data(events)

    def reap(self, pid: int) -> None:
        """Reap a child that ends."""
        wait_for(lambda: process.state(pid) == "Z")
        self.children.reap()

    def of(self, kind: type) -> list[object]:
        return [event for event in self.events if isinstance(event, kind)]

    def close(self) -> None:
        for pid in (*self.forked, self.zygote.pid):
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
        self.zygote.returncode = 0
        self.children._selector.close()
        self.theirs.close()
        self.ours.close()
        self.stacks.close()


def wait_for(what: object) -> None:
    end = time.monotonic() + SOON
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def main() -> Iterator[Main]:
    made = Main()
    yield made
    made.close()


def test_an_order_that_cannot_be_sent_fails_for_each_of_its_workers(main: Main) -> None:
    main.theirs.close()
    main.order(7, 9)
    assert [event.worker for event in main.of(ev.SpawnFailed)] == [7, 9]
    assert not main.monitor.readings(0.0)


def test_an_order_for_a_zygote_that_is_gone_fails(main: Main) -> None:
    orders = (ac.SpawnOrder(5, "jobs", 0, 0, 0),)
    main.children.spawn(ac.Spawn(99, orders), POOL)
    [failed] = main.of(ev.SpawnFailed)
    assert (failed.worker, failed.reason) == (5, "its zygote is gone")


def test_more_workers_than_records_are_births_that_fail() -> None:
    main = Main(records=2)
    try:
        main.order(1, 2, 3, 4)
        assert [event.worker for event in main.of(ev.SpawnFailed)] == [3, 4]
        [_, orders] = main.theirs.receive() or (None, [])
        assert [order[0] for order in orders] == [1, 2]
    finally:
        main.close()


def test_a_birth_that_the_zygote_could_not_do_fails(main: Main) -> None:
    main.order(1, 2)
    main.say("unspawned", [(2,)], "Resource temporarily unavailable")
    [failed] = main.of(ev.SpawnFailed)
    assert failed.worker == 2
    assert list(main.monitor.readings(0.0)) == [1]


def test_a_worker_that_died_before_it_was_reported_is_told_with_its_end(main: Main) -> None:
    main.order(1)
    pid = main.fork("import os; os._exit(3)")
    main.reap(pid)
    assert main.events == []  # it may be anybody's
    main.say("spawned", [(1, pid)])
    [died] = main.of(ev.Died)
    assert (died.worker, died.reason) == (1, "exited with status 3")
    assert isinstance(main.events[0], ev.Spawned)
    assert main.children.living() == {}


def test_a_worker_that_died_before_it_was_reported_is_found_by_its_record(main: Main) -> None:
    main.order(1, 2)
    pid = main.fork("import os; os._exit(0)")
    main.monitor.record(2).pid = pid
    main.reap(pid)
    assert [type(event) for event in main.events] == [ev.Spawned, ev.Died]
    assert main.events[1].worker == 2
    assert main.events[1].clean
    main.say("spawned", [(2, pid)])  # the report comes all the same
    assert len(main.events) == 2


@pytest.mark.parametrize("whole", [False, True])
def test_a_worker_whose_zygote_went_while_it_was_forked_leaves_clean(
    main: Main, whole: bool
) -> None:
    """It ends by itself, as nobody would guard it; then a stop tells of no death."""
    main.order(1)
    pid = main.fork("import os; os._exit(15)")
    record = main.monitor.record(1)
    record.born_whole = whole
    record.ready_at = int(whole)
    record.pid = pid
    main.reap(pid)
    [died] = main.of(ev.Died)
    assert (died.clean, died.was_ready) == (not whole, whole)


def test_a_child_of_user_code_is_reaped_and_forgotten(main: Main) -> None:
    """It comes to us as it would have come to init."""
    pid = main.fork("pass")
    main.reap(pid)
    assert main.events == []
    assert process.state(pid) is None
    main.order(1)
    main.say("spawned", [(1, pid)])  # a number that came back: not the end of the one before
    assert main.of(ev.Died) == []


@pytest.mark.parametrize("stopped", [True, False])
def test_a_look_at_a_lease_leaves_the_worker_as_it_was(
    main: Main, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    """One that somebody has stopped from outside is not set going."""
    monkeypatch.setattr(children, "LEASE_LOOK_S", DEADLINE)  # it may have to wait for a CPU
    main.order(1)
    pid = main.fork("import time; time.sleep(600)")
    main.say("spawned", [(1, pid)])
    record = main.monitor.record(1)
    record.lease_since = time.monotonic_ns()
    record.lease_until = time.monotonic_ns() + 600 * 10**9
    if stopped:
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: process.state(pid) == "T")
    main.children.kill(1, force=False, stuck=False)
    assert main.of(ev.LeaseSeen)
    assert main.of(ev.Killed) == []
    if stopped:
        assert process.is_stopped(pid)
    else:
        wait_for(lambda: not process.is_stopped(pid))
