"""`graced doctor`: is the daemon run in a way that keeps its promises?

Gathers what the rules of :mod:`graced.doctor.rules` look at, and prints what they find.
Changes nothing. It asks systemctl, so it needs no rights but those to look.
"""

from __future__ import annotations

import os
import subprocess

from graced.config import reader
from graced.doctor.rules import Facts, Finding, arguments, diagnose
from graced.exitcodes import FAILED, NO_DAEMON
from graced.log.console import say
from graced.record import Record
from graced.text import harmless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Final

DEFAULT_UNIT: Final = "graced.service"
PATIENCE: Final = 30.0  # seconds for systemctl, which waits for a busy systemd
LARGEST_FILE: Final = 1 << 20


class Manager(Record):
    """Which systemd: the host's, or the user's own."""

    options: tuple[str, ...] = ()

    def ask(self, *words: str) -> str | None:
        """Return what systemctl prints, None if there is no systemd that answers."""
        line = ["systemctl", *self.options, "--no-pager", *words]
        environ = {**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"}
        try:
            done = subprocess.run(
                line, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None


def doctor(
    unit: str | None,
    config: str | None,
    sets: Sequence[str],
    pid: int | None,
    ignore: Sequence[str] = (),
) -> int:
    """Print what is wrong with the unit in force, and how to mend it; return the exit status.

    `pid` is the running daemon's, or None: without a `unit` it is the one that `pid` is in,
    else graced.service.
    """
    manager, name = _named(unit) if unit is not None else _of(pid)
    properties = _properties(manager, name) if name is not None else None
    if unit is not None and properties is None:
        say(f"graced: systemd knows no unit {name}")
        return NO_DAEMON
    facts = _facts(manager, properties, config, sets, pid)
    findings = [f for f in diagnose(facts) if f.subject not in ignore]
    where = name if properties is not None and name is not None else "no unit of systemd"
    print(harmless("\n".join(_report(findings, where, facts))))
    return FAILED if facts.settings is None or any(not f.hint for f in findings) else 0


def _report(findings: Sequence[Finding], where: str, facts: Facts) -> Iterator[str]:
    for finding in findings:
        yield f"{'hint' if finding.hint else 'wrong'}: {finding.what}"
        yield f"       → {finding.remedy}"
    faults = sum(not finding.hint for finding in findings)
    if facts.settings is None:
        yield f"{where}: the configuration cannot be read, so not all could be looked at"
    else:
        yield f"{where}: {faults or 'nothing'} wrong"


# The unit in force


def _named(unit: str) -> tuple[Manager, str]:
    return Manager(), unit if "." in unit else f"{unit}.service"


def _of(pid: int | None) -> tuple[Manager, str | None]:
    """Return the unit that a process is in; the usual one, if there is no process."""
    if pid is None:
        return Manager(), DEFAULT_UNIT
    return unit_in(_read(f"/proc/{pid}/cgroup") or "")


def unit_in(cgroups: str) -> tuple[Manager, str | None]:
    """Return the service that the lines of a /proc/PID/cgroup name."""
    for line in cgroups.splitlines():
        _, _, controllers_and_path = line.partition(":")
        controllers, _, path = controllers_and_path.partition(":")
        services = [part for part in path.split("/") if part.endswith(".service")]
        if services and controllers in ("", "name=systemd"):  # version 2, or systemd's own
            own = services[0].startswith("user@") and len(services) > 1
            return Manager(("--user",) if own else ()), services[-1]
    return Manager(), None


def _properties(manager: Manager, name: str) -> dict[str, str] | None:
    """Return what systemd says of a unit, None if it knows none of this name."""
    said = manager.ask("show", "--all", "--", name)
    pairs = (line.partition("=") for line in (said or "").splitlines())
    properties = {key: value for key, _, value in pairs}
    if properties.get("LoadState") != "loaded":
        return None
    if properties.get("MainPID", "0") == "0":
        properties["WatchdogUSec"] = _planned_watchdog(properties)
    return properties


def _planned_watchdog(properties: Mapping[str, str]) -> str:
    """Return WatchdogSec= from the unit's files: systemd shows it only once it has started."""
    files = [properties.get("FragmentPath", ""), *properties.get("DropInPaths", "").split()]
    seconds = "0"
    for line in "\n".join(_read(file) or "" for file in files).splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "WatchdogSec":
            seconds = value.strip()
    return f"{seconds}s" if seconds.isdigit() else seconds


def _version(manager: Manager) -> int:
    words = (manager.ask("--version") or "").split()
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


# Facts


def _facts(
    manager: Manager,
    properties: Mapping[str, str] | None,
    config: str | None,
    sets: Sequence[str],
    pid: int | None,
) -> Facts:
    told, told_sets = _told((properties or {}).get("ExecStart", ""))
    reading = reader.read(config or told, os.environ, [*told_sets, *sets], to_run=False)
    for problem in reading.problems:
        say(str(problem))
    return Facts(
        unit=properties,
        dropins=_texts((properties or {}).get("DropInPaths", "")),
        version=_version(manager) if properties is not None else 0,
        settings=reading.settings,
        pid1=properties is None and pid == 1,
        memory=_memory(),
        files=_files(pid),
    )


def _told(exec_start: str) -> tuple[str | None, list[str]]:
    """Return -c and --set of the command line that the unit starts."""
    config, sets = None, []
    words = iter(arguments(exec_start))
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("-c", "--config"):
            config = value if equals else next(words, None)
        elif name == "--set":
            sets.append(value if equals else next(words, ""))
    return config, sets


def _texts(paths: str) -> dict[str, str]:
    return {path: _read(path) or "" for path in paths.split()}


def _memory() -> int | None:
    """Return the bytes that a daemon may have here: of the host, or of its container."""
    limits = [_total(), _number(_read("/sys/fs/cgroup/memory.max"))]
    return min((bytes_ for bytes_ in limits if bytes_ is not None), default=None)


def _total() -> int | None:
    for line in (_read("/proc/meminfo") or "").splitlines():
        key, _, rest = line.partition(":")
        if key == "MemTotal":
            kilobytes = _number(rest.split()[0])
            return None if kilobytes is None else kilobytes * 1024
    return None


def _files(pid: int | None) -> int | None:
    """Return how many descriptors a process may have open: its soft limit."""
    for line in (_read(f"/proc/{pid or 'self'}/limits") or "").splitlines():
        if line.startswith("Max open files"):
            return _number(line.split()[3])
    return None


def _number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _read(path: str) -> str | None:
    """Return a small file's text, None if it can't be had."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(LARGEST_FILE)
    except OSError:
        return None
