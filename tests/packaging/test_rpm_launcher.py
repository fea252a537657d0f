"""The command of the rpm: which Python it finds, and what it says where there is none."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_harness import ROOT

import graced

LAUNCHER = ROOT / "packaging" / "rpm" / "launch"
BARE = "-S"  # an option of Python's: without site-packages, so without the libraries
WRONG = 78


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """The command, with its code in this checkout."""
    text = LAUNCHER.read_text(encoding="utf-8")
    home = 'CODE = "/usr/lib/graced"'
    assert home in text
    file = tmp_path / "graced"
    file.write_text(text.replace(home, f"CODE = {str(ROOT)!r}"), encoding="utf-8")
    return file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The only folder on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def a_python(folder: Path, name: str, *options: str) -> Path:
    """Write a Python with these options into a folder; it notes that it was started."""
    file = folder / name
    line = " ".join((sys.executable, *options))
    file.write_text(f'#!/bin/sh\necho {name} >>"{folder}/started"\nexec {line} "$@"\n')
    file.chmod(0o755)
    return file


def started(folder: Path) -> list[str]:
    """Return the Pythons that were started, in order."""
    notes = folder / "started"
    return notes.read_text().split() if notes.exists() else []


def run(
    launcher: Path,
    path: Path,
    *options: str,
    words: tuple[str, ...] = ("--version",),
    before: tuple[str, ...] = (),
    **environ: str,
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "GRACED_PYTHON"}
    return subprocess.run(
        [*before, sys.executable, *options, str(launcher), *words],
        env={**clean, "PATH": str(path), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def says_its_version(done: subprocess.CompletedProcess[str]) -> bool:
    return done.returncode == 0 and graced.__version__ in done.stdout and not done.stderr


def test_a_python_with_the_libraries_is_taken_and_no_other_is_looked_for(
    launcher: Path, path: Path
) -> None:
    a_python(path, "python3.99")
    assert says_its_version(run(launcher, path))
    assert started(path) == []


def test_the_command_of_a_daemon_of_ones_own_is_a_link_to_it(launcher: Path, path: Path) -> None:
    command = launcher.rename(launcher.parent / "launch").parent / "my-app"
    command.symlink_to("launch")
    (launcher.parent / "my_app").mkdir()
    text = command.read_text(encoding="utf-8")
    home = 'OWN = "/usr/lib/" + NAME'
    assert home in text
    command.write_text(text.replace(home, f"OWN = {str(launcher.parent)!r}"), encoding="utf-8")
    (launcher.parent / "my_app" / "__main__.py").write_text("def main(): print('mine')\n")
    a_python(path, "python3.99")
    assert run(command, path, BARE).stdout == "mine\n"
    assert started(path) == ["python3.99", "python3.99"]


def test_else_the_newest_that_serves(launcher: Path, path: Path) -> None:
    a_python(path, "python3.99", BARE)
    a_python(path, "python3.98")
    a_python(path, "python3.11")
    a_python(path, "python3.10")
    a_python(path, "python3.97-config")
    (path / "python3.96").write_text("not a program")
    assert says_its_version(run(launcher, path, BARE))
    assert started(path) == ["python3.99", "python3.98", "python3.98"]  # looked at, then taken


def test_arguments_arrive_at_another_python(launcher: Path, path: Path) -> None:
    a_python(path, "python3.99")
    done = run(launcher, path, BARE, words=("submit", "--json", "not json"))
    assert done.returncode == 2
    assert done.stderr.startswith("graced: --json: not a JSON value: ")


def test_nowhere_is_said_in_one_line(launcher: Path, path: Path) -> None:
    a_python(path, "python3.99", BARE)
    done = run(launcher, path, BARE)
    assert done.returncode == WRONG
    assert done.stderr.count("\n") == 1
    for words in (sys.executable, "no PyYAML, no python-daemon, no sdnotify", "GRACED_PYTHON"):
        assert words in done.stderr


def test_a_python_that_is_named_is_taken(launcher: Path, path: Path) -> None:
    mine = a_python(path, "mine")
    assert says_its_version(run(launcher, path, BARE, GRACED_PYTHON=str(mine)))
    assert says_its_version(run(launcher, path, GRACED_PYTHON="mine"))
    assert started(path) == ["mine", "mine"]


def test_a_python_that_is_named_and_does_not_serve(launcher: Path, path: Path) -> None:
    a_python(path, "python3.99")
    done = run(launcher, path, GRACED_PYTHON=str(a_python(path, "mine", BARE)))
    assert done.returncode == WRONG
    assert "no PyYAML" in done.stderr
    done = run(launcher, path, GRACED_PYTHON="/no/such/python")
    assert done.returncode == WRONG
    assert done.stderr.startswith("graced: GRACED_PYTHON=/no/such/python: ")
    (path / "text").write_text("not a program\n")
    (path / "text").chmod(0o755)
    done = run(launcher, path, GRACED_PYTHON="text")
    assert done.returncode == WRONG
    assert done.stderr.startswith("graced: GRACED_PYTHON=text: Exec format error; name a Python")
    assert started(path) == ["mine"]


def test_a_folder_on_path_that_may_not_be_read_is_passed_over(launcher: Path, path: Path) -> None:
    a_python(path, "python3.99")
    closed = path.parent / "closed"
    closed.mkdir(mode=0o311)
    both = f"{closed}:{path}:/no/such/folder"
    assert says_its_version(run(launcher, path, BARE, before=as_anybody(), PATH=both))


def as_anybody() -> tuple[str, ...]:
    """Return how root runs a command that may not read each folder, as others may not."""
    bound = "--bounding-set=-dac_override,-dac_read_search"
    return (str(shutil.which("setpriv")), bound) if os.geteuid() == 0 else ()


def test_older_pythons_can_read_it() -> None:
    ast.parse(LAUNCHER.read_text(encoding="utf-8"), feature_version=(3, 6))


def test_the_libraries_are_those_of_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    [line] = [line for line in project.splitlines() if line.startswith("dependencies = ")]
    names = {word.partition(">=")[0] for word in ast.literal_eval(line.partition("= ")[2])}
    for node in ast.parse(LAUNCHER.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LIBRARIES":
            assert set(ast.literal_eval(node.value).values()) == names
            return
    raise AssertionError("no LIBRARIES")
