"""The Debian package: what it is made of, and its whole life on real machines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import deb
import pytest
from daemon_harness import ROOT
from deb import NEXT, SUITES, VERSION, Packages
from machine import EVENTS, UNIT, Machine, give_up, impossible

pytestmark = pytest.mark.timeout(1800)  # the first one may have to build a file system

CONFIG = "/etc/graced/config.yaml"
DOCS = "/usr/share/doc/python3-graced"
BOTH = ("graced", "python3-graced")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything is built: sources, and a folder for each suite."""
    if why := impossible():
        give_up(why)
    folder = tmp_path_factory.mktemp("deb")
    folder.parent.chmod(0o755)
    folder.chmod(0o755)
    (folder / "sources").mkdir()
    deb.sources(folder / "sources")
    return folder


@pytest.fixture(scope="module")
def make(request: pytest.FixtureRequest, folder: Path) -> Iterator[Callable[[str], Packages]]:
    """The packages of a suite; the second suite's are built while the first's are tested."""
    names = " ".join(item.name for item in request.session.items)
    with ThreadPoolExecutor(max_workers=1) as builder:
        made = {
            suite: builder.submit(deb.make, suite, folder) for suite in SUITES if suite in names
        }

        def make(suite: str) -> Packages:
            if suite not in made:
                made[suite] = builder.submit(deb.make, suite, folder)
            return made[suite].result()

        yield make


@pytest.fixture(scope="module", params=SUITES)
def packages(request: pytest.FixtureRequest, make: Callable[[str], Packages]) -> Packages:
    return make(request.param)


# The package


def test_two_builds_are_the_same_bytes(packages: Packages) -> None:
    first, second = packages.debs("first"), packages.debs("second")
    assert [deb.name for deb in first] == [f"{name}_{VERSION}_all.deb" for name in BOTH]
    assert [deb.read_bytes() for deb in first] == [deb.read_bytes() for deb in second]


def test_lintian_has_nothing_to_say(packages: Packages) -> None:
    line = "lintian --allow-root --fail-on error,warning -i"
    for which in ("first", "own"):
        done = packages.chroot("sh", "-c", f"{line} /made/{packages.suite}/{which}/*.changes")
        assert (done.returncode, done.stdout) == (0, "")


def test_piuparts_is_content(packages: Packages) -> None:
    """Installed, purged, upgraded, purged again, without a systemd that runs."""
    lower = deb.lab("build", packages.suite).stdout.strip()
    done = packages.chroot("bash", "-s", packages.suite, shown=f"{lower}:/base", input=deb.PIUPARTS)
    assert done.returncode == 0, done.stdout
    assert "PASS: Installation, upgrade and purging tests" in done.stdout
    assert not re.findall(r"^ +/.*graced.* -> .*$", done.stdout, re.MULTILINE)  # broken symlinks


def contents(package: Path) -> dict[str, str]:
    """Return the mode and the owner of each path in a package."""
    listing = subprocess.run(
        ["dpkg-deb", "-c", str(package)], stdout=subprocess.PIPE, text=True, check=True
    )
    lines = (line.split(maxsplit=5) for line in listing.stdout.splitlines())
    return {path.removeprefix("."): f"{mode} {owner}" for mode, owner, *_, path in lines}


def expected(source: Path, units: str) -> tuple[set[str], set[str]]:
    """Return the files that are to be in graced, and in python3-graced."""
    below = (path for path in (source / "graced").rglob("*") if path.is_file())
    modules = {f"/{path.relative_to(source)}" for path in below}
    told = {f"docs/{path.name}" for path in (source / "docs").glob("*.md")}
    told |= {f"docs/pictures/{path.name}" for path in (source / "docs" / "pictures").iterdir()}
    told |= {"README.md", "CHANGELOG.md", "changelog.gz", "copyright"}
    information = {"METADATA", "WHEEL", "entry_points.txt", "top_level.txt"}
    information.add("RECORD" if "/usr" not in units else "INSTALLER")
    packages = "/usr/lib/python3/dist-packages"
    service = {
        CONFIG,
        *(f"{units}/{name}" for name in ("graced.service", "graced@.service", "graced.socket")),
        "/usr/lib/sysusers.d/graced.conf",
        "/usr/share/lintian/overrides/graced",
        *(f"/usr/share/doc/graced/{name}" for name in ("changelog.gz", "copyright")),
        "/usr/share/doc/graced/examples/hardened.conf",
    }
    return service, {
        "/usr/bin/graced",
        *(packages + module for module in modules),
        *(f"{packages}/graced-{VERSION}.dist-info/{name}" for name in information),
        "/usr/share/graced/config.schema.json",
        "/usr/share/man/man8/graced.8.gz",
        "/usr/share/man/man5/graced.yaml.5.gz",
        "/usr/share/bash-completion/completions/graced",
        "/usr/share/zsh/vendor-completions/_graced",
        "/usr/share/lintian/overrides/python3-graced",
        *(f"{DOCS}/{name}" for name in told),
        *(f"{DOCS}/examples/{path.name}" for path in (source / "examples").glob("*.py")),
        *(f"{DOCS}/examples/{name}" for name in ("graced.rules.yml", "grafana-dashboard.json")),
    }


def test_the_packages_have_these_files_and_no_others(packages: Packages) -> None:
    service, module = map(contents, packages.debs())
    units = {"bookworm": "/lib/systemd/system"}.get(packages.suite, "/usr/lib/systemd/system")
    files = [{path for path in there if path[-1] != "/"} for there in (service, module)]
    assert files == list(expected(packages.folder / "sources" / "first", units))
    assert "/etc/graced/config.d/" in service  # empty: its files are the administrator's
    odd = {
        path: mode
        for path, mode in {**service, **module}.items()
        if "/template/" not in path and mode not in ("-rw-r--r-- root/root", "drwxr-xr-x root/root")
    }
    assert odd == {CONFIG: "-rw-r----- root/root", "/usr/bin/graced": "-rwxr-xr-x root/root"}


@pytest.mark.parametrize("suite", SUITES[:1])
def test_what_is_missing_for_a_build_is_told_in_one_line(
    suite: str, make: Callable[[str], Packages]
) -> None:
    packages = make(suite)
    build = "/made/sources/first/packaging/deb/build"
    done = deb.chroot(suite, packages.folder, build, "/made/nothing")
    assert done.returncode == 1
    assert re.fullmatch(
        r"packaging/deb/build: missing here; as root: apt-get install .+\n", done.stderr
    )


TOLD = """# Changelog

## [2.0.0] - unreleased

What is new.

### Added

- **One `thing`**, over two
  lines: see [there](docs/there.md).

## [1.0.0] - 2026-01-02

### Fixed

- An old one.
"""


def test_debian_s_changelog_is_made_of_ours() -> None:
    script = ROOT / "packaging" / "deb" / "changelog"
    line = [sys.executable, str(script), "2.0.0", "1790000000"]
    made = subprocess.run(line, input=TOLD, capture_output=True, text=True, check=True).stdout
    first, last = made.split("\ngraced (1.0.0) unstable; urgency=medium\n")
    assert first.startswith("graced (2.0.0) unstable; urgency=medium\n")
    assert "\n  * One thing, over two lines: see there.\n" in first
    assert first.rstrip().endswith(">  Mon, 21 Sep 2026 14:13:20 +0000")
    assert "\n  * An old one.\n" in last
    assert last.rstrip().endswith(">  Fri, 02 Jan 2026 00:00:00 +0000")


# Its life

ALL_FILES = "find / -xdev -not -path '/tmp/*' -not -path '/var/tmp/*' | sort"
# What apt, dpkg, the tools for users and systemd's timers keep for themselves.
OTHERS = re.compile(
    r"/var/lib/(dpkg|apt|pam)/|/var/(log|cache)/(apt|dpkg|debconf|alternatives)|/etc/\.pwd\.lock"
    r"|/etc/(passwd|shadow|group|gshadow|subuid|subgid)-|/var/log/journal"
    r"|/var/lib/systemd/timers/"
)
AT_THE_GATE = f"echo 0 $$ begun >{EVENTS}; until [ -e /run/gate ]; do sleep 0.05; done"
USERS = "cat /etc/passwd /etc/group /etc/shadow /etc/gshadow | sort"


class Host(Machine):
    """A machine that packages are installed on."""

    def __init__(self, packages: Packages) -> None:
        super().__init__(packages.suite, ":", f"{packages.folder}:/made")
        self.packages = packages
        self.untouched: set[str] = set()
        self.users = ""

    def apt(self, *words: str) -> str:
        keep = ("-o", "Dpkg::Options::=--force-confold")
        return self.run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qy", *keep, *words)

    def install(self, which: str = "first") -> None:
        self.apt("install", *self.packages.seen(which))

    def version(self, *options: str) -> str:
        """Return the version that the running daemon says it has."""
        status: dict[str, str] = json.loads(self.run("graced", "status", "--json", *options))
        return status["version"]

    def submit(self, numbers: range, before: str = "sleep 0.1") -> None:
        """Submit jobs that each say one word when they are done."""
        scripts = (f"{before}; echo 0 $$ job {number} >{EVENTS}" for number in numbers)
        lines = "".join(json.dumps({"argv": ["sh", "-c", script]}) + "\n" for script in scripts)
        self.run("graced", "submit", "--json", "-", input=lines)

    def done(self, numbers: range) -> None:
        """Wait for all of these jobs; each was done once and no more."""
        self.events.wait("^job", len(numbers))
        queue = self.until(self._settled)
        assert queue["dead"] == 0
        said = sorted(int(line.words[1]) for line in self.events.matching("^job"))
        assert said == list(numbers)

    def _settled(self) -> dict[str, int] | None:
        status = json.loads(self.run("graced", "status", "--json"))
        queue: dict[str, int] = status["pools"]["jobs"]["queue"] or {}
        return queue if queue and not queue["waiting"] + queue["taken"] else None

    def mode(self, path: str) -> str:
        return self.run("stat", "-c", "%a %U:%G", path).strip()

    def files(self) -> set[str]:
        return set(self.run("sh", "-c", ALL_FILES).splitlines())


@pytest.fixture(scope="module")
def booted(packages: Packages) -> Iterator[Host]:
    with Host(packages) as host:
        host.untouched = host.files()
        host.users = host.run("sh", "-c", USERS)
        yield host


@pytest.fixture
def host(booted: Host) -> Iterator[Host]:
    """A machine with the package installed; afterwards it never was."""
    booted.install()
    yield booted
    booted.run("dpkg", "--purge", *BOTH)
    booted.attempt("sh", "-c", "rm -rf /etc/graced /var/lib/graced-* /run/gate")
    booted.events.forget()


def test_installed_it_runs(host: Host) -> None:
    assert host.show("ActiveState") == "active"
    host.shows("StatusText", "2/2 workers ready")
    enabled = host.attempt("systemctl", "is-enabled", UNIT, "graced.socket").stdout.split()
    assert enabled == ["enabled", "disabled"]
    assert host.show("ActiveState", "graced.socket") == "inactive"
    assert host.version() == VERSION == host.run("graced", "--version").split()[1]
    assert host.mode(CONFIG) == "640 root:graced"
    assert host.mode("/var/lib/graced") == "750 graced:graced"
    assert host.run("graced", "submit", "--wait", "--", "id", "-un") == '{"exit": 0}\n'
    host.journal.wait("jobs/.*graced")
    host.systemctl("reload")
    assert host.run("graced", "doctor") == "graced.service: nothing wrong\n"
    units = [f"{UNIT}", "graced@x.service", "graced.socket"]
    verified = host.attempt("systemd-analyze", "verify", *units)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    warnings = host.run("journalctl", "-q", "-o", "cat", "-p", "warning", "-u", UNIT)
    assert warnings == ""
    assert host.run("python3", "-c", "from graced import Worker; print(Worker.__module__)")


def test_an_upgrade_in_the_middle_of_jobs_loses_none(host: Host) -> None:
    edited = "log: {level: debug}\npools:\n  jobs: {worker: graced.workers:Command, workers: 3}\n"
    host.write(CONFIG, edited)
    host.run("chown", "root:root", CONFIG)
    host.run("chmod", "644", CONFIG)
    host.systemctl("reload")
    # Three are done, three are in hand until somebody opens the gate, and the rest wait.
    host.submit(range(3))
    host.events.wait("^job", 3)
    host.submit(range(3, 6), AT_THE_GATE)
    host.submit(range(6, 60))
    host.events.wait("^begun", 3)
    before = host.main_pid()
    with ThreadPoolExecutor() as elsewhere:
        upgrade = elsewhere.submit(host.install, "next")
        host.journal.wait("stopping: draining 3 workers")
        assert len(host.events.matching("^job")) == 3
        host.write("/run/gate", "")
        upgrade.result()
    assert host.version() == NEXT
    assert host.main_pid() != before
    jobs = range(60)
    host.done(jobs)
    assert (host.root / CONFIG[1:]).read_text() == edited
    assert host.mode(CONFIG) == "644 root:root"
    assert (host.root / f"{CONFIG[1:]}.dpkg-dist").exists()


def test_the_one_package_of_0_1_becomes_two_and_the_service_goes_on(booted: Host) -> None:
    booted.install("one")
    try:
        assert booted.show("ActiveState") == "active"
        booted.submit(range(2), AT_THE_GATE)
        booted.events.wait("^begun", 2)
        with ThreadPoolExecutor() as elsewhere:
            upgrade = elsewhere.submit(booted.install, "next")
            booted.journal.wait("stopping: draining 2 workers")
            booted.write("/run/gate", "")
            upgrade.result()
        assert booted.version() == NEXT
        booted.done(range(2))
    finally:
        booted.run("dpkg", "--purge", *BOTH)
        booted.attempt("rm", "/run/gate")
        booted.events.forget()


def test_an_upgrade_brings_the_new_configuration_if_nobody_has_edited_the_old(host: Host) -> None:
    host.install("next")
    assert "The next version" in (host.root / CONFIG[1:]).read_text()
    assert host.mode(CONFIG) == "640 root:graced"
    assert host.show("ActiveState") == "active"


def test_between_unpacking_and_restart_the_old_daemon_needs_none_of_the_new_files(
    host: Host,
) -> None:
    host.submit(range(12), AT_THE_GATE)
    host.events.wait("^begun", 2)
    before = host.main_pid()
    host.run("dpkg", "--force-confold", "--unpack", *host.packages.seen("next"))
    host.run("kill", "-KILL", str(host.worker_pids()[0]))
    host.events.wait("^begun", 3)  # by a new worker
    assert host.version() == VERSION  # asked by a command of the next one
    host.submit(range(12, 16))
    host.write("/run/gate", "")
    host.events.wait("^job", 6)
    assert host.main_pid() == before
    host.run("graced", "stacks")
    assert "ImportError" not in str(host.journal)
    host.run("dpkg", "--configure", *BOTH)
    assert host.version() == NEXT
    host.done(range(16))


def test_what_the_admin_has_switched_off_stays_off(host: Host) -> None:
    host.run("systemctl", "disable", "--now", UNIT)
    host.install("next")
    assert host.attempt("systemctl", "is-enabled", UNIT).stdout == "disabled\n"
    assert host.show("ActiveState") == "inactive"
    host.apt("remove", "graced")
    host.install("next")
    assert host.attempt("systemctl", "is-enabled", UNIT).stdout == "disabled\n"


def test_what_was_said_before_the_installation_holds(booted: Host) -> None:
    booted.run("systemctl", "mask", UNIT)
    booted.run("dpkg-statoverride", "--add", "root", "root", "0640", CONFIG)
    try:
        booted.install()
        assert booted.show("ActiveState") == "inactive"
        assert booted.mode(CONFIG) == "640 root:root"
    finally:
        booted.run("dpkg-statoverride", "--remove", CONFIG)
        booted.run("systemctl", "unmask", UNIT)
        booted.run("dpkg", "--purge", *BOTH)


def test_the_manual_s_example_of_code_of_one_s_own(host: Host) -> None:
    page = (ROOT / "docs" / "debian.md").read_text(encoding="utf-8")
    section = page.split("\n## Code of your own\n")[1].split("\n## ")[0]
    blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```", section, re.DOTALL | re.MULTILINE))
    places = re.findall(r"`(/\S+\.(?:py|yaml))`", section)
    host.write(places[0], blocks["python"])
    host.write(places[1], blocks["yaml"])
    *commands, said = blocks["console"].splitlines()
    for command in commands:
        answer = host.run("sh", "-c", command.removeprefix("# "))
    assert answer == f"{said}\n"
    host.journal.wait("hello world")
    host.run("rm", "-r", "/srv/greet")


def test_instances_and_the_socket_go_along(host: Host) -> None:
    shop = "name: graced-shop\npools: {jobs: {worker: graced.workers:Command}}\n"
    host.write("/etc/graced/shop.yaml", shop)
    host.systemctl("stop")  # else the socket says that it comes too late
    host.run("systemctl", "enable", "--now", "graced@shop", "graced.socket")
    host.systemctl("start")
    opened = host.show("ActiveEnterTimestampMonotonic", "graced.socket")
    host.install("next")
    assert host.version("-c", "/etc/graced/shop.yaml") == NEXT
    assert host.show("ActiveState", "graced.socket") == "active"
    assert host.show("ActiveEnterTimestampMonotonic", "graced.socket") == opened
    host.apt("remove", "graced")
    for unit in (UNIT, "graced@shop.service", "graced.socket"):
        assert host.show("ActiveState", unit) in ("inactive", "failed"), unit
    said = host.attempt("dpkg", "--purge", "graced").stderr
    assert "/var/lib/graced-shop" in said
    assert host.mode("/var/lib/graced-shop") == "750 graced:graced"
    assert (host.root / "etc/graced/shop.yaml").exists()
    # The admin is through with them.
    host.run("rm", "-r", "/var/lib/graced-shop", "/etc/graced")


def test_removed_it_keeps_what_is_the_users_and_purged_it_leaves_nothing(host: Host) -> None:
    host.run("usermod", "-aG", "graced", "nobody")
    host.systemctl("stop")
    host.run("graced", "submit", "--", "true")
    host.apt("remove", "graced")
    assert host.attempt("systemctl", "is-active", UNIT).stdout == "inactive\n"
    assert host.mode(CONFIG) == "640 root:graced"
    host.install()
    host.until(lambda: '"done": 1' in host.run("graced", "status", "--json"))
    host.apt("purge", *BOTH)
    left = {name for name in host.files() - host.untouched if not OTHERS.match(name)}
    assert left == set()
    assert [name for name in host.files() if "graced" in name.removeprefix("/made")] == []
    assert host.run("sh", "-c", USERS) == host.users
    assert host.attempt("systemctl", "list-unit-files", "--no-legend", "graced*").stdout == ""


def test_a_user_of_that_name_who_was_there_before_stays(booted: Host) -> None:
    booted.run("useradd", "--create-home", "--shell", "/bin/bash", "graced")
    before = booted.run("getent", "passwd", "graced")
    try:
        booted.install()
        assert booted.run("graced", "submit", "--wait", "--", "id", "-un") == '{"exit": 0}\n'
        said = booted.attempt("dpkg", "--purge", "graced")
        assert said.returncode == 0
        assert "kept: the user graced" in said.stderr
        assert booted.run("getent", "passwd", "graced") == before
    finally:
        booted.attempt("dpkg", "--purge", *BOTH)
        booted.run("userdel", "--remove", "graced")


def test_a_purge_empties_the_file_system_that_is_mounted_for_the_queue(booted: Host) -> None:
    booted.run("mkdir", "/var/lib/graced")
    booted.run("mount", "-t", "tmpfs", "queue", "/var/lib/graced")
    try:
        booted.install()
        booted.run("graced", "submit", "--wait", "--", "true")
        said = booted.attempt("dpkg", "--purge", "graced")
        assert said.returncode == 0, said.stderr
        assert "/var/lib/graced is still there" in said.stderr
        assert booted.run("ls", "-A", "/var/lib/graced") == ""
        assert booted.attempt("dpkg", "-s", "graced").returncode == 1
    finally:
        booted.run("umount", "/var/lib/graced")
        booted.run("rmdir", "/var/lib/graced")
        booted.attempt("dpkg", "--purge", *BOTH)
        booted.attempt("userdel", "graced")


def test_a_daemon_of_ones_own_outlives_its_upgrade_and_that_of_graced(booted: Host) -> None:
    """Installed without graced's own service; it leaves what was replaced under it."""
    own, unit = f"/made/{booted.packages.suite}/own/my-app2_{{}}_all.deb", "my-app2.service"
    pool = "pools: {commands: {worker: graced.workers:Command}}\n"

    def runs() -> tuple[str, str]:
        status: dict[str, str] = json.loads(booted.run("my-app2", "status", "--json"))
        return status["version"], status["graced"]

    def digest() -> str:
        line = ("submit", "--pool", "digests", "--wait", "--json", '"/etc/hostname"')
        said: dict[str, str] = json.loads(booted.run("my-app2", *line))
        return said["sha256"]

    def begin() -> None:
        booted.journal_read()
        booted.journal.forget()
        booted.run("my-app2", "submit", "--pool", "commands", "--", "sh", "-c", AT_THE_GATE)
        booted.events.wait("^begun")

    def upgrade(*line: str) -> None:
        """Upgrade while a job is in hand, which is done then, and once."""
        with ThreadPoolExecutor() as elsewhere:
            upgrade = elsewhere.submit(booted.run, *line)
            booted.journal.wait("stopping: draining 3 workers")
            booted.write("/run/gate", "")
            upgrade.result()
        listed = booted.run("my-app2", "jobs", "--pool", "commands", "--json").splitlines()
        jobs = [json.loads(job) for job in listed]
        assert {(job["state"], job["attempts"]) for job in jobs} == {("done", 1)}
        assert len(booted.events.matching("^begun")) == 1
        booted.run("rm", "/run/gate")
        booted.events.forget()

    booted.apt("install", booted.packages.seen()[1], own.format("0.1.0"))
    try:
        assert booted.attempt("systemctl", "is-active", UNIT, unit).stdout == "inactive\nactive\n"
        booted.write("/etc/my-app2/config.d/50-site.yaml", pool)
        booted.run("systemctl", "reload", unit)
        assert digest().islower()
        begin()
        upgrade("dpkg", "--install", own.format("0.1.1"))
        assert runs() == ("0.1.1", VERSION)
        assert digest().isupper()  # by the new code
        assert booted.run("my-app2", "doctor") == f"{unit}: nothing wrong\n"
        begin()
        booted.run("dpkg", "--no-triggers", "--install", booted.packages.seen("next")[1])
        old = booted.attempt("my-app2", "doctor")
        assert old.returncode == 1
        assert f"runs graced {VERSION}, and {NEXT} is installed" in old.stdout
        upgrade("dpkg", "--triggers-only", "my-app2")
        assert runs() == ("0.1.1", NEXT)
        booted.run("dpkg", "--remove", "my-app2")
        assert booted.attempt("systemctl", "is-active", unit).stdout == "inactive\n"
    finally:
        booted.run("dpkg", "--purge", "my-app2", "python3-graced")
        booted.attempt("rm", "-rf", "/run/gate", "/etc/my-app2")
        booted.events.forget()
    assert booted.run("sh", "-c", "find / -xdev -name 'my-app2*' -not -path '/made/*'") == ""
    assert booted.run("sh", "-c", USERS) == booted.users


def test_from_debian_12_to_13(make: Callable[[str], Packages]) -> None:
    """The units move from /lib to /usr/lib, and are still there afterwards."""
    old, new = make("bookworm"), make("trixie")
    with Host(new) as host:
        host.apt("install", *old.seen())
        jobs = range(10)
        host.submit(jobs)
        host.install("next")
        assert host.version() == NEXT
        host.done(jobs)
        assert host.show("FragmentPath") == "/usr/lib/systemd/system/graced.service"
