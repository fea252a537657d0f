"""A machine of the lab with graced installed as a distribution's package would be.

What a test waits for arrives as a line: from the workers in `sample_workers` on a FIFO, from the
journal on a pipe. Only what systemd keeps to itself (its properties) is asked for again.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
import yaml
from daemon_harness import DEADLINE, ROOT, Feed, Line, Pump, Splitter

LAB = Path(__file__).parent / "systemd_vm"
REQUIRED = "GRACED_LAB_REQUIRED"  # set where a machine that can't be had is a failure
SUITES = {"bookworm": 252, "bookworm-backports": 254, "trixie": 257, "testing": 258}
UNIT = "graced.service"
APP = "/srv/app"  # where the tests' own workers are
EVENTS = "/run/crew"
GATE = "/run/crew-gate"  # where a worker waits in its round, until the test opens it
NUMBERS = itertools.count(1)  # two machines of one suite have different names
T = TypeVar("T")

INSTALL = r"""
set -e
packages=/usr/lib/python3/dist-packages
mkdir -p $packages /etc/graced /usr/lib/sysusers.d /usr/lib/systemd/system-preset
cp -r /src/graced $packages/
python3 -m compileall -q $packages/graced
printf '#!/usr/bin/python3\nimport sys\nfrom graced.cli.main import main\nsys.exit(main())\n' \
    >/usr/bin/graced
chmod 755 /usr/bin/graced
cp /src/systemd/*.service /src/systemd/*.socket /usr/lib/systemd/system/
cp /src/systemd/sysusers.d/*.conf /usr/lib/sysusers.d/
cp /src/systemd/system-preset/*.preset /usr/lib/systemd/system-preset/
systemd-sysusers
mkdir -p /srv/app
cp /src/tests/sample_workers.py /srv/app/
systemctl daemon-reload
"""


def lab(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command of the lab to its end."""
    options = {"text": True, "capture_output": True, "timeout": 900, **options}
    return subprocess.run([str(LAB), *arguments], check=False, **options)


def impossible() -> str | None:
    """Return why no machine can be booted here, or None."""
    if os.geteuid() != 0:
        return "needs root, to boot machines with a systemd of their own"
    missing = [name for name in ("unshare", "nsenter", "apt-get") if not shutil.which(name)]
    if missing:
        return f"needs {', '.join(missing)}, to boot machines with a systemd of their own"
    line = "unshare --pid --mount --uts --ipc --cgroup --net --fork mount -t tmpfs lab /mnt"
    tried = subprocess.run(line.split(), capture_output=True, text=True, timeout=60, check=False)
    return f"no new namespaces here: {tried.stderr.strip()}" if tried.returncode else None


def build(suite: str) -> str:
    """Make the root file system of a suite, or find it made; return why there is none, or ''."""
    line = ["nice", str(LAB), "build", suite]  # the tests that run meanwhile come first
    try:
        built = subprocess.run(line, capture_output=True, text=True, timeout=900, check=False)
    except subprocess.TimeoutExpired:
        return "not made in 15 minutes"
    return built.stderr[-500:] if built.returncode else ""


def give_up(why: str) -> NoReturn:
    """Skip a test that can't be run here, or fail where that is not allowed."""
    if os.environ.get(REQUIRED):
        pytest.fail(why)
    pytest.skip(why)


# The drop-in root.conf of 0.1, which an upgrade finds where somebody has copied it.
ROOT_CONF = """\
[Service]
User=root
Group=root
CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_KILL CAP_CHOWN
SystemCallFilter=@setuid @chown
PrivateUsers=no
ProtectProc=default
"""


class Machine:
    """One booted machine; a context manager that leaves nothing of it behind.

    `install` is a script for its shell that puts graced there: tests of packages install
    nothing yet. `shown` is what it sees of this host, read-only.
    """

    def __init__(self, suite: str, install: str = INSTALL, shown: str = f"{ROOT}:/src") -> None:
        self.suite = suite
        self._install = install
        self._shown = shown
        self.name = f"{suite.replace('+', '-')}-{os.getpid()}-{next(NUMBERS)}"
        self.changed = threading.Condition(threading.RLock())
        self.pump = Pump()
        self.journal = Feed("journal", self.changed, lambda: False, self.pump.read_all)
        self.events = Feed("events", self.changed, lambda: False, self.pump.read_all)
        self._stack = contextlib.ExitStack()
        self._open_gate = contextlib.ExitStack()
        self._dropins: list[str] = []

    def __enter__(self) -> Machine:
        environ = {
            **os.environ,
            "GRACED_LAB_BIND": self._shown,
            "GRACED_LAB_OWNER": str(os.getpid()),
        }
        booted = lab("up", self.name, self.suite, env=environ)
        assert booted.returncode == 0, booted.stderr
        self._stack.callback(self._down)
        self.root = Path(f"/proc/{lab('pid', self.name).stdout.strip()}/root")
        self.run("sh", input=f"{self._install}\nmkfifo -m 666 {EVENTS} {GATE}\n")
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _down(self) -> None:
        down = lab("down", self.name)
        assert down.returncode == 0, down.stderr

    def _listen(self) -> None:
        events = os.open(self.root / EVENTS[1:], os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._stack.callback(os.close, events)
        self.pump.add(events, Splitter(events, self._event, lambda: None))
        line = [str(LAB), "run", self.name, "journalctl", "-f", "-n", "all", "-o", "cat"]
        reader = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert reader.stdout is not None
        self.pump.add(
            reader.stdout.fileno(), Splitter(reader.stdout.fileno(), self._said, lambda: None)
        )
        self.pump.start()
        self._stack.callback(reader.stdout.close)
        self._stack.callback(self.pump.end)
        self._stack.callback(reader.wait)
        self._stack.callback(reader.kill)
        self.journal_read()
        self.journal.forget()

    def _event(self, text: str) -> None:
        at, pid, words = text.split(" ", 2)
        self.events.add(Line(float(at), int(pid), words))

    def _said(self, text: str) -> None:
        self.journal.add(Line(time.monotonic(), 0, text))

    def journal_read(self) -> None:
        """Wait until all has arrived that was written to the journal before this."""
        mark = f"mark {next(NUMBERS)} of the tests"
        self.run("sh", "-c", f"journalctl --sync && echo {mark} | systemd-cat")
        self.journal.wait(mark)

    # Commands

    def attempt(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine; its failure is an answer."""
        options.setdefault("timeout", DEADLINE)
        if "input" not in options:
            options["stdin"] = subprocess.DEVNULL
        return lab("run", self.name, *command, **options)

    def run(self, *command: str, **options: Any) -> str:
        """Run a command in the machine that has to succeed; return what it prints."""
        done = self.attempt(*command, **options)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done}\n{self.journal}"
        return done.stdout

    def systemctl(self, verb: str, unit: str = UNIT) -> None:
        self.run("systemctl", verb, unit)

    def show(self, name: str, unit: str = UNIT) -> str:
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def until(self, what: Callable[[], T], deadline: float = DEADLINE) -> T:
        """Wait until the condition holds, looking again at every arrival and every 50 ms."""
        end = time.monotonic() + deadline
        while not (value := what()):
            assert time.monotonic() < end, f"never true\n{self.journal}\n{self.events}"
            with self.changed:
                self.changed.wait(0.05)
        return value

    def shows(self, name: str, value: str, unit: str = UNIT) -> None:
        """Wait until systemd shows this value of a property."""
        seen: list[str] = []

        def look() -> bool:
            seen.append(self.show(name, unit))
            return seen[-1] == value

        try:
            self.until(look)
        except AssertionError as error:
            was = ", ".join(dict.fromkeys(seen))
            raise AssertionError(f"{name} was {was}, not {value}\n{error}") from None

    # Configuration

    def write(self, path: str, text: str) -> Path:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def configure(
        self,
        worker: str,
        workers: int = 2,
        file: str = "config",
        top: Mapping[str, Any] = {},
        **keys: Any,
    ) -> None:
        """Write a configuration with one pool, of the tests' own workers."""
        pool = {"worker": worker, "workers": workers, "path": [APP], "env": {"EVENTS": EVENTS}}
        whole = {**top, "pools": {"jobs": {**pool, **keys}}}
        self.write(f"/etc/graced/{file}.yaml", yaml.safe_dump(whole, sort_keys=False))

    def dropin(self, text: str, unit: str = UNIT) -> None:
        """Add a drop-in with these lines of [Service]; gone after the test."""
        number = len(self._dropins)
        path = f"/run/systemd/system/{unit}.d/test-{number}.conf"
        self._dropins.append(path)
        self.write(path, f"[Service]\n{text}\n")
        self.run("systemctl", "daemon-reload")

    def open_gate(self) -> None:
        """Let all pass who wait at the gate, and all who come while the test lasts."""
        gate = os.open(self.root / GATE[1:], os.O_RDWR | os.O_CLOEXEC)
        self._open_gate.callback(os.close, gate)

    def close_gate(self) -> None:
        """Let those who come from now on wait again."""
        self._open_gate.close()

    # The daemon

    def main_pid(self, unit: str = UNIT) -> int:
        return int(self.show("MainPID", unit))

    def pids(self, unit: str = UNIT) -> dict[int, str]:
        """Return the processes in the unit's control group, with their names."""
        script = f"""cat /sys/fs/cgroup/system.slice/{unit}/cgroup.procs 2>/dev/null |
            while read -r p; do echo "$p $(cat /proc/$p/comm 2>/dev/null)"; done"""
        lines = self.run("sh", "-c", script).splitlines()
        return {int(pid): name for pid, _, name in (line.partition(" ") for line in lines)}

    def worker_pids(self, unit: str = UNIT) -> list[int]:
        return sorted(pid for pid, name in self.pids(unit).items() if name == "graced-worker")

    def clean(self) -> None:
        """End what a test has left, and forget it, with all that is still on its way."""
        script = f"systemctl kill -s KILL {UNIT}; systemctl stop {UNIT}; "
        if self._dropins:
            script += f"rm -f {' '.join(self._dropins)}; systemctl daemon-reload; "
        self.attempt("sh", "-c", f"{script} systemctl reset-failed {UNIT}")
        self._dropins.clear()
        self._open_gate.close()
        self.journal_read()
        self.events.forget()
        self.journal.forget()


@contextlib.contextmanager
def cleaned(machine: Machine) -> Iterator[Machine]:
    """Give a machine to a test, and clean up after it."""
    try:
        yield machine
    finally:
        machine.clean()
