"""The sources that packages are made from: the same bytes for the same state, git or no git."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from daemon_harness import ROOT

import graced

EPOCH = "1700000000"


def source(*arguments: str, root: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    script = str(root / "packaging" / "source")
    clean = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    return subprocess.run(
        [script, *arguments], capture_output=True, text=True, check=False, env={**clean, **environ}
    )


def made(*arguments: str, root: Path = ROOT, **environ: str) -> str:
    done = source(*arguments, root=root, **environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the sources that git knows nothing of."""
    return Path(made("tree", str(tmp_path / "copy")))


def test_the_version_stands_in_one_place(copy: Path) -> None:
    assert made("version") == graced.__version__
    init = copy / "graced" / "__init__.py"
    init.write_text(init.read_text().replace(graced.__version__, "9.8.7"))
    assert made("version", root=copy) == "9.8.7"


@pytest.mark.parametrize("wrong", ['__version__ = "1.0rc1"', '__version__ = ""', "VERSION = 1"])
def test_only_releases_are_packed(copy: Path, wrong: str) -> None:
    (copy / "graced" / "__init__.py").write_text(f"{wrong}\n")
    failed = source("version", root=copy)
    assert failed.returncode == 1
    assert "graced/__init__.py" in failed.stderr


def test_the_date_can_be_told() -> None:
    assert made("epoch", SOURCE_DATE_EPOCH=EPOCH) == EPOCH
    assert made("epoch").isdigit()
    failed = source("epoch", SOURCE_DATE_EPOCH="yesterday")
    assert failed.returncode == 1
    assert "whole seconds" in failed.stderr


def test_a_tree_has_one_date_and_two_modes(tmp_path: Path) -> None:
    tree = Path(made("tree", str(tmp_path), SOURCE_DATE_EPOCH=EPOCH))
    assert tree == tmp_path / f"graced-{graced.__version__}"
    stats = [path.lstat() for path in [tree, *tree.rglob("*")]]
    assert {int(stat.st_mtime) for stat in stats} == {int(EPOCH)}
    assert {oct(stat.st_mode & 0o7777) for stat in stats} == {"0o755", "0o644"}
    assert (tree / "packaging" / "source").stat().st_mode & 0o100
    names = {path.name for path in tree.iterdir()}
    assert names >= {"graced", "systemd", "docs", "LICENSE", "pyproject.toml"}
    assert not any(name.startswith(".venv") or name in ("dist", ".git") for name in names)


def test_the_tarball_is_the_same_without_git(tmp_path: Path, copy: Path) -> None:
    (copy / "graced" / "__pycache__").mkdir()
    (copy / "graced" / "__pycache__" / "cli.pyc").write_bytes(b"left over")
    one = Path(made("tarball", str(tmp_path / "one"), SOURCE_DATE_EPOCH=EPOCH))
    two = Path(made("tarball", str(tmp_path / "two"), root=copy, SOURCE_DATE_EPOCH=EPOCH))
    assert one.read_bytes() == two.read_bytes()
    with tarfile.open(one) as tar:
        assert {(m.uid, m.gid, int(m.mtime)) for m in tar} == {(0, 0, int(EPOCH))}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a checkout to somebody else")
def test_somebody_elses_checkout_is_known_to_git_too(tmp_path: Path, copy: Path) -> None:
    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        date = {"GIT_COMMITTER_DATE": f"@{EPOCH} +0000"}
        line = ["git", "-C", str(copy), *who, "-c", "commit.gpgsign=false", *words]
        subprocess.run(line, check=True, env={**os.environ, **date})

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "all")
    (copy / "notes").write_text("git does not know this one")
    subprocess.run(["chown", "-R", "1234:1234", str(copy)], check=True)
    assert made("epoch", root=copy) == EPOCH
    tree = Path(made("tree", str(tmp_path / "tree"), root=copy))
    assert not (tree / "notes").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    made("tree", str(tmp_path))
    failed = source("tree", str(tmp_path))
    assert failed.returncode == 1
    assert "is there already" in failed.stderr


def test_a_wrong_command_line_is_told_the_right_one() -> None:
    failed = source("everything")
    assert failed.returncode == 2
    assert "source tarball DIR" in failed.stderr
