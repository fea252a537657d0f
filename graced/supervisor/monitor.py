"""What the scoreboard says of the workers, turned into events.

Looks where a bell rang and where a round's deadline is due; nothing here ticks.
A worker that is not in a round is asked to ring when it begins one, so that the
main process may sleep until then.
"""

from __future__ import annotations

from graced.core.events import (
    Acknowledged,
    BecameReady,
    LeaseSeen,
    ReplacementWanted,
    RoundDone,
    RoundOverdue,
)
from graced.core.status import WorkerReading
from graced.host.scoreboard import CUT_OFF, Phase, Wants, WorkerRecord, fence
from graced.supervisor.round_counts import RoundCounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.core.events import Event

NANOSECONDS = 1_000_000_000
WHY = {
    Wants.MAX_ROUNDS: "max_rounds",
    Wants.MAX_RSS: "max_rss",
    Wants.RECYCLE: "recycle()",
    Wants.MAX_RSS_AT_ONCE: "max_rss",
}


class _Watched:
    """One worker's record, and what was last said of it."""

    __slots__ = (
        "ack",
        "added",
        "busy",
        "due",
        "good",
        "lease",
        "leased",
        "pool",
        "ready",
        "record",
        "rings",
        "round_timeout",
        "stacks",
        "stuck",
        "wants",
    )

    def __init__(
        self, record: WorkerRecord, round_timeout: float | None, now: float, pool: str
    ) -> None:
        self.record = record
        self.pool = pool
        self.busy = 0.0  # seconds that it was busy, as told last
        self.added = now
        self.rings = 0  # how often it was asked to ring; what stands there it may have changed
        self.round_timeout = round_timeout
        self.ready = False
        self.ack = 0
        self.wants = 0
        self.stacks = 0
        self.good: int | None = None  # rounds that had ended well when it was first watched
        self.lease: tuple[float, float | None] = (0.0, None)
        self.leased = 0.0  # seconds of all leases that ended
        self.due: float | None = None  # when its round is to be looked at
        self.stuck = False  # the round in hand has been reported


class ScoreboardMonitor:
    """All records of living workers. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._watched: dict[int, _Watched] = {}
        self._max_lease = 0.0
        self._newest = 0  # workers' ids only grow
        self._gone: dict[str, RoundCounts] = {}  # what workers did that are gone, by pools

    def allow_leases(self, seconds: float) -> None:
        """Believe leases of this length; workers that were forked with a longer one may keep it."""
        self._max_lease = max(self._max_lease, seconds)

    def add(
        self,
        worker: int,
        record: WorkerRecord,
        round_timeout: float | None,
        now: float,
        pool: str = "",
    ) -> None:
        """Watch a worker from its spawn order on."""
        self._watched[worker] = _Watched(record, round_timeout, now, pool)
        self._newest = max(self._newest, worker)

    def drop(self, worker: int) -> None:
        """Forget a worker that is gone, but not what it has done."""
        watched = self._watched.pop(worker, None)
        if watched is not None:
            gone = self._gone.setdefault(watched.pool, RoundCounts())
            gone.add(watched.record, _busy(watched, None))

    def to_look_at(self, rang: list[int] | None) -> list[int]:
        """Return which workers to look at, where these workers rang; None: perhaps others as well.

        That is so, too, where one rang that never was: user code has written to the bell, and
        the ring of another may be half of what came then.
        """
        if rang is None or not all(0 < worker <= self._newest for worker in rang):
            return list(self._watched)
        return rang

    def record(self, worker: int) -> WorkerRecord:
        """Return a worker's record."""
        return self._watched[worker].record

    def takes_jobs(self, worker: int) -> bool:
        """Whether a worker has said that it needs a queue."""
        watched = self._watched.get(worker)
        return watched is not None and bool(watched.record.queue)

    def is_cut_off(self, worker: int) -> bool:
        """Whether a worker has said that it can't reach its queue."""
        watched = self._watched.get(worker)
        return watched is not None and watched.record.queue == CUT_OFF

    def child_group(self, worker: int) -> int:
        """Return the process group that a worker says is its subprocess's; 0: none."""
        watched = self._watched.get(worker)
        return 0 if watched is None else watched.record.child_group

    def new_stack(self, worker: int) -> bool:
        """Whether a worker has printed a stack since it was last asked about."""
        watched = self._watched.get(worker)
        if watched is None or watched.record.stacks == watched.stacks:
            return False
        watched.stacks = watched.record.stacks
        return True

    def next_deadline(self) -> float | None:
        """When a round is to be looked at, or None."""
        return min((w.due for w in self._watched.values() if w.due is not None), default=None)

    # -- looking ----------------------------------------------------------------

    def rang(self, worker: int, now: float) -> list[Event]:
        """Look at a worker that rang."""
        watched = self._watched.get(worker)
        if watched is None:
            return []
        events = self._news(worker, watched) + self._lease(worker, watched, now)
        self._arm(watched, now)
        return events

    def due(self, now: float) -> list[Event]:
        """Look at the rounds whose deadline has come."""
        events: list[Event] = []
        for worker, watched in self._watched.items():
            if watched.due is not None and now >= watched.due:
                events += self._round(worker, watched, now)
        return events

    def leases(self, now: float) -> list[Event]:
        """Look at all leases: what the ladder's clock has to leave out."""
        events: list[Event] = []
        for worker, watched in self._watched.items():
            events += self._lease(worker, watched, now)
        return events

    def in_setup(self, worker: int) -> bool:
        """Whether a worker is in its setup(), and has started no program that may serve already."""
        watched = self._watched.get(worker)
        if watched is None or watched.record.child_group:
            return False
        return watched.record.phase == Phase.SETUP

    def watch_rounds(self, worker: int) -> list[Event]:
        """Have the worker ring when its next round has ended well."""
        watched = self._watched.get(worker)
        if watched is None:
            return []
        watched.good = 0
        watched.rings += 1
        watched.record.ring_good = watched.rings
        fence()
        return self._news(worker, watched)

    def waits(self, worker: int) -> bool:
        """Whether a worker waits for work: in its wait(), or at its queue."""
        watched = self._watched.get(worker)
        return watched is not None and watched.record.phase == Phase.READY

    def has_job(self, worker: int) -> bool:
        """Whether a worker has a job in hand."""
        watched = self._watched.get(worker)
        return watched is not None and bool(watched.record.job)

    def accepts(self, worker: int) -> bool:
        """Whether a worker bears that a socket listens no more: it accepts by graced's own loop."""
        watched = self._watched.get(worker)
        return watched is None or bool(watched.record.accepts)

    def recovered(self, worker: int, now: float) -> None:
        """The round that was overdue has ended: watch the next ones."""
        watched = self._watched.get(worker)
        if watched is not None:
            watched.stuck = False
            self._arm(watched, now)

    def overdue(self, worker: int, now: float) -> bool:
        """Whether the round in hand is past its deadline at this moment."""
        watched = self._watched.get(worker)
        if watched is None:
            return False
        record = watched.record
        # PHASE first: the deadline of the round before, read with the next one's BUSY, would lie.
        if watched.round_timeout is None or record.phase != Phase.BUSY:
            return False
        return 0 < record.deadline <= now * NANOSECONDS

    def readings(self, now: float) -> dict[int, WorkerReading]:
        """Return what every worker is doing now."""
        return {worker: _reading(w.record, now) for worker, w in self._watched.items()}

    def round_counts(self, now: float) -> dict[str, RoundCounts]:
        """Return what each pool's workers have done so far, those that are gone included."""
        counts = {pool: gone.copy() for pool, gone in self._gone.items()}
        for watched in self._watched.values():
            pool = counts.setdefault(watched.pool, RoundCounts())
            pool.add(watched.record, _busy(watched, now))
        return counts

    # -- steps ------------------------------------------------------------------

    def _news(self, worker: int, watched: _Watched) -> list[Event]:
        record = watched.record
        events: list[Event] = []
        if not watched.ready and record.ready_at:
            watched.ready = True
            events.append(BecameReady(worker))
        if (ack := record.ack) and ack != watched.ack:
            watched.ack = ack
            events.append(Acknowledged(worker, watched.ack))
        if (wants := record.wants) and wants != watched.wants:
            watched.wants = wants
            at_once = wants == Wants.MAX_RSS_AT_ONCE
            events.append(ReplacementWanted(worker, WHY[wants], at_once))
        if watched.good is not None and record.good > watched.good:
            watched.good = None
            events.append(RoundDone(worker))
        return events

    def lease(self, worker: int, now: float) -> tuple[float, float | None]:
        """Return the seconds that a worker's leases took so far, and until when one holds."""
        return self._read_lease(self._watched[worker], now)

    def _read_lease(self, watched: _Watched, now: float) -> tuple[float, float | None]:
        """The sum is read last: a lease that ends in between is counted twice for a
        moment, never lost, so the ladder waits rather than cuts. A sum that is longer than
        the worker's life is none, or a stop would never end.
        """
        since, until = watched.record.lease(
            int(self._max_lease * NANOSECONDS), int(now * NANOSECONDS)
        )
        held = until / NANOSECONDS if until > now * NANOSECONDS else None
        current = (
            max((min(int(now * NANOSECONDS), until) - since) / NANOSECONDS, 0.0) if until else 0.0
        )
        leased = watched.record.leased / NANOSECONDS
        if leased <= now - watched.added + 1.0:  # it may be later by now
            watched.leased = leased
        return watched.leased + current, held

    def _lease(self, worker: int, watched: _Watched, now: float) -> list[Event]:
        lease = self._read_lease(watched, now)
        if lease == watched.lease:
            return []
        watched.lease = lease
        return [LeaseSeen(worker, *lease)]

    def _arm(self, watched: _Watched, now: float) -> None:
        """Know when the round in hand is over, or be rung when one begins.

        A busy worker need not ring with its next round, which ends no earlier than
        this one; unless this one was extended.
        """
        limit = watched.round_timeout
        if limit is None or watched.stuck or not watched.ready:
            return
        record = watched.record
        if record.phase != Phase.BUSY or record.deadline > (now + limit) * NANOSECONDS:
            watched.rings += 1
            record.ring_busy = watched.rings
            fence()
        busy = record.phase == Phase.BUSY
        watched.due = (record.deadline / NANOSECONDS or now + limit) if busy else None

    def _round(self, worker: int, watched: _Watched, now: float) -> list[Event]:
        watched.due = None
        if not self.overdue(worker, now):
            self._arm(watched, now)
            return []
        watched.stuck = True
        return [RoundOverdue(worker, watched.round_timeout or 0.0)]


def _busy(watched: _Watched, now: float | None) -> float:
    """Return the seconds that a worker was busy, with the round in hand; never less than before.

    Between two words that are read, a round may end: then it is in none of them for a moment.
    """
    record = watched.record
    ended = record.busy_ns / NANOSECONDS
    in_hand = 0.0 if now is None else _reading(record, now).busy_for or 0.0
    watched.busy = max(watched.busy, ended + in_hand)
    return watched.busy


def _reading(record: WorkerRecord, now: float) -> WorkerReading:
    started = record.round_started
    busy = record.phase == Phase.BUSY and started > 0
    busy_for = max(now - started / NANOSECONDS, 0.0) if busy else None
    return WorkerReading(record.rounds, record.errors, busy_for)
