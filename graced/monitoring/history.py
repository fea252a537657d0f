"""What has happened, kept in the state directory: one JSON object a line, over restarts, bounded.

Two files with growing numbers, `history-1.jsonl` and so on: the newest is appended to until it has
half of what there may be, then the next is begun and the one before the last removed. Nothing is
synchronized: what a full disk or a crash of the machine costs is history, and nothing else.

The main process writes, readers take bytes from a place on: file and offset.
"""

from __future__ import annotations

import os

from graced import clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Event = dict[str, Any]
    Place = tuple[int, int]  # a file's number, and a byte in it

MAX_FILE = 5_000_000  # bytes; there are two
MAX_EVENT = 16_000  # bytes of one line
MAX_TEXT = 4000  # characters of a stack or a reason
CHUNK = 256 * 1024  # bytes read at once
START = (0, 0)  # before everything
_BEGIN = "history-"
_END = ".jsonl"


class History:
    """The file that is written. Opened with the first event."""

    def __init__(self, folder: str, warn: Callable[[str], None]) -> None:
        self.folder = folder
        self._warn = warn
        self._fd = -1
        self._number = 0
        self._size = 0
        self._half = False  # the last line is not whole
        self._failed = False  # that is told; what follows is lost until it can be written

    def record(self, what: str, **facts: Any) -> None:
        """Write down one event; if that can't be, say so once and go on."""
        line = _line({"at": clock.iso(), "what": what, **facts})
        try:
            self._write(line)
        except OSError as error:
            self.close()
            if not self._failed:
                self._failed = True
                where = error.filename or self.folder
                self._warn(f"history: {where}: {error.strerror}; what happens is not kept")
        else:
            self._failed = False

    def close(self) -> None:
        """Close the file; the next event opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def fileno(self) -> int:
        """Return the descriptor, or -1: for children, which close it."""
        return self._fd

    def _write(self, line: bytes) -> None:
        if self._fd < 0:
            self._open(max(numbers(self.folder), default=1))
        if self._size + len(line) > MAX_FILE:
            self._open(self._number + 1)
        data = b"\n" + line if self._half else line
        written = os.write(self._fd, data)
        self._size += written
        self._half = written < len(data)

    def _open(self, number: int) -> None:
        self.close()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(path(self.folder, number), flags, 0o600)
        self._number = number
        self._size = os.fstat(self._fd).st_size
        self._half = self._size > 0  # a crash may have cut the last line: an empty one does no harm
        for old in numbers(self.folder):
            if old < number - 1:
                os.unlink(path(self.folder, old))


def _line(event: Event) -> bytes:
    from json import dumps

    cut = {k: _short(v) if isinstance(v, str) else v for k, v in event.items()}
    line = dumps({k: v for k, v in cut.items() if v is not None}).encode("ascii") + b"\n"
    if len(line) > MAX_EVENT:  # texts that JSON makes longer
        line = dumps({k: event[k] for k in ("at", "what")}).encode("ascii") + b"\n"
    return line


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def path(folder: str, number: int) -> str:
    """Return the name of a file."""
    return os.path.join(folder, f"{_BEGIN}{number}{_END}")


def numbers(folder: str) -> list[int]:
    """Return the numbers of the files there are, the oldest first. OSError."""
    names = [name for name in os.listdir(folder) if name.startswith(_BEGIN) and name.endswith(_END)]
    middles = [name.removeprefix(_BEGIN).removesuffix(_END) for name in names]
    return sorted(int(text) for text in middles if text.isascii() and text.isdigit())


# Reading


def chunk(folder: str, place: Place) -> tuple[bytes, Place | None]:
    """Return some whole lines from a place on, and the next place; None at the end. OSError.

    What was there and has been removed since is passed over.
    """
    number, offset = place
    for there in numbers(folder):
        if there < number:
            continue
        data = _read(path(folder, there), offset if there == number else 0)
        if data:
            return data, (there, len(data) + (offset if there == number else 0))
    return b"", None


def _read(file: str, offset: int) -> bytes:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # removed in between
        return b""
    try:
        data = os.pread(fd, CHUNK, offset)
    finally:
        os.close(fd)
    return data[: data.rfind(b"\n") + 1]


def events(data: bytes) -> Iterator[Event]:
    """Return the events in some lines; what is no event is passed over."""
    from datetime import datetime
    from json import loads

    for line in data.splitlines():
        try:
            event = loads(line)
            datetime.fromisoformat(event["at"])
        except (ValueError, TypeError, LookupError, RecursionError):  # a crash, a full disk
            continue
        if isinstance(event.get("what"), str):
            yield event


def chosen(found: Iterable[Event], since: str, pool: str | None = None) -> list[Event]:
    """Return those since a moment (ISO 8601, as they have it); of a pool, and of all pools."""
    return [
        event
        for event in found
        if event["at"] >= since and (pool is None or event.get("pool") in (pool, None))
    ]
