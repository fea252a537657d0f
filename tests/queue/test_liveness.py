"""Whether a worker lives: by the lock on a file of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from graced.queue import liveness


def test_a_lock_lives_as_long_as_its_worker(tmp_path: Path) -> None:
    queue = f"{tmp_path}/q.db"
    lock = liveness.hold(queue, "d:1")
    assert liveness.lives(queue, "d:1")
    assert list(liveness.listed(queue)) == ["d:1"]
    os.close(lock)
    assert not liveness.lives(queue, "d:1", remove=False)
    assert list(liveness.listed(queue)) == ["d:1"]
    assert not liveness.lives(queue, "d:1")
    assert list(liveness.listed(queue)) == []
    assert not liveness.lives(queue, "d:1")


def test_a_subprocess_that_inherits_the_lock_keeps_it(tmp_path: Path) -> None:
    queue = f"{tmp_path}/q.db"
    lock = liveness.hold(queue, "d:1")
    child = subprocess.Popen(["sleep", "100"], pass_fds=[lock])
    other = subprocess.Popen(["sleep", "100"])
    os.close(lock)
    assert liveness.lives(queue, "d:1")
    child.kill()
    child.wait()
    assert not liveness.lives(queue, "d:1"), "Popen passes on what it is told to only"
    other.kill()
    other.wait()


def test_a_commands_lock_is_its_groups(tmp_path: Path) -> None:
    queue = f"{tmp_path}/q.db"
    liveness.hold_command(queue, "d:1")
    worker, lock = liveness.hold(queue, "d:1"), liveness.hold_command(queue, "d:1")
    child = subprocess.Popen(["sleep", "100"], pass_fds=[lock], process_group=0)
    demon = subprocess.Popen(["sleep", "100"], pass_fds=[lock], start_new_session=True)
    liveness.name_group(lock, child.pid)
    os.close(lock)
    os.close(worker)
    assert not liveness.lives(queue, "d:1", remove=False)
    assert liveness.lives(queue, "d:1", command=True)
    assert f"process {child.pid} (sleep)" in liveness.who_holds(queue, "d:1")
    child.kill()
    child.wait()
    assert not liveness.lives(queue, "d:1", command=True), "a daemon is not waited for"
    assert list(liveness.listed(queue)) == []
    demon.kill()
    demon.wait()


def test_a_folder_that_was_moved_can_be_moved_back(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    queue = f"{home}/q.db"
    lock = liveness.hold(queue, "d:1")
    home.rename(elsewhere)
    for take in (lambda: liveness.hold_command(queue, "d:1"), lambda: keep(queue, lock)):
        with pytest.raises(FileNotFoundError):
            take()
    elsewhere.rename(home)
    assert keep(queue, lock) == lock
    os.close(lock)


def keep(queue: str, lock: int) -> int:
    return liveness.keep(queue, "d:1", lock)


def test_a_lock_taken_while_its_file_is_tidied_up_is_a_lock(tmp_path: Path) -> None:
    queue = f"{tmp_path}/q.db"
    os.makedirs(liveness.folder(queue))
    path = f"{liveness.folder(queue)}/d:1.lock"
    pid = os.fork()
    if pid == 0:
        while True:  # until it is killed
            liveness.lives(queue, "d:1")
    try:
        for _ in range(3000):
            os.close(os.open(path, os.O_CREAT | os.O_RDWR))
            lock = liveness.hold(queue, "d:1")
            assert liveness.lives(queue, "d:1")
            os.close(lock)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_another_users_lock_is_taken_for_a_living_one(tmp_path: Path) -> None:
    queue = f"{tmp_path}/q.db"
    os.makedirs(liveness.folder(queue))
    (Path(liveness.folder(queue)) / "d:1.lock").mkdir()  # neither missing nor to be opened
    assert liveness.lives(queue, "d:1")
