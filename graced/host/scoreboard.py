"""The scoreboard: what workers tell the main process without a system call.

A piece of anonymous memory that the main process makes before its first fork and
that all its descendants share. A worker has one record of aligned 8-byte words,
each written by one side only, and an area for its last words. Two words read one
after the other are two moments: conclude nothing from the pair, but note the order
in which a worker writes them. DEADLINE and ROUND_STARTED are stored before PHASE
turns BUSY and mean something only while it is; read PHASE first.

A worker may write anything there, by mistake. So each word is read within its bounds: what
can't be is 0, as if nothing had been written.
"""

from __future__ import annotations

import mmap
import os
from _thread import allocate_lock

from graced.host.histogram import BUCKETS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

RECORDS = 4096
RECORD_SIZE = 1280
_WORDS = 64
_TEXT_AT = 8 * _WORDS
TEXT_SIZE = RECORD_SIZE - _TEXT_AT
_LARGEST = 2**63 - 1
_MOMENT = 1_000_000_000  # ns
MAX_PID = 2**22  # see proc(5), pid_max

# The words of a record. The worker writes all but RING_BUSY, RING_GOOD and TOLD.
PHASE = 0
ROUNDS = 1  # rounds ended
ERRORS = 2  # rounds that raised
GOOD = 3  # rounds that ended without raising
ROUND_STARTED = 4  # monotonic ns
DEADLINE = 5  # of the round in hand, monotonic ns; 0: none
LEASE_SINCE = 6
LEASE_UNTIL = 7  # 0: no lease
LEASED = 8  # ns of all leases that ended
ACK = 9
WANTS = 10
LEFT = 11
PID = 12
READY_AT = 13  # monotonic ns
CHILD_GROUP = 14  # process group of a subprocess that goes with the worker; 0: none
STACKS = 15  # stacks printed
RING_BUSY = 16
RING_GOOD = 17
TEXT_LENGTH = 18
BORN_WHOLE = 19  # 1: its zygote knows it and guards it
QUEUE = 20  # REACHES or CUT_OFF: it takes jobs, so its pool needs a queue keeper
TOLD = 21  # 1: it is sent SIGTERM, 2: SIGINT; should handlers of its own catch them
ACCEPTS = 23  # 1: it takes callers by graced's own loop, which bears a socket that is over
JOB = 22  # 1: it has a job in hand, which its death would count for
CUT = 32  # rounds that were interrupted, or ended by sys.exit()
BUSY_NS = 33  # ns of all rounds that ended
ROUND_BUCKETS = 34  # of rounds that ended, by how long they took; see host/histogram.py

HOST_LEASE_UNTIL = 24  # of a keeper's record: until when workers may have jobs; boot ns
HOST_LEASE = 25  # ns for which that lease was granted

REACHES = 1  # it reaches its queue, as far as it knows
CUT_OFF = 2  # it does not


class Phase:
    """Where a worker is in its life."""

    EMPTY: Final = 0
    BORN: Final = 1
    SETUP: Final = 2
    READY: Final = 3
    BUSY: Final = 4
    TEARDOWN: Final = 5
    LEFT: Final = 6


class Ack:
    """Which signal a worker has answered."""

    NONE: Final = 0
    DRAIN: Final = 1
    DRAIN_IN_SETUP: Final = 2  # interrupted, since there is no round to finish
    INTERRUPT: Final = 3


class Wants:
    """Why a worker wants to be replaced by a like one."""

    NOTHING: Final = 0
    MAX_ROUNDS: Final = 1
    MAX_RSS: Final = 2
    RECYCLE: Final = 3
    MAX_RSS_AT_ONCE: Final = 4  # at the first look: so will those that come after it


class ExitKind:
    """How a worker ended, in its own words; DIED if it had none."""

    DIED: Final = 0
    DRAINED: Final = 1
    INTERRUPTED: Final = 2
    SETUP_FAILED: Final = 3
    MAX_ERRORS: Final = 4
    RETURNED: Final = 5  # run() returned, though the worker was not asked to leave
    TEARDOWN_RAISED: Final = 6  # after a drain or an interrupt: still planned
    OWN_HANDLER: Final = 7  # with status 0; user code may have been asked in our stead


class ScoreboardFull(Exception):
    """There are more workers than records."""


class _Word:
    """A word of a record as an attribute; read as 0 where it is not from 0 to `most`."""

    __slots__ = ("_index", "_most")

    def __init__(self, index: int, most: int = _LARGEST) -> None:
        self._index = index
        self._most = most

    def __get__(self, record: WorkerRecord, owner: type | None = None) -> int:
        value = record.words[self._index]
        return value if 0 <= value <= self._most else 0

    def __set__(self, record: WorkerRecord, value: int) -> None:
        record.words[self._index] = value


class WorkerRecord:
    """One worker's record. Hot paths store into `words` directly."""

    __slots__ = ("_text", "words")

    phase = _Word(PHASE, Phase.LEFT)
    rounds = _Word(ROUNDS)
    errors = _Word(ERRORS)
    good = _Word(GOOD)
    round_started = _Word(ROUND_STARTED)
    deadline = _Word(DEADLINE)
    lease_since = _Word(LEASE_SINCE)
    lease_until = _Word(LEASE_UNTIL)
    leased = _Word(LEASED)
    ack = _Word(ACK, Ack.INTERRUPT)
    wants = _Word(WANTS, Wants.MAX_RSS_AT_ONCE)
    left = _Word(LEFT, ExitKind.OWN_HANDLER)
    pid = _Word(PID, MAX_PID)
    ready_at = _Word(READY_AT)
    child_group = _Word(CHILD_GROUP, MAX_PID)
    stacks = _Word(STACKS)
    ring_busy = _Word(RING_BUSY)
    ring_good = _Word(RING_GOOD)
    born_whole = _Word(BORN_WHOLE, 1)
    queue = _Word(QUEUE, CUT_OFF)
    told = _Word(TOLD, 2)
    job = _Word(JOB, 1)
    accepts = _Word(ACCEPTS, 1)
    cut = _Word(CUT)
    busy_ns = _Word(BUSY_NS)
    host_lease_until = _Word(HOST_LEASE_UNTIL)
    host_lease = _Word(HOST_LEASE)

    def __init__(self, words: memoryview[int], text: memoryview[int]) -> None:
        self.words = words
        self._text = text

    @classmethod
    def detached(cls) -> WorkerRecord:
        """Return a record that no other process sees."""
        memory = memoryview(bytearray(RECORD_SIZE))
        return cls(memory[:_TEXT_AT].cast("q"), memory[_TEXT_AT:])

    def lease(self, longest: int, now: int) -> tuple[int, int]:
        """Return since and until when a lease is held, monotonic ns; 0 and 0 if none is.

        One that is longer than `longest` ns or has yet to begin is none: no worker can take
        it. It may have begun since the clock was read, for `now`.
        """
        until, since = self.lease_until, self.lease_since
        sane = 0 < since <= until <= since + longest and since <= now + _MOMENT
        return (since, until) if sane else (0, 0)

    @property
    def round_buckets(self) -> list[int]:
        """The histogram of its rounds."""
        return [max(count, 0) for count in self.words[ROUND_BUCKETS : ROUND_BUCKETS + BUCKETS]]

    @property
    def text(self) -> str:
        """The worker's last words; cut where they don't fit."""
        length = min(max(self.words[TEXT_LENGTH], 0), TEXT_SIZE)
        return bytes(self._text[:length]).decode("utf-8", "replace")

    @text.setter
    def text(self, text: str) -> None:
        data = _fitting(text)
        self.words[TEXT_LENGTH] = 0
        self._text[: len(data)] = data
        self.words[TEXT_LENGTH] = len(data)


def _fitting(text: str) -> bytes:
    """Return as much of `text` as a record can hold, no character halved."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= TEXT_SIZE:
        return data
    ellipsis = "…".encode()
    return data[: TEXT_SIZE - len(ellipsis)].decode("utf-8", "ignore").encode() + ellipsis


class Scoreboard:
    """All records. Claimed and released by the main process alone."""

    def __init__(self, records: int = RECORDS) -> None:
        self._memory = mmap.mmap(-1, records * RECORD_SIZE)
        self._bytes = memoryview(self._memory)
        self._words = self._bytes.cast("q")
        self._free = list(range(records - 1, -1, -1))
        self._claimed: set[int] = set()

    def claim(self) -> int:
        """Return the number of a record that is free and zeroed."""
        if not self._free:
            raise ScoreboardFull(
                f"all {len(self._claimed)} records are taken: no more workers can be started"
            )
        index = self._free.pop()
        self._claimed.add(index)
        self._zero(index)
        return index

    def release(self, index: int) -> None:
        """Give a record back, once its worker is reaped."""
        self._claimed.remove(index)
        self._zero(index)
        self._free.append(index)

    def record(self, index: int) -> WorkerRecord:
        """Return a view of a record."""
        start = index * RECORD_SIZE
        words = self._words[start // 8 : start // 8 + _WORDS]
        return WorkerRecord(words, self._bytes[start + _TEXT_AT : start + RECORD_SIZE])

    def _zero(self, index: int) -> None:
        start = index * RECORD_SIZE
        self._bytes[start : start + RECORD_SIZE] = bytes(RECORD_SIZE)


# A lock taken and given back is the only fence there is in Python. Where stores are
# weakly ordered one pair is not enough: a store before it may pass a load after it
# inside the lock, but no load can pass the release that came before a second pair.
_lock = allocate_lock()
_take, _give = _lock.acquire, _lock.release
_weak = os.uname().machine not in ("x86_64", "i686", "i386")


def fence() -> None:
    """Let no load that follows see memory older than the stores that came before.

    Never blocks, so a signal handler may interrupt it.
    """
    if _take(False):
        _give()
    if _weak and _take(False):
        _give()
