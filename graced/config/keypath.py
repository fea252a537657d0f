"""Which key the name of a variable or a flag stands for: GRACED__POOLS__JOBS__WORKERS, a.b.c."""

from __future__ import annotations

from graced.config.nodes import Map
from graced.config.scalars import suggestion
from graced.config.schema import Named, Plain, Section, Value, Variables, fields
from graced.config.validators import ConfigValueError
from graced.settings import Settings
from graced.text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from graced.config.nodes import Node
    from graced.config.schema import Kind
    from graced.record import Record

MAX_LEVELS = 50
VARIABLE_PREFIX = "GRACED__"


def variables(environ: Mapping[str, str]) -> list[str]:
    """Return the names of the variables that are settings, in the order they count."""
    names = [name for name in environ if name[: len(VARIABLE_PREFIX)].upper() == VARIABLE_PREFIX]
    return sorted(names, key=lambda name: (name.count("__"), name))


class NoSuchName(ConfigValueError):
    """A variable or flag for a pool or a schedule that no file has."""


class KeyPath:
    """Finds the keys that the parts of a variable's or a flag's name stand for.

    A pool, or a schedule, has to be there already: a slip of the pen must not start a new one.
    """

    def __init__(self, tree: Map, loose: bool) -> None:
        self.tree = tree
        self.loose = loose  # case doesn't count, and _ may stand for -

    def keys(self, segments: list[str]) -> list[str]:
        if len(segments) > MAX_LEVELS:
            raise ConfigValueError(f"is more than {MAX_LEVELS} levels deep", "write a shorter one")
        return self._section(Settings, segments, self.tree)

    def _section(self, record: type[Record], segments: list[str], node: Node | None) -> list[str]:
        known = fields(record)
        name = self._found(segments[0], known)
        if name is None:
            raise ConfigValueError("unknown key", suggestion(segments[0], tuple(known)))
        if len(segments) == 1:
            return [name]
        return [name, *self._below(known[name].kind, segments[1:], _child(node, name))]

    def _below(self, kind: Kind, rest: list[str], node: Node | None) -> list[str]:
        match kind:
            case Section(record):
                return self._section(record, rest, node)
            case Named():
                return self._named(kind, rest, node)
            case Variables():
                name = ("__" if self.loose else ".").join(rest)
                return [self._found(name, _names(node)) or name]
            case Plain() | Value():
                return self._plain(rest, node)
        raise ConfigValueError(
            "unknown key", "leave out what follows: there are no keys below this one"
        )

    def _named(self, kind: Named, segments: list[str], node: Node | None) -> list[str]:
        names = _names(node)
        name = self._found(segments[0], names)
        if name is None:
            advice = suggestion(segments[0], names) if names else "write it into a file first"
            raise NoSuchName(f"there is no {kind.noun} '{printable(segments[0], 60)}'", advice)
        if len(segments) == 1:
            return [name]
        return [name, *self._section(kind.record, segments[1:], _child(node, name))]

    def _plain(self, segments: list[str], node: Node | None) -> list[str]:
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


def _names(node: Node | None) -> tuple[str, ...]:
    return tuple(node.entries) if isinstance(node, Map) else ()


def _child(node: Node | None, name: str) -> Node | None:
    entry = node.entries.get(name) if isinstance(node, Map) else None
    return entry.value if entry else None
