"""The `options` of graced's own workers: as they are written in the configuration, into types.

Read twice: where the configuration is checked, which knows the places, and in the worker, whose
class may be a subclass of the user's. Nothing is looked up here: no file, no address.
"""

from __future__ import annotations

import signal

from graced import units
from graced.record import Record
from graced.text import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

NOTIFY = "notify"
READY_AFTER_S = 1.0  # seconds that a program has to live, if nothing else is said
ADDRESSES = ("tcp:", "unix:", "/")  # how an address begins
_READY = "write a time such as 2s, notify, or an address such as tcp://127.0.0.1:8080"


class OptionError(ValueError):
    """An option that can't be: which (`key`, below `options`), what is wrong, what to write."""

    def __init__(self, key: str, what: str, remedy: str) -> None:
        super().__init__(f"options.{key}: {what}; {remedy}" if key else f"{what}; {remedy}")
        self.key = key
        self.what = what
        self.remedy = remedy


class CommandOptions(Record):
    """Those of `graced.workers:Command`."""

    cwd: str | None = None
    env: Mapping[str, str] = {}
    timeout: float | None = None


class ProgramOptions(Record):
    """Those of `graced.workers:Program`, for one slot."""

    argv: tuple[str, ...]
    ready: float | str = READY_AFTER_S  # seconds, NOTIFY, or an address
    stop_signal: int = signal.SIGTERM
    cwd: str | None = None
    env: Mapping[str, str] = {}


def command(options: Mapping[str, Any]) -> CommandOptions:
    """Return the options of a Command. OptionError."""
    _known(options, CommandOptions)
    timeout = options.get("timeout")
    return CommandOptions(
        _folder(options.get("cwd")),
        _variables(options.get("env")),
        None if timeout is None else _duration("timeout", timeout, "write a time, such as 30s"),
    )


def program(options: Mapping[str, Any], pool: str, slot: int) -> ProgramOptions:
    """Return the options of the Program in a slot. OptionError."""
    _known(options, ProgramOptions)

    def filled(text: str) -> str:
        return text.replace("{slot}", str(slot)).replace("{pool}", pool)

    cwd = _folder(options.get("cwd"))
    return ProgramOptions(
        tuple(map(filled, _argv(options.get("argv")))),
        _ready(options.get("ready", READY_AFTER_S), filled),
        _signal(options.get("stop_signal", "SIGTERM")),
        None if cwd is None else filled(cwd),
        {name: filled(value) for name, value in _variables(options.get("env")).items()},
    )


def _known(options: Mapping[str, Any], record: type[Record]) -> None:
    known = record.__match_args__
    for name in options:
        if name not in known:
            from difflib import get_close_matches

            close = get_close_matches(str(name), known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            raise OptionError(str(name), "unknown option", hint)


def _argv(value: Any) -> list[str]:
    example = "write a list such as [nginx, -g, daemon off;]"
    if value is None:
        raise OptionError("", "options.argv is missing", example)
    if not isinstance(value, list):
        raise OptionError("argv", "is not a list", example)
    if not value or value[0] == "":
        raise OptionError("argv", "is empty", example)
    return [_text(f"argv.{index}", item) for index, item in enumerate(value)]


def _text(key: str, value: Any) -> str:
    """Return a text; a number will do, but true and null are slips of the pen."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise OptionError(key, "is not a text", "write a text, in quotes if need be")
    text = str(value)
    if "\0" in text:
        raise OptionError(key, "has a NUL character", "leave it out: no program can be given one")
    return text


def _folder(value: Any) -> str | None:
    if value is None:
        return None
    text = _text("cwd", value)
    if not text:
        raise OptionError("cwd", "is empty", "write the path of a folder, or leave it out")
    return text


def _variables(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise OptionError("env", "is not a mapping", "write names and values below it, indented")
    for name in value:
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise OptionError(
                f"env.{name}", "cannot be the name of a variable", "write a name without '='"
            )
    return {name: _text(f"env.{name}", each) for name, each in value.items()}


def _ready(value: Any, filled: Callable[[str], str]) -> float | str:
    if isinstance(value, str):
        if value == NOTIFY:
            return NOTIFY
        if value.startswith(ADDRESSES):
            return filled(value)
    return _duration("ready", value, _READY)


def _duration(key: str, value: Any, remedy: str) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return units.duration(str(value))
    except units.TooLarge as error:
        raise OptionError(key, f"{quoted(str(value))} is {error}", remedy) from None
    except ValueError:
        raise OptionError(key, f"cannot read {quoted(str(value))}", remedy) from None


def _signal(value: Any) -> int:
    name = str(value).upper()
    found = signal.Signals.__members__.get(name if name.startswith("SIG") else f"SIG{name}")
    if found is None:
        remedy = "write the name of a signal, such as SIGTERM, SIGQUIT or SIGINT"
        raise OptionError("stop_signal", f"there is no signal {quoted(str(value))}", remedy)
    return found
