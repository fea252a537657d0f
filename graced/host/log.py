"""The log: one record is one line (of text, JSON or journal) and one write.

Writing never blocks and never raises: a record that the descriptor does not take
at once is counted, and the count is reported before the next one that it takes.
The standard library's :mod:`logging` has no place here: it costs a fifth of the
start, blocks on a full pipe and prints its own troubles; `host/stdlog.py` brings
what user code logs through it into this log.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
import time

from graced.host import clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping
    from typing import Any, Final

    from graced.core import settings

    Fields = Mapping[str, Any]
    Format = Callable[[str, str, Fields, Fields], str | bytes]

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3}  # syslog(3)
LONGEST: Final = 64 * 1024  # characters of one message
PIPE_BUF: Final = select.PIPE_BUF
LOOK_AGAIN: Final = 1.0  # seconds between two looks whether the file was rotated

_ORIGIN: Final = frozenset({"pool", "slot", "generation", "pid"})
_HARMLESS: Final = {
    code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))
} | {0x2028: "\\u2028", 0x2029: "\\u2029"}


# Texts


def harmless(text: str) -> str:
    """Return `text` without anything that a terminal obeys or UTF-8 can't say; LF and TAB stay."""
    if text.isprintable():
        return text
    text = text.translate(_HARMLESS)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def one_line(text: str) -> str:
    """Return `text` harmless and on a single line."""
    return harmless(text).replace("\n", "\\n").replace("\t", " ")


def _shorten(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} … ({len(text) - LONGEST} characters cut)"


def printed(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a user's __str__ may raise whatever it likes
        return f"<{type(value).__name__} that cannot be printed: {type(error).__name__}>"


def _worded(message: object, args: tuple[object, ...]) -> str:
    """Return the message with its `%s` filled in, as standard logging does it."""
    if not args:
        return printed(message)
    try:
        return str(message) % args
    except Exception as error:  # noqa: BLE001 - wrong arguments: said all the same
        return f"{printed(message)} (with {printed(args)}: {printed(error)})"


def _traceback(error: BaseException) -> str:
    try:
        from traceback import format_exception

        return "".join(format_exception(error))
    except Exception:  # noqa: BLE001 - sys.path is spoilt, the library unreadable, no descriptor left
        return _bare_traceback(error)


def _bare_traceback(error: BaseException) -> str:
    """Return what is in memory already: no imports, no files."""
    place = error.__traceback__
    lines = ["Traceback (most recent call last):"] if place is not None else []
    while place is not None:
        code = place.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {place.tb_lineno}, in {code.co_name}')
        place = place.tb_next
    return "\n".join([*lines[-20:], f"{type(error).__name__}: {printed(error)}", ""])


def _quoted(value: object) -> str:
    text = one_line(printed(value))
    if text and not any(c in text for c in ' "='):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _origin(bound: Fields) -> str:
    """Return who speaks: `jobs/2[817]: ` for a worker, nothing for the main process."""
    if "pool" not in bound:
        return ""
    slot = f"/{bound['slot']}" if "slot" in bound else ""
    return f"{bound['pool']}{slot}[{os.getpid()}]: "


def told(bound: Fields, message: str, fields: Fields) -> list[str]:
    """Return the record as harmless lines, the first with its origin and fields."""
    extra = {k: v for k, v in {**bound, **fields}.items() if k not in _ORIGIN}
    if "pool" in bound and extra.get("logger") == bound["pool"]:
        del extra["logger"]  # the worker's own: who speaks is said already
    first, *rest = harmless(message).rstrip("\n").split("\n")
    pairs = "".join(f" {k}={_quoted(v)}" for k, v in extra.items())
    return [harmless(_origin(bound)) + first + pairs, *("    " + line for line in rest)]


def text(level: str, message: str, bound: Fields, fields: Fields) -> str:
    """Format for terminals and files; further lines of a record are indented."""
    lines = told(bound, message, fields)
    return f"{clock.iso()} {level:<7} " + "\n".join(lines) + "\n"


def journal(level: str, message: str, bound: Fields, fields: Fields) -> str:
    """Format for systemd's journal: it knows the time, and takes a priority on every line."""
    prefix = f"<{PRIORITIES[level]}>"
    return "".join(f"{prefix}{line}\n" for line in told(bound, message, fields))


def json(level: str, message: str, bound: Fields, fields: Fields) -> str:
    """Format for machines: one object a line."""
    record = {"time": clock.iso(), "level": level, "message": message}
    dumped = _dumped({**record, "pid": os.getpid(), **bound, **fields, **record})
    return (dumped if dumped.isprintable() else dumped.translate(_escapes())) + "\n"


def _dumped(record: dict[str, Any]) -> str:
    from json import dumps

    try:
        return dumps(record, ensure_ascii=False, allow_nan=False, default=printed)
    except Exception:  # noqa: BLE001 - NaN, loops, odd keys, a mapping that raises: as plain text
        plain = {printed(key): _plain(value) for key, value in record.items()}
        return dumps(plain, ensure_ascii=False)


def _plain(value: object) -> object:
    return value if type(value) in (str, int, bool, type(None)) else printed(value)


def _escapes() -> dict[int, str]:
    """Return what JSON lets stand raw in a text, and we don't.

    Surrogates (bytes that were no UTF-8) become a backslash and letters: as
    an escape they would be legal JSON that most readers refuse.
    """
    raw = {code: f"\\u{code:04x}" for code in (*range(127, 160), 0x2028, 0x2029)}
    return raw | {code: f"\\\\u{code:04x}" for code in range(0xD800, 0xE000)}


FORMATS: Final[dict[str, Format]] = {"text": text, "json": json, "journal": journal}


# Where bytes go


class Sink:
    """A descriptor that is written to only if it takes the bytes at once."""

    fd: int | None

    def __init__(self, fd: int | None) -> None:
        self.fd = fd
        self.lost = 0
        self._rest: list[bytes] = []  # of a record of which a part was taken; at most one
        self._pid = os.getpid()

    def keep(self) -> frozenset[int]:
        """Return the descriptors that a forked child needs to go on writing."""
        return frozenset() if self.fd is None else frozenset({self.fd})

    def write(self, record: bytes, report: Callable[[int], bytes]) -> None:
        """Write a whole record or count it as lost; `report` words the count."""
        self._forget_the_parents()
        if not self._finish_the_last():
            self.lost += 1
            return
        lost = self.lost
        if lost and self._begin(report(lost)):
            self.lost -= lost
        if self.lost or self._rest or not self._begin(record):
            self.lost += 1

    def flush(self) -> bool:
        """Write what is left of a record that was taken in part; True if nothing is left."""
        self._forget_the_parents()
        return self._finish_the_last()

    def settle(self) -> None:
        """Wait, for a moment at most, until what this process wrote last is safe from its end."""

    def _forget_the_parents(self) -> None:
        """After a fork the rest of a half written record is the parent's business."""
        if self._pid != os.getpid():
            self._pid, self.lost, self._rest = os.getpid(), 0, []

    def _finish_the_last(self) -> bool:
        try:
            rest = self._rest.pop()  # atomic: a second thread must not write it again
        except IndexError:
            return True
        taken = self._try(rest)
        if taken < len(rest):
            self._rest.append(rest[taken:])
        return taken == len(rest)

    def _begin(self, record: bytes) -> bool:
        """Return whether the record was taken, if only in part."""
        taken = self._try(record)
        if 0 < taken < len(record):
            self._rest.append(record[taken:])
        return taken > 0

    def _try(self, data: bytes) -> int:
        """Return how many bytes were taken; a broken descriptor takes none."""
        if self.fd is None:
            return 0
        try:
            return self._put(self.fd, data)
        except OSError:  # EAGAIN, EPIPE, EBADF, ENOSPC, EIO: counted as lost by the caller
            return 0

    def _put(self, fd: int, data: bytes) -> int:
        return os.write(fd, data)

    def close(self) -> None:
        if self.fd is not None:
            fd, self.fd = self.fd, None
            os.close(fd)


class BlockingSink(Sink):
    """A pipe or terminal that could not be opened again: it blocks unless asked first."""

    def _put(self, fd: int, data: bytes) -> int:
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        taken = 0
        while taken < len(data) and _writable(poll):
            taken += os.write(fd, data[taken : taken + PIPE_BUF])
        return taken


def _writable(poll: select.poll) -> bool:
    return any(events == select.POLLOUT for _, events in poll.poll(0))


class SocketSink(Sink):
    """A stream to the journal, or to whoever else gave us a socket as standard error."""

    def __init__(self, fd: int) -> None:
        import socket

        self._socket: socket.socket = socket.socket(fileno=fd)
        self._flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        super().__init__(fd)

    def _put(self, fd: int, data: bytes) -> int:
        return self._socket.send(data, self._flags)

    def close(self) -> None:
        self.fd = None
        self._socket.close()


class FileSink(Sink):
    """A file by name, opened again when it has been rotated."""

    def __init__(self, path: str, owner: tuple[int, int] | None = None) -> None:
        """Open for appending; `owner` gets a new file, so that workers can open it again."""
        self.path = path
        self._owner = owner
        self._look_at = 0.0
        super().__init__(_open_file(path, owner))

    def write(self, record: bytes, report: Callable[[int], bytes]) -> None:
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_AGAIN
            if self._rotated():
                self.reopen()
        super().write(record, report)

    def reopen(self) -> bool:
        """Open the file by its name again, under the same descriptor; False if it can't be."""
        try:
            new = _open_file(self.path, self._owner)
        except OSError:  # the old one goes on: better a line in a rotated file than none
            return False
        if self.fd is None:
            self.fd = new
            return True
        for fd in (1, 2):  # a daemon's standard streams go to its log file too
            if _same_file(fd, self.fd):
                os.dup2(new, fd)
        os.dup2(new, self.fd, inheritable=False)
        os.close(new)
        return True

    def _rotated(self) -> bool:
        if self.fd is None:
            return True
        try:
            return not os.path.samestat(os.stat(self.path), os.fstat(self.fd))
        except OSError:
            return True


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:  # a standard stream may be closed
        return False


def _open_file(path: str, owner: tuple[int, int] | None) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return _high(os.open(path, flags))
    except FileNotFoundError:
        fd = _high(os.open(path, flags | os.O_CREAT, 0o640))
    if owner is not None and os.geteuid() == 0:
        os.fchown(fd, *owner)
    return fd


def _high(fd: int) -> int:
    """Move a descriptor out of the way of the standard streams, should those be closed."""
    if fd > 2:
        return fd
    import fcntl

    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def _sink(fd: int) -> Sink:
    """Return a sink for an inherited descriptor, with a descriptor of its own.

    O_NONBLOCK belongs to the open file, which others share: a pipe or a terminal is
    therefore opened a second time. Asking poll(2) first is not enough where
    several processes write, since the room may be gone by the time of the write.
    """
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            return SocketSink(_copy(fd))
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            return _second(fd)
        return Sink(_copy(fd))
    except OSError:  # standard error is closed
        return Sink(None)


def _second(fd: int) -> Sink:
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return Sink(_high(os.open(f"/proc/self/fd/{fd}", flags)))
    except OSError:  # of another user, or no /proc
        return BlockingSink(_copy(fd))


def _copy(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


# What others use


class Output:
    """Level, format and sink, shared by a log and everything bound from it."""

    __slots__ = ("format", "level", "sink")

    def __init__(self, level: str, format: str, sink: Sink) -> None:
        self.level = LEVELS[level]
        self.format = FORMATS[format]
        self.sink = sink


class Log:
    """What graced's own code and users' workers write to.

    `%s` in a message is filled from further arguments, as in standard logging.
    Fields are for machines: JSON has them all. Text and journal show the bound
    pool and slot as who speaks, and the others as `key=value` after the message.
    """

    __slots__ = ("_fields", "_output")

    def __init__(
        self,
        level: str = "info",
        format: str = "text",
        fd: int = 2,
        fields: Fields | None = None,
        *,
        output: Output | None = None,
    ) -> None:
        self._output = output or Output(level, format, _sink(fd))
        self._fields = dict(fields or {})

    def bind(self, **fields: Any) -> Log:
        """Return a log that adds `fields` to every record and writes to the same place."""
        return Log(fields={**self._fields, **fields}, output=self._output)

    def debug(self, message: str, /, *args: object, **fields: Any) -> None:
        """Write what only a search for a fault needs."""
        self.write("debug", message, fields, args)

    def info(self, message: str, /, *args: object, **fields: Any) -> None:
        """Write what happened, as planned."""
        self.write("info", message, fields, args)

    def warning(self, message: str, /, *args: object, **fields: Any) -> None:
        """Write what somebody should look at some time."""
        self.write("warning", message, fields, args)

    def error(self, message: str, /, *args: object, **fields: Any) -> None:
        """Write what did not work."""
        self.write("error", message, fields, args)

    def exception(self, message: str, /, *args: object, **fields: Any) -> None:
        """Write `message` and the traceback of the exception being handled, as one record.

        An exception in the place of arguments is told instead of the one being handled.
        """
        error = sys.exc_info()[1]
        match args:
            case (BaseException() as other,) if "%" not in message:
                self.failure(message, other, fields)
            case _:
                self.failure(_worded(message, args), error, fields)

    def failure(self, message: str, error: BaseException | None, fields: Fields) -> None:
        """Write `message` and the traceback of `error` as one record."""
        told = "" if error is None else "\n" + _traceback(error)
        self.write("error", message + told, fields)

    def enabled(self, level: str) -> bool:
        """Return whether records of `level` are written."""
        return LEVELS[level] >= self._output.level

    @property
    def level(self) -> str:
        """The lowest level that is written."""
        return next(name for name, number in LEVELS.items() if number == self._output.level)

    def write(
        self, level: str, message: str, fields: Fields, args: tuple[object, ...] = ()
    ) -> None:
        """Write a record of a level known by its name. Never blocks, never raises."""
        if LEVELS[level] >= self._output.level:
            record = self._record(level, _worded(message, args), fields)
            self._output.sink.write(record, self._report)

    def _record(self, level: str, message: str, fields: Fields) -> bytes:
        line = self._output.format(level, _shorten(message), self._fields, fields)
        return line if isinstance(line, bytes) else line.encode("utf-8", "backslashreplace")

    def _report(self, lost: int) -> bytes:
        lines = "line was" if lost == 1 else "lines were"
        return self._record("warning", f"{lost} log {lines} lost: nobody took them", {})

    def keep(self) -> frozenset[int]:
        """Return the descriptors that a child must not close if it is to write here."""
        return self._output.sink.keep()

    @property
    def lost(self) -> int:
        """How many records were lost and not yet reported."""
        return self._output.sink.lost

    def flush(self) -> bool:
        """Finish a record that was taken in part; True if nothing is left of it."""
        return self._output.sink.flush()

    def settle(self) -> None:
        """Let the last words arrive, before this process ends."""
        self._output.sink.settle()

    def reopen(self) -> bool:
        """Open the log file by its name again; False if that failed and the old one goes on."""
        sink = self._output.sink
        return sink.reopen() if isinstance(sink, FileSink) else True

    def become(self, other: Log) -> None:
        """Take over level, format and place of `other`, for all that is bound from this log too."""
        mine, theirs = self._output, other._output
        if mine is theirs:
            return
        mine.sink.close()
        mine.level, mine.format, mine.sink = theirs.level, theirs.format, theirs.sink


def attach(log: Log, fields: Fields | None = None) -> None:
    """Send to `log` what this process logs through :mod:`logging`, and its warnings.

    Meant for workers. If their code has not imported logging yet, it is
    attached at the moment of the import, so that who does not use it does not pay.
    """
    from graced.host import stdlog

    stdlog.attach(log.bind(**(fields or {})))


def open_log(
    wanted: settings.Log, environ: Mapping[str, str], owner: tuple[int, int] | None = None
) -> Log:
    """Open the log that the settings ask for; OSError if its file can't be opened.

    `owner` (user and group number) gets a log file that did not exist, if root opens it.
    """
    format = wanted.format
    is_journal = wanted.file is None and speaks_to_journal(2, environ)
    if format == "auto":
        format = "journal" if is_journal else "text"
    if format == "journal" and is_journal:
        from graced.host.journal import journal_output

        output = journal_output(wanted.level, 2)
        if output is not None:
            return Log(output=output)
    sink = _sink(2) if wanted.file is None else FileSink(wanted.file, owner)
    return Log(output=Output(wanted.level, format, sink))


def speaks_to_journal(fd: int, environ: Mapping[str, str]) -> bool:
    """Return whether `fd` is the stream named by JOURNAL_STREAM, see systemd.exec(5)."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def say(line: str, fd: int = 2) -> None:
    """Tell a person something on standard error, as a command does. Never raises."""
    data = (harmless(line).rstrip("\n") + "\n").encode("utf-8", "backslashreplace")
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EBADF, errno.EIO, errno.EAGAIN, errno.ENOSPC):
            raise
