"""Zygotes: imports, births, adoption, and what becomes of workers whose main process dies."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import signal
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from zygote_harness import DEADLINE, ChannelClosed, Child, ZygoteHarness, until

from graced import settings
from graced.host import process
from graced.host.process import in_child
from graced.host.scoreboard import ExitKind, Phase
from graced.workers.context import LoadError
from graced.workers.importer import load_class
from graced.workers.runtime import PARENT_DIED
from graced.zygote.spawn import LOST

IDLE = """
class W(Worker):
    def setup(self): say("setup", self.slot)
    def step(self): self.wait(None)
    def teardown(self): say("teardown", self.slot)
"""


# The import


def test_an_import_is_told(harness: ZygoteHarness) -> None:
    assert harness.fork(IDLE) == ("imported",)
    with open(f"/proc/{harness.zygote}/comm") as comm:
        assert comm.read() == "graced-zygote\n"
    assert os.getpgid(harness.zygote) == harness.zygote


REFUSED = [
    ("import nosuch", "users.py:8: ModuleNotFoundError: No module named 'nosuch'"),
    ("def f(): return 1/0\nf()", "users.py:8: ZeroDivisionError: division by zero"),
    ("import json\njson.loads('x')", "users.py:9: JSONDecodeError: Expecting value: line 1"),
    ("class W(Worker:\n  pass", "users.py:8: SyntaxError: "),
    ("sys.exit(4)", "users.py:8: called sys.exit(4) during the import"),
    ("raise KeyboardInterrupt", "users.py:8: KeyboardInterrupt"),
    ("class V(Worker): pass", "module 'users' has no class 'W'"),
    ("class W: pass", "users:W is not a subclass of graced.Worker"),
    ("W = 5", "users:W is not a class but int"),
    (
        "class W(Worker):\n    async def step(self): pass",
        "users:W: step() is a coroutine or a generator, whose code would never run;"
        " make it a plain function, which may call asyncio.run()",
    ),
    (
        "class W(Worker):\n    def step(self): pass\n    def setup(self): yield",
        "users:W: setup() is a coroutine or a generator, whose code would never run;"
        " make it a plain function, which may call asyncio.run()",
    ),
    ("class W(Worker): pass", "users:W has no step(), so it has nothing to do; define step(self)"),
    (
        "class Mixed: _turn = None\nclass W(Mixed, Worker):\n    def step(self): pass",
        "users:W: graced has a _turn of its own; rename yours",
    ),
]


LAZY = """
def __getattr__(name):
    if name != "W":
        raise AttributeError(name)
    {}
"""
REFUSED += [
    (LAZY.format(code), reason)
    for code, reason in [
        ("import nosuch", "users.py:12: ModuleNotFoundError: No module named 'nosuch'"),
        ("1 / 0", "users.py:12: ZeroDivisionError: division by zero"),
        ("os.nosuch", "users.py:12: AttributeError: module 'os' has no attribute 'nosuch'"),
        ("sys.exit(4)", "users.py:12: called sys.exit(4) during the import"),
        ("raise KeyboardInterrupt", "users.py:12: KeyboardInterrupt"),
        ("raise AttributeError(name)", "module 'users' has no class 'W'"),
        ("raise WorkerInterrupt", "users.py:12: WorkerInterrupt"),
        ("return 5", "users:W is not a class but int"),
    ]
]


@pytest.mark.parametrize(("code", "reason"), REFUSED)
def test_an_import_that_fails_says_where_and_why(
    harness: ZygoteHarness, code: str, reason: str
) -> None:
    kind, text = harness.fork(code)
    assert kind == "failed"
    assert text.startswith(reason)
    assert "\n" not in text
    assert process.describe_exit(harness.zygote_ended()) == "exited with status 0"
    assert harness.channel is not None
    with pytest.raises(ChannelClosed):  # it was its last word
        harness.told()
    if "Error" in reason:
        assert "Traceback" in harness.log()
        assert "users.py" in harness.log()


def test_a_class_misspelt_is_guessed(harness: ZygoteHarness) -> None:
    kind, text = harness.fork("class Thumbnails(Worker): pass", worker="users:Thumbnail")
    assert kind == "failed"
    assert text == "module 'users' has no class 'Thumbnail'; did you mean 'Thumbnails'?"


def test_a_class_within_what_is_no_module(harness: ZygoteHarness) -> None:
    kind, text = harness.fork("W = 5", worker="users:W.Inner")
    assert (kind, text) == ("failed", "module '5' has no class 'W.Inner'")


def test_the_deepest_place_in_user_code_is_named(harness: ZygoteHarness) -> None:
    (harness.home / "inner.py").write_text("import json\n\njson.loads('{')\n")
    kind, text = harness.fork("import inner")
    assert (kind, text.split(": ")[0]) == ("failed", "inner.py:3")


def test_a_module_that_is_not_there(harness: ZygoteHarness) -> None:
    kind, text = harness.fork("", worker="nosuch:W")
    assert kind == "failed"
    assert text == (
        "cannot import 'nosuch:W': ModuleNotFoundError: No module named 'nosuch';"
        f" looked in {harness.home}"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_folder_that_may_not_be_entered_is_named() -> None:
    import pwd

    nobody = pwd.getpwnam("nobody").pw_uid
    with tempfile.TemporaryDirectory(prefix="graced-", dir="/tmp") as home:
        closed = Path(home, "closed")
        package = closed / "package"
        package.mkdir(parents=True)
        (package / "mine.py").touch()
        Path(home).chmod(0o755)
        for worker, shut, why in [
            ("package.mine:W", closed, "ModuleNotFoundError: No module named 'package'"),
            ("package.mine:W", package, "ModuleNotFoundError: No module named 'package.mine'"),
            ("package:W", package, "module 'package' has no class 'W'"),
            ("package.mine:W", package / "mine.py", "PermissionError: [Errno 13]"),
        ]:
            shut.chmod(0o700)
            read, write = os.pipe()
            pool = settings.Pool("jobs", worker=worker, path=(str(closed),))

            def load(pool: settings.Pool = pool, write: int = write) -> None:
                os.setuid(nobody)
                try:
                    load_class(pool)
                except LoadError as error:
                    os.write(write, error.reason.encode())

            child = os.fork()
            if child == 0:
                in_child(load)
            os.close(write)
            with open(read, encoding="utf-8") as said:
                text = said.read()
            os.waitpid(child, 0)
            told = f"; user nobody may not enter {shut}: permission denied"
            if shut.suffix:
                told = f" Permission denied: '{shut}'; let user nobody read it"
            assert why + told in text
            shut.chmod(0o755)


def test_a_crash_in_an_import_is_its_end(harness: ZygoteHarness) -> None:
    with pytest.raises(ChannelClosed):
        harness.fork("os.kill(os.getpid(), signal.SIGKILL)")
    assert process.describe_exit(harness.zygote_ended()) == "killed by SIGKILL"


def test_threads_are_refused_by_name(harness: ZygoteHarness) -> None:
    code = """
    import threading
    threading.Thread(target=threading.Event().wait, name="poller", daemon=True).start()
    class W(Worker):
        def step(self): pass
    """
    kind, text = harness.fork(code)
    assert kind == "failed"
    assert "started threads (poller: runs threading.Event.wait)" in text
    assert "preload: false" in text


def test_threads_that_have_ended_do_no_harm(harness: ZygoteHarness) -> None:
    code = """
    import threading
    thread = threading.Thread(target=print)
    thread.start(); thread.join()
    class W(Worker):
        def step(self): pass
    """
    assert harness.fork(code) == ("imported",)


def test_without_preload_each_worker_imports(harness: ZygoteHarness) -> None:
    harness.fork("say('import', os.getpid())" + "\n" + IDLE.lstrip(), preload=False)
    harness.feed.take()
    assert harness.feed.lines == []
    children = [child.ready() for child in harness.spawn(2)]
    for child in children:
        harness.feed.wait(f"import {child.pid}")


def test_without_preload_an_import_that_fails_is_a_setup_that_fails(harness: ZygoteHarness) -> None:
    child = harness.worker("import nosuch", preload=False)
    assert child.ended().status == 1
    assert child.record.left == ExitKind.SETUP_FAILED
    assert child.record.text == "users.py:8: ModuleNotFoundError: No module named 'nosuch'"
    assert "Traceback" in harness.log()


def test_without_preload_a_look_up_that_fails_is_an_import_that_fails(
    harness: ZygoteHarness,
) -> None:
    child = harness.worker(LAZY.format("import nosuch"), preload=False)
    assert child.ended().status == 1
    assert child.record.left == ExitKind.SETUP_FAILED
    assert child.record.text == "users.py:12: ModuleNotFoundError: No module named 'nosuch'"
    assert "the code cannot be imported" in harness.log()


def test_without_preload_a_look_up_can_be_interrupted(harness: ZygoteHarness) -> None:
    child = harness.worker(LAZY.format("say('looking'); nap()"), preload=False)
    harness.feed.wait("looking")
    nudge(child, signal.SIGTERM)
    assert child.ended().status == 0
    assert child.record.left == ExitKind.INTERRUPTED


def test_without_preload_an_import_can_be_interrupted(harness: ZygoteHarness) -> None:
    child = harness.worker("say('importing')\ntime.sleep(60)", preload=False)
    harness.feed.wait("importing")
    nudge(child, signal.SIGTERM)
    assert child.ended().status == 0
    assert child.record.left == ExitKind.INTERRUPTED


def test_without_preload_threads_are_no_matter(harness: ZygoteHarness) -> None:
    code = """
    import threading
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    class W(Worker):
        def step(self): self.wait(None)
    """
    harness.worker(code, preload=False).ready()


def nudge(child: Child, number: int) -> None:
    """Send a signal again and again, as the main process does, until the worker is gone."""
    pidfd = os.pidfd_open(child.pid)
    end = time.monotonic() + DEADLINE
    while not select.select([pidfd], [], [], 0.02)[0]:
        assert time.monotonic() < end
        child.send(number)
    os.close(pidfd)


def test_the_environment_of_the_pool(
    harness: ZygoteHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("GRACED__POOLS__OTHER__ENV__PASSWORD", "other pools' business")
    monkeypatch.setenv("graced__pools__other__options__key", "too")
    monkeypatch.setenv("KEPT", "kept")
    code = """
    say([n for n in os.environ if n.startswith(("NOTIFY", "WATCHDOG", "LISTEN"))])
    say([n for n in os.environ if "OTHER" in n.upper()])
    say(os.environ["KEPT"], os.environ["MINE"], sys.path[0], os.read(0, 1))
    class W(Worker):
        def step(self): pass
    """
    harness.fork(code, env={"MINE": "mine"})
    harness.feed.take()
    assert harness.feed.lines == ["[]", "[]", f"kept mine {harness.home} b''"]


def test_a_zygote_has_only_the_descriptors_it_needs(harness: ZygoteHarness) -> None:
    stray = os.open("/dev/null", os.O_RDONLY)
    harness.fork(IDLE)
    kept = {os.readlink(f"/proc/{harness.zygote}/fd/{fd}") for fd in fds(harness.zygote)}
    assert "/dev/null" in kept
    names = sorted(name.split(":")[0] for name in kept)
    assert stray not in fds(harness.zygote)
    assert names.count("socket") == 1
    worker = harness.spawn()[0].ready()
    kinds = sorted(
        os.readlink(f"/proc/{worker.pid}/fd/{fd}").split(":")[0] for fd in fds(worker.pid)
    )
    assert "socket" not in kinds
    assert not any("pidfd" in kind for kind in kinds)
    os.close(stray)


def fds(pid: int) -> list[int]:
    return sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd"))


def test_descriptors_opened_by_the_import_stay_open(harness: ZygoteHarness) -> None:
    code = """
    SHARED = open(__file__)
    class W(Worker):
        def setup(self): say(SHARED.fileno() > 2, len(SHARED.read()) > 10)
        def step(self): self.wait(None)
    """
    harness.fork(code)
    harness.spawn()[0].ready()
    harness.feed.wait("True True")


# Code under the pool's own path


def code(value: str) -> str:
    return f"""
    class W(Worker):
        def setup(self): say('code', {value})
        def step(self): self.wait(None)
    """


def test_a_change_within_the_same_second_and_size_is_seen(harness: ZygoteHarness) -> None:
    for value in "1234":
        harness.fork(code(value))
        os.utime(harness.home / "users.py", (1e9, 1e9))
        harness.spawn()
        harness.feed.wait(f"code {value}")
        os.kill(harness.zygote, signal.SIGKILL)
        harness.zygote_ended()
    assert not (harness.home / "__pycache__").exists()


def test_a_stale_pyc_is_not_read(harness: ZygoteHarness) -> None:
    import py_compile

    harness.write(code("1"))
    source = harness.home / "users.py"
    os.utime(source, (1e9, 1e9))
    py_compile.compile(str(source))
    harness.write(code("2"))
    os.utime(source, (1e9, 1e9))
    harness.fork()
    harness.spawn()
    harness.feed.wait("code 2")


def test_packages_under_the_path_are_fresh_too_and_site_packages_are_cached(
    harness: ZygoteHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for folder in ("package", "site-packages"):
        (harness.home / folder).mkdir()
    (harness.home / "package" / "__init__.py").write_text("")
    (harness.home / "package" / "part.py").write_text("VALUE = 1")
    (harness.home / "site-packages" / "other.py").write_text("VALUE = 2")
    code = """
    import package.part, other
    say(package.part.VALUE + other.VALUE)
    class W(Worker):
        def step(self): pass
    """
    path = (str(harness.home), str(harness.home / "site-packages"))
    monkeypatch.setattr(sys, "pycache_prefix", None)
    assert harness.fork(code, path=path) == ("imported",)
    harness.feed.wait("3")
    cached = {str(file.relative_to(harness.home).parent) for file in harness.home.rglob("*.pyc")}
    assert cached == {"site-packages/__pycache__"}


def test_a_class_can_be_loaded_without_a_zygote(harness: ZygoteHarness) -> None:
    harness.write("class W(Worker):\n    def step(self): pass", name="loaded")
    pool = settings.Pool("jobs", worker="loaded:W", path=(str(harness.home),))

    def check() -> None:
        found = load_class(pool)
        os._exit(0 if found.__name__ == "W" else 1)

    os.environ["SAY"] = "1"
    assert run(check) == 0

    def broken() -> None:
        try:
            load_class(pool.replace(worker="loaded:X"))
        except LoadError as error:
            os._exit(0 if "no class 'X'" in error.reason else 1)

    assert run(broken) == 0


def run(work: Any) -> int:
    pid = os.fork()
    if pid == 0:
        in_child(work)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# Births


def test_workers_are_children_of_the_main_process_and_lead_groups(harness: ZygoteHarness) -> None:
    harness.fork(IDLE)
    children = harness.spawn(5)
    for child in children:
        child.ready()
        with open(f"/proc/{child.pid}/stat") as stat:
            parent, group = stat.read().rpartition(") ")[2].split()[1:3]
        assert int(parent) == os.getpid()
        assert int(group) == child.pid == child.record.pid
        with open(f"/proc/{child.pid}/comm") as comm:
            assert comm.read() == "graced-worker\n"
    assert len({child.pid for child in children}) == 5


def test_many_births_one_after_the_other(harness: ZygoteHarness) -> None:
    harness.fork(IDLE)
    few = len(fds(harness.zygote))
    for _ in range(30):
        child = harness.spawn()[0].ready()
        child.send(signal.SIGTERM)
        assert child.ended().status == 0
        harness.scoreboard.release(child.index)
    # The zygote has let go of all of them.
    until(lambda: len(fds(harness.zygote)) <= few, "descriptors are closed")
    with open(f"/proc/{harness.zygote}/task/{harness.zygote}/children") as children:
        assert children.read() == ""


def test_a_hundred_at_once(harness: ZygoteHarness) -> None:
    harness.fork(IDLE)
    children = harness.spawn(100)
    for child in children:
        child.ready()
    assert {child.record.phase for child in children} <= {Phase.READY, Phase.BUSY}
    harness.feed.take()
    assert sorted(harness.feed.lines) == sorted(f"setup {slot}" for slot in range(100))
    for child in children:
        child.send(signal.SIGTERM)
    for child in children:
        assert child.ended() == process.Exit(child.pid, os.CLD_EXITED, 0)


def test_a_signal_during_the_birth_is_not_lost(harness: ZygoteHarness) -> None:
    """A worker is asked to leave from the moment on that it has a number."""
    harness.fork(IDLE)
    assert harness.channel is not None
    for _ in range(30):
        child = harness.claim()
        harness.channel.send(("spawn", [(child.id, child.index, 0, 0, 0)]))
        child.pid = until(lambda c=child: c.record.pid, "a number")  # type: ignore[misc]
        os.kill(child.pid, signal.SIGTERM)
        harness.living.add(child.pid)
        assert harness.told() == ("spawned", [(child.id, child.pid)])
        child.until(lambda record: record.left, "left")
        assert child.record.left in (ExitKind.INTERRUPTED, ExitKind.DRAINED)
        assert not child.record.ready_at or child.record.left == ExitKind.DRAINED
        assert child.ended().status == 0
        harness.scoreboard.release(child.index)


def at_births(first: str) -> str:
    """Return code that does something first where a process leaves the group it was born in."""
    return (
        f"""
from graced.zygote import spawn
leave_group = spawn.os.setpgid
def setpgid(pid, group):
    {first}
    leave_group(pid, group)
spawn.os.setpgid = setpgid
"""
        + IDLE
    )


def test_a_signal_before_setup_is_not_lost(harness: ZygoteHarness) -> None:
    code = at_births("if pid == os.getpid(): os.kill(pid, signal.SIGTERM)  # in the worker")
    child = harness.worker(code)
    assert child.ended().status == 0
    assert child.record.left == ExitKind.INTERRUPTED
    harness.feed.take()
    assert harness.feed.lines == []


def test_a_birth_that_fails_is_told(harness: ZygoteHarness) -> None:
    harness.fork(IDLE)
    assert harness.channel is not None
    resource.prlimit(harness.zygote, resource.RLIMIT_NOFILE, (3, 64))
    child = harness.claim()
    harness.channel.send(("spawn", [(child.id, child.index, 0, 0, 0)]))
    kind, workers, why = harness.told()
    assert (kind, workers) == ("unspawned", [(child.id,)])
    assert why == "cannot fork: Too many open files"
    resource.prlimit(harness.zygote, resource.RLIMIT_NOFILE, (64, 64))
    harness.spawn()[0].ready()


def test_more_workers_than_descriptors_are_guarded_and_see_the_usual_limit(
    harness: ZygoteHarness,
) -> None:
    code = """
    import resource
    class W(Worker):
        def setup(self): say("limit", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        def step(self): self.wait(None)
    """
    harness.fork(code)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(harness.zygote, resource.RLIMIT_NOFILE, (64, hard))
    children = harness.spawn(80)
    harness.feed.wait("limit 64", 80)
    guarded = [fd for fd in fds(harness.zygote) if is_pidfd(harness.zygote, fd)]
    assert len(guarded) == 80
    for child in children:
        child.send(signal.SIGTERM)
    for child in children:
        assert child.ended().status == 0


def test_more_workers_than_descriptors_one_after_the_other(harness: ZygoteHarness) -> None:
    """Each has the usual limit, and all are guarded."""
    code = """
    import resource
    class W(Worker):
        def setup(self): say("limit", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        def step(self): self.wait(None)
    """
    harness.fork(code)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(harness.zygote, resource.RLIMIT_NOFILE, (64, hard))
    for _ in range(65):
        harness.spawn()[0].ready()
    harness.feed.wait("limit 64", 65)
    assert guarded(harness.zygote) == harness.living


def guarded(zygote: int) -> set[int]:
    """Return of which processes a zygote has a pidfd; -1 for those that are reaped."""
    found = set()
    for fd in os.listdir(f"/proc/{zygote}/fdinfo"):
        with contextlib.suppress(FileNotFoundError):
            text = Path(f"/proc/{zygote}/fdinfo/{fd}").read_text()
            found.update(int(pid) for pid in re.findall(r"^Pid:\s+(-?\d+)", text, re.M))
    return found


def test_a_replacement_has_the_descriptors_of_the_first_worker_and_no_others(
    harness: ZygoteHarness,
) -> None:
    harness.fork(IDLE)
    first = harness.spawn()[0].ready()
    second = harness.spawn()[0].ready()
    first.send(signal.SIGKILL)
    first.ended()
    until(lambda: guarded(harness.zygote) == {second.pid}, "its zygote has let go of it")
    third = harness.spawn()[0].ready()
    for child in (second, third):
        until(lambda pid=child.pid: process.state(pid) == "S", "it sleeps")  # type: ignore[misc]
    assert kinds(second.pid) == kinds(third.pid)


def kinds(pid: int) -> list[str]:
    """Return what a process has open, without the numbers."""
    folder = Path(f"/proc/{pid}/fd")
    return sorted(os.readlink(fd).split("[")[0].split("(")[0] for fd in folder.iterdir())


def test_each_worker_crashes_into_its_own_window(harness: ZygoteHarness) -> None:
    harness.fork(IDLE)
    first, second = (child.ready() for child in harness.spawn(2))
    os.kill(second.pid, signal.SIGSEGV)
    assert second.ended().status == signal.SIGSEGV
    assert "Segmentation fault" in harness.stacks.read(second.index)
    assert harness.stacks.read(first.index) == ""


def test_a_zygote_lives_through_a_signal_to_everybody(harness: ZygoteHarness) -> None:
    harness.fork(IDLE)
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGQUIT,
    ):
        os.kill(harness.zygote, number)
    harness.spawn()[0].ready()


EVERYBODY = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGQUIT,
    PARENT_DIED,
)


def all_at_once(pid: int) -> None:
    """Send all signals so that they are delivered one in another: to a process that is stopped."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: process.is_stopped(pid), "stopped")
    for number in EVERYBODY * 2:
        os.kill(pid, number)
    os.kill(pid, signal.SIGCONT)


def test_a_worker_lives_through_all_signals_at_once(harness: ZygoteHarness) -> None:
    child = harness.worker(IDLE).ready()
    all_at_once(child.pid)
    assert child.ended().status == 0
    assert child.record.left == ExitKind.INTERRUPTED


def test_a_zygote_lives_through_all_signals_at_once(harness: ZygoteHarness) -> None:
    harness.fork(IDLE, window=True)
    all_at_once(harness.zygote)
    harness.spawn()[0].ready()


def test_threads_that_a_fork_starts_in_the_child_disturb_no_birth(harness: ZygoteHarness) -> None:
    code = """
    import threading

    def start_threads():
        for _ in range(3):
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()

    os.register_at_fork(after_in_child=start_threads)
    """
    harness.fork(code + textwrap.indent(IDLE, "    "))
    for _ in range(10):
        for child in harness.spawn(3):
            child.ready().send(signal.SIGTERM)
            assert child.ended().status == 0


def test_a_fork_handler_that_unblocks_signals_disturbs_no_birth(harness: ZygoteHarness) -> None:
    code = """
    def unblock():
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    os.register_at_fork(after_in_child=unblock, after_in_parent=unblock)
    """
    harness.fork(code + textwrap.indent(IDLE, "    "))
    for child in harness.spawn(20):
        child.ready()


def test_a_middle_process_killed_before_it_tells_leaves_nobody(harness: ZygoteHarness) -> None:
    code = at_births(
        "if pid != os.getpid(): say('middle', os.getpid()); time.sleep(600)  # not in the worker"
    )
    harness.fork(code)
    assert harness.channel is not None
    child = harness.claim()
    harness.channel.send(("spawn", [(child.id, child.index, 0, 0, 0)]))
    harness.feed.until(lambda: bool(harness.feed.lines), "the middle process")
    os.kill(int(harness.feed.lines[0].split()[1]), signal.SIGKILL)
    assert harness.told() == ("unspawned", [(child.id,)], LOST)
    until(lambda: gone_but(harness.zygote), "no half-born worker is left")
    assert not child.record.ready_at


def test_a_middle_process_killed_at_a_birth_leaves_nobody_half_born(harness: ZygoteHarness) -> None:
    """Whatever moment it is; how often we come in time is chance."""
    harness.fork(IDLE)
    assert harness.channel is not None
    for step in range(40):
        child = harness.claim()
        harness.channel.send(("spawn", [(child.id, child.index, 0, 0, 0)]))
        middle = until(lambda c=child: child_of(harness.zygote) or c.record.born_whole, "a birth")  # type: ignore[misc]
        end = time.monotonic() + step * 0.0001
        while time.monotonic() < end:
            pass
        try:
            if middle > 1:  # else we came too late
                os.kill(middle, signal.SIGKILL)
        except ProcessLookupError:
            pass
        message = harness.told()
        if message == ("unspawned", [(child.id,)], LOST):
            until(lambda: gone_but(harness.zygote), "no half-born worker is left")
            assert not child.record.ready_at
        else:
            assert message == ("spawned", [(child.id, child.record.pid)])
            child.pid = child.record.pid
            until(lambda c=child: c.record.ready_at or not alive(c.pid), "whole, or gone")  # type: ignore[misc]
            child.send(signal.SIGTERM)
            assert child.ended().status == (0 if child.record.ready_at else signal.SIGTERM)
        harness.scoreboard.release(child.index)


def child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0


def gone_but(zygote: int) -> bool:
    while (exit := process.peek_exit()) is not None and exit.pid != zygote:
        process.reap(exit.pid)
    return list_children() == [zygote]


def test_a_zygote_killed_at_a_birth_leaves_nobody_half_born(harness: ZygoteHarness) -> None:
    """Whatever moment it is: each worker is whole and known, or gone."""
    harness.write(IDLE)
    for step in range(25):
        harness.fork()
        assert harness.channel is not None
        children = [harness.claim() for _ in range(4)]
        orders = [(child.id, child.index, 0, 0, 0) for child in children]
        harness.channel.send(("spawn", orders))
        end = time.monotonic() + step * 0.0003
        while time.monotonic() < end:
            pass
        os.kill(harness.zygote, signal.SIGKILL)
        harness.zygote_ended()
        harness.channel.close()
        for child in children:
            whole_or_gone(child)
        until(lambda: not list_children(), "nobody else is left")
        for child in children:
            harness.scoreboard.release(child.index)


def whole_or_gone(child: Child) -> None:
    def settled() -> bool:
        reap_strangers(child)
        return bool(child.record.ready_at) or not list_children()

    until(settled, "ready, or gone")
    if child.record.ready_at and alive(child.record.pid):
        os.kill(child.record.pid, signal.SIGTERM)
        os.waitpid(child.record.pid, 0)


def alive(pid: int) -> bool:
    return process.state(pid) not in (None, "Z")


def reap_strangers(child: Child) -> None:
    while (exit := process.peek_exit()) is not None:
        process.reap(exit.pid)


def list_children() -> list[int]:
    pid = os.getpid()
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return [int(text) for text in children.read().split()]


# The main process dies


class Lost:
    """A nursery in a process of its own, which is then killed; seen through a pipe and pidfds."""

    def __init__(self, home: Path, code: str, workers: int = 1, **pool: Any) -> None:
        self._reader, writer = os.pipe()
        say, self._say = os.pipe()
        self.said = os.fdopen(say, closefd=True)
        self.pid = os.fork()
        if self.pid == 0:
            in_child(lambda: self._main(home, code, workers, pool, writer))
        os.close(writer)
        os.close(self._say)
        pids = [int(text) for text in os.read(self._reader, 4096).split()]
        self.zygote, self.workers = pids[0], pids[1:]
        self.pidfds = [os.pidfd_open(pid) for pid in pids]

    def _main(self, home: Path, code: str, workers: int, pool: Any, writer: int) -> None:
        harness = ZygoteHarness(home)
        os.dup2(self._say, harness.feed.fd)
        harness.fork(code, **pool)
        children = [child.ready() for child in harness.spawn(workers)] if workers else []
        pids = [harness.zygote, *(child.pid for child in children)]
        os.close(self._say)
        os.write(writer, " ".join(map(str, pids)).encode())
        signal.pause()

    def kill(self) -> float:
        """Kill the main process; return when."""
        os.kill(self.pid, signal.SIGKILL)
        now = time.monotonic()
        os.waitpid(self.pid, 0)
        return now

    def gone(self) -> None:
        """Wait until zygote and workers are gone."""
        for pidfd in self.pidfds:
            assert select.select([pidfd], [], [], DEADLINE)[0], "somebody is left"

    def close(self) -> None:
        for pidfd in self.pidfds:
            process.signal_pidfd(pidfd, signal.SIGKILL)
            os.close(pidfd)
        os.close(self._reader)
        self.said.close()


def lines(lost: Lost) -> list[str]:
    return lost.said.read().splitlines()


def test_idle_workers_go_with_the_main_process(tmp_path: Path) -> None:
    lost = Lost(tmp_path, IDLE, workers=3)
    began = lost.kill()
    lost.gone()
    assert time.monotonic() - began < 20  # a drain may take 30
    assert sorted(lines(lost)) == [f"{w} {n}" for w in ("setup", "teardown") for n in range(3)]
    lost.close()


BUSY = """
class W(Worker):
    def step(self):
        say("begin")
        if gate := self.options.get("gate"): os.close(os.open(gate, os.O_RDONLY))
        for _ in range(self.options.get("turns", 0)): time.sleep(0.005)
        say("end")
    def teardown(self): say("teardown")
"""


def test_a_round_is_finished_after_the_main_process_died(tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)
    lost = Lost(tmp_path, BUSY, options={"gate": gate})
    assert lost.said.readline() == "begin\n"
    lost.kill()
    os.close(os.open(gate, os.O_WRONLY))  # he waits there, and knows of the death
    lost.gone()
    assert lines(lost) == ["end", "teardown"]
    lost.close()


def test_a_round_too_long_is_interrupted(tmp_path: Path) -> None:
    lost = Lost(tmp_path, BUSY, options={"turns": 100000}, drain_timeout=0.3, stop_timeout=30)
    assert lost.said.readline() == "begin\n"
    lost.kill()
    lost.gone()
    assert lines(lost) == ["teardown"]
    lost.close()


DEAF = """
class W(Worker):
    def step(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        if os.fork() == 0: time.sleep(1000)
        with self.critical(self.options.get("lease", 0.0001)):
            say("begin")
            time.sleep(self.options.get("seconds", 1000))
            say("leased")
        if "after" in self.options: time.sleep(0.3); say("after")
        time.sleep(1000)
"""


def test_a_deaf_worker_is_killed_with_its_children(tmp_path: Path) -> None:
    lost = Lost(tmp_path, DEAF, drain_timeout=0.1, stop_timeout=0.1)
    assert lost.said.readline() == "begin\n"
    lost.kill()
    lost.gone()
    assert lines(lost) == []  # end-of-file: its child, which has the pipe as well, is gone
    lost.close()


def test_a_lease_holds_after_the_main_process_died(tmp_path: Path) -> None:
    options = {"lease": 60, "seconds": 1}
    lost = Lost(tmp_path, DEAF, drain_timeout=0.1, stop_timeout=0.1, options=options)
    assert lost.said.readline() == "begin\n"
    lost.kill()
    lost.gone()
    assert lines(lost) == ["leased"]
    lost.close()


def test_the_clock_stands_still_while_a_lease_holds(tmp_path: Path) -> None:
    options = {"lease": 60, "seconds": 2.5, "after": True}
    lost = Lost(tmp_path, DEAF, drain_timeout=0.1, stop_timeout=2.0, options=options)
    assert lost.said.readline() == "begin\n"
    lost.kill()
    lost.gone()
    assert lines(lost) == ["leased", "after"]
    lost.close()


def test_a_stopped_worker_is_killed_too(tmp_path: Path) -> None:
    lost = Lost(tmp_path, IDLE, drain_timeout=0.1, stop_timeout=0.1)
    os.kill(lost.workers[0], signal.SIGSTOP)
    lost.kill()
    lost.gone()
    lost.close()


def test_an_idle_zygote_goes_with_the_main_process(tmp_path: Path) -> None:
    lost = Lost(tmp_path, IDLE, workers=0)
    lost.kill()
    lost.gone()
    lost.close()


def test_a_zygote_stuck_in_an_import_goes_with_the_main_process(tmp_path: Path) -> None:
    stuck = tmp_path / "stuck"
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:

        def main() -> None:
            harness = ZygoteHarness(tmp_path)
            os.dup2(writer, harness.feed.fd)
            code = f"say(os.getpid())\nopen({str(stuck)!r}, 'w').close()\nsum(range(10**15))"
            harness.fork(code)

        in_child(main)
    os.close(writer)
    zygote = int(os.read(reader, 100))
    pidfd = os.pidfd_open(zygote)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert select.select([pidfd], [], [], DEADLINE)[0]
    os.close(pidfd)
    os.close(reader)


def test_main_and_zygote_killed_together_leave_nobody(tmp_path: Path) -> None:
    lost = Lost(tmp_path, IDLE, workers=2)
    os.kill(lost.zygote, signal.SIGKILL)
    lost.kill()
    lost.gone()
    lost.close()


def test_a_zygote_adopts_the_workers_of_one_that_died(tmp_path: Path) -> None:
    """After that it leads them down like its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:

        def main() -> None:
            harness = ZygoteHarness(tmp_path)
            child = harness.worker(DEAF, drain_timeout=0.1, stop_timeout=0.1).ready()
            harness.feed.wait("begin")
            os.kill(harness.zygote, signal.SIGKILL)
            harness.zygote_ended()
            harness.fork(drain_timeout=0.1, stop_timeout=0.1)
            assert harness.channel is not None
            harness.channel.send(("adopt", [(child.id, child.index, child.pid)]))
            until(lambda: any_pidfd(harness.zygote), "it has a pidfd")
            os.write(writer, f"{child.pid} {harness.zygote}".encode())
            signal.pause()

        in_child(main)
    pidfds = [os.pidfd_open(int(text)) for text in os.read(reader, 100).split()]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], DEADLINE)[0]
        os.close(pidfd)
    os.close(reader)
    os.close(writer)


def any_pidfd(pid: int) -> bool:
    return any(is_pidfd(pid, fd) for fd in fds(pid))


def is_pidfd(pid: int, fd: int) -> bool:
    try:
        return "pidfd" in os.readlink(f"/proc/{pid}/fd/{fd}")
    except FileNotFoundError:  # closed meanwhile
        return False


def test_coroutines_are_refused_only_where_graced_calls_them(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def run(self): pass
        async def step(self): pass
        async def handle(self): pass
    """
    assert harness.fork(code) == ("imported",)
