"""What each key of the configuration may be, and how its text becomes a value.

The records of :mod:`graced.core.settings` say which keys there are; the tables
here say which kind each is. The schema and the reference are made from them too.
"""

from __future__ import annotations

from graced.core import settings, units
from graced.core.record import Record
from graced.host.configtree import Mark, Scalar, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

MOST_WORKERS = 1000  # of all pools together: the scoreboard has room for them and their successors
ENDLESS = 10**15
NAME = r"[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)*"
LONGEST_NAME = 32
CLASS = r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*"
QUEUE = r"sqlite:///[^?#\x00-\x1f]*[^/?#\x00-\x1f]"


class Seconds(Record):
    """A duration."""

    zero: bool = True  # whether it may be none at all


class Bytes(Record):
    """A size."""

    least: int = 0


class Whole(Record):
    """A whole number."""

    least: int = 0
    most: int = ENDLESS
    word: str = ""  # stands for the number of CPUs


class Number(Record):
    """A number, with a point or without."""

    least: float = 0.0
    most: float = 1e6


class Switch(Record):
    """True or false."""


class Choice(Record):
    """One of some words."""

    words: tuple[str, ...]


class Text(Record):
    """A text; *check* returns it as the settings shall have it, or raises Wrong."""

    check: Callable[[str, Mark], str]
    noun: str
    pattern: str = ""


class Names(Record):
    """A list of names of pools."""


class Folders(Record):
    """A list of folders."""


class Addresses(Record):
    """An address to listen on, or a list of them."""


class Variables(Record):
    """Environment variables."""


class Plain(Record):
    """A mapping of plain data with keys of the user's own."""


class Section(Record):
    """A mapping of keys that are known."""

    record: type[Record]


class Pools(Record):
    """A mapping of names to pools."""


if TYPE_CHECKING:
    Single: TypeAlias = Seconds | Bytes | Whole | Number | Switch | Choice | Text
    Listed: TypeAlias = Names | Folders | Addresses
    Mapped: TypeAlias = Variables | Plain | Section | Pools
    Kind: TypeAlias = Single | Listed | Mapped


class Field(Record):
    """A key: what it may be, and whether it may be null."""

    kind: Kind
    nullable: bool = False


class Wrong(Exception):
    """A value that can't be: what is wrong with it, and what to write."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


# Scalars


def read_scalar(kind: Single, scalar: Scalar) -> Any:
    """Return the value of a scalar of a known kind; raise Wrong if it has none."""
    if scalar.is_null:
        raise Wrong("is empty", f"{remedy(kind)}, or leave the key out")
    match kind:
        case Text(check, noun):
            return check(text(scalar, noun), scalar.mark)
        case Seconds(zero):
            return _seconds(scalar.text, zero)
        case Bytes(least):
            return _bytes(scalar.text, least)
        case Choice(words):
            return _choice(scalar.text, words)
    if not scalar.plain:
        raise Wrong(f"{quoted(scalar.text)} is a text in quotes", remedy(kind))
    match kind:
        case Whole():
            return _whole(scalar.text, kind)
        case Number():
            return _number(scalar.text, kind)
        case Switch():
            return _switch(scalar.text)


def remedy(kind: Single) -> str:
    """Return what to write for a value of this kind."""
    match kind:
        case Seconds():
            return "write a number and a unit, such as 30s"
        case Bytes():
            return "write a number of bytes, or a number and K, M, G or T, such as 300M"
        case Whole(least, most, word):
            end = f"of at least {least}" if most == ENDLESS else f"from {least} to {most}"
            return f"write a whole number {end}" + (f", or {word}" if word else "")
        case Number(least):
            return f"write a number of at least {least:g}, such as 2 or 1.5"
        case Switch():
            return "write true or false"
        case Choice(words):
            return f"write one of {', '.join(words)}"
        case Text(_, noun):
            return f"write a {noun}"


def _seconds(text: str, zero: bool) -> float:
    advice = remedy(Seconds())
    if text.startswith("-"):
        raise Wrong(f"{quoted(text)} is negative", advice)
    try:
        seconds = units.duration(text)
    except units.TooLarge as error:
        raise Wrong(f"{quoted(text)} is {error}", advice) from None
    except ValueError:
        raise Wrong(f"cannot read {quoted(text)} as a duration", advice) from None
    if not seconds and not zero:
        raise Wrong("must be more than 0", advice)
    return seconds


def _bytes(text: str, least: int) -> int:
    try:
        size = units.size(text)
    except units.TooLarge as error:
        raise Wrong(f"{quoted(text)} is {error}", remedy(Bytes())) from None
    except ValueError:
        raise Wrong(f"cannot read {quoted(text)} as a size", remedy(Bytes())) from None
    if size < least:
        raise Wrong(f"must be at least {units.show_size(least)}", remedy(Bytes()))
    return size


def _choice(text: str, words: tuple[str, ...]) -> str:
    if text not in words:
        raise Wrong(f"{quoted(text)} is none of {', '.join(words)}", suggestion(text, words))
    return text


def _whole(text: str, kind: Whole) -> int:
    if kind.word and text == kind.word:
        import os

        return max(1, min(len(os.sched_getaffinity(0)), kind.most))
    digits = text.removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        raise Wrong(f"cannot read {quoted(text)} as a whole number", remedy(kind))
    if digits[0] == "0" and len(digits) > 1:
        raise Wrong(f"{quoted(text)} is octal to some readers of YAML", remedy(kind))
    number = int(text[:20])  # 20 digits are enough to be too large
    _check_range(number, text, kind)
    return number


def _number(text: str, kind: Number) -> float:
    if not (text.isascii() and text.replace(".", "", 1).isdigit()):
        raise Wrong(f"cannot read {quoted(text)} as a number", remedy(kind))
    number = float(text)
    _check_range(number, text, kind)
    return number


def _check_range(number: float, text: str, kind: Whole | Number) -> None:
    if not kind.least <= number <= kind.most:
        too = "small" if number < kind.least else "large"
        raise Wrong(f"{quoted(text)} is too {too}", remedy(kind))


_TRUE = ("true", "True", "TRUE")
_FALSE = ("false", "False", "FALSE")


def _switch(text: str) -> bool:
    if text not in _TRUE + _FALSE:
        raise Wrong(f"cannot read {quoted(text)} as true or false", remedy(Switch()))
    return text in _TRUE


def suggestion(text: str, words: tuple[str, ...]) -> str:
    """Return which of *words* may have been meant; look at some only, as it takes time."""
    import difflib

    some = words[:50]
    alike = text[:40].lower().replace("-", "_")
    close = difflib.get_close_matches(alike, some, 1) or [w for w in some if w.startswith(alike)]
    if alike and close:
        return f"did you mean '{close[0]}'?"
    return f"write one of {', '.join(some[:30])}" + (", ..." if len(words) > 30 else "")


# Texts


def text(scalar: Scalar, noun: str) -> str:
    """Return what is written; a number will do, but true and null are slips of the pen."""
    if scalar.is_null:
        raise Wrong("is empty", f"write a {noun}")
    if scalar.plain and scalar.text in _TRUE + _FALSE:
        raise Wrong(f"cannot read {quoted(scalar.text)} as a {noun}", f"write a {noun}")
    return scalar.text


def is_name(text: str) -> bool:
    """Tell whether *text* can be the name of a daemon or of a pool, as :data:`NAME` says.

    It has to serve in file names, process titles and names of variables, where
    two underscores separate keys.
    """
    parts = text.replace("-", "_").split("_")
    return (
        len(text) <= LONGEST_NAME
        and text.isascii()
        and text[:1].isalpha()
        and all(part.isalnum() for part in parts)
    )


def check_name(text: str, _mark: Mark) -> str:
    if not is_name(text):
        raise Wrong(
            f"{quoted(text)} cannot be a name",
            f"write up to {LONGEST_NAME} letters and digits, a letter first, "
            "with single dashes or underscores between them",
        )
    return text


def _worker_class(text: str, _mark: Mark) -> str:
    module, _, name = text.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
        raise Wrong(
            f"{quoted(text)} does not name a class", "write module:Class, such as shop.mail:Sender"
        )
    return text


def _file(text: str, mark: Mark) -> str:
    if text.endswith("/"):
        raise Wrong(f"{quoted(text)} names a folder", "write the path of a file")
    return folder(text, mark)


def folder(text: str, mark: Mark) -> str:
    """Return a path, absolute: what is relative starts from the folder of its file."""
    if not text or "\0" in text:
        raise Wrong(f"{quoted(text)} cannot be a path", "write a path")
    import os.path

    return os.path.normpath(os.path.join(mark.source.base, text))


def address(text: str, _mark: Mark) -> str:
    from graced.host.address import BadAddress, parse

    try:
        parse(text)
    except BadAddress as error:
        raise Wrong(error.what, error.remedy) from None
    return text


def _queue(text: str, _mark: Mark) -> str:
    advice = "write sqlite:///jobs.db (in state_dir) or sqlite:////var/lib/jobs.db"
    scheme, _, path = text.partition("://")
    if scheme != "sqlite":
        raise Wrong(f"there is no queue for {quoted(text)}, only sqlite so far", advice)
    if not path.startswith("/"):
        raise Wrong(f"{quoted(text)} names a host", advice)
    if path.endswith("/") or path == "/:memory:":
        raise Wrong(f"{quoted(text)} names no file", advice)
    if any(c in "?#" or c < " " for c in path):
        raise Wrong(f"{quoted(text)} is more than the path of a file", advice)
    return text


def _user(text: str, _mark: Mark) -> str:
    import os
    import pwd

    try:
        entry = pwd.getpwuid(int(text)) if _is_id(text) else pwd.getpwnam(text)
    except (KeyError, ValueError, OverflowError):
        raise Wrong(f"there is no user {quoted(text)}", "write a user of this host") from None
    return may_become("user", entry.pw_name, entry.pw_uid, os.geteuid(), os.geteuid())


def _group(text: str, _mark: Mark) -> str:
    import grp
    import os

    try:
        entry = grp.getgrgid(int(text)) if _is_id(text) else grp.getgrnam(text)
    except (KeyError, ValueError, OverflowError):
        raise Wrong(f"there is no group {quoted(text)}", "write a group of this host") from None
    return may_become("group", entry.gr_name, entry.gr_gid, os.getegid(), os.geteuid())


def may_become(what: str, name: str, wanted: int, own: int, euid: int) -> str:
    """Return *name* if who runs as *euid*, with the id *own*, may change it to *wanted*."""
    if euid != 0 and wanted != own:
        raise Wrong(
            f"only root can become the {what} {quoted(name)}, and graced was not started by root",
            f"leave {what} out, or start graced as root",
        )
    return name


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


# Plain data, as in `options`


_ODD_WORDS = ("yes", "no", "on", "off")
_INTEGER = r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+"
_FLOAT = r"[-+]?[0-9]+\.[0-9]*([eE][-+][0-9]+)?|\.[0-9]+([eE][-+][0-9]+)?"
_ENDLESS = r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_ODD = (
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+"  # numbers in YAML 1.2
    r"|[-+]?0b[01_]+|[-+]?0x[0-9a-fA-F_]+|[-+]?[0-9][0-9_]*"  # and in YAML 1.1
    r"|[-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+][0-9]+)?|[-+]?\.[0-9_]+([eE][-+][0-9]+)?"
    r"|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?"
)


def plain(scalar: Scalar) -> str | int | float | bool | None:
    """Return what a scalar is to every reader of YAML; raise Wrong where they differ."""
    text = scalar.text
    if not scalar.plain:
        return text
    if scalar.is_null:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if text[0] in "+-.0123456789":
        return _plain_number(text)
    if text.lower() in _ODD_WORDS:
        raise _odd(text, "write true or false, or put it in quotes")
    return text


def _plain_number(text: str) -> str | int | float:
    if len(text) < 19 and text.isdigit() and text.isascii() and text == str(int(text)):
        return int(text)  # the usual case, without the import
    import re

    if len(text) < 500:  # Python refuses to read numbers of some thousand digits
        if re.fullmatch(_INTEGER, text):
            return int(text, 16 if text.startswith("0x") else 10)
        if re.fullmatch(_FLOAT, text):
            return float(text)
        if re.fullmatch(_ENDLESS, text):
            return float(text.replace(".", ""))
    if re.fullmatch(_ODD, text):
        raise _odd(text, "put it in quotes, or write a plain number such as 10 or 1.5")
    return text


def _odd(text: str, advice: str) -> Wrong:
    return Wrong(f"{quoted(text)} is not the same to all readers of YAML", advice)


# Which key is which


_BY_TYPE: dict[str, Kind] = {
    "Duration": Seconds(),
    "float": Number(1.0),
    "bool": Switch(),
    "Level": Choice(settings.LEVELS),
    "Format": Choice(settings.FORMATS),
    "Log": Section(settings.Log),
    "Backoff": Section(settings.Backoff),
    "Retry": Section(settings.Retry),
    "Mapping[str, Pool]": Pools(),
}

_BY_KEY: dict[type[Record], dict[str, Kind]] = {
    settings.Settings: {
        "name": Text(check_name, "name", NAME),
        "runtime_dir": Text(folder, "path"),
        "state_dir": Text(folder, "path"),
        "user": Text(_user, "user"),
        "group": Text(_group, "group"),
        "watchdog_quorum": Whole(0, MOST_WORKERS),
    },
    settings.Log: {"file": Text(_file, "path")},
    settings.Pool: {
        "worker": Text(_worker_class, "class", CLASS),
        "workers": Whole(1, MOST_WORKERS, "cpus"),
        "after": Names(),
        "path": Folders(),
        "env": Variables(),
        "options": Plain(),
        "listen": Addresses(),
        "ready_timeout": Seconds(zero=False),
        "round_timeout": Seconds(zero=False),
        "max_errors": Whole(1),
        "max_rounds": Whole(1),
        "max_waiting": Whole(1),
        "max_age": Seconds(zero=False),
        "max_rss": Bytes(1 << 20),
        "surge": Whole(0, MOST_WORKERS),
        "queue": Text(_queue, "URL", QUEUE),
        "max_attempts": Whole(1),
    },
    settings.Backoff: {
        "first": Seconds(zero=False),
        "limit": Seconds(zero=False),
        "reset": Seconds(zero=False),
    },
    settings.Retry: {},
}

_fields: dict[type[Record], dict[str, Field]] = {}


def fields(record: type[Record]) -> dict[str, Field]:
    """Return the keys of *record* in a file, in order, and what each may be."""
    if record not in _fields:
        written = dict(record.__annotations__)
        if record is settings.Pool:
            del written["name"]  # it is the key
        _fields[record] = {name: _field(record, name, text) for name, text in written.items()}
    return _fields[record]


def _field(record: type[Record], name: str, written: str) -> Field:
    kind = _BY_KEY[record].get(name) or _BY_TYPE[written.removesuffix(" | None")]
    return Field(kind, written.endswith(" | None"))
