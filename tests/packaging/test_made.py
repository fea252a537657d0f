"""The manual pages say all that the program has, and nothing else; shells complete it."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from harness import ROOT, Daemon
from terminal import Terminal

from graced import cli
from graced.core.keys import DOCS
from graced.host import configfile, signals

MADE = ROOT / "packaging" / "made.py"
EPOCH = "1790000000"  # in September 2026
# What says READY for a daemon that leaves the terminal is between its own two processes.
INTERNAL = {"GRACED_READY_FD", "LC_ALL", "SYSTEMD_COLORS"}


def make(folder: Path, *arguments: str, epoch: str = EPOCH) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(MADE), str(folder), *arguments],
        env={**os.environ, "SOURCE_DATE_EPOCH": epoch, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with everything that is made."""
    folder = tmp_path_factory.mktemp("made")
    result = make(folder)
    assert result.returncode == 0, result.stderr
    return folder


def tool(name: str) -> str:
    """Return the path of a program; without it the test is skipped, or fails where it must not."""
    path = shutil.which(name)
    if path is None:
        why = f"needs {name}"
        pytest.fail(why) if os.environ.get("GRACED_LAB_REQUIRED") == "1" else pytest.skip(why)
    return path


def parsers() -> dict[str, argparse.ArgumentParser]:
    [found] = [a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(found.choices)


def rendered(page: Path) -> str:
    """Return a page as its readers see it, in 80 columns."""
    program = tool("man")
    result = subprocess.run(
        [program, "--warnings", "-E", "UTF-8", "-l", str(page)],
        env={**os.environ, "MANWIDTH": "80", "MAN_KEEP_FORMATTING": "", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stderr == ""
    return re.sub(r".\x08|\x1b\[\d*m", "", result.stdout)


def section(text: str, title: str) -> str:
    """Return the lines of a rendered page below a heading."""
    found = re.search(rf"^{title}\n((?:(?:[ ].*)?\n)*)", text, re.M)
    assert found, title
    return found[1]


def tags(text: str) -> set[str]:
    """Return what stands at the left of a list of a section."""
    lines = re.findall(r"^ {7}(\S.*)$", text, re.M)
    return {re.split(r" {2,}", line)[0] for line in lines}


def long_options(entries: set[str]) -> set[str]:
    return set(re.findall(r"--[a-z][a-z-]*", "\n".join(entries)))


# All of them


def test_the_same_sources_make_the_same_bytes(made: Path, tmp_path: Path) -> None:
    assert make(tmp_path).returncode == 0
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {
        p.name: p.read_bytes() for p in made.iterdir()
    }


def test_the_date_is_that_of_the_sources(made: Path, tmp_path: Path) -> None:
    make(tmp_path, epoch="0")
    for name in ("graced.8", "graced.yaml.5"):
        assert " 2026-09-21 " in (made / name).read_text("ascii")
        assert " 1970-01-01 " in (tmp_path / name).read_text("ascii")


def test_check_sees_a_difference_and_a_file_that_is_missing(tmp_path: Path) -> None:
    make(tmp_path)
    assert make(tmp_path, "--check").returncode == 0
    (tmp_path / "graced.8").write_text("something else")
    (tmp_path / "graced.yaml.5").unlink()
    result = make(tmp_path, "--check")
    assert result.returncode == 1
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == [
        str(tmp_path / "graced.8"),
        str(tmp_path / "graced.yaml.5"),
    ]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = make(tmp_path / "file")
    assert result.returncode == 1
    assert result.stderr == f"made.py: {tmp_path / 'file'}: File exists\n"


# Manual pages


@pytest.mark.parametrize("name", ["graced.8", "graced.yaml.5"])
def test_nobody_warns_of_a_page(made: Path, name: str) -> None:
    page = str(made / name)
    for words in (
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page],
        ["mandoc", "-T", "lint", "-W", "warning", page],
    ):
        result = subprocess.run(
            [tool(words[0]), *words[1:]], capture_output=True, text=True, check=False
        )
        assert result.stderr == ""
        assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", ["graced.8", "graced.yaml.5"])
def test_a_page_fits_80_columns_and_has_no_markup_left(made: Path, name: str) -> None:
    text = rendered(made / name)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert not re.search(r"`|\*\*|\]\(|\\|<!--|\x00", text)


def test_a_page_has_a_name_for_whatis(made: Path) -> None:
    for name, called in (("graced.8", "graced"), ("graced.yaml.5", "graced.yaml")):
        result = subprocess.run(
            [tool("lexgrog"), str(made / name)], capture_output=True, text=True, check=True
        )
        assert f'"{called} - ' in result.stdout


def test_every_command_and_option_is_in_the_manual_and_nothing_else(made: Path) -> None:
    text = rendered(made / "graced.8")
    commands, shared = section(text, "COMMANDS"), section(text, "OPTIONS OF ALL COMMANDS")
    told = re.split(r"^ {3}graced ([a-z]+)$", commands, flags=re.M)[1:]
    found = dict(zip(told[::2], told[1::2], strict=True))
    assert list(found) == list(parsers())
    common = long_options(tags(shared)) - {"--version"}
    for command, parser in parsers().items():
        lacking = {"--socket"} if command in ("run", "check") else set()
        told_of_it = long_options(tags(found[command])) | common - lacking
        assert told_of_it == {a.option_strings[-1] for a in parser._actions if a.option_strings}
    assert "Not of run and check." in shared


def test_what_the_manual_shows_can_be_typed(made: Path) -> None:
    typed = re.findall(
        r"^ {11}graced (.*)$", section(rendered(made / "graced.8"), "EXAMPLES"), re.M
    )
    assert len(typed) > 5
    for line in typed:
        cli._parsed(shlex.split(line.partition(" < ")[0]))


def test_the_signals_of_the_manual_are_those_that_are_handled(made: Path) -> None:
    main = section(rendered(made / "graced.8"), "SIGNALS").split("   To a worker\n")[0]
    told = {name for tag in tags(main) for name in re.findall(r"\bSIG[A-Z]+\d?", tag)}
    assert told == {number.name for number in signals.WATCHED}


def test_the_exit_codes_of_the_manual_are_those_of_the_docs(made: Path) -> None:
    documented = re.findall(
        r"^\| (\d+) \|", (ROOT / "docs" / "commands.md").read_text("utf-8"), re.M
    )
    told = {
        tag for tag in tags(section(rendered(made / "graced.8"), "EXIT STATUS")) if tag.isdigit()
    }
    assert told == set(documented)


def test_the_environment_is_what_the_program_reads(made: Path) -> None:
    code = "".join(path.read_text("utf-8") for path in (ROOT / "graced").rglob("*.py"))
    read = set(re.findall(r"environ(?:\.get\(|\.pop\(|\[)\"([A-Z_]+)\"", code))
    read |= set(re.findall(r"^(?:PREFIX|READY_FD)(?:: Final)? = \"(GRACED_[A-Z_]+)\"", code, re.M))
    read |= set(re.findall(r"\"(GRACED_JOB_[A-Z]+)\": ", code))
    text = section(rendered(made / "graced.8"), "ENVIRONMENT").replace("GRACED__…", "GRACED__ ")
    told = set(re.findall(r"(?<![\w$])(?:GRACED_[A-Z_]+|[A-Z]+(?:_[A-Z]+)+|HOME)\b", text))
    assert told - {"GRACED__POOLS__JOBS__WORKERS"} == read - INTERNAL


def test_every_key_is_in_the_manual_and_nothing_else(made: Path) -> None:
    text = section(rendered(made / "graced.yaml.5"), "KEYS")
    parts = re.split(r"^ {3}(\S.*)$", text, flags=re.M)[1:]
    told = [
        f"{name}.{key}" if name != "The daemon" else key
        for name, body in zip(parts[::2], parts[1::2], strict=True)
        for key in re.findall(r"^ {7}([a-z_]+) \(", body, re.M)
    ]
    assert told == list(DOCS)


def test_the_manual_s_configuration_is_right(made: Path, tmp_path: Path) -> None:
    text = section(rendered(made / "graced.yaml.5"), "EXAMPLE")
    file = tmp_path / "config.yaml"
    file.write_text("\n".join(line[11:] for line in text.splitlines()))
    assert len(yaml.safe_load(file.read_text())["pools"]) == 2
    reading = configfile.read(str(file), {}, ())
    assert reading.settings is not None, reading.problems


# Completions


SOURCES = {"bash": "graced.bash", "zsh": "_graced", "fish": "graced.fish"}


@pytest.mark.parametrize("shell", list(SOURCES))
def test_a_shell_can_read_its_completion(made: Path, shell: str) -> None:
    words = [tool(shell), "-n", str(made / SOURCES[shell])]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_completion_for_bash_has_nothing_to_warn_of(made: Path) -> None:
    words = [tool("shellcheck"), str(made / "graced.bash")]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


LONG = {
    command: {name for name in parser._option_string_actions if name.startswith("--")}
    for command, parser in parsers().items()
}
POOL_KEYS = {"max_rounds", "max_rss"}
STA = {"status", "stacks"}
COMPLETED = [
    ("graced ", set(parsers())),
    ("graced sta", STA),
    ("graced --", {"--help", "--version"}),
    *((f"graced {command} --", told) for command, told in LONG.items()),
    ("graced jobs ", {"retry", "drop"}),
    ("graced jobs retry ", {"1", "2"}),  # dead, waiting
    ("graced jobs --pool jobs drop 1 ", {"1", "2", "3"}),
    ("graced jobs --state d", {"dead", "done"}),
    ("graced jobs --state=d", {"dead", "done"}),
    ("graced jobs --json", {"--json"}),
    ("graced scale ", {"jobs", "big-mail"}),
    ("graced scale --set name=x -c config.yaml b", {"big-mail"}),
    ("graced scale jobs ", set()),
    ("graced scale -c nowhere.yaml --socket nowhere ", set()),
    ("graced submit --pool b", {"big-mail"}),
    ("graced submit --pool=b", {"big-mail"}),
    ("graced submit ", {"--"}),
    ("graced submit -- printen", {"printenv"}),
    ("graced submit --wait -- cat graced co", {"config.yaml"}),
    ("graced check -c con", {"config.yaml"}),
    ("graced check --config=con", {"config.yaml"}),
    ("graced check --set log.l", {"log.level="}),
    ("graced check --set pools.jobs.max_r", {f"pools.jobs.{key}=" for key in POOL_KEYS}),
    ("graced check --set=pools.big-mail.max_r", {f"pools.big-mail.{key}=" for key in POOL_KEYS}),
    ("graced doctor graced@", {"graced@shop.service"}),
    ("graced doctor graced@s", {"graced@shop.service"}),
    ("graced nonsense ", set()),
]
LIBRARY = Path("/usr/share/bash-completion/bash_completion")  # which most have, and not all
OWN_COMPLETION = "graced submit --wait -- graced sta"  # of the command that is submitted


@pytest.fixture
def desk(daemon: Daemon) -> tuple[Path, dict[str, str]]:
    """A folder with config.yaml, whose daemon has two pools and three jobs; an environment."""
    daemon.configure(
        {"jobs": {"worker": "graced.workers:Command"}, "big-mail": {"worker": "crew:Idle"}}
    )
    daemon.start().ready()
    daemon.run("submit", "--wait", "--max-attempts", "1", "--", "false")
    daemon.run("submit", "--delay", "1h", "--", "sleep", "1:2")
    daemon.run("submit", "--wait", "--", "true")
    folder, programs = daemon.home / "desk", daemon.home / "programs"
    folder.mkdir()
    programs.mkdir()
    (folder / "config.yaml").symlink_to(daemon.config)
    for name, text in {
        "graced": f'exec {sys.executable} -m graced "$@"',
        "systemctl": "echo graced@shop.service loaded active running A shop",
        "timeout": 'shift; exec "$@"',  # however slow this machine is
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    env = daemon.environment()
    return folder, {**env, "PATH": f"{programs}:{env['PATH']}", "LC_ALL": "C.UTF-8"}


def candidates(line: str, completed: str) -> set[str]:
    """Return what was put at the end of a line, as whole words."""
    typed = line.rpartition(" ")[2]
    start, _, _ = typed.rpartition("=") if typed.startswith("--") else ("", "", "")
    words = completed.removeprefix(line[: len(line) - len(typed)]).split()
    said = {word.removeprefix(f"{start}=") if start else word for word in words}
    # zsh puts an = behind options with a value
    said = {word.removesuffix("=") if word.startswith("--") else word for word in said}
    return said - {typed} if typed not in ("--json", "") else said


@pytest.mark.parametrize(("shell", "library"), [("bash", ""), ("bash", str(LIBRARY)), ("zsh", "")])
def test_what_a_shell_completes(
    shell: str, library: str, made: Path, desk: tuple[Path, dict[str, str]]
) -> None:
    folder, env = desk
    if library and not LIBRARY.exists():
        pytest.skip("needs bash-completion")
    terminal = Terminal(shell, tool(shell), made, folder, {**env, "LIBRARY": library})
    try:
        for line, expected in COMPLETED:
            assert candidates(line, terminal.complete(line)) == expected, line
        if shell != "bash" or library:
            assert candidates(OWN_COMPLETION, terminal.complete(OWN_COMPLETION)) == STA
    finally:
        terminal.close()


def test_what_fish_completes(made: Path, desk: tuple[Path, dict[str, str]]) -> None:
    folder, env = desk
    for line, expected in [*COMPLETED, (OWN_COMPLETION, STA)]:
        script = f"source {made}/graced.fish; complete -C {shlex.quote(line)}"
        result = subprocess.run(
            [tool("fish"), "--no-config", "-c", script],
            cwd=folder,
            env={**env, "HOME": str(folder)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        said = " ".join(each.partition("\t")[0] for each in result.stdout.splitlines())
        assert candidates(line, line.rpartition(" ")[0] + " " + said) == expected, line


def test_every_value_of_the_parser_has_a_kind(made: Path) -> None:
    """A new option's metavar has to be given a meaning, or completions can't be made."""
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]; import completions, manpages; "
        "from graced import cli; known = manpages.subparsers(cli._parser()); "
        "print(*sorted({str(a.metavar) for p in known.values() for a in p._actions "
        "if a.nargs != 0 and not a.choices} ^ set(completions.KINDS)), sep='\\n')"
    )
    words = [sys.executable, "-c", script, str(ROOT / "packaging"), str(ROOT)]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
