"""Chaos among hosts: three network namespaces with a daemon each, and one server.

``python -m benchmarks.hosts --engine postgresql --seed 7`` has jobs done while every 200 ms a
worker, a keeper, a main process or a whole host is killed, a keeper frozen, a host cut off for
shorter or longer than its lease; the server is restarted twice. At the end each job is done, was
settled once and by its last run, no two runs of one overlapped, and none is lost. What is chosen
follows from the seed, when it happens does not. By root only: it runs in namespaces of its own
that end with it. Exit 1 where something did not hold; the folder is kept then.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.chaos_verdict import log_is_clean
from benchmarks.hosts_subject import LEASE, NET, Host, lay_bridge, send
from benchmarks.servers import Server, serving
from graced import AnswerLost, JobInfo, Queue, QueueError

HOSTS = 3
BATCH = 100
EVERY = 0.2  # seconds between two blows
WORKED_OFF = 180.0  # seconds for what is left once it is calm; only failures get there
TOLD = {
    "leases over": r"was not heard of for",
    "settled too late": r"settled too late",
    "stopped before its lease was over": r"the lease of its queue is not renewed",
}


class Chaos:
    """One run: what is done, what was accepted, what did not hold."""

    def __init__(self, server: Server, home: Path, seed: int, jobs: int) -> None:
        self.server, self.home, self.jobs = server, home, jobs
        self.random = random.Random(seed)
        (home / "locks").mkdir()
        (home / "records").touch()
        self.queue = Queue.open(server.url(), pool="jobs")
        self.hosts = [Host(number, home, server.url()) for number in range(HOSTS)]
        self.batches: list[tuple[range, bool | None]] = []  # None: nobody knows
        self.done: Counter[str] = Counter()
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.faults: list[str] = []
        self.blows = {
            self.kill_worker: 40, self.kill_keeper: 14, self.freeze_keeper: 2,
            self.kill_main: 4, self.kill_host: 4, self.cut: 12,
        }  # fmt: skip

    def run(self) -> None:
        """Let it happen until all jobs are accepted and nine in ten are done; then be calm."""
        for host in self.hosts:
            host.start()
        restarts = [0.6, 0.3]  # when so much is done
        beat = time.monotonic()
        while (share := (now := self.counts())["done"] / self.jobs) < 0.9 and not self.faults:
            if now["waiting"] < BATCH / 2:  # so that what a host has lost is begun at once
                self.submit()
            if restarts and share > restarts[-1]:
                restarts.pop()
                self.restart_server()
            [blow] = self.random.choices([*self.blows], [*self.blows.values()])
            self.done[blow.__name__] += 1
            blow(self.random.choice(self.hosts))
            self.tend(time.monotonic())
            beat = max(beat + EVERY, time.monotonic())
            time.sleep(max(beat - time.monotonic(), 0.0))
        self.tend(float("inf"))
        end = time.monotonic() + WORKED_OFF
        while any(self.counts()[s] for s in ("waiting", "taken")) and time.monotonic() < end:
            time.sleep(0.5)
            self.tend(float("inf"))
        self.judge()

    def counts(self) -> dict[str, Any]:
        """Return the queue's counts, over restarts of the server."""
        while True:
            try:
                return self.queue.counts()
            except QueueError:
                time.sleep(0.1)

    def submit(self) -> None:
        """Submit a batch: all of it or none."""
        if sum(len(batch) for batch, accepted in self.batches if accepted) >= self.jobs:
            return
        first = self.batches[-1][0].stop if self.batches else 0
        batch = range(first, first + BATCH)
        long = self.random.choices((0, 0.02, 0.1, 0.3, 1, 2.4 * LEASE), (9, 9, 9, 9, 9, 4), k=BATCH)
        jobs = [{"n": n, "seconds": s, "critical": n % 7 == 0} for n, s in zip(batch, long)]
        try:
            self.queue.submit_many(jobs)
            self.batches.append((batch, True))
        except QueueError as error:
            self.batches.append((batch, None if isinstance(error, AnswerLost) else False))

    def tend(self, now: float) -> None:
        """Do what is due, and have a daemon on each host that has power."""
        for entry in [entry for entry in self.later if entry[0] <= now]:
            self.later.remove(entry)
            entry[1]()
        for host in self.hosts:
            if not host.runs and host.back_at is None:
                if host.process is not None and host.process.returncode >= 0:
                    self.faults.append(f"{host.name} ended by itself: {host.process.returncode}")
                host.start()

    def after(self, least: float, most: float, act: Callable[[], None]) -> None:
        """Do something later."""
        self.later.append((time.monotonic() + self.random.uniform(least, most), act))

    def restart_server(self) -> None:
        """Restart the server: orderly first, then by a crash."""
        self.done["restart_server"] += 1
        crash = signal.SIGKILL if self.server.name == "redis" else signal.SIGQUIT
        first = self.done["restart_server"] == 1
        self.server.stop(signal.SIGINT if first else crash)
        time.sleep(self.random.uniform(0, LEASE / 2))
        self.server.start()

    def kill_worker(self, host: Host) -> None:
        """Kill one of its workers."""
        for pid in self.random.sample(pids := host.processes("-worker"), min(1, len(pids))):
            send(pid, signal.SIGKILL)

    def kill_keeper(self, host: Host) -> None:
        """Kill its keeper."""
        for pid in host.processes("-keeper"):
            send(pid, signal.SIGKILL)

    def freeze_keeper(self, host: Host) -> None:
        """Stop its keeper, for longer than the lease at times."""
        for pid in host.processes("-keeper"):
            send(pid, signal.SIGSTOP)
            self.after(0.5, 1.5 * LEASE, lambda pid=pid: send(pid, signal.SIGCONT))  # type: ignore[misc]

    def kill_main(self, host: Host) -> None:
        """Kill its main process; the next is started at once."""
        if host.process is not None:
            send(host.process.pid, signal.SIGKILL)
            host.process.wait()

    def kill_host(self, host: Host) -> None:
        """Kill all of it; its power comes back before its lease is over, or after."""
        if not self.anybody_is_away():
            host.kill()
            host.back_at = 1.0
            self.after(0.2, 2 * LEASE, host.start)

    def cut(self, host: Host) -> None:
        """Pull its cable, for longer than the lease at times."""
        if not self.anybody_is_away():
            host.cable("down")
            self.after(0.5, 3 * LEASE, lambda: host.cable("up"))

    def anybody_is_away(self) -> bool:
        """Whether a host is dead or cut off: the others are to have its jobs at once."""
        return any(host.back_at is not None or host.is_cut for host in self.hosts)

    # -- what has to hold

    def judge(self) -> None:
        """Look at all jobs, at what their runs have written, at the ends and the logs."""
        jobs = self.queue.jobs()
        self.queue.close()
        for host in self.hosts:
            assert host.process is not None
            host.process.terminate()
            if (status := host.process.wait(60)) != 0 or host.processes():
                self.faults.append(f"{host.name} ended with {status}, left {host.processes()}")
            self.faults += log_is_clean(host.log.read_text(errors="replace"))
        self._all_kept([job.payload["n"] for job in jobs])
        began, ended = self._runs()
        for job in jobs:
            self._settled_once(job, began[job.id], ended[job.id])

    def _all_kept(self, found: list[int]) -> None:
        if len(found) != len(set(found)):
            self.faults.append("jobs are there twice that were submitted once")
        for batch, accepted in self.batches:
            there = len(set(batch).intersection(found))
            wanted = {True: [BATCH], False: [0], None: [0, BATCH]}[accepted]
            if there not in wanted:
                self.faults.append(f"accepted {accepted}, and of {batch} {there} are there")

    def _runs(self) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        """Return the tokens with which each job began and ended."""
        found: dict[str, dict[int, list[int]]] = {k: defaultdict(list) for k in ("begin", "end")}
        for line in (self.home / "records").read_text().splitlines():
            what, _n, id, token, _host = line.split()
            if what == "overlap":
                self.faults.append(f"two runs at once: {line}")
            else:
                found[what][int(id)].append(int(token))
        return found["begin"], found["end"]

    def _settled_once(self, job: JobInfo, began: list[int], ended: list[int]) -> None:
        """The last run that began has ended, and what it returned is the result."""
        right = len(set(began)) == len(began) and ended.count(max(began, default=0)) == 1
        if job.state != "done" or not right or job.result != [job.payload["n"], max(began)]:
            self.faults.append(f"began {began}, ended {ended}: {job}")

    def summary(self) -> dict[str, Any]:
        """Return what has happened."""
        logs = "".join(host.log.read_text(errors="replace") for host in self.hosts)
        runs = (self.home / "records").read_text().count("begin")
        told = {what: len(re.findall(text, logs)) for what, text in TOLD.items()}
        accepted = sum(len(batch) for batch, accepted in self.batches if accepted)
        did = {"engine": self.server.name, "jobs": accepted, "runs": runs, **self.done}
        return {**did, **told, "faults": len(self.faults)}


def main(arguments: list[str]) -> int:
    """Run the chaos in namespaces of its own; print what was done and what did not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts", description=__doc__)
    parser.add_argument("--engine", choices=("postgresql", "redis"), default="postgresql")
    parser.add_argument("--seed", type=int, default=1, help="what is chosen follows from it")
    parser.add_argument("--jobs", type=int, default=3000)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.inside:
        flags = "--net --mount --pid --fork --kill-child --mount-proc"
        line = ["unshare", *flags.split(), sys.executable, "-m", "benchmarks.hosts", "--inside"]
        os.execvp(line[0], [*line, *arguments])
    lay_bridge()
    home = Path(tempfile.mkdtemp(prefix="graced-hosts-"))
    began = time.monotonic()
    with serving(options.engine, f"{NET}.1") as server:
        chaos = Chaos(server, home, options.seed, options.jobs)
        chaos.run()
    took = round(time.monotonic() - began)
    print(json.dumps({"seed": options.seed, "seconds": took, **chaos.summary()}, indent=1))
    for fault in chaos.faults[:20]:
        print(fault[:2000], file=sys.stderr)
    if chaos.faults:
        print(f"seed {options.seed}: see {home}", file=sys.stderr)
    else:
        shutil.rmtree(home)
    return 1 if chaos.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
