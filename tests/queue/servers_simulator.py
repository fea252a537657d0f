"""Three hosts and a server in one process, with a clock that jumps, by seed.

The rules are the program's own: the keeper's storage and dispatcher, its lease, the fence of the
main process. Modelled are the server (as its functions do it), the network, workers, and what goes
wrong: cut lines, answers that are lost, requests that arrive late, keepers that are stopped in the
middle of a call or killed, workers and whole hosts that die, clocks that are slow, a server that is
restarted. A law judges each step.

    python tests/queue/servers_simulator.py 1000000 7    # steps, seed
"""

from __future__ import annotations

import heapq
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graced.core.actions import LookForJob
from graced.core.fence import Fence
from graced.core.states import KillReason, WorkerState
from graced.queue.address import QueueAddress
from graced.queue.job import Done, Raised
from graced.queue.plan import KeeperPlan
from graced.queue.policy import Policy
from graced.queue.protocol import ServerGone
from graced.queue.servers import storage
from graced.queue.servers.link import (
    CLOSED,
    DEAD,
    DONE,
    NO_RING,
    WAITS,
    Answer,
    Expired,
    Handout,
    HostName,
    Turn,
)
from graced.queue.terms import Terms
from graced.settings import Retry

LEASE = 6.0
STOP_TIMEOUT = 1.5
POLICY = Policy(max_attempts=10_000, retry=Retry(0.1, 2.0, 1.0), lease=LEASE)
FOUND = '{"reason":"found taken"}'


class LawBroken(AssertionError):
    """What must never happen."""


# The server


class Job:
    __slots__ = ("due", "failures", "host", "id", "owner", "state", "token")

    def __init__(self, id: int, due: float) -> None:
        self.id = id
        self.due = due
        self.state = "waiting"  # or taken
        self.token = 0
        self.failures = 0
        self.host = 0
        self.owner = ""


class Lease:
    __slots__ = ("daemon", "expires", "name", "place", "session")

    def __init__(self, told: HostName) -> None:
        self.daemon, self.name, self.place = told.daemon, told.name, told.place
        self.session = 0
        self.expires = 0.0


class Server:
    """What the functions of a server do, each in one step."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.jobs: dict[int, Job] = {}  # that are not done
        self.done: set[int] = set()
        self.most_tokens = 0
        self.accepted = 0
        self.leases: dict[int, Lease] = {}
        self.links: list[ModelLink] = []
        self.up = True
        self.accepts_late = False  # a mutant
        self._last = 0

    def _ring(self) -> None:
        for link in self.links:
            link.notes.append("new")

    def join(self, host: HostName, length: float) -> tuple[int, int, list[Handout]]:
        number = next((n for n, lease in self.leases.items() if lease.daemon == host.daemon), 0)
        if not number:
            number = self._last = self._last + 1
            self.leases[number] = Lease(host)
        lease = self.leases[number]
        lease.session += 1
        lease.expires = self._world.now + length
        held = [
            self._handout(job, self.leases[job.host].daemon)
            for job in self.jobs.values()
            if job.state == "taken" and self.leases[job.host].place == host.place
        ]
        return number, lease.session, held

    def _handout(self, job: Job, daemon: str = "") -> Handout:
        return Handout(job.id, job.token, job.owner, daemon, job.failures, 0, 0, 0, None, "1")

    def turn(self, number: int, session: int, turn: Turn) -> Answer:
        now, lease = self._world.now, self.leases.get(number)
        if lease is None or lease.session != session:
            return Answer(lost=True)
        lease.expires = now + turn.lease
        late = [(s.id, s.token) for s in turn.settles if not self._settle(s)]
        accepted: list[list[int] | str] = []
        for submission in turn.submissions:
            ids = []
            for _ in submission.payloads:
                self.accepted += 1
                job = Job(self.accepted, now)
                self.jobs[job.id] = job
                ids.append(job.id)
            accepted.append(ids)
        if turn.submissions:
            self._ring()
        expired = self._expire() if turn.looks else []
        ready = [job for job in self.jobs.values() if job.state == "waiting" and job.due <= now]
        ready.sort(key=lambda job: (job.due, job.id))
        jobs = []
        for owner, job in zip(turn.idle, ready, strict=False):
            job.state, job.host, job.owner = "taken", number, owner
            job.token += 1
            jobs.append(self._handout(job))
        due = [job.due - now for job in self.jobs.values() if job.state == "waiting"]
        left = min((seconds for seconds in due if seconds > 0), default=None)
        more = bool(jobs) and len(jobs) == len(turn.idle)
        return Answer(False, jobs, [], late, accepted, [], expired, more, False, left)

    def _settle(self, said: Any) -> bool:
        job = self.jobs.get(said.id)
        if job is None:
            return False
        if (job.state != "taken" or job.token != said.token) and not self.accepts_late:
            return False
        job.failures = said.failures
        if said.kind == DONE:
            self._world.settled(job, said.token)
            self.most_tokens = max(self.most_tokens, job.token)
            self.done.add(job.id)
            del self.jobs[job.id]
        else:
            assert said.kind == WAITS, DEAD
            self._give_back(job, said.after)
        return True

    def _give_back(self, job: Job, after: float | None) -> None:
        job.state, job.host, job.owner = "waiting", 0, ""
        if after is not None:
            job.due = self._world.now + after

    def _expire(self) -> list[Expired]:
        gone = [n for n, lease in self.leases.items() if lease.expires < self._world.now]
        found = []
        for number in gone:
            lease = self.leases.pop(number)
            jobs = [j for j in self.jobs.values() if j.state == "taken" and j.host == number]
            for job in jobs:
                job.failures += 1
                self._give_back(job, 0.0)
            found.append(Expired(lease.name, lease.daemon, len(jobs), LEASE))
        return found

    def leave(self, number: int) -> None:
        if not any(job.host == number for job in self.jobs.values() if job.state == "taken"):
            self.leases.pop(number, None)


class ModelLink:
    """A connection, over a network on which anything may happen."""

    rings = True

    def __init__(self, host: Host) -> None:
        self._host = host
        self._world = host.world
        self._closed = False
        self.notes: list[str] = []
        self._number = self._session = 0
        self._call(lambda: self._world.server.links.append(self))

    def _call(self, act: Callable[[], Any]) -> Any:
        """Ask the server for something, and suffer what happens on the way."""
        host, world = self._host, self._world
        what = world.chance_of(host)
        if self._closed or not world.server.up or what == "cut":
            if what == "cut":
                world.others_go_on(host, world.random.uniform(0.0, 5.0))
            self._fail()
        if what == "late":  # it is executed when nobody waits for it any more
            world.after(world.random.uniform(0.1, 15.0), act)
            self._fail()
        if what == "slow":
            world.others_go_on(host, world.random.uniform(0.0, 3.0))
            if not world.server.up:
                self._fail()
        answer = act()
        if what == "lost":
            self._fail()
        if what in ("slow", "stopped"):  # the keeper, before it reads the answer
            longest = 12.0 if what == "stopped" else 1.0
            world.others_go_on(host, world.random.uniform(0.0, longest))
        return answer

    def _fail(self) -> None:
        self.close()
        raise ServerGone("the server is gone")

    def fileno(self) -> int:
        return CLOSED if self._closed else NO_RING

    def heard(self) -> list[str]:
        notes, self.notes = self.notes, []
        return notes

    def close(self) -> None:
        self._closed = True
        if self in self._world.server.links:
            self._world.server.links.remove(self)

    def join(self, host: HostName, lease: float, _policy: Policy) -> list[Handout]:
        joined = self._call(lambda: self._world.server.join(host, lease))
        self._number, self._session, held = joined
        return held  # type: ignore[no-any-return]

    def turn(self, turn: Turn, _policy: Policy) -> Answer:
        number, session = self._number, self._session
        return self._call(lambda: self._world.server.turn(number, session, turn))  # type: ignore[no-any-return]

    def leave(self) -> None:
        self._call(lambda: self._world.server.leave(self._number))

    def maintain(self, _keep: float) -> bool:
        return False

    def warnings(self) -> list[str]:
        return []


# A host


class Record:
    """What a keeper tells on the scoreboard."""

    host_lease = 0
    host_lease_until = 0


class Quiet:
    """A log that nobody reads."""

    def warning(self, *_words: object, **_fields: object) -> None:
        pass

    error = info = warning


class Worker:
    """A process that works on jobs; it is a member of the core's pool, too."""

    def __init__(self, host: Host, number: int) -> None:
        self.host = host
        self.id = number
        self.name = host.address.owner(number)
        self.state = WorkerState.READY
        self.alive = True
        self.polite = host.world.random.random() < 0.6
        self.hand: Any = None  # the job, from its arrival on
        self.mail: list[Any] = []  # jobs on their way
        self.unsettled: list[tuple[Any, Any]] = []  # said, as far as it knows not confirmed

    def interrupt(self, _now: float) -> list[Any]:
        if self.polite:
            self.host.world.after(0.3, lambda: self.host.worker_gone(self, None))
        return []

    def kill(self, _now: float, _reason: KillReason) -> list[Any]:
        self.host.worker_gone(self, None)
        return []


class Host:
    """One daemon's main process, keeper and workers."""

    def __init__(self, world: World, name: str, folder: Path) -> None:
        self.world = world
        self.name = name
        self.folder = folder
        self.rate = world.random.uniform(0.998, 1.002)
        self.offset = world.random.uniform(0.0, 1000.0)
        self.cut_until = self.frozen_until = self.main_frozen_until = 0.0
        self.in_call = False
        self.daemons = 0
        self.start()

    def clock(self) -> float:
        return self.offset + self.world.now * self.rate

    def start(self) -> None:
        """A new daemon."""
        self.daemons += 1
        self.address = QueueAddress(f"{self.name}{self.daemons}", "/none", f"{self.folder}/jobs")
        self.record = Record()
        self.fence = Fence()
        self.told = 0
        self.keeper: storage.ServedQueue | None = None
        self.keeper_at = self.world.now + 0.1
        self.deaths: dict[str, str | None] = {}
        self.messages: list[tuple[Any, ...]] = []
        self.workers: dict[str, Worker] = {}
        self.numbers = 0
        self.up = True
        for _ in range(self.world.workers):
            self.new_worker()

    def new_worker(self) -> None:
        self.numbers += 1
        worker = Worker(self, self.numbers)
        self.workers[worker.name] = worker
        self.greet(worker)

    @property
    def dispatcher(self) -> Any:
        return None if self.keeper is None else self.keeper.dispatcher

    def greet(self, worker: Worker) -> None:
        """A worker connects, and says what it has in hand and what it has settled."""
        if self.dispatcher is None:
            return
        held = [job for job, _ in worker.unsettled] + ([worker.hand] if worker.hand else [])
        self.dispatcher.join(worker.name, [(job.id, job.token) for job in held], 0)
        for job, outcome in worker.unsettled:
            self.dispatcher.settle(worker.name, job.id, job.token, outcome, False, 0)
        if worker.hand is None:
            self.dispatcher.ask(worker.name, 0)

    # -- what its processes do

    def step(self) -> None:
        if not self.up:
            return
        if self.world.now >= self.main_frozen_until:
            self.main_turn()
        if not self.in_call and self.world.now >= self.frozen_until:
            self.keeper_turn()

    def main_turn(self) -> None:
        now = self.clock()
        self.hear_keeper(now)
        if self.record.host_lease_until != self.told:  # as it looks before each tick
            self.told = self.record.host_lease_until
            if self.told:
                self.fence.held(self.told / 1e9, self.record.host_lease / 1e9, STOP_TIMEOUT)
        for action in self.fence.tick("jobs", list(self.workers.values()), now):  # type: ignore[arg-type]
            if isinstance(action, LookForJob):
                worker = next(w for w in self.workers.values() if w.id == action.worker)
                if worker.hand is not None:
                    self.fence.found(worker, now)  # type: ignore[arg-type]
        if self.keeper is None and self.world.now >= self.keeper_at:
            self.start_keeper()

    def hear_keeper(self, now: float) -> None:
        messages, self.messages = self.messages, []
        for message in messages:
            for number in message[1:] if message[0] == "lost" else ():
                worker = self.workers.get(self.address.owner(number))
                if worker is not None:
                    worker.kill(now, KillReason.FORCED)

    def start_keeper(self) -> None:
        plan = KeeperPlan("jobs", self.address, POLICY, log=Quiet(), record=self.record)  # type: ignore[arg-type]
        self.keeper = storage.ServedQueue(
            plan, self.messages.append, lambda: ModelLink(self), "model", None, self.clock
        )

    def keeper_turn(self) -> None:
        keeper = self.keeper
        if keeper is None:
            return
        self.in_call = True
        try:
            self._keeper_turn(keeper)
        finally:
            self.in_call = False

    def _keeper_turn(self, keeper: storage.ServedQueue) -> None:
        if keeper.wants_opening and keeper.open() and self.keeper is keeper:
            self._opened(keeper)
        dispatcher = keeper.dispatcher
        if dispatcher is None or self.keeper is not keeper:
            return
        keeper.rang()
        for owner, evidence in list(self.deaths.items()):
            if owner in dispatcher.consumers:
                dispatcher.bury(owner, evidence, 0)
            del self.deaths[owner]
        again = True
        while again and not keeper.write_paused:
            rows = keeper.commit(dispatcher, None, lambda _why: None)
            if rows is None or self.keeper is not keeper:
                return
            for row in rows:
                worker = self.workers.get(row.owner or "")
                if worker is None:
                    dispatcher.requeue(row, 0)
                else:
                    worker.mail.append(row)
                    delay = self.world.random.uniform(0.0, 0.05)
                    self.world.after(delay, lambda w=worker: w.host.begin(w))
            for worker in self.workers.values():  # all settles are confirmed
                worker.unsettled = [
                    (job, outcome)
                    for job, outcome in worker.unsettled
                    if (job.id, job.token) in dispatcher._settles
                ]
            keeper.written()
            again = keeper.read_ahead(dispatcher)

    def _opened(self, keeper: storage.ServedQueue) -> None:
        dispatcher = keeper.dispatcher
        assert dispatcher is not None
        for owner in list(dispatcher.consumers):
            if owner not in self.workers:  # nobody has its lock
                dispatcher.bury(owner, self.deaths.pop(owner, FOUND), 0)
        for worker in self.workers.values():
            self.greet(worker)

    # -- workers

    def begin(self, worker: Worker) -> None:
        """A job arrives."""
        if not worker.alive or worker.hand is not None or not worker.mail:
            return
        row = worker.mail.pop(0)
        self.world.begins(worker, row)
        worker.hand = row
        self.world.after(
            self.world.random.choice((0.05, 0.3, 1.0, 4.0, 20.0)), lambda: self.end(worker, row)
        )

    def end(self, worker: Worker, row: Any) -> None:
        if not worker.alive or worker.hand is not row:
            return
        worker.hand = None
        outcome = Done("1") if self.world.random.random() < 0.9 else Raised("{}")
        worker.unsettled.append((row, outcome))
        if self.dispatcher is not None:
            self.dispatcher.settle(worker.name, row.id, row.token, outcome, True, 0)

    def worker_gone(self, worker: Worker, evidence: str | None) -> None:
        if not worker.alive:
            return
        worker.alive = False
        del self.workers[worker.name]
        if self.dispatcher is not None:
            self.dispatcher.absent(worker.name, 0)
        self.deaths[worker.name] = evidence
        if self.up:
            self.world.after(0.1, self.new_worker_if_up)

    def new_worker_if_up(self) -> None:
        if self.up and len(self.workers) < self.world.workers:
            self.new_worker()

    # -- what goes wrong

    def kill_keeper(self) -> None:
        keeper, self.keeper = self.keeper, None
        if keeper is not None:
            if keeper._link is not None:
                keeper._link.close()
            keeper._rings.close()
            if keeper._lock is not None:
                os.close(keeper._lock)
            for worker in list(self.workers.values()):
                self.begin(worker)  # what it has sent is in the socket, and is read first
        self.keeper_at = self.world.now + 0.2

    def kill(self) -> None:
        """All of it is gone at once, and comes back later."""
        self.up = False
        for worker in list(self.workers.values()):
            worker.alive = False
        self.workers.clear()
        self.kill_keeper()
        self.world.after(self.world.random.choice((0.5, 3.0, 20.0)), self.start)


# All of it


class World:
    """Three hosts, a server, a clock."""

    def __init__(self, seed: int, folder: Path, hosts: int = 3, workers: int = 2) -> None:
        self.random = random.Random(seed)
        random.seed(seed)  # for jitters
        self.now = 0.0
        self.workers = workers
        self.calm = False
        self.steps = 0
        self._events: list[tuple[float, int, Callable[[], Any]]] = []
        self._count = 0
        self.server = Server(self)
        self.hosts = []
        for n in range(hosts):
            home = folder / f"host{n}"
            home.mkdir()
            self.hosts.append(Host(self, f"h{n}x", home))

    def after(self, seconds: float, act: Callable[[], Any]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, act))

    def others_go_on(self, host: Host, seconds: float) -> None:
        """A host's keeper stands still in the middle of a call; the rest of the world does not."""
        host.in_call = True
        self._run(self.now + seconds)
        host.in_call = True  # it is in there still

    def _run(self, end: float) -> None:
        while self.now < end:
            self.step(min(self.random.choice((0.01, 0.05, 0.2)), end - self.now))

    def step(self, seconds: float) -> None:
        self.steps += 1
        self.now += seconds
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()
        for host in self.hosts:
            host.step()

    def run(self, steps: int) -> None:
        while self.steps < steps:
            if self.random.random() < 0.05:
                self.go_wrong()
            if self.random.random() < 0.1:
                self.submit()
            self.step(self.random.choice((0.01, 0.05, 0.2)))

    def submit(self) -> None:
        host = self.random.choice(self.hosts)
        if host.dispatcher is not None:
            accepted = host.dispatcher.submit(["1"], Terms(), 0)
            accepted.tell = lambda told: None

    def go_wrong(self) -> None:
        host, dice = self.random.choice(self.hosts), self.random.random()
        long = self.random.choice((0.5, 2.0, 5.0, 9.0, 20.0))
        if dice < 0.3:
            host.cut_until = self.now + long
        elif dice < 0.5:
            host.frozen_until = self.now + long
        elif dice < 0.6 and not host.in_call:
            host.kill_keeper()
        elif dice < 0.9 and host.workers:
            host.worker_gone(self.random.choice(list(host.workers.values())), "{}")
        elif dice < 0.95 and host.up and not host.in_call:
            host.kill()
        elif self.server.up:
            self.server.up = False
            for link in list(self.server.links):
                link.close()
            self.after(self.random.choice((0.5, 3.0, 8.0)), self._server_back)

    def _server_back(self) -> None:
        self.server.up = True

    def chance_of(self, host: Host) -> str:
        if self.now < host.cut_until:
            return "cut"
        dice = self.random.random()
        if self.calm or dice > 0.04 or sum(h.in_call for h in self.hosts) > 2:
            return "fine"
        return self.random.choice(("late", "slow", "lost", "stopped"))

    # -- the law

    def begins(self, worker: Worker, row: Any) -> None:
        for host in self.hosts:
            for other in host.workers.values():
                if other is not worker and other.hand is not None and other.hand.id == row.id:
                    raise LawBroken(
                        f"job {row.id} runs twice at {self.now:.2f}: {other.name} has"
                        f" {other.hand.token}, {worker.name} gets {row.token}"
                    )

    def settled(self, job: Job, token: int) -> None:
        """A job is done: nobody has a later hand-out of it."""
        if token != job.token or job.id in self.server.done:
            raise LawBroken(f"job {job.id}: {token} is settled, {job.token} is out")

    def end(self) -> None:
        """All goes well from now on: each job is done, once."""
        self.calm = True
        for host in self.hosts:
            host.cut_until = host.frozen_until = 0.0
        end = self.now + 400.0
        while self.server.jobs:
            if self.now > end:
                raise LawBroken(f"never done: {sorted(self.server.jobs)[:20]}")
            self.step(0.05)
        if len(self.server.done) != self.server.accepted:
            raise LawBroken(f"{self.server.accepted - len(self.server.done)} jobs were lost")

    def close(self) -> None:
        for host in self.hosts:
            host.workers.clear()
            host.kill_keeper()


@contextmanager
def world(seed: int) -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        made = World(seed, Path(folder))
        try:
            yield made
        finally:
            made.close()


def main(steps: int, *seeds: int) -> None:
    for seed in seeds:
        with world(seed) as made:
            made.run(steps)
            made.end()
            jobs, most = made.server.accepted, made.server.most_tokens
            print(
                f"seed {seed}: {made.steps} steps, {made.now:.0f} s, {jobs} jobs, tokens to {most}"
            )


if __name__ == "__main__":
    sys.setrecursionlimit(10_000)
    main(int(sys.argv[1]), *map(int, sys.argv[2:] or ["1"]))
