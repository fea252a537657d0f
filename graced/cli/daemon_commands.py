"""The commands that ask a running daemon: over its control socket, wherever that is."""

from __future__ import annotations

from graced.cli.where import socket_path
from graced.config.identity import KEYS
from graced.control.client import Connection, ControlError, call
from graced.exitcodes import FAILED
from graced.log.console import complain
from graced.text import harmless
from graced.units import format_span

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

REPLY_TIMEOUT_S = 30.0  # for answers that need no waiting
PROBE_TIMEOUT_S = 5.0  # a healthy daemon has answered by then


def _status(args: argparse.Namespace) -> int:
    status = ask(args, "status")["status"]
    if args.json:
        from json import dumps

        print(dumps(status))
    else:
        from graced.cli.status_table import table

        print(table(status), end="")
    return 0


def _schedules(args: argparse.Namespace) -> int:
    schedules = ask(args, "status")["status"].get("schedules", {})
    if args.json:
        from json import dumps

        print(dumps(schedules))
    else:
        from graced.cli.schedule_table import table

        print(table(schedules), end="")
    return 0


def _health(args: argparse.Namespace) -> int:
    reply = ask(args, "health", timeout=PROBE_TIMEOUT_S)
    if not reply["healthy"]:
        _show(f"unhealthy: {reply['health']}")
        return FAILED
    if args.ready and not reply["ready"]:
        _show(f"not ready: {reply['status']}")
        return FAILED
    beyond = _beyond_limits(args)
    if beyond:
        _show(f"unhealthy: {'; '.join(beyond)}")
        return FAILED
    _show(f"healthy: {reply['status'] if args.ready else reply['health']}")
    return 0


def _beyond_limits(args: argparse.Namespace) -> list[str]:
    """Return which queues have more dead jobs, or older ones, than the command line allows."""
    if args.max_dead is None and args.max_oldest is None:
        return []
    pools = ask(args, "status", timeout=PROBE_TIMEOUT_S)["status"]["pools"]
    found = []
    for pool, queue in ((name, pool["queue"]) for name, pool in pools.items() if pool["queue"]):
        dead, oldest = queue["dead"], queue.get("oldest", 0.0)
        if dead is None:
            found.append(f"queue {pool}: its keeper has not told how many jobs there are")
        elif args.max_dead is not None and dead > args.max_dead:
            found.append(f"queue {pool}: {dead} dead jobs; at most {args.max_dead} are healthy")
        if args.max_oldest is not None and oldest > args.max_oldest:
            waited, limit = format_span(oldest), format_span(args.max_oldest)
            found.append(f"queue {pool}: a due job has waited for {waited}; {limit} are healthy")
    return found


def _reload(args: argparse.Namespace) -> int:
    for flag in args.set:
        key = flag.partition("=")[0]
        if key not in KEYS:
            complain(f"--set {key} has no effect on a daemon that runs: change the file")
    reply = ask(args, "reload", timeout=None)
    generation = reply.get("generation")
    print("reloaded" if generation is None else f"reloaded: generation {generation}")
    return 0


def _stop(args: argparse.Namespace) -> int:
    with Connection(socket_path(args)) as connection:
        reply = connection.call("stop", {"now": args.now})
        connection.wait_gone()
    if reply.get("error"):
        complain(reply["error"])
    return int(reply.get("code", 0 if reply.get("ok") else FAILED))


def _scale(args: argparse.Namespace) -> int:
    reply = ask(args, "scale", {"pool": args.pool, "workers": args.workers})
    _show(f"{reply.get('pool')}: {reply.get('from')} → {reply.get('to')} workers")
    return 0


def _stacks(args: argparse.Namespace) -> int:
    for entry in ask(args, "stacks")["stacks"]:
        _show(f"== {_process(entry)}")
        _show(entry.get("stack", "").rstrip("\n") + "\n")
    return 0


def _show(text: str) -> None:
    """Print what a daemon says: its workers may have said it before."""
    print(harmless(text))


def _process(entry: dict[str, Any]) -> str:
    if "pool" not in entry:
        return f"{entry.get('process')} process (pid {entry.get('pid')})"
    where = f"{entry.get('process')} {entry['pool']}/{entry.get('slot')}"
    return f"{where} (pid {entry.get('pid')}, generation {entry.get('generation')})"


def ask(
    args: argparse.Namespace,
    command: str,
    arguments: dict[str, Any] | None = None,
    timeout: float | None = REPLY_TIMEOUT_S,
) -> dict[str, Any]:
    """Return the daemon's reply. Raises ControlError if it has refused."""
    reply = call(socket_path(args), command, arguments, timeout)
    if not reply.get("ok"):
        raise ControlError(str(reply.get("error") or f"{command} failed, without a reason"))
    return reply


COMMANDS = {
    "status": _status,
    "schedules": _schedules,
    "health": _health,
    "reload": _reload,
    "stop": _stop,
    "scale": _scale,
    "stacks": _stacks,
}
