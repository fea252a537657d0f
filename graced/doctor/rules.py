"""What is wrong with how the daemon is run: rules over facts that others have gathered.

A fact of the unit is a property as ``systemctl show`` prints it, so every rule can be
tested with a dict. What is looked at and printed is in :mod:`graced.doctor.facts`.
"""

from __future__ import annotations

from graced import program
from graced.exitcodes import ALREADY_RUNNING, CONFIG, USAGE
from graced.record import Record
from graced.units import show_duration, show_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from graced.settings import Pool, Settings

FINAL_CODES = (str(USAGE), str(ALREADY_RUNNING), str(CONFIG))  # another start mends none of them
NOTIFY_RELOAD_SINCE = 253
MARGIN = 5.0  # seconds that a stop may take beside its ladder
OWN_FILES = 64  # descriptors of the main process and of a zygote, beside two a worker

TIMES = {
    "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0,
    "day": 86400.0, "days": 86400.0, "w": 604800.0, "week": 604800.0, "weeks": 604800.0,
    "month": 2629800.0, "months": 2629800.0, "y": 31557600.0, "year": 31557600.0,
    "years": 31557600.0,
}  # fmt: skip

# What the shipped units protect, as a property and the values that are as good or better.
PROTECTIONS: Mapping[str, tuple[str, ...]] = {
    "NoNewPrivileges": ("yes",),
    "CapabilityBoundingSet": ("",),
    "AmbientCapabilities": ("",),
    "RestrictSUIDSGID": ("yes",),
    "RestrictNamespaces": ("yes",),
    "PrivateUsers": ("yes", "self", "identity", "managed"),
    "ProtectSystem": ("strict",),
    "ProtectHome": ("yes", "tmpfs"),
    "PrivateTmp": ("yes", "connected", "disconnected"),
    "PrivateMounts": ("yes",),
    "PrivateDevices": ("yes",),
    "DevicePolicy": ("closed", "strict"),
    "ProtectKernelTunables": ("yes",),
    "ProtectKernelModules": ("yes",),
    "ProtectKernelLogs": ("yes",),
    "ProtectControlGroups": ("yes", "private", "strict"),
    "ProtectClock": ("yes",),
    "ProtectHostname": ("yes", "private"),
    "LockPersonality": ("yes",),
    "RestrictRealtime": ("yes",),
    "ProtectProc": ("invisible", "ptraceable"),
    "PrivateIPC": ("yes",),
    "RemoveIPC": ("yes",),
    "KeyringMode": ("private",),
    "SystemCallArchitectures": ("native",),
}


class Facts(Record):
    """What is known of the unit in force, of the configuration and of the host."""

    unit: Mapping[str, str] | None = None  # None: not under systemd
    dropins: Mapping[str, str] = {}  # path and text of each
    version: int = 0  # systemd's, 0: unknown
    settings: Settings | None = None  # None: it can't be read
    pid1: bool = False  # the daemon is PID 1 of a container
    memory: int | None = None  # bytes that the host or the container has
    files: int | None = None  # descriptors that the daemon may open, where no unit says
    old: Mapping[str, tuple[str, str]] = {}  # what a daemon runs, and is installed as


class Finding(Record):
    """Something to mend; a hint is something to know."""

    subject: str  # the directive, for --ignore
    what: str
    remedy: str
    hint: bool = False


def diagnose(facts: Facts) -> list[Finding]:
    """Return all findings, of the unit first."""
    rules = (UNIT_RULES if facts.unit is not None else ()) + HOST_RULES
    return [finding for rule in rules for finding in rule(facts)]


# Reading what systemctl prints


def timespan(text: str) -> float:
    """Return the seconds of systemd's ``1min 30s``; infinite for what is none or has no end."""
    total = 0.0
    for word in text.split():
        unit = word.lstrip("0123456789.")
        number = word.removesuffix(unit)
        if unit not in TIMES or not number:
            return float("inf")
        total += float(number) * TIMES[unit]
    return total


def limit(text: str) -> int | None:
    """Return a number, None for ``infinity`` and for what is not set."""
    return int(text) if text.isascii() and text.isdigit() else None


def value(facts: Facts, name: str) -> str:
    """Return a property of the unit, empty if it has none."""
    return (facts.unit or {}).get(name, "")


def arguments(command: str) -> list[str]:
    """Return the command line in an ``Exec…`` property, ``{ path=… ; argv[]=… ; … }``."""
    return command.partition("argv[]=")[2].partition(" ; ")[0].split()


# What the configuration asks for


def ladder(settings: Settings) -> float:
    """Return the longest stop: pools that come after another one are stopped before it."""
    return max((_down_from(name, settings) for name in settings.pools), default=0.0)


def _down_from(name: str, settings: Settings) -> float:
    pool = settings.pools[name]
    before = (_down_from(other, settings) for other in pool.after)
    return pool.drain_timeout + pool.stop_timeout + max(before, default=0.0)


def appetite(settings: Settings) -> int:
    """Return the memory that the workers with a max_rss may have together."""
    return sum(_most(pool) for pool in settings.pools.values())


def _most(pool: Pool) -> int:
    return (pool.workers + pool.surge) * (pool.max_rss or 0)


# Rules of the unit: the dialogue with systemd


def _kind(facts: Facts) -> Iterator[Finding]:
    kind = value(facts, "Type")
    if kind == "notify-reload" and 0 < facts.version < NOTIFY_RELOAD_SINCE:
        what = f"systemd {facts.version} does not know Type=notify-reload and takes it for simple"
        yield Finding("Type", what, f"Type=notify, with ExecReload={program.name} reload")
    elif kind not in ("notify", "notify-reload"):
        what = (
            f"Type={kind}: systemd does not wait for the workers, shows no status, and gives no "
            "more time to a long drain"
        )
        yield Finding("Type", what, "Type=notify")


def _notify_access(facts: Facts) -> Iterator[Finding]:
    access = value(facts, "NotifyAccess")
    if access in ("all", "exec"):
        what = f"NotifyAccess={access}: code in a worker can speak for the daemon"
        yield Finding("NotifyAccess", what, "NotifyAccess=main")
    elif access == "none":
        what = "NotifyAccess=none: systemd does not listen to the daemon"
        yield Finding("NotifyAccess", what, "NotifyAccess=main")


def _watchdog(facts: Facts) -> Iterator[Finding]:
    if timespan(value(facts, "WatchdogUSec") or "0") in (0.0, float("inf")):
        what = "no watchdog: a daemon that is frozen stays so"
        yield Finding("WatchdogSec", what, "WatchdogSec=30")


def _exec_reload(facts: Facts) -> Iterator[Finding]:
    if value(facts, "Type") == "notify-reload":
        return
    words = arguments(value(facts, "ExecReload"))
    remedy = f"ExecReload={program.name} reload -c FILE, as in ExecStart="
    if not words:
        yield Finding("ExecReload", "there is no ExecReload=: systemctl reload fails", remedy)
    elif "reload" not in words:
        what = (
            f"ExecReload={' '.join(words)} does not wait: systemctl reload returns too early, "
            "and never says that a reload was refused"
        )
        yield Finding("ExecReload", what, remedy)


def _exec_start_pre(facts: Facts) -> Iterator[Finding]:
    words = arguments(value(facts, "ExecStartPre"))
    if "check" in words and value(facts, "Restart") != "no":
        what = (
            f"ExecStartPre={program.name} check: RestartPreventExitStatus= does not hold for it, "
            "so a wrong configuration is tried again and again"
        )
        yield Finding(
            "ExecStartPre", what, f"leave it out: {program.name} run makes the same checks"
        )


# Rules of the unit: stopping


def _kill_mode(facts: Facts) -> Iterator[Finding]:
    mode = value(facts, "KillMode")
    if mode == "control-group":
        what = (
            "KillMode=control-group: systemd signals every process itself, also those that workers "
            "have started, and a drain finds its tools gone"
        )
        yield Finding("KillMode", what, "KillMode=mixed")
    elif mode in ("process", "none"):
        what = f"KillMode={mode}: what is left of a daemon that crashed stays, and is never killed"
        yield Finding("KillMode", what, "KillMode=mixed")


def _kill_signal(facts: Facts) -> Iterator[Finding]:
    number = value(facts, "KillSignal")
    if number and number != "15":
        what = f"KillSignal={number}: a stop begins with another signal than SIGTERM, the drain"
        yield Finding("KillSignal", what, "KillSignal=SIGTERM")


def _send_sigkill(facts: Facts) -> Iterator[Finding]:
    if value(facts, "SendSIGKILL") == "no":
        what = "SendSIGKILL=no: processes that are stuck survive the stop"
        yield Finding("SendSIGKILL", what, "SendSIGKILL=yes")


def _timeout_stop(facts: Facts) -> Iterator[Finding]:
    if facts.settings is None:
        return
    needed = ladder(facts.settings)
    given = timespan(value(facts, "TimeoutStopUSec"))
    if given < needed:
        what = (
            f"TimeoutStopSec={show_duration(given)} is less than a stop may take by the "
            f"configuration, {show_duration(needed)}; it holds whenever the daemon cannot ask for "
            "more time"
        )
        yield Finding("TimeoutStopSec", what, f"TimeoutStopSec={_rounded(needed + MARGIN)}")


def _rounded(seconds: float) -> int:
    return -int(-seconds // 1)


# Rules of the unit: starting again


def _restart(facts: Facts) -> Iterator[Finding]:
    policy = value(facts, "Restart")
    if policy not in ("on-failure", "always"):
        what = f"Restart={policy or 'no'}: a daemon that failed is not started again"
        yield Finding("Restart", what, "Restart=on-failure")


def _prevented(facts: Facts) -> Iterator[Finding]:
    prevented = value(facts, "RestartPreventExitStatus").split()
    missing = [code for code in FINAL_CODES if code not in prevented]
    if missing and value(facts, "Restart") in ("on-failure", "always", "on-abnormal"):
        what = (
            f"exit status {', '.join(missing)}: tried again though no start can mend it "
            "(2 command line, 75 already running, 78 configuration)"
        )
        remedy = f"RestartPreventExitStatus={' '.join(FINAL_CODES)}"
        yield Finding("RestartPreventExitStatus", what, remedy)


def _oom_policy(facts: Facts) -> Iterator[Finding]:
    policy = value(facts, "OOMPolicy")
    if policy in ("stop", "kill"):
        what = f"OOMPolicy={policy}: one worker that is out of memory ends all of them"
        yield Finding("OOMPolicy", what, "OOMPolicy=continue")


# Rules of the unit: user and folders


def _user(facts: Facts) -> Iterator[Finding]:
    settings = facts.settings
    if settings is None:
        return
    user = value(facts, "User")
    is_root = user in ("", "root", "0") and value(facts, "DynamicUser") != "yes"
    if is_root and settings.user is None:
        what = "workers run as root"
        yield Finding("User", what, f"User={program.name}, or `user:` in the configuration")
    elif not is_root and settings.user not in (None, user):
        what = f"the configuration wants user {settings.user}, but User={user} cannot change it"
        yield Finding("User", what, f"User={settings.user}")
    elif is_root and settings.user is not None:
        what = f"systemd starts the daemon as root, which then becomes user {settings.user}"
        remedy = f"User={settings.user}, and no other line of the former root.conf"
        yield Finding("User", what, remedy)


def _runtime_directory(facts: Facts) -> Iterator[Finding]:
    settings = facts.settings
    folder = value(facts, "RuntimeDirectory").partition(" ")[0]
    if settings is None or settings.runtime_dir is not None or folder in ("", settings.name):
        return
    what = (
        f"RuntimeDirectory={folder}, but the configuration says name: {settings.name}: "
        f"{program.name} status and the like look in /run/{settings.name}"
    )
    yield Finding("RuntimeDirectory", what, f"name: {folder} in the configuration")


def _private_pids(facts: Facts) -> Iterator[Finding]:
    if value(facts, "PrivatePIDs") == "yes":
        what = f"PrivatePIDs=yes: commands such as {program.name} reload cannot be run in the unit"
        yield Finding("PrivatePIDs", what, "PrivatePIDs=no")


def _address_families(facts: Facts) -> Iterator[Finding]:
    families = value(facts, "RestrictAddressFamilies").split()
    named = "AF_UNIX" in (family.lstrip("~") for family in families)
    if families and named == families[0].startswith("~"):
        what = "RestrictAddressFamilies= without AF_UNIX: READY=1 cannot be said, no start succeeds"
        yield Finding("RestrictAddressFamilies", what, "RestrictAddressFamilies=AF_UNIX")


def _descriptor_store(facts: Facts) -> Iterator[Finding]:
    if facts.settings is None:
        return
    own = [text for pool in facts.settings.pools.values() for text in pool.listen]
    own += facts.settings.web.listen
    needed = sum(not text.startswith("fd:") for text in own)
    kept = limit(value(facts, "FileDescriptorStoreMax"))
    if kept is not None and kept < needed:
        what = f"FileDescriptorStoreMax={kept}: a crash closes sockets that pools listen on"
        yield Finding("FileDescriptorStoreMax", what, f"FileDescriptorStoreMax={needed}")


def _protections(facts: Facts) -> Iterator[Finding]:
    """Find the lines in drop-ins that undo what the shipped unit protects."""
    for name, good in PROTECTIONS.items():
        now = value(facts, name)
        if now in good:
            continue
        for place, line in _lines(facts, name):
            yield Finding(name, f"{place}: {line} undoes what the unit protects", "take it out")
    if facts.dropins and not value(facts, "SystemCallFilter"):
        for place, line in _lines(facts, "SystemCallFilter"):
            what = f"{place}: {line} allows every system call"
            yield Finding("SystemCallFilter", what, "take it out")


def _lines(facts: Facts, name: str) -> Iterator[tuple[str, str]]:
    for path, text in facts.dropins.items():
        for number, line in enumerate(text.splitlines(), 1):
            if line.partition("=")[0].strip() == name and "=" in line:
                yield f"{path}:{number}", line.strip()


def _reloaded(facts: Facts) -> Iterator[Finding]:
    if value(facts, "NeedDaemonReload") == "yes":
        what = "the unit's files have changed, and systemd has not read them yet"
        yield Finding("NeedDaemonReload", what, "systemctl daemon-reload")


# Rules of the host, with and without a unit


def _memory(facts: Facts) -> Iterator[Finding]:
    if facts.settings is None:
        return
    wanted = appetite(facts.settings)
    for name in ("MemoryMax", "MemoryHigh"):
        given = limit(value(facts, name))
        if given is not None and given < wanted:
            what = (
                f"{name}={show_size(given)} is less than the workers may have by max_rss, "
                f"{show_size(wanted)}: they are killed or slowed before they are recycled"
            )
            yield Finding(name, what, f"{name}={show_size(wanted)}, or a smaller max_rss")
    if facts.memory is not None and facts.memory < wanted:
        what = (
            f"workers may have {show_size(wanted)} by max_rss, but there are "
            f"{show_size(facts.memory)}"
        )
        yield Finding("max_rss", what, "a smaller max_rss, or fewer workers")


def _files(facts: Facts) -> Iterator[Finding]:
    if facts.settings is None:
        return
    given = limit(value(facts, "LimitNOFILESoft")) if facts.unit is not None else facts.files
    needed = OWN_FILES + 2 * sum(p.workers + p.surge for p in facts.settings.pools.values())
    if given is not None and given < needed:
        what = f"{given} files may be open, and so many workers need {needed}"
        remedy = f"LimitNOFILE={needed}" if facts.unit is not None else f"ulimit -n {needed}"
        yield Finding("LimitNOFILE", what, remedy)


def _old_code(facts: Facts) -> Iterator[Finding]:
    for name, (runs, installed) in facts.old.items():
        what = f"the daemon runs {name} {runs}, and {installed} is installed"
        remedy = f"systemctl restart {program.name}" if facts.unit is not None else "start it anew"
        yield Finding("Version", what, remedy)


def _container(facts: Facts) -> Iterator[Finding]:
    if not facts.pid1 or facts.settings is None:
        return
    seconds = _rounded(ladder(facts.settings) + MARGIN)
    what = (
        f"PID 1 of a container: a stop may take {show_duration(ladder(facts.settings))}, more than "
        "container managers wait by default, and has to begin with SIGTERM"
    )
    remedy = (
        f"STOPSIGNAL SIGTERM in the image if its base has another one, and docker stop --time "
        f"{seconds}, terminationGracePeriodSeconds: {seconds}"
    )
    yield Finding("STOPSIGNAL", what, remedy, hint=True)


if TYPE_CHECKING:
    Rule = Callable[[Facts], Iterator[Finding]]

UNIT_RULES: tuple[Rule, ...] = (
    _reloaded,
    _kind,
    _notify_access,
    _watchdog,
    _exec_reload,
    _exec_start_pre,
    _kill_mode,
    _kill_signal,
    _send_sigkill,
    _timeout_stop,
    _restart,
    _prevented,
    _oom_policy,
    _user,
    _runtime_directory,
    _private_pids,
    _address_families,
    _descriptor_store,
    _protections,
)
HOST_RULES: tuple[Rule, ...] = (_memory, _files, _old_code, _container)
