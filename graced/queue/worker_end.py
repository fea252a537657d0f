"""A queue as its workers reach it: over the keeper's socket.

A worker's end never blocks and outlives the keeper: what was not confirmed is said again
to the next one.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from contextlib import contextmanager, suppress

from graced.queue import jsonvalue, liveness, progress, wire
from graced.queue.job import MAX_EVIDENCE, Discarded, Done, Job, Outcome, Postponed, Raised
from graced.queue.protocol import QueueError
from graced.queue.wire import Kind, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from graced.queue.address import QueueAddress

FIRST_RETRY = 0.01  # seconds before a worker looks again for a keeper that is gone
LAST_RETRY = 1.0
MOST_REFUSALS = 3  # in a row, before a worker takes them for an answer
FIRST_PUSH = 0.001  # seconds before more of a long result is sent
NUMBERS = {Done: 0, Raised: 1, Postponed: 2, Discarded: 3}


class WorkerEnd:
    """One worker's end.

    The rules: a worker has at most one job in hand, or as many as it wants at once. A job is
    handed out by a durable commit only. ``settle`` may be repeated; the keeper
    tells jobs apart by (id, token). What a worker holds when it dies is given back by the main
    process's report or by the worker's lock, never by a time-out.
    """

    def __init__(self, address: QueueAddress, worker: int, *, cancels: bool = False) -> None:
        """Take the lock of a worker. One that `cancels` single jobs looks at ``cancelled``."""
        self._address = address
        self._owner = address.owner(worker)
        self.lock = liveness.hold(address.file, self._owner)  # a forked process may inherit it
        self._sock: socket.socket | None = None
        self._frames = wire.Frames()
        self._out = bytearray()
        self._hands: dict[int, Job] = {}  # by id: at work, or received and not yet given out
        self._arrived: deque[Job] = deque()
        self._cancels = cancels
        self.cancelled: list[tuple[int, int]] = []  # jobs, by id and token, to be seen to
        self._settles: list[tuple[Job, Outcome]] = []  # said, and not confirmed
        self._confirmed = 0  # of those said on this connection
        self._asked = False  # idle, and the keeper knows or will know
        self._progress: dict[int, progress.Told] = {}  # of those at work
        self._wanted: int | None = None  # jobs at once, instead of asking for each
        self._left = False
        self._delay = FIRST_RETRY
        self._refusals = 0  # since the keeper last understood us
        self._push_delay = FIRST_PUSH
        self._next_try = 0.0

    def fileno(self) -> int:
        """Return the descriptor that turns readable when there is news, or -1."""
        return -1 if self._sock is None else self._sock.fileno()

    def ask(self) -> None:
        """Say that this worker is idle; without effect if it has been said."""
        if not self._asked and not self._arrived:
            self._asked = True
            self._say(wire.frame(Kind.ASK))

    def want(self, count: int) -> None:
        """Say how many jobs this worker takes at once, in all, instead of asking; 0: no more."""
        if self._wanted != count:
            self._wanted = count
            self._say(_wanting(count))

    def put_back(self, job: Job) -> None:
        """Say that a job has not been begun, and won't be: no attempt of it."""
        if self._hands.get(job.id) is job:
            del self._hands[job.id]
            self._say(wire.frame(Kind.PUT_BACK, wire.HELD.pack(job.id, job.token)))

    def receive(self) -> Job | None:
        """Return a job that was handed to this worker, or None; never block.

        QueueError if the keeper does not understand what it is told, however often.
        """
        if not self._arrived:
            self._connect()
            self._read()
        return self._arrived.popleft() if self._arrived else None

    def settle(self, job: Job, outcome: Outcome, *, more: bool) -> None:
        """Say how a job ended and, with ``more``, that the next may come; never block."""
        if self._hands.get(job.id) is job:
            del self._hands[job.id]
        self._settles.append((job, outcome))
        self._asked = more
        self._say(_settlement(job, outcome, more))

    def tell_progress(self, job: Job, fraction: float | None, text: str) -> None:
        """Say how far a job in hand is; the last word counts. It costs some microseconds."""
        self.note_progress(job, fraction, text)
        self.write_progress()

    def note_progress(self, job: Job, fraction: float | None, text: str) -> None:
        """Have it told how far a job is, with the next :meth:`write_progress`."""
        self._progress[job.id] = job.token, fraction, text

    def write_progress(self) -> None:
        """Tell how far the jobs at work are."""
        self._progress = {id: told for id, told in self._progress.items() if id in self._hands}
        progress.write(self.lock, self._progress)

    @property
    def unsettled(self) -> int:
        """How many settles have not been confirmed as durable."""
        return len(self._settles)

    @property
    def is_cut_off(self) -> bool:
        """Whether no keeper was at the queue's socket for longer than a restart takes."""
        return self._sock is None and self._delay >= LAST_RETRY

    def retry_in(self) -> float | None:
        """Return in how many seconds to call ``receive`` even if nothing is readable."""
        if self._arrived:
            return 0
        if self._sock is not None:
            return self._push_delay if self._out else None
        return max(self._next_try - time.monotonic(), 0)

    def leave(self) -> None:
        """Say that this worker has nothing in hand and wants nothing more."""
        self._hands.clear()
        self._arrived.clear()
        self._asked = False
        self._left = True
        self._say(wire.frame(Kind.LEAVE))

    def close(self) -> None:
        """Close the connection, without a word."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    @contextmanager
    def command_lock(self) -> Iterator[int]:
        """Hold the lock that says that the command of this job is at work, whatever has died.

        The command is to inherit this descriptor, and to say by it which group it leads.
        """
        try:
            lock = liveness.hold_command(self._address.file, self._owner)
        except OSError:  # on a full disk
            yield self.lock
            return
        try:
            yield lock
        finally:
            liveness.release_command(self._address.file, self._owner, lock)

    def name_group(self, lock: int, group: int) -> None:
        """Say in a command's lock which process group is at work."""
        liveness.name_group(lock, group)

    # -- the connection

    def _connect(self) -> None:
        if self._sock is not None or time.monotonic() < self._next_try:
            return
        try:
            self._sock = wire.connect(self._address.socket)
        except OSError:  # no keeper at the moment: the main process is starting another
            self._wait_longer()
            return
        self._delay = FIRST_RETRY
        self._frames = wire.Frames()
        self._confirmed = 0
        self._out = bytearray(self._introduction())
        self._push()

    def _introduction(self) -> bytes:
        """Say all that a keeper has to know of us, and what it may not have heard."""
        with suppress(OSError):  # then it takes us for dead once we do not talk to it
            self.lock = liveness.keep(self._address.file, self._owner, self.lock)
        held = [*(job for job, _ in self._settles), *self._hands.values()]
        said: dict[str, Any] = {"owner": self._owner, "cancels": self._cancels}
        said["holds"] = [[job.id, job.token] for job in held]
        parts = [wire.frame(Kind.HELLO, wire.encode(said))]
        parts += [_settlement(job, outcome, False) for job, outcome in self._settles]
        if self._left:
            parts.append(wire.frame(Kind.LEAVE))
        elif self._wanted is not None:
            parts.append(_wanting(self._wanted))
        elif self._asked:
            parts.append(wire.frame(Kind.ASK))
        return b"".join(parts)

    def _wait_longer(self) -> None:
        self._next_try = time.monotonic() + self._delay
        self._delay = min(2 * self._delay, LAST_RETRY)

    def _lost(self) -> None:
        self.close()
        self._wait_longer()

    def _say(self, data: bytes) -> None:
        if self._sock is None:
            self._connect()  # which says it: it says all
            return
        if self._out:
            self._out += data
            self._push()
            return
        try:
            sent = self._sock.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # _read() sees the end, after what was sent to us before it
        if sent < len(data):
            self._out += data[sent:]

    def _push(self) -> None:
        if self._sock is None or not self._out:
            return
        try:
            del self._out[: self._sock.send(self._out, socket.MSG_NOSIGNAL)]
            self._push_delay = FIRST_PUSH
        except BlockingIOError:
            self._push_delay = min(2 * self._push_delay, LAST_RETRY)
        except OSError:  # as above
            self._out.clear()

    def _read(self) -> None:
        """Read all that has come. What a dead keeper has still sent counts too."""
        sock = self._sock
        if sock is None:
            return
        self._push()
        data = wire.receive(sock)
        if data is None:
            return
        if not data:
            self._lost()
            return
        try:
            for kind, body in self._frames.feed(data):
                self._hear(kind, body)
        except ProtocolError as error:
            self._refused(str(error))
        if not self._arrived and self._sock is not None and len(data) == wire.READ:
            self._read()

    def _hear(self, kind: int, body: bytes) -> None:
        if kind == Kind.REFUSED:
            self._refused(body.decode(errors="replace"))
            return
        self._refusals = 0
        if kind == Kind.JOB:
            self._take(body)
        elif kind == Kind.SETTLED:
            self._confirm(wire.COUNT.unpack(body)[0])
        elif kind == Kind.CANCEL_JOB:
            told = wire.decode(body)
            self.cancelled.append((told["id"], told["token"]))

    def _refused(self, why: str) -> None:
        """Say it all again, to be sure; a keeper that refuses it again would do so for ever."""
        self._lost()
        self._refusals += 1
        if self._refusals >= MOST_REFUSALS:
            raise QueueError(f"the queue's keeper refuses what this worker says: {why}")

    def _take(self, body: bytes) -> None:
        id, attempt, submitted, confirmed, token, scheduled = wire.HANDOUT.unpack_from(body)
        self._confirm(confirmed)
        self._asked = False
        if self._left:
            return
        told = attempt, submitted / 1000, token, scheduled / 1000 if scheduled else None
        try:
            payload = jsonvalue.read(body[wire.HANDOUT.size :].decode())
        except ValueError as error:  # what has no payload cannot be worked on
            job = Job(id, None, *told)
            why = f"the payload is not a JSON value: {error}"
            self.settle(job, Discarded(evidence(why)), more=True)
        else:
            job = self._hands[id] = Job(id, payload, *told)
            self._arrived.append(job)

    def _confirm(self, count: int) -> None:
        del self._settles[: count - self._confirmed]
        self._confirmed = count


def evidence(reason: str, **facts: Any) -> str:
    """Return what is kept of a failure, as JSON text; of a long reason the beginning."""
    if len(reason) > MAX_EVIDENCE:
        reason = f"{reason[:MAX_EVIDENCE]}…"
    return wire.encode({"reason": reason, **facts}).decode()


def _wanting(count: int) -> bytes:
    return wire.frame(Kind.WANT, wire.COUNT.pack(count))


def _settlement(job: Job, outcome: Outcome, more: bool) -> bytes:
    text = outcome.result or "" if isinstance(outcome, Done) else outcome.evidence
    after = outcome.after if isinstance(outcome, Postponed) else 0.0
    number = NUMBERS[type(outcome)]
    head = wire.SETTLEMENT.pack(job.id, job.token, number, more, after)
    return wire.frame(Kind.SETTLE, head + text.encode())
