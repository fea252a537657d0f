"""What shtab makes of the parser: bash and zsh complete commands, options, files and pools."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_harness import ROOT, Daemon
from terminal import Terminal

from graced.cli import arguments

SCRIPT = ROOT / "packaging" / "completions"
FILES = {"bash": "graced.bash", "zsh": "_graced"}


def tool(name: str) -> str:
    """Return the path of a program; without it the test is skipped, or fails where it must not."""
    path = shutil.which(name)
    if path is None:
        why = f"needs {name}"
        pytest.fail(why) if os.environ.get("GRACED_LAB_REQUIRED") == "1" else pytest.skip(why)
    return path


def make(folder: Path, *python: str) -> subprocess.CompletedProcess[str]:
    line = [*(python or [sys.executable]), str(SCRIPT), str(folder)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the completions."""
    if importlib.util.find_spec("shtab") is None:
        pytest.skip("needs shtab")
    folder = tmp_path_factory.mktemp("made")
    result = make(folder)
    assert result.returncode == 0, result.stderr
    return folder


def test_without_shtab_it_says_what_to_install(tmp_path: Path) -> None:
    result = make(tmp_path, sys.executable, "-I", "-S")
    assert result.returncode == 1
    assert "apt-get install python3-shtab" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_same_sources_make_the_same_bytes(made: Path, tmp_path: Path) -> None:
    assert make(tmp_path, "env", "PYTHONHASHSEED=7", sys.executable).returncode == 0
    for name in FILES.values():
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


@pytest.mark.parametrize("shell", list(FILES))
def test_a_shell_can_read_its_completion(made: Path, shell: str) -> None:
    words = [tool(shell), "-n", str(made / FILES[shell])]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def parsers() -> dict[str, argparse.ArgumentParser]:
    [found] = [a for a in arguments.parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(found.choices)


LONG = {
    command: {name for name in parser._option_string_actions if name.startswith("--")}
    for command, parser in parsers().items()
}
COMPLETED = [
    ("graced ", set(parsers())),
    ("graced sta", {"status", "stacks"}),
    ("graced --", {"--help", "--version"}),
    *((f"graced {command} --", told) for command, told in LONG.items()),
    ("graced jobs ", {"cancel", "drop", "log", "retry", "show"}),
    ("graced jobs --state d", {"dead", "done"}),
    ("graced scale ", {"jobs", "big-mail"}),
    ("graced scale b", {"big-mail"}),
    ("graced submit --pool b", {"big-mail"}),
    ("graced submit -- printen", {"printenv"}),
    ("graced check -c con", {"config.yaml"}),
]


@pytest.fixture
def desk(daemon: Daemon) -> tuple[Path, dict[str, str]]:
    """A folder with config.yaml, whose daemon has two pools; an environment to ask it from."""
    daemon.configure(
        {
            "jobs": {"worker": "graced.workers:Command"},
            "big-mail": {"worker": "sample_workers:Idle"},
        }
    )
    daemon.start().ready()
    folder, programs = daemon.home / "desk", daemon.home / "programs"
    folder.mkdir()
    programs.mkdir()
    (folder / "config.yaml").symlink_to(daemon.config)
    for name, text in {
        "graced": f'exec {sys.executable} -m graced "$@"',
        "timeout": 'shift; exec "$@"',  # however slow this machine is
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    env = daemon.environment()
    return folder, {**env, "PATH": f"{programs}:{env['PATH']}", "LC_ALL": "C.UTF-8"}


@pytest.mark.parametrize("shell", list(FILES))
def test_what_a_shell_completes(shell: str, made: Path, desk: tuple[Path, dict[str, str]]) -> None:
    folder, env = desk
    terminal = Terminal(shell, tool(shell), made, folder, {**env, "LIBRARY": ""})
    try:
        for line, expected in COMPLETED:
            typed = line.rpartition(" ")[2]
            words = terminal.complete(line).removeprefix(line[: len(line) - len(typed)]).split()
            assert {re.sub(r"^(--.*)=$", r"\1", word) for word in words} == expected, line
    finally:
        terminal.close()
