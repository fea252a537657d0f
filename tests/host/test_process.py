"""Processes: real ones."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from graced.host import credentials, descriptors, process
from graced.host.credentials import CredentialsError
from graced.host.process import Exit

DEADLINE = 60.0  # seconds; only a failure reaches it


def fork(work: Callable[[], object]) -> int:
    """Fork a child that runs `work`, or dies of what it raises."""
    pid = os.fork()
    if pid == 0:
        process.in_child(work)
    return pid


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A child that sleeps, in a group of its own."""
    ready, tell = os.pipe()

    def sleep() -> None:
        os.setpgid(0, 0)
        os.write(tell, b"x")
        signal.pause()

    pid = fork(sleep)
    os.read(ready, 1)
    os.close(ready)
    os.close(tell)
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def exit_of(pid: int) -> Exit:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    while (exit := process.peek_exit()) is not None and exit.pid != pid:
        process.reap(exit.pid)
    assert exit is not None
    return exit


# How processes end


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda: os._exit(0), "exited with status 0"),
        (lambda: os._exit(3), "exited with status 3"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "killed by SIGKILL"),
        (
            lambda: os.kill(os.getpid(), signal.SIGRTMIN + 3),
            f"killed by signal {signal.SIGRTMIN + 3}",
        ),
    ],
)
def test_an_end_is_described(work: Callable[[], object], said: str) -> None:
    pid = fork(work)
    assert process.describe_exit(exit_of(pid)) == said
    process.reap(pid)


def test_a_core_dump_is_told() -> None:
    told = process.describe_exit(Exit(1, os.CLD_DUMPED, signal.SIGSEGV))
    assert told == "killed by SIGSEGV (core dumped)"


def test_a_look_at_an_exit_reaps_nothing() -> None:
    pid = fork(lambda: os._exit(5))
    first, second = exit_of(pid), exit_of(pid)
    assert first == second == Exit(pid, os.CLD_EXITED, 5)
    process.reap(pid)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


def test_no_exits_no_answer() -> None:
    """In a process that has no children of other tests."""

    def look() -> None:
        sleeper = fork(signal.pause)
        found = process.peek_exit()
        process.reap(sleeper)  # alive: nothing happens
        lives = process.signal_process(sleeper, 0)
        os.kill(sleeper, signal.SIGKILL)
        os.waitpid(sleeper, 0)
        os._exit(0 if found is None and lives else 1)

    pid = fork(look)
    assert exit_of(pid).status == 0
    process.reap(pid)


def test_reaping_twice_is_harmless() -> None:
    pid = fork(lambda: os._exit(0))
    exit_of(pid)
    process.reap(pid)
    process.reap(pid)


def test_a_child_never_comes_back_into_its_parents_code(capfd: pytest.CaptureFixture[str]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            process.in_child(lambda: 1 / 0)
        finally:
            os._exit(1)  # not reached
    assert process.describe_exit(exit_of(pid)) == "exited with status 70"
    process.reap(pid)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_not_even_if_nothing_can_be_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def write(self, _: str) -> None:
            raise LookupError

        flush = write

    monkeypatch.setattr(sys, "stderr", Broken())
    pid = os.fork()
    if pid == 0:
        try:
            process.in_child(lambda: None)
        finally:
            os._exit(1)  # not reached
    assert exit_of(pid).status == 0
    process.reap(pid)


# Signals


def test_a_signal_to_nobody_is_told() -> None:
    pid = fork(lambda: os._exit(0))
    os.waitpid(pid, 0)
    assert process.signal_process(pid, signal.SIGTERM) is False
    assert process.end_group(pid) is False


@pytest.mark.parametrize("number", [0, -1])
def test_no_call_can_mean_everybody(number: int) -> None:
    with pytest.raises(ValueError):
        process.signal_process(number, signal.SIGTERM)
    with pytest.raises(ValueError):
        process.end_group(number)
    with pytest.raises(ValueError):
        process.end_group(1)


def test_a_group_is_ended_with_what_outlived_its_leader(sleeper: int) -> None:
    ready, tell = os.pipe()

    def grandchild() -> None:
        os.setpgid(0, sleeper)
        os.write(tell, b"x")
        signal.pause()

    child = fork(grandchild)
    os.read(ready, 1)
    os.kill(sleeper, signal.SIGKILL)
    exit_of(sleeper)
    assert process.end_group(sleeper)
    assert process.describe_exit(exit_of_other(child)) == "killed by SIGKILL"
    os.waitpid(child, 0)
    os.waitpid(sleeper, 0)
    os.close(ready)
    os.close(tell)


def exit_of_other(pid: int) -> Exit:
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert found is not None
    return Exit(found.si_pid, found.si_code, found.si_status)


def test_blocked_signals_wait_and_the_old_mask_comes_back() -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
    try:
        mask = process.block_all()
        signal.raise_signal(signal.SIGUSR1)  # to this thread: another one may not have blocked it
        assert got == []
        process.restore(mask)
        assert got == [signal.SIGUSR1]
        assert signal.SIGUSR1 not in process.block(signal.SIGUSR1)
        process.restore(mask)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_all_means_all() -> None:
    mask = process.block_all()
    try:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        process.restore(mask)
    assert blocked == signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


# prctl


def test_a_child_gets_its_parent_death_signal() -> None:
    pid_here, pid_there = os.pipe()
    wait_here, wait_there = os.pipe()

    def parent() -> None:
        os.close(pid_here)

        def child() -> None:
            process.block(signal.SIGUSR2)
            process.set_parent_death_signal(signal.SIGUSR2)
            os.write(pid_there, b"%d" % os.getpid())
            process.wait_for_signal(signal.SIGUSR2)
            os.write(wait_there, b"got it")

        fork(child)
        signal.pause()

    pid = fork(parent)
    os.read(pid_here, 20)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert select.select([wait_here], [], [], DEADLINE)[0]
    assert os.read(wait_here, 20) == b"got it"
    for fd in (pid_here, pid_there, wait_here, wait_there):
        os.close(fd)


def test_orphans_come_to_a_subreaper() -> None:
    def reaper() -> None:
        process.become_subreaper()
        reader, writer = os.pipe()

        def middle() -> None:
            fork(lambda: os.read(reader, 1) and os._exit(9))

        os.waitpid(fork(middle), 0)
        os.write(writer, b"x")
        _, status = os.wait()
        os._exit(os.waitstatus_to_exitcode(status))

    pid = fork(reaper)
    assert exit_of(pid).status == 9
    process.reap(pid)


def test_the_name_is_what_ps_shows() -> None:
    reader, writer = os.pipe()

    def named() -> None:
        process.set_name("zygote")
        with open("/proc/self/comm", "rb") as comm:
            os.write(writer, comm.read())

    os.waitpid(fork(named), 0)
    assert os.read(reader, 100) == b"graced-zygote\n"
    os.close(reader)
    os.close(writer)


def test_what_prctl_refuses_is_an_error() -> None:
    with pytest.raises(OSError) as caught:
        process.set_parent_death_signal(9999)
    assert caught.value.errno == errno.EINVAL


# Descriptors


def test_all_descriptors_are_closed_but_those_to_keep() -> None:
    keep, closed = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
    high = os.dup2(closed, 900)

    def check() -> None:
        descriptors.close_all_but([keep], descriptors.our_fds())
        standing = set(descriptors.open_fds())
        gone = not {closed, high} & standing
        os._exit(0 if gone and {0, 1, 2, keep} <= standing else 1)

    pid = fork(check)
    for fd in (keep, closed, high):
        os.close(fd)
    assert exit_of(pid).status == 0
    process.reap(pid)


def test_standard_input_is_empty() -> None:
    def check() -> None:
        descriptors.redirect_stdin()
        os._exit(0 if os.read(0, 10) == b"" and os.get_inheritable(0) else 1)

    pid = fork(check)
    assert exit_of(pid).status == 0
    process.reap(pid)


def test_standard_input_may_have_been_closed() -> None:
    def check() -> None:
        os.close(0)
        descriptors.redirect_stdin()
        os._exit(0 if os.read(0, 10) == b"" and os.get_inheritable(0) else 1)

    pid = fork(check)
    assert exit_of(pid).status == 0
    process.reap(pid)


# Users


def in_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.usefixtures("as_root")
def test_another_user_is_become_for_good() -> None:
    done = in_python(
        "import os\n"
        "from graced.host import credentials\n"
        "credentials.change_user('nobody', None)\n"
        "print(os.getresuid(), os.getresgid() != (0, 0, 0), 0 in os.getgroups())\n"
        "print(os.environ['USER'], os.environ['LOGNAME'], os.environ['HOME'])\n"
        "try:\n    os.setuid(0)\n"
        "except PermissionError: print('for good')\n"
    )
    import pwd

    nobody = pwd.getpwnam("nobody")
    uid = nobody.pw_uid
    assert done.stdout.splitlines() == [
        f"({uid}, {uid}, {uid}) True False",
        f"nobody nobody {nobody.pw_dir}",
        "for good",
    ], done.stderr


@pytest.mark.usefixtures("as_root")
def test_a_group_alone_can_be_changed() -> None:
    done = in_python(
        "import os\n"
        "from graced.host import credentials\n"
        "credentials.change_user(None, '65534')\n"
        "print(os.getuid(), os.getgid(), os.getgroups())\n"
    )
    assert done.stdout.split(maxsplit=2) == ["0", "65534", "[65534]\n"], done.stderr


def test_no_user_nothing_to_do() -> None:
    credentials.change_user(None, None)


def test_users_and_groups_that_do_not_exist_are_named() -> None:
    with pytest.raises(CredentialsError, match="no user 'nosuchuser'"):
        credentials.change_user("nosuchuser", None)
    with pytest.raises(CredentialsError, match="no group 'nosuchgroup'"):
        credentials.change_user(None, "nosuchgroup")


@pytest.mark.usefixtures("as_root")
def test_only_root_can_become_another() -> None:
    done = in_python(
        "from graced.host import credentials\n"
        "credentials.change_user('nobody', None)\n"
        "try:\n    credentials.change_user('root', None)\n"
        "except credentials.CredentialsError as error: print(error)\n"
    )
    assert "cannot become user 'root'" in done.stdout
    assert "start as root" in done.stdout


# Looks


def test_a_process_stands_still_for_a_look(sleeper: int) -> None:
    assert not process.is_stopped(sleeper)
    assert process.stop_for_a_look(sleeper, DEADLINE)
    assert process.is_stopped(sleeper)
    os.kill(sleeper, signal.SIGCONT)


def test_a_busy_process_stands_still_too() -> None:
    reader, writer = os.pipe()
    board = memoryview(bytearray(8)).cast("q")
    import mmap

    memory = mmap.mmap(-1, 8)
    board = memoryview(memory).cast("q")

    def busy() -> None:
        os.write(writer, b"x")
        while True:
            board[0] += 1

    pid = fork(busy)
    os.read(reader, 1)
    for _ in range(50):
        assert process.stop_for_a_look(pid, DEADLINE)
        first = board[0]
        for _ in range(1000):
            assert board[0] == first
        os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)


def test_the_dead_stand_still() -> None:
    pid = fork(lambda: os._exit(0))
    exit_of(pid)
    assert process.stop_for_a_look(pid, DEADLINE)
    process.reap(pid)
    assert process.stop_for_a_look(pid, DEADLINE)


def test_others_children_stand_still_too(sleeper: int) -> None:
    """A zygote looks at processes that are not its own."""
    pid = fork(lambda: os._exit(0 if process.stop_for_a_look(sleeper, DEADLINE) else 1))
    assert exit_of_other(pid).status == 0
    os.waitpid(pid, 0)


def test_memory_is_told_in_bytes(sleeper: int) -> None:
    rss = process.rss(sleeper)
    assert rss is not None
    assert 1 << 20 < rss < 1 << 30
    assert process.rss(2**22) is None
    assert process.state(2**22) is None


# pidfds


def test_a_pidfd_is_readable_once_its_process_ended(sleeper: int) -> None:
    pidfd = process.open_pidfd(sleeper)
    assert pidfd is not None
    assert not select.select([pidfd], [], [], 0)[0]
    assert process.signal_pidfd(pidfd, signal.SIGTERM)
    assert select.select([pidfd], [], [], DEADLINE)[0]
    os.waitpid(sleeper, 0)
    assert process.signal_pidfd(pidfd, signal.SIGTERM) is False
    assert process.open_pidfd(sleeper) is None
    os.close(pidfd)
