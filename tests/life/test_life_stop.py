"""The stop ladder on real processes: drain, interrupt, kill, and what holds it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

import pytest
from daemon_harness import SOON, Daemon, pidfd, stat, wait_gone

TESTS = str(Path(__file__).parents[1])


# The drain


def test_a_drain_halves_no_round(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Gated", workers=8, options={"gate": daemon.gate()}).start().ready()
    daemon.events.wait("^begin ", 8)
    daemon.send(signal.SIGTERM)
    daemon.draining(8)
    daemon.open_gate()
    daemon.ended(0)
    begun, ended = daemon.events.matching("^begin "), daemon.events.matching("^end ")
    assert sorted(line.pid for line in begun) == sorted(line.pid for line in ended)
    assert len(begun) == 8  # no further round was begun
    assert len(daemon.events.matching("^teardown ")) == 8
    assert daemon.notices.matching("^STATUS=draining")
    daemon.nothing_left()


def test_a_second_sigterm_changes_nothing(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Gated", workers=2, options={"gate": daemon.gate()}).start().ready()
    daemon.events.wait("^begin ", 2)
    for _ in range(5):
        daemon.send(signal.SIGTERM)
        daemon.draining(2)
    daemon.open_gate()
    daemon.ended(0)
    assert len(daemon.events.matching("^end ")) == 2


def test_sigterm_to_every_process_halves_no_round(daemon: Daemon) -> None:
    """What systemd's KillMode=control-group does."""
    daemon.pool("sample_workers:Rounds", workers=4, options={"seconds": 1}).start().ready()
    daemon.events.wait("^begin ", 4)
    for pid in sorted(daemon.left(), key=lambda pid: pid != daemon.pid):  # or others were born
        with contextlib.suppress(ProcessLookupError):  # who helped with a birth is gone by now
            os.kill(pid, signal.SIGTERM)
    daemon.ended(0)
    begun, ended = daemon.events.matching("^begin "), daemon.events.matching("^end ")
    assert len(ended) >= 4
    assert sorted(line.pid for line in begun) == sorted(line.pid for line in ended)
    assert len(daemon.events.matching("^teardown ")) == len(daemon.events.matching("^setup "))
    daemon.nothing_left()


def test_an_idle_worker_is_woken_by_a_drain(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Waits", workers=4).start().ready()
    daemon.events.wait("^waits", 4)  # who is told to drain before its first round has none
    asked = daemon.send(signal.SIGTERM)
    assert daemon.ended(0) - asked < SOON
    assert [line.words for line in daemon.events.matching("^woken")] == [["woken", "True"]] * 4


def test_a_loop_that_takes_the_signal_itself_has_been_drained(daemon: Daemon) -> None:
    daemon.pool("sample_workers:AsyncioLooper").start().ready()
    daemon.events.wait("^loop begins")
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    assert daemon.events.matching("^loop over True")
    assert daemon.events.matching("^teardown")
    assert not daemon.log.matching("died")


def test_a_loop_of_one_s_own_sees_the_drain(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Looper").start().ready()
    daemon.events.wait("^loop begins")  # who is told to drain before it does has no loop
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    assert daemon.events.matching("^loop over")
    assert daemon.events.matching("^teardown")


def test_wait_ends_after_its_seconds(daemon: Daemon) -> None:
    daemon.module(
        "naps",
        "import time\nfrom sample_workers import Idle, say\n"
        "class Naps(Idle):\n"
        "  def step(self):\n"
        "    began = time.monotonic()\n"
        "    say('napped', self.wait(0.2), time.monotonic() - began)\n",
    )
    daemon.pool("naps:Naps", path=[".", TESTS]).start().ready()
    for line in daemon.events.wait("^napped", 3):
        _, woken, seconds = line.words
        assert woken == "False"
        assert 0.2 <= float(seconds) < SOON
    daemon.send(signal.SIGTERM)
    daemon.ended(0)


def test_time_in_wait_is_no_round(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Silent", round_timeout="3s").start().ready()
    daemon.until(lambda: daemon.workers()[0]["state"] == "ready")  # it waits in its round
    workers = daemon.workers()
    daemon.events.collect(4)
    assert daemon.workers()[0]["pid"] == workers[0]["pid"]


# Interrupts


def test_an_interrupt_cuts_rounds_and_runs_every_teardown(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Rounds", workers=8, options={"seconds": 60}).start().ready()
    daemon.events.wait("^begin ", 8)
    asked = daemon.send(signal.SIGINT)
    assert daemon.ended(0) - asked < SOON
    assert len(daemon.events.matching("^teardown ")) == 8
    assert not daemon.events.matching("^end ")
    daemon.nothing_left()


def test_two_sigints_kill_at_once(daemon: Daemon) -> None:
    daemon.pool(
        "sample_workers:StubbornTeardown", workers=3, options={"seconds": 60}
    ).start().ready()
    daemon.send(signal.SIGINT)
    daemon.events.wait("^tearing", 3)
    asked = daemon.send(signal.SIGINT)
    assert daemon.ended(1) - asked < SOON
    daemon.nothing_left()


def test_sigint_cuts_a_drain_short(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Rounds", workers=2, options={"seconds": 60}).start().ready()
    daemon.events.wait("^begin ", 2)
    daemon.send(signal.SIGTERM)
    daemon.notices.wait("^STATUS=draining")
    asked = daemon.send(signal.SIGINT)
    assert daemon.ended(0) - asked < SOON
    assert len(daemon.events.matching("^teardown ")) == 2


def test_an_interrupt_comes_at_most_once(daemon: Daemon) -> None:
    daemon.pool("sample_workers:CatchesInterrupt").start().ready()
    daemon.events.wait("^begin ")
    daemon.send(signal.SIGINT)
    daemon.ended(0)
    order = [line.words[0] for line in daemon.events.lines]
    assert order == ["setup", "begin", "interrupted", "cleaned", "teardown"]


def test_teardown_is_never_interrupted(daemon: Daemon) -> None:
    daemon.pool(
        "sample_workers:StubbornTeardown",
        options={"seconds": 1},
        drain_timeout="200ms",
        stop_timeout="30s",
    )
    daemon.start().ready()
    daemon.send(signal.SIGTERM)
    daemon.events.wait("^tearing")
    daemon.ended(0)
    assert daemon.events.matching("^teardown")


# Starts that are stopped


def test_sigterm_during_a_long_import(daemon: Daemon) -> None:
    daemon.module(
        "slow", "import time\nfrom sample_workers import *\nsay('importing')\ntime.sleep(60)\n"
    )
    daemon.pool("slow:Idle", path=[".", TESTS], workers=2).start()
    daemon.events.wait("^importing")
    asked = daemon.send(signal.SIGTERM)
    assert daemon.ended(0) - asked < SOON
    daemon.nothing_left()
    assert not daemon.notices.matching("^READY")


def test_sigterm_during_a_long_setup(daemon: Daemon) -> None:
    daemon.pool("sample_workers:SlowSetup", workers=2, options={"seconds": 60}).start()
    daemon.events.wait("^setting-up", 2)
    asked = daemon.send(signal.SIGTERM)
    assert daemon.ended(0) - asked < SOON
    daemon.nothing_left()
    assert not daemon.events.matching("^teardown")  # since setup() did not return


def test_an_import_deaf_to_signals_does_not_hold_a_stop(daemon: Daemon) -> None:
    code = (
        "import signal, time\nfrom sample_workers import *\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "say('importing')\ntime.sleep(60)\n"
    )
    daemon.module("deaf", code)
    daemon.pool("deaf:Idle", path=[".", TESTS]).start()
    daemon.events.wait("^importing")
    asked = daemon.send(signal.SIGTERM)
    assert daemon.ended(0) - asked < SOON
    daemon.nothing_left()


def test_sigterm_at_any_moment_of_a_start(daemon: Daemon) -> None:
    """No signal is lost around a fork, and none leaves a process behind."""
    daemon.pool(workers=4)
    for step in range(12):
        daemon.start()
        if step:
            time.sleep(step * 0.012)  # not to wait for something, but to hit each moment
        else:
            daemon.until(daemon.left)
        asked = daemon.send(signal.SIGTERM)
        at = daemon.ended()
        assert at - asked < SOON
        assert daemon.process is not None
        # Before it can have handlers, the interpreter dies of the signal as any program does.
        assert daemon.process.returncode in (0, -signal.SIGTERM)
        daemon.nothing_left()


# Workers that do not listen

DEAF = {
    "stopped": ("sample_workers:Rounds", "^begin ", {"seconds": 60}),
    "deaf": ("sample_workers:Deaf", "^deaf ", {}),
    "hog": ("sample_workers:Hog", "^hog ", {}),
}


def start_unwilling(daemon: Daemon, kind: str) -> None:
    worker, sign, options = DEAF[kind]
    daemon.pool(worker, options=options, drain_timeout="500ms", stop_timeout="500ms")
    daemon.start().ready()
    pid = daemon.events.wait(sign)[0].pid
    if kind == "stopped":
        os.kill(pid, signal.SIGSTOP)
        daemon.until(lambda: stat(pid)[0] == "T")
    elif kind == "hog":
        before = int(stat(pid)[11])  # ticks of CPU time in user mode
        daemon.until(lambda: int(stat(pid)[11]) > before + 5)  # it is in C by now


@pytest.mark.parametrize("kind", DEAF)
def test_the_ladder_ends_whoever_does_not_listen(daemon: Daemon, kind: str) -> None:
    start_unwilling(daemon, kind)
    asked = daemon.send(signal.SIGTERM)
    took = daemon.ended(1) - asked  # 1: one had to be killed
    assert 0.9 < took < SOON
    daemon.nothing_left()


@pytest.mark.parametrize("kind", DEAF)
def test_sigint_is_answered_whoever_does_not_listen(daemon: Daemon, kind: str) -> None:
    start_unwilling(daemon, kind)
    asked = daemon.send(signal.SIGINT)
    assert daemon.ended(1) - asked < SOON  # stop_timeout, then the kill
    daemon.nothing_left()


@pytest.mark.parametrize("kind", DEAF)
def test_status_is_answered_while_a_worker_does_not_listen(daemon: Daemon, kind: str) -> None:
    start_unwilling(daemon, kind)
    assert daemon.workers()[0]["state"] == "busy"
    daemon.send(signal.SIGINT)
    daemon.ended(1)


@pytest.mark.parametrize("kind", DEAF)
def test_nobody_outlives_the_main_process(daemon: Daemon, kind: str) -> None:
    start_unwilling(daemon, kind)
    killed = daemon.send(signal.SIGKILL)
    daemon.ended(-9)
    assert daemon.nothing_left() - killed < SOON


def test_a_round_over_its_time_is_killed_with_its_stack_in_the_log(daemon: Daemon) -> None:
    daemon.pool(
        "sample_workers:Rounds", options={"seconds": 60}, round_timeout="300ms"
    ).start().ready()
    first = daemon.events.wait("^begin ")[0].pid
    assert daemon.events.wait("^begin ", 2)[1].pid != first
    assert daemon.log.matching(r"sample_workers\.py")  # the stack names the file
    assert daemon.log.matching("round_timeout|longer than|300 ms")
    daemon.send(signal.SIGINT)
    daemon.ended()


# Leases


def test_a_lease_holds_the_ladder(daemon: Daemon) -> None:
    daemon.pool(
        "sample_workers:Lease",
        options={"seconds": 3, "lease": 60},
        drain_timeout="2s",
    )
    daemon.start().ready()
    daemon.events.wait("^begin ")
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    # The clock stood still at the drain's beginning, so there is time for a little more.
    order = [line.words[0] for line in daemon.events.lines]
    assert order == ["setup", "begin", "leased", "after", "teardown"]
    lease, teardown = daemon.events.matching("leased|teardown")
    assert 1.5 < teardown.at - lease.at < SOON


def test_a_lease_holds_an_interrupt(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Lease", options={"seconds": 4}, stop_timeout="3s").start().ready()
    daemon.events.wait("^begin ")
    daemon.send(signal.SIGINT)
    daemon.ended(0)
    assert daemon.events.matching("^leased")
    assert daemon.events.matching("^teardown")


def test_a_second_sigint_breaks_leases(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Lease", options={"seconds": 60}).start().ready()
    daemon.events.wait("^begin ")
    daemon.send(signal.SIGINT)
    daemon.notices.wait("^STOPPING=1")
    asked = daemon.send(signal.SIGINT)
    assert daemon.ended(1) - asked < SOON
    daemon.nothing_left()


def test_a_lease_that_is_over_holds_nothing(daemon: Daemon) -> None:
    daemon.pool(
        "sample_workers:DeafLease",
        options={"lease": 1},
        drain_timeout="200ms",
        stop_timeout="300ms",
    )
    daemon.start().ready()
    begun = daemon.events.wait("^begin ")[0].at
    daemon.send(signal.SIGTERM)
    assert 1.0 < daemon.ended(1) - begun < SOON


OTHER = """
from sample_workers import *
class Other(Idle):
  def step(self):
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    say("other", self.slot)
    while True: time.sleep(1)
"""


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("how", ["TERM", "INT INT INT"])
def test_a_worker_that_has_become_another_user_s_holds_no_stop(daemon: Daemon, how: str) -> None:
    """Without the right to signal others' processes it can't be ended; the daemon goes on."""
    daemon.module("other", OTHER)
    quick = {"drain_timeout": "200ms", "stop_timeout": "200ms"}
    daemon.pool("other:Other", path=[".", str(TESTS)], **quick)
    daemon.start(wrap=("setpriv", "--bounding-set=-kill", "--inh-caps=-kill")).ready()
    stray = daemon.events.wait("^other ")[0].pid
    for name in how.split():
        daemon.send(signal.Signals[f"SIG{name}"])
        daemon.until(lambda: daemon.process is not None and daemon.process.poll() is None)
    if how == "TERM":
        daemon.log.wait(f"worker with pid {stray} has become another user's")
        daemon.send(signal.SIGINT)  # or ten seconds later
    daemon.ended(1, deadline=SOON)
    assert daemon.log.matching(f"pid {stray}.*can't be killed")
    os.kill(stray, signal.SIGKILL)
    daemon.nothing_left()


# One worker by hand


def test_a_worker_may_be_drained_by_hand(daemon: Daemon) -> None:
    daemon.pool(workers=2).start().ready()
    pid = daemon.worker_pids()[0]
    os.kill(pid, signal.SIGTERM)
    daemon.events.wait("^setup ", 3)
    wait_gone([pid])
    daemon.until(lambda: daemon.status()["pools"]["jobs"]["ready"] == 2)
    assert daemon.status()["pools"]["jobs"]["deaths"] == 0


def test_a_worker_may_be_interrupted_by_hand(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Rounds", options={"seconds": 60}).start().ready()
    pid = daemon.events.wait("^begin ")[0].pid
    with pidfd(pid) as worker:  # one signal may come right before a system call
        while not select.select([worker], [], [], 0.1)[0]:
            signal.pidfd_send_signal(worker, signal.SIGINT)
    assert daemon.events.wait("^begin ", 2)[1].pid != pid
    assert [line.pid for line in daemon.events.matching("^teardown")] == [pid]
    assert daemon.status()["pools"]["jobs"]["deaths"] == 0


OWN = """
import asyncio
from sample_workers import *
class Loop(Idle):
  def run(self):
    asyncio.run(self.main())
  async def main(self):
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    say("runs", self.slot)
    await over.wait()
class Exits(Idle):
  def setup(self):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
  def run(self):
    say("runs", self.slot)
    while True: time.sleep(0.01)  # a signal right before a long one would wait for its end
class Slow(Idle):
  def run(self):
    signal.signal(signal.SIGTERM, lambda *_: say("term", self.slot))
    say("runs", self.slot)
    while not os.path.exists(self.options["gate"]): time.sleep(0.01)
    os._exit(0)
"""


@pytest.mark.parametrize("kind", ["Loop", "Exits"])
def test_a_worker_with_a_handler_of_its_own_leaves_without_a_death(
    daemon: Daemon, kind: str
) -> None:
    """Whoever asks it, by hand or as the daemon does: status 0 is no death then."""
    daemon.module("own", OWN)
    daemon.pool(f"own:{kind}", path=[".", TESTS], workers=2).start().ready()
    daemon.events.wait("^runs ", 2)
    pid = daemon.worker_pids()[0]
    os.kill(pid, signal.SIGTERM)
    wait_gone([pid])
    daemon.events.wait("^runs ", 3)
    assert daemon.run("scale", "jobs", "1").returncode == 0
    daemon.until(lambda: len(daemon.workers()) == 1)
    pool = daemon.status()["pools"]["jobs"]
    assert (pool["deaths"], pool["backoff"]) == (0, None)
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    assert not daemon.log.matching("died")


def test_sigterm_is_sent_once_and_an_answer_that_is_missing_is_told(daemon: Daemon) -> None:
    """Many a library takes the second one for the wish to end at once."""
    daemon.module("own", OWN)
    gate = daemon.home / "gate"
    keys = {"path": [".", TESTS], "options": {"gate": str(gate)}}
    daemon.pool("own:Slow", **keys).start().ready()
    daemon.events.wait("^runs ")
    daemon.send(signal.SIGTERM)
    daemon.log.wait(r"worker jobs/0 .* has not answered SIGTERM for 1 s: likely a handler")
    gate.touch()
    daemon.ended(0)
    assert len(daemon.events.matching("^term ")) == 1
    assert not daemon.log.matching("died")


def test_hangup_leaves_a_worker_alone(daemon: Daemon) -> None:
    daemon.pool().start().ready()
    pid = daemon.worker_pids()[0]
    os.kill(pid, signal.SIGHUP)
    os.kill(pid, signal.SIGPIPE)
    daemon.events.collect(0.3)
    assert daemon.worker_pids() == [pid]


def test_sigquit_prints_a_worker_s_stack(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Waits").start().ready()
    pid = daemon.events.wait("^waits ")[0].pid
    os.kill(pid, signal.SIGQUIT)
    daemon.log.wait(r"sample_workers\.py.*step")
    assert daemon.worker_pids() == [pid]


def test_recycling_by_rounds_is_no_death(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Ticks", max_rounds=20).start().ready()
    daemon.events.wait("^teardown ", 2)
    pool = daemon.status()["pools"]["jobs"]
    assert pool["deaths"] == 0
    setups = daemon.events.matching("^setup ")
    ends = daemon.events.matching("^teardown ")
    assert setups[1].at < ends[0].at  # the replacement was ready before the old one left
