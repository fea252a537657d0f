"""The commands that look at a daemon: `metrics` now, `history` at what was."""

from __future__ import annotations

import os

from graced.cli.daemon_commands import ask
from graced.cli.errors import CommandError
from graced.control.client import NoDaemonError, WhichDaemon
from graced.exitcodes import USAGE
from graced.text import harmless, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any

    from graced.settings import Settings

    Event = dict[str, Any]


def _metrics(args: argparse.Namespace) -> int:
    from graced.monitoring.exposition import written
    from graced.monitoring.families import families

    print(written(families(ask(args, "metrics")), openmetrics=args.openmetrics), end="")
    return 0


def _history(args: argparse.Namespace) -> int:
    from time import time_ns

    from graced import clock
    from graced.monitoring.history import chosen, events

    now = time_ns()
    since = clock.iso(now - int(args.since * 1_000_000_000))
    told = [event for data in _chunks(args) for event in events(data)]
    found = chosen(told, since, args.pool)
    if args.pool is not None and all(event.get("pool") != args.pool for event in told):
        _check_pool(args)
    if args.svg is not None:
        from graced.monitoring.timeline import drawn

        with open(args.svg, "w", encoding="utf-8") as file:
            file.write(drawn(found, since, clock.iso(now)))
    elif args.json:
        from json import dumps

        for event in found:
            print(dumps(event))
    else:
        for event in found:
            _show(event)
    return 0


def _chunks(args: argparse.Namespace) -> Iterator[bytes]:
    """Yield all that there is of the history, as the daemon has it, or without one its files."""
    try:
        place: Any = (0, 0)
        while place is not None:
            answer = ask(args, "history", {"place": place})
            yield answer["lines"].encode("ascii", "replace")
            place = answer["place"]
        return
    except NoDaemonError:
        if args.socket or os.environ.get("GRACED_SOCKET"):
            raise
    from graced.monitoring.history import START, chunk

    folder = _folder(args)
    next_place: Any = START
    while (found := chunk(folder, next_place))[1] is not None:
        data, next_place = found
        yield data


def _check_pool(args: argparse.Namespace) -> None:
    """Refuse a pool that there is not now; nothing was ever told of it."""
    try:
        pools = list(ask(args, "status")["status"]["pools"])
    except NoDaemonError:
        pools = list(_settings(args).pools)
    if args.pool not in pools:
        raise CommandError(f"there is no pool {args.pool!r}; there are {', '.join(pools)}", USAGE)


def _folder(args: argparse.Namespace) -> str:
    """Return where a daemon that does not run has its history."""
    from graced.host import directories

    settings = _settings(args)
    return directories.find_state(settings.name, settings.state_dir, os.environ)


def _settings(args: argparse.Namespace) -> Settings:
    from graced.config import reader

    settings = reader.read(args.config, os.environ, args.set, to_run=False).settings
    if settings is None:
        raise WhichDaemon("no daemon runs, and its configuration is wrong: see the command check")
    return settings


def _show(event: Event) -> None:
    from graced.monitoring.words import said

    print(f"{event['at'][:10]} {event['at'][11:19]}  {one_line(said(event))}")
    for line in str(event.get("stack") or "").splitlines():
        print(f"    {harmless(line)}")


COMMANDS = {"metrics": _metrics, "history": _history}
