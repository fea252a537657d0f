"""What user code says through :mod:`logging` and :mod:`warnings`, brought into our log.

And what user code raises, brought to the handlers that it has hung into logging: the other way
round. Nothing here imports logging: the price is paid by those who use it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from graced.log.logger import Log


def attach(log: Log) -> None:
    """Bring standard logging (now or when it is imported) and warnings into `log`."""
    if "logging" in sys.modules:
        _install(log)
        return
    sys.meta_path.insert(0, _AwaitsLogging(lambda: _install(log)))
    _show_warnings_in(log)


def report(log: Log, name: str, message: str, error: BaseException) -> None:
    """Tell what user code has raised: once in our log, and to its own handlers of logging.

    `name` is that of the logger. What a handler raises is told in our log.
    """
    logging = sys.modules.get("logging")
    if logging is None or not hasattr(logging, "getLogger"):
        log.failure(message, error, {})
        return
    logger = logging.getLogger(name)
    if logger.disabled:  # by a dictConfig() that does not know it
        logger = logging.root
    if not _ends_in(log, logger):
        log.failure(message, error, {})
    try:
        logger.error(_Told(message), exc_info=error, extra=log.fields)
    except Exception as wrong:  # noqa: BLE001 - handlers and filters are user code
        wrong.__suppress_context__ = True  # what it was to tell of is told
        log.failure("a handler of logging raised", wrong, {})


class _Told(str):
    """A message that is told in our log, so that our handler has nothing to do with it."""

    __slots__ = ()


def _ends_in(log: Log, logger: logging.Logger) -> bool:
    """Return whether a handler of the user's own writes errors of `logger` to where we do."""
    import logging

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


def _install(log: Log) -> None:
    """Give the root logger our handler, unless the user's code has set up its own."""
    import logging

    if logging.root.handlers:
        return
    logging.root.addHandler(_handler(log))
    logging.root.setLevel(log.level.upper())
    logging.captureWarnings(True)


def _handler(log: Log) -> logging.Handler:
    import logging

    words = logging.Formatter("%(message)s")

    class Handler(logging.Handler):
        """One LogRecord, traceback and all, is one record of ours."""

        def createLock(self) -> None:
            """Have none: our log needs none, and one may be held when a process forks."""
            self.lock = None

        def handle(self, record: logging.LogRecord) -> Any:
            passed: Any = self.filter(record)
            if passed:
                self.emit(passed if isinstance(passed, logging.LogRecord) else record)
            return passed

        def emit(self, record: logging.LogRecord) -> None:
            if not isinstance(record.msg, _Told):
                told = _message(words, record)
                log.write(_level(record.levelno), told, {"logger": record.name})

    return Handler()


def _level(number: int) -> str:
    if number < 20:
        return "debug"
    if number < 30:
        return "info"
    return "warning" if number < 40 else "error"


def _message(words: logging.Formatter, record: logging.LogRecord) -> str:
    try:
        return words.format(record)
    except Exception as error:  # noqa: BLE001 - wrong arguments: the record is told all the same
        return f"{record.msg!r} cannot be formatted with {record.args!r}: {error}"


def _show_warnings_in(log: Log) -> None:
    import warnings

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        told = warnings.formatwarning(message, category, filename, lineno, line)
        log.warning(told, logger="py.warnings")

    warnings.showwarning = show


class _AwaitsLogging:
    """A finder that does something right after the first import of logging.

    It stays where it is: what an import takes away there is put back.
    """

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then
        self._waits = True

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "logging" or not self._waits:
            return None
        from importlib.util import find_spec

        self._waits = False
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._then)  # type: ignore[assignment]
        return spec


class _Loader:
    def __init__(self, loader: Any, then: Callable[[], None]) -> None:
        self._loader = loader
        self._then = then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._then()
