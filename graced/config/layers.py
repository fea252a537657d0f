"""The layers of the configuration, each over the one before, into one tree.

file < config.d/*.yaml beside it < variables < --set. Mappings are merged; all else
is replaced. A key with nothing after it, where a mapping belongs, sets nothing.
"""

from __future__ import annotations

import os
import stat

from graced.config.nodes import Entry, Map, Mark, Scalar, Source, mark_at, printable
from graced.config.parser import compose
from graced.config.scalars import Plain, Pools, Section, Variables, fields
from graced.config.schema import ConfigValueError
from graced.config.validators import suggestion
from graced.host import safepaths
from graced.settings import Pool, Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from graced.config.nodes import Node, Problem
    from graced.config.scalars import Kind
    from graced.record import Record

DEEPEST = 50  # levels
LARGEST = 1 << 20  # bytes of a file
MOST_FILES = 100
PREFIX = "GRACED__"
_VARIABLES, _FLAGS = 1000, 1000_000  # ranks: files are below, and there are fewer


def whole(path: str) -> str:
    """Return an absolute path; the same path if the working directory is gone."""
    try:
        return os.path.abspath(path)
    except OSError:  # removed: nothing relative is found there by anybody
        return path


def base_of(path: str) -> str:
    """Return the folder that relative paths in a configuration file start from."""
    return os.path.dirname(whole(path)) if "\0" not in path else "/"


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

    # Files

    def add_main(self, advice: str) -> None:
        """Read the file itself; *advice* is what to do if there is none."""
        self._add_file(self.main, self.path, advice)

    def add_overlays(self) -> None:
        """Read what is in config.d beside the file."""
        folder = os.path.join(os.path.dirname(self.path), "config.d")
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
        base = os.path.join(self.base, "config.d") if rank else self.base
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
            advice = "write keys and values, such as name: graced"
            self._broken(tree.mark.problem("", "is not a mapping", advice))

    def _composed(self, text: str, source: Source, key: str) -> Node | None:
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
        for rank, name in enumerate(variables(environ), _VARIABLES):
            source = Source(printable(f"${name}"), self.base, rank)
            self._set(name[len(PREFIX) :].split("__"), environ[name], source, loose=True)

    def add_flags(self, sets: Sequence[str]) -> None:
        """Read ``pools.jobs.workers=8`` and the like."""
        for rank, flag in enumerate(sets, _FLAGS):
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
            if self.complete or not isinstance(wrong, NoSuchPool):
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


# Files


class NotText(Exception):
    """A file that is not UTF-8."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def overlays(folder: str) -> list[str]:
    """Return the names of the files in config.d that count, in order."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        what, advice = _reason(error, "")
        raise ConfigValueError(what, advice or "make it a folder, or remove it") from None
    found = sorted(name for name in names if name.endswith(".yaml") and name[0] != ".")
    if len(found) > MOST_FILES:
        raise ConfigValueError(f"has more than {MOST_FILES} files", "put several into one")
    return found


def read_bytes(path: str, advice: str) -> bytes:
    """Return what is in a regular file, without ever waiting for a pipe or a device."""
    try:
        _check_regular(os.stat(path))
        _check_trust(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            _check_regular(os.fstat(descriptor))
            data = _read(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        what, other = _reason(error, advice)
        raise ConfigValueError(what, other) from None
    if len(data) > LARGEST:
        raise ConfigValueError("is larger than 1 MiB", "make it smaller")
    return data


def _read(descriptor: int) -> bytes:
    data = b""
    while len(data) <= LARGEST and (more := os.read(descriptor, LARGEST + 1 - len(data))):
        data += more
    return data


def _check_trust(path: str) -> None:
    """Refuse, as root, a file that others could write: it says what root runs and opens."""
    if os.geteuid() != 0 or "\0" in path:
        return
    try:
        safepaths.demand(path)
    except safepaths.Unsafe as error:
        advice = "name another file with -c, run graced as that user (sudo -u), or chown it to root"
        raise ConfigValueError(f"is not for root to read: {error}", advice) from None


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ConfigValueError("is a folder", "name the file in it")
    if not stat.S_ISREG(status.st_mode):
        raise ConfigValueError(
            "is not a regular file", "write it to a file: a reload reads it again"
        )


def _reason(error: OSError | ValueError, advice: str) -> tuple[str, str]:
    """Return what was wrong with a path, and what to do."""
    if isinstance(error, FileNotFoundError):
        return "no such file", advice
    if isinstance(error, PermissionError):
        return "may not be read by this user", "give this user the right to read it"
    what = (error.strerror or "") if isinstance(error, OSError) else str(error)
    return f"cannot be read: {what}", advice


def decode(data: bytes, source: Source) -> str:
    """Return the text of a file; raise NotText, with the place, if it is not UTF-8."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        mark = mark_at(source, before, len(before))
        what = f"has a byte that is not UTF-8, 0x{data[error.start]:02x}"
        raise NotText(mark.problem("", what, "save it as UTF-8")) from None


# Merging


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
    is_free = len(path) > 3 and path[0] == "pools" and path[2] == "options"
    if isinstance(old, Map) and isinstance(new, Scalar) and new.is_null and not is_free:
        return old
    return new


# Keys


def variables(environ: Mapping[str, str]) -> list[str]:
    """Return the names of the variables that are settings, in the order they count."""
    names = [name for name in environ if name[: len(PREFIX)].upper() == PREFIX]
    return sorted(names, key=lambda name: (name.count("__"), name))


class NoSuchPool(ConfigValueError):
    """A variable or flag for a pool that no file has."""


class KeyPath:
    """Finds the keys that the parts of a variable's or a flag's name stand for.

    A pool has to be there already: a slip of the pen must not start a new one.
    """

    def __init__(self, tree: Map, loose: bool) -> None:
        self.tree = tree
        self.loose = loose  # case doesn't count, and _ may stand for -

    def keys(self, segments: list[str]) -> list[str]:
        if len(segments) > DEEPEST:
            raise ConfigValueError(f"is more than {DEEPEST} levels deep", "write a shorter one")
        return self._section(Settings, segments, self.tree)

    def _section(self, record: type[Record], segments: list[str], node: Node) -> list[str]:
        known = fields(record)
        name = self._found(segments[0], known)
        if name is None:
            raise ConfigValueError("unknown key", suggestion(segments[0], tuple(known)))
        if len(segments) == 1:
            return [name]
        return [name, *self._below(known[name].kind, segments[1:], _child(node, name))]

    def _below(self, kind: Kind, rest: list[str], node: Node) -> list[str]:
        match kind:
            case Section(record):
                return self._section(record, rest, node)
            case Pools():
                return self._pool(rest, node)
            case Variables():
                name = ("__" if self.loose else ".").join(rest)
                return [self._found(name, _names(node)) or name]
            case Plain():
                return self._plain(rest, node)
        raise ConfigValueError(
            "unknown key", "leave out what follows: there are no keys below this one"
        )

    def _pool(self, segments: list[str], node: Node) -> list[str]:
        names = _names(node)
        name = self._found(segments[0], names)
        if name is None:
            advice = suggestion(segments[0], names) if names else "write it into a file first"
            raise NoSuchPool(f"there is no pool '{printable(segments[0], 60)}'", advice)
        if len(segments) == 1:
            return [name]
        return [name, *self._section(Pool, segments[1:], _child(node, name))]

    def _plain(self, segments: list[str], node: Node) -> list[str]:
        found = []
        for segment in segments:
            new = segment.lower() if self.loose else segment
            found.append(self._found(segment, _names(node)) or new)
            node = _child(node, found[-1])
        return found

    def _found(self, segment: str, names: Iterable[str]) -> str | None:
        if segment in names or not self.loose:
            return segment if segment in names else None
        for fold in (str.lower, _folded):
            alike = [name for name in names if fold(name) == fold(segment)]
            if len(alike) > 1:
                raise ConfigValueError(f"may be {' or '.join(alike[:5])}", "use --set, or a file")
            if alike:
                return alike[0]
        return None


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


def _names(node: Node) -> tuple[str, ...]:
    return tuple(node.entries) if isinstance(node, Map) else ()


def _child(node: Node, name: str) -> Node:
    entry = node.entries.get(name) if isinstance(node, Map) else None
    return entry.value if entry else node
