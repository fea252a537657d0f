"""`graced queue init` and `graced queue status`: what is done to a server, and how it is.

Both talk to the server themselves, whether a daemon runs or not.
"""

from __future__ import annotations

import json
import os

from graced.cli.errors import CommandError
from graced.config import reader
from graced.exitcodes import CONFIG, FAILED, USAGE
from graced.log.console import complain, say
from graced.queue.engines import engine_of
from graced.queue.protocol import ClientMissing, QueueError
from graced.text import one_line as plain
from graced.units import format_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable
    from typing import Any

    from graced.settings import Pool


def _pools(args: argparse.Namespace) -> list[Pool]:
    """Return the pools that are meant; by default all whose queue is on a server."""
    reading = reader.read(args.config, os.environ, args.set, to_run=False)
    if reading.settings is None:
        for problem in reading.problems:
            say(str(problem))
        raise CommandError("the configuration is wrong", CONFIG)
    pools = reading.settings.pools
    if args.pool is None:
        found = [pool for pool in pools.values() if engine_of(pool.queue).LIBRARY is not None]
        if not found:
            raise CommandError("no pool's queue is on a server: nothing to do", USAGE)
        return found
    if args.pool not in pools:
        raise CommandError(f"there is no pool {args.pool!r}; there are {', '.join(pools)}", USAGE)
    pool = pools[args.pool]
    if engine_of(pool.queue).LIBRARY is None:
        raise CommandError(f"the queue of pool {pool.name} is a file, and needs nothing", USAGE)
    return [pool]


def _init(args: argparse.Namespace) -> int:
    pools = _pools(args)
    if args.show:
        texts = [engine_of(pool.queue).script(pool.queue or "") for pool in pools]
        print("".join(dict.fromkeys(texts)), end="")
        return 0
    places = {pool.queue or "": pool for pool in pools}
    return _for_each(places.values(), lambda p: f"{engine_of(p.queue).init(p.queue or '')}: ready")


def _status(args: argparse.Namespace) -> int:
    found = {}

    def text(pool: Pool) -> str:
        found[pool.name] = engine_of(pool.queue).status(pool.queue or "", pool.name)
        return "" if args.json else "\n".join(_shown(pool.name, found[pool.name]))

    status = _for_each(_pools(args), text)
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
        lines.append(f"  host {host['name']}: {host['taken']} in hand, lease {over}")
    if not status["hosts"]:
        lines.append("  no host takes jobs from it now")
    return lines


_STATES = ("waiting", "taken", "done", "dead")
COMMANDS = {"init": _init, "status": _status}
