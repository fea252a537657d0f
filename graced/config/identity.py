"""The daemon's name and runtime directory, from a configuration that may be broken.

`graced status` has to find the socket of a running daemon also while the file is
half edited. What is wrong in the rest of it is passed over in silence:
`graced check` is there to complain. But where it can't be known which daemon is meant, none
is asked: `graced stop` would stop another one.
"""

from __future__ import annotations

import os

from graced import program
from graced.config.files import absolute_path, base_of, overlay_folder, overlays, read_bytes
from graced.config.keypath import VARIABLE_PREFIX, KeyPath, NoSuchName, variables
from graced.config.nodes import Map, Mark, Scalar, Source
from graced.config.parser import compose
from graced.config.scalars import read_scalar
from graced.config.schema import fields
from graced.config.validators import ConfigValueError, check_name, folder
from graced.settings import Settings
from graced.text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from graced.config.nodes import Composed, Node

KEYS = ("name", "runtime_dir")


class UnknownDaemonError(Exception):
    """It can't be known which daemon is meant; says why, with place and remedy."""


def identity(
    path: str, environ: Mapping[str, str], sets: Sequence[str], *, named: bool
) -> tuple[str, str | None]:
    """Return what the last layer says that says something.

    `named`: the user has named the file, so it has to be there. Raises UnknownDaemonError.
    """
    default = Settings()
    values: dict[str, str | None] = {"name": program.name, "runtime_dir": default.runtime_dir}
    wrong: dict[str, str] = {}  # why a key has no value, where the last layer's can't be read
    for key, value, source in _said(path, environ, sets, KEYS, named=named):
        wrong.pop(key, None)
        try:
            values[key] = _read(key, value)
        except ConfigValueError as error:
            mark = Mark(source) if value is None else value.mark
            wrong[key] = str(mark.problem(key, error.what, error.remedy))
    if "runtime_dir" in wrong or (values["runtime_dir"] is None and "name" in wrong):
        raise UnknownDaemonError(wrong.get("runtime_dir") or wrong["name"])
    return values["name"] or program.name, values["runtime_dir"]


def user(path: str, environ: Mapping[str, str], sets: Sequence[str]) -> str | None:
    """Return the user that the last layer names, None where that can't be known."""
    found = None
    try:
        for _, value, _ in _said(path, environ, sets, ("user",), named=False):
            found = value
    except UnknownDaemonError:
        return None
    known = isinstance(found, Scalar) and not found.is_null and found.file is None
    return found.text if known else None  # type: ignore[union-attr]


def _read(key: str, value: Node | None) -> str | None:
    """Return a value of one of the two keys, None for null; ConfigValueError if it is none."""
    if not isinstance(value, Scalar):
        raise ConfigValueError(
            "cannot be read" if value is None else "is a list or a mapping", "write a text"
        )
    if value.file is not None:
        raise ConfigValueError("cannot be in a file: every command needs it", "write it out")
    if key == "name":
        return check_name(value.text, value.mark)
    return None if value.is_null else folder(value.text, value.mark)


def flag_problem(flag: str) -> str | None:
    """Return what is wrong with a `--set` of a command that asks a daemon; None: nothing.

    What is below a pool is left to the reader of the whole configuration.
    """
    key, _, value = flag.partition("=")
    source = Source("--set", "/")
    try:
        KeyPath(Map({}, Mark(source)), loose=False).keys(key.split("."))
        if key in KEYS:
            _check(key, value, source)
    except NoSuchName:
        return None
    except ConfigValueError as wrong:
        return f"{key}: {wrong.what}; {wrong.remedy}"
    return None


def _check(key: str, value: str, source: Source) -> None:
    composed = compose(value, source, key)
    for problem in composed.problems:
        raise ConfigValueError(problem.what, problem.remedy)
    scalar = composed.tree or Scalar("", True, Mark(source))
    field = fields(Settings)[key]
    if not isinstance(scalar, Scalar):
        raise ConfigValueError("is a list or a mapping", "write a text")
    if not (scalar.is_null and field.nullable):
        read_scalar(field.kind, scalar)  # type: ignore[arg-type]  # both keys are texts


def _said(
    path: str, environ: Mapping[str, str], sets: Sequence[str], keys: Sequence[str], *, named: bool
) -> Iterator[tuple[str, Node | None, Source]]:
    base = base_of(path)
    beside = overlay_folder(path)
    if named or os.path.lexists(path):
        yield from _in_file(path, base, keys)
    for overlay in _overlays(beside):
        yield from _in_file(os.path.join(beside, overlay), absolute_path(beside), keys)
    names = variables(environ)
    pairs = [(name[len(VARIABLE_PREFIX) :].lower(), f"${name}", environ[name]) for name in names]
    pairs += [(key, "--set", value) for key, _, value in (flag.partition("=") for flag in sets)]
    for key, where, value in pairs:
        if key in keys:
            source = Source(printable(where), base)
            composed = compose(value, source)
            null = Scalar("", True, Mark(source))
            yield key, (composed.tree or null) if composed.complete else None, source


def _overlays(beside: str) -> list[str]:
    try:
        return overlays(beside)
    except ConfigValueError as wrong:
        raise _unknown(beside, wrong) from None


def _in_file(
    path: str, base: str, keys: Sequence[str]
) -> Iterator[tuple[str, Node | None, Source]]:
    try:
        text = read_bytes(path, "check the path").decode("utf-8", "replace").removeprefix("\ufeff")
    except ConfigValueError as wrong:
        raise _unknown(path, wrong) from None
    source = Source(printable(path), base, is_file=True)
    composed = compose(text, source)
    if not _is_configuration(composed, text):
        raise UnknownDaemonError(
            str(Mark(source).problem("", "is no configuration", "check the path"))
        )
    entries = composed.tree.entries if isinstance(composed.tree, Map) else {}
    for key in keys:
        if key in entries:
            yield key, entries[key].value, source
        elif not composed.complete:
            yield from _in_line(key, text, source)


def _is_configuration(composed: Composed, text: str) -> bool:
    """Tell whether a text that may be broken has keys, or says nothing and is read to its end."""
    tree = composed.tree
    if isinstance(tree, Map) and tree.entries:
        return True
    if composed.complete:
        return tree is None or isinstance(tree, Map) or (isinstance(tree, Scalar) and tree.is_null)
    return any(_key_in(line) in fields(Settings) for line in text.splitlines())


def _key_in(line: str) -> str | None:
    """Return the key that a line at the left edge seems to set."""
    name, colon, value = line.partition(":")
    return name.rstrip().strip("'\"") if colon and value[:1] in ("", " ", "\t") else None


def _unknown(path: str, wrong: ConfigValueError) -> UnknownDaemonError:
    """Return the refusal for a file that can't be read."""
    return UnknownDaemonError(
        str(Mark(Source(printable(path), "/")).problem("", wrong.what, wrong.remedy))
    )


def _in_line(key: str, text: str, source: Source) -> Iterator[tuple[str, Node | None, Source]]:
    """Yield the value in the line that looks like *key*, past what is broken."""
    for line in text.splitlines():
        if _key_in(line) == key and (value := line.partition(":")[2].strip()):
            yield key, compose(value, source).tree, source
            return
