"""What a confined process can do still, and what it can't."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from graced.host import sandbox


def confined(check: Callable[[], None]) -> None:
    """Run a check in a confined child; fail as it does."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            assert sandbox.only_read_and_answer()
            check()
        except BaseException:  # noqa: BLE001  # the parent tells it
            os.write(write, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        said = told.read()
    os.waitpid(pid, 0)
    assert not said, said


def test_it_reads_answers_and_thinks(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    (tmp_path / "file").write_text("what is there")

    def check() -> None:
        assert (tmp_path / "file").read_text() == "what is there"
        thread = threading.Thread(target=theirs.sendall, args=(b"answer",))
        thread.start()
        thread.join()

    with ours, theirs:
        confined(check)
        assert ours.recv(100) == b"answer"


def test_it_does_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("as it was")
    listener = socket.create_server(("127.0.0.1", 0))
    attempts: list[Callable[[], object]] = [
        lambda: file.open("w"),
        lambda: file.open("a"),
        (tmp_path / "new").touch,
        lambda: os.open(tmp_path, os.O_RDWR | os.O_TMPFILE),
        file.unlink,
        lambda: file.rename(tmp_path / "other"),
        (tmp_path / "folder").mkdir,
        lambda: (tmp_path / "link").symlink_to(file),
        lambda: os.link(file, tmp_path / "hard"),
        lambda: file.chmod(0o777),
        lambda: os.chown(file, os.getuid(), os.getgid()),
        lambda: os.truncate(file, 0),
        lambda: os.mkfifo(tmp_path / "fifo"),
        lambda: os.setxattr(file, "user.x", b"y"),
        lambda: socket.socket(socket.AF_UNIX),
        socket.socketpair,
        lambda: os.kill(os.getppid(), 0),
        lambda: os.pidfd_open(os.getppid()),
        lambda: signal.pthread_kill(threading.get_ident(), signal.SIGCONT),
        lambda: os.execv(sys.executable, [sys.executable, "-c", "pass"]),
    ]

    def check() -> None:
        for number, attempt in enumerate(attempts):
            try:
                attempt()
            except PermissionError:
                continue
            raise AssertionError(f"attempt {number} came through")

    with listener:
        confined(check)
    assert file.read_text() == "as it was"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_where_there_is_no_filter_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_TABLES", {})  # as on another processor
    pid = os.fork()
    if pid == 0:
        os._exit(int(sandbox.only_read_and_answer()))
    assert os.waitpid(pid, 0)[1] == 0
