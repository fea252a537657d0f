"""Hosts of the chaos among hosts: network namespaces with a daemon each, joined by a bridge.

Nothing is decided here and nothing is judged. All is in namespaces that end with the run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.contenders import OURS, Case, base_environment, configure

NET = "10.213.77"
WORKERS, LEASE = 8, 5.0


def run(*words: str) -> None:
    """Run a command that has to succeed."""
    subprocess.run(words, check=True)


def lay_bridge() -> None:
    """Have the bridge on which the server listens."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "bridge0", "type", "bridge")
    run("ip", "addr", "add", f"{NET}.1/24", "dev", "bridge0")
    run("ip", "link", "set", "bridge0", "up")


class Host:
    """A network namespace with a daemon, joined to the bridge by a cable that can be pulled."""

    def __init__(self, number: int, home: Path, url: str) -> None:
        self.name = f"h{number}"
        self.log = home / f"{self.name}.log"
        self.back_at: float | None = None  # when it is started, or its cable put in, again
        self.is_cut = False
        line = ["unshare", "--net", "--uts", "sh", "-c", f"hostname {self.name}; exec sleep inf"]
        self._holder = subprocess.Popen(line)
        ours = os.stat("/proc/self/ns/net").st_ino
        while (inode := os.stat(f"/proc/{self._holder.pid}/ns/net").st_ino) == ours:
            time.sleep(0.01)
        self._inode = inode
        self._enter = ["nsenter", "-t", str(self._holder.pid), "--net", "--uts"]
        cable = ["peer", "name", "eth0", "netns", str(self._holder.pid)]
        run("ip", "link", "add", self.name, "type", "veth", *cable)
        run("ip", "link", "set", self.name, "master", "bridge0", "up")
        run(*self._enter, "ip", "addr", "add", f"{NET}.{10 + number}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            run(*self._enter, "ip", "link", "set", device, "up")
        (home / self.name).mkdir()
        keys = {
            "queue": url, "lease": f"{LEASE:g}s", "stop_timeout": "1s", "drain_timeout": "5s",
            "max_attempts": 1000, "retry": "{first: 100ms, limit: 1s}", "keep_done": "10d",
            "options": f"{{home: {home}, host: {self.name}}}",
        }  # fmt: skip
        case = Case(workers=WORKERS, worker="hosts_work:Locked", pool=keys)
        self._line = [*OURS.script(), "run", "-c", str(configure(case, home / self.name))]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start its daemon."""
        self.back_at = None
        env = {**base_environment(), **OURS.environment(Case())}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._enter, *self._line], env=env, stdout=log, stderr=log
            )

    @property
    def runs(self) -> bool:
        """Whether it has a main process."""
        return self.process is not None and self.process.poll() is None

    def processes(self, kind: str = "") -> list[int]:
        """Return its processes of a kind, those of a main process that was killed too."""
        found = []
        for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
            with contextlib.suppress(OSError):
                inside = os.stat(f"/proc/{pid}/ns/net").st_ino == self._inode
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                if inside and pid != self._holder.pid and name.startswith(f"graced{kind}"):
                    found.append(pid)
        return found

    def kill(self) -> None:
        """Let nothing of it be left, as if its power were cut."""
        while left := self.processes():
            for pid in left:
                send(pid, signal.SIGKILL)
            if self.process is not None:
                self.process.poll()

    def cable(self, state: str) -> None:
        """Pull the cable, "down", or put it in again, "up"."""
        run("ip", "link", "set", self.name, state)
        self.is_cut = state == "down"


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
