"""The plain part of YAML, which most configurations keep to, read without PyYAML.

Importing PyYAML takes longer than starting the interpreter, and a daemon that is
quick to start can't wait for it. So: block mappings with plain keys; values that
are plain or simply quoted, lists and mappings in brackets on one line, comments.
Whatever is not surely that, or is wrong, is left to PyYAML, which has the last
word and the words for it; a test holds that both build the same tree.
"""

from __future__ import annotations

from graced.config.nodes import Entry, Items, Map, Mark, Scalar
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.config.nodes import Node, Source

_LONGEST = 1 << 16  # characters
_DEEPEST = 20
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_FIRST = frozenset(_LETTERS + "_/.~")
_PLAIN = frozenset(_LETTERS + "_/.~:-+=@ ")


class _NotPlain(Exception):
    """Something that PyYAML has to read."""


class _Line(Record):
    """A key with what follows the colon on its line."""

    number: int
    indent: int
    key: str
    value: str
    column: int  # of the value, or of the end of the colon if there is none


def compose_plain(text: str, source: Source) -> Node | None:
    """Return the tree of a text; None if PyYAML has to read it."""
    if len(text) > _LONGEST or "\r" in text:
        return None
    try:
        is_mapping = "\n" in text or ": " in text or text.endswith(":")
        if is_mapping and text[0] not in "[{\"'":
            return _Block(text, source).tree()
        return _Inline(text, source, 1, 1).node()
    except _NotPlain:
        return None


class _Block:
    """Mappings by indentation."""

    def __init__(self, text: str, source: Source) -> None:
        self.source = source
        self.lines = list(_lines(text))
        self.at = 0

    def tree(self) -> Map:
        if not self.lines or self.lines[0].indent:
            raise _NotPlain
        return self._map(0, 0)

    def _map(self, indent: int, depth: int) -> Map:
        entries: dict[str, Entry] = {}
        size = 1
        first = self.lines[self.at]
        while self._next_indent() >= indent:
            line = self.lines[self.at]
            self.at += 1
            if line.indent > indent or line.key in entries or depth > _DEEPEST:
                raise _NotPlain
            key = Scalar(line.key, True, Mark(self.source, line.number, indent + 1))
            value = self._value(line, depth)
            entries[line.key] = Entry(key, value)
            size += 1 + value.size
        return Map(entries, Mark(self.source, first.number, indent + 1), size)

    def _next_indent(self) -> int:
        return self.lines[self.at].indent if self.at < len(self.lines) else -1

    def _value(self, line: _Line, depth: int) -> Node:
        if line.value:
            return _Inline(line.value, self.source, line.number, line.column).node()
        below = self._next_indent()
        if below > line.indent:
            return self._map(below, depth + 1)
        return Scalar("", True, Mark(self.source, line.number, line.column))


def _lines(text: str) -> list[_Line]:
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        body = line.lstrip(" ")
        if not line.isprintable():
            raise _NotPlain
        if body and body[0] != "#":
            found.append(_line(number, len(line) - len(body), body))
    return found


def _line(number: int, indent: int, body: str) -> _Line:
    key, colon, rest = body.partition(":")
    if not colon or not _is_key(key) or rest[:1] not in ("", " "):
        raise _NotPlain
    end = indent + len(key) + 2
    value = rest.lstrip(" ")
    if not value or value[0] == "#":
        return _Line(number, indent, key, "", end)
    return _Line(number, indent, key, value, end + len(rest) - len(value))


def _is_key(text: str) -> bool:
    letters = text.replace("_", "").replace("-", "")
    return text[:1].isalpha() and letters.isalnum() and letters.isascii() and len(text) < 100


class _Inline:
    """A value on one line."""

    def __init__(self, text: str, source: Source, line: int, column: int) -> None:
        if not text.isprintable():
            raise _NotPlain
        self.text = text + "\n"  # which ends everything
        self.source = source
        self.line = line
        self.column = column
        self.at = 0

    def node(self) -> Node:
        """Return the value; only a comment may follow it."""
        c = self.text[0]
        node = self._in_brackets(0) if c in "[{\"'" else self._plain(self.text.find(" #"))
        rest = self.text[self.at : -1]
        if rest.lstrip(" ") and not rest.lstrip(" ").startswith("#"):
            raise _NotPlain
        if rest and rest[0] != " ":
            raise _NotPlain
        return node

    def _mark(self) -> Mark:
        return Mark(self.source, self.line, self.column + self.at)

    def _in_brackets(self, depth: int) -> Node:
        if depth > _DEEPEST:
            raise _NotPlain
        match self.text[self.at]:
            case "[":
                return self._items(depth)
            case "{":
                return self._map(depth)
            case "'" | '"':
                return self._quoted()
        ends = (self.text.find(c, self.at) for c in ",]}")
        return self._plain(min((end for end in ends if end >= 0), default=-1))

    def _plain(self, end: int) -> Scalar:
        """Return the plain text up to *end*."""
        mark = self._mark()
        text = self.text[self.at : end].rstrip(" ")
        if text[:1] not in _FIRST or not _PLAIN.issuperset(text) or text.startswith("..."):
            raise _NotPlain
        if ": " in text or text[-1] == ":":
            raise _NotPlain
        self.at += len(text)
        return Scalar(text, True, mark)

    def _quoted(self) -> Scalar:
        mark = self._mark()
        end = self.text.find(self.text[self.at], self.at + 1)
        text = self.text[self.at + 1 : end]
        if end < 0 or "\\" in text:
            raise _NotPlain
        self.at = end + 1
        return Scalar(text, False, mark)

    def _items(self, depth: int) -> Items:
        mark = self._mark()
        items: list[Node] = []
        self.at += 1
        while self._goes_on("]", is_first=not items):
            items.append(self._in_brackets(depth + 1))
        return Items(tuple(items), mark, 1 + sum(item.size for item in items))

    def _map(self, depth: int) -> Map:
        mark = self._mark()
        entries: dict[str, Entry] = {}
        self.at += 1
        while self._goes_on("}", is_first=not entries):
            key = self._key()
            if key.text in entries:
                raise _NotPlain
            entries[key.text] = Entry(key, self._in_brackets(depth + 1))
        return Map(entries, mark, 1 + sum(1 + entry.value.size for entry in entries.values()))

    def _goes_on(self, closing: str, *, is_first: bool) -> bool:
        """Step over what stands before the next item, or over the bracket after the last."""
        self._skip_spaces()
        if not is_first and self.text[self.at] == ",":
            self.at += 1
            self._skip_spaces()
        elif not is_first and self.text[self.at] != closing:
            raise _NotPlain
        if self.text[self.at] != closing:
            return True
        self.at += 1
        return False

    def _skip_spaces(self) -> None:
        while self.text[self.at] == " ":
            self.at += 1

    def _key(self) -> Scalar:
        mark = self._mark()
        key, colon, rest = self.text[self.at :].partition(":")
        if not colon or not _is_key(key) or rest[:1] != " ":
            raise _NotPlain
        self.at += len(key) + 1
        self._skip_spaces()
        return Scalar(key, True, mark)
