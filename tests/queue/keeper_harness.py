"""A real keeper for tests: its process, workers' and clients' ends, waits with a deadline."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graced.log.logger import Log
from graced.queue.address import QueueAddress
from graced.queue.client_end import ClientEnd
from graced.queue.engines import file_of
from graced.queue.job import Done, Job, Outcome
from graced.queue.keeper import Keeper
from graced.queue.plan import KeeperPlan
from graced.queue.policy import Policy
from graced.queue.tally import Tally
from graced.queue.worker_end import WorkerEnd

DEFAULTS = Policy()
DEADLINE = 60.0  # seconds; only reached by a failure


class KeeperHarness:
    """One queue, kept by a process of its own; the test is its main process."""

    def __init__(
        self,
        folder: Path,
        policy: Policy = DEFAULTS,
        daemon_id: str = "d1",
        url: str | None = None,
    ) -> None:
        self.file = file_of(url, "jobs", str(folder))
        self.socket = f"{folder}/queue-jobs.sock"
        engine = "sqlite" if url is None else url.partition("://")[0]
        address = QueueAddress(daemon_id, self.socket, self.file, engine)
        self.tally = Tally()
        plan = KeeperPlan("jobs", address, policy, log=Log(), url=url, tally=self.tally)
        self.keeper = Keeper(plan)
        self.said: list[tuple[Any, ...]] = []
        self._instants = 0  # that were submitted, and are not kept yet
        self._ends: list[ClientEnd | WorkerEnd] = []
        self._living: list[WorkerEnd] = []

    def __enter__(self) -> KeeperHarness:
        return self

    def __exit__(self, *_error: object) -> None:
        for end in self._ends:
            end.close()
        for worker in self._living:
            os.close(worker.lock)
        if self.keeper.pid is not None:
            self.kill()
        self.keeper.close()

    def start(self) -> KeeperHarness:
        self.begin()
        self.until(lambda: self.keeper.open)
        return self

    def begin(self) -> None:
        """Start without waiting for it to have the file."""
        self.keeper.start()

    def kill(self) -> None:
        """End the keeper as the kernel would: no last words."""
        pid, self.keeper.pid = self.keeper.pid, None
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def restart(self) -> None:
        self.kill()
        self.start()

    def stop(self) -> int:
        """Stop it as asked; return its exit status."""
        pid, self.keeper.pid = self.keeper.pid, None
        assert pid is not None
        self.keeper.stop()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.hear()
        return status

    def hear(self) -> None:
        self.said += self.keeper.receive()

    def until(self, true: Callable[[], Any]) -> Any:
        """Wait for what the keeper says to the main process to make something true."""
        end = time.monotonic() + DEADLINE
        while not (found := true()):
            assert time.monotonic() < end, f"it said only {self.said}"
            fd = self.keeper.fileno()
            assert fd >= 0, f"the keeper is gone; it said {self.said}"
            select.select([fd], [], [], 0.2)
            self.hear()
        return found

    def counts(self) -> dict[str, Any]:
        self.keeper.counts = None
        self.keeper.count()
        found: dict[str, Any] = self.until(lambda: self.keeper.counts)
        return found

    # -- schedules

    def watch(self, **rules: str | tuple[str, int | None, bool]) -> None:
        """Tell which schedules there are: each one's rule, and where it shall begin."""
        told = {n: (r, None, False) if isinstance(r, str) else r for n, r in rules.items()}
        self.keeper.watch(told)

    def submit(self, name: str, instant: int, payload: str = "1", *, alone: bool = False) -> None:
        self.keeper.submit(name, instant, payload, 0.0, alone)
        self._instants += 1

    def standings(self, *names: str) -> list[tuple[int, int | None]]:
        """Return where schedules stand, as the keeper has said last."""

        def told() -> dict[str, tuple[int, int | None]] | None:
            found = [message[1] for message in self.said if message[0] == "standings"]
            return found[-1] if self.keeper.has_heard_schedules and found else None

        found = self.until(told)
        return [found[name] for name in names]

    def kept(self) -> list[tuple[str, int]]:
        """Return what became of the instants since the last call, all of them."""
        wanted, self._instants = self._instants, 0

        def told() -> list[tuple[Any, ...]]:
            return [message for message in self.said if message[0] == "kept"]

        self.until(lambda: len(told()) == wanted)
        found = [(how, instant) for _, _, instant, how, _ in told()]
        self.said = [message for message in self.said if message[0] != "kept"]
        return found

    def client(self) -> ClientEnd:
        end = ClientEnd(self.socket)
        self._ends.append(end)
        return end

    def worker(self, number: int, *, cancels: bool = False) -> WorkerEnd:
        end = WorkerEnd(self.keeper.plan.address, number, cancels=cancels)
        self._ends.append(end)
        self._living.append(end)
        return end

    def died(self, worker: WorkerEnd, number: int, counts: bool, **evidence: Any) -> None:
        """Let a worker die: its lock and its connection go with it."""
        self.gone(worker)
        self.keeper.died(number, evidence, counts=counts)

    def gone(self, worker: WorkerEnd) -> None:
        """Close all that a worker has."""
        os.close(worker.lock)
        self._living.remove(worker)
        worker.close()


def in_a_process(work: Callable[[], None]) -> int:
    """Do some work in a child, which exits with 0 if nothing was raised; return its number."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return pid


def readdress(keeper: Keeper, **other: str) -> None:
    """Have a keeper's next process go by another address."""
    keeper.plan = keeper.plan.replace(address=keeper.plan.address.replace(**other))


def take(worker: WorkerEnd) -> Job:
    """Wait for a worker's next job, as a worker does."""
    end = time.monotonic() + DEADLINE
    worker.ask()
    while (job := worker.receive()) is None:
        assert time.monotonic() < end, "no job came"
        await_news(worker, end)
    return job


def take_all(worker: WorkerEnd, count: int) -> list[Job]:
    """Wait for so many jobs of one that has said how many it wants."""
    end = time.monotonic() + DEADLINE
    jobs: list[Job] = []
    while len(jobs) < count:
        assert time.monotonic() < end, f"{len(jobs)} of {count} jobs came"
        if (job := worker.receive()) is None:
            await_news(worker, end)
        else:
            jobs.append(job)
    return jobs


def settle(worker: WorkerEnd, job: Job, outcome: Outcome | None = None) -> None:
    """Settle a job and wait until that is durable."""
    worker.settle(job, outcome or Done(), more=False)
    confirm(worker)


def confirm(worker: WorkerEnd) -> None:
    """Wait until all that a worker has settled is durable."""
    end = time.monotonic() + DEADLINE
    while worker.unsettled:
        assert time.monotonic() < end, "a settle was not confirmed"
        await_news(worker, end)
        worker.receive()


def reconnect(worker: WorkerEnd) -> None:
    """Wait until a worker that has no job coming is with the next keeper."""
    end = time.monotonic() + DEADLINE
    assert worker.receive() is None  # it sees that the last one is gone
    while worker.fileno() < 0:
        assert time.monotonic() < end, "it does not find the next keeper"
        await_news(worker, end)
        assert worker.receive() is None


def await_news(worker: WorkerEnd, end: float) -> None:
    wait = worker.retry_in()
    left = max(end - time.monotonic(), 0)
    fds = [worker.fileno()] if worker.fileno() >= 0 else []
    select.select(fds, [], [], left if wait is None else min(wait, left))


def work_off(worker: WorkerEnd, count: int) -> list[Job]:
    """Do so many jobs, one after the other, as quickly as may be."""
    done = []
    for _ in range(count):
        job = take(worker)
        worker.settle(job, Done(), more=True)
        done.append(job)
    return done
