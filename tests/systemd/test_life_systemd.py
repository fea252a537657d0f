"""graced under real systemds: what operators type, and what they see then.

Where no machine can be booted these are skipped, and say why.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from machine import APP, GATE, ROOT_CONF, SUITES, UNIT, Machine

pytestmark = pytest.mark.timeout(1800)  # the first one may have to build a file system


def start(
    machine: Machine, worker: str = "sample_workers:Idle", workers: int = 2, **keys: Any
) -> None:
    """Configure and start the daemon; return when systemd says that it has started."""
    machine.configure(worker, workers, **keys)
    machine.systemctl("start")


def said_by_now(machine: Machine, pattern: str, count: int) -> None:
    """Check that so many lines were said before this moment, though they may be read later."""
    now = time.monotonic()
    assert all(line.at < now for line in machine.events.wait(pattern, count))


def whole_rounds(machine: Machine, workers: int) -> None:
    """Check that no round was cut, once all that the workers have said is read."""
    machine.events.wait("^teardown", workers)
    assert len(machine.events.matching("^begin")) == len(machine.events.matching("^end")) > 0


def test_the_versions_are_those_that_are_meant(booted: Machine) -> None:
    said = booted.run("systemctl", "--version").split()[1]
    expected = SUITES[booted.suite]
    assert int(said) >= expected if booted.suite == "testing" else int(said) == expected


# Start


def test_start_returns_when_all_workers_are_ready(machine: Machine) -> None:
    start(machine, workers=3)
    said_by_now(machine, "^setup", 3)
    machine.shows("StatusText", "3/3 workers ready")
    assert machine.show("ActiveState") == "active"
    assert machine.pids()[machine.main_pid()] == "graced"


@pytest.mark.waits
def test_a_start_that_takes_longer_than_the_unit_allows(machine: Machine) -> None:
    machine.dropin("TimeoutStartSec=3")
    start(machine, "sample_workers:SlowSetup", options={"seconds": 4})
    assert machine.show("ActiveState") == "active"


def test_a_wrong_configuration_is_not_tried_again(machine: Machine) -> None:
    machine.configure("sample_workers:Idle", drain_timeout="30 parsecs")
    assert machine.attempt("systemctl", "start", UNIT).returncode != 0
    assert machine.show("ActiveState") == "failed"
    assert machine.show("ExecMainStatus") == "78"
    assert machine.show("NRestarts") == "0"
    machine.journal.wait(r"config\.yaml:\d+:\d+: pools\.jobs\.drain_timeout: ")


# Reload


CODE = """from sample_workers import Idle, say

class New(Idle):
    def setup(self):
        say({!r})
"""


def test_a_reload_brings_new_code_in_new_processes(machine: Machine) -> None:
    machine.write(f"{APP}/app.py", CODE.format("one"))
    start(machine, "app:New")
    main, before = machine.main_pid(), machine.worker_pids()
    machine.write(f"{APP}/app.py", CODE.format("two"))
    machine.systemctl("reload")
    said_by_now(machine, "^two", 2)
    assert machine.main_pid() == main
    machine.until(lambda: not set(before) & set(machine.worker_pids()))
    machine.shows("StatusText", "2/2 workers ready")
    assert machine.show("ActiveState") == "active"


@pytest.mark.parametrize("how", ["configuration", "code", "setup"])
def test_a_refused_reload_fails_and_the_old_workers_go_on(machine: Machine, how: str) -> None:
    machine.write(f"{APP}/app.py", CODE.format("one"))
    start(machine, "app:New")
    before = machine.worker_pids()
    if how == "configuration":
        machine.write("/etc/graced/config.yaml", "pools: {jobs: {workers: many}}\n")
    elif how == "code":
        machine.write(f"{APP}/app.py", "def broken(:\n")
    else:
        machine.write(f"{APP}/app.py", CODE.format("two") + "        raise OSError('no db')\n")
    assert machine.attempt("systemctl", "reload", UNIT).returncode != 0
    assert machine.show("ActiveState") == "active"
    machine.until(lambda: "reload refused: " in machine.show("StatusText"))
    machine.until(lambda: machine.worker_pids() == before)
    machine.journal.wait("reload refused")


@pytest.mark.waits
def test_a_reload_that_takes_longer_than_the_unit_allows(machine: Machine) -> None:
    machine.dropin("TimeoutStartSec=3")
    machine.write(f"{APP}/app.py", CODE.format("one"))
    start(machine, "app:New", 1)
    slow = "        import time; time.sleep(4)\n"
    machine.write(f"{APP}/app.py", CODE.format("two") + slow)
    machine.systemctl("reload")
    machine.shows("StatusText", "1/1 workers ready")
    assert machine.show("ActiveState") == "active"


def test_a_hup_by_hand_is_a_reload_too(machine: Machine) -> None:
    start(machine)
    before = machine.worker_pids()
    machine.run("systemctl", "kill", "--kill-who=main", "--signal=HUP", UNIT)
    machine.events.wait("^setup", 4)
    machine.shows("ActiveState", "active")
    machine.until(lambda: not set(before) & set(machine.worker_pids()))


# Stop


def test_a_stop_finishes_the_rounds_in_hand(machine: Machine) -> None:
    start(machine, "sample_workers:Rounds", options={"seconds": 1})
    machine.events.wait("^begin", 2)
    machine.systemctl("stop")
    whole_rounds(machine, 2)
    assert machine.show("Result") == "success"
    assert not machine.pids()


def test_a_stop_tells_how_far_it_is(machine: Machine) -> None:
    start(machine, "sample_workers:Gated", options={"gate": GATE})
    machine.events.wait("^begin", 2)
    machine.run("systemctl", "stop", "--no-block", UNIT)
    machine.until(lambda: machine.show("StatusText").startswith("draining: "))
    assert machine.show("ActiveState") == "deactivating"
    machine.open_gate()
    machine.shows("ActiveState", "inactive")
    assert machine.show("Result") == "success"


def test_a_stop_in_the_middle_of_a_start(machine: Machine) -> None:
    machine.configure("sample_workers:SlowSetup", options={"seconds": 60}, ready_timeout="90s")
    machine.run("systemctl", "start", "--no-block", UNIT)
    machine.events.wait("^setting-up", 2)
    machine.systemctl("stop")
    assert machine.show("Result") == "success"
    assert not machine.pids()


def test_a_stop_in_the_middle_of_a_reload(machine: Machine) -> None:
    machine.write(f"{APP}/app.py", CODE.format("one"))
    start(machine, "app:New")
    slow = "        import time; time.sleep(60)\n"
    machine.write(f"{APP}/app.py", CODE.format("two") + slow)
    machine.run("systemctl", "reload", "--no-block", UNIT)
    machine.events.wait("^two")
    machine.systemctl("stop")
    assert machine.show("Result") == "success"
    assert not machine.pids()


def test_an_interrupt_does_not_wait_for_the_rounds(machine: Machine) -> None:
    start(machine, "sample_workers:Rounds", options={"seconds": 60}, stop_timeout="30s")
    machine.events.wait("^begin", 2)
    machine.run("systemctl", "kill", "--kill-who=main", "--signal=INT", UNIT)
    machine.shows("ActiveState", "inactive")
    assert machine.show("Result") == "success"
    machine.events.wait("^teardown", 2)
    assert not machine.events.matching("^end")


def test_a_stop_past_the_deadline_kills_and_says_so(machine: Machine) -> None:
    start(machine, "sample_workers:Deaf", drain_timeout="300ms", stop_timeout="300ms")
    machine.events.wait("^deaf", 2)
    machine.systemctl("stop")
    assert machine.show("Result") == "exit-code"
    assert machine.show("ExecMainStatus") == "1"
    assert not machine.pids()
    assert machine.show("NRestarts") == "0"


@pytest.mark.waits
def test_a_drain_within_its_own_limits_outlives_the_unit_s(machine: Machine) -> None:
    machine.dropin("TimeoutStopSec=3")
    start(machine, "sample_workers:Rounds", options={"seconds": 6}, drain_timeout="60s")
    machine.events.wait("^begin", 2)
    machine.systemctl("stop")
    whole_rounds(machine, 2)
    assert machine.show("Result") == "success"


# Crashes


def test_a_killed_main_process_is_started_again(machine: Machine) -> None:
    machine.dropin("RestartSec=100ms")
    start(machine)
    main, before = machine.main_pid(), machine.worker_pids()
    machine.run("kill", "-KILL", str(main))
    machine.events.wait("^setup", 4)
    machine.shows("StatusText", "2/2 workers ready")
    assert machine.main_pid() != main
    assert machine.show("NRestarts") == "1"
    now = machine.worker_pids()
    assert len(now) == 2
    assert not set(now) & set(before)
    machine.run("sh", "-c", f"! kill -0 {' '.join(map(str, before))} 2>/dev/null")


def test_a_killed_worker_is_replaced_by_the_daemon(machine: Machine) -> None:
    start(machine)
    main, [victim, _] = machine.main_pid(), machine.worker_pids()
    machine.run("kill", "-KILL", str(victim))
    machine.events.wait("^setup", 3)
    machine.shows("StatusText", "2/2 workers ready")
    assert machine.main_pid() == main
    machine.journal.wait(rf"worker jobs/\d \(pid {victim}\) .*SIGKILL")


# The watchdog


def watched(machine: Machine, workers: int, seconds: int = 3) -> None:
    machine.dropin(f"WatchdogSec={seconds}\nTimeoutAbortSec=1\nRestartSec=100ms")
    start(machine, workers=workers)


def pings(machine: Machine) -> int:
    return int(machine.show("WatchdogTimestampMonotonic"))


def ping_after(machine: Machine, last: int) -> None:
    machine.until(lambda: pings(machine) > last)


@pytest.mark.waits
def test_a_frozen_main_process_is_started_again(machine: Machine) -> None:
    watched(machine, workers=2)
    main = machine.main_pid()
    machine.run("kill", "-STOP", str(main))
    machine.journal.wait("Watchdog timeout")
    machine.events.wait("^setup", 4)
    machine.shows("StatusText", "2/2 workers ready")
    assert machine.main_pid() != main
    assert len(machine.worker_pids()) == 2


@pytest.mark.waits
def test_frozen_workers_stop_the_pings(machine: Machine) -> None:
    watched(machine, workers=2)
    machine.run("kill", "-STOP", *map(str, machine.worker_pids()))
    machine.journal.wait("the watchdog is not fed: 0 of 2 workers healthy, 1 needed: .* is stopped")
    machine.journal.wait("Watchdog timeout")
    machine.events.wait("^setup", 4)
    machine.shows("StatusText", "2/2 workers ready")
    assert len(machine.worker_pids()) == 2


@pytest.mark.waits
def test_one_frozen_worker_of_four_does_not(machine: Machine) -> None:
    watched(machine, workers=4, seconds=6)  # half of it may a ping be late
    main, [victim, *_] = machine.main_pid(), machine.worker_pids()
    machine.run("kill", "-STOP", str(victim))
    for _ in range(4):  # the last is later than a watchdog that began to wait now
        ping_after(machine, pings(machine))
    assert machine.main_pid() == main
    assert not machine.journal.matching("Watchdog timeout")
    machine.run("kill", "-CONT", str(victim))


# What is shipped


@pytest.mark.parametrize("dropin", ["", "hardened"])
def test_the_units_verify_without_a_word(machine: Machine, dropin: str) -> None:
    for unit in (UNIT, "graced@shop.service"):
        if dropin:
            text = machine.run("cat", f"/src/systemd/{dropin}.conf")
            machine.dropin(text, unit)
        done = machine.attempt("systemd-analyze", "verify", unit)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_preset_does_not_start_it(machine: Machine) -> None:
    machine.run("systemctl", "preset", UNIT)
    assert machine.attempt("systemctl", "is-enabled", UNIT).stdout.strip() == "disabled"


@pytest.mark.parametrize(("dropin", "score"), [("", 1.3), ("hardened", 1.1)])
def test_how_far_it_is_exposed(machine: Machine, dropin: str, score: float) -> None:
    units = [UNIT, "graced@shop.service"]
    if dropin:
        for unit in units:
            machine.dropin(machine.run("cat", f"/src/systemd/{dropin}.conf"), unit)
        units = [UNIT]
    for unit in units:
        limit = f"--threshold={round(score * 10)}"
        machine.run("systemd-analyze", "security", "--offline=true", limit, unit)


def test_hardened_it_works_reloads_and_stops(machine: Machine) -> None:
    machine.dropin(machine.run("cat", "/src/systemd/hardened.conf"))
    start(machine, "sample_workers:Rounds", options={"seconds": 0.2})
    machine.events.wait("^end", 2)
    machine.systemctl("reload")
    machine.systemctl("stop")
    assert machine.show("Result") == "success"
    whole_rounds(machine, 4)


def test_as_root_with_a_user_for_its_workers(machine: Machine) -> None:
    machine.dropin(ROOT_CONF)
    start(machine, "sample_workers:Environment", top={"user": "daemon"})
    assert all(line.words[1] == "1" for line in machine.events.wait("^ids", 2))
    status = json.loads(machine.run("graced", "status", "--json"))
    assert all(worker["rss"] for worker in status["pools"]["jobs"]["workers"])
    machine.systemctl("reload")
    machine.systemctl("stop")
    assert machine.show("Result") == "success"


def test_one_daemon_for_each_file(machine: Machine) -> None:
    shop, mail = "graced@shop.service", "graced@mail.service"
    for name in ("shop", "mail"):
        machine.configure("sample_workers:Idle", 1, file=name, top={"name": f"graced-{name}"})
    machine.run("systemctl", "start", shop, mail)
    try:
        for unit in (shop, mail):
            machine.shows("StatusText", "1/1 workers ready", unit)
        before = machine.worker_pids(mail)
        machine.systemctl("reload", shop)
        for name, generation in (("shop", 2), ("mail", 1)):
            file = f"/etc/graced/{name}.yaml"
            status = json.loads(machine.run("graced", "status", "--json", "-c", file))
            assert status["generation"] == generation
        assert machine.worker_pids(mail) == before
    finally:
        machine.run("systemctl", "stop", shop, mail)
    assert machine.show("Result", shop) == machine.show("Result", mail) == "success"


def test_its_group_may_talk_to_it(machine: Machine) -> None:
    start(machine)
    machine.run("graced", "status")
    as_member = ["setpriv", "--reuid=daemon", "--regid=daemon"]
    machine.run(*as_member, "--groups=graced", "graced", "status")
    assert machine.attempt(*as_member, "--clear-groups", "graced", "status").returncode != 0


# graced doctor

FAULTS = """\
Type=exec
NotifyAccess=all
KillMode=control-group
TimeoutStopSec=5
WatchdogSec=0
MemoryMax=100M
LimitNOFILE=32
ProtectSystem=no
RestartPreventExitStatus=
OOMPolicy=stop
ExecReload=
ExecReload=kill -HUP $MAINPID
"""


def test_the_doctor_finds_nothing_in_what_is_shipped(machine: Machine) -> None:
    machine.configure("sample_workers:Idle")
    assert machine.run("graced", "doctor") == "graced.service: nothing wrong\n"
    machine.systemctl("start")  # now it is found by the daemon that runs
    assert machine.run("graced", "doctor") == "graced.service: nothing wrong\n"
    machine.configure("sample_workers:Idle", file="shop", top={"name": "graced-shop"})
    said = machine.run("graced", "doctor", "graced@shop")
    assert said == "graced@shop.service: nothing wrong\n"
    machine.dropin(machine.run("cat", "/src/systemd/hardened.conf"))
    assert machine.run("graced", "doctor") == "graced.service: nothing wrong\n"


def test_the_doctor_names_what_was_planted(machine: Machine) -> None:
    machine.configure("sample_workers:Idle", max_rss="200M")
    machine.dropin(FAULTS)
    done = machine.attempt("graced", "doctor", "graced.service")
    assert done.returncode == 1
    wrong = [line for line in done.stdout.splitlines() if line.startswith("wrong: ")]
    assert len(wrong) == 11, done.stdout
    for directive in {line.partition("=")[0] for line in FAULTS.splitlines()}:
        assert directive in done.stdout
    assert "/run/systemd/system/graced.service.d/test-0.conf:" in done.stdout
    ignored = [f"--ignore={line.partition('=')[0]}" for line in FAULTS.splitlines()]
    assert machine.run("graced", "doctor", *ignored, UNIT) == "graced.service: nothing wrong\n"
