"""The configuration as a daemon reads it: in a process of its own, which leaves at once.

That process writes what may be secret to a memory file (:mod:`graced.host.memoryfile`), and tells
the main process the rest.
"""

from __future__ import annotations

import marshal
import os
import signal

from graced import settings
from graced.config import reader
from graced.config.nodes import Problem
from graced.host import process
from graced.host.memoryfile import SECRET_KEYS, MemoryFile, StoredValue
from graced.record import Record, names, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from graced.config.reader import ConfigReading

PIPE_BYTES = 1 << 16


def read(
    path: str,
    environ: Mapping[str, str],
    sets: Sequence[str],
    meanwhile: Callable[[], object] = lambda: None,
) -> ConfigReading:
    """Read the configuration as :func:`graced.config.reader.read` does.

    Its `sources` are left out, and what is secret in its pools stays in a memory file. What there
    is to do `meanwhile` is done beside it.
    """
    try:
        secrets = MemoryFile("graced-settings")
        said, status = _ask(lambda: _told(secrets, reader.read(path, environ, sets)), meanwhile)
    except OSError as error:
        return _failed(path, error.strerror or str(error))
    if status != 0:
        return _failed(path, f"its process ended with {status}")
    told, problems, files = marshal.loads(said)
    found = None if told is None else _settings(secrets, told)
    return reader.ConfigReading(found, tuple(Problem(*p) for p in problems), {}, files, path)


def _failed(path: str, why: str) -> ConfigReading:
    trouble = Problem(path, "", f"cannot be read: {why}", "try again")
    return reader.ConfigReading(None, (trouble,), {}, (), path)


def _ask(answer: Any, meanwhile: Callable[[], object]) -> tuple[bytes, int]:
    """Return what a child has to say, and its exit status."""
    parent = os.getpid()
    receive, send = os.pipe2(os.O_CLOEXEC)
    mask = process.block_all()
    try:
        pid = os.fork()
        if pid == 0:
            process.in_child(lambda: _answer(parent, send, answer))
    except OSError:
        os.close(receive)
        raise
    finally:
        process.restore(mask)
        os.close(send)
    meanwhile()
    said = b""
    while data := os.read(receive, PIPE_BYTES):
        said += data
    os.close(receive)
    return said, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# In the child


def _answer(parent: int, send: int, answer: Any) -> None:
    process.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        return
    data = marshal.dumps(answer())
    while data:
        data = data[os.write(send, data) :]


def _told(secrets: MemoryFile, reading: ConfigReading) -> tuple[Any, ...]:
    told = None if reading.settings is None else _plain(secrets, reading.settings)
    return told, [values(problem) for problem in reading.problems], reading.files


def _plain(secrets: MemoryFile, value: Any, key: str = "") -> Any:
    """Return a value as marshal knows it: of records the name and the values."""
    if key in SECRET_KEYS:
        return secrets.write(_bare(value))
    if isinstance(value, Record):
        fields = names(value)
        return type(value).__name__, [_plain(secrets, getattr(value, f), f) for f in fields]
    if isinstance(value, (str, int, float, tuple, type(None))):
        return _bare(value)
    return {name: _plain(secrets, item) for name, item in value.items()}


def _bare(value: Any) -> Any:
    """Return plain data without the class that keeps secrets from being shown."""
    match value:
        case str():
            return str(value)
        case list():
            return [_bare(item) for item in value]
        case tuple():
            return tuple(_bare(item) for item in value)
    if isinstance(value, dict):
        return {_bare(name): _bare(item) for name, item in value.items()}
    return value


# In the main process


def _settings(secrets: MemoryFile, told: Any) -> Any:
    name, items = told
    record: type[Record] = getattr(settings, name)
    fields: tuple[str, ...] = record.__match_args__
    return record(*(_value(secrets, f, item) for f, item in zip(fields, items, strict=True)))


def _value(secrets: MemoryFile, field: str, told: Any) -> Any:
    if field in SECRET_KEYS:
        return StoredValue(secrets, *told)
    if isinstance(told, dict):
        return {name: _settings(secrets, item) for name, item in told.items()}
    if isinstance(told, tuple) and len(told) == 2 and isinstance(told[1], list):
        return _settings(secrets, told)
    return told
