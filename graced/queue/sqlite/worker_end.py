"""A queue as its workers and its clients reach it: over the keeper's socket.

A worker's end never blocks and outlives the keeper: what was not confirmed is said again
to the next one. A client's end blocks, and gives up when the keeper does.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from contextlib import suppress

from graced.host import unixsocket
from graced.queue import jsonvalue as value
from graced.queue.job import MAX_EVIDENCE, Discarded, Done, Job, Postponed, Raised
from graced.queue.protocol import QueueError, QueueGone
from graced.queue.sqlite import liveness, wire
from graced.queue.sqlite.wire import Kind, Protocol
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from graced.queue.job import Outcome

STOPPED = 3.0  # seconds after which a keeper that does not answer is told of
LOOK = 0.05  # seconds between two looks at one that is stopped
SECOND = 1000  # ms
FIRST_RETRY = 0.01  # seconds before a worker looks again for a keeper that is gone
LAST_RETRY = 1.0
MOST_REFUSALS = 3  # in a row, before a worker takes them for an answer
FIRST_PUSH = 0.001  # seconds before more of a long result is sent
IDS_AT_ONCE = 10_000  # numbers in one request to retry or to drop
NUMBERS = {Done: 0, Raised: 1, Postponed: 2, Discarded: 3}


class Address(Record):
    """Where a worker finds its queue, and under which name it is known there."""

    daemon_id: str
    socket: str
    file: str

    @classmethod
    def read(cls, text: str) -> Address:
        """Return what :meth:`graced.supervisor.shared.Ground.queue_address` wrote."""
        return cls(*text.split("\n"))


class WorkerEnd:
    """One worker's end, see :class:`graced.queue.protocol.WorkerQueue`."""

    def __init__(self, address: Address, worker: int) -> None:
        self._address = address
        self._owner = f"{address.daemon_id}:{worker}"
        self.lock = liveness.hold(address.file, self._owner)  # a forked process may inherit it
        self._sock: socket.socket | None = None
        self._frames = wire.Frames()
        self._out = bytearray()
        self._hand: Job | None = None  # at work, or received and not yet given to the worker
        self._arrived: Job | None = None
        self._settles: list[tuple[Job, Outcome]] = []  # said, and not confirmed
        self._confirmed = 0  # of those said on this connection
        self._asked = False  # idle, and the keeper knows or will know
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
        if not self._asked and self._arrived is None:
            self._asked = True
            self._say(wire.frame(Kind.ASK))

    def receive(self) -> Job | None:
        """Return the job that was handed to this worker, or None; never block.

        QueueError if the keeper does not understand what it is told, however often.
        """
        if self._arrived is None:
            self._connect()
            self._read()
        job, self._arrived = self._arrived, None
        return job

    def settle(self, job: Job, outcome: Outcome, *, more: bool) -> None:
        """Say how a job ended and, with ``more``, that the next may come; never block."""
        if self._hand is job:
            self._hand = None
        self._settles.append((job, outcome))
        self._asked = more
        self._say(_settlement(job, outcome, more))

    @property
    def unsettled(self) -> int:
        """How many settles have not been confirmed as durable."""
        return len(self._settles)

    @property
    def is_cut_off(self) -> bool:
        """Whether nobody has been found at the queue's socket for longer than a restart takes."""
        return self._sock is None and self._delay >= LAST_RETRY

    def retry_in(self) -> float | None:
        """Return in how many seconds to call ``receive`` even if nothing is readable."""
        if self._sock is not None:
            return self._push_delay if self._out else None
        return max(self._next_try - time.monotonic(), 0)

    def leave(self) -> None:
        """Say that this worker has nothing in hand and wants nothing more."""
        self._hand = self._arrived = None
        self._asked = False
        self._left = True
        self._say(wire.frame(Kind.LEAVE))

    def close(self) -> None:
        """Close the connection, without a word."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def hold_command(self) -> int:
        """Return the descriptor of a lock for the command that is started next. OSError."""
        return liveness.hold_command(self._address.file, self._owner)

    def release_command(self, lock: int) -> None:
        """That command has ended, and its group with it."""
        liveness.release_command(self._address.file, self._owner, lock)

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
        held = [job for job, _ in self._settles] + ([self._hand] if self._hand else [])
        said = {"owner": self._owner, "holds": [[job.id, job.attempt] for job in held]}
        parts = [wire.frame(Kind.HELLO, wire.encode(said))]
        parts += [_settlement(job, outcome, False) for job, outcome in self._settles]
        if self._left:
            parts.append(wire.frame(Kind.LEAVE))
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
        except Protocol as error:
            self._refused(str(error))
        if self._arrived is None and self._sock is not None and len(data) == wire.READ:
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

    def _refused(self, why: str) -> None:
        """Say it all again, to be sure; a keeper that refuses it again would do so for ever."""
        self._lost()
        self._refusals += 1
        if self._refusals >= MOST_REFUSALS:
            raise QueueError(f"the queue's keeper refuses what this worker says: {why}")

    def _take(self, body: bytes) -> None:
        id, attempt, submitted, confirmed = wire.HANDOUT.unpack_from(body)
        self._confirm(confirmed)
        self._asked = False
        if self._left:
            return
        try:
            payload = value.read(body[wire.HANDOUT.size :].decode())
        except ValueError as error:  # what has no payload cannot be worked on
            job = Job(id, None, attempt, submitted / 1000)
            why = f"the payload is not a JSON value: {error}"
            self.settle(job, Discarded(evidence(why)), more=True)
        else:
            self._hand = self._arrived = Job(id, payload, attempt, submitted / 1000)

    def _confirm(self, count: int) -> None:
        del self._settles[: count - self._confirmed]
        self._confirmed = count


def evidence(reason: str, **facts: Any) -> str:
    """Return what is kept of a failure, as JSON text; of a long reason the beginning."""
    if len(reason) > MAX_EVIDENCE:
        reason = f"{reason[:MAX_EVIDENCE]}…"
    return wire.encode({"reason": reason, **facts}).decode()


def _settlement(job: Job, outcome: Outcome, more: bool) -> bytes:
    after, text = 0.0, ""
    match outcome:
        case Done(result):
            text = result or ""
        case Postponed(evidence, seconds):
            text, after = evidence, seconds
        case Raised(evidence) | Discarded(evidence):
            text = evidence
    number = NUMBERS[type(outcome)]
    head = wire.SETTLEMENT.pack(job.id, job.attempt, number, more, after)
    return wire.frame(Kind.SETTLE, head + text.encode())


class ClientEnd:
    """A client's end, see :class:`graced.queue.protocol.ClientQueue`."""

    def __init__(self, path: str, tell: Callable[[str], None] = lambda _text: None) -> None:
        """Connect. QueueGone if nobody keeps the queue. ``tell`` hears why an answer is late."""
        self._path = path
        self._tell = tell
        try:
            self._sock = wire.connect_to_daemon(path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise QueueGone(f"{path}: no daemon keeps this queue") from None
        except unixsocket.Impostor as error:
            raise QueueError(str(error)) from None
        except PermissionError:
            remedy = "be root, the daemon's user or in its group"
            raise QueueError(f"{path}: permission denied; {remedy}") from None
        except OSError as error:
            raise QueueError(f"{path}: {error.strerror or error}") from None
        self._frames = wire.Frames()
        self._heard: list[tuple[int, bytes]] = []

    def submit(
        self, payloads: Sequence[str], delay: float = 0.0, max_attempts: int = 0
    ) -> Sequence[int]:
        """Accept all the payloads durably, or none: return their ids, or raise QueueError."""
        body = wire.pack_payloads(payloads, delay, max_attempts)
        answer = wire.decode(self._ask(Kind.SUBMIT, body, Kind.SUBMITTED))
        return range(answer["first"], answer["first"] + answer["count"])

    def stream(self, payloads: Iterable[str], delay: float = 0.0, max_attempts: int = 0) -> int:
        """Accept any number of payloads, all or none, in bounded memory; return how many."""
        self._ask(Kind.STREAM, b"", Kind.TAKEN_IN)
        for chunk in chunks(payloads):
            body = wire.pack_payloads(chunk, delay, max_attempts)
            self._ask(Kind.CHUNK, body, Kind.TAKEN_IN)
        end = wire.pack_payloads([], delay, max_attempts)
        return int(wire.decode(self._ask(Kind.STREAM_END, end, Kind.SUBMITTED))["count"])

    def wait(self, job: int) -> dict[str, Any]:
        """Return the job's listing once it is done, dead or gone."""
        return self._question(Kind.WAIT, {"id": job})  # type: ignore[no-any-return]

    def jobs(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        """Return a page of jobs in the order of their ids, beginning after one."""
        wanted = {"state": state, "after": after, "limit": limit}
        return self._question(Kind.LIST, wanted)  # type: ignore[no-any-return]

    def retry(self, ids: Sequence[int]) -> dict[int, str]:
        """Make jobs due now, dead ones with all their attempts; return the refusals by id."""
        return self._change(Kind.RETRY, ids)

    def drop(self, ids: Sequence[int]) -> dict[int, str]:
        """Forget jobs that nobody works on; return the refusals by id."""
        return self._change(Kind.DROP, ids)

    def counts(self) -> dict[str, Any]:
        """Return how many jobs there are in each state, and the age of the oldest due one."""
        return self._question(Kind.COUNTS, {})  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def _change(self, kind: Kind, ids: Sequence[int]) -> dict[int, str]:
        refused: dict[int, str] = {}
        for at in range(0, len(ids), IDS_AT_ONCE):
            answer = self._question(kind, {"ids": list(ids[at : at + IDS_AT_ONCE])})
            refused |= {int(id): why for id, why in answer.items()}
        return refused

    def _question(self, kind: Kind, value: object) -> Any:
        return wire.decode(self._ask(kind, wire.encode(value), Kind.ANSWER))

    def _ask(self, kind: Kind, body: bytes, expected: Kind) -> bytes:
        if kind != Kind.WAIT:
            self._check_keeper()
        watch = _Patience(self, is_long=kind == Kind.WAIT)
        try:
            self._send(wire.frame(kind, body), watch)
            answer, said = self._next(watch)
        except (OSError, struct.error, Protocol) as error:
            raise QueueGone(f"the queue's keeper is gone: {error}") from None
        if answer == Kind.REFUSED:
            raise QueueError(said.decode(errors="replace"))
        if answer != expected:
            raise QueueError("the queue's keeper is of another version; restart the daemon")
        return said

    def _check_keeper(self) -> None:
        """Ask nothing of a keeper that is stopped: nobody could say what became of it."""
        end = time.monotonic() + STOPPED
        while (stopped := self.stopped()) is not None:
            if time.monotonic() >= end:
                raise QueueError(f"{stopped}; nothing was asked of it")
            time.sleep(LOOK)

    def stopped(self) -> str | None:
        """Return that the keeper is stopped, and what to do; None as far as we can see."""
        from graced.host import process, unixsocket

        pid = unixsocket.peer(self._sock)[0]
        if not pid or not process.is_stopped(pid):  # 0: of another container
            return None
        return f"{self._path}: the queue's keeper is stopped; 'kill -CONT {pid}' lets it go on"

    def late(self) -> None:
        """An answer does not come: say why."""
        stopped = self.stopped()
        self._tell(f"{stopped or f'{self._path}: the keeper has not answered yet'}; waiting")

    def _send(self, data: bytes, watch: _Patience) -> None:
        left = memoryview(data)
        while left:
            watch.wait(self._sock, select.POLLOUT)
            with suppress(BlockingIOError):
                left = left[self._sock.send(left, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT) :]

    def _next(self, watch: _Patience) -> tuple[int, bytes]:
        while not self._heard:
            watch.wait(self._sock, select.POLLIN)
            data = self._sock.recv(wire.READ)
            if not data:
                raise Protocol("it has closed the connection")
            self._heard += self._frames.feed(data)
        return self._heard.pop(0)


class _Patience:
    """Waits for a keeper, and has it said, once, if that takes long."""

    def __init__(self, end: ClientEnd, *, is_long: bool) -> None:
        self._end = end
        self._is_long = is_long  # what is asked for may take its time
        self._since = time.monotonic()
        self._told = False

    def wait(self, sock: socket.socket, event: int) -> None:
        """Wait until the socket can be read or written."""
        poll = select.poll()
        poll.register(sock, event)
        while not poll.poll(None if self._told else SECOND):
            late = time.monotonic() - self._since > STOPPED and not self._is_long
            if late or self._end.stopped() is not None:
                self._told = True
                self._end.late()


def chunks(payloads: Iterable[str]) -> Iterable[list[str]]:
    """Yield the payloads in batches of a size that the keeper takes at once."""
    chunk: list[str] = []
    size = 0
    for payload in payloads:
        chunk.append(payload)
        size += value.size(payload)
        if len(chunk) >= wire.CHUNK_JOBS or size >= wire.CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
