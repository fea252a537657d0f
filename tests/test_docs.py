"""The docs say what is there, all of it, and nothing else; and what they show runs."""

from __future__ import annotations

import ast
import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from harness import ROOT, Daemon

import graced
from graced.core import settings

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
README = TEXT[ROOT / "README.md"]
EXIT_CODES = {"0", "1", "2", "3", "70", "75", "78"}
COMING = {"reload", "submit", "jobs"}  # known to the program, promised by nobody yet


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    """Yield the fenced blocks of a language in all pages."""
    for page, text in TEXT.items():
        for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M):
            yield page, block


def graced_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "graced", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def commands() -> set[str]:
    """Return the commands that the program itself knows."""
    return set(re.findall(r"^\s{2,}(?:graced )?([a-z]+)\b", graced_command("--help").stdout, re.M))


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading."""
    after = text.split(f"\n{heading}\n", 1)[1]
    table = re.search(r"^\|.*\n\|[ -|]*\n((?:\|.*\n)+)", after, re.M)
    assert table, heading
    return [[c.strip() for c in row.strip("|").split("|")] for row in table[1].splitlines()]


# The program is in the docs


def test_every_command_is_documented() -> None:
    everything = "".join(TEXT.values())
    assert commands() >= {"run", "check", "status", "stop"}
    for command in commands() - COMING:
        assert f"graced {command}" in everything, f"graced {command} is nowhere explained"


def test_every_documented_command_exists() -> None:
    known = commands()
    for page, text in TEXT.items():
        for command in re.findall(r"(?:`|\$ |bin/)graced ([a-z]+)", text):
            assert command in known, f"{page.name}: graced {command} is not there"


def test_every_key_is_documented() -> None:
    page = TEXT[ROOT / "docs" / "configuration.md"]
    for record in (settings.Settings, settings.Log, settings.Pool, settings.Backoff):
        for key in record.__match_args__:
            documented = re.search(rf"\b{key}\b", page)
            assert documented or (record, key) == (settings.Pool, "name"), key


def test_every_exit_code_is_documented_once_and_alike() -> None:
    for text in (README, TEXT[ROOT / "docs" / "commands.md"]):
        assert {row[0] for row in rows(text, "## Exit codes")} == EXIT_CODES


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


def test_python_in_the_docs_compiles() -> None:
    for page, code in blocks("python"):
        compile(code, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_yaml_in_the_docs_parses() -> None:
    for _, text in blocks("yaml"):
        assert yaml.safe_load(text) is not None


def test_make_targets_in_the_docs_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page, text in TEXT.items():
        for target in re.findall(r"^(?:\$ )?make ([a-z]+)", text, re.M):
            assert re.search(rf"^{target}:", makefile, re.M), f"{page.name}: make {target}"


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


def test_the_readme_s_worker_runs(daemon: Daemon, url: str) -> None:
    [code] = [code for page, code in blocks("python") if page.name == "README.md"]
    assert len(code.splitlines()) <= 10
    [text] = [text for page, text in blocks("yaml") if page.name == "README.md"]
    daemon.module("watch", code)
    config = yaml.safe_load(text)
    config["pools"]["watch"]["options"]["url"] = url
    config["runtime_dir"] = str(daemon.short / "run")
    config["state_dir"] = str(daemon.home / "state")
    daemon.write_config(yaml.safe_dump(config)).start().ready()
    daemon.log.wait(f"{url} says 204")
    assert daemon.run("stop").returncode == 0
    daemon.ended(0)
