from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graced.host import directories, unixsocket
from graced.host.directories import AlreadyRunning, DirectoryError, PidFile, RuntimeDir

NAME = f"graced-test-{uuid.uuid4().hex[:12]}"  # a number would come back, with what it left
OTHER = 54321  # a user that is not us
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")


def as_other(do: Callable[[], object]) -> str:
    """Do something in a child that is another user; return what it said or raised."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(OTHER)
            os.setuid(OTHER)
            said = str(do())
        except Exception as error:  # noqa: BLE001 - told to the test
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def open_tmp(tmp_path: Path) -> Path:
    """A folder that another user can reach."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path("/tmp"):
            break
        folder.chmod(0o755)
    return tmp_path


# The lock


def test_taking_it_makes_it_and_signs_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    taken = RuntimeDir.take(str(path))
    assert (path / "lock").read_text() == f"{os.getpid()}\n"
    assert taken.socket == f"{path}/control.sock"
    assert not os.get_inheritable(taken.lock)
    taken.close()


def test_a_second_one_is_told_who_has_it(tmp_path: Path) -> None:
    first = RuntimeDir.take(str(tmp_path))
    with pytest.raises(AlreadyRunning) as caught:
        RuntimeDir.take(str(tmp_path))
    assert caught.value.pid == os.getpid()
    assert caught.value.exit_code == 75
    assert f"pid {os.getpid()}" in str(caught.value)
    first.close()
    RuntimeDir.take(str(tmp_path)).close()


def test_a_lock_that_is_not_signed_yet(tmp_path: Path) -> None:
    first = RuntimeDir.take(str(tmp_path))
    os.ftruncate(first.lock, 0)
    with pytest.raises(AlreadyRunning, match="another graced"):
        RuntimeDir.take(str(tmp_path))
    first.close()


HOLD = """
import sys, os
from graced.host.directories import RuntimeDir
taken = RuntimeDir.take(sys.argv[1])
child = os.fork()
if child == 0:
    taken.close()
    print(os.getpid(), flush=True)  # only now is the lock the parent's alone
    os.close(1)
    sys.stdin.read()
    os._exit(0)
sys.stdin.read()
"""


def test_a_killed_daemon_leaves_it_free_though_its_children_live(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        with pytest.raises(AlreadyRunning):
            RuntimeDir.take(str(tmp_path))
        watch = os.pidfd_open(child)
        holder.kill()
        holder.wait()
        taken = RuntimeDir.take(str(tmp_path))
        assert select.select([watch], [], [], 0)[0] == []
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
        taken.close()
    assert select.select([watch], [], [], 60)[0]
    os.close(watch)


def test_where_the_folder_was_swept_nobody_starts_beside_the_first(tmp_path: Path) -> None:
    path = tmp_path / "run"
    first = RuntimeDir.take(str(path))
    assert not first.renew()
    (path / "lock").unlink()
    path.rmdir()
    with pytest.raises(AlreadyRunning, match=r"whose files here were removed\); send that one SIG"):
        RuntimeDir.take(str(path))
    assert first.renew()
    assert not first.renew()
    assert (path / "lock").read_text() == f"{os.getpid()}\n"
    with pytest.raises(AlreadyRunning, match="stop that one with 'graced stop'"):
        RuntimeDir.take(str(path))
    first.close()
    RuntimeDir.take(str(path)).close()


def test_the_users_own_folders_are_one_place(
    open_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One daemon has left its terminal, the other one has not."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(open_tmp))
    outside = f"/tmp/{NAME}-{os.geteuid()}"
    first = RuntimeDir.take(str(open_tmp / NAME))
    try:
        with pytest.raises(AlreadyRunning):
            RuntimeDir.take(outside)
        RuntimeDir.take(f"{outside}0").close()
    finally:
        first.close()
        for folder in (outside, f"{outside}0"):
            os.unlink(f"{folder}/lock")
            os.rmdir(folder)


@root_only
def test_nobody_is_kept_out_by_a_stranger(open_tmp: Path) -> None:
    path = str(open_tmp / "run")

    def held(by: int) -> str:
        with socket.socket(socket.AF_UNIX) as squatter:
            squatter.bind(directories._name(path))
            os.seteuid(by)
            squatter.listen()
            os.seteuid(0)
            try:
                RuntimeDir.take(path).close()
            except AlreadyRunning as error:
                return str(error)
            return "taken"

    assert held(OTHER) == "taken"
    assert f"(pid {os.getpid()}, " in held(0)


def test_a_lock_file_removed_while_we_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(fd: int, how: int, real: Callable[[int, int], None] = fcntl.flock) -> None:
        monkeypatch.undo()
        (tmp_path / "lock").unlink()  # as the one that had it before us may do
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    taken = RuntimeDir.take(str(tmp_path))
    with pytest.raises(AlreadyRunning):
        RuntimeDir.take(str(tmp_path))
    taken.close()


def test_what_takes_the_name_of_a_pid_file_as_it_is_opened_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pid"
    path.write_text("1\n")
    real = os.open

    def late(*where: Any, **how: Any) -> int:
        monkeypatch.undo()
        path.write_text("precious")
        return real(*where, **how)

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(DirectoryError, match="is there, and no PID file; give another"):
        PidFile(str(path))
    assert path.read_text() == "precious"


def test_a_longer_number_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("4194304999\n")
    RuntimeDir.take(str(tmp_path)).close()
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(DirectoryError):
        RuntimeDir.take(str(tmp_path))
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_file_in_the_way_is_told_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in ("file", "file/below"):
        with pytest.raises(DirectoryError, match=r"file: .*; set runtime_dir to") as caught:
            RuntimeDir.take(str(tmp_path / path))
        assert caught.value.exit_code == 78


@root_only
def test_a_folder_of_somebody_else_is_told_with_a_remedy(open_tmp: Path) -> None:
    said = as_other(lambda: RuntimeDir.take(str(open_tmp)))
    assert said == (
        f"DirectoryError: {open_tmp}: cannot be written to;"
        " set runtime_dir to a folder that this user can write to"
    )
    said = as_other(lambda: RuntimeDir.take(str(open_tmp / "new")))
    assert said.startswith(f"DirectoryError: {open_tmp}/new: Permission denied; set runtime_dir")


@root_only
def test_the_owner_gets_it(tmp_path: Path) -> None:
    folders = str(tmp_path / "run"), str(tmp_path / "state")
    directories.give("x", *folders, {}, (OTHER, OTHER))
    assert (tmp_path / "run").stat().st_uid == OTHER
    assert (tmp_path / "state").stat().st_uid == OTHER
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o750


# Which folder


def test_what_is_configured_comes_first(tmp_path: Path) -> None:
    environ = {"RUNTIME_DIRECTORY": "/run/x", "STATE_DIRECTORY": "/var/lib/x"}
    assert directories.runtime_path(NAME, "/some/where", environ) == "/some/where"
    assert directories.find(NAME, "/some/where", environ) == "/some/where"
    assert directories.state_path(NAME, str(tmp_path / "s"), environ) == str(tmp_path / "s")
    assert directories.find_state(NAME, "/s", environ) == "/s"


def test_systemd_comes_second(tmp_path: Path) -> None:
    environ = {"RUNTIME_DIRECTORY": "/run/a:/run/b", "STATE_DIRECTORY": f"{tmp_path}/a:/b"}
    assert directories.runtime_path(NAME, None, environ) == "/run/a"
    assert directories.find(NAME, None, environ) == "/run/a"
    assert directories.state_path(NAME, None, environ) == f"{tmp_path}/a"
    assert directories.find_state(NAME, None, environ) == f"{tmp_path}/a"


@root_only
def test_root_has_run() -> None:
    path = Path(f"/run/{NAME}")
    assert directories.find(NAME, None, {}) == str(path)
    assert not path.exists()
    try:
        assert directories.runtime_path(NAME, None, {}) == str(path)
        assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0
    finally:
        path.rmdir()


@root_only
def test_others_have_a_private_folder(open_tmp: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(open_tmp), "HOME": f"{open_tmp}/home"}
    private = f"/tmp/{NAME}-{OTHER}"
    try:
        assert as_other(lambda: directories.find(NAME, None, environ)) == private
        assert not os.path.exists(private)
        assert as_other(lambda: directories.runtime_path(NAME, None, environ)) == private
        assert as_other(lambda: directories.runtime_path(NAME, None, {})) == private
        assert stat.S_IMODE(os.stat(private).st_mode) == 0o700
        state = as_other(lambda: directories.find_state(NAME, None, environ))
        assert state == f"{open_tmp}/home/.local/state/{NAME}"
        said = as_other(lambda: directories.state_path(NAME, None, environ))
        assert said.startswith(f"DirectoryError: {open_tmp}/home: Permission denied; set state_dir")
        os.chown(open_tmp, OTHER, OTHER)
        assert (
            as_other(lambda: directories.runtime_path(NAME, None, environ)) == f"{open_tmp}/{NAME}"
        )
        lasting = as_other(
            lambda: directories.runtime_path(NAME, None, environ, outlives_login=True)
        )
        assert lasting == private
        Path(private, "control.sock").touch()
        assert as_other(lambda: directories.find(NAME, None, environ)) == private
        Path(private, "control.sock").unlink()
    finally:
        os.rmdir(private)


@root_only
@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda path: os.mkdir(path, 0o700), "belongs to another user"),
        (lambda path: os.symlink("/tmp", path), "is not a folder"),
        (lambda path: open(path, "w").close(), "is not a folder"),
        (
            lambda path: (os.mkdir(path), os.chmod(path, 0o777), os.chown(path, OTHER, OTHER)),
            "chmod",
        ),
    ],
    ids=["another's", "link", "file", "open"],
)
def test_a_prepared_private_folder_is_refused(prepare: Callable[[str], None], said: str) -> None:
    private = f"/tmp/{NAME}-{OTHER}"
    prepare(private)
    try:
        told = as_other(lambda: directories.runtime_path(NAME, None, {}))
        assert told.startswith(f"DirectoryError: {private}: ")
        assert said in told
    finally:
        if os.path.isdir(private) and not os.path.islink(private):
            os.rmdir(private)
        else:
            os.unlink(private)


@root_only
def test_a_client_finds_the_daemon_of_the_system_or_its_own(open_tmp: Path) -> None:
    common, private = f"/run/{NAME}", f"/tmp/{NAME}-{OTHER}"
    os.mkdir(common, 0o755)
    os.mkdir(private, 0o755)

    def found() -> str:
        return as_other(lambda: directories.find(NAME, None, {}))

    try:
        assert found() == private, "where its own would be"
        Path(common, "control.sock").touch()
        assert found() == common
        Path(private, "control.sock").touch()
        assert found() == private
    finally:
        for folder in (common, private):
            for file in Path(folder).iterdir():
                file.unlink()
            os.rmdir(folder)


# Names of sockets


@pytest.mark.parametrize("length", [20, 107, 108, 300])
def test_a_socket_may_have_a_long_name(tmp_path: Path, length: int) -> None:
    folder = tmp_path
    while len(str(folder)) < length - 20:
        folder /= "d" * min(length - len(str(folder)) - 13, 100)
    folder.mkdir(parents=True, exist_ok=True)
    path = str(folder / "control.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        unixsocket.bind(listener, path, 0o640)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
        unixsocket.connect(client, path)
        client.sendall(b"x")
        with listener.accept()[0] as server:
            assert server.recv(1) == b"x"
    assert os.listdir(folder) == ["control.sock"]


def test_a_stale_socket_is_replaced_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as first:
        unixsocket.bind(first, path)
    with socket.socket(socket.AF_UNIX) as second, socket.socket(socket.AF_UNIX) as client:
        unixsocket.bind(second, path)
        unixsocket.connect(client, path)
    os.mkdir(tmp_path / "folder")
    with socket.socket(socket.AF_UNIX) as third, pytest.raises(OSError):
        unixsocket.bind(third, str(tmp_path / "folder"))
    assert sorted(os.listdir(tmp_path)) == ["folder", "s"]
