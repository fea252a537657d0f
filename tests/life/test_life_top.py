"""`graced top` in a terminal, in a pipe, and without what it is laid out with."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest
from daemon_harness import DEADLINE, Daemon


class Screen:
    """A terminal of 80 columns with a command in it, and what that has written."""

    def __init__(self, daemon: Daemon, *command: str, term: str = "xterm") -> None:
        self.fd, theirs = pty.openpty()
        self.resize(80)
        self.shown = ""
        self.decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end within a letter
        environ = {**daemon.environment(), "GRACED_CONFIG": str(daemon.config), "TERM": term}
        with os.fdopen(theirs, "rb+", buffering=0) as end:
            self.process = subprocess.Popen(
                daemon.command(*command), stdin=end, stdout=end, stderr=end, env=environ,
                start_new_session=True,
            )  # fmt: skip

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def wait(self, text: str) -> None:
        end = time.monotonic() + DEADLINE
        while text not in self.shown:
            assert select.select([self.fd], [], [], end - time.monotonic())[0], self.shown
            self.shown += self.decoder.decode(os.read(self.fd, 65536))

    def press(self, key: str) -> None:
        self.shown = ""
        os.write(self.fd, key.encode())


def test_it_is_live_until_q(daemon: Daemon) -> None:
    ticks = {"worker": "sample_workers:Ticks"}
    daemon.configure({"jobs": {**ticks, "workers": 2}, "a" * 32: ticks}).start().ready()
    screen = Screen(daemon, "top")
    try:
        screen.wait("jobs/1")
        screen.wait("q leaves")
        assert "GEN" not in screen.shown
        for pid in daemon.worker_pids():  # names are cut, these are not
            assert f" {pid} " in screen.shown
        before = termios.tcgetattr(screen.fd)[3] & termios.ECHO
        screen.press("s")
        screen.wait("by busy for")
        screen.shown = ""
        screen.resize(120)
        os.kill(screen.process.pid, signal.SIGWINCH)
        screen.wait("GEN")
        daemon.send(signal.SIGKILL)
        screen.wait("no daemon answers")
        screen.press("jsq")  # all at once, as over a slow line
    except BaseException:
        screen.process.kill()
        raise
    assert screen.process.wait(DEADLINE) == 0
    assert not before
    assert termios.tcgetattr(screen.fd)[3] & termios.ECHO  # the terminal is as it was
    os.close(screen.fd)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_kill_leaves_the_terminal_as_it_was(daemon: Daemon, number: int) -> None:
    daemon.configure({"jobs": {"worker": "sample_workers:Silent"}}).start().ready()
    screen = Screen(daemon, "top")
    try:
        screen.wait("q leaves")
        screen.process.send_signal(number)
        screen.wait("\x1b[?25h")  # the cursor
        screen.wait("\x1b[?1049l")  # the first screen
    except BaseException:
        screen.process.kill()
        raise
    assert screen.process.wait(DEADLINE) == 0
    assert termios.tcgetattr(screen.fd)[3] & termios.ECHO
    os.close(screen.fd)


def test_a_terminal_that_goes_is_no_bug(daemon: Daemon) -> None:
    daemon.configure({"jobs": {"worker": "sample_workers:Silent"}}).start().ready()
    screen = Screen(daemon, "top")
    try:
        screen.wait("q leaves")
        os.close(screen.fd)
        assert screen.process.wait(DEADLINE) in (0, 1)  # as by q, unless a write has failed
    finally:
        screen.process.kill()


def test_without_a_terminal_it_is_shown_once(daemon: Daemon) -> None:
    daemon.configure({"jobs": {"worker": "sample_workers:Silent"}}).start().ready()
    once = daemon.run("top")
    assert once.returncode == 0
    assert "jobs/0" in once.stdout
    assert "\x1b" not in once.stdout
    screen = Screen(daemon, "top", term="dumb")  # where nothing can be overwritten
    screen.wait("jobs/0")
    assert screen.process.wait(DEADLINE) == 0
    os.close(screen.fd)


def test_what_is_missing_is_told_with_the_command(daemon: Daemon) -> None:
    daemon.configure({"jobs": {"worker": "sample_workers:Silent"}}).start().ready()
    blocked = Path(daemon.home / "blocked" / "rich")
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('as if it were not there')")
    path = f"{blocked.parent}{os.pathsep}{daemon.environment()['PYTHONPATH']}"
    daemon.environ["PYTHONPATH"] = path
    told = daemon.run("top")
    assert told.returncode == 78
    assert "pip install 'graced[top]'" in told.stderr
    assert "apt install python3-rich" in told.stderr
    assert "Traceback" not in told.stderr
