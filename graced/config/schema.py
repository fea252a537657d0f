"""What each key of the configuration may be.

The records of :mod:`graced.settings` say which keys there are; the tables
here say which kind each is. The schema and the reference are made from them too.
How a text becomes a value of its kind is in :mod:`graced.config.scalars`.
"""

from __future__ import annotations

from graced import settings
from graced.config import validators
from graced.queue.engines import url_pattern
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from graced.config.nodes import Mark

MAX_WORKERS = 1000  # of all pools together: the scoreboard has room for them and their successors
ENDLESS = 10**15


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
    """A text; *check* returns it as the settings shall have it, or raises ConfigValueError."""

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


class Value(Record):
    """Plain data of any shape that JSON has too."""


class Named(Record):
    """A mapping of names of the user's own to sections, such as pools."""

    record: type[Record]
    noun: str


if TYPE_CHECKING:
    Single: TypeAlias = Seconds | Bytes | Whole | Number | Switch | Choice | Text
    Listed: TypeAlias = Names | Folders | Addresses
    Mapped: TypeAlias = Variables | Plain | Value | Section | Named
    Kind: TypeAlias = Single | Listed | Mapped


class Field(Record):
    """A key: what it may be, and whether it may be null."""

    kind: Kind
    nullable: bool = False


# Which key is which

_BY_TYPE: dict[str, Kind] = {
    "Duration": Seconds(),
    "float": Number(1.0),
    "bool": Switch(),
    "Level": Choice(settings.LEVELS),
    "Format": Choice(settings.FORMATS),
    "Log": Section(settings.Log),
    "Web": Section(settings.Web),
    "Backoff": Section(settings.Backoff),
    "Retry": Section(settings.Retry),
    "Mapping[str, Pool]": Named(settings.Pool, "pool"),
    "Mapping[str, Schedule]": Named(settings.Schedule, "schedule"),
    "Missed": Choice(settings.MISSED),
    "Overlap": Choice(settings.OVERLAPS),
    "Any": Value(),
}

_BY_KEY: dict[type[Record], dict[str, Kind]] = {
    settings.Settings: {
        "name": Text(validators.check_name, "name", validators.NAME),
        "runtime_dir": Text(validators.folder, "path"),
        "state_dir": Text(validators.folder, "path"),
        "user": Text(validators.user, "user"),
        "group": Text(validators.group, "group"),
        "max_lease": Seconds(zero=False),
        "watchdog_quorum": Whole(0, MAX_WORKERS),
    },
    settings.Log: {"file": Text(validators.file, "path")},
    settings.Web: {"listen": Addresses()},
    settings.Pool: {
        "worker": Text(validators.worker_class, "class", validators.CLASS),
        "workers": Whole(1, MAX_WORKERS, "cpus"),
        "after": Names(),
        "path": Folders(),
        "env": Variables(),
        "env_file": Text(validators.file, "path"),
        "options": Plain(),
        "listen": Addresses(),
        "concurrency": Whole(1, settings.MOST_AT_ONCE),
        "ready_timeout": Seconds(zero=False),
        "round_timeout": Seconds(zero=False),
        "max_errors": Whole(1),
        "max_rounds": Whole(1),
        "max_waiting": Whole(1),
        "submit_group": Text(validators.group, "group"),
        "max_age": Seconds(zero=False),
        "max_rss": Bytes(1 << 20),
        "surge": Whole(0, MAX_WORKERS),
        "queue": Text(validators.queue, "URL", url_pattern()),
        "lease": Seconds(zero=False),
        "max_attempts": Whole(1, settings.MOST_ATTEMPTS),
    },
    settings.Backoff: {
        "first": Seconds(zero=False),
        "limit": Seconds(zero=False),
        "reset": Seconds(zero=False),
    },
    settings.Retry: {},
    settings.Schedule: {
        "pool": Text(validators.name_of_pool, "pool"),
        "cron": Text(validators.cron, "cron expression"),
        "every": Seconds(zero=False),
        "zone": Text(validators.zone, "time zone"),
    },
}

# What is no key of its own: the key above it, and what others make of it.
FILLED_IN: dict[type[Record], tuple[str, ...]] = {
    settings.Pool: ("name", "scheduled"),
    settings.Schedule: ("name",),
}
_fields: dict[type[Record], dict[str, Field]] = {}


def fields(record: type[Record]) -> dict[str, Field]:
    """Return the keys of *record* in a file, in order, and what each may be."""
    if record not in _fields:
        written = dict(record.__annotations__)
        for name in FILLED_IN.get(record, ()):
            del written[name]
        _fields[record] = {name: _field(record, name, text) for name, text in written.items()}
    return _fields[record]


def _field(record: type[Record], name: str, written: str) -> Field:
    kind = _BY_KEY[record].get(name) or _BY_TYPE[written.removesuffix(" | None")]
    return Field(kind, written.endswith(" | None"))
