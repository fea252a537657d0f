"""`graced doctor`: is the daemon run in a way that keeps its promises?

The facts are gathered by :mod:`graced.doctor.facts`, judged by :mod:`graced.doctor.rules`,
and what is found is printed here.
"""

from __future__ import annotations

from graced.cli.daemon_commands import ask, named_socket, socket_path
from graced.control.client import ControlError, NoDaemonError
from graced.doctor.facts import UnknownUnitError, gather
from graced.doctor.rules import Facts, Finding, diagnose
from graced.exitcodes import FAILED, NO_DAEMON
from graced.log.console import complain, say
from graced.text import harmless

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence


def doctor(args: argparse.Namespace) -> int:
    """Print what is wrong with the unit in force, and how to mend it; return the exit status."""
    try:
        name, facts, problems = gather(args.unit, args.config, args.set, _pid(args))
    except UnknownUnitError as error:
        complain(error)
        return NO_DAEMON
    for problem in problems:
        say(str(problem))
    findings = [f for f in diagnose(facts) if f.subject not in args.ignore]
    print(harmless("\n".join(_report(findings, name or "no unit of systemd", facts))))
    return FAILED if facts.settings is None or any(not f.hint for f in findings) else 0


def _pid(args: argparse.Namespace) -> int | None:
    """Return the running daemon's number; None if a unit is named, or none runs."""
    if args.unit is None or args.config is not None:
        socket_path(args)  # which daemon is meant is known, or said not to be
    if args.unit is not None:
        return None
    try:
        return int(ask(args, "status")["status"]["pid"])
    except (ControlError, NoDaemonError, OSError):  # then it looks at what would be started
        if named_socket(args) is not None:
            raise
        return None


def _report(findings: Sequence[Finding], where: str, facts: Facts) -> Iterator[str]:
    for finding in findings:
        yield f"{'hint' if finding.hint else 'wrong'}: {finding.what}"
        yield f"       → {finding.remedy}"
    faults = sum(not finding.hint for finding in findings)
    if facts.settings is None:
        yield f"{where}: the configuration cannot be read, so not all could be looked at"
    else:
        yield f"{where}: {faults or 'nothing'} wrong"
