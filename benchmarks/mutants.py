"""Mutants: small faults put into graced, one at a time, to see whether the fast tests bite.

``python -m benchmarks.mutants --count 120 --seed 3`` takes so many places by chance: comparisons,
``and`` and ``or``, conditions, numbers, statements. Each mutant is a copy of the package in a
scratch folder, against which the fast tests run that import the changed module, the nearest
first. A survivor is told as ``file:line`` and what was changed: either it is of no consequence,
or a test is missing. Exit 1 where some survived.
"""

from __future__ import annotations

import argparse
import ast
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# What is mutated unless something else is asked for: the rules, not the plumbing.
TARGETS = (
    "graced/core/*.py",
    "graced/config/*.py",
    "graced/queue/sqlite/*.py",
    "graced/workers/*.py",
)
FARTHEST = 2  # imports between a test and what it tests
MOST_FILES = 8  # of tests, for one mutant
SLOWEST = 240.0  # seconds of one test run; one that hangs has found something
RANDOM = ("test_random.py", "test_config_fuzz.py")
STATIC = ("__slots__", "TYPE_CHECKING")
SWAPS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], ast.operator] = {
    ast.Add: ast.Sub(), ast.Sub: ast.Add(), ast.Mult: ast.Add(), ast.FloorDiv: ast.Mult(),
    ast.Div: ast.Mult(), ast.BitAnd: ast.BitOr(), ast.BitOr: ast.BitAnd(),
}  # fmt: skip


class Mutant(NamedTuple):
    """A change of a stretch of one file."""

    file: Path  # under the root
    line: int
    start: int  # bytes
    end: int
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {_short(self.old)}  →  {_short(self.new)}"


def _short(text: str) -> str:
    one = " ".join(text.split())
    return one if len(one) < 90 else f"{one[:89]}…"


# -- where something can be changed ------------------------------------------------------------


def mutants_of(file: Path) -> list[Mutant]:
    """Return all that can be changed in a file."""
    source = (ROOT / file).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in _walk(ast.parse(source)):
        for new in _changes(node):
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
            old = source[start:end].decode()
            found.append(Mutant(file, node.lineno, start, end, old, new))
    return found


def _walk(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Yield what does something: no annotations, no docstrings, nothing for type checkers."""
    if isinstance(node, (ast.expr, ast.stmt)):
        yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _says_nothing(child):
                yield from _walk(child)


def _says_nothing(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign):
        return any(isinstance(t, ast.Name) and t.id in STATIC for t in node.targets)
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_text or isinstance(node, (ast.Import, ast.ImportFrom, ast.JoinedStr))


def _changes(node: ast.expr | ast.stmt) -> Iterator[str]:
    """Yield what could stand there instead."""
    return _other_values(node) if isinstance(node, ast.expr) else _other_acts(node)


def _other_values(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Compare(ops=[op], left=left, comparators=right):
            yield f"({ast.unparse(ast.Compare(left, [SWAPS[type(op)]()], right))})"
        case ast.BoolOp(op=op, values=values):
            other: ast.boolop = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield f"({ast.unparse(ast.BoolOp(other, values))})"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield f"({ast.unparse(operand)})"
        case ast.BinOp(op=op) if type(op) in OPERATORS and not _is_text(node):
            changed = ast.BinOp(node.left, OPERATORS[type(op)], node.right)
            yield f"({ast.unparse(changed)})"
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield f"({ast.unparse(ast.IfExp(test, orelse, body))})"
        case ast.Constant(value=bool() as value):
            yield str(not value)
        case ast.Constant(value=int() as value):
            yield f"({value + 1})"
            yield f"({value - 1})"


def _other_acts(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield "return None"
        case ast.Raise() | ast.Continue() | ast.Break() | ast.AugAssign() | ast.Delete():
            yield "pass"
        case ast.Expr(value=ast.Call()):
            yield "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "pass"
        case ast.If(test=ast.Name() | ast.Attribute() | ast.Call()):
            yield from _negated(node)


def _negated(node: ast.If) -> Iterator[str]:
    """Only the condition is written anew: the body keeps its lines."""
    body = ast.unparse(ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse))
    indent = " " * node.col_offset
    yield body.replace("\n", f"\n{indent}")


def _is_text(node: ast.BinOp) -> bool:
    sides = (node.left, node.right)
    return any(isinstance(s, ast.JoinedStr) or _is_string(s) for s in sides)


def _is_string(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))


# -- which tests belong to a file --------------------------------------------------------------


@functools.cache
def _imports(file: Path) -> frozenset[Path]:
    """Return the files of the package, and the helpers of tests, that a file imports."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            found |= _files_of(name, file)
    return frozenset(found)


def _files_of(dotted: str, importer: Path) -> set[Path]:
    path = dotted.replace(".", "/") + ".py"
    places = (ROOT / path, ROOT / "tests" / path, importer.parent / path)
    return {place for place in places if place.is_file() and place != importer}


@functools.cache
def tests_of(file: Path) -> tuple[str, ...]:
    """Return the fast tests that import a file, directly or by another one, the nearest first."""
    tests = [
        test
        for test in (ROOT / "tests").rglob("test_*.py")
        if not test.name.startswith("test_life_")
        and test.parent.name not in ("packaging", "systemd")
    ]
    ranked = [(_distance(test, ROOT / file), str(test.relative_to(ROOT))) for test in tests]
    near = [test for distance, test in sorted(ranked) if distance <= FARTHEST]
    return tuple(near[:MOST_FILES])


def _distance(test: Path, file: Path) -> int:
    """How many of the package's files lie between; helpers of tests do not count."""
    seen, level, distance = {test}, {test}, 0
    while level and distance <= FARTHEST:
        level = _with_helpers(level)
        following = {found for one in level for found in _imports(one)} - seen
        if file in following:
            return distance
        seen |= following
        level = following
        distance += 1
    return FARTHEST + 1


def _with_helpers(level: set[Path]) -> set[Path]:
    helpers = {found for one in level for found in _imports(one) if "tests" in found.parts}
    return level | helpers


# -- running them -------------------------------------------------------------------------------


class Run(NamedTuple):
    """One run of tests: whether all passed, how long it took, and the end of what it said."""

    passed: bool
    seconds: float
    said: str


def run_tests(mutant: Mutant | None, tests: tuple[str, ...], limit: float) -> Run:
    """Run tests on a copy of all that is in the repository, changed or not."""
    with tempfile.TemporaryDirectory(prefix="graced-mutant-") as name:
        scratch = Path(name)
        for file in _repository():
            (scratch / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, scratch / file)
        if mutant is not None:
            source = (ROOT / mutant.file).read_bytes()
            changed = source[: mutant.start] + mutant.new.encode() + source[mutant.end :]
            (scratch / mutant.file).write_bytes(changed)
        began = time.monotonic()
        line = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        process = subprocess.Popen(
            line,
            cwd=scratch,
            env={**os.environ, "PYTHONPATH": name, "HYPOTHESIS_STORAGE_DIRECTORY": f"{name}/h"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        try:
            said, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = process.communicate()
        return Run(process.returncode == 0, time.monotonic() - began, said[-1500:])


@functools.cache
def _repository() -> tuple[str, ...]:
    line = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return tuple(name for name in names.split("\0") if name and (ROOT / name).is_file())


@functools.cache
def passes(test: str) -> bool:
    """Whether a file of tests passes where nothing is changed: else its failure tells nothing."""
    return run_tests(None, (test,), SLOWEST).passed


class Verdict(NamedTuple):
    """What became of a mutant."""

    mutant: Mutant
    word: str  # killed, survived, or why nothing can be said


def judge(mutant: Mutant) -> Verdict:
    """Run the tests of a mutant's file, those with random input last; survived if none fails."""
    tests = [test for test in tests_of(mutant.file) if passes(test)]
    if not tests:
        return Verdict(mutant, "has no fast test")
    for stage in (False, True):
        some = tuple(test for test in tests if test.endswith(RANDOM) is stage)
        if some and not run_tests(mutant, some, SLOWEST).passed:
            return Verdict(mutant, "killed")
    return Verdict(mutant, "survived")


def main(arguments: list[str]) -> int:
    """Judge mutants, or list them; tell who survived."""
    options = _parse(arguments)
    files = sorted({f.relative_to(ROOT) for glob in options.files for f in ROOT.glob(glob)})
    everything = [mutant for file in files for mutant in mutants_of(file)]
    chance = random.Random(options.seed)
    chosen = chance.sample(everything, min(options.count, len(everything)))
    print(f"{len(chosen)} of {len(everything)} mutants of {len(files)} files", flush=True)
    survivors = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for verdict in pool.map(judge, chosen):
            survivors += verdict.word != "killed"
            print(f"{verdict.word}: {verdict.mutant}", flush=True)
    print(f"{survivors} of {len(chosen)} were not killed: {100 * survivors / len(chosen):.1f} %")
    return 1 if survivors else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description=__doc__)
    parser.add_argument("files", nargs="*", default=TARGETS, help="globs; default: the rules")
    parser.add_argument("--count", type=int, default=120, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="which follows from it")
    parser.add_argument("--jobs", type=int, default=1, help="at once")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
