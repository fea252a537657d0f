"""What `graced doctor` finds: in the shipped units nothing, and each fault that is planted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from graced.doctor import facts as doctor
from graced.doctor import rules
from graced.doctor.rules import Facts, diagnose
from graced.settings import Pool, Settings

UNITS = Path(__file__).parents[2] / "systemd"
SETTINGS = Settings(pools={"jobs": Pool("jobs", workers=4)})
SHOWN = {  # directives that `systemctl show` calls otherwise
    "TimeoutStopSec": "TimeoutStopUSec",
    "TimeoutStartSec": "TimeoutStartUSec",
    "WatchdogSec": "WatchdogUSec",
}


def shipped(file: str = "graced.service", **planted: str) -> dict[str, str]:
    """Return a unit's properties as systemd would show them, from the file and its defaults."""
    properties = {"KillSignal": "15", "SendSIGKILL": "yes", "MemoryMax": "infinity"}
    properties |= {"LimitNOFILESoft": "1024", "NeedDaemonReload": "no", "DynamicUser": "no"}
    for line in (UNITS / file).read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and re.fullmatch(r"[A-Za-z]+", name):
            properties[SHOWN.get(name, name)] = _as_shown(name, value)
    return properties | planted


def _as_shown(name: str, value: str) -> str:
    if name.endswith("Sec"):
        return f"{value}s" if value.isdigit() else value
    if name.startswith("Exec") and name != "ExecSearchPath":
        return f"{{ path=/usr/bin/graced ; argv[]={value} ; ignore_errors=no ; pid=0 }}"
    return value


def subjects(facts: Facts) -> list[str]:
    return [finding.subject for finding in diagnose(facts)]


@pytest.mark.parametrize("file", ["graced.service", "graced@.service"])
def test_nothing_is_wrong_with_the_shipped_units(file: str) -> None:
    name = "graced" if "@" not in file else "graced-%i"
    settings = Settings(name=name, pools=SETTINGS.pools)
    unit = shipped(file)
    assert unit["ProtectSystem"] == "strict"  # it was read
    dropins = {"/x.conf": "[Service]\nEnvironment=TZ=UTC\n"}
    assert diagnose(Facts(unit, dropins, 257, settings, memory=1 << 30)) == []


def test_old_code_that_runs_on() -> None:
    facts = Facts(shipped(), settings=SETTINGS, old={"graced": ("0.1.0", "0.2.0")})
    [finding] = diagnose(facts)
    assert finding.what == "the daemon runs graced 0.1.0, and 0.2.0 is installed"
    assert finding.remedy == "systemctl restart graced"


PLANTED: list[tuple[Mapping[str, str], str]] = [
    ({"TimeoutStopUSec": "20s"}, "TimeoutStopSec"),
    ({"KillMode": "control-group"}, "KillMode"),
    ({"KillMode": "process"}, "KillMode"),
    ({"NotifyAccess": "all"}, "NotifyAccess"),
    ({"NotifyAccess": "none"}, "NotifyAccess"),
    ({"Type": "simple"}, "Type"),
    ({"WatchdogUSec": "0"}, "WatchdogSec"),
    ({"WatchdogUSec": "infinity"}, "WatchdogSec"),
    ({"LimitNOFILESoft": "64"}, "LimitNOFILE"),
    ({"RestartPreventExitStatus": "78"}, "RestartPreventExitStatus"),
    ({"Restart": "no"}, "Restart"),
    ({"OOMPolicy": "stop"}, "OOMPolicy"),
    ({"KillSignal": "2"}, "KillSignal"),
    ({"SendSIGKILL": "no"}, "SendSIGKILL"),
    ({"ExecReload": ""}, "ExecReload"),
    ({"ExecReload": "{ path=/bin/kill ; argv[]=/bin/kill -HUP $MAINPID ; }"}, "ExecReload"),
    ({"ExecStartPre": "{ path=graced ; argv[]=graced check ; }"}, "ExecStartPre"),
    ({"NeedDaemonReload": "yes"}, "NeedDaemonReload"),
    ({"User": ""}, "User"),
    ({"RuntimeDirectory": "app"}, "RuntimeDirectory"),
    ({"PrivatePIDs": "yes"}, "PrivatePIDs"),
    ({"RestrictAddressFamilies": "AF_INET AF_INET6"}, "RestrictAddressFamilies"),
    ({"RestrictAddressFamilies": "~AF_PACKET AF_UNIX"}, "RestrictAddressFamilies"),
    ({"RestrictAddressFamilies": "none"}, "RestrictAddressFamilies"),
]


@pytest.mark.parametrize(("planted", "subject"), PLANTED)
def test_a_planted_fault_is_found_and_nothing_else(
    planted: Mapping[str, str], subject: str
) -> None:
    [finding] = diagnose(Facts(shipped(**planted), version=257, settings=SETTINGS))
    assert finding.subject == subject
    assert finding.remedy
    assert not finding.hint


def test_sockets_that_a_crash_would_close() -> None:
    listen = ("tcp://127.0.0.1:80", "fd:web", "unix:///run/x")
    pools = {"web": Pool("web", listen=listen)}
    facts = Facts(shipped(), version=257, settings=Settings(pools=pools))
    assert diagnose(facts) == []
    unit = shipped(FileDescriptorStoreMax="1")
    [finding] = diagnose(facts.replace(unit=unit))
    assert finding.remedy == "FileDescriptorStoreMax=2"
    only_given = Settings(pools={"web": Pool("web", listen=("fd:web",))})
    unit = shipped(FileDescriptorStoreMax="0")
    assert diagnose(facts.replace(unit=unit, settings=only_given)) == []


@pytest.mark.parametrize(
    "fine",
    [
        {"RestrictAddressFamilies": ""},
        {"RestrictAddressFamilies": "~AF_PACKET"},
        {"RestrictAddressFamilies": "AF_UNIX"},
        {"TimeoutStopUSec": "infinity"},
        {"TimeoutStopUSec": "1min 30s"},
        {"Restart": "always"},
        {"Type": "notify-reload", "ExecReload": ""},
        {"MemoryMax": "[not set]"},
        {"User": "app"},
        {"User": "", "DynamicUser": "yes"},
    ],
)
def test_what_is_fine_is_left_alone(fine: Mapping[str, str]) -> None:
    assert subjects(Facts(shipped(**fine), version=257, settings=SETTINGS)) == []


def test_notify_reload_is_wrong_where_systemd_does_not_know_it() -> None:
    unit = shipped(Type="notify-reload")
    assert subjects(Facts(unit, version=252, settings=SETTINGS)) == ["Type"]
    assert subjects(Facts(unit, version=253, settings=SETTINGS)) == []


def test_pools_that_stop_one_after_another_add_up() -> None:
    pools = {"db": Pool("db"), "jobs": Pool("jobs", after=("db",), drain_timeout=60)}
    assert rules.ladder(Settings(pools=pools)) == 35 + 65
    [finding] = diagnose(Facts(shipped(), version=257, settings=Settings(pools=pools)))
    assert finding.remedy == "TimeoutStopSec=105"


@pytest.mark.parametrize("name", ["MemoryMax", "MemoryHigh"])
def test_memory_for_fewer_workers_than_there_are(name: str) -> None:
    settings = Settings(pools={"jobs": Pool("jobs", workers=4, max_rss=300 << 20)})
    enough, less = str(1500 << 20), str(1400 << 20)
    assert subjects(Facts(shipped(**{name: less}), settings=settings)) == [name]
    assert subjects(Facts(shipped(**{name: enough}), settings=settings)) == []
    [finding] = diagnose(Facts(settings=settings, memory=1400 << 20))
    assert finding.subject == "max_rss"
    assert finding.what.startswith("workers may have ")
    assert finding.what.endswith(" by max_rss, but there are 1400M")
    assert finding.remedy == "a smaller max_rss, or fewer workers"


def test_a_dropin_that_undoes_the_hardening_is_named_with_its_line() -> None:
    dropins = {"/etc/x.conf": "[Service]\n# a disk\nProtectSystem=no\nProtectHome=tmpfs\n"}
    unit = shipped(ProtectSystem="no", ProtectHome="tmpfs")
    [finding] = diagnose(Facts(unit, dropins, 257, SETTINGS))
    assert finding.subject == "ProtectSystem"
    assert finding.what.startswith("/etc/x.conf:3: ProtectSystem=no ")


def test_a_dropin_that_another_one_overrules_is_not() -> None:
    dropins = {"/etc/1.conf": "ProtectSystem=no\n", "/etc/2.conf": "ProtectSystem=strict\n"}
    assert subjects(Facts(shipped(), dropins, 257, SETTINGS)) == []


def test_a_filter_that_is_emptied_is_found() -> None:
    dropins = {"/etc/x.conf": "SystemCallFilter=\n"}
    assert subjects(Facts(shipped(SystemCallFilter=""), dropins, 257, SETTINGS)) == [
        "SystemCallFilter"
    ]


def test_the_shipped_dropin_is_no_fault() -> None:
    text = (UNITS / "hardened.conf").read_text()
    lines = (line.partition("=") for line in text.splitlines() if re.match(r"[A-Za-z]+=", line))
    unit = shipped(**{name: value for name, _, value in lines})
    assert subjects(Facts(unit, {"/etc/x.conf": text}, 257, SETTINGS)) == []


def test_a_user_that_the_unit_cannot_become() -> None:
    settings = Settings(user="app", pools=SETTINGS.pools)
    assert subjects(Facts(shipped(), settings=settings)) == ["User"]
    assert subjects(Facts(shipped(User="root"), settings=settings)) == ["User"]
    assert subjects(Facts(shipped(User="app"), settings=settings)) == []


def test_in_a_container_there_is_a_hint_that_is_no_fault() -> None:
    [finding] = diagnose(Facts(settings=SETTINGS, pid1=True))
    assert finding.hint
    assert "--time 40" in finding.remedy


def test_files_are_counted_without_a_unit_too() -> None:
    assert subjects(Facts(settings=SETTINGS, files=64)) == ["LimitNOFILE"]
    assert subjects(Facts(settings=SETTINGS, files=1024)) == []


def test_a_broken_configuration_does_not_hide_the_rest() -> None:
    assert subjects(Facts(shipped(Type="simple"))) == ["Type"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45s", 45),
        ("1min 30s", 90),
        ("500ms", 0.5),
        ("1h 5min", 3900),
        ("0", float("inf")),
        ("1.5s", 1.5),
        ("infinity", float("inf")),
        ("", 0),
    ],
)
def test_systemd_s_times_are_read(text: str, seconds: float) -> None:
    assert rules.timespan(text) == seconds


@pytest.mark.parametrize(
    ("cgroups", "user", "unit"),
    [
        ("0::/system.slice/graced.service\n", False, "graced.service"),
        ("0::/system.slice/system-graced.slice/graced@a.service\n", False, "graced@a.service"),
        ("0::/user.slice/user-1.slice/user@1.service/app.slice/a.service", True, "a.service"),
        ("0::/user.slice/user-1.slice/session-3.scope\n", False, None),
        ("12:pids:/x.service\n1:name=systemd:/system.slice/b.service\n0::/\n", False, "b.service"),
        ("0::/\n", False, None),
        ("", False, None),
    ],
)
def test_the_unit_of_a_process_is_found(cgroups: str, user: bool, unit: str | None) -> None:
    manager, found = doctor.unit_in(cgroups)
    assert found == unit
    assert bool(manager.options) == user
