"""What is kept of graced is what is imported later, whatever has become of its files."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graced.host.codecache import is_needed

PACKAGE = Path(__file__).parents[2] / "graced"
PROGRAM = """
import pathlib, pkgutil, shutil, sys
import graced
from graced.host.codecache import is_needed, keep_all

before = set(sys.modules)
for _ in keep_all():
    pass
assert set(sys.modules) == before, "kept, not imported"
assert list(keep_all()) == [], "kept once"
folder = pathlib.Path(graced.__path__[0])
names = [found.name for found in pkgutil.walk_packages([str(folder)], "graced.")]
{change}
for name in filter(is_needed, names):
    module = sys.modules.get(name) or __import__(name, fromlist=["*"])
    assert pathlib.Path(module.__file__).is_relative_to(folder), name
    assert hasattr(module, "__path__") == module.__file__.endswith("__init__.py"), name
from graced import Job, JobWorker, SocketWorker
from graced.workers import Command
print(len(names))
"""
CHANGES = {
    "removed": "shutil.rmtree(folder)",
    "replaced": "for file in folder.rglob('*.py'): file.write_text('raise ImportError(__name__)')",
}


def run(program: str, path: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", program]
    return subprocess.run(
        line, cwd=path, capture_output=True, text=True, timeout=60, check=False, env={}
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with graced in it, that may be changed."""
    shutil.copytree(PACKAGE, tmp_path / "graced", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.parametrize("change", CHANGES)
def test_all_is_kept(copy: Path, change: str) -> None:
    result = run(PROGRAM.format(change=CHANGES[change]), copy)
    assert result.returncode == 0, result.stderr
    modules = [file for file in PACKAGE.rglob("*.py") if PACKAGE / "template" not in file.parents]
    assert int(result.stdout) == len(modules) - 1  # the package itself


def imports(file: Path) -> set[str]:
    """Return the modules that a file imports, not only for its types."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def test_nobody_but_commands_imports_what_is_not_kept() -> None:
    by_commands = {"graced.__init__", "graced.queue.sqlite.engine"}  # for them alone
    for file in PACKAGE.rglob("*.py"):
        name = ".".join(("graced", *file.relative_to(PACKAGE).with_suffix("").parts))
        if is_needed(name) and name not in by_commands:
            assert all(map(is_needed, imports(file))), name


def test_what_cannot_be_read_is_left_alone(copy: Path) -> None:
    (copy / "graced" / "broken.py").write_text("def")
    (copy / "graced" / "binary.py").write_bytes(b"\0\xff")
    (copy / "graced" / "hanging.py").symlink_to("nowhere")
    code = "from graced.host.codecache import keep_all\nprint(len(list(keep_all())))"
    result = run(code, copy)
    assert result.returncode == 0, result.stderr
