"""What a stranger tried who had only read the contract, and what broke when he did."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
from typing import Any

import pytest
from daemon_harness import SOON, TESTS, Daemon, comm


def ours(
    daemon: Daemon, worker: str, *, wrap: tuple[str, ...] = (), ready: bool = True, **options: Any
) -> None:
    """Start a pool of a class that the test has written beside config.yaml."""
    path = [str(daemon.home), str(TESTS)]
    daemon.configure({"jobs": {"worker": worker, "path": path, "options": options}})
    daemon.start(wrap=wrap)
    if ready:
        daemon.ready()


FORKS = """
import os
import sys

from sample_workers import Idle, say

class Forks(Idle):
    def setup(self):
        super().setup()
        self.fork("setup")

    def step(self):
        if not self.fork("step"):
            super().step()

    def fork(self, where):
        # whether this is the child, come back
        if self.options["where"] != where:
            return False
        child = os.fork()
        if child:
            say("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            return False
        match self.options["how"]:
            case "exits":
                sys.exit(3)
            case "raises":
                raise ValueError("in the child")
        return True  # and would be a second worker
"""


@pytest.mark.parametrize("where", ["setup", "step"])
@pytest.mark.parametrize(("how", "status"), [("exits", 3), ("raises", 1), ("comes back", 1)])
def test_a_forked_child_that_comes_back_is_no_second_worker(
    daemon: Daemon, where: str, how: str, status: int
) -> None:
    daemon.module("forks", FORKS)
    ours(daemon, "forks:Forks", where=where, how=how)
    daemon.events.wait(f"^child {status}$")
    pool = daemon.status()["pools"]["jobs"]
    assert pool["deaths"] == 0
    assert pool["workers"][0]["errors"] == 0
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    daemon.events.wait("^teardown ")
    assert len(daemon.events.matching("^setup ")) == 1
    assert len(daemon.events.matching("^child ")) == 1
    assert len(daemon.events.matching("^teardown ")) == 1
    daemon.nothing_left()


LEASES = """
from sample_workers import Rounds, say

class Leases(Rounds):
    def step(self):
        for odd in (None, "x", float("nan")):
            for call in (self.critical, self.extend, self.wait):
                if odd is None and call == self.wait:
                    continue
                try:
                    done = call(odd)
                    if call == self.critical:
                        with done:
                            pass
                except (TypeError, ValueError) as error:
                    say("refused", call.__name__, error)
        with self.critical(3600):
            pass
        super().step()
"""


def test_what_is_no_number_of_seconds_begins_no_lease(daemon: Daemon) -> None:
    """It had left the count of sections wrong: later leases lasted to their nominal end."""
    daemon.module("leases", LEASES)
    ours(daemon, "leases:Leases", seconds=3600)
    told = {line.text.partition(" seconds ")[2] for line in daemon.events.wait("^refused ", 8)}
    assert told == {f"must be a number, not {odd}" for odd in ("NoneType", "str", "NaN")}
    daemon.events.wait("^begin")
    asked = daemon.send(signal.SIGINT)
    assert daemon.ended(0) - asked < SOON
    daemon.nothing_left()


LONG = """
from sample_workers import Idle, say

class Long(Idle):
    def step(self):
        self.extend(1e300)
        say("waits")
        say("woken", self.wait(self.options["seconds"]))
"""


@pytest.mark.parametrize("seconds", [86400 * 30, 86400 * 365 * 50, 1e300])
def test_a_wait_may_be_longer_than_a_system_call_can_take(daemon: Daemon, seconds: float) -> None:
    daemon.module("long", LONG)
    ours(daemon, "long:Long", seconds=seconds)
    daemon.events.wait("^waits$")
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    assert daemon.events.wait("^woken")[0].text == "woken True"
    assert not daemon.log.matching("Traceback")


LEAKS = """
import os

from sample_workers import Idle, say

HELD = []

class Leaks(Idle):
    def step(self):
        if not HELD:
            for _ in range(100):
                os.close(os.open("/dev/null", os.O_RDONLY))
            while True:
                HELD.append(os.open("/dev/null", os.O_RDONLY))
        for fd in HELD:
            os.close(fd)
        HELD[:] = []
        super().step()
"""


def test_a_worker_without_descriptors_left_tells_its_traceback_and_stays(daemon: Daemon) -> None:
    daemon.module("leaks", LEAKS)
    ours(daemon, "leaks:Leaks", wrap=("sh", "-c", 'ulimit -n 200; exec "$@"', "sh"))
    daemon.log.wait(os.strerror(errno.EMFILE))
    daemon.log.wait(r'File ".*leaks\.py", line \d+, in step')
    daemon.until(lambda: daemon.status()["pools"]["jobs"]["workers"][0]["state"] == "ready")
    pool = daemon.status()["pools"]["jobs"]
    assert pool["deaths"] == 0
    assert pool["workers"][0]["errors"] == 1


RED = """
import os

from sample_workers import Idle

class Red(Idle):
    def setup(self):
        try:
            os.mkdir(self.options["mark"])
        except FileExistsError:
            return super().setup()
        raise ValueError("\\x1b[31mred\\x00")
"""


def test_what_a_worker_raised_moves_no_cursor_in_the_status(daemon: Daemon) -> None:
    daemon.module("red", RED)
    ours(daemon, "red:Red", mark=str(daemon.home / "mark"))
    told = daemon.run("status").stdout
    assert "ValueError: \\x1b[31mred\\x00" in told
    assert all(c.isprintable() for line in told.splitlines() for c in line)
    assert daemon.status()["pools"]["jobs"]["last_deaths"][0]["reason"].endswith("\x1b[31mred\x00")


LAST_IMPORT = """
import ctypes
import os
import signal
import subprocess

from sample_workers import Idle as Idle
from daemon_harness import wait_gone

ctypes.CDLL(None).prctl(1, 0)  # as if the import had just ended: no SIGKILL with the parent's death
main = os.getppid()
os.kill(main, signal.SIGKILL)
wait_gone([main])
if {fails}:
    raise ImportError("nobody is left to hear this")
"""


@pytest.mark.parametrize("fails", [True, False])
def test_a_zygote_whose_main_process_dies_during_the_import_goes_quietly(
    daemon: Daemon, fails: bool
) -> None:
    daemon.module("last", LAST_IMPORT.format(fails=fails))
    ours(daemon, "last:Idle", ready=False)
    daemon.ended(-signal.SIGKILL)
    daemon.nothing_left()
    assert not daemon.log.matching("^Traceback")  # an indented one is the import's
    assert not daemon.log.matching("ChannelClosed")


def test_a_wrong_configuration_is_told_to_systemd(daemon: Daemon) -> None:
    daemon.pool(workers="many").start()
    daemon.ended(78)
    daemon.notices.wait("^EXIT_STATUS=78$")
    assert daemon.notices.matching("^STATUS=failed: .*pools.jobs.workers")


def test_a_second_daemon_tells_systemd_why(daemon: Daemon) -> None:
    daemon.pool().start().ready()
    assert daemon.run("run").returncode == 75
    daemon.notices.wait("^EXIT_STATUS=75$")


def in_the_way(daemon: Daemon, what: str) -> int:
    """Have something that can't be had; return the number of the system's reason."""
    socket_path = daemon.short / "other.sock"
    places = {
        "runtime_dir": {"runtime_dir": str(daemon.config / "run")},
        "state_dir": {"state_dir": str(daemon.config / "state")},
        "log": {"log": {"file": str(daemon.config / "log")}},
    }
    pool: dict[str, Any] = {"worker": "sample_workers:Idle"}
    if what == "listen":
        socket_path.mkdir()
        pool["listen"] = f"unix://{socket_path}"
    daemon.configure({"jobs": pool}, **places.get(what, {}))
    if what == "lock":
        (daemon.short / "run" / "lock").mkdir(parents=True)
    if what == "control.sock":
        (daemon.short / "run" / "control.sock").mkdir(parents=True)
    return NUMBERS[what]


NUMBERS = {
    "runtime_dir": errno.EEXIST,
    "state_dir": errno.EEXIST,
    "log": errno.ENOTDIR,
    "listen": errno.EADDRINUSE,
    "lock": errno.EISDIR,
    "control.sock": errno.EISDIR,
}


@pytest.mark.parametrize("what", NUMBERS)
def test_systemd_is_told_the_number_of_the_system_s_reason(daemon: Daemon, what: str) -> None:
    number = in_the_way(daemon, what)
    daemon.start().ended(1 if what == "listen" else 78)
    daemon.notices.wait(f"^ERRNO={number}$")
    daemon.notices.wait(f"^STATUS=failed: .*{re.escape(os.strerror(number))}")
    assert not daemon.log.matching("Traceback")
    daemon.nothing_left()


def stack_told(daemon: Daemon, whose: str) -> str:
    """Return the one record that begins so; all lines of the log have to be records."""
    daemon.log.wait(whose)
    said = [json.loads(line.text)["message"] for line in daemon.log.lines]
    [found] = [message for message in said if re.match(whose, message)]
    return str(found)


def test_sigquit_shows_zygotes_and_keepers_too_each_as_one_record(daemon: Daemon) -> None:
    command = {"worker": "graced.workers:Command"}
    daemon.configure(
        {"one": command, "two": {"worker": "sample_workers:Idle"}}, log={"format": "json"}
    )
    daemon.start().ready()
    daemon.log.wait("queue one: .* is open")
    for _ in range(2):  # the second is not added to the first
        daemon.log.forget()
        daemon.send(signal.SIGQUIT)
        for whose, end in (
            ("zygote of one", 'process.py", line \\d+ in live\n$'),
            ("zygote of two", 'process.py", line \\d+ in live\n$'),
            ("queue keeper of one", 'server.py", line \\d+ in run\n'),
        ):
            told = stack_told(daemon, f"stack of the {whose} \\(pid \\d+\\):")
            assert told.count("most recent call first") == 1
            assert re.search(end, told)
            assert "supervisor.py" not in told


def test_sigquit_shows_where_an_import_hangs(daemon: Daemon) -> None:
    daemon.module(
        "slow", "from sample_workers import *\nsay('importing')\nimport time\ntime.sleep(60)\n"
    )
    pool = {"worker": "slow:Idle", "path": [".", str(TESTS)], "ready_timeout": "1m"}
    daemon.configure({"jobs": pool}, log={"format": "json"}).start()
    daemon.events.wait("^importing")
    daemon.send(signal.SIGQUIT)
    assert 'slow.py", line 4 in <module>' in stack_told(daemon, "stack of the zygote of jobs")
    daemon.send(signal.SIGTERM)
    daemon.ended(0)


def test_a_zygote_that_crashes_leaves_its_stack_in_the_log(daemon: Daemon) -> None:
    daemon.module("bad", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    daemon.configure({"jobs": {"worker": "bad:W", "path": ["."]}}, log={"format": "json"})
    daemon.start().ended(1)
    assert 'bad.py", line 2 in <module>' in stack_told(daemon, "the zygote of jobs .* its stack:")


def test_clients_are_not_taken_for_the_main_process(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Rounds", options={"seconds": 60}).start().ready()
    command = daemon.command("stop", "-c", str(daemon.config))
    client = subprocess.Popen(command, env=daemon.environment(), stderr=subprocess.DEVNULL)
    try:
        daemon.log.wait("asked to stop")
        assert comm(client.pid) == "graced-stop"
        assert comm(daemon.pid) == "graced"
    finally:
        client.kill()
        client.wait()
