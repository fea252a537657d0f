"""Zygotes that do not do as told: who waits for them, and what becomes of their workers."""

from __future__ import annotations

import os
import signal

import pytest
from daemon_harness import TESTS, Daemon, children, comm, wait_gone

from graced.control.client import Connection

STOPS = """
import os, signal
from sample_workers import *

forks = 0


def stop_before_fork() -> None:
    \"\"\"Stop whoever bears workers, when some are born and others are not.\"\"\"
    global forks
    with open("/proc/self/comm") as file:
        forks += file.read() == "graced-worker\\n"
    if forks == {nth}:
        say("stopped")
        os.kill(os.getpid(), signal.SIGSTOP)


os.register_at_fork(before=stop_before_fork)
"""

GATED = """
from sample_workers import *


class Gated(Idle):
    def step(self) -> None:
        say("begin", self.slot)
        open(self.options["gate"]).close()
        say("end", self.slot)
"""


def zygote_of(daemon: Daemon) -> int:
    (zygote,) = [pid for pid in children(daemon.pid) if comm(pid) == "graced-zygote"]
    return zygote


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_in_the_middle_of_a_birth_leaves_nobody_behind(
    daemon: Daemon, number: signal.Signals
) -> None:
    daemon.module("stops", STOPS.format(nth=3))
    path = [".", str(TESTS)]
    daemon.pool("stops:Idle", path=path, workers=4, stop_timeout="1s").start()
    daemon.events.wait("^stopped")
    daemon.send(number)
    daemon.log.wait("its zygote does not fork; killing it")
    daemon.ended(0)
    daemon.nothing_left()
    assert not daemon.events.matching("^setup")  # who was half born has left


def test_a_stop_in_the_middle_of_a_canary_s_birth_is_a_stop(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Idle", workers=2).start().ready()
    daemon.module("stops", STOPS.format(nth=1))
    daemon.pool("stops:Idle", path=[".", str(TESTS)], workers=2, stop_timeout="1s")
    daemon.send(signal.SIGHUP)
    daemon.events.wait("^stopped")
    daemon.send(signal.SIGTERM)
    daemon.log.wait("its zygote does not fork; killing it")
    daemon.ended(0)
    daemon.nothing_left()
    assert len(daemon.events.matching("^teardown")) == 2


def test_a_round_is_finished_though_the_zygote_is_stopped_and_killed(daemon: Daemon) -> None:
    gate = daemon.home / "gate"
    os.mkfifo(gate)
    daemon.module("gated", GATED)
    path = [".", str(TESTS)]
    daemon.pool("gated:Gated", path=path, workers=2, options={"gate": str(gate)}, stop_timeout="1s")
    first, second = (line.pid for line in daemon.start().ready().events.wait("^begin", 2))
    zygote = zygote_of(daemon)
    os.kill(zygote, signal.SIGSTOP)
    os.kill(second, signal.SIGKILL)
    daemon.log.wait(rf"worker jobs/. \(pid {second}\) died")
    daemon.send(signal.SIGTERM)
    wait_gone([zygote])
    assert not daemon.events.matching("^end")
    gate.write_bytes(b"")
    assert daemon.events.wait("^end")[0].pid == first
    daemon.ended(0)
    daemon.nothing_left()


def test_workers_of_an_old_generation_have_a_guard_though_their_zygote_was_killed(
    daemon: Daemon,
) -> None:
    limits = {"drain_timeout": "3s", "stop_timeout": "1s"}
    daemon.pool("sample_workers:Rounds", options={"seconds": 600}, **limits).start().ready()
    old = daemon.events.wait("^begin ")[0].pid
    zygote = zygote_of(daemon)
    assert daemon.run("reload").returncode == 0
    os.kill(zygote, signal.SIGKILL)
    wait_gone([zygote])
    assert daemon.status()["state"] == "running"
    daemon.send(signal.SIGKILL)
    wait_gone([old])
    daemon.nothing_left()


def test_a_stopped_zygote_that_takes_no_more_orders_is_no_end_of_the_daemon(
    daemon: Daemon,
) -> None:
    daemon.pool(stop_timeout="1s").start().ready()
    os.kill(zygote_of(daemon), signal.SIGSTOP)
    with Connection(daemon.settings["runtime_dir"] + "/control.sock") as connection:
        for workers in range(2, 400):
            assert connection.call("scale", {"pool": "jobs", "workers": workers})["ok"]
    daemon.log.wait("could not be forked: the other side does not read its messages")
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    daemon.nothing_left()


RUNTIME = """
import os, sys

begun = []


def begin():
    \"\"\"Begin, and begin anew in a child: it closes what the old one had open, by number.\"\"\"
    global begun
    if begun:
        assert [os.fstat(fd).st_ino for fd in begun] == inodes, "its descriptors are another's"
        for fd in begun:
            os.close(fd)
    begun = [os.open("/", os.O_RDONLY), *os.pipe()]
    keep()


def keep():
    global inodes
    inodes = [os.fstat(fd).st_ino for fd in begun]
    os.environ["BEGUN"] = " ".join(map(str, begun))
    os.environ["IDENTITY"] = str(inodes)


begin()
os.register_at_fork(after_in_child=begin)


class Wrapped:
    def __init__(self, loader): self.loader = loader
    def __getattr__(self, name): return getattr(self.loader, name)
    def create_module(self, spec): return self.loader.create_module(spec)
    def exec_module(self, module): self.loader.exec_module(module)


class Wrapper:
    \"\"\"Wraps every loader, as tracers do.\"\"\"
    def find_spec(self, name, path=None, target=None):
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = Wrapped(spec.loader)
                return spec


sys.meta_path.insert(0, Wrapper())
"""
BEGUN = """
import logging
from sample_workers import *


class Looks(Idle):
    def setup(self) -> None:
        fds = [int(fd) for fd in os.environ["BEGUN"].split()]
        same = os.environ["IDENTITY"] == str([os.fstat(fd).st_ino for fd in fds])
        say("begun", same, os.readlink(f"/proc/self/fd/{os.environ['HANDED']}"))
        super().setup()
"""


def test_a_runtime_that_began_before_graced_keeps_its_descriptors(daemon: Daemon) -> None:
    tracer = daemon.home / "tracer"
    tracer.mkdir()
    (tracer / "sitecustomize.py").write_text(RUNTIME)
    daemon.module("looks", BEGUN)
    daemon.pool("looks:Looks", path=[".", str(TESTS)], workers=2)
    daemon.configure(daemon.settings["pools"], log={"level": "debug"})
    daemon.environ |= {"PYTHONPATH": f"{tracer}:{TESTS.parent}", "HANDED": "77"}
    daemon.start(wrap=("bash", "-c", 'exec 77</etc/passwd; exec "$@"', "-")).ready()
    assert {line.text for line in daemon.events.wait("^begun", 2)} == {"begun True /dev/null"}
    daemon.log.wait("graced's code is in memory")
    assert not daemon.log.matching("the import has changed")
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    daemon.nothing_left()


def test_an_import_of_logging_is_no_news(daemon: Daemon) -> None:
    """Our finder waits for it."""
    daemon.module(
        "logs", "import logging\nimport sample_workers\nclass L(sample_workers.Idle): pass\n"
    )
    daemon.pool("logs:L", path=[".", str(TESTS)]).start().ready()
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    assert not daemon.log.matching("warning")
