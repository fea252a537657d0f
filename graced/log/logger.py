"""The log: one record is one line (of text, JSON or journal) and one write.

Writing never blocks and never raises: a record that the descriptor does not take
at once is counted, and the count is reported before the next one that it takes.
What a record looks like is in :mod:`graced.log.formats`, where it goes in
:mod:`graced.log.sinks`. The standard library's :mod:`logging` has no place here:
it costs a fifth of the start, blocks on a full pipe and prints its own errors;
`log/stdlib.py` brings what user code logs through it into this log.
"""

from __future__ import annotations

import sys

from graced.log.formats import shorten, traceback, worded
from graced.log.output import LEVELS, Output
from graced.log.sinks import FileSink, sink_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from graced.log.formats import Fields


class Log:
    """What graced's own code and users' workers write to.

    `%s` in a message is filled from further arguments, as in standard logging.
    Fields are for machines: JSON has them all. Text and journal show the bound
    pool and slot as the origin, and the others as `key=value` after the message.
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
        self._output = output or Output(level, format, sink_of(fd))
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
        """Write what needs a look, but not at once."""
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
                self.failure(worded(message, args), error, fields)

    def failure(self, message: str, error: BaseException | None, fields: Fields) -> None:
        """Write `message` and the traceback of `error` as one record."""
        told = "" if error is None else "\n" + traceback(error)
        self.write("error", message + told, fields)

    @property
    def fields(self) -> Fields:
        """What is added to every record."""
        return self._fields

    def ends_in(self, fd: int) -> bool:
        """Return whether what is written to `fd` arrives where this log does."""
        return self._output.sink.is_behind(fd)

    @property
    def level(self) -> str:
        """The lowest level that is written."""
        return next(name for name, number in LEVELS.items() if number == self._output.level)

    def write(
        self, level: str, message: str, fields: Fields, args: tuple[object, ...] = ()
    ) -> None:
        """Write a record of a level known by its name. Never blocks, never raises."""
        if LEVELS[level] >= self._output.level:
            record = self._record(level, worded(message, args), fields)
            self._output.sink.write(record, self._report)

    def _record(self, level: str, message: str, fields: Fields) -> bytes:
        line = self._output.format(level, shorten(message), self._fields, fields)
        return line if isinstance(line, bytes) else line.encode("utf-8", "backslashreplace")

    def _report(self, lost: int) -> bytes:
        lines = "line" if lost == 1 else "lines"
        message = f"dropped {lost} log {lines}: the destination was not writable"
        return self._record("warning", message, {})

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
