"""Chaos: a real daemon, to which everything happens that may happen to one, at random.

``python -m benchmarks.chaos --seconds 1800 --seed 7`` submits, scales, reloads what is good and
what is broken, asks for status, kills every kind of process, removes the runtime directory, sets
the clock, fills the disk. Now and then it is calm: then everything has to be well again within a
while. At the end all jobs are done: none lost, none run twice at once, nothing left behind. What
is chosen follows from the seed alone, when it happens does not: a machine is never the same
twice. Exit 1 where something did not hold; the folder is kept then.

By root it runs in a mount namespace of its own, with the queues on a small disk that can be
filled. The clock is one of these processes alone (programs/wallclock.c; needs a C compiler).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from benchmarks.chaos_subject import QUEUES, Client, Ended, Subject, until
from benchmarks.chaos_verdict import Accepted, all_ran_alone, all_was_kept, log_is_clean

MOST_CLIENTS = 6  # at once
CALM_EVERY = 40.0  # seconds of chaos
WELL_AGAIN = 120.0  # seconds; only failures get there
WORKED_OFF = 300.0  # seconds for all that is left in the queues
JUST_BORN = 3.0  # seconds in which a process may have no handlers yet

# What a job does, and how often it may be tried; 0: as often as the pool says.
KINDS = {"work": 0, "child": 0, "lease": 0, "flaky": 0, "retry": 0}
BAD_KINDS = {"raise": 3, "exit": 2, "segv": 2, "discard": 0, "hang": 1}
BROKEN_CODE = (
    "this is no Python",
    "raise RuntimeError('chaos: an import that fails')",
    "os._exit(3)",
    "Jobs.setup = lambda self: os._exit(4)",
    "def setup(self):\n    raise RuntimeError('chaos: a setup that fails')\n\nJobs.setup = setup",
    "Jobs.setup = lambda self: time.sleep(60)",
    "del Jobs",
)
BROKEN_CONFIG = (
    "pools: [",
    "surprise: 1\n",
    "state_dir: /nowhere/else\n",
    "name: other\n",
    None,  # removed
)
TO_MAIN = ("HUP", "QUIT", "USR1", "USR2", "TTIN", "TTOU", "CHLD", "WINCH", "PIPE", "CONT")
TO_OTHERS = ("KILL", "KILL", "KILL", "TERM", "INT", "QUIT", "HUP", "USR1", "SEGV")


class Chaos:
    """One run: what is done, what was accepted, what did not hold."""

    def __init__(self, subject: Subject, seed: int) -> None:
        self.subject = subject
        self.random = random.Random(seed)
        self.accepted = Accepted()
        self.faults: list[str] = []
        self.done: Counter[str] = Counter()
        self._pending: list[tuple[Client, Callable[[Ended], None]]] = []
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._started = 0.0
        self._log_from = 0  # where in the log the present main process begins
        self._signalled = False  # something was sent to the main process that may end it
        self._swept = False  # its runtime directory was removed
        self.actions: list[tuple[int, Callable[[], None]]] = [
            (30, self.submit),
            (6, self.submit_many),
            (10, self.ask),
            (16, self.kill),
            (5, self.pause),
            (5, self.signal_main),
            (3, self.scale),
            (4, self.reload),
            (4, self.reload_broken),
            (2, self.kill_main),
            (2, self.stop),
            (2, self.sweep),
            (2, self.change_jobs),
        ]
        if subject.has_clock:
            self.actions.append((3, self.step_clock))
        if subject.has_disk:
            self.actions.append((2, self.fill_disk))

    def fault(self, what: str) -> None:
        """Note that something did not hold."""
        print(f"{time.strftime('%H:%M:%S')} FAULT: {what}", file=sys.stderr, flush=True)
        if not self.faults:
            self.subject.take_stock()
        self.faults.append(what)

    # -- the run ---------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Do what happens by chance for so long, then see that all comes to its end."""
        self.start()
        end = time.monotonic() + seconds
        calm = time.monotonic() + CALM_EVERY
        weights = [weight for weight, _ in self.actions]
        while (now := time.monotonic()) < end and not self.faults:
            if now > calm:
                self.calm_down()
                calm = time.monotonic() + CALM_EVERY
            [(_, act)] = self.random.choices(self.actions, weights)
            self.done[act.__name__] += 1
            act()
            self.tend()
            time.sleep(self.random.choice((0.0, 0.05, 0.2, 0.6)))
        self.calm_down()
        self.finish()

    def tend(self) -> None:
        """Hear which clients have ended, do what is due, have a main process."""
        self.hear()
        if not self.subject.runs:
            self._main_is_gone()
            self.start()

    def hear(self) -> None:
        """Hear which clients have ended, and do what is due."""
        for entry in list(self._pending):
            self._collect(*entry)
        now = time.monotonic()
        for at, act in list(self._later):
            if at <= now:
                self._later.remove((at, act))
                act()

    def _collect(self, client: Client, heard: Callable[[Ended], None]) -> None:
        ended = client.ended()
        if ended is None and time.monotonic() < client.until:
            return
        self._pending.remove((client, heard))
        client.close()
        self.judge(client.words, ended)
        if ended is not None:
            heard(ended)

    def judge(self, words: list[str], ended: Ended | None) -> None:
        """A client ends in time, and in one of the ways that it has."""
        shown = " ".join(words)[:100]
        if ended is None:
            self.fault(f"graced {shown}: hangs")
        elif ended.status not in (0, 1, 3) or "Traceback" in ended.err:
            self.fault(f"graced {shown}: exit {ended.status}, {ended.err[-2000:]}")

    def later(self, act: Callable[[], None], least: float, most: float) -> None:
        """Do something after a while."""
        self._later.append((time.monotonic() + self.random.uniform(least, most), act))

    def background(self, client: Client, heard: Callable[[Ended], None]) -> None:
        """Go on while a client is at work."""
        self._pending.append((client, heard))
        while len(self._pending) > MOST_CLIENTS and not self.faults:
            time.sleep(0.05)
            self.hear()

    def wait(self, client: Client) -> Ended | None:
        """Wait for a client's end, while what is due happens; judge it. None if it hangs."""
        while (ended := client.ended()) is None and time.monotonic() < client.until:
            self.hear()
            time.sleep(0.05)
        client.close()
        self.judge(client.words, ended)
        return ended

    def start(self) -> None:
        """Start the daemon."""
        self.subject.restore()
        self._log_from = self.subject.log.stat().st_size
        self._started = time.monotonic()
        self._signalled = self._swept = False
        self.subject.start()

    def _main_is_gone(self) -> None:
        """Judge an end that nobody has asked for."""
        status = self.subject.ended()
        early = self._signalled and status is not None and status < 0
        in_vain = (1, 78) if self._swept else (1,)  # a start
        if not early and (status not in in_vain or self._was_ready()):
            self.fault(f"the daemon ended by itself, status {status}")

    def _was_ready(self) -> bool:
        """Whether the present main process, or the one that has just ended, was ever ready."""
        with self.subject.log.open("rb") as file:
            file.seek(self._log_from)
            return b" ready: " in file.read()

    # -- what users do -----------------------------------------------------------------------

    def submit(self) -> None:
        """Submit one job, sometimes for later, sometimes to wait for."""
        words = ["submit"]
        wait = self.random.random() < 0.1
        if self.random.random() < 0.3:
            words += ["--delay", f"{self.random.uniform(0.1, 5):.1f}s"]
        if wait:
            words.append("--wait")
        pool, number, tail = self._job()
        client = self.subject.client(*words, "--pool", pool, *tail)

        def heard(ended: Ended) -> None:
            if ended.status == 0:
                self.accepted.note(pool, [number])
                if wait:
                    self.accepted.done_by[pool, number] = self.subject.records.stat().st_size

        self.accepted.tried[pool, number] = number
        self.background(client, heard)

    def _job(self) -> tuple[str, int, list[str]]:
        """Make a job up; return its pool, its number, and the end of the command line."""
        pool = self.random.choice(QUEUES)
        number = self.accepted.next_number()
        bad = self.random.random() < 0.12
        seconds = f"{self.random.choice((0, 0, 0.05, 0.3, 1.5)):.2f}"
        if pool == "commands":
            limit = ["--max-attempts", "2"] if bad else []
            script = str(self.subject.home / "code" / "chaos_command.sh")
            argv = ["sh", script, str(number), seconds, "1" if bad else "0"]
            return pool, number, [*limit, "--", *argv]
        kind, most = self.random.choice(list((BAD_KINDS if bad else KINDS).items()))
        payload = {"n": number, "do": kind, "seconds": float(seconds)}
        limit = ["--max-attempts", str(most)] if most else []
        return pool, number, [*limit, "--json", json.dumps(payload)]

    def submit_many(self) -> None:
        """Submit a stream of jobs: all or none."""
        numbers = [self.accepted.next_number() for _ in range(self.random.randint(2, 60))]
        jobs = [{"n": n, "do": "work", "seconds": 0.01} for n in numbers]
        stdin = "".join(json.dumps(job) + "\n" for job in jobs)
        client = self.subject.client("submit", "--pool", "jobs", "--json", "-", stdin=stdin)

        def heard(ended: Ended) -> None:
            if ended.status == 0:
                self.accepted.note("jobs", numbers)

        for number in numbers:
            self.accepted.tried["jobs", number] = numbers[0]
        self.background(client, heard)

    def ask(self) -> None:
        """Ask the daemon something."""
        state = self.random.choice(("waiting", "taken", "done", "dead"))
        words = self.random.choice(
            (
                ["status"],
                ["status", "--json"],
                ["health"],
                ["health", "--ready"],
                ["stacks"],
                ["jobs", "--pool", self.random.choice(QUEUES), "--state", state],
            )
        )
        self.background(self.subject.client(*words), lambda ended: None)

    def change_jobs(self) -> None:
        """Try what is dead once more, or drop a job that nobody has in hand."""
        pool = self.random.choice(QUEUES)
        if self.random.random() < 0.5:
            words = ["jobs", "--pool", pool, "retry", "--all"]
        else:
            number = str(self.random.randint(1, 1 + self.accepted.last))
            self.accepted.dropped.add((pool, int(number)))
            words = ["jobs", "--pool", pool, "drop", number]
        self.background(self.subject.client(*words), lambda ended: None)

    def scale(self) -> None:
        """Change a pool's size."""
        pool = self.random.choice(("jobs", "commands", "loop"))
        client = self.subject.client("scale", pool, str(self.random.randint(0, 5)))
        self.background(client, lambda ended: None)

    def reload(self) -> None:
        """Reload what is good, code and configuration; by the command or by a signal."""
        size = self.random.randint(1, 5)
        self.subject.restore(jobs={"workers": size}, loop={"max_rounds": size * 50})
        self.subject.add_code(f"VERSION = {self.random.random()}")
        if self.random.random() < 0.3:
            self._hang_up()
        else:
            self.background(self.subject.client("reload"), lambda ended: None)

    def _hang_up(self) -> None:
        if self.subject.runs:
            self.signal_safely("HUP")

    def reload_broken(self) -> None:
        """Reload what is broken while workers are killed: it must be refused."""
        if not self._was_ready():  # it would start with it
            return
        if self.random.random() < 0.5:
            what = self.random.choice(BROKEN_CODE)
            self.subject.restore(jobs={"ready_timeout": "3s"})
            self.subject.add_code(what)
        else:
            what = self.random.choice(BROKEN_CONFIG) or ""
            if what:
                self.subject.config.write_text(self.subject.config.read_text() + what)
            else:
                self.subject.config.unlink()
        client = self.subject.client("reload")
        for _ in range(self.random.randint(0, 2)):
            self.kill()
            time.sleep(0.1)
        ended = self.wait(client)
        self.subject.restore()
        if ended is not None and ended.status == 0:
            self.fault(f"a reload was not refused: {what!r}; {ended.out}")

    # -- what befalls it ---------------------------------------------------------------------

    def kill(self) -> None:
        """Send a signal to one process that is not the main one."""
        kind = self.random.choice(("worker", "worker", "worker", "zygote", "keeper"))
        number = self.random.choice(TO_OTHERS)
        self._to_one(kind, lambda pid: os.kill(pid, signal.Signals[f"SIG{number}"]))

    def _to_one(self, kind: str, act: Callable[[int], None]) -> None:
        chance = self.random.random()
        if pids := self.subject.of_kind(kind):
            try:
                act(pids[int(chance * len(pids))])
            except ProcessLookupError:  # it has just ended
                self.done["too late"] += 1

    def pause(self) -> None:
        """Stop a process, the main one too, for a while."""
        kind = self.random.choice(("worker", "worker", "zygote", "keeper", "main"))
        if kind != "main":
            self._to_one(kind, self.subject.pause)
        elif self.subject.process is not None and self.subject.runs:
            self.subject.pause(self.subject.process.pid)
        self.later(self.subject.go_on, 0.2, self.random.choice((1, 1, 4, 4, 20)))

    def signal_main(self) -> None:
        """Send a signal to the main process that does not end it."""
        number = self.random.choice(TO_MAIN)
        if self.subject.runs:
            self.signal_safely(number)

    def signal_safely(self, name: str) -> None:
        """Send a signal to the main process; it may be too young to survive it."""
        self._signalled |= time.monotonic() - self._started < JUST_BORN
        self.subject.signal(signal.Signals[f"SIG{name}"])

    def kill_main(self) -> None:
        """Kill the main process; start the next one at once, or after some jobs without one."""
        if not self.subject.runs:
            return
        self.subject.signal(signal.SIGKILL)
        if (status := self.subject.ended()) != -signal.SIGKILL:
            self.fault(f"killed, the main process ended with {status}")
        self._after_the_end()

    def _after_the_end(self) -> None:
        if self.random.random() < 0.4:
            self.subject.restore()
            self.submit()
            self.submit_many()
            time.sleep(self.random.uniform(0, 3))
        self.start()

    def stop(self) -> None:
        """Stop the daemon in one of the ways that there are, and start it again."""
        if not self.subject.runs:
            return
        how = self.random.choice((["TERM"], ["INT"], ["INT", "INT"], ["TERM", "INT"], [], ["now"]))
        if not how or how == ["now"]:
            client = self.subject.client("stop", *(["--now"] if how else []))
            ended = self.wait(client)
            if ended is None or ended.status == 3:  # no way to it, after a sweep
                self.subject.signal(signal.SIGTERM)
        for name in how if how != ["now"] else []:
            if self.subject.runs:
                self.signal_safely(name)
                time.sleep(self.random.uniform(0, 0.3))
        self.subject.go_on()
        status = self.subject.ended()
        if status is None:
            self.fault(f"a stop by {how or 'graced stop'} does not end")
        elif status not in (0, 1) and not (self._signalled and status < 0):
            self.fault(f"a stop by {how or 'graced stop'} ended with {status}")
        self._after_the_end()

    def sweep(self) -> None:
        """Remove the runtime directory under it; a reload makes it again."""
        shutil.rmtree(self.subject.run, ignore_errors=True)
        self._swept = True
        self.later(self._hang_up, 0, 3)

    def step_clock(self) -> None:
        """Set the wall clock forward or back."""
        self.subject.set_clock(self.random.choice((0, 5, -5, 3600, -3600, 86400, -86400)))

    def fill_disk(self) -> None:
        """Have no room in the state directory for a while."""
        self.subject.fill_disk()
        self.later(self.subject.free_disk, 1, 6)

    # -- calm ----------------------------------------------------------------------------------

    def calm_down(self) -> None:
        """Let nothing happen; all has to be well again within a while."""
        for _, act in self._later:
            act()
        self._later.clear()
        self.subject.go_on()
        self.subject.restore()
        while self._pending:
            client, heard = self._pending[0]
            client.wait()
            self._collect(client, heard)
        self.tend()
        if self.faults:
            return
        if not until(self._reloaded, WELL_AGAIN):
            self.fault("in peace, a good reload did not succeed")
        elif not until(lambda: self._says("health", "--ready"), WELL_AGAIN):
            self.fault("in peace, it was not healthy again")
        else:
            self._probe()

    def _reloaded(self) -> bool:
        """Whether a good reload succeeds; where nobody hears, its door was removed."""
        ended = self.subject.ask("reload")
        self.judge(["reload"], ended)
        if ended is not None and ended.status == 3:
            self.tend()
            self._hang_up()
        return ended is not None and ended.status == 0

    def _says(self, *words: str) -> bool:
        ended = self.subject.ask(*words)
        self.judge(list(words), ended)
        return ended is not None and ended.status == 0

    def _probe(self) -> None:
        """Each queue does a job; those before it may take a while."""
        for pool in QUEUES:
            number = self.accepted.next_number()
            script = str(self.subject.home / "code" / "chaos_command.sh")
            job = json.dumps({"n": number, "do": "work", "seconds": 0})
            tail = ["--", "sh", script, str(number), "0", "0"]
            self.accepted.tried[pool, number] = number
            words = tail if pool == "commands" else ["--json", job]
            done = functools.partial(self._says, "submit", "--pool", pool, "--wait", *words)
            if not until(done, WELL_AGAIN):  # one that was full is looked at again after a while
                self.fault(f"in peace, pool {pool} did not do a job")
            self.accepted.note(pool, [number])

    def finish(self) -> None:
        """All jobs come to their end, a stop leaves nothing, and the books are right."""
        if self.faults:
            return
        if not until(self._worked_off, WORKED_OFF):
            self.fault(f"jobs are left: {self.subject.ask('status')}")
        self._says("stop")
        if (status := self.subject.ended()) != 0:
            self.fault(f"stopped in peace, it ended with {status}")
        if not until(lambda: not self.subject.processes(), 30):
            self.fault(f"left behind: {self.subject.processes()}")
        self._folders_are_empty()
        for pool in QUEUES:
            self.faults += all_was_kept(pool, self.accepted, self.subject.jobs(pool))
        records = self.subject.records.read_text()
        self.faults += all_ran_alone(records, self.accepted)
        self.faults += log_is_clean(self.subject.log.read_text(errors="replace"))

    def _worked_off(self) -> bool:
        ended = self.subject.ask("status", "--json")
        if ended is None or ended.status != 0:
            return False
        counts = [json.loads(ended.out)["pools"][pool]["queue"] for pool in QUEUES]
        return not any(count["waiting"] or count["taken"] for count in counts)

    def _folders_are_empty(self) -> None:
        sockets = [path for path in self.subject.run.rglob("*") if path.is_socket()]
        locks = [p for p in self.subject.state.rglob("*") if p.parent.name.endswith("-owners")]
        if sockets or locks:
            self.fault(f"left behind: {[str(path) for path in [*sockets, *locks]]}")


def main(arguments: list[str]) -> int:
    """Run the chaos; print what was done and what did not hold."""
    options = _parse(arguments)
    if os.geteuid() == 0 and not options.inside and _has_namespaces():
        line = ["unshare", "--mount", "--propagation", "private", sys.executable]
        os.execvp(line[0], [*line, "-m", "benchmarks.chaos", "--inside", *arguments])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is cleaned up
    with Subject(disk=options.inside) as subject:
        chaos = Chaos(subject, options.seed)
        began = time.monotonic()
        chaos.run(options.seconds)
        took = time.monotonic() - began
    print(json.dumps(_summary(chaos, options, took), indent=1))
    for fault in chaos.faults:
        print(fault[:4000], file=sys.stderr)
    if chaos.faults:
        print(f"seed {options.seed}: see {subject.home}", file=sys.stderr)
    else:
        subject.remove()
    return 1 if chaos.faults else 0


def _summary(chaos: Chaos, options: argparse.Namespace, took: float) -> dict[str, Any]:
    return {
        "seed": options.seed,
        "seconds": round(took),
        "clock steps": chaos.subject.has_clock,
        "full disk": chaos.subject.has_disk,
        "done": dict(chaos.done.most_common()),
        "daemons": len(chaos.subject.statuses),
        "accepted": len(chaos.accepted.jobs),
        "runs": chaos.accepted.runs,
        "dead": chaos.accepted.dead,
        "faults": len(chaos.faults),
    }


def _has_namespaces() -> bool:
    line = ["unshare", "--mount", "--propagation", "private", "true"]
    try:
        return subprocess.run(line, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800, help="of chaos, without the end")
    parser.add_argument("--seed", type=int, default=1, help="what is chosen follows from it")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
