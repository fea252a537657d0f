"""A tree into typed settings: which keys are there, which are unknown, what is wrong.

A wrong value is a problem and the walk goes on, so that one run shows them all.
Single values are read by :mod:`graced.config.scalars`; what has to agree with
each other is looked at by :mod:`graced.config.rules`.
"""

from __future__ import annotations

from graced import program
from graced.config.nodes import Entry, Items, Map, Mark, Scalar, Source
from graced.config.scalars import plain, read_scalar, remedy, suggestion, text
from graced.config.schema import (
    Addresses,
    Field,
    Folders,
    Named,
    Names,
    Plain,
    Section,
    Text,
    Value,
    Variables,
    fields,
)
from graced.config.validators import (
    ConfigValueError,
    address,
    check_name,
    folder,
    name_of_pool,
)
from graced.settings import Log, Pool, Schedule, Settings
from graced.text import Secret, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from graced.config.nodes import Node, Problem
    from graced.config.schema import Kind, Mapped
    from graced.record import Record

_MAPPING = "write keys and values below it, indented"
_POOL_NAME = Text(name_of_pool, "name")
_FOLDER = Text(folder, "path")
_ADDRESS = Text(address, "address")
EVERY_COMMANDS = ("name", "runtime_dir", "user")  # by which each finds the daemon
_FEW = 20  # suggestions take time
MAX_VALUE = 64 << 10  # bytes of JSON: it goes to a keeper in one message
EMPTY = Map({}, Mark(Source("default", "")))


class Builder:
    """One reading of a tree: the problems found, and where each value came from."""

    def __init__(self, *, to_run: bool = True) -> None:
        self._to_run = to_run  # else what is for workers alone is not read
        self.problems: list[Problem] = []
        self.marks: dict[str, Mark] = {}  # of what was set
        self.sources: dict[str, str] = {}  # of every key; "default" for what was not set

    def settings(self, tree: Map) -> Settings:
        """Return the settings of *tree*, with defaults in place of what is wrong."""
        found = Settings(**self._section(Settings, tree, ""))
        if not found.schedules:
            return found
        return found.replace(pools={name: _scheduled(p, found) for name, p in found.pools.items()})

    def problem(self, mark: Mark, key: str, what: str, advice: str) -> None:
        """Note that the value of *key* is wrong."""
        self.problems.append(mark.problem(key, what, advice))

    # Mappings

    def _section(self, record: type[Record], node: Map, prefix: str) -> dict[str, Any]:
        known = fields(record)
        for name, entry in node.entries.items():
            if name not in known:
                advice = self._unknown_advice(name, record)
                self.problem(entry.key.mark, prefix + name, "unknown key", advice)
        defaults = vars(record)["_defaults"]
        if record is Settings:
            defaults = {**defaults, "name": program.name}
        return {
            name: self._field(field, node.entries.get(name), prefix + name, defaults[name])
            for name, field in known.items()
        }

    def _unknown_advice(self, name: str, record: type[Record]) -> str:
        known = tuple(fields(record))
        sections = ((Pool, "pools.NAME"), (Log, "log"), (Schedule, "schedules.NAME"))
        for section, place in sections:
            if record is Settings and name in fields(section):
                return f"did you mean '{place}.{name}'?"
        if record is Pool and name in fields(Settings):
            return "move it out of the pool"
        return suggestion(name if len(self.problems) < _FEW else "", known)

    def _field(self, field: Field, entry: Entry | None, key: str, default: Any) -> Any:
        node = entry.value if entry else None
        if node:
            self.marks[key] = node.mark
        if isinstance(field.kind, (Section, Named, Variables, Plain)):
            return self._mapping(field.kind, node or EMPTY, key)
        self.sources[key] = node.mark.place if node else "default"
        if node is None:
            return default
        if field.nullable and isinstance(node, Scalar) and node.is_null:
            return None
        try:
            if isinstance(node, Scalar) and node.file is not None:
                return default if node.is_lost else self._secret(field.kind, node, key)
            return self._value(field.kind, node, key)
        except ConfigValueError as wrong:
            self.problem(node.mark, key, wrong.what, wrong.remedy)
            return default

    def _secret(self, kind: Kind, node: Scalar, key: str) -> Secret:
        """Return the value of a key that stands in a file; an error does not tell what it is."""
        if key in EVERY_COMMANDS:
            raise ConfigValueError("cannot be in a file: every command needs it", "write it out")
        if not isinstance(kind, Text):
            raise ConfigValueError("cannot be in a file: it is no text", "write it out")
        try:
            return Secret(self._value(kind, node, key), node.file)
        except ConfigValueError:
            what = f"what stands in {printable(node.file or '')} is no {kind.noun} that can be used"
            raise ConfigValueError(what, f"{remedy(kind)} into it") from None

    def _mapping(self, kind: Mapped, node: Node, key: str) -> Any:
        tree = self._map(node, key)
        match kind:
            case Section(record):
                return record(**self._section(record, tree, f"{key}."))
            case Named(record):
                entries = tree.entries.items()
                if not entries:
                    self.sources[key] = tree.mark.place
                return {name: self._named(record, name, entry, key) for name, entry in entries}
            case Variables():
                self._note_leaves(tree, key)
                return self._variables(tree, key)
            case Plain():
                self._note_leaves(tree, key)
                return self._plain_map(tree, key)

    def _map(self, node: Node, key: str) -> Map:
        """Return a mapping; a key with nothing below it is an empty one."""
        if isinstance(node, Map):
            return node
        if not (isinstance(node, Scalar) and node.is_null):
            self.problem(node.mark, key, "is not a mapping", _MAPPING)
        return Map({}, node.mark)

    def _named(self, record: type[Record], name: str, entry: Entry, above: str) -> Any:
        key = f"{above}.{name}"
        self.marks[key] = entry.key.mark
        try:
            check_name(name, entry.key.mark)
        except ConfigValueError as wrong:
            self.problem(entry.key.mark, key, wrong.what, wrong.remedy)
        found = self._section(record, self._map(entry.value, key), f"{key}.")
        if found.get("env_file"):
            found["env"] = {**self._env_file(found["env_file"], key), **found["env"]}
        if found.get("options") and found["worker"].startswith("graced.workers:"):
            found["options"] = self._with_folder(found["options"], f"{key}.options.cwd")
        make: Any = record
        return make(name, **found)

    def _env_file(self, path: str, key: str) -> dict[str, Secret]:
        """Return the variables of a pool's env_file, none where no worker is to run."""
        if not self._to_run:
            return {}
        from graced.config.secrets import EnvFile

        mark = self.marks[f"{key}.env_file"]
        try:
            read = EnvFile(path, mark.source.rank)
        except ConfigValueError as wrong:
            self.problem(mark, f"{key}.env_file", wrong.what, wrong.remedy)
            return {}
        self.problems += read.problems
        return read.variables

    def _with_folder(self, options: dict[str, Any], key: str) -> dict[str, Any]:
        """Let the working directory of our own workers start from the folder of its file."""
        cwd = options.get("cwd")
        if not isinstance(cwd, str) or isinstance(cwd, Secret) or key not in self.marks:
            return options
        try:
            return {**options, "cwd": folder(cwd, self.marks[key])}
        except ConfigValueError:  # told by the rules
            return options

    def _note_leaves(self, node: Node, key: str) -> None:
        """Note where the values came from whose keys are the user's own."""
        if isinstance(node, Map) and node.entries:
            for name, entry in node.entries.items():
                self.marks[f"{key}.{name}"] = entry.value.mark
                self._note_leaves(entry.value, f"{key}.{name}")
            return
        if isinstance(node, Items):
            self.marks |= {f"{key}.{index}": item.mark for index, item in enumerate(node.items)}
        self.sources[key] = node.mark.place

    def _variables(self, node: Map, key: str) -> dict[str, str]:
        found = {}
        for name, entry in node.entries.items():
            try:
                found[_variable_name(name)] = _variable(entry.value)
            except ConfigValueError as wrong:
                self.problem(entry.value.mark, f"{key}.{name}", wrong.what, wrong.remedy)
        return found

    # Values

    def _value(self, kind: Kind, node: Node, key: str) -> Any:
        match kind:
            case Names():
                return self._list(node, key, _POOL_NAME, "[jobs]")
            case Folders():
                return self._list(node, key, _FOLDER, "[src]")
            case Addresses():
                if isinstance(node, Scalar) and not node.is_null:
                    return (_ADDRESS.check(text(node, _ADDRESS.noun), node.mark),)
                return self._list(node, key, _ADDRESS, "[tcp://127.0.0.1:8080]")
            case Value():
                if _has_secret(node):
                    what = "has a value that stands in a file, and is shown by jobs"
                    raise ConfigValueError(what, "have the worker read the file")
                self._note_leaves(node, key)
                return _json(self._plain(node, key))
            case Section() | Named() | Variables() | Plain():
                raise AssertionError(kind)
        if not isinstance(node, Scalar):
            raise ConfigValueError(f"is {_shape(node)}", remedy(kind))
        return read_scalar(kind, node)

    def _list(self, node: Node, key: str, kind: Text, example: str) -> tuple[str, ...]:
        if isinstance(node, Scalar) and node.is_null:
            return ()
        if not isinstance(node, Items):
            raise ConfigValueError("is not a list", f"write a list, such as {example}")
        found = []
        for index, item in enumerate(node.items):
            self.marks[f"{key}.{index}"] = item.mark
            try:
                found.append(kind.check(text(_listed(item), kind.noun), item.mark))
            except ConfigValueError as wrong:
                self.problem(item.mark, f"{key}.{index}", wrong.what, wrong.remedy)
        return tuple(found)

    # Plain data

    def _plain_map(self, node: Map, key: str) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for written, entry in node.entries.items():
            where = f"{key}.{written}"
            name = self._plain(entry.key, where)
            if name in found:  # 1 and true are one key to Python
                self.problem(entry.key.mark, where, "is set twice", "remove one of them")
            found[name] = self._plain(entry.value, where)
        return found

    def _plain(self, node: Node, key: str) -> Any:
        if isinstance(node, Map):
            return self._plain_map(node, key)
        if isinstance(node, Items):
            return [self._plain(item, f"{key}.{index}") for index, item in enumerate(node.items)]
        try:
            return plain(node)
        except ConfigValueError as wrong:
            self.problem(node.mark, key, wrong.what, wrong.remedy)
            return None


def _scheduled(pool: Pool, settings: Settings) -> Pool:
    of = [name for name, each in settings.schedules.items() if each.pool == pool.name]
    return pool.replace(scheduled=tuple(of))


def _json(value: Any) -> Any:
    """Return a value as JSON has it."""
    from graced.queue import jsonvalue
    try:
        text = jsonvalue.written(value)
    except (TypeError, ValueError) as error:
        raise ConfigValueError(f"is no JSON value: {error}", "write what JSON has") from None
    if jsonvalue.size(text) > MAX_VALUE:
        raise ConfigValueError("is more than 64 KiB of JSON", "write the path of a file instead")
    return jsonvalue.read(text)


def _has_secret(node: Node) -> bool:
    if isinstance(node, Scalar):
        return node.file is not None
    below = node.items if isinstance(node, Items) else [e.value for e in node.entries.values()]
    return any(map(_has_secret, below))


def _shape(node: Node) -> str:
    return "a list" if isinstance(node, Items) else "a mapping"


def _scalar(node: Node) -> Scalar:
    if not isinstance(node, Scalar):
        raise ConfigValueError(f"is {_shape(node)}", "write a text")
    return node


def _listed(node: Node) -> Scalar:
    """Return an item of a list of names, paths or addresses."""
    scalar = _scalar(node)
    if scalar.file is not None:
        raise ConfigValueError("cannot be in a file", "write it out")
    return scalar


def _variable_name(name: str) -> str:
    if not name or "=" in name or "\0" in name:
        raise ConfigValueError("cannot be the name of a variable", "write a name without '='")
    return name


def _variable(node: Node) -> str:
    """Return the value of a variable: a number, true, yes are what was written."""
    scalar = _scalar(node)
    if scalar.is_null:
        raise ConfigValueError("is empty", "write '' for an empty text")
    if "\0" in scalar.text:
        raise ConfigValueError("has a NUL character", "leave it out: no variable can have one")
    return scalar.text
