"""Start-up is mostly imports: what must not be loaded on the way from `graced run` to READY."""

from __future__ import annotations

import subprocess
import sys

import pytest
from daemon_harness import ROOT

HEAVY = {
    "argparse",
    "asyncio",
    "concurrent",
    "contextlib",
    "daemon",
    "dataclasses",
    "email",
    "importlib.metadata",
    "inspect",
    "json",
    "jsonschema",
    "logging",
    "multiprocessing",
    "pathlib",
    "random",
    "shutil",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "traceback",
    "typing",
}


def loaded_by(code: str) -> set[str]:
    """Return the modules that this code makes a fresh interpreter load."""
    program = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*set(sys.modules) - before)"
    line = [sys.executable, "-c", program]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "graced",
        "graced.cli.main",
        "graced.supervisor.loop",
        "graced.zygote.process",
        "graced.workers.base",
    ],
)
def test_no_heavy_module_is_imported(module: str) -> None:
    assert loaded_by(f"import {module}") & HEAVY == set()


def test_a_start_needs_the_supervisor_only_once_its_zygotes_are_forked() -> None:
    assert "graced.supervisor.loop" not in loaded_by(
        "import graced.cli.main, graced.supervisor.start"
    )


def test_a_command_line_is_read_without_what_help_alone_needs() -> None:
    assert "shutil" not in loaded_by("import graced.cli.arguments as a; a.parse(['run'])")


def test_an_idle_main_process_imports_what_the_zygote_of_each_reload_needs() -> None:
    code = "import graced.supervisor.loop as loop; next(loop._keep_code(None))"
    assert {"graced.log.stdlib", "logging", "threading"} <= loaded_by(code)


def test_the_queue_is_not_loaded_for_pools_without_one() -> None:
    assert "graced.queue.keeper" not in loaded_by("import graced.supervisor.loop")
    assert not {"sqlite3", "_sqlite3"} & loaded_by(
        "import graced.supervisor.loop, graced.workers.base"
    )
