"""What the rules of :mod:`graced.doctor.rules` look at, gathered from systemd and the kernel.

Changes nothing. It asks systemctl, so it needs no rights but those to look.
"""

from __future__ import annotations

import os
import subprocess

from graced import program
from graced.config import reader
from graced.doctor.rules import Facts, arguments
from graced.exitcodes import NO_DAEMON, ReportedError
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from graced.config.nodes import Problem

SYSTEMCTL_TIMEOUT_S = 30.0  # it waits for a busy systemd
MAX_FILE_BYTES = 1 << 20


class Manager(Record):
    """Which systemd: the host's, or the user's own."""

    options: tuple[str, ...] = ()

    def ask(self, *words: str) -> str | None:
        """Return what systemctl prints, None if there is no systemd that answers."""
        line = ["systemctl", *self.options, "--no-pager", *words]
        environ = {**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"}
        try:
            done = subprocess.run(
                line,
                env=environ,
                capture_output=True,
                text=True,
                timeout=SYSTEMCTL_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None


class UnknownUnitError(ReportedError):
    """systemd knows no unit of this name."""

    exit_code = NO_DAEMON


def gather(
    unit: str | None, config: str | None, sets: Sequence[str], pid: int | None
) -> tuple[str | None, Facts, Sequence[Problem]]:
    """Return the unit in force, what there is to know of it, and the configuration's problems.

    `pid` is the running daemon's, or None: without a `unit` it is the one that `pid` is in,
    else the program's; None if that is none of systemd's. Raises UnknownUnitError.
    """
    manager, name = _named(unit) if unit is not None else _of(pid)
    properties = _properties(manager, name) if name is not None else None
    if unit is not None and properties is None:
        raise UnknownUnitError(f"systemd knows no unit {name}")
    facts, problems = _facts(manager, properties, config, sets, pid)
    return name if properties is not None else None, facts, problems


# The unit in force


def _named(unit: str) -> tuple[Manager, str]:
    return Manager(), unit if "." in unit else f"{unit}.service"


def _of(pid: int | None) -> tuple[Manager, str | None]:
    """Return the unit that a process is in; the usual one, if there is no process."""
    if pid is None:
        return Manager(), f"{program.name}.service"
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
) -> tuple[Facts, Sequence[Problem]]:
    told, told_sets = _told((properties or {}).get("ExecStart", ""))
    paths = (properties or {}).get("DropInPaths", "").split()
    reading = reader.read(config or told, os.environ, [*told_sets, *sets], to_run=False)
    facts = Facts(
        unit=properties,
        dropins={path: _read(path) or "" for path in paths},
        version=_version(manager) if properties is not None else 0,
        settings=reading.settings,
        pid1=properties is None and pid == 1,
        memory=_memory(),
        files=_files(pid),
    )
    return facts, reading.problems


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
            return file.read(MAX_FILE_BYTES)
    except OSError:
        return None
