"""The rpm's whole life on a booted machine: install, upgrade in the middle of jobs, erase.

Debian's rpm on a Debian root: what rpm does is the same everywhere, what Fedora has around it
(its macros, its triggers, SELinux) is not tried here. Where no machine can be booted these are
skipped, and say why.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from machine import LAB, UNIT, Machine
from rpmlab import HOST, NEXT, NOW, PYTHON, export_next, workshop

pytestmark = pytest.mark.timeout(1800)  # the first one may have to build the file system

# One rpm makes users by itself, the other leaves that to the package.
SUITES = ["bookworm+rpm", "trixie+rpm"]
CONFIG = "/etc/graced/config.yaml"
QUEUE = "/var/lib/graced/jobs.db"
CODE = "/usr/lib/graced"
SHOP = "graced@shop.service"
GATE = "/var/lib/graced/gate"  # jobs wait until it is there
WAITS = ("sh", "-c", f"until [ -e {GATE} ]; do sleep 0.05; done")

COUNT = """
import sqlite3, sys
print(sqlite3.connect(sys.argv[1]).execute("select count(*) from jobs").fetchone())
"""
MAKE = """
/in/now/packaging/rpm/build /out
/in/next/packaging/rpm/build /out
for spec in /in/host.spec /in/python.spec; do
    rpmbuild --quiet -bb --define '_topdir /out/other' $spec
done
PYTHONPATH=/in/now python3 -m graced new my-app2 --dir /tmp/my-app2
/tmp/my-app2/packaging/build rpm
rpmlint -c /tmp/my-app2/packaging/rpmlint.toml /tmp/my-app2/dist/*.rpm
cp /tmp/my-app2/dist/*.rpm /out
"""


@pytest.fixture(scope="module", params=SUITES)
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A machine with rpm that sees the rpms, and knows what Debian's packages have."""
    shop = workshop(request.param, tmp_path_factory.mktemp("rpm"))
    export_next(shop.folder)
    shop.source("host.spec", HOST)
    shop.source("python.spec", PYTHON)
    shop.must(MAKE)
    known = "rpm -i /rpms/other/RPMS/noarch/host-*.rpm"
    with Machine(shop.suite, known, f"{shop.folder}/out:/rpms") as up:
        yield up


@pytest.fixture
def machine(host: Machine) -> Iterator[Machine]:
    """The machine, with nothing of graced on it, before and after."""
    yield host
    host.attempt("sh", "-c", f"systemctl kill -s KILL {UNIT} 'graced@*'")
    for name in ("graced", "python3-graced", "python3.99"):
        host.attempt("rpm", "-e", name)
    host.run("sh", "-c", f"rm -rf /etc/graced /var/lib/graced* {CODE}; systemctl reset-failed")


def packages(version: str) -> list[str]:
    return [f"/rpms/{name}-{version}-1.noarch.rpm" for name in ("python3-graced", "graced")]


def install(machine: Machine) -> None:
    assert machine.run("rpm", "-i", *packages(NOW)) == ""


def upgrade(machine: Machine, *options: str) -> None:
    machine.run("rpm", "-U", *options, *packages(NEXT))


def verified(machine: Machine) -> str:
    return machine.attempt("rpm", "-V", "graced", "python3-graced").stdout


def status(machine: Machine, *options: str) -> Any:
    return json.loads(machine.run("graced", "status", "--json", *options))


def jobs(machine: Machine) -> dict[int, tuple[str, int]]:
    """Return the state of each job, and how often it was tried."""
    listed = map(json.loads, machine.run("graced", "jobs", "--json").splitlines())
    return {job["id"]: (job["state"], job["attempts"]) for job in listed}


def submit(machine: Machine, count: int) -> None:
    """Submit jobs that wait for the gate, and wait until each worker has one in hand."""
    for _ in range(count):
        machine.run("graced", "submit", "--", *WAITS)
    machine.until(lambda: status(machine)["pools"]["jobs"]["busy"] == 2)


def meanwhile(machine: Machine, *command: str) -> subprocess.Popen[str]:
    """Start a command in the machine."""
    line = [str(LAB), "run", machine.name, *command]
    return subprocess.Popen(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def open_gate(machine: Machine, during: subprocess.Popen[str]) -> str:
    """Let the jobs end once the daemon drains; return what the command says that waits for it."""
    machine.until(lambda: machine.show("StatusText").startswith("draining: 2 of 2"))
    assert during.poll() is None
    machine.write(GATE, "")
    said, _ = during.communicate(timeout=60)
    assert during.returncode == 0, said
    return said


def files(machine: Machine) -> set[str]:
    """Return every file of the machine that is not rpm's, systemd's or Python's own business."""
    skipped = ("/var/lib/rpm", "/var/lib/systemd", "/var/log", "/tmp", "/var/tmp", "/rpms", "/run")
    prune = " -o ".join(f"-path {path}" for path in skipped)
    script = rf"find / -xdev \( {prune} \) -prune -o -print"
    return set(machine.run("sh", "-c", script).splitlines())


# Install


def test_installed_is_neither_enabled_nor_started(machine: Machine) -> None:
    install(machine)
    assert machine.attempt("systemctl", "is-enabled", UNIT, "graced.socket").stdout.split() == [
        "disabled",
        "disabled",
    ]
    assert machine.show("ActiveState") == "inactive"
    assert machine.run("id", "-nu", "graced").strip() == "graced"
    assert machine.run("stat", "-c", "%a %U %G", CONFIG).split() == ["640", "root", "graced"]
    assert machine.run("graced", "check", "-c", CONFIG)
    assert machine.run("graced", "--version").split()[-1] == NOW


def test_it_runs_jobs_and_verifies_before_and_after(machine: Machine) -> None:
    install(machine)
    assert verified(machine) == ""
    machine.systemctl("start")
    assert machine.pids()[machine.main_pid()] == "graced"
    machine.run("graced", "submit", "--wait", "--", "true")
    machine.systemctl("reload")
    assert machine.attempt("graced", "doctor").returncode == 0
    assert verified(machine) == ""


def test_a_python_that_comes_later_gets_its_byte_code(machine: Machine) -> None:
    install(machine)
    compiled = f"{CODE}/graced/__pycache__"
    machine.run("rm", "-r", compiled)
    machine.run("sh", "-c", "rpm -i /rpms/other/RPMS/noarch/python3.99-*.rpm")
    assert "settings.cpython-3" in machine.run("ls", compiled)


# Upgrade


def test_an_upgrade_in_the_middle_of_jobs_loses_none(machine: Machine) -> None:
    install(machine)
    machine.systemctl("start")
    submit(machine, 5)
    before = machine.main_pid()
    open_gate(machine, meanwhile(machine, "rpm", "-U", *packages(NEXT)))
    machine.until(lambda: jobs(machine) == dict.fromkeys(range(1, 6), ("done", 1)))
    assert machine.main_pid() != before
    assert status(machine)["version"] == NEXT
    assert verified(machine) == ""
    machine.systemctl("reload")
    assert status(machine)["generation"] == 2


def test_an_upgrade_keeps_the_edited_configuration(machine: Machine) -> None:
    install(machine)
    edited = "pools: {jobs: {workers: 1}}\n"
    machine.write(CONFIG, edited)
    machine.systemctl("start")
    upgrade(machine)
    assert machine.run("cat", CONFIG) == edited
    assert machine.run("grep", "workers: 3 ", f"{CONFIG}.rpmnew")
    [line] = verified(machine).splitlines()
    assert line.startswith("S.5")
    assert line.endswith(f" c {CONFIG}")
    assert status(machine)["version"] == NEXT
    assert status(machine)["pools"]["jobs"]["target"] == 1


def test_an_upgrade_brings_the_new_default_where_nothing_was_edited(machine: Machine) -> None:
    install(machine)
    upgrade(machine)
    machine.run("grep", "workers: 3 ", CONFIG)
    assert machine.attempt("ls", f"{CONFIG}.rpmnew").returncode != 0


def test_an_upgrade_starts_nothing_that_did_not_run_and_restarts_what_did(
    machine: Machine,
) -> None:
    install(machine)
    machine.write("/etc/graced/shop.yaml", "name: graced-shop\npools: {jobs: {}}\n")
    machine.systemctl("start", SHOP)
    machine.systemctl("start", "graced.socket")
    machine.systemctl("enable")
    since = machine.show("ActiveEnterTimestampMonotonic", "graced.socket")
    upgrade(machine)
    assert machine.show("ActiveState") == "inactive"
    assert machine.show("ActiveState", "graced.socket") == "active"
    assert machine.show("ActiveEnterTimestampMonotonic", "graced.socket") == since
    assert machine.attempt("systemctl", "is-enabled", UNIT).stdout == "enabled\n"
    assert status(machine, "-c", "/etc/graced/shop.yaml")["version"] == NEXT


def test_byte_code_is_never_stale(machine: Machine) -> None:
    install(machine)  # every file has the same date in both, and this one the same size
    upgrade(machine, "--noscripts", "--notriggers")
    assert machine.run("graced", "--version").split()[-1] == NEXT


def test_a_daemon_of_ones_own_is_restarted_when_the_module_is_upgraded(machine: Machine) -> None:
    unit = "my-app2.service"
    machine.run("rpm", "-i", packages(NOW)[0], "/rpms/my-app2-0.1.0-1.noarch.rpm")
    try:
        machine.systemctl("start", unit)
        said = machine.run("my-app2", "submit", "--wait", "--json", '"/etc/hostname"')
        assert '"sha256"' in said
        assert machine.run("my-app2", "doctor") == f"{unit}: nothing wrong\n"
        assert machine.pids(unit)[machine.main_pid(unit)] == "my-app2"
        machine.run("rpm", "-U", packages(NEXT)[0])
        status = json.loads(machine.run("my-app2", "status", "--json"))
        assert (status["version"], status["graced"]) == ("0.1.0", NEXT)
    finally:
        machine.run("rpm", "-e", "my-app2", "python3-graced")
        machine.attempt("rm", "-r", "/var/lib/my-app2")
    assert not {path for path in files(machine) if "my-app2" in path or CODE in path}


# Erase


def test_erase_drains_and_leaves_the_queue_and_what_was_edited(machine: Machine) -> None:
    before = files(machine)
    install(machine)
    machine.write(CONFIG, "pools: {jobs: {workers: 2}}\n")
    machine.write("/etc/graced/shop.yaml", "name: graced-shop\npools: {jobs: {}}\n")
    for unit in (UNIT, SHOP):
        machine.systemctl("enable", unit)
        machine.systemctl("start", unit)
    submit(machine, 3)
    said = open_gate(machine, meanwhile(machine, "rpm", "-e", "graced", "python3-graced"))
    assert f"{CONFIG} saved as {CONFIG}.rpmsave" in said
    assert machine.attempt("pgrep", "graced").stdout == ""
    assert machine.run("python3", "-c", COUNT, QUEUE) == "(3,)\n"
    left = {path for path in files(machine) - before if not path.startswith("/var/lib/graced")}
    assert {path for path in left if "graced" in path} == {
        "/etc/graced",
        "/etc/graced/config.yaml.rpmsave",
        "/etc/graced/shop.yaml",
    }
    assert not {path for path in left if "graced" not in path} - {"/etc/passwd-", "/etc/group-"}
    assert machine.run("id", "-nu", "graced").strip() == "graced"
    machine.shows("LoadState", "not-found")


def test_what_was_erased_can_come_back_and_goes_on_with_its_jobs(machine: Machine) -> None:
    install(machine)
    machine.systemctl("start")
    machine.systemctl("stop")
    machine.run("graced", "submit", "--", "true")
    machine.run("rpm", "-e", "graced", "python3-graced")
    machine.run("rpm", "-i", *packages(NEXT))
    machine.systemctl("start")
    machine.until(lambda: jobs(machine) == {1: ("done", 1)})
