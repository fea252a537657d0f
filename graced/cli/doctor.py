"""`graced doctor`: is the daemon run in a way that keeps its promises?

The facts are gathered by :mod:`graced.doctor.facts`, judged by :mod:`graced.doctor.rules`,
and what is found is printed here.
"""

from __future__ import annotations

from graced import __version__, program
from graced.cli.daemon_commands import ask
from graced.cli.where import socket_path, where
from graced.client.daemon import named_socket
from graced.control.client import ControlError, NoDaemonError
from graced.doctor.facts import gather
from graced.doctor.rules import Facts, Finding, diagnose
from graced.exitcodes import FAILED
from graced.log.console import say
from graced.queue.engines import engine_of, is_served
from graced.queue.protocol import QueueError
from graced.text import harmless

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any


def doctor(args: argparse.Namespace) -> int:
    """Print what is wrong with the unit in force, and how to mend it; return the exit status."""
    running = _running(args)
    pid = int(running["pid"]) if running is not None else None
    name, facts, problems = gather(args.unit, args.config, args.set, pid)
    for problem in problems:
        say(str(problem))
    found = [*diagnose(facts.replace(old=_old(running or {}))), *_servers(facts)]
    findings = [f for f in found if f.subject not in args.ignore]
    print(harmless("\n".join(_report(findings, name or "no unit of systemd", facts))))
    return FAILED if facts.settings is None or any(not f.hint for f in findings) else 0


def _running(args: argparse.Namespace) -> Mapping[str, Any] | None:
    """Return the running daemon's status; None if a unit is named, or none runs."""
    if args.unit is None or args.config is not None:
        socket_path(args)  # which daemon is meant is known, or said not to be
    if args.unit is not None:
        return None
    try:
        status: dict[str, Any] = ask(args, "status")["status"]
        return status
    except (ControlError, NoDaemonError, OSError):  # then it looks at what would be started
        if named_socket(where(args)) is not None:
            raise
        return None


def _old(status: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the versions that a daemon runs where others are installed, by name."""
    if status.get("program", program.name) != program.name:  # what is installed of it, it knows
        return {}
    runs = {program.name: status.get("version"), "graced": status.get("graced")}
    here = {program.name: program.version, "graced": __version__}
    return {
        name: (said, here[name]) for name, said in runs.items() if said not in (None, here[name])
    }


def _servers(facts: Facts) -> Iterator[Finding]:
    """Return what the servers of queues do not promise, as they are set, or why they don't say."""
    look = f"see `{program.name} queue status`"
    for pool in () if facts.settings is None else facts.settings.pools.values():
        if not is_served(pool.queue):
            continue
        where = f"queue of pool {pool.name}"
        try:
            status = engine_of(pool.queue).status(pool.queue or "", pool.name, "")
        except QueueError as error:
            what, _, remedy = str(error).rpartition("; ")
            yield Finding("queue", f"{where}: {what or remedy}", remedy if what else look)
            continue
        for warning in status["warnings"]:
            what, _, remedy = warning.rpartition("; ")
            yield Finding(
                "queue", f"{where}: {what or remedy}", remedy if what else look, hint=True
            )


def _report(findings: Sequence[Finding], where: str, facts: Facts) -> Iterator[str]:
    for finding in findings:
        yield f"{'hint' if finding.hint else 'wrong'}: {finding.what}"
        yield f"       → {finding.remedy}"
    faults = sum(not finding.hint for finding in findings)
    if facts.settings is None:
        yield f"{where}: the configuration cannot be read, so not all could be looked at"
    else:
        yield f"{where}: {faults or 'nothing'} wrong"
