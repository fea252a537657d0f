"""What an operator sees and asks of a running daemon: stuck rounds, recycling, scale, stacks."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_harness import DEADLINE, ROOT, SOON, Daemon, children, stat, wait_gone

TESTS = str(Path(__file__).parents[1])
IDLE = {"worker": "sample_workers:Idle"}


def worker(daemon: Daemon, step: str, *, rest: str = "", **keys: object) -> Daemon:
    """Configure a pool whose workers do `step` in slot 0, in their first life, else wait."""
    body = "".join(f"      {line}\n" for line in step.splitlines())
    daemon.module(
        "mine",
        f"from sample_workers import *\n{rest}\n"
        "class Mine(Idle):\n"
        "  rounds = 0\n"
        "  def step(self):\n"
        "    self.rounds += 1\n"
        "    if self.slot == 0 and not os.path.exists(self.options['marks'] + '/done'):\n"
        f"{body}"
        "    self.wait(3600)\n"
        "  def first_life_is_over(self):\n"
        "    open(self.options['marks'] + '/done', 'x').close()\n",
    )
    options = {"marks": str(daemon.home)}
    return daemon.pool("mine:Mine", path=[".", TESTS], options=options, **keys)


def pids(daemon: Daemon) -> dict[int, int]:
    return {entry["slot"]: entry["pid"] for entry in daemon.workers()}


def stop(daemon: Daemon, code: int = 0) -> None:
    daemon.send(signal.SIGTERM)
    daemon.ended(code)
    daemon.nothing_left()


# Rounds that take too long

STUCK = {
    "Python": ("def count_for_ever():\n  while True: pass\n", "count_for_ever"),
    "C": ("def count_for_ever():\n  sum(itertools.repeat(0, 10**12))\n", "count_for_ever"),
    "asleep": ("def count_for_ever():\n  time.sleep(3600)\n", "count_for_ever"),
    "deaf": (
        "def count_for_ever():\n"
        "  signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "  time.sleep(3600)\n",
        "no answer",
    ),
}


@pytest.mark.parametrize("kind", STUCK)
def test_a_stuck_round_is_told_and_ended(daemon: Daemon, kind: str) -> None:
    code, said = STUCK[kind]
    step = "self.first_life_is_over()\nsay('stuck')\ncount_for_ever()"
    worker(daemon, step, rest=code, workers=3, round_timeout="2s").start().ready()
    stuck = daemon.events.wait("^stuck")[0]
    born, again = daemon.events.wait("^setup jobs 0 ", 2)
    assert again.at - born.at >= 2  # the round began in between
    assert again.at - stuck.at < SOON
    assert daemon.log.matching(rf"worker jobs/0 \(pid {stuck.pid}\) is stuck:")
    assert daemon.log.matching(said)
    assert daemon.log.matching(
        rf"worker jobs/0 \(pid {stuck.pid}\) died: a round took longer than 2 s.*starting again"
    )
    assert len(daemon.events.matching("^setup ")) == 4  # the others are as they were
    pool = daemon.status()["pools"]["jobs"]
    assert (pool["deaths"], pool["last_deaths"][0]["pid"]) == (1, stuck.pid)
    assert pool["last_deaths"][0]["reason"] == "a round took longer than 2 s"
    stop(daemon)


def test_a_stuck_round_s_stack_is_told_once(daemon: Daemon) -> None:
    code, _ = STUCK["C"]
    step = "self.first_life_is_over()\ncount_for_ever()"
    worker(daemon, step, rest=code, round_timeout="2s").start()
    daemon.events.wait("^setup ", 2)
    stop(daemon)
    assert len(daemon.log.matching("in count_for_ever")) == 1


def test_a_round_is_timed_in_a_drain_too(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Hog", round_timeout="3s", drain_timeout="60s").start().ready()
    daemon.events.wait("^hog")
    asked = daemon.send(signal.SIGTERM)
    assert daemon.ended(1) - asked < SOON
    assert daemon.log.matching("in step")
    daemon.nothing_left()


def test_extend_gives_a_round_more_time(daemon: Daemon) -> None:
    step = (
        "say('begin')\nself.extend(60)\ntime.sleep(2.5)\nsay('end')\n"
        "self.first_life_is_over()\nsay('shorter')\nself.extend(0.2)\ntime.sleep(60)"
    )
    worker(daemon, step, round_timeout="2s").start().ready()
    daemon.events.wait("^setup ", 2)
    shorter, again = daemon.events.matching("^shorter|^setup ")[1:]
    [end] = daemon.events.matching("^end")
    assert again.at - end.at >= 0.2  # the 0.2 s began in between
    assert again.at - shorter.at < SOON
    assert len(daemon.events.matching("^begin")) == 1
    stop(daemon)


def test_extend_without_a_limit_sets_none(daemon: Daemon) -> None:
    daemon.environ["WATCHDOG_USEC"] = "200000"
    worker(daemon, "self.extend(0.05)\nsay('begin')\ntime.sleep(0.8)\nsay('end')").start().ready()
    daemon.events.wait("^end")
    assert not daemon.log.matching("watchdog")
    assert daemon.status()["pools"]["jobs"]["deaths"] == 0
    stop(daemon)


def test_a_wait_stops_the_clock_of_its_round(daemon: Daemon) -> None:
    step = "say('begin')\nfor _ in range(4):\n  time.sleep(0.1)\n  self.wait(0.8)\nsay('end')"
    worker(daemon, step, round_timeout="3s").start().ready()
    daemon.events.wait("^end")  # after 3.6 s, of which it worked 0.4
    assert len(daemon.events.matching("^begin")) == 1
    stop(daemon)


def test_a_wait_does_not_give_a_round_more_time(daemon: Daemon) -> None:
    step = "say('begin')\ntime.sleep(0.2)\nself.wait(2.2)\nsay('woken')\ntime.sleep(60)"
    worker(daemon, "self.first_life_is_over()\n" + step, round_timeout="2s").start().ready()
    again = daemon.events.wait("^setup ", 2)[1]
    [woken] = daemon.events.matching("^woken")  # the wait was not counted,
    assert 0 < again.at - woken.at < SOON  # and the round was ended all the same
    stop(daemon)


@pytest.mark.parametrize(("held", "more"), [(5, 60), (60, 0)])
def test_a_lease_holds_the_kill_of_a_stuck_round(daemon: Daemon, held: int, more: int) -> None:
    step = (
        f"self.first_life_is_over()\nwith self.critical({held}):\n"
        f"  time.sleep(2.5)\n  say('leased')\n  time.sleep({more})\ntime.sleep(60)"
    )
    worker(daemon, step, round_timeout="2s").start().ready()
    again = daemon.events.wait("^setup ", 2)[1]
    leased = daemon.events.matching("^leased")
    assert leased
    assert again.at - leased[0].at < SOON
    stop(daemon)


def test_a_round_that_ends_before_the_kill_is_spared(daemon: Daemon) -> None:
    """Deaf to the question for its stack, it ends while the answer is waited for."""
    step = (
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGQUIT})\n"
        "while signal.SIGQUIT not in signal.sigpending(): time.sleep(0.01)\n"
        "self.first_life_is_over()\n"
        "say('end')\nreturn"
    )
    worker(daemon, step, round_timeout="300ms").start().ready()
    daemon.events.wait("^end")
    daemon.log.wait("is stuck:")
    daemon.events.collect(0.4)
    assert len(daemon.events.matching("^setup ")) == 1
    assert daemon.status()["pools"]["jobs"]["deaths"] == 0
    stop(daemon)


def test_rounds_in_time_cost_the_main_process_nothing(daemon: Daemon) -> None:
    daemon.module(
        "fast",
        "from sample_workers import *\nclass Fast(Idle):\n  n = 0\n  def step(self):\n"
        "    self.n += 1\n    if self.n % 10000 == 0: say('many')\n",
    )
    daemon.pool("fast:Fast", path=[".", TESTS], round_timeout="60s").start().ready()
    daemon.events.wait("^many")
    before = switches(daemon.pid)
    daemon.events.wait("^many", 6)
    assert switches(daemon.pid) - before < 100
    stop(daemon)


def switches(pid: int) -> int:
    """Return how often a process went to sleep."""
    found = re.search(
        r"^voluntary_ctxt_switches:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M
    )
    assert found is not None
    return int(found[1])


# Recycling


def never_below(daemon: Daemon, target: int) -> None:
    """Each worker's successor was ready before it left."""
    count = 0
    ready = daemon.notices.matching("^READY=1")[0].at
    for line in daemon.events.matching("^setup |^teardown "):
        count += 1 if line.words[0] == "setup" else -1
        assert count >= target or line.at < ready, line


def test_recycling_by_rounds(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Counts", workers=2, max_rounds=100).start().ready()
    ends = daemon.events.wait("^teardown ", 8)
    never_below(daemon, 2)
    rounds = [int(line.words[2]) for line in ends]
    # How far past it they come depends on how long the successor takes to be ready.
    assert all(number >= 90 for number in rounds), rounds
    assert len(set(rounds)) > 1  # not all at once
    pool = daemon.status()["pools"]["jobs"]
    assert (pool["deaths"], pool["backoff"]) == (0, None)
    daemon.log.wait(r"worker jobs/\d \(pid \d+\) .*max_rounds")
    stop(daemon)


def test_recycling_by_age(daemon: Daemon) -> None:
    before = time.monotonic()
    daemon.pool(workers=2, max_age="600ms").start().ready()
    ends = daemon.events.wait("^teardown ", 4)
    never_below(daemon, 2)
    assert ends[0].at - before > 0.5  # a tenth of it is jitter
    assert ends[2].at - before > 1.0  # the successors of the first two live as long
    daemon.log.wait(r"worker jobs/\d \(pid \d+\) .*max_age")
    stop(daemon)


def test_recycling_by_memory(daemon: Daemon) -> None:
    daemon.module(
        "grows",
        "from sample_workers import *\nclass Grows(Idle):\n  held = b''\n  def step(self):\n"
        "    self.held += b'x' * 2**20\n    self.wait(0.01)\n",
    )
    daemon.pool("grows:Grows", path=[".", TESTS], max_rss="60M").start().ready()
    daemon.events.wait("^teardown ")
    never_below(daemon, 1)
    assert daemon.status()["pools"]["jobs"]["deaths"] == 0
    daemon.log.wait(r"worker jobs/0 \(pid \d+\) .*max_rss")
    stop(daemon)


def test_recycling_on_its_own_wish(daemon: Daemon) -> None:
    step = (
        "say('round')\nif self.rounds == 3:\n  self.recycle()\n  self.first_life_is_over()\nreturn"
    )
    worker(daemon, step, workers=2).start().ready()
    ends = daemon.events.wait("^teardown 0")
    never_below(daemon, 2)
    assert ends[0].pid == daemon.events.matching("^round")[0].pid
    daemon.until(lambda: daemon.status()["pools"]["jobs"]["ready"] == 2)
    assert len(daemon.events.matching("^teardown")) == 1
    assert daemon.status()["pools"]["jobs"]["deaths"] == 0
    daemon.log.wait(r"worker jobs/0 \(pid \d+\) .*recycle\(\)")
    stop(daemon)


# Scale


def has(daemon: Daemon, number: int) -> None:
    """Wait until there are so many workers, all ready and no others."""

    def there() -> bool:
        pool = daemon.status()["pools"]["jobs"]
        return pool["target"] == pool["ready"] == len(pool["workers"]) == number

    daemon.until(there)


def test_scale_up_down_and_to_nothing(daemon: Daemon) -> None:
    daemon.pool(workers=2).start().ready()
    for before, after in [(2, 5), (5, 3), (3, 0), (0, 2)]:
        result = daemon.run("scale", "jobs", str(after))
        assert (result.returncode, result.stdout) == (0, f"jobs: {before} → {after} workers\n")
        has(daemon, after)
    assert daemon.status()["ready"] is True
    assert daemon.status()["pools"]["jobs"]["deaths"] == 0
    assert not daemon.notices.matching("^RELOADING")
    stop(daemon)


def test_scale_down_halves_no_round(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Rounds", workers=4, options={"seconds": 0.6}).start().ready()
    daemon.events.wait("^begin ", 4)
    assert daemon.run("scale", "jobs", "1").returncode == 0
    leaving = {line.pid for line in daemon.events.wait("^teardown ", 3)}
    for pid in leaving:
        last = [line.words[0] for line in daemon.events.matching("^(begin|end)") if line.pid == pid]
        assert last[-1] == "end"
    stop(daemon)


@pytest.mark.parametrize(
    ("words", "problem"),
    [(["nobody", "2"], "no pool 'nobody'; there are: jobs"), (["jobs", "1001"], "at most 1000")],
)
def test_a_scale_that_cannot_be_is_refused(daemon: Daemon, words: list[str], problem: str) -> None:
    daemon.pool(workers=2).start().ready()
    result = daemon.run("scale", *words)
    assert result.returncode == 1
    assert problem in result.stderr
    assert daemon.status()["pools"]["jobs"]["target"] == 2
    stop(daemon)


def test_a_scale_during_a_reload_comes_after_it(daemon: Daemon) -> None:
    daemon.pool(workers=2).start().ready()
    daemon.pool("sample_workers:SlowSetup", workers=2, options={"seconds": 0.6})
    daemon.send(signal.SIGHUP)
    daemon.events.wait("^setting-up")
    assert daemon.run("scale", "jobs", "3").returncode == 0
    daemon.ready(2)
    has(daemon, 3)
    assert {entry["generation"] for entry in daemon.workers()} == {2}
    stop(daemon)


def test_ttin_and_ttou_are_one_more_and_one_fewer(daemon: Daemon) -> None:
    daemon.pool(workers=2).start().ready()
    for number, after in [("SIGTTIN", 3), ("SIGTTIN", 4), ("SIGTTOU", 3)]:
        daemon.send(signal.Signals[number])
        has(daemon, after)
    for _ in range(5):
        daemon.send(signal.SIGTTOU)
        daemon.run("status")
    has(daemon, 0)
    stop(daemon)


def test_ttin_with_several_pools_names_the_command(daemon: Daemon) -> None:
    daemon.configure({"one": IDLE, "two": IDLE}).start().ready()
    daemon.send(signal.SIGTTIN)
    daemon.log.wait("warning.*graced scale")
    assert {pool["target"] for pool in daemon.status()["pools"].values()} == {1}
    stop(daemon)


# A terminal

TAKE = "import os, sys; os.open(sys.argv[1], os.O_RDWR); os.execvp(sys.argv[2], sys.argv[2:])"
HEED = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); "  # were we under nohup


@contextlib.contextmanager
def terminal(daemon: Daemon, take: str = HEED + TAKE) -> Iterator[list[int]]:
    """Start the daemon with a controlling terminal; give the end that a test can close."""
    ours, theirs = pty.openpty()
    masters = [ours]
    try:
        daemon.start(wrap=(sys.executable, "-c", take, os.ttyname(theirs))).ready()
        os.close(theirs)
        yield masters
    finally:
        for fd in masters:
            os.close(fd)


def test_with_a_terminal_ttin_is_ignored_and_hangup_reloads(daemon: Daemon) -> None:
    daemon.pool(workers=2)
    with terminal(daemon):
        for number in (signal.SIGTTIN, signal.SIGTTOU):
            daemon.send(number)
            assert daemon.status()["pools"]["jobs"]["target"] == 2
        daemon.send(signal.SIGHUP)
        daemon.ready(2)
        stop(daemon)


def test_only_a_terminal_is_left_for_a_session_of_ones_own(daemon: Daemon) -> None:
    body = "class Jobs(JobWorker):\n    def handle(self, job): pass\n"
    daemon.module("jobs", f"from graced import JobWorker\n{body}")
    daemon.pool("jobs:Jobs", path=[str(daemon.home)])

    def sessions() -> set[int]:
        found = children(daemon.pid)
        return {os.getsid(pid) for pid in found} if len(found) == 3 else set()

    with terminal(daemon):
        daemon.until(lambda: sessions() and os.getsid(daemon.pid) not in sessions())
        stop(daemon)
    daemon.start().ready(2)
    daemon.until(lambda: sessions() == {os.getsid(daemon.pid)})
    stop(daemon)


IN_THE_BACKGROUND = """
import os, signal, sys, termios
fd = os.open(sys.argv[1], os.O_RDWR)
modes = termios.tcgetattr(fd)
modes[3] |= termios.TOSTOP
termios.tcsetattr(fd, termios.TCSANOW, modes)
read, write = os.pipe()
if os.fork() == 0:  # somebody else is in the foreground
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.tcsetpgrp(fd, os.getpgrp())
    os.write(write, b"x")
    for each in (1, 2, read, write):  # what is written is for the other one alone
        os.close(each)
    signal.pause()
os.read(read, 1)
for stream in (1, 2):
    os.dup2(fd, stream)
os.execvp(sys.argv[2], sys.argv[2:])
"""
TALKS = """
import os, subprocess
from graced import Worker

class Talks(Worker):
    def step(self):
        print("printed", flush=True)
        subprocess.run(["sh", "-c", "echo executed"], check=True)
        try:
            with open("/dev/tty") as terminal:
                terminal.read(1)
        except OSError as error:
            print("refused", error.errno, flush=True)
        self.wait(3600)
"""


def test_a_terminal_that_stops_who_writes_from_the_background_stops_nobody(daemon: Daemon) -> None:
    daemon.module("talks", TALKS)
    daemon.pool("talks:Talks", path=[str(daemon.home)])
    ours, theirs = pty.openpty()
    try:
        daemon.start(wrap=(sys.executable, "-c", IN_THE_BACKGROUND, os.ttyname(theirs))).ready()
        daemon.send(signal.SIGUSR2)
        said = b""
        for word in (b"ready: 1 worker", b"printed", b"executed", b"refused 6", b"SIGUSR2 is"):
            while word not in said:
                assert select.select([ours], [], [], DEADLINE)[0], said
                said += os.read(ours, 4096)
        assert daemon.status()["pools"]["jobs"]["ready"] == 1
        stop(daemon)
    finally:
        os.close(theirs)
        os.close(ours)


def test_a_terminal_that_goes_away_is_no_matter_to_nohup(daemon: Daemon) -> None:
    daemon.pool(workers=2)
    nohup = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); " + TAKE
    with terminal(daemon, nohup) as masters:
        os.close(masters.pop())
        daemon.log.wait("the terminal is gone; going on: SIGHUP was ignored at the start")
        daemon.send(signal.SIGHUP)
        daemon.ready(2)
        stop(daemon)


def test_a_terminal_that_goes_away_drains(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Gated", workers=2, options={"gate": daemon.gate()})
    with terminal(daemon) as masters:
        daemon.events.wait("^begin ", 2)
        os.close(masters.pop())
        daemon.draining(2)
        daemon.open_gate()
        daemon.ended(0)
        daemon.nothing_left()
    assert daemon.log.matching("terminal is gone")
    assert not daemon.notices.matching("^RELOADING")
    begun, ended = daemon.events.matching("^begin "), daemon.events.matching("^end ")
    assert len(begun) == len(ended) == 2


# Stacks


def test_stacks_of_all_processes(daemon: Daemon) -> None:
    daemon.configure(
        {
            "busy": {"worker": "sample_workers:Rounds", "options": {"seconds": 60}},
            "deaf": {"worker": "sample_workers:Deaf", "stop_timeout": "100ms", "drain_timeout": 0},
            "hog": {"worker": "sample_workers:Hog", "stop_timeout": "100ms", "drain_timeout": 0},
            "idle": {"worker": "sample_workers:Waits"},
        }
    )
    daemon.start().ready()
    daemon.events.wait("^(begin|deaf|hog|waits) ", 4)
    idle = daemon.worker_pids("idle")[0]
    daemon.until(lambda: stat(idle)[0] == "S")
    result = daemon.run("stacks")
    assert result.returncode == 0, result
    told = dict(re.findall(r"^== (\w+ \S+) .*\n((?:(?!== ).*\n)*)", result.stdout, re.MULTILINE))
    assert set(told) == {"main process"} | {
        f"worker {p}/0" for p in ("busy", "deaf", "hog", "idle")
    }
    assert "supervisor/loop.py" in told["main process"]
    assert "in step" in told["worker busy/0"]
    assert "no answer" in told["worker deaf/0"]
    assert re.search(r"sample_workers\.py.*in step", told["worker hog/0"])
    assert "in wait" in told["worker idle/0"]
    assert sum(pool["deaths"] for pool in daemon.status()["pools"].values()) == 0
    daemon.send(signal.SIGINT)
    daemon.ended(1)


def test_sigquit_writes_all_stacks_to_the_log(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Waits", workers=2).start().ready()
    daemon.events.wait("^waits ", 2)
    before = pids(daemon)
    daemon.send(signal.SIGQUIT)
    daemon.log.wait(r"stack of the main process:")
    daemon.log.wait(r"stack of worker jobs/[01] \(pid \d+\):", 2)
    daemon.log.wait(r"sample_workers\.py.*in step", 2)
    assert pids(daemon) == before
    os.kill(before[1], signal.SIGQUIT)
    daemon.log.wait(rf"stack of worker jobs/1 \(pid {before[1]}\):", 2)
    daemon.log.wait(r"sample_workers\.py.*in step", 3)
    daemon.events.collect(0.2)
    assert len(daemon.log.matching(r"sample_workers\.py.*in step")) == 3
    stop(daemon)


def test_a_crash_is_told_with_its_own_stack_only(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Waits").start().ready()
    for life, number in enumerate((signal.SIGALRM, signal.SIGSEGV), start=1):
        daemon.events.wait("^waits ", life)
        assert "in step" in daemon.run("stacks").stdout
        os.kill(pids(daemon)[0], number)
        daemon.log.wait(f"killed by {number.name}")  # of the first nobody prints a stack
        daemon.until(lambda: daemon.status()["pools"]["jobs"]["ready"] == 1)
    daemon.log.wait("its stack:")
    assert len(daemon.log.matching("its stack:")) == 1
    assert len(daemon.log.matching("in step")) == 1
    stop(daemon)


# The watchdog


def watched(daemon: Daemon) -> None:
    """Have the daemon asked for a sign of life every 300 ms."""
    daemon.environ["WATCHDOG_USEC"] = "300000"


def beats(daemon: Daemon, seconds: float = 0.6) -> int:
    """Return how many signs of life come in some time."""
    before = len(daemon.notices.matching("^WATCHDOG=1"))
    daemon.notices.collect(seconds)
    return len(daemon.notices.matching("^WATCHDOG=1")) - before


def is_fed(daemon: Daemon) -> None:
    """Wait for signs of life."""
    daemon.notices.wait("^WATCHDOG=1", len(daemon.notices.matching("^WATCHDOG=1")) + 3)


def freeze(daemon: Daemon, victims: list[int]) -> None:
    for pid in victims:
        os.kill(pid, signal.SIGSTOP)
        daemon.until(lambda pid=pid: stat(pid)[0] == "T")


def test_the_watchdog_is_fed_while_enough_workers_are_healthy(daemon: Daemon) -> None:
    watched(daemon)
    daemon.configure({"jobs": {**IDLE, "workers": 4}}, watchdog_quorum=3).start().ready()
    is_fed(daemon)
    all_of_them = list(pids(daemon).values())
    freeze(daemon, all_of_them[:1])
    is_fed(daemon)
    freeze(daemon, all_of_them[1:2])
    daemon.log.wait("the watchdog is not fed")
    assert beats(daemon) == 0
    for pid in all_of_them[:2]:
        os.kill(pid, signal.SIGCONT)
    daemon.notices.wait("^WATCHDOG=1", len(daemon.notices.matching("^WATCHDOG=1")) + 2)
    stop(daemon)


def test_a_round_past_its_deadline_is_not_healthy(daemon: Daemon) -> None:
    watched(daemon)
    pass_gate = f"pass_gate({{'gate': {daemon.gate()!r}}})"
    step = f"self.first_life_is_over()\nwith self.critical(600): {pass_gate}\ntime.sleep(600)"
    worker(daemon, step, round_timeout="2s").start().ready()
    daemon.log.wait("the watchdog is not fed")  # the lease holds the kill
    daemon.open_gate()
    daemon.events.wait("^setup ", 2)
    is_fed(daemon)
    stop(daemon)


def test_workers_in_back_off_neither_help_nor_harm(daemon: Daemon) -> None:
    watched(daemon)
    daemon.module(
        "dying",
        "from sample_workers import *\nclass Dying(Idle):\n  def step(self):\n"
        "    while not os.path.exists(self.options['sign']): self.wait(0.02)\n    os._exit(3)\n",
    )
    sign = daemon.home / "sign"
    dying = {"worker": "dying:Dying", "path": [".", TESTS], "options": {"sign": str(sign)}}
    dying["backoff"] = {"first": "20s"}
    daemon.configure({"dying": dying, "jobs": IDLE}, watchdog_quorum=2).start().ready()
    sign.touch()
    daemon.until(lambda: daemon.status()["pools"]["dying"]["backoff"])
    is_fed(daemon)
    freeze(daemon, [pids(daemon)[0]])
    daemon.log.wait("the watchdog is not fed")
    assert beats(daemon) == 0
    os.kill(pids(daemon)[0], signal.SIGCONT)
    stop(daemon)


# graced health


def health(daemon: Daemon, *flags: str) -> tuple[int, str]:
    asked = daemon.run("health", *flags)
    return asked.returncode, asked.stdout.strip()


def test_health_is_that_of_the_workers(daemon: Daemon) -> None:
    daemon.configure({"jobs": {**IDLE, "workers": 2}}).start().ready()
    assert health(daemon) == (0, "healthy: 2 of 2 workers healthy")
    assert health(daemon, "--ready") == (0, "healthy: 2/2 workers ready")
    all_of_them = pids(daemon)
    freeze(daemon, [all_of_them[0]])
    ill = f"jobs/0 (pid {all_of_them[0]}) is stopped"
    assert health(daemon) == (0, f"healthy: 1 of 2 workers healthy: {ill}")
    freeze(daemon, [all_of_them[1]])
    status, text = health(daemon)
    assert status == 1
    ill += f"; jobs/1 (pid {all_of_them[1]}) is stopped"
    assert text == f"unhealthy: 0 of 2 workers healthy, 1 needed: {ill}"
    for pid in all_of_them.values():
        os.kill(pid, signal.SIGCONT)
    daemon.until(lambda: health(daemon) == (0, "healthy: 2 of 2 workers healthy"))
    stop(daemon)


def test_not_ready_is_no_illness(daemon: Daemon) -> None:
    gate = "while not os.path.exists(self.options['gate']): time.sleep(0.02)"
    code = f"from sample_workers import *\nclass Slow(Idle):\n  def setup(self):\n    {gate}\n"
    daemon.module("slow", code)
    options = {"gate": str(daemon.home / "gate")}
    daemon.configure({"jobs": {"worker": "slow:Slow", "path": [".", TESTS], "options": options}})
    daemon.start()
    daemon.until(lambda: health(daemon) == (0, "healthy: 1 of 1 workers healthy"))
    assert health(daemon, "--ready") == (1, "not ready: starting: 0/1 workers ready")
    (daemon.home / "gate").touch()
    daemon.ready()
    assert health(daemon, "--ready") == (0, "healthy: 1/1 workers ready")
    stop(daemon)
    assert daemon.run("health").returncode == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_answered_from_a_half_digested_turn(daemon: Daemon, number: int) -> None:
    """The daemon finds a worker's death and every kind of question in one turn of its loop."""
    daemon.pool(workers=2).start().ready()
    commands = ["health", "status", "stacks", "scale", "health"]
    clients = [socket.socket(socket.AF_UNIX) for _ in commands]
    for client in clients:
        client.settimeout(DEADLINE)
        client.connect(str(daemon.short / "run" / "control.sock"))
    gone = pids(daemon)[0]
    freeze(daemon, [daemon.pid])
    for client, command in zip(clients, commands, strict=True):
        asked = {"command": command, "pool": "jobs", "workers": 3}
        client.sendall(json.dumps(asked).encode() + b"\n")
    os.kill(gone, number)
    daemon.until(lambda: stat(gone)[0] == "Z")
    daemon.send(signal.SIGCONT)
    for client in clients:
        with client, client.makefile() as replies:
            assert json.loads(replies.readline())["ok"]
    daemon.until(lambda: daemon.status()["pools"]["jobs"]["ready"] == 3)
    stop(daemon)


BROKEN = """
from graced.supervisor.keepers import KeeperManager
from graced.supervisor.loop import Supervisor
from graced.supervisor.reporter import StatusReporter
def broken(*arguments):
    raise KeyError("half")
StatusReporter.health = KeeperManager.counts = Supervisor._trouble = broken
"""


def test_nothing_that_is_asked_ends_the_daemon(daemon: Daemon) -> None:
    """What fails while it is answered is an error for the client, and a traceback in the log."""
    (daemon.home / "sitecustomize.py").write_text(BROKEN)
    daemon.environ["PYTHONPATH"] = f"{daemon.home}:{ROOT}"
    daemon.pool(workers=1).start().ready()
    for command in ("health", "status", "reload"):
        asked = daemon.run(command)
        assert asked.returncode == 1
        assert "a bug in graced: KeyError: 'half'" in asked.stderr
    assert "reload refused, generation 1 goes on: " in asked.stderr
    assert len(daemon.log.wait("KeyError: 'half'", 3)) >= 3
    daemon.run("scale", "jobs", "2")
    daemon.events.wait("^setup ", 2)
    stop(daemon)


# Out of memory


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """Make a control group with so much memory, of whichever version there is."""
    for root, file in [
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ]:
        group = root / f"graced-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if not (group / file).exists():
                continue
            (group / file).write_text(str(limit))
            for swap in ("memory.swap.max", "memory.swappiness"):
                with contextlib.suppress(OSError):
                    (group / swap).write_text("0")
            yield group
            return
        finally:
            left = [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            wait_gone(left)
            group.rmdir()
    pytest.skip("no memory control group can be made here")


@pytest.mark.usefixtures("as_root")
def test_out_of_memory_is_told(daemon: Daemon) -> None:
    with memory_group(100 * 2**20) as group:
        step = "self.first_life_is_over()\nsay('eating')\nheld = b'x' * 2**28"
        worker(daemon, step, workers=2)
        join = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        daemon.start(wrap=("sh", "-c", join, "sh")).ready()
        eater = daemon.events.wait("^eating")[0].pid
        wait_gone([eater])
        daemon.events.wait("^setup ", 3)
        death = daemon.status()["pools"]["jobs"]["last_deaths"][0]
        assert (death["pid"], death["reason"]) == (eater, "killed by SIGKILL (out of memory)")
        assert daemon.log.matching(r"killed by SIGKILL \(out of memory\)")
        os.kill(pids(daemon)[1], signal.SIGKILL)  # not of hunger
        daemon.events.wait("^setup ", 4)
        assert daemon.status()["pools"]["jobs"]["last_deaths"][1]["reason"] == "killed by SIGKILL"
        stop(daemon)
