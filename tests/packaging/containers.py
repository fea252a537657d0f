"""Containers for the tests: an image made here, run by podman and runc in a machine of the lab.

The image is built in a root file system of the lab that has the host's network, from a base that
is a minimal Debian, imported; the machine that runs it has no network and takes all that the
tests start with it when it goes. What a container says arrives as lines.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from daemon_harness import DEADLINE, ROOT, Feed, Line, Pump, Splitter
from machine import LAB, Machine, give_up, impossible, lab

import graced

T = TypeVar("T")
SUITE = "trixie+container"
BASE = "localhost/base:trixie"
IMAGE = f"localhost/graced:{graced.__version__}"
OUT = "/out"  # where the images are, in the machine and while they are made
NUMBERS = itertools.count(1)

# As strict as an operator can be. podman's own --read-only has tmpfs on /run and /tmp in
# addition, which Docker's has not.
STRICT = (
    "--read-only --read-only-tmpfs=false --cap-drop all --network none"
    " --security-opt no-new-privileges --tmpfs /run/graced"
).split()

# A machine of the lab has no controllers of cgroups, and may not raise limits. crun wants more
# of cgroups than there is; runc does with less.
SETTINGS = """
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=16384:16384"]
pids_limit = 0
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""

PREPARE = f"""
set -e
mkdir -p /etc/containers /var/lib/containers
cp {OUT}/containers.conf /etc/containers/
mount -t tmpfs -o mode=700 containers /var/lib/containers # no overlay over an overlay
export PODMAN_IGNORE_CGROUPSV1_WARNING=1
"""

UPDATE = "apt-get -q -o APT::Update::Error-Mode=any -o Acquire::Retries=0 update".split()

# About what debian:trixie-slim is.
DEBOOTSTRAP = """
set -e
new=$(mktemp /trees/.base.XXXXXX)
trap 'rm -f "$new"' EXIT
grep -h '^deb ' /etc/apt/sources.list |
    mmdebstrap --quiet --mode=root --variant=minbase --format=tar \
        --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        trixie "$new" -
mv "$new" "/trees/$1"
"""


def need() -> Path:
    """Return where the lab keeps its trees, with those for containers in it; skip without."""
    if why := impossible():
        give_up(why)
    built = lab("build", SUITE)
    if built.returncode:
        give_up(f"no root file system with podman (is there a network?): {built.stderr[-500:]}")
    return Path(built.stdout.partition(":")[0]).parent


def in_tree(script: str, *arguments: str, **binds: str) -> str:
    """Run a script in a root file system that has podman, buildah and a network."""
    environ = {**os.environ, **binds, "SOURCE_DATE_EPOCH": "1790000000"}
    done = lab("chroot", SUITE, "sh", "-s", *arguments, input=script, env=environ)
    if done.returncode and lab("chroot", SUITE, *UPDATE).returncode:
        give_up("no Debian archive can be reached, to make images from")
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def base() -> Path:
    """Return the archive of a minimal Debian, made once and kept with the lab's trees."""
    trees = need()
    name = f"base.{hashlib.sha256(DEBOOTSTRAP.encode()).hexdigest()[:12]}"
    if not (trees / name).exists():
        for old in trees.glob("base.*"):
            old.unlink()
        in_tree(DEBOOTSTRAP, name, GRACED_LAB_BIND_RW=f"{trees}:/trees")
    return trees / name


def make(folder: Path, script: str) -> str:
    """Run a script in `folder` that makes images; the base and the image's sources are there."""
    (folder / "containers.conf").write_text(SETTINGS)
    archive = base()
    load = f"cd {OUT}\npodman import --quiet /trees/{archive.name} {BASE} >/dev/null\n"
    return in_tree(
        PREPARE + load + script,
        GRACED_LAB_BIND=f"{ROOT}:/src {archive.parent}:/trees",
        GRACED_LAB_BIND_RW=f"{folder}:{OUT}",
    )


class Host:
    """A machine with podman and the images of a folder; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.machine = Machine(SUITE, install=PREPARE, shown=f"{folder}:{OUT} {ROOT}:/src")
        self.run = self.machine.run
        self.attempt = self.machine.attempt
        self.folder = folder

    def __enter__(self) -> Host:
        self.machine.__enter__()
        try:
            for archive in sorted(self.folder.glob("*.tar")):
                self.podman("load", "--quiet", "--input", f"{OUT}/{archive.name}")
        except BaseException:
            self.machine.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.__exit__()

    def podman(self, *arguments: str, **options: Any) -> str:
        """Run a command of podman's that has to succeed; return what it prints."""
        return self.run("podman", *arguments, **options)

    def once(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a container that ends by itself; its failure is an answer."""
        return self.attempt("podman", "run", "--rm", *arguments)

    def inspect(self, name: str, kind: str = "container") -> Any:
        return json.loads(self.podman("inspect", "--type", kind, name))[0]


class Container:
    """A container that runs; a context manager that leaves nothing of it."""

    def __init__(self, host: Host, *options: str, image: str = IMAGE, command: str = "") -> None:
        self.host = host
        self.name = f"test-{next(NUMBERS)}"
        self.line = ["run", "--name", self.name, *options, image, *command.split()]
        self.changed = threading.Condition(threading.RLock())
        self.over = False
        self.pump = Pump()
        self.log = Feed("log", self.changed, lambda: self.over, self.pump.read_all)

    def __enter__(self) -> Container:
        line = [str(LAB), "run", self.host.machine.name, "podman", *self.line]
        self.process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        self.pump.add(fd, Splitter(fd, self._said, self._silent))
        self.pump.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.host.attempt("podman", "rm", "--force", "--time", "0", self.name)
        self.process.kill()
        self.process.wait(DEADLINE)
        self.pump.end()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _said(self, text: str) -> None:
        self.log.add(Line(time.monotonic(), 0, text))

    def _silent(self) -> None:
        with self.changed:
            self.over = True
            self.changed.notify_all()

    def ended(self) -> int:
        """Wait until it has ended, and return its exit status."""
        return self.process.wait(DEADLINE)

    def ready(self) -> Container:
        self.until(lambda: self.attempt("graced", "health", "--ready").returncode == 0)
        return self

    def attempt(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in the container; its failure is an answer."""
        with_input = ["--interactive"] if "input" in options else []
        return self.host.attempt("podman", "exec", *with_input, self.name, *command, **options)

    def run(self, *command: str, **options: Any) -> str:
        """Run a command in the container that has to succeed; return what it prints."""
        done = self.attempt(*command, **options)
        assert done.returncode == 0, f"{command}: {done}\n{self.log}"
        return done.stdout

    def podman(self, verb: str, *options: str) -> str:
        return self.host.podman(verb, *options, self.name)

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.run("graced", "status", "--json"))
        return status

    def workers(self) -> list[str]:
        [pool] = self.status()["pools"].values()
        return [str(worker["pid"]) for worker in pool["workers"]]

    def until(self, what: Callable[[], T]) -> T:
        """Wait until the condition holds, looking again at every line and every 50 ms."""
        end = time.monotonic() + DEADLINE
        while not (value := what()):
            assert not self.over, f"it has ended\n{self.log}"
            assert time.monotonic() < end, f"never true\n{self.log}"
            with self.changed:
                self.changed.wait(0.05)
        return value


@contextlib.contextmanager
def strict(host: Host, *options: str, **more: Any) -> Iterator[Container]:
    """Give a container with the strictest options, ready."""
    with Container(host, *STRICT, *options, **more) as container:
        yield container.ready()
