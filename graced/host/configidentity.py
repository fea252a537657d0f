"""The daemon's name and runtime directory, from a configuration that may be broken.

`graced status` has to find the socket of a running daemon also while somebody is
halfway through editing the file. What can't be read is passed over in silence:
`graced check` is there to complain.
"""

from __future__ import annotations

import os

from graced.core.settings import Settings
from graced.host.configkinds import fields
from graced.host.configlayers import (
    PREFIX,
    KeyPath,
    NoSuchPool,
    base_of,
    overlays,
    read_bytes,
    variables,
)
from graced.host.configtexts import Wrong, folder, is_name
from graced.host.configtree import Map, Mark, Scalar, Source, compose
from graced.host.configvalues import read_scalar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from graced.host.configtree import Node

KEYS = ("name", "runtime_dir")


def identity(path: str, environ: Mapping[str, str], sets: Sequence[str]) -> tuple[str, str | None]:
    """Return what the last layer says that says something."""
    name, runtime_dir = Settings().name, Settings().runtime_dir
    for key, value in _said(path, environ, sets):
        if not isinstance(value, Scalar):
            continue
        if key == "name":
            name = value.text if is_name(value.text) else name
        elif value.is_null:
            runtime_dir = None
        else:
            try:
                runtime_dir = folder(value.text, value.mark)
            except Wrong:
                continue
    return name, runtime_dir


def flag_problem(flag: str) -> str | None:
    """Return what is wrong with a `--set` of a command that asks a daemon; None: nothing.

    What is below a pool is left to who reads the whole configuration.
    """
    key, _, value = flag.partition("=")
    source = Source("--set", "/")
    try:
        KeyPath(Map({}, Mark(source)), loose=False).keys(key.split("."))
        if key in KEYS:
            _check(key, value, source)
    except NoSuchPool:
        return None
    except Wrong as wrong:
        return f"{key}: {wrong.what}; {wrong.remedy}"
    return None


def _check(key: str, value: str, source: Source) -> None:
    composed = compose(value, source, key)
    for problem in composed.problems:
        raise Wrong(problem.what, problem.remedy)
    scalar = composed.tree or Scalar("", True, Mark(source))
    field = fields(Settings)[key]
    if not isinstance(scalar, Scalar):
        raise Wrong("is a list or a mapping", "write a text")
    if not (scalar.is_null and field.nullable):
        read_scalar(field.kind, scalar)  # type: ignore[arg-type]  # both keys are texts


def _said(
    path: str, environ: Mapping[str, str], sets: Sequence[str]
) -> Iterator[tuple[str, Node | None]]:
    base = base_of(path)
    beside = os.path.join(os.path.dirname(path), "config.d")
    yield from _in_file(path, base)
    for overlay in _overlays(beside):
        yield from _in_file(os.path.join(beside, overlay), os.path.join(base, "config.d"))
    pairs = [(name[len(PREFIX) :].lower(), environ[name]) for name in variables(environ)]
    pairs += [(key, value) for key, _, value in (flag.partition("=") for flag in sets)]
    for key, value in pairs:
        if key in KEYS:
            yield key, compose(value, Source("", base)).tree or compose("~", Source("", base)).tree


def _overlays(beside: str) -> list[str]:
    try:
        return overlays(beside)
    except Wrong:
        return []


def _in_file(path: str, base: str) -> Iterator[tuple[str, Node | None]]:
    try:
        text = read_bytes(path, "").decode("utf-8", "replace").removeprefix("\ufeff")
    except Wrong:
        return
    source = Source(path, base)
    composed = compose(text, source)
    entries = composed.tree.entries if isinstance(composed.tree, Map) else {}
    for key in KEYS:
        if key in entries:
            yield key, entries[key].value
        elif not composed.complete:
            yield key, _in_line(key, text, source)


def _in_line(key: str, text: str, source: Source) -> Node | None:
    """Return the value in the line that looks like *key*, past what is broken."""
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if name.rstrip() == key and colon and value[:1] in (" ", "\t"):
            return compose(value.strip(), source).tree
    return None
