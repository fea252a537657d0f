"""The configuration against files, variables and flags that nobody would write."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from graced.config import reader
from graced.config.identity import UnknownDaemonError
from graced.config.reader import ConfigReading
from graced.config.schema import fields
from graced.settings import Backoff, Log, Pool, Retry, Settings

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "config.schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def read(folder: Path, content: bytes, *sets: str, **environ: str) -> ConfigReading:
    """Read, and check what holds for each reading."""
    path = folder / "config.yaml"
    path.write_bytes(content)
    reading = reader.read(str(path), environ, sets)
    assert (reading.settings is None) == bool(reading.problems)
    for problem in reading.problems:
        line = str(problem)
        assert line.encode()
        assert line.isprintable()
        assert problem.place
        assert problem.what
        assert problem.remedy
    try:
        identity = reader.read_identity(str(path), environ, sets)
    except UnknownDaemonError as unknown:
        identity = str(unknown), None
        assert identity[0].isprintable()
    if reading.settings:
        assert identity == (reading.settings.name, reading.settings.runtime_dir)
        check_shown(folder, reading)
    return reading


def check_shown(folder: Path, reading: ConfigReading) -> None:
    shown = folder / "shown.yaml"
    shown.write_text(reader.show(reading), "utf-8")
    again = reader.read(str(shown), {}, ())
    assert again.problems == ()
    assert repr(again.settings) == repr(reading.settings)  # in which nan is nan


# Bytes and texts

PIECES = st.sampled_from(
    [
        *["\n", " ", "  ", ": ", "- ", "[", "]", "{", "}", ", ", "#", "'", '"', "|\n", ">\n", "? "],
        *["&a ", "*a", "<<: *a", "!!str ", "!x", "---\n", "...\n", "%YAML 1.1\n", "\t", "\0", "~"],
        *["\ufeff", "\x85", "\u2028", "é", "\\ud800", "pools", "jobs", "name", "log", "options"],
        *["env", "after", "workers", "path", "queue", "runtime_dir"],
        *["1", "0x1", "010", "yes", "true", "30s"],
    ]
)


@given(st.binary(max_size=200))
@example(b"%YAML 9.9\n---\n")
@example(b'name: "\\ud800"\npools: {a: }')
@example(b"\xff\xfe")
def test_any_bytes(folder: Path, content: bytes) -> None:
    read(folder, content)


@settings(max_examples=500)
@given(st.lists(PIECES | st.text(max_size=3), max_size=40).map("".join))
@example("? |\n  a\n: 1\n")
def test_any_pieces(folder: Path, text: str) -> None:
    read(folder, text.encode("utf-8", "surrogatepass"))


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=3), st.text())
@example({"POOLS__A__OPTIONS__": "1"}, "pools.a.options.=1")
@example({"POOLS__A__ENV__": "1"}, "pools.a.env.=1")
def test_any_variables_and_flags(folder: Path, environ: dict[str, str], flag: str) -> None:
    variables = {f"GRACED__{name}": value for name, value in environ.items()}
    read(folder, b"pools: {a: }", flag, flag + "=" + flag, **variables)


KEYS = st.sampled_from(
    [
        *["NAME", "LOG__LEVEL", "POOLS", "POOLS__A", "POOLS__A__OPTIONS", "LOG"],
        *["POOLS__A__ENV__X", "POOLS__A__PATH", "POOLS__A__BACKOFF", "POOLS__B__WORKERS"],
        "POOLS__A__OPTIONS__X__Y",
    ]
)


@given(st.dictionaries(KEYS, st.lists(PIECES, max_size=6).map("".join), max_size=4))
@example({"POOLS": "é\t- : ", "POOLS__B__WORKERS": ""})
def test_any_values_of_variables(folder: Path, environ: dict[str, str]) -> None:
    variables = {f"GRACED__{name}": value for name, value in environ.items()}
    sets = [f"{name.lower().replace('__', '.')}={value}" for name, value in environ.items()]
    read(folder, b"pools: {a: {options: {x: 1}}}", **variables)
    read(folder, b"pools: {a: {options: {x: 1}}}", *sets)


# Trees

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    st.sampled_from(["30s", "1M", "cpus", "a:B", "info", "json", "sqlite:///x.db", "jobs", "src"]),
)
DATA = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab:#-1\n", max_size=3), inner)
    ),
    max_leaves=8,
)


def section(record: type, **known: Any) -> st.SearchStrategy[Any]:
    keys = {key: known.get(key, SCALARS | DATA) for key in fields(record)}
    return st.fixed_dictionaries({}, optional=keys)


POOLS = section(
    Pool,
    options=st.dictionaries(st.text("abc", min_size=1), DATA),
    env=st.dictionaries(st.text("ABC", min_size=1), SCALARS),
    after=st.lists(st.sampled_from(["a", "b"]), max_size=1),
    backoff=section(Backoff),
    retry=section(Retry),
)
FILES = section(
    Settings, log=section(Log), pools=st.dictionaries(st.sampled_from("abc"), POOLS, min_size=1)
)


@settings(max_examples=300)
@given(FILES)
def test_any_tree(folder: Path, tree: dict[str, Any]) -> None:
    reading = read(folder, yaml.safe_dump(tree, allow_unicode=True).encode())
    if reading.settings:
        jsonschema.validate(tree, SCHEMA)


class Quoting(yaml.SafeDumper):
    """Writes texts in quotes: bare ones such as 08 are not the same to all readers."""


Quoting.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


@given(st.dictionaries(st.text("abc", min_size=1), DATA, min_size=1))
def test_options_are_what_any_reader_of_yaml_finds(folder: Path, options: dict[str, Any]) -> None:
    text = yaml.dump({"pools": {"a": {"options": options}}}, Dumper=Quoting)
    reading = read(folder, text.encode())
    assert reading.settings is not None, reading.problems
    assert repr(reading.settings.pools["a"].options) == repr(
        yaml.safe_load(text)["pools"]["a"]["options"]
    )


@settings(max_examples=500)
@given(st.text("0123456789abcdefoxX_.:-+eEinfINFNaA~TZtyYsSnul ", max_size=12))
@example("=")
@example("<<")
@example("08")
@example("0o7")
@example("1e3")
@example("1.e+3")
@example("1:30")
@example("2024-1-1")
@example("2024-01-01 10:00:00")
@example("-0x1F")
@example("+.inf")
@example("190:20:30.15")
def test_a_word_is_what_any_reader_of_yaml_finds(folder: Path, text: str) -> None:
    """Either it is what PyYAML finds, or it is refused."""
    line = f"pools: {{a: {{options: {{x: {text} }}}}}}"
    reading = read(folder, line.encode())
    if reading.settings:
        found = reading.settings.pools["a"].options
        try:
            expected = yaml.safe_load(line)["pools"]["a"]["options"]
        except (yaml.YAMLError, ValueError):
            expected = None  # as "=", which PyYAML can parse, but not construct
        assert expected is None or repr(found) == repr(expected)
