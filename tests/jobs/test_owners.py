"""Whether a worker lives: by the lock on a file of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from graced.jobs import owners


def test_a_lock_lives_as_long_as_its_worker(tmp_path: Path) -> None:
    queue = f"{tmp_path}/q.db"
    lock = owners.hold(queue, "d:1")
    assert owners.lives(queue, "d:1")
    assert list(owners.listed(queue)) == ["d:1"]
    os.close(lock)
    assert not owners.lives(queue, "d:1", tidy=False)
    assert list(owners.listed(queue)) == ["d:1"]
    assert not owners.lives(queue, "d:1")
    assert list(owners.listed(queue)) == []
    assert not owners.lives(queue, "d:1")


def test_a_subprocess_that_inherits_the_lock_keeps_it(tmp_path: Path) -> None:
    queue = f"{tmp_path}/q.db"
    lock = owners.hold(queue, "d:1")
    child = subprocess.Popen(["sleep", "100"], pass_fds=[lock])
    other = subprocess.Popen(["sleep", "100"])
    os.close(lock)
    assert owners.lives(queue, "d:1")
    child.kill()
    child.wait()
    assert not owners.lives(queue, "d:1"), "Popen passes on what it is told to only"
    other.kill()
    other.wait()


def test_a_commands_lock_is_its_groups(tmp_path: Path) -> None:
    queue = f"{tmp_path}/q.db"
    owners.hold_command(queue, "d:1")
    worker, lock = owners.hold(queue, "d:1"), owners.hold_command(queue, "d:1")
    child = subprocess.Popen(["sleep", "100"], pass_fds=[lock], process_group=0)
    demon = subprocess.Popen(["sleep", "100"], pass_fds=[lock], start_new_session=True)
    owners.name_group(lock, child.pid)
    os.close(lock)
    os.close(worker)
    assert not owners.lives(queue, "d:1", tidy=False)
    assert owners.lives(queue, "d:1", command=True)
    assert f"process {child.pid} (sleep)" in owners.who_holds(queue, "d:1")
    child.kill()
    child.wait()
    assert not owners.lives(queue, "d:1", command=True), "a daemon is not waited for"
    assert list(owners.listed(queue)) == []
    demon.kill()
    demon.wait()


def test_a_lock_taken_while_its_file_is_tidied_up_is_a_lock(tmp_path: Path) -> None:
    queue = f"{tmp_path}/q.db"
    os.makedirs(owners.folder(queue))
    path = f"{owners.folder(queue)}/d:1.lock"
    pid = os.fork()
    if pid == 0:
        while True:  # until it is killed
            owners.lives(queue, "d:1")
    try:
        for _ in range(3000):
            os.close(os.open(path, os.O_CREAT | os.O_RDWR))
            lock = owners.hold(queue, "d:1")
            assert owners.lives(queue, "d:1")
            os.close(lock)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_another_users_lock_is_taken_for_a_living_one(tmp_path: Path) -> None:
    queue = f"{tmp_path}/q.db"
    os.makedirs(owners.folder(queue))
    (Path(owners.folder(queue)) / "d:1.lock").mkdir()  # neither missing nor to be opened
    assert owners.lives(queue, "d:1")
