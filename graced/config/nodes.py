"""A tree of YAML in which every value knows where it was written.

What the values mean is not known here: :mod:`graced.config.scalars` knows.
"""

from __future__ import annotations

from graced.record import Record
from graced.text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias


class Problem(Record):
    """What is wrong with the configuration: where, what, and what to do."""

    place: str
    key: str
    what: str
    remedy: str
    order: tuple[int, ...] = ()  # layer, line, column

    def __str__(self) -> str:
        where = f"{self.place}: {self.key}" if self.key else self.place
        return f"{where}: {self.what}; {self.remedy}"


class Source(Record):
    """Where a text comes from: a file, a variable, a flag."""

    label: str
    base: str  # the folder that its relative paths start from
    rank: int = 0  # later layers have higher ones
    is_file: bool = False


class Mark(Record):
    """The place of one value."""

    source: Source
    line: int = 0
    column: int = 0

    @property
    def place(self) -> str:
        if self.line and self.source.is_file:
            return f"{self.source.label}:{self.line}:{self.column}"
        return self.source.label

    def problem(self, key: str, what: str, remedy: str) -> Problem:
        order = (self.source.rank, self.line, self.column)
        return Problem(self.place, printable(key), what, remedy, order)


class Scalar(Record):
    """A text; whether it is a number or null depends on its key."""

    text: str
    plain: bool  # without quotes
    mark: Mark
    size: int = 1
    file: str | None = None  # what `!file` names: then the text is a secret, read later,
    is_lost: bool = False  # or can't be read, which is told

    @property
    def is_null(self) -> bool:
        return self.plain and self.text in ("", "~", "null", "Null", "NULL")


class Items(Record):
    """A list."""

    items: tuple[Node, ...]
    mark: Mark
    size: int = 1


class Entry(Record):
    """A key of a mapping, and its value."""

    key: Scalar
    value: Node


class Map(Record):
    """A mapping, by the text of its keys."""

    entries: dict[str, Entry]
    mark: Mark
    size: int = 1


if TYPE_CHECKING:
    Node: TypeAlias = Scalar | Items | Map


class Composed(Record):
    """What became of a text; with problems, the tree is what was understood."""

    tree: Node | None
    problems: tuple[Problem, ...]
    complete: bool  # read to the end


def mark_at(source: Source, text: str, index: int) -> Mark:
    """Return the mark of the character at *index*."""
    before = text[:index]
    return Mark(source, before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1)
