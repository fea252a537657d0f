"""Which package may import which: read from the source, never run; imports in functions included.

core decides and knows nothing but Python's types; supervisor alone imports it. Packages are named
after the processes they are for; each imports from those that are named beside it, and from the
plain files at the root. No circles.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "graced"
# They import each other only, and graced/__init__.py for the version.
PLAIN = {"record", "settings", "units", "text", "clock", "cron", "exitcodes", "options", "program"}
PLAIN |= {"fencing"}
WORKERS = {"workers", "client", "control", "config", "queue", "host", "log"}
MAY = {
    "core": set(),
    "log": set(),
    "host": {"log"},
    "config": {"queue", "host", "log"},  # which URLs a queue may have, the queue says
    "control": {"host", "log"},
    "monitoring": {"control", "host", "log"},
    "queue": {"host", "log"},
    "client": {"control", "config", "queue", "host", "log"},
    "workers": {"client", "queue", "host", "log"},
    "zygote": WORKERS,
    "supervisor": {"core", "zygote", "control", "monitoring"} | WORKERS,
    "doctor": {"config", "host", "log"},
    "testing": {"client"} | WORKERS,
    "cli": {"supervisor", "zygote", "control", "config", "doctor", "monitoring"} | WORKERS,
    "": {"cli"} | WORKERS,  # graced/__init__.py hands on what users import
}
TYPES = {"supervisor": {"config"}}  # what the type checker alone may follow
# What packages import of the extras that are for them
EXTRAS = {"testing": {"pytest"}, "workers": {"uvloop"}, "cli": {"shtab"}}
LIBRARIES = {  # and queue engines
    "graced.queue.postgresql": "psycopg",
    "graced.queue.redis": "redis",
}
# What core may have of the standard library: types and arithmetic, nothing that does anything.
PURE = {"__future__", "collections", "datetime", "enum", "functools", "itertools", "math"}
PURE |= {"operator", "typing"}


def modules() -> list[Path]:
    """Return the program's own: what is in template/ is another program's."""
    other = PACKAGE / "template"
    return [file for file in sorted(PACKAGE.rglob("*.py")) if other not in file.parents]


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


def package(module: str) -> str:
    """Return the package of a module; '' for graced/__init__.py and __main__.py."""
    name = [*module.split("."), ""][1]
    return "" if name == "__main__" else name


def module_name(file: Path) -> str:
    parts = ["graced", *file.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("file", modules(), ids=module_name)
def test_each_package_imports_only_what_it_may(file: Path) -> None:
    own = package(module_name(file))
    may = {own, "", *PLAIN} | (set() if own in PLAIN else MAY[own])
    executed = set(run_time(file))
    for name, line in imported(file):
        if package(name) in TYPES.get(own, ()) and name not in executed:
            continue
        if name.split(".")[0] == "graced" and is_module(name):
            assert package(name) in may, f"{file}:{line}: {own or 'graced'} may not import {name}"


@pytest.mark.parametrize("file", sorted((PACKAGE / "core").glob("*.py")), ids=module_name)
def test_core_knows_nothing_of_the_machine(file: Path) -> None:
    for name, line in imported(file):
        top = name.split(".")[0]
        allowed = top == "graced" or top in PURE  # which of graced, the test above knows
        assert allowed, f"{file}:{line}: core must not import {name}"


@pytest.mark.parametrize("file", modules(), ids=module_name)
def test_only_declared_dependencies(file: Path) -> None:
    declared = {"graced", "daemon", "sdnotify", "yaml", "setproctitle", "waitress", "rich"}
    declared |= EXTRAS.get(package(module_name(file)), set())
    declared |= {lib for room, lib in LIBRARIES.items() if module_name(file).startswith(room)}
    for name, line in imported(file):
        top = name.split(".")[0]
        known = top in declared or top in sys.stdlib_module_names
        assert known, f"{file}:{line}: {name} is no dependency of graced"


@pytest.mark.parametrize("file", modules(), ids=module_name)
def test_every_module_says_what_it_holds(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    if tree.body:
        assert ast.get_docstring(tree), f"{file}: its first lines shall say what lives there"
    if len(tree.body) > 1:
        assert "annotations" in ast.unparse(tree), f"{file}: from __future__ import annotations"


def test_no_handler_swallows_everything() -> None:
    for file in modules():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or ast.unparse(node.type) in {
                    "Exception",
                    "BaseException",
                }
                is_silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
                assert not (broad and is_silent), f"{file}:{node.lineno}: says nothing"


def test_imports_have_no_circles() -> None:
    """Lazy ones included; the type checker's alone do not count."""
    uses = {module_name(file): set(run_time(file)) for file in modules()}
    while leaves := {name for name, used in uses.items() if not used & uses.keys()}:
        uses = {name: used for name, used in uses.items() if name not in leaves}
    assert not uses, f"a circle is among {sorted(uses)}"


def run_time(file: Path) -> Iterator[str]:
    """Yield the modules of graced that a file imports when it runs."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typing:
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                name = deeper if is_module(deeper) else str(node.module)
                if name.startswith("graced.") and name != module_name(file):
                    yield name
