"""Imports go down only: who may know whom, read from the source without running it.

core decides and knows nothing below Python's types; host and jobs know core; the supervisor, the
zygote and the worker know those; the command line knows all.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "graced"
FLOORS = {  # each may import from floors that are lower, and from its own
    "core": 0,
    "host": 1,
    "jobs.": 2,
    "watch": 2,  # what the scoreboard says, as events
    "orphans": 2,  # how a zygote leads its workers down without a main process
    "family": 2,  # what workers have in common, and what is each one's own
    "score": 3,  # what a worker says on the scoreboard
    "workerlife": 3,
    "worker": 4,
    "jobs": 5,  # hands on what users import
    "jobs.worker": 5,
    "socketworker": 5,
    "loader": 5,
    "workers": 6,
    "births": 6,
    "spares": 6,  # workers that are born before they are needed
    "zygote": 6,
    "processes": 7,
    "stackroom": 8,
    "queues": 8,
    "graves": 8,
    "report": 8,
    "sockets": 8,
    "ground": 8,  # what all children are given
    "desk": 9,
    "places": 9,  # what others find the daemon by
    "supervisor": 9,
    "start": 9,
    "check": 9,
    "doctor": 9,
    "": 9,  # the package itself hands on what users import
    "commandline": 9,
    "cli": 10,
    "__main__": 11,
}
# What core may have of the standard library: types and arithmetic, nothing that does anything.
PURE = {"__future__", "collections", "enum", "functools", "itertools", "math", "operator", "typing"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> Iterator[tuple[str, int]]:
    """Yield each module named in an import, wherever it stands, with its line."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            assert node.module is not None
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                yield (deeper if is_module(deeper) else node.module), node.lineno


def floor(module: str) -> int:
    name = module.partition(".")[2]
    package = name.split(".")[0]
    for known in (name, f"{package}." if "." in name else package, package):
        if known in FLOORS:
            return FLOORS[known]
    raise AssertionError(f"{module} is on no floor: say in this test where it belongs")


def module_name(file: Path) -> str:
    parts = ["graced", *file.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("file", modules(), ids=module_name)
def test_imports_go_down_only(file: Path) -> None:
    own = floor(module_name(file))
    for name, line in imported(file):
        if name.split(".")[0] == "graced" and is_module(name) and name != "graced":
            assert floor(name) <= own, f"{file}:{line}: {name} is above {module_name(file)}"


@pytest.mark.parametrize("file", sorted((PACKAGE / "core").glob("*.py")), ids=module_name)
def test_core_knows_nothing_of_the_machine(file: Path) -> None:
    for name, line in imported(file):
        top = name.split(".")[0]
        allowed = name.startswith("graced.core") or top in PURE
        assert allowed, f"{file}:{line}: core must not import {name}"


@pytest.mark.parametrize("file", modules(), ids=module_name)
def test_only_declared_dependencies(file: Path) -> None:
    declared = {"graced", "daemon", "sdnotify", "yaml", "setproctitle"}
    for name, line in imported(file):
        top = name.split(".")[0]
        known = top in declared or top in sys.stdlib_module_names
        assert known, f"{file}:{line}: {name} is no dependency of graced"


@pytest.mark.parametrize("file", modules(), ids=module_name)
def test_every_module_says_what_it_holds(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    if tree.body:
        assert ast.get_docstring(tree), f"{file}: its first lines shall say what lives there"
        assert "annotations" in ast.unparse(tree), f"{file}: from __future__ import annotations"


def test_nobody_swallows_everything() -> None:
    for file in modules():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or ast.unparse(node.type) in {
                    "Exception",
                    "BaseException",
                }
                silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
                assert not (broad and silent), f"{file}:{node.lineno}: says nothing"
