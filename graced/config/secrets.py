"""What stands in files of its own: values that `!file` names, and variables of an `env_file`.

Neither is ever shown: what is wrong is said by the name of the file, and the line.
"""

from __future__ import annotations

import os
import re

from graced.config.files import read_bytes
from graced.config.nodes import Entry, Items, Map, Mark, Source
from graced.config.validators import ConfigValueError
from graced.text import Secret, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from graced.config.nodes import Node, Problem

MAX_REFERENCES = 100
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_INSTEAD = "name another file, "


class References:
    """Puts what is in files in the place of what `!file` names; collects the problems."""

    def __init__(self, environ: Mapping[str, str], *, to_run: bool) -> None:
        self.problems: list[Problem] = []
        self._environ = environ
        self._to_run = to_run  # else what is for workers alone need not be readable
        self._read: dict[str, str] = {}

    def resolve(self, tree: Map) -> Map:
        """Return the tree with all that can be read in its place."""
        return self._map(tree, ())

    def _map(self, node: Map, path: tuple[str, ...]) -> Map:
        entries = {
            name: Entry(entry.key, self._node(entry.value, (*path, name)))
            for name, entry in node.entries.items()
        }
        return node.replace(entries=entries)

    def _node(self, node: Node, path: tuple[str, ...]) -> Node:
        if isinstance(node, Map):
            return self._map(node, path)
        if isinstance(node, Items):
            items = (self._node(item, (*path, str(i))) for i, item in enumerate(node.items))
            return node.replace(items=tuple(items))
        if node.file is None:
            return node
        is_workers = path[0] == "pools" and path[2:3] in (("env",), ("options",))
        if is_workers and not self._to_run:
            return node.replace(text=Secret("", node.file))
        try:
            return node.replace(text=Secret(self._content(node.file, node.mark), node.file))
        except ConfigValueError as wrong:
            self.problems.append(node.mark.problem(".".join(path), wrong.what, wrong.remedy))
            return node.replace(text=Secret("", node.file), is_lost=True)

    def _content(self, written: str, mark: Mark) -> str:
        path = os.path.normpath(os.path.join(mark.source.base, self._expanded(written)))
        if path not in self._read:
            if len(self._read) >= MAX_REFERENCES:
                what = f"more than {MAX_REFERENCES} files are named"
                raise ConfigValueError(what, "put some of them together")
            self._read[path] = _text_of(path, "write it, or name another file")
        return self._read[path].removesuffix("\n").removesuffix("\r")

    def _expanded(self, written: str) -> str:
        """Return a path with its variables in place."""
        if not written:
            raise ConfigValueError("names no file", "write !file PATH")
        for name in _VARIABLE.findall(written):
            if name not in self._environ:
                what = f"{printable(written)}: ${name} is not set"
                raise ConfigValueError(what, "set it, or write the path out")
        return _VARIABLE.sub(lambda found: self._environ[found[1]], written)


def _text_of(path: str, advice: str) -> str:
    """Return what is in a file. ConfigValueError names the file, and nothing that is in it."""
    try:
        return read_bytes(path, advice, _INSTEAD).removeprefix(b"\xef\xbb\xbf").decode()
    except ConfigValueError as wrong:
        raise ConfigValueError(f"{printable(path)}: {wrong.what}", wrong.remedy) from None
    except UnicodeDecodeError:
        raise ConfigValueError(f"{printable(path)}: is not UTF-8", "save it as UTF-8") from None


# Files of variables, by the rules of systemd's EnvironmentFile= where it and a shell agree


class EnvFile:
    """The variables of an `env_file`, and what is wrong with it."""

    def __init__(self, path: str, rank: int) -> None:
        """Read it. ConfigValueError if it can't be read."""
        self.variables: dict[str, Secret] = {}
        self.problems: list[Problem] = []
        source = Source(printable(path), os.path.dirname(path), rank, is_file=True)
        for number, line in _lines(_text_of(path, "write it, or set env_file to null")):
            try:
                name, value = _assignment(line)
                if name in self.variables:
                    raise ConfigValueError(f"{name} is set twice", "remove one of them")
                self.variables[name] = Secret(value)
            except ConfigValueError as wrong:
                column = len(line) - len(line.lstrip()) + 1
                mark = Mark(source, number, column)
                self.problems.append(mark.problem("", wrong.what, wrong.remedy))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that say something, with their numbers."""
    for number, line in enumerate(text.split("\n"), 1):
        if (said := line.strip()) and said[0] not in "#;":
            yield number, line.rstrip("\r")


def _assignment(line: str) -> tuple[str, str]:
    """Return name and value of a line. What readers of such files disagree on is refused."""
    name, equals, written = line.partition("=")
    name = name.strip()
    if not equals:
        raise ConfigValueError("is not KEY=VALUE", "write KEY=VALUE, or # before a comment")
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        what = "what stands before '=' cannot be the name of a variable"
        advice = "write letters, digits and underscores" + (
            ", without export" if name.startswith("export ") else ""
        )
        raise ConfigValueError(what, advice)
    try:
        return name, _value(written.strip())
    except ConfigValueError as wrong:
        raise ConfigValueError(f"{name}: {wrong.what}", wrong.remedy) from None


def _value(written: str) -> str:
    """Return a value: as it stands, or what is in its quotes."""
    if "\0" in written:
        raise ConfigValueError("has a NUL character", "leave it out: no variable can have one")
    quote = written[:1]
    if quote == "'":
        return _closed(written, written.find("'", 1))[1:]
    if quote != '"':
        if "\\" in written:
            raise ConfigValueError("has a backslash outside of quotes", "put it in single quotes")
        return written
    end = 1
    while end < len(written) and written[end] != '"':
        end += 2 if written[end] == "\\" else 1
    return re.sub(r'\\([\\"$`])', r"\1", _closed(written, end if end < len(written) else -1)[1:])


def _closed(written: str, end: int) -> str:
    """Return a value up to its closing quote. ConfigValueError if that is not its end."""
    if end < 0:
        raise ConfigValueError("the quote is not closed in its line", "close it")
    if end != len(written) - 1:
        raise ConfigValueError("goes on after its closing quote", "put all of it in quotes")
    return written[:end]
