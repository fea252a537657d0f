"""YAML text into a tree, by PyYAML's parser.

Built from the parser's events, not its nodes, so that depth and size are bounded
while reading, whatever the file; what was read of a broken file is kept.
"""

from __future__ import annotations

from graced.config.nodes import Composed, Entry, Items, Map, Mark, Scalar, mark_at
from graced.text import printable, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

    from graced.config.nodes import Node, Problem, Source

FILE = "!file"  # the one tag: its value stands in a file
MAX_LEVELS = 50  # levels
MAX_VALUES = 10_000  # values, aliases written out: what takes longer to read would stop the loop


def compose(text: str, source: Source, key: str = "") -> Composed:
    """Read one YAML document; *key* is the dotted key that it is the value of."""
    composer = _Composer(text, source, key)
    try:
        tree = composer.document()
    except _Broken:
        return Composed(composer.root, tuple(composer.problems), False)
    return Composed(tree, tuple(composer.problems), True)


class _Broken(Exception):
    """Nothing after this place can be read."""


class _Composer:
    def __init__(self, text: str, source: Source, key: str) -> None:
        self.text = text
        self.source = source
        self.path = [key] if key else []
        self.problems: list[Problem] = []
        self.root: Node | None = None
        self._anchors: dict[str, Node | None] = {}  # None: it is still being read
        self._left = MAX_VALUES
        self._opened: list[Any] = []  # where the collections around this place begin
        self._events = self._parsed()

    def document(self) -> Node | None:
        """Read the text's only document."""
        next(self._events)  # the stream's start
        name, event = next(self._events)
        if name == "StreamEnd":
            return None
        self.root = self._node(*next(self._events))
        next(self._events)  # the document's end
        name, event = next(self._events)
        if name != "StreamEnd":
            self._stop(event, "a second document begins here", "keep one, without '---'")
        return self.root

    # Reading events

    def _parsed(self) -> Iterator[tuple[str, Any]]:
        """Yield the parser's events, with its errors as problems."""
        import yaml

        loader_class = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            self.text.encode()
            loader = loader_class(self.text)
            while (event := loader.get_event()) is not None:
                yield type(event).__name__.removesuffix("Event"), event
        except UnicodeEncodeError as error:
            self._stop_at(error.start, "has a byte that is not UTF-8")
        except yaml.reader.ReaderError:
            self._stop_at(_first_control(self.text), "has a control character")
        except yaml.MarkedYAMLError as error:
            self._syntax(error)

    def _stop_at(self, index: int, what: str) -> NoReturn:
        mark = mark_at(self.source, self.text, index)
        self._broken(mark, what, "write the file as plain UTF-8 text")

    def _syntax(self, error: Any) -> NoReturn:
        mark = error.problem_mark or error.context_mark
        if mark and self._is_end(mark):
            self._unclosed(error)
            mark = error.context_mark or mark  # where the quote was opened, not where the file ends
        here = self._mark(mark) if mark else Mark(self.source)
        what = f"cannot be read as YAML: {error.problem}"
        self._broken(here, what, self._advice(here, error.problem))

    def _unclosed(self, error: Any) -> None:
        """Blame the quote or bracket that the file ends in."""
        if error.context_mark and "quoted" in (error.context or ""):
            here = self._mark(error.context_mark)
            self._broken(here, "the quote that opens here is never closed", "close it")
        if self._opened and self._opened[-1].flow_style:
            self._stop(self._opened[-1], "the bracket that opens here is never closed", "close it")

    def _is_end(self, mark: Any) -> bool:
        lines = self.text.rstrip().split("\n")
        return bool(mark.line >= len(lines))

    def _advice(self, here: Mark, problem: str) -> str:
        line = (self.text.split("\n")[here.line - 1 :] or [""])[0]
        if "\t" in line[: here.column]:
            return "indent with spaces, not with tabs"
        if "mapping values" in problem:
            return "put a value that contains ': ' in quotes, and check the indentation"
        if "cannot start any token" in problem:
            return "put a value that starts with a special character in quotes"
        return "check the indentation, quotes and brackets here and in the line above"

    # Problems

    def _mark(self, mark: Any) -> Mark:
        return Mark(self.source, mark.line + 1, mark.column + 1)

    def _add(self, mark: Mark, what: str, remedy: str) -> None:
        self.problems.append(mark.problem(".".join(self.path), what, remedy))

    def _broken(self, mark: Mark, what: str, remedy: str) -> NoReturn:
        self._add(mark, what, remedy)
        raise _Broken

    def _stop(self, event: Any, what: str, remedy: str) -> NoReturn:
        self._broken(self._mark(event.start_mark), what, remedy)

    # Events into nodes

    def _node(self, name: str, event: Any) -> Node:
        if name == "Alias":
            return self._alias(event)
        self._count(event, 1)
        if event.tag is not None and not (name == "Scalar" and event.tag == FILE):
            tag = quoted(event.tag)
            advice = f"write it without; the only one is {FILE}, of a text"
            self._add(self._mark(event.start_mark), f"has a tag, {tag}", advice)
        if event.anchor:
            self._anchors[event.anchor] = None
        node = self._scalar(event) if name == "Scalar" else self._collection(name, event)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _count(self, event: Any, values: int) -> None:
        self._left -= values
        if self._left < 0:
            self._stop(event, f"has more than {MAX_VALUES} values", "make it smaller")

    def _alias(self, event: Any) -> Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            what = "contains itself" if event.anchor in self._anchors else "is not defined above"
            self._stop(event, f"the alias *{printable(event.anchor, 60)} {what}", "write it out")
        self._count(event, node.size)
        return node

    def _scalar(self, event: Any) -> Scalar:
        mark = self._mark(event.start_mark)
        if not event.value.isascii() and _has_surrogate(event.value):
            self._add(mark, "is not a Unicode text", "leave out \\ud800 to \\udfff")
            return Scalar("", False, mark)
        if event.tag == FILE:
            return Scalar("", False, mark, file=event.value)
        return Scalar(event.value, not event.style, mark)

    def _collection(self, name: str, event: Any) -> Node:
        self._opened.append(event)
        if len(self._opened) > MAX_LEVELS:
            self._stop(event, f"is more than {MAX_LEVELS} levels deep", "make it flatter")
        before = self._left
        mark = self._mark(event.start_mark)
        node: Node
        if name == "SequenceStart":
            items = self._items()
            node = Items(items, mark, 1 + before - self._left)
        else:
            entries = self._entries(mark)
            node = Map(entries, mark, 1 + before - self._left)
        self._opened.pop()
        return node

    def _items(self) -> tuple[Node, ...]:
        items: list[Node] = []
        self.path.append("0")
        while (following := next(self._events))[0] != "SequenceEnd":
            items.append(self._node(*following))
            self.path[-1] = str(len(items))
        self.path.pop()
        return tuple(items)

    def _entries(self, mark: Mark) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        if len(self._opened) == 1:
            self.root = Map(entries, mark)  # kept if the file breaks off
        merged: list[Map] = []
        while (following := next(self._events))[0] != "MappingEnd":
            self._entry(self._node(*following), entries, merged)
        for base in merged:
            for text, entry in base.entries.items():
                entries.setdefault(text, entry)
        return entries

    def _entry(self, key: Node, entries: dict[str, Entry], merged: list[Map]) -> None:
        text = key.text if isinstance(key, Scalar) else "?"
        self.path.append(text)
        value = self._node(*next(self._events))
        if not isinstance(key, Scalar):
            self._add(key.mark, "a list or a mapping cannot be a key", "write a text")
        elif key.file is not None:
            self._add(key.mark, "a key cannot be in a file", "write it out")
        elif text == "<<" and key.plain:
            self._merge(key, value, merged)
        elif text in entries:
            first = entries[text].key.mark
            self._add(key.mark, f"is set twice, first in line {first.line}", "remove one of them")
        else:
            entries[text] = Entry(key, value)
        self.path.pop()

    def _merge(self, key: Scalar, value: Node, merged: list[Map]) -> None:
        """Take in what ``<<: *base`` or ``<<: [*one, *two]`` stands for."""
        bases = value.items if isinstance(value, Items) else (value,)
        if merged:
            self._add(key.mark, "is set twice", "write one '<<: [*one, *two]'")
        for base in bases:
            if isinstance(base, Map):
                merged.append(base)
            else:
                self._add(key.mark, "only mappings can be merged", "write '<<: *name' of a mapping")


def _first_control(text: str) -> int:
    def is_bad(c: str) -> bool:
        if c < " ":
            return c not in "\t\n\r"
        return ("\x7f" <= c <= "\x9f" and c != "\x85") or c in "\ufffe\uffff"

    return next((index for index, c in enumerate(text) if is_bad(c)), 0)


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)
