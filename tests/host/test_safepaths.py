"""What root may do by path: where nobody else can put anything, and nowhere else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from graced.host import safepaths
from graced.host.address import parse
from graced.host.listeners import adjust, file_at, open_address
from graced.host.safepaths import UnsafeFolderError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
OTHER = (12345, 12346)


def others(folder: Path, how: str) -> Path:
    """Make a folder that others than root can write to."""
    folder.mkdir()
    if how == "owner":
        os.chown(folder, *OTHER)
    else:
        folder.chmod({"group": 0o775, "everybody": 0o757, "sticky": 0o1777}[how])
    return folder


WAYS = ["owner", "group", "everybody", "sticky"]


@pytest.mark.parametrize("how", WAYS)
def test_nothing_is_opened_where_others_can_write(tmp_path: Path, how: str) -> None:
    folder = others(tmp_path / "theirs", how)
    file = str(folder / "log")
    with pytest.raises(UnsafeFolderError):
        safepaths.open_file(file, os.O_WRONLY, 0o600, OTHER)
    with pytest.raises(UnsafeFolderError):
        safepaths.give_folder(file, 0o755, OTHER)
    assert not safepaths.is_roots(file)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("how", ["owner", "group", "everybody"])
def test_nor_below_it(tmp_path: Path, how: str) -> None:
    (others(tmp_path / "theirs", how) / "roots").mkdir()
    assert not safepaths.is_roots(str(tmp_path / "theirs" / "roots" / "log"))
    (tmp_path / "link").symlink_to(tmp_path / "theirs" / "roots")
    assert not safepaths.is_roots(str(tmp_path / "link" / "log"))


def test_roots_own_in_a_sticky_folder_is_roots(tmp_path: Path) -> None:
    folder = others(tmp_path / "tmp", "sticky")
    (folder / "roots").mkdir()
    assert safepaths.is_roots(str(folder / "roots" / "log"))
    (folder / "theirs").symlink_to(folder / "roots")
    os.chown(folder / "theirs", *OTHER, follow_symlinks=False)
    assert not safepaths.is_roots(str(folder / "theirs" / "log"))
    (folder / "file").write_text("")
    safepaths.demand(str(folder / "file"))
    os.chown(folder / "file", *OTHER)
    with pytest.raises(UnsafeFolderError, match="file belongs to user 12345"):
        safepaths.demand(str(folder / "file"))


def test_roots_own_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "log").symlink_to("logs/real")
    os.close(safepaths.open_file(str(tmp_path / "log"), os.O_WRONLY, 0o640, OTHER))
    found = (tmp_path / "logs" / "real").stat()
    assert (found.st_uid, found.st_gid) == OTHER
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        safepaths.open_file(str(tmp_path / "a"), os.O_WRONLY, 0o640)


def test_a_folder_is_given_with_what_is_ours_in_it(tmp_path: Path) -> None:
    state = tmp_path / "a" / "state"
    safepaths.give_folder(str(state), 0o750, OTHER)
    assert (state.stat().st_uid, stat.S_IMODE(state.stat().st_mode)) == (12345, 0o750)
    os.chown(state, 0, 0)
    for name in ("jobs.db", "jobs.db-wal", "lock"):
        (state / name).write_text("")
    (state / "jobs.db-owners").mkdir()
    (state / "jobs.db-owners" / "d1:1.lock").write_text("")
    roots = tmp_path / "roots"
    roots.write_text("")
    os.link(roots, state / "queue-x.sock")  # of another name elsewhere: not ours to give
    safepaths.give_folder(str(state), 0o750, OTHER)
    made = [state, *state.rglob("*")]
    assert {p.name for p in made if p.lstat().st_uid == 0} == {"queue-x.sock"}
    assert roots.stat().st_uid == 0


def test_a_mode_is_never_changed_through_a_link(tmp_path: Path) -> None:
    """At each listen, and at each reload."""
    roots = tmp_path / "roots"
    roots.write_text("")
    roots.chmod(0o600)
    address = parse(f"unix://{tmp_path}/s?mode=0666")
    fd = open_address(address)
    file = file_at(address)
    (tmp_path / "s").unlink()
    (tmp_path / "s").symlink_to(roots)
    adjust(fd, address, file)
    os.close(fd)
    assert stat.S_IMODE(roots.stat().st_mode) == 0o600
