"""The configuration as a daemon reads it: in a process of its own, which leaves at once.

What a pool's `env` and `options` say may be secrets, and a zygote is a copy of the main
process: it would have those of all pools in its memory, in texts and trees long forgotten. So
the main process never has them. They are written to a memory file by the one who has read
them, each pool's to a place of its own; a zygote takes what is there for its pool.
"""

from __future__ import annotations

import marshal
import os
import signal

from graced import settings
from graced.config import reader
from graced.config.nodes import Problem
from graced.host import process
from graced.record import Record, names, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Final

    from graced.config.reader import ConfigReading

SECRET: Final = ("env", "options")  # keys of a pool
PIPE: Final = 1 << 16


class Vault:
    """A memory file, open as long as something in it is needed."""

    __slots__ = ("_pid", "fd")

    def __init__(self) -> None:
        self.fd = os.memfd_create("graced-settings", os.MFD_CLOEXEC)
        self._pid = os.getpid()

    def __del__(self) -> None:
        if os.getpid() == self._pid:  # a child has closed it, and the number may be another's
            process.close_quietly(self.fd)


class Sealed:
    """The place of a value in a vault."""

    __slots__ = ("_at", "_size", "_vault")

    def __init__(self, vault: Vault, at: int, size: int) -> None:
        self._vault = vault
        self._at = at
        self._size = size

    def fileno(self) -> int:
        """Return the descriptor that it is read from."""
        return self._vault.fd

    def open(self) -> Any:
        """Return the value."""
        return marshal.loads(os.pread(self._vault.fd, self._size, self._at))


def opened(pool: settings.Pool) -> settings.Pool:
    """Return a pool's settings with all that is in them; in the zygote that they are for."""
    sealed = {key: getattr(pool, key) for key in SECRET}
    return pool.replace(**{k: v.open() for k, v in sealed.items() if isinstance(v, Sealed)})


def descriptors(whole: settings.Settings) -> set[int]:
    """Return what has to stay open until all zygotes are there."""
    values = (getattr(pool, key) for pool in whole.pools.values() for key in SECRET)
    return {value.fileno() for value in values if isinstance(value, Sealed)}


def read(path: str, environ: Mapping[str, str], sets: Sequence[str]) -> ConfigReading:
    """Read the configuration as :func:`graced.config.reader.read` does.

    Its `sources` are left out, and what is secret in its pools is sealed.
    """
    try:
        vault = Vault()
        said, status = _ask(lambda: _told(vault, reader.read(path, environ, sets)))
    except OSError as error:
        return _failed(path, error.strerror or str(error))
    if status != 0:
        return _failed(path, f"its process ended with {status}")
    told, problems, files = marshal.loads(said)
    found = None if told is None else _settings(vault, told)
    return reader.ConfigReading(found, tuple(Problem(*p) for p in problems), {}, files, path)


def _failed(path: str, why: str) -> ConfigReading:
    trouble = Problem(path, "", f"cannot be read: {why}", "try again")
    return reader.ConfigReading(None, (trouble,), {}, (), path)


def _ask(answer: Any) -> tuple[bytes, int]:
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
    said = b""
    while data := os.read(receive, PIPE):
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


def _told(vault: Vault, reading: ConfigReading) -> tuple[Any, ...]:
    told = None if reading.settings is None else _plain(vault, reading.settings)
    return told, [values(problem) for problem in reading.problems], reading.files


def _plain(vault: Vault, value: Any, key: str = "") -> Any:
    """Return a value as marshal knows it: of records the name and the values."""
    if key in SECRET:
        data = marshal.dumps(dict(value))
        at = os.lseek(vault.fd, 0, os.SEEK_END)
        os.write(vault.fd, data)
        return at, len(data)
    if isinstance(value, Record):
        fields = names(value)
        return type(value).__name__, [_plain(vault, getattr(value, f), f) for f in fields]
    if isinstance(value, (str, int, float, tuple, type(None))):
        return value
    return {name: _plain(vault, item) for name, item in value.items()}


# In the main process


def _settings(vault: Vault, told: Any) -> Any:
    name, items = told
    record: type[Record] = getattr(settings, name)
    fields: tuple[str, ...] = record.__match_args__
    return record(*(_value(vault, f, item) for f, item in zip(fields, items, strict=True)))


def _value(vault: Vault, field: str, told: Any) -> Any:
    if field in SECRET:
        return Sealed(vault, *told)
    if isinstance(told, dict):
        return {name: _settings(vault, item) for name, item in told.items()}
    if isinstance(told, tuple) and len(told) == 2 and isinstance(told[1], list):
        return _settings(vault, told)
    return told
