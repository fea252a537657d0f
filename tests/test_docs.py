"""The docs say what is there, all of it, and nothing else; and what they show runs."""

from __future__ import annotations

import argparse
import ast
import hashlib
import http.server
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from daemon_harness import ROOT, Daemon

import graced
from graced import exitcodes, settings
from graced import options as options_module
from graced.cli import arguments
from graced.config import reader, schema
from graced.host import signals

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# What those read who work on the program, and not with it
INSIDE = [p for p in PAGES if p.name == "CONTRIBUTING.md" or p.parent.name in ("internals", "adr")]
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
README = TEXT[ROOT / "README.md"]
EXIT_CODES = {"0", "1", "2", "3", "70", "75", "78"}
COMMANDS_PAGE = TEXT[ROOT / "docs" / "commands.md"]
# What looks like a key of ours and is a name of others'
FOREIGN = {"task_acks_late", "task_reject_on_worker_lost", "graceful_timeout", "my_pool"}
FOREIGN |= {"process_num", "stdout_logfile", "redirect_stderr"}
EVIDENCE_KEYS = {"timed_out"}
STATUS_KEYS = {"last_reload", "busy_for", "last_deaths", "next_start_in", "lease_left"}


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    """Yield the fenced blocks of a language in all pages."""
    for page, text in TEXT.items():
        for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M):
            yield page, block


def graced_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "graced", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the commands that the program itself knows, with what parses their words."""
    actions = arguments.parser()._actions
    [commands] = [a for a in actions if isinstance(a, argparse._SubParsersAction)]
    return dict(commands.choices)


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {word for word in parser._option_string_actions if word != "-h"}


def command_lines() -> Iterator[tuple[Path, list[str]]]:
    """Yield the words after `graced` of each command line in a console block."""
    for page, block in blocks("console"):
        for line in re.findall(r"^[$#] (?:.*/)?graced (.*)$", block, re.M):
            yield page, shlex.split(line.partition(" < ")[0])


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading."""
    after = text.split(f"\n{heading}\n", 1)[1]
    table = re.search(r"^\|.*\n\|[ -|]*\n((?:\|.*\n)+)", after, re.M)
    assert table, heading
    return [[c.strip() for c in row.strip("|").split("|")] for row in table[1].splitlines()]


# The program is in the docs


def test_every_command_is_documented() -> None:
    everything = "".join(TEXT.values())
    for command in parsers():
        assert f"graced {command}" in everything, f"graced {command} is nowhere explained"


def test_every_documented_command_exists() -> None:
    for page, text in TEXT.items():
        for command in re.findall(r"(?:`|\$ |# |bin/)graced ([a-z]+)", text):
            assert command in parsers(), f"{page.name}: graced {command} is not there"


def test_every_option_is_in_the_table_and_nothing_else() -> None:
    told: dict[str, set[str]] = {command: set() for command in parsers()}
    for who, option, _ in rows(COMMANDS_PAGE, "## Options"):
        first, _, exceptions = who.partition(" but ")
        chosen = set(told) - set(exceptions.split(", ")) if first == "all" else {who}
        for command in chosen:
            told[command] |= set(re.findall(r"`(--?[a-z-]+)", option))
    assert told == {command: options(parser) for command, parser in parsers().items()}


def test_options_in_the_text_exist() -> None:
    everything = {option for parser in parsers().values() for option in options(parser)}
    for page, text in TEXT.items():
        if page.name == "systemd.md":  # which has the options of others
            continue
        for span in re.findall(r"`(graced [^`]+|--[a-z][^`]*)`", text):
            for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", span.partition(" -- ")[0]):
                assert option in everything | {"--version"}, f"{page.name}: {option}"


def test_every_command_line_is_one() -> None:
    lines = list(command_lines())
    assert len(lines) > 15
    for page, words in lines:
        try:
            arguments.parse(words)
        except SystemExit:
            pytest.fail(f"{page.name}: graced {shlex.join(words)}")


def test_every_key_is_documented() -> None:
    page = TEXT[ROOT / "docs" / "configuration.md"]
    records = (settings.Settings, settings.Log, settings.Pool, settings.Backoff, settings.Schedule)
    for record in records:
        for key in schema.fields(record):
            assert re.search(rf"\b{key}\b", page), key


def test_no_other_key_is_documented() -> None:
    records = (settings.Settings, settings.Log, settings.Pool, settings.Backoff, settings.Retry)
    keys = {key for record in records for key in record.__match_args__}
    keys |= set(options_module.ProgramOptions.__match_args__)
    keys |= set(vars(graced.Worker)) | set(vars(graced.Queue)) | set(graced.JobInfo.__match_args__)
    known = keys | STATUS_KEYS | EVIDENCE_KEYS | FOREIGN
    for page, text in TEXT.items():
        for name in re.findall(r"`(?:pools\.\w+\.)?([a-z]+(?:_[a-z]+)+)`", text):
            if name.startswith("graced_"):
                continue  # a metric: tests/monitoring knows them all
            assert name in known, f"{page.name}: there is no key {name}"


def test_every_exit_code_is_documented_once_and_alike() -> None:
    for text in (README, COMMANDS_PAGE):
        assert {row[0] for row in rows(text, "## Exit codes")} == EXIT_CODES


def test_these_are_the_program_s_exit_codes() -> None:
    values = {name: str(value) for name, value in vars(exitcodes).items() if name.isupper()}
    told_elsewhere = {"TYPE_CHECKING", "CUT_OFF", "TIMED_OUT", "INTERRUPTED", "BROKEN_PIPE"}
    assert {values[name] for name in values.keys() - told_elsewhere} == EXIT_CODES
    assert f"{exitcodes.INTERRUPTED} after Ctrl-C" in COMMANDS_PAGE
    assert f"{exitcodes.BROKEN_PIPE} if nothing reads" in COMMANDS_PAGE


def test_exit_codes_have_names() -> None:
    for path in (ROOT / "graced").rglob("*.py"):
        bare = re.findall(r"exit_code\S* = \d+|\breturn (?:70|75|78)\b", path.read_text())
        assert not bare, f"{path}: {bare}"


def test_the_signals_are_those_that_are_handled() -> None:
    handled = {number.name for number in signals.WATCHED}
    page = TEXT[ROOT / "docs" / "signals-and-ladder.md"]
    for text, heading, unsaid in (
        (README, "## Signals", {"SIGCHLD", "SIGPIPE"}),
        (page, "## To the main process", set()),
    ):
        told = {name for row in rows(text, heading) for name in row[0].split(", ")}
        assert told == handled - unsaid


def test_all_of_jobs_is_documented() -> None:
    page = TEXT[ROOT / "docs" / "jobs.md"]
    names = {"JobWorker", "Retry", "Discard"} | {f"job.{n}" for n in graced.Job.__match_args__}
    for name in names:
        assert name in page, f"{name} is not in docs/jobs.md"
    for name in re.findall(r"`job\.(\w+)", page):
        assert name in graced.Job.__match_args__, f"docs/jobs.md: Job has no {name}"


def test_all_of_the_queue_is_documented() -> None:
    page = TEXT[ROOT / "docs" / "submitting.md"]
    public = {name for name in vars(graced.Queue) if not name.startswith("_")}
    for name in public - {"open"} | set(graced.JobInfo.__match_args__):
        assert f"`{name}" in page, f"{name} is not in docs/submitting.md"
    for name in re.findall(r"queue\.(\w+)\(", page):
        assert name in public | set(vars(graced.Worker)), f"Queue has no {name}"


def test_all_of_worker_is_documented() -> None:
    page = TEXT[ROOT / "docs" / "workers.md"]
    public = {name for name in vars(graced.Worker) if not name.startswith("_")}
    for name in public:
        assert re.search(rf"\b{name}\b", page), f"Worker.{name} is not in docs/workers.md"
    for name in re.findall(r"`self\.(\w+)", page):
        assert hasattr(graced.Worker, name), f"docs/workers.md: Worker has no {name}"


def test_the_changelog_has_the_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", TEXT[ROOT / "CHANGELOG.md"], re.M)
    assert headings[0] in ("Unreleased", graced.__version__)


# The docs are true


def test_links_lead_somewhere() -> None:
    for page, text in TEXT.items():
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: no {target}"


def test_files_that_contributors_are_sent_to_exist() -> None:
    assert len(INSIDE) > 10
    for page in INSIDE:
        for name in re.findall(
            r"`(\w[\w.-]*/(?:[\w./-]+\.(?:py|md|scd|yml)|[\w/-]*))`", TEXT[page]
        ):
            places = (ROOT / name, ROOT / "graced" / name)
            assert any(place.exists() for place in places), f"{page.name}: there is no {name}"


def test_workflows_use_what_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    steps = [
        step
        for file in (ROOT / ".github" / "workflows").glob("*.yml")
        for job in yaml.safe_load(file.read_text())["jobs"].values()
        for step in job["steps"]
    ]
    script = "\n".join(step.get("run", "") for step in steps)
    for targets in re.findall(r"^make (.+)$", script, re.M):
        for target in targets.split():
            assert re.search(rf"^{target}:", makefile, re.M), f"make {target}"
    for program in re.findall(r"(?<![\w/])(\.ci/\w+|packaging/[\w/]+)", script):
        assert os.access(ROOT / program, os.X_OK), program


def test_python_in_the_docs_compiles() -> None:
    for page, code in blocks("python"):
        compile(code, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_yaml_in_the_docs_is_right(tmp_path: Path) -> None:
    for page, text in blocks("yaml"):
        file = tmp_path / "config.yaml"
        file.write_text(text)
        reading = reader.read(str(file), {}, (), to_run="!file" not in text)  # which is not here
        assert reading.settings is not None, f"{page.name}: {reading.problems}"


def test_make_targets_in_the_docs_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page, text in TEXT.items():
        for target in re.findall(r"^(?:\$ )?make ([a-z]+)", text, re.M):
            assert re.search(rf"^{target}:", makefile, re.M), f"{page.name}: make {target}"


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    [names] = re.findall(r"^\.PHONY: (.*)$", makefile, re.M)
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [line.split()[0] for line in listed.splitlines()] == names.split()


def test_the_default_configuration_is_right() -> None:
    result = graced_command("check", "-c", str(ROOT / "config.yaml"))
    assert result.returncode == 0, result


class Page(http.server.BaseHTTPRequestHandler):
    """Answers whoever asks."""

    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_the_readme_s_workers_run(daemon: Daemon, url: str) -> None:
    pairs = re.findall(r"^```python\n([^`]*)```\n\n```yaml\n([^`]*)```", README, re.M)
    assert len(pairs) == 2
    pools = {}
    for code, text in pairs:
        assert len([line for line in code.splitlines() if line]) <= 10
        [(name, pool)] = yaml.safe_load(text)["pools"].items()
        daemon.module(pool["worker"].partition(":")[0], code)
        pools[name] = {**pool, "path": [str(daemon.home)]}
    with socket.create_server(("127.0.0.1", 0)) as gone:
        silent = f"http://127.0.0.1:{gone.getsockname()[1]}/"
    pools["silent"] = {**pools["watch"], "options": {"url": silent}}
    pools["watch"]["options"]["url"] = url
    daemon.configure(pools).start().ready()
    daemon.log.wait(f"{url} says 204")
    daemon.log.wait(f"{silent}: .*refused")
    daemon.until(lambda: daemon.workers("silent")[0]["state"] == "ready")  # in its self.wait(60)
    assert daemon.workers("silent")[0]["errors"] == 0
    [words] = re.findall(r"`graced (submit --wait .*?)`", README)
    done = daemon.run(*shlex.split(words))
    digest = hashlib.sha256(Path("/etc/passwd").read_bytes()).hexdigest()
    assert done.stdout == f'"{digest}"\n'
    [client] = [c for page, c in blocks("python") if page.name == "README.md" and "Queue" in c]
    environment = {**daemon.environment(), "GRACED_CONFIG": str(daemon.config)}
    told = subprocess.check_output([sys.executable, "-c", client], env=environment, text=True)
    assert told == f"{digest}\n"
    missing = daemon.run("submit", "--wait", "--max-attempts", "1", "--json", '"/nowhere"')
    assert "retry after 10 s" in missing.stderr
    assert daemon.run("stop").returncode == 0
    daemon.ended(0)


@pytest.fixture
def checkout(daemon: Daemon) -> Daemon:
    """What `make run` starts, in a copy of the checkout that has .venv/bin/graced."""
    for name in ("README.md", "LICENSE", "config.yaml"):
        shutil.copy(ROOT / name, daemon.short)
    shutil.copytree(ROOT / "examples", daemon.short / "examples")
    program = daemon.short / ".venv" / "bin" / "graced"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m graced "$@"\n')
    program.chmod(0o755)
    daemon.config = daemon.short / "config.yaml"
    return daemon.start().ready()


def type_in(daemon: Daemon, line: str) -> list[str]:
    """Run a line in the checkout; return what it prints, lengths of time left out, sorted."""
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=daemon.short,
        env=daemon.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return plain(done.stdout)


def plain(printed: str) -> list[str]:
    """Return lines without what differs from time to time: the order of two streams, and ages."""
    return sorted(re.sub(r" +\d+[smhd] ", " AGE ", line) for line in printed.splitlines())


def test_the_readme_s_sessions_are_as_printed(checkout: Daemon) -> None:
    sessions = "".join(text for page, text in blocks("console") if page.name == "README.md")
    typed = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", sessions, re.M)
    assert len(typed) >= 6
    for line, printed in typed:
        if line.startswith("ls ") or line.endswith(" jobs"):  # the worker takes its time
            checkout.until(lambda line=line, out=printed: type_in(checkout, line) == plain(out))
        else:
            assert type_in(checkout, line) == plain(printed), line
    checkout.log.wait("README.md job=1")  # "What a command prints is in the daemon's log"
    assert checkout.run("stop").returncode == 0
    checkout.ended(0)
