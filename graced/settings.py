"""Every key of config.yaml, once: its name, its type, its default.

The annotations are read by :mod:`graced.config.schema`, and texts are turned into
these types by :mod:`graced.config.scalars`; nothing here knows of files or of YAML.
What each key means is told to users by :mod:`graced.config.reference`.
"""

from __future__ import annotations

from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Literal

    Level = Literal["debug", "info", "warning", "error"]
    Format = Literal["auto", "text", "json", "journal"]
    Missed = Literal["skip", "once", "all"]
    Overlap = Literal["queue", "skip"]

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("auto", "text", "json", "journal")
MISSED = ("skip", "once", "all")
OVERLAPS = ("queue", "skip")
PROGRAM = "graced.workers:Program"  # the worker whose options are checked with the configuration
MAX_LEASE = 3600.0  # seconds
MOST_ATTEMPTS = 1_000_000_000  # of a job: for ever, and still a number that fits everywhere

MOST_AT_ONCE = 10_000  # jobs in hand of one worker

Duration = float  # seconds; in a file also 500ms, 30s, 2m, 1h, 1d
Size = int  # bytes; in a file also 300M, 1G


class Backoff(Record):
    """How long to wait before the next start of a pool that keeps dying."""

    first: Duration = 0.1
    factor: float = 2.0
    limit: Duration = 30.0
    reset: Duration = 60.0


class Retry(Record):
    """How long a job that raised waits before its next attempt."""

    first: Duration = 1.0
    factor: float = 2.0
    limit: Duration = 600.0


class Log(Record):
    """Where log lines go, and how they look."""

    level: Level = "info"
    format: Format = "auto"
    file: str | None = None


class Web(Record):
    """Where the page, the metrics and the probes are, for all that may look."""

    listen: tuple[str, ...] = ()


class Pool(Record):
    """A named set of like workers."""

    name: str
    worker: str = "graced.workers:Command"
    workers: int = 1
    after: tuple[str, ...] = ()
    preload: bool = True
    path: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    env_file: str | None = None
    options: Mapping[str, Any] = {}
    listen: tuple[str, ...] = ()
    concurrency: int = 1
    ready_timeout: Duration = 30.0
    round_timeout: Duration | None = None
    drain_timeout: Duration = 30.0
    stop_timeout: Duration = 5.0
    max_errors: int = 10
    max_rounds: int | None = None
    max_age: Duration | None = None
    max_rss: Size | None = None
    surge: int = 1
    backoff: Backoff = Backoff()
    queue: str | None = None
    max_attempts: int = 3
    retry: Retry = Retry()
    keep_done: Duration = 86400.0
    max_waiting: int | None = None
    lease: Duration = 30.0
    submit_group: str | None = None
    scheduled: tuple[str, ...] = ()  # no key: the schedules that submit to it


class Schedule(Record):
    """A job that is submitted again and again, by the clock."""

    name: str
    pool: str = ""
    cron: str | None = None
    every: Duration | None = None
    zone: str = "UTC"
    payload: Any | None = None
    missed: Missed = "once"
    overlap: Overlap = "queue"
    jitter: Duration = 0.0


class Settings(Record):
    """The whole configuration of one daemon."""

    name: str = "graced"
    runtime_dir: str | None = None
    state_dir: str | None = None
    user: str | None = None
    group: str | None = None
    max_lease: Duration = MAX_LEASE
    log: Log = Log()
    watchdog_quorum: int = 1
    web: Web = Web()
    pools: Mapping[str, Pool] = {}
    schedules: Mapping[str, Schedule] = {}
