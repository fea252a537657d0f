"""The manual pages say all that the program has, and nothing else."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from daemon_harness import ROOT

import graced
from graced.cli import arguments
from graced.config import reader
from graced.config.reference import DOCS
from graced.host import signals

MAN = ROOT / "docs" / "man"
COMMANDS = (MAN / "graced.8.scd").read_text("utf-8")
KEYS = (MAN / "graced.yaml.5.scd").read_text("utf-8")
PAGES = ("graced.8", "graced.yaml.5")
EPOCH = "1790000000"  # in September 2026
# Variables between graced's own processes, or between it and tools that it asks.
INTERNAL = {"COLUMNS", "GRACED_READY_FD", "LC_ALL", "SYSTEMD_COLORS", "TERM"}


def section(text: str, title: str) -> str:
    """Return what a page says below a heading."""
    return text.split(f"\n# {title}\n", 1)[1].split("\n# ", 1)[0]


def parts(text: str) -> dict[str, str]:
    """Return what a section says below each of its own headings."""
    found = re.split(r"^## (.*)$", text, flags=re.M)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


def tags(text: str) -> list[str]:
    """Return the lines that have an indented explanation."""
    return re.findall(r"^([*_].*)\n\t", text, re.M)


def plain(text: str) -> str:
    """Return text without its markup."""
    return re.sub(r"(?<!\\)\*|(?<![\w\\])_|(?<!\\)_(?!\w)|\\", "", text)


def parsers() -> dict[str, argparse.ArgumentParser]:
    [found] = [a for a in arguments.parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(found.choices)


def long_options(text: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z-]*", " ".join(tags(text))))


def test_every_command_and_option_is_in_the_manual_and_nothing_else() -> None:
    told = parts(section(COMMANDS, "COMMANDS"))
    assert list(told) == [f"graced {command}" for command in parsers()]
    shared = section(COMMANDS, "OPTIONS OF ALL COMMANDS")
    assert "Not of *run*, *check*, *try* and *queue*." in shared
    common = long_options(shared) - {"--version"}
    for command, parser in parsers().items():
        lacking = {"--socket"} if command in ("run", "check", "try", "queue") else set()
        if command == "new":
            lacking = common - {"--help"}
        known = {a.option_strings[-1] for a in parser._actions if a.option_strings}
        assert long_options(told[f"graced {command}"]) | common - lacking == known, command


def test_every_operand_is_in_the_manual() -> None:
    told = parts(plain(section(COMMANDS, "COMMANDS")))
    for command, parser in parsers().items():
        for action in parser._actions:
            if not action.option_strings:
                for name in action.choices or [str(action.metavar).removeprefix("-- ")]:
                    assert re.search(rf"\b{name}\b", told[f"graced {command}"]), name


def test_what_the_manual_shows_can_be_typed() -> None:
    typed = re.findall(r"^graced (.*)$", section(COMMANDS, "EXAMPLES"), re.M)
    assert len(typed) > 5
    for line in typed:
        arguments.parse(shlex.split(line.partition(" < ")[0]))


def test_the_signals_of_the_manual_are_those_that_are_handled() -> None:
    told = " ".join(tags(parts(section(COMMANDS, "SIGNALS"))["To the main process"]))
    assert set(re.findall(r"SIG[A-Z0-9]+", told)) == {number.name for number in signals.WATCHED}


def test_the_exit_codes_of_the_manual_are_those_of_the_docs() -> None:
    documented = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "commands.md").read_text(), re.M)
    assert [plain(tag) for tag in tags(section(COMMANDS, "EXIT STATUS"))] == documented


def test_the_environment_is_what_the_program_reads() -> None:
    code = "".join(path.read_text("utf-8") for path in (ROOT / "graced").rglob("*.py"))
    read = set(re.findall(r"environ(?:\.get\(|\.pop\(|\[)\"([A-Z_]+)\"", code))
    named = r"^(?:VARIABLE_PREFIX|READY_FD)(?:: Final)? = \"(GRACED_[A-Z_]+)\""
    read |= set(re.findall(named, code, re.M))
    read |= set(re.findall(r"\"(GRACED_(?:JOB_[A-Z]+|POOL))\": ", code))
    text = section(COMMANDS, "ENVIRONMENT").replace("\\", "").replace("GRACED__*", "GRACED__ ")
    told = set(re.findall(r"(?<![\w$])(?:GRACED_[A-Z_]+|[A-Z]+(?:_[A-Z]+)+|HOME)\b", text))
    assert told - {"GRACED__POOLS__JOBS__WORKERS"} == read - INTERNAL


def test_the_status_of_the_manual_is_that_of_the_docs() -> None:
    documented = (ROOT / "docs" / "commands.md").read_text("utf-8")
    documented = documented.partition("## What `graced status --json` says")[2]
    rows = re.findall(r"^\| (`.*?) \|", documented, re.M)
    told = tags(section(COMMANDS, "STATUS FOR PROGRAMS"))
    assert [plain(tag) for tag in told] == [row.replace("`", "") for row in rows]


def test_every_key_is_in_the_manual_and_nothing_else() -> None:
    told = [
        key if name == "The daemon" else f"{name}.{key}"
        for name, text in parts(section(KEYS, "KEYS")).items()
        for key in (tag.split("*")[1] for tag in tags(text))
    ]
    assert told == list(DOCS)


def test_types_and_defaults_in_the_manual_are_the_program_s() -> None:
    """docs/configuration.md is made from the program's tables; its own test says so."""
    text = (ROOT / "docs" / "configuration.md").read_text("utf-8").replace("`", "")
    documented = [
        (key, f"({kind}; default {default})" if default else f"({kind})")
        for key, kind, default in re.findall(r"^\| (\w+) \| (.*?) \| (.*?) ?\| ", text, re.M)
        if key != "key"
    ]
    told = [
        (tag.split("*")[1], plain(tag.split("* ", 1)[1]))
        for part in parts(section(KEYS, "KEYS")).values()
        for tag in tags(part)
    ]
    assert told == documented


def test_the_manual_s_configuration_is_right(tmp_path: Path) -> None:
    [text] = re.findall(r"^```\n(.*?)^```", section(KEYS, "EXAMPLE"), re.M | re.S)
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert len(yaml.safe_load(text)["pools"]) == 2
    reading = reader.read(str(file), {}, ())
    assert reading.settings is not None, reading.problems


# As they are rendered


def tool(name: str) -> str:
    """Return the path of a program; without it the test is skipped, or fails where it must not."""
    path = shutil.which(name)
    if path is None:
        why = f"needs {name}"
        pytest.fail(why) if os.environ.get("GRACED_LAB_REQUIRED") == "1" else pytest.skip(why)
    return path


def render(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "packaging" / "man", folder],
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the rendered pages."""
    tool("scdoc")
    folder = tmp_path_factory.mktemp("made")
    result = render(folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("name", PAGES)
def test_a_page_reads_well_in_80_columns(made: Path, name: str) -> None:
    result = subprocess.run(
        [tool("man"), "--warnings", "-E", "UTF-8", "-l", str(made / name)],
        env={**os.environ, "MANWIDTH": "80", "MAN_KEEP_FORMATTING": "", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stderr == ""
    text = re.sub(r".\x08|\x1b\[\d*m", "", result.stdout)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert not re.search(r"`\w|\*\*|\]\(|\\\w|@[A-Z]", text)
    assert text.splitlines()[-1].split() == [
        "graced", graced.__version__, "2026-09-21", re.sub(r"\.(\d)$", r"(\1)", name),
    ]  # fmt: skip


def test_a_page_has_a_name_for_whatis(made: Path) -> None:
    for name in PAGES:
        line = [tool("lexgrog"), str(made / name)]
        result = subprocess.run(line, capture_output=True, text=True, check=True)
        assert f'"{name[:-2]} - ' in result.stdout


def test_the_same_sources_make_the_same_bytes(made: Path, tmp_path: Path) -> None:
    assert render(tmp_path, TZ="Asia/Tokyo").returncode == 0
    for name in PAGES:
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


def test_without_scdoc_it_says_what_to_install(tmp_path: Path) -> None:
    for name in ("bash", "dirname", "env"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    result = render(tmp_path / "made", PATH=str(tmp_path))
    assert result.returncode == 1
    assert "apt-get install scdoc" in result.stderr
