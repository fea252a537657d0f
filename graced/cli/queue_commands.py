"""`graced queue init` and `graced queue status`: what is done to a server, and how it is.

Both talk to the server themselves, whether a daemon runs or not. A file needs nothing, and is
only looked at.
"""

from __future__ import annotations

import json
import os

from graced.cli.errors import CommandError
from graced.config import reader
from graced.exitcodes import CONFIG, FAILED, USAGE
from graced.host import directories
from graced.log.console import complain, say
from graced.queue.engines import engine_of, file_of, is_served
from graced.queue.protocol import ClientMissing, QueueError
from graced.text import one_line as plain
from graced.units import format_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from graced.settings import Pool, Settings


def _settings(args: argparse.Namespace) -> Settings:
    reading = reader.read(args.config, os.environ, args.set, to_run=False)
    if reading.settings is None:
        for problem in reading.problems:
            say(str(problem))
        raise CommandError("the configuration is wrong", CONFIG)
    return reading.settings


def _meant(args: argparse.Namespace, pools: Mapping[str, Pool]) -> list[Pool]:
    """Return the pool that is named, or all of them."""
    if args.pool is not None and args.pool not in pools:
        raise CommandError(f"there is no pool {args.pool!r}; there are {', '.join(pools)}", USAGE)
    return list(pools.values()) if args.pool is None else [pools[args.pool]]


def _init(args: argparse.Namespace) -> int:
    pools = [p for p in _meant(args, _settings(args).pools) if is_served(p.queue)]
    if not pools and args.pool is None:
        raise CommandError("no pool's queue is on a server: nothing to do", USAGE)
    if not pools:
        raise CommandError(f"the queue of pool {args.pool} is a file, and needs nothing", USAGE)
    if args.show:
        texts = [engine_of(pool.queue).script(pool.queue or "") for pool in pools]
        print("".join(dict.fromkeys(texts)), end="")
        return 0
    places = {pool.queue or "": pool for pool in pools}
    return _for_each(places.values(), lambda p: f"{engine_of(p.queue).init(p.queue or '')}: ready")


def _status(args: argparse.Namespace) -> int:
    settings = _settings(args)
    folder = directories.find_state(settings.name, settings.state_dir, os.environ)
    files = {p.name: file_of(p.queue, p.name, folder) for p in _meant(args, settings.pools)}
    pools = [
        settings.pools[name]
        for name, file in files.items()
        if is_served(settings.pools[name].queue) or os.path.exists(file)
    ]
    if not pools:
        made = "a file is made when a daemon runs, or with the first job"
        raise CommandError(f"there is no queue yet: {made}", FAILED)
    found = {}

    def text(pool: Pool) -> str:
        engine, name = engine_of(pool.queue), pool.name
        found[name] = engine.status(pool.queue or "", name, files[name])
        return "" if args.json else "\n".join(_shown(name, found[name]))

    status = _for_each(pools, text)
    if args.json:
        print(json.dumps(found))
    return status


def _for_each(pools: Iterable[Pool], text: Callable[[Pool], str]) -> int:
    """Print what there is to say of each, also where another one fails."""
    status = 0
    for pool in pools:
        try:
            if told := text(pool):
                print("\n".join(map(plain, told.splitlines())), flush=True)
        except ClientMissing:
            raise
        except QueueError as error:
            complain(error)
            status = FAILED
    return status


def _shown(name: str, status: dict[str, Any]) -> list[str]:
    counts = status["counts"]
    lines = [
        f"queue {status['queue']} (pool {name})",
        f"  {status['engine']} {status['version']} at {status['url']}",
        f"  durability: {status['durability']}",
        *(f"  warning: {warning}" for warning in status["warnings"]),
        "  "
        + ", ".join(f"{counts[state]} {state}" for state in counts if state in _STATES)
        + ("; paused" if counts.get("paused") else ""),
    ]
    for host in status["hosts"]:
        left = format_duration(max(host["left"], 0.0))
        over = "is over" if host["left"] <= 0 else f"good for {left}"
        daemon = host["daemon"].rpartition("/")[2]
        lines.append(
            f"  host {host['name']}, daemon {daemon}: {host['taken']} in hand, lease {over}"
        )
    if not status["hosts"] and status["engine"] != "sqlite":
        lines.append("  no host takes jobs from it now")
    return lines


_STATES = ("waiting", "taken", "done", "dead")
COMMANDS = {"init": _init, "status": _status}
