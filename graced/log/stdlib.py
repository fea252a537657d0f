"""What user code says through :mod:`logging` and :mod:`warnings`, brought into graced's log.

And what user code raises, brought to the handlers that it has added to logging: the other way
round. Used by zygotes and workers alone: the main process has no use for logging, which would
cost a fifth of its start.
"""

from __future__ import annotations

import logging
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from graced.log.logger import Log


def attach(log: Log) -> None:
    """Bring standard logging and warnings into `log`, unless user code has set up its own."""
    if logging.root.handlers:
        return
    logging.root.addHandler(Handler(log))
    logging.root.setLevel(log.level.upper())
    logging.captureWarnings(True)


def report(
    log: Log,
    name: str,
    message: str,
    error: BaseException,
    by: Callable[[Callable[[], None]], Any] | None = None,
) -> None:
    """Tell what user code has raised: once in our log, and to its own handlers of logging.

    `name` is that of the logger. What a handler raises is told in our log. `by` calls them.
    """
    in_log = False
    try:
        logger = logging.getLogger(name)
        if logger.disabled:  # by a dictConfig() that does not know it
            logger = logging.root
        if not _ends_in(log, logger):
            log.failure(message, error, {})
            in_log = True
        to_handlers = partial(logger.error, _Told(message), exc_info=error, extra=log.fields)
        to_handlers() if by is None else by(to_handlers)
    except Exception as wrong:  # noqa: BLE001 - handlers, filters and loggers are user code
        if not in_log:
            log.failure(message, error, {})
        wrong.__suppress_context__ = True  # what it was to tell of is told
        log.failure("a handler of logging raised", wrong, {})


class _Told(str):
    """A message that is told in our log, so that our handler has nothing to do with it."""

    __slots__ = ()


def _ends_in(log: Log, logger: logging.Logger) -> bool:
    """Return whether a handler of the user's own writes errors of `logger` to where we do."""
    if not logger.isEnabledFor(logging.ERROR):
        return False
    found = list(_handlers(logger))
    if not found and logging.lastResort is not None:
        found.append(logging.lastResort)
    return any(each.level <= logging.ERROR and _writes_to(log, each) for each in found)


def _handlers(logger: logging.Logger | None) -> Iterator[logging.Handler]:
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


def _writes_to(log: Log, handler: logging.Handler) -> bool:
    try:
        return log.ends_in(handler.stream.fileno())  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):  # no stream, or one without a descriptor
        return False


class Handler(logging.Handler):
    """Makes one record of graced's of one LogRecord, traceback and all."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log
        self._words = logging.Formatter("%(message)s")

    def createLock(self) -> None:
        """Have none: graced's log needs none, and one may be held when a process forks."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> Any:
        passed: Any = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        if not isinstance(record.msg, _Told):
            self._log.write(_level(record.levelno), self._message(record), {"logger": record.name})

    def _message(self, record: logging.LogRecord) -> str:
        try:
            return self._words.format(record)
        except Exception as error:  # noqa: BLE001 - wrong arguments: the record is told all the same
            return f"{record.msg!r} cannot be formatted with {record.args!r}: {error}"


def _level(number: int) -> str:
    if number < 20:
        return "debug"
    if number < 30:
        return "info"
    return "warning" if number < 40 else "error"
