"""Names of Unix sockets that are given away, in folders whose owner plays tricks."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from graced.host import unixsocket

OWNER = (4343, 4242)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root to give files away")
    path = tmp_path / "made"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        yield path


def owner(path: Path) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_uid, status.st_gid


def test_a_socket_is_given(made: Path) -> None:
    unixsocket.give(str(made), OWNER)
    assert owner(made) == OWNER


@pytest.mark.parametrize("trick", ["link to a file", "link to a socket", "file", "hard link"])
def test_nothing_else_is_given(made: Path, trick: str) -> None:
    roots, path = made.parent / "root's", made.parent / "path"
    roots.write_text("secret")
    match trick:
        case "link to a file":
            path.symlink_to(roots)
        case "link to a socket":
            path.symlink_to(made)
        case "file":
            path.write_text("")
        case "hard link":
            path.hardlink_to(made)
    with pytest.raises(PermissionError, match="something else"):
        unixsocket.give(str(path), OWNER)
    assert owner(roots) == owner(made) == owner(path) == (0, os.getegid())


def test_a_name_has_its_mode_from_the_start(tmp_path: Path) -> None:
    """No chmod(2), which follows links, comes after it."""
    old = os.umask(0)
    with socket.socket(socket.AF_UNIX) as sock:
        unixsocket.bind(sock, str(tmp_path / "s"), 0o620)
    os.umask(old)
    assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == 0o620
