"""A worker's writer: what it writes to its record of the scoreboard, and the bell that it rings.

Phases, rounds, errors, leases, wants: words that the main process reads when it likes, and a
message where it has to look at once. No user code is called here, no signal answered: that is
in :mod:`.runtime`.
"""

from __future__ import annotations

import os
import time

from graced.host.histogram import observe
from graced.host.scoreboard import (
    ACK,
    BUSY_NS,
    CUT,
    DEADLINE,
    ERRORS,
    GOOD,
    LEASE_SINCE,
    LEASE_UNTIL,
    LEASED,
    PHASE,
    READY_AT,
    RING_BUSY,
    RING_GOOD,
    ROUND_BUCKETS,
    ROUND_STARTED,
    ROUNDS,
    STACKS,
    WANTS,
    Phase,
    Wants,
    WorkerRecord,
    fence,
)
from graced.workers.context import ExitReport, SpawnOrder, WorkerContext

NS_PER_S = 1_000_000_000  # ns
MAX_SECONDS = 36525 * 86400.0  # seconds: no length of time that users name is longer

_PAGE = os.sysconf("SC_PAGE_SIZE")
_now = time.monotonic_ns


class RecordWriter:
    """One worker's side of its record."""

    __slots__ = (
        "_answered_busy",
        "_answered_good",
        "_bell",
        "_beside",
        "_leases",
        "_longest_lease",
        "_order",
        "_ring_message",
        "_round_limit",
        "_rss_checked",
        "_rss_seen",
        "_statm",
        "errors_in_row",
        "phase",
        "record",
        "words",
    )

    def __init__(self, context: WorkerContext) -> None:
        self.record = WorkerRecord.detached()
        self.words = self.record.words
        self.phase = Phase.EMPTY
        self.errors_in_row = 0
        self._order = SpawnOrder(worker=0, record=0, slot=0)
        self._bell = context.bell
        self._ring_message = b""
        self._round_limit = int((context.pool.round_timeout or 0) * NS_PER_S)
        self._answered_busy = 0
        self._answered_good = 0
        self._beside = 0
        self._leases = 0
        self._longest_lease = int(context.max_lease * NS_PER_S)
        self._rss_checked = 0
        self._rss_seen = False
        self._statm = -1

    def become(self, order: SpawnOrder, record: WorkerRecord) -> None:
        """Be this worker's."""
        self._order = order
        self.record = record
        self.words = record.words
        self.phase = Phase.BORN
        self._rss_checked = _now()  # one that is too large from the first is not replaced before
        self._ring_message = order.worker.to_bytes(8, "little")

    def detach(self) -> None:
        """Be of no worker: what is written from now on is not seen."""
        self.record = WorkerRecord.detached()
        self.words = self.record.words
        self._ring_message = b""

    # -- in a word ---------------------------------------------------------------

    def ring(self) -> None:
        """Have the main process look at our record."""
        if not self._ring_message:
            return
        try:
            os.write(self._bell, self._ring_message)
        except OSError:  # full: it has enough to look at; broken: it is gone
            pass

    def acknowledge(self, ack: int) -> None:
        """A signal has been answered."""
        if self.words[ACK] < ack:
            self.words[ACK] = ack
            self.ring()

    def want(self, why: int) -> None:
        """Ask to be replaced; we go on until told to drain."""
        if self.words[WANTS] == Wants.NOTHING:
            self.words[WANTS] = why
            self.ring()

    def count_stack(self) -> None:
        """A stack has been printed."""
        self.words[STACKS] += 1
        self.ring()

    def enter(self, phase: int) -> None:
        """Go on to another phase."""
        self.words[PHASE] = self.phase = phase

    def ready(self) -> None:
        """setup() is over."""
        self.words[READY_AT] = _now()
        self.enter(Phase.READY)
        self.ring()

    def leave(self, report: ExitReport) -> None:
        """Write down how it ended; the bell is for when all else is said."""
        if report.text:
            self.record.text = report.text
        self.record.left = report.left
        self.enter(Phase.LEFT)

    # -- rounds ------------------------------------------------------------------

    def begin_round(self) -> None:
        """A round begins; its clock runs from now."""
        words = self.words
        now = words[ROUND_STARTED] = _now()
        words[DEADLINE] = now + self._round_limit if self._round_limit else 0
        self._turn_busy()

    def begin_free(self) -> None:
        """What begins has no rounds, and no deadline."""
        self.words[ROUND_STARTED] = _now()
        self.words[DEADLINE] = 0
        self._turn_busy()

    def _turn_busy(self) -> None:
        words = self.words
        words[PHASE] = self.phase = Phase.BUSY
        fence()
        asked = words[RING_BUSY]
        if asked != self._answered_busy:
            self._answered_busy = asked
            self.ring()

    def _turn_ready(self) -> None:
        """DEADLINE stays: read with a PHASE that was still BUSY, 0 would mean `none`."""
        words = self.words
        words[PHASE] = self.phase = Phase.READY
        words[ROUND_STARTED] = 0

    def end_good_round(self) -> None:
        """A round ended well."""
        self.words[GOOD] += 1
        self.errors_in_row = 0
        self.end_round()
        self._tell_good()

    def _tell_good(self) -> None:
        words = self.words
        fence()
        asked = words[RING_GOOD]
        if asked != self._answered_good:
            self._answered_good = asked
            self.ring()

    def count_error(self) -> None:
        """The round that ends has raised."""
        self.words[ERRORS] += 1
        self.errors_in_row += 1

    def count_cut(self) -> None:
        """The round that ends was interrupted, or called sys.exit()."""
        self.words[CUT] += 1

    def end_round(self) -> None:
        """A round ended; look whether it was the last that this worker shall do."""
        if started := self.words[ROUND_STARTED]:
            self._count_length(_now() - started)
        self._turn_ready()
        self._count_round()

    def _count_round(self) -> None:
        words = self.words
        rounds = words[ROUNDS] = words[ROUNDS] + 1
        order = self._order
        if order.max_rounds and rounds >= order.max_rounds:
            self.want(Wants.MAX_ROUNDS)
        if order.max_rss:
            self._check_rss(order.max_rss)

    def _count_length(self, ns: int) -> None:
        """Count how long the round took, without what it has waited."""
        words = self.words
        words[BUSY_NS] += ns
        observe(words, ROUND_BUCKETS, ns)

    # Rounds side by side: the oldest is the one that is told. When each is over its time the
    # worker sees itself; DEADLINE is when it has failed to.

    def begin_beside(self, deadline: int) -> int:
        """One of several rounds begins; return when. `deadline` is theirs together, 0: none."""
        now = _now()
        self._beside += 1
        if self._beside == 1:
            self.words[ROUND_STARTED] = now
            self.words[DEADLINE] = deadline
            self._turn_busy()
        return now

    def end_beside(self, ns: int, oldest: int, *, good: bool) -> None:
        """One of them has ended, after so long; `oldest`: when the oldest of those left began."""
        self._beside -= 1
        self._count_length(ns)
        if good:
            self.words[GOOD] += 1
            self.errors_in_row = 0
        if self._beside:
            self.words[ROUND_STARTED] = oldest
        else:
            self._turn_ready()
        self._count_round()
        if good:
            self._tell_good()

    def watch_beside(self, deadline: int) -> None:
        """The rounds that are under way may take until then, monotonic ns; 0: for ever."""
        before = self.words[DEADLINE]
        self.words[DEADLINE] = deadline
        if deadline and (not before or deadline < before):
            self.ring()  # the main process sleeps until a later time, or for ever

    def _check_rss(self, limit: int) -> None:
        now = _now()
        if now - self._rss_checked >= NS_PER_S:
            self._rss_checked = now
            self.weigh(self._rss(), limit)

    def weigh(self, rss: int, limit: int) -> None:
        """Ask to be replaced if we have more memory than we may have."""
        if rss >= limit:
            self.want(Wants.MAX_RSS if self._rss_seen else Wants.MAX_RSS_AT_ONCE)
        self._rss_seen = True

    def _rss(self) -> int:
        try:
            if self._statm < 0:
                self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
            return int(os.pread(self._statm, 128, 0).split()[1]) * _PAGE
        except OSError:  # no /proc
            return 0

    # -- the round's clock -------------------------------------------------------

    def extend(self, seconds: float) -> None:
        """Let the round in hand take until `seconds` from now."""
        length = int(sane(seconds) * NS_PER_S)
        before, now = self.words[DEADLINE], _now()
        deadline = self.words[DEADLINE] = now + length
        if self.phase == Phase.BUSY and not 0 < before <= deadline:
            self.ring()  # the main process sleeps until a later time, or for ever

    def pause(self) -> tuple[int, int | None] | None:
        """Stop the round's clock; return how long it ran and what was left."""
        if self.phase != Phase.BUSY:
            return None
        words, now = self.words, _now()
        deadline = words[DEADLINE]
        pause = now - words[ROUND_STARTED], deadline - now if deadline else None
        self._turn_ready()
        return pause

    def resume(self, pause: tuple[int, int | None] | None) -> None:
        """Let the round's clock run on, if it was stopped."""
        if pause is None:
            return
        words, now = self.words, _now()
        ran, left = pause
        words[ROUND_STARTED] = now - ran
        words[DEADLINE] = 0 if left is None else now + left
        self._turn_busy()

    @property
    def is_late(self) -> bool:
        """Whether the round in hand is past its time."""
        return 0 < self.words[DEADLINE] < _now()

    # -- critical sections -------------------------------------------------------

    @property
    def is_leased(self) -> bool:
        """Whether a lease holds."""
        until = self.words[LEASE_UNTIL]
        return until != 0 and _now() < until

    def lease(self, seconds: float) -> None:
        """Begin a section that is neither interrupted nor killed; an inner one may prolong it.

        ValueError if it may be longer than max_lease. All sections within one are no longer.
        """
        length = int(sane(seconds) * NS_PER_S)  # what is no number has begun nothing
        longest = self._longest_lease
        if length > longest:
            raise ValueError(
                f"critical({seconds}): the longest critical section is {longest / NS_PER_S:g}"
                " seconds; set max_lease in the configuration to have longer ones"
            )
        words, now = self.words, _now()
        self._leases += 1
        if self._leases == 1:
            words[LEASE_SINCE] = now
        until = max(words[LEASE_UNTIL], now + length)
        words[LEASE_UNTIL] = min(until, words[LEASE_SINCE] + longest)

    def end_lease(self) -> bool:
        """End a section; return whether it was the outermost."""
        self._leases -= 1
        if self._leases:
            return False
        words = self.words
        since, until = words[LEASE_SINCE], words[LEASE_UNTIL]
        words[LEASED] += min(_now(), until) - since
        words[LEASE_UNTIL] = 0
        words[LEASE_SINCE] = 0
        return True


def sane(seconds: float) -> float:
    """Return a length of time that can be reckoned with: from 0 to a century."""
    if seconds != seconds:
        raise ValueError("seconds must be a number, not NaN")
    try:
        return min(max(seconds + 0.0, 0.0), MAX_SECONDS)
    except TypeError:
        raise TypeError(f"seconds must be a number, not {type(seconds).__name__}") from None
