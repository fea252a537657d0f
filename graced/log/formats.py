"""A log record as text: harmless to terminals, and in the format that was asked for.

Nothing here raises, whatever user code logs, and nothing writes.
"""

from __future__ import annotations

import os

from graced import clock
from graced.text import WIDE, harmless, one_line, printed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Fields = Mapping[str, Any]
    Format = Callable[[str, str, Fields, Fields], str | bytes]

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}  # syslog(3)
MAX_MESSAGE_CHARS = 64 * 1024  # characters of one message

_ORIGIN = frozenset({"pool", "slot", "generation", "pid"})


def shorten(text: str) -> str:
    """Return beginning and end of what is too long: the error ends a traceback."""
    if len(text) <= MAX_MESSAGE_CHARS:
        return text
    cut = len(text) - MAX_MESSAGE_CHARS
    kept = MAX_MESSAGE_CHARS // 4
    return f"{text[:kept]} … ({cut} characters cut) … {text[kept + cut :]}"


def worded(message: object, args: tuple[object, ...]) -> str:
    """Return the message with its `%s` filled in, as standard logging does it."""
    if not args:
        return printed(message)
    try:
        return str(message) % args
    except Exception as error:  # noqa: BLE001 - wrong arguments: said all the same
        return f"{printed(message)} (with {printed(args)}: {printed(error)})"


def traceback(error: BaseException) -> str:
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
    """Return the origin of a record: `jobs/2[817]: ` for a worker, nothing for the main process."""
    if "pool" not in bound:
        return ""
    slot = f"/{bound['slot']}" if "slot" in bound else ""
    return f"{bound['pool']}{slot}[{os.getpid()}]: "


def told(bound: Fields, message: str, fields: Fields) -> list[str]:
    """Return the record as harmless lines, the first with its origin and fields."""
    extra = {k: v for k, v in {**bound, **fields}.items() if k not in _ORIGIN}
    if "pool" in bound and extra.get("logger") == bound["pool"]:
        del extra["logger"]  # the worker's own: the origin is said already
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
    raw = {code: f"\\u{code:04x}" for code in (*range(127, 160), *WIDE)}
    return raw | {code: f"\\\\u{code:04x}" for code in range(0xD800, 0xE000)}


FORMATS: dict[str, Format] = {"text": text, "json": json, "journal": journal}
