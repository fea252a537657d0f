"""The layers of the configuration, each over the one before, into one tree.

The file < its drop-ins (config.d/*.yaml beside config.yaml) < variables < --set. Mappings are
merged; all else is replaced. A key with nothing after it, where a mapping belongs, sets nothing.
"""

from __future__ import annotations

import os

from graced import program
from graced.config.files import (
    NotText,
    absolute_path,
    base_of,
    decode,
    overlay_folder,
    overlays,
    read_bytes,
)
from graced.config.keypath import VARIABLE_PREFIX, KeyPath, NoSuchName, variables
from graced.config.nodes import Entry, Map, Mark, Scalar, Source
from graced.config.parser import FILE, compose
from graced.config.validators import ConfigValueError
from graced.text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from graced.config.nodes import Node, Problem

_VARIABLE_RANK = 1000  # ranks of files are below, and there are fewer
_FLAG_RANK = 1000_000


class Layers:
    """What has been read so far, merged."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.base = base_of(path)
        self.main = self._file_source(path, 0)
        self.tree = Map({}, Mark(self.main))
        self.problems: list[Problem] = []
        self.files: list[str] = []
        self.complete = True  # no layer broke off
        self.names_files = False  # there may be values that stand in files

    # Files

    def add_main(self, advice: str) -> None:
        """Read the file itself; *advice* is what to do if there is none."""
        self._add_file(self.main, self.path, advice)

    def add_overlays(self) -> None:
        """Read the file's drop-ins."""
        folder = overlay_folder(self.path)
        try:
            names = overlays(folder)
        except ConfigValueError as wrong:
            source = self._file_source(folder, 1)
            self._broken(Mark(source).problem("", wrong.what, wrong.remedy))
            return
        for rank, name in enumerate(names, 1):
            path = os.path.join(folder, name)
            self._add_file(self._file_source(path, rank), path, "remove it, or restore it")

    def _file_source(self, path: str, rank: int) -> Source:
        base = absolute_path(overlay_folder(self.path)) if rank else self.base
        return Source(printable(path), base, rank, is_file=True)

    def _add_file(self, source: Source, path: str, advice: str) -> None:
        self.files.append(path)
        try:
            text = decode(read_bytes(path, advice), source)
        except ConfigValueError as wrong:
            self._broken(Mark(source).problem("", wrong.what, wrong.remedy))
        except NotText as error:
            self._broken(error.problem)
        else:
            self._add_text(text, source)

    def _add_text(self, text: str, source: Source) -> None:
        tree = self._composed(text, source, "")
        if isinstance(tree, Map):
            self.tree = merge(self.tree, tree)
        elif tree is not None and not (isinstance(tree, Scalar) and tree.is_null):
            advice = f"write keys and values, such as name: {program.name}"
            self._broken(tree.mark.problem("", "is not a mapping", advice))

    def _composed(self, text: str, source: Source, key: str) -> Node | None:
        self.names_files = self.names_files or FILE in text
        composed = compose(text, source, key)
        self.problems.extend(composed.problems)
        self.complete = self.complete and composed.complete
        return composed.tree

    def _broken(self, problem: Problem) -> None:
        self.problems.append(problem)
        self.complete = False

    # Variables and flags

    def add_variables(self, environ: Mapping[str, str]) -> None:
        """Read ``GRACED__POOLS__JOBS__WORKERS=8`` and the like, the shortest names first."""
        for rank, name in enumerate(variables(environ), _VARIABLE_RANK):
            source = Source(printable(f"${name}"), self.base, rank)
            self._set(name[len(VARIABLE_PREFIX) :].split("__"), environ[name], source, loose=True)

    def add_flags(self, sets: Sequence[str]) -> None:
        """Read ``pools.jobs.workers=8`` and the like."""
        for rank, flag in enumerate(sets, _FLAG_RANK):
            source = Source("--set", self.base, rank)
            key, equals, value = flag.partition("=")
            if equals:
                self._set(key.split("."), value, source, loose=False)
            else:
                mark = Mark(source)
                advice = "write --set key.path=value"
                self.problems.append(mark.problem(key, "no value is given", advice))

    def _set(self, segments: list[str], value: str, source: Source, *, loose: bool) -> None:
        mark = Mark(source)
        try:
            keys = KeyPath(self.tree, loose).keys(segments)
        except ConfigValueError as wrong:
            written = ".".join(s.lower() for s in segments) if loose else ".".join(segments)
            if self.complete or not isinstance(wrong, NoSuchName):
                self.problems.append(mark.problem(written, wrong.what, wrong.remedy))
            return
        before = self.complete
        node = self._composed(value, source, ".".join(keys))
        if self.complete == before:  # a broken value is not half of one
            node = node or Scalar("", True, mark)
            for key in reversed(keys):
                node = Map({key: Entry(Scalar(key, False, mark), node)}, mark)
            assert isinstance(node, Map)
            self.tree = merge(self.tree, node)


def merge(old: Map, new: Map, path: tuple[str, ...] = ()) -> Map:
    """Return *old* with all that *new* sets."""
    entries = dict(old.entries)
    for text, entry in new.entries.items():
        if text in entries:
            value = _merged(entries[text].value, entry.value, (*path, text))
            entry = Entry(entry.key, value)
        entries[text] = entry
    return Map(entries, new.mark)


def _merged(old: Node, new: Node, path: tuple[str, ...]) -> Node:
    if isinstance(old, Map) and isinstance(new, Map):
        return merge(old, new, path)
    is_free = len(path) > 3 and path[::2][:2] in (("pools", "options"), ("schedules", "payload"))
    if isinstance(old, Map) and isinstance(new, Scalar) and new.is_null and not is_free:
        return old
    return new
