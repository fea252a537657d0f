"""The keeper's process: one thread that serves workers and clients and alone writes the file.

It sleeps until somebody writes or something falls due. All requests that came in meanwhile
are one transaction, and are answered after its commit. The rules are in
:mod:`graced.jobs.ledger`; here are the sockets, the timers and the main process's word.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections import deque

from graced.host.channel import Channel, ChannelClosed, ChannelFull
from graced.jobs import owners, wire
from graced.jobs.job import MAX_PAYLOAD, Discarded, Done, Outcome, Postponed, Raised
from graced.jobs.ledger import Ledger
from graced.jobs.policy import Policy
from graced.jobs.queue import STATES, QueueError
from graced.jobs.row import DEAD, DONE, NAMES, SHOWN, Row
from graced.jobs.sqlite import Occupied, Store, Trouble, throw_ballast
from graced.jobs.wire import Kind, Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from graced.jobs.keeper import Plan

READ = 1 << 16  # bytes read from one connection before the others get their turn
UNREAD = 8 << 20  # bytes that a client may leave unread
MOST_PARKED = 64  # frames of one worker that wait for the file
PAGE = 500  # jobs in one listing
PAGE_BYTES = 4 << 20
BREATH = 0.001  # seconds without a word after which the keeper has time for itself
LONGEST_SLEEP = 600.0  # while something is deferred: the wall clock may be set meanwhile
TEN_YEARS = 10 * 366 * 86400.0
FOUND = '{"reason":"found taken when the daemon came back after a crash"}'
OUTCOMES: tuple[Callable[[str, float], Outcome], ...] = (
    lambda text, _after: Done(text or None),
    lambda text, _after: Raised(text),
    Postponed,
    lambda text, _after: Discarded(text),
)


class Patience:
    """When to try again what failed: later and later, at a limit. Monotonic seconds."""

    def __init__(self, first: float, limit: float) -> None:
        self._first = first
        self._limit = limit
        self._delay = first
        self.due: float | None = None

    def failed(self) -> None:
        """Try again after a while, a longer one each time."""
        self.due = time.monotonic() + self._delay
        self._delay = min(2 * self._delay, self._limit)

    def soon(self) -> None:
        """Try again after the shortest while."""
        self._delay = self._first
        self.failed()

    def over(self) -> None:
        """There is nothing to try."""
        self._delay = self._first
        self.due = None

    def is_due(self) -> bool:
        """Whether it is time."""
        return self.due is not None and time.monotonic() >= self.due


class Visitor:
    """One connection: a worker's once it has said HELLO, a client's else."""

    __slots__ = (
        "confirmed",
        "fd",
        "frames",
        "out",
        "owner",
        "parked",
        "settles",
        "sock",
        "stream",
        "trusted",
    )

    def __init__(self, sock: socket.socket, *, trusted: bool) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.trusted = trusted  # of our own user, or root: may be a worker
        self.frames = wire.Frames()
        self.out = bytearray()
        self.owner: str | None = None
        self.parked: list[tuple[int, bytes]] = []  # frames that wait for the file
        self.settles = 0  # read on this connection,
        self.confirmed = 0  #   and durable
        self.stream: int | None = None


class Service:
    """Everything that one keeper has open."""

    def __init__(
        self, plan: Plan, channel: Channel, listener: socket.socket, elder: socket.socket | None
    ) -> None:
        self.plan = plan
        self.policy = plan.policy
        self.log = plan.log
        self._channel: Channel | None = channel
        self._listener = listener
        self._elder = elder  # a connection to the keeper before us, while it has the file
        self._epoll = select.epoll()
        self._visitors: dict[int, Visitor] = {}
        self._workers: dict[str, Visitor] = {}
        self._waiters: dict[int, list[Visitor]] = {}
        self._store: Store | None = None
        self._ledger: Ledger | None = None
        self._stopping = False
        self._heir: Visitor | None = None  # the keeper after us, which waits for the file
        self._trouble: str | None = None
        self._opening = Patience(0.05, 10.0)
        self._writing = Patience(0.05, 5.0)
        self._ballasting = Patience(0.5, 5.0)
        self._lingering: dict[str, str | None] = {}  # owners that may live: evidence
        self._dead: dict[str, str | None] = {}  # owners that do not: evidence
        self._looking = Patience(0.01, 2.0)
        self._buried: list[str] = []  # with the next commit
        self._settled: set[Visitor] = set()  # settles read since the last commit
        self._quiet: set[Visitor] = set()  # those that were not answered by a job
        self._replies: list[tuple[Visitor, int, bytes, bool]] = []  # after the commit; for new jobs
        self._questions: list[Callable[[], None]] = []  # answered from the file, after the commit
        self._to_main: deque[tuple[Any, ...]] = deque()
        self._idle = True  # nobody has said anything in this turn
        self._tidied_until = 0.0  # when the next step of tidying may come between requests
        self._handed_out = False  # since the last commit; an answer may come very soon
        self._deaf = False  # out of descriptors: nobody new is let in
        self._handlers: dict[int, Callable[[Visitor, bytes, int], None]] = {
            Kind.HELLO: self._hello,
            Kind.ASK: self._ask,
            Kind.SETTLE: self._settle,
            Kind.LEAVE: self._leave,
            Kind.SUBMIT: self._submit,
            Kind.STREAM: self._open_stream,
            Kind.CHUNK: self._chunk,
            Kind.STREAM_END: self._seal,
            Kind.WAIT: self._wait,
            Kind.LIST: self._list,
            Kind.RETRY: self._retry,
            Kind.DROP: self._drop,
            Kind.COUNTS: self._counts,
        }

    # -- the loop

    def run(self) -> int:
        """Serve until the main process says stop, or it and all its workers are gone."""
        epoll = self._epoll
        epoll.register(self._listener.fileno(), select.EPOLLIN)
        assert self._channel is not None
        epoll.register(self._channel.fileno(), select.EPOLLIN)
        if self._elder is not None:
            epoll.register(self._elder.fileno(), select.EPOLLIN)
        self._opening.soon()
        if self._elder is None:
            self._try_open()
        self._turn()
        while not self._is_over():
            self._idle = not self._hear(self._timeout())
            self._turn()
        return self._close()

    def _hear(self, timeout: float = 0) -> bool:
        """Hear everybody who has said something; return whether anybody has."""
        ready = self._epoll.poll(timeout)
        for fd, event in ready:
            self._dispatch(fd, event)
        return bool(ready)

    def _is_over(self) -> bool:
        if self._stopping:
            return True
        if self._channel is not None:
            return False
        return self._heir is not None or not self._workers

    def _dispatch(self, fd: int, event: int) -> None:
        visitor = self._visitors.get(fd)
        if visitor is not None:
            if event & select.EPOLLOUT:
                self._push(visitor)
            if event & ~select.EPOLLOUT:
                self._read(visitor)
        elif fd == self._listener.fileno():
            self._accept()
        elif self._channel is not None and fd == self._channel.fileno():
            self._hear_main(self._channel)
        elif self._elder is not None and fd == self._elder.fileno():
            self._hear_elder(self._elder)

    def _turn(self) -> None:
        """Do what is due, after everybody has been heard."""
        if self._ledger is None and self._opening.is_due():
            self._try_open()
        if self._ledger is not None:
            self._bury()
            self._commit(self._ledger)
            self._tidy(self._ledger)
            if self._ballasting.is_due():
                self._recover()
        questions, self._questions = self._questions, []
        for question in questions:
            question()
        self._tell_main()

    def _timeout(self) -> float:
        """Return how long nothing has to be done, in seconds; -1: for ever."""
        ledger = self._ledger
        patient = (self._opening, self._writing, self._ballasting, self._looking)
        dues = [patience.due for patience in patient if patience.due is not None]
        wait = min(dues) - time.monotonic() if dues else float("inf")
        if ledger is not None and self._writing.due is None:
            now = _now()
            walls = [due for due in (ledger.next_due(), ledger.next_prune) if due is not None]
            if ledger.has_chores(now):
                wait = min(wait, 0 if self._idle else BREATH)
            elif walls:
                wait = min(wait, LONGEST_SLEEP, (min(walls) - now) / 1000)
        return -1 if wait == float("inf") else max(wait, 0)

    def _close(self) -> int:
        """Leave everything as the next keeper wants it."""
        left = 0
        if self._ledger is not None and self._store is not None:
            self._writing.over()
            self._bury()
            self._commit(self._ledger)
            left = int(self._ledger.pending)
            self._store.drop_ballast()
            self._store.close()
        self._tell_main()
        if self._heir is None:
            _remove_socket(self._listener, self.plan.socket)
        return left

    # -- the file

    def _try_open(self) -> None:
        try:
            self._store = self._open()
            self._ledger = Ledger(self._store, self.policy, _chance)
        except Trouble as trouble:
            self._close_store()
            self._degrade(str(trouble))
            self._opening.failed()
            return
        self._opening.over()
        self._recover()
        self._ledger_is_open()

    def _open(self) -> Store:
        path, about = self.plan.file, self.plan.socket
        try:
            return Store(path, about=about)
        except Occupied:
            raise
        except Trouble as trouble:
            if trouble.full and throw_ballast(path):
                return Store(path, about=about)
            raise

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = self._ledger = None

    def _ledger_is_open(self) -> None:
        assert self._ledger is not None
        for name in [*self._ledger.owners, *owners.listed(self.plan.file)]:
            if not self._is_ours(name):
                self._lingering[name] = FOUND
        if self._lingering:
            self._looking.soon()
        self._to_main.append(("ready",))
        for visitor in list(self._visitors.values()):
            parked, visitor.parked = visitor.parked, []
            self._serve(visitor, parked)

    def _is_ours(self, owner: str) -> bool:
        return owner.startswith(f"{self.plan.daemon_id}:")

    def _commit(self, ledger: Ledger) -> None:
        if self._writing.due is not None and not self._writing.is_due():
            return
        listen, self._handed_out = self._hear if self._handed_out else None, False
        try:
            handouts = ledger.commit(_now(), listen)
        except Trouble as trouble:
            if not self._make_room(ledger, trouble):
                return
            handouts = ledger.handouts()
        self._committed(ledger, handouts)
        if self._writing.due is not None:
            self._recover()
        if ledger.is_low:
            self._read_ahead(ledger)

    def _read_ahead(self, ledger: Ledger) -> None:
        try:
            ledger.read_ahead()
        except Trouble as trouble:
            self._degrade(str(trouble))
            self._writing.failed()
        else:
            self._commit(ledger)

    def _make_room(self, ledger: Ledger, trouble: Trouble) -> bool:
        """Take new jobs out of what cannot be written, and try once more with the ballast."""
        assert self._store is not None
        ledger.refuse_submits()
        self._refuse_submits(str(trouble))
        self._degrade(str(trouble))
        self._writing.failed()
        if not (trouble.full and self._store.drop_ballast()):
            return False
        try:
            ledger.write()
        except Trouble:  # the same once more
            return False
        return True

    def _committed(self, ledger: Ledger, handouts: list[Row]) -> None:
        for visitor in self._settled:
            visitor.confirmed = visitor.settles
        self._settled.clear()
        quiet, self._quiet = self._quiet, set()
        for row in handouts:
            worker = self._workers.get(row.owner or "")
            if worker is None:
                ledger.undelivered(row)
            else:
                self._hand_out(ledger, worker, row)
                quiet.discard(worker)
        for visitor in quiet:
            self._send(visitor, Kind.SETTLED, wire.COUNT.pack(visitor.confirmed))
        replies, self._replies = self._replies, []
        for visitor, kind, body, _new in replies:
            self._send(visitor, kind, body)
        self._to_main.extend(("buried", owner) for owner in self._buried)
        self._buried.clear()
        self._announce(ledger)

    def _announce(self, ledger: Ledger) -> None:
        for id, state in ledger.ended():
            if state == DEAD:
                self.log.warning("job %s is dead; `graced jobs --state dead` tells why", id)
            for visitor in self._waiters.pop(id, ()):
                self._questions.append(lambda v=visitor, i=id: self._tell_end(v, i))  # type: ignore[misc]

    def _refuse_submits(self, why: str) -> None:
        kept: list[tuple[Visitor, int, bytes, bool]] = []
        for visitor, kind, body, new in self._replies:
            if new:
                self._end_stream(visitor)
                self._send(visitor, Kind.REFUSED, why.encode())
            else:
                kept.append((visitor, kind, body, new))
        self._replies = kept

    def _tidy(self, ledger: Ledger) -> None:
        began = time.monotonic()
        if self._writing.due is not None or ledger.pending:
            return
        if began < self._tidied_until and not self._idle:
            return
        try:
            ledger.tidy(_now())
            self._tidied_until = _later(began)
        except Trouble as trouble:
            self._degrade(str(trouble))
            self._writing.failed()

    def _degrade(self, why: str) -> None:
        if why != self._trouble:
            self._trouble = why
            self._to_main.append(("degraded", why))

    def _recover(self) -> None:
        assert self._store is not None
        self._writing.over()
        if not self._store.keep_ballast():
            self._degrade(f"{self.plan.file}: the disk is nearly full: no new jobs; make some room")
            self._ballasting.failed()
            return
        self._ballasting.over()
        if self._trouble is not None:
            self._trouble = None
            self._to_main.append(("well",))

    # -- the dead

    def _bury(self) -> None:
        """Give back what the dead had in hand, once nothing of them is left."""
        if self._dead:
            self._accept()
            for visitor in list(self._visitors.values()):
                if visitor.owner is None:  # it may be one of them that has just connected
                    self._read(visitor)
            for owner in list(self._dead):
                self._hear_out(owner)
                self._lingering[owner] = self._dead.pop(owner)
                self._look_for(owner)
        if self._looking.is_due():
            for owner in list(self._lingering):
                self._look_for(owner)
            self._look_again()

    def _look_for(self, owner: str) -> None:
        ledger = self._ledger
        assert ledger is not None
        if owner in self._workers and not self._is_ours(owner):
            return  # it talks to us, so it lives; the end of its connection is the next hint
        if owners.lives(self.plan.file, owner):
            if self._looking.due is None:
                self._looking.soon()
            return
        evidence = self._lingering.pop(owner)
        if owner in ledger.owners:
            ledger.bury(owner, evidence, _now())
        visitor = self._workers.get(owner)
        if visitor is not None:
            self._close_visitor(visitor)
        self._buried.append(owner)

    def _look_again(self) -> None:
        if any(owner not in self._workers for owner in self._lingering):
            self._looking.failed()
        else:
            self._looking.over()

    def _hear_out(self, owner: str) -> None:
        """Read what a worker wrote before it died."""
        visitor = self._workers.get(owner)
        while visitor is not None and visitor.fd in self._visitors and self._read(visitor):
            pass

    # -- the main process and other keepers

    def _hear_main(self, channel: Channel) -> None:
        try:
            while (message := channel.receive()) is not None:
                self._obey(message)
        except ChannelClosed:
            self._epoll.unregister(channel.fileno())
            channel.close()
            self._channel = None
            self.log.warning("queue: the main process is gone; serving its workers to their end")

    def _obey(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("died", owner, evidence, counts):
                self._dead[owner] = wire.encode(evidence).decode() if counts else None
            case ("count",):
                self._questions.append(lambda: self._to_main.append(("counts", self._counted())))
            case ("settings", *_):
                self.policy = Policy.told(message)
                if self._ledger is not None:
                    self._ledger.apply(self.policy)
            case ("stop",):
                self._stopping = True

    def _counted(self) -> dict[str, Any]:
        return {} if self._ledger is None else self._ledger.counts(_now())

    def _tell_main(self) -> None:
        if self._channel is None:
            self._to_main.clear()
            return
        try:
            while self._to_main:
                self._channel.send(self._to_main[0])
                self._to_main.popleft()
        except ChannelFull:  # it has more important things to do; in the next turn
            pass
        except ChannelClosed:  # its end of file comes too
            self._to_main.clear()

    def _hear_elder(self, elder: socket.socket) -> None:
        try:
            data = elder.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._epoll.unregister(elder.fileno())
            elder.close()
            self._elder = None
            if self._ledger is None:
                self._try_open()

    def _yield(self, visitor: Visitor, body: bytes) -> None:
        """Another keeper wants the file: it gets it once our main process is gone."""
        if body.decode(errors="replace") != self.plan.socket:
            self._send(visitor, Kind.REFUSED, b"our workers could not find you")
            return
        self._heir = visitor
        self._send(visitor, Kind.OCCUPIED, f"kept by process {os.getpid()}".encode())

    # -- connections

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    self._stop_listening(error)
                return
            sock.setblocking(False)
            visitor = Visitor(sock, trusted=wire.peer_uid(sock) in (0, os.geteuid()))
            self._visitors[visitor.fd] = visitor
            self._epoll.register(visitor.fd, select.EPOLLIN)

    def _stop_listening(self, error: OSError) -> None:
        if self._visitors:
            self._deaf = True
            self._epoll.unregister(self._listener.fileno())
            self.log.error("queue: %s; nobody new until somebody leaves", error.strerror)

    def _read(self, visitor: Visitor) -> bool:
        """Read once from a connection; False if there is nothing, or nothing more."""
        try:
            data = visitor.sock.recv(READ)
        except BlockingIOError:
            return False
        except OSError:  # reset by the other side
            data = b""
        if not data:
            self._close_visitor(visitor)
            return False
        self._serve(visitor, visitor.frames.feed(data))
        return True

    def _serve(self, visitor: Visitor, frames: Iterable[tuple[int, bytes]]) -> None:
        try:
            for kind, body in frames:
                if self._visitors.get(visitor.fd) is not visitor:
                    break
                self._handle(visitor, kind, body)
        except Protocol as error:
            self._send(visitor, Kind.REFUSED, str(error).encode())
            self._close_visitor(visitor)

    def _handle(self, visitor: Visitor, kind: int, body: bytes) -> None:
        handler = self._handlers.get(kind)
        if kind == Kind.YIELD and visitor.trusted:
            self._yield(visitor, body)
        elif handler is None:
            raise Protocol(f"a frame of unknown kind {kind}; another version of graced?")
        elif self._ledger is not None:
            handler(visitor, body, _now())
        elif kind <= Kind.LEAVE and len(visitor.parked) < MOST_PARKED:
            visitor.parked.append((kind, body))
        else:
            self._send(visitor, Kind.REFUSED, (self._trouble or "not open yet").encode())

    def _send(self, visitor: Visitor, kind: int, body: bytes = b"") -> None:
        data = wire.HEADER.pack(len(body), kind) + body
        if visitor.out:
            visitor.out += data
            if len(visitor.out) > UNREAD:
                self._close_visitor(visitor)
            return
        try:
            sent = visitor.sock.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:  # gone; its end of file comes too
            return
        if sent < len(data):
            visitor.out += data[sent:]
            self._epoll.modify(visitor.fd, select.EPOLLIN | select.EPOLLOUT)

    def _push(self, visitor: Visitor) -> None:
        try:
            sent = visitor.sock.send(visitor.out, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError:
            self._close_visitor(visitor)
            return
        del visitor.out[:sent]
        if not visitor.out:
            self._epoll.modify(visitor.fd, select.EPOLLIN)

    def _close_visitor(self, visitor: Visitor) -> None:
        if self._visitors.pop(visitor.fd, None) is None:
            return
        self._epoll.unregister(visitor.fd)
        visitor.sock.close()
        self._settled.discard(visitor)
        self._quiet.discard(visitor)
        self._end_stream(visitor)
        if visitor is self._heir:
            self._heir = None
        if visitor.owner is not None and self._workers.get(visitor.owner) is visitor:
            del self._workers[visitor.owner]
            if self._ledger is not None:
                self._ledger.absent(visitor.owner)
            if visitor.owner in self._lingering:
                self._looking.soon()
        for waiting in self._waiters.values():
            if visitor in waiting:
                waiting.remove(visitor)
        if self._deaf:
            self._deaf = False
            self._epoll.register(self._listener.fileno(), select.EPOLLIN)

    # -- what workers say

    def _hello(self, visitor: Visitor, body: bytes, now: int) -> None:
        ledger = self._open_ledger()
        name, holds = _introduction(body)
        if not visitor.trusted:
            raise Protocol("a worker of another user")
        former = self._workers.get(name)
        if former is not None and former is not visitor:
            self._close_visitor(former)
        visitor.owner = name
        self._workers[name] = visitor
        ledger.join(name, holds, now)
        ours = self._is_ours(name)
        dead = not owners.lives(self.plan.file, name, tidy=False)
        if dead or not ours:  # nobody will tell us of its death, or it has died already
            self._lingering.setdefault(name, None if ours else FOUND)
        if dead:
            self._looking.soon()

    def _ask(self, visitor: Visitor, _body: bytes, now: int) -> None:
        ledger = self._open_ledger()
        row = ledger.ask(_owner(visitor), now)
        if row is not None:
            self._hand_out(ledger, visitor, row)

    def _settle(self, visitor: Visitor, body: bytes, now: int) -> None:
        ledger = self._open_ledger()
        id, attempt, outcome, more = _settlement(body)
        row = ledger.settle(_owner(visitor), id, attempt, outcome, more, now)
        visitor.settles += 1
        self._settled.add(visitor)
        if row is not None:
            self._hand_out(ledger, visitor, row)
            self._handed_out = True
        else:
            self._quiet.add(visitor)

    def _leave(self, visitor: Visitor, _body: bytes, _now: int) -> None:
        self._open_ledger().leave(_owner(visitor))
        self._settled.add(visitor)
        self._quiet.add(visitor)

    def _hand_out(self, ledger: Ledger, visitor: Visitor, row: Row) -> None:
        try:
            payload = ledger.payload(row).encode()
        except Trouble as trouble:
            self._degrade(str(trouble))
            self._writing.failed()
            ledger.undelivered(row)
            self._close_visitor(visitor)  # it comes again, and asks again
            return
        head = wire.HANDOUT.pack(row.id, row.attempt, row.submitted, visitor.confirmed)
        self._send(visitor, Kind.JOB, head + payload)

    # -- what clients say

    def _submit(self, visitor: Visitor, body: bytes, now: int) -> None:
        payloads, delay, max_attempts = self._payloads(body)
        self._new_jobs(
            visitor, lambda ledger: self._submitted(ledger, payloads, delay, max_attempts, now)
        )

    def _submitted(
        self, ledger: Ledger, payloads: list[str], delay: float, max_attempts: int, now: int
    ) -> tuple[int, bytes]:
        first, count = ledger.submit(payloads, delay, max_attempts, now)
        return Kind.SUBMITTED, wire.encode({"first": first, "count": count})

    def _open_stream(self, visitor: Visitor, _body: bytes, _now: int) -> None:
        self._end_stream(visitor)
        self._new_jobs(visitor, lambda ledger: self._stream_opened(ledger, visitor))

    def _stream_opened(self, ledger: Ledger, visitor: Visitor) -> tuple[int, bytes]:
        visitor.stream = ledger.open_stream()
        return Kind.TAKEN_IN, b""

    def _chunk(self, visitor: Visitor, body: bytes, now: int) -> None:
        payloads, _delay, max_attempts = self._payloads(body)
        stream = visitor.stream
        if stream is None:
            self._send(visitor, Kind.REFUSED, b"the stream was refused")
            return
        self._new_jobs(
            visitor, lambda ledger: self._staged(ledger, stream, payloads, max_attempts, now)
        )

    def _staged(
        self, ledger: Ledger, stream: int, payloads: list[str], max_attempts: int, now: int
    ) -> tuple[int, bytes]:
        ledger.stage(stream, payloads, max_attempts, now)
        return Kind.TAKEN_IN, b""

    def _seal(self, visitor: Visitor, body: bytes, now: int) -> None:
        _payloads, delay, _max_attempts = self._payloads(body)
        stream, visitor.stream = visitor.stream, None
        if stream is None:
            self._send(visitor, Kind.REFUSED, b"the stream was refused")
            return
        self._new_jobs(visitor, lambda ledger: self._sealed(ledger, stream, delay, now))

    def _sealed(self, ledger: Ledger, stream: int, delay: float, now: int) -> tuple[int, bytes]:
        count = ledger.seal(stream, delay, now)
        return Kind.SUBMITTED, wire.encode({"first": None, "count": count})

    def _new_jobs(self, visitor: Visitor, accept: Callable[[Ledger], tuple[int, bytes]]) -> None:
        """Take in new jobs, or say why not."""
        if self._trouble is not None:
            self._refuse(visitor, self._trouble)
            return
        try:
            kind, body = accept(self._open_ledger())
        except QueueError as error:
            self._refuse(visitor, str(error))
            return
        self._replies.append((visitor, kind, body, True))

    def _refuse(self, visitor: Visitor, why: str) -> None:
        self._end_stream(visitor)
        self._send(visitor, Kind.REFUSED, why.encode())

    def _end_stream(self, visitor: Visitor) -> None:
        if visitor.stream is not None and self._ledger is not None:
            self._ledger.scrap(visitor.stream)
        visitor.stream = None

    def _payloads(self, body: bytes) -> tuple[list[str], float, int]:
        payloads, delay, max_attempts = wire.unpack_payloads(body)
        if not 0 <= delay <= TEN_YEARS:
            raise Protocol("a delay must be between 0 and ten years")
        if any(len(p) > MAX_PAYLOAD or len(p.encode()) > MAX_PAYLOAD for p in payloads):
            raise Protocol(f"a payload is at most {MAX_PAYLOAD} bytes of JSON")
        return payloads, delay, max_attempts

    def _wait(self, visitor: Visitor, body: bytes, _now: int) -> None:
        id = _number(_fields(body), "id")
        self._questions.append(lambda: self._wait_for(visitor, id))

    def _wait_for(self, visitor: Visitor, id: int) -> None:
        found = self._listing(id)
        if found is None or found["state"] in (NAMES[DONE], NAMES[DEAD]):
            self._tell_end(visitor, id)
        else:
            self._waiters.setdefault(id, []).append(visitor)

    def _tell_end(self, visitor: Visitor, id: int) -> None:
        found = self._listing(id) or {"id": id, "state": "gone"}
        self._send(visitor, Kind.ANSWER, wire.encode(found))

    def _listing(self, id: int) -> dict[str, Any] | None:
        try:
            return None if self._store is None else self._store.listing(id)
        except Trouble as trouble:
            return {"id": id, "state": "unknown", "evidence": wire.encode(str(trouble)).decode()}

    def _list(self, visitor: Visitor, body: bytes, _now: int) -> None:
        wanted = _fields(body)
        after, limit = _number(wanted, "after"), _number(wanted, "limit")
        states = SHOWN.get(wanted.get("state"))
        if states is None:
            raise Protocol(f"no such state; there are {', '.join(STATES)}")
        limit = max(1, min(limit, PAGE))
        self._questions.append(lambda: self._tell_page(visitor, states, after, limit))

    def _tell_page(self, visitor: Visitor, states: tuple[int, ...], after: int, limit: int) -> None:
        try:
            page = [] if self._store is None else self._store.page(states, after, limit, PAGE_BYTES)
        except Trouble as trouble:
            self._send(visitor, Kind.REFUSED, str(trouble).encode())
            return
        self._send(visitor, Kind.ANSWER, wire.encode(page))

    def _retry(self, visitor: Visitor, body: bytes, now: int) -> None:
        self._change(visitor, body, lambda ledger, ids: ledger.retry(ids, now))

    def _drop(self, visitor: Visitor, body: bytes, _now: int) -> None:
        self._change(visitor, body, lambda ledger, ids: ledger.drop(ids))

    def _change(
        self,
        visitor: Visitor,
        body: bytes,
        act: Callable[[Ledger, list[int]], dict[int, str]],
    ) -> None:
        ids = _fields(body).get("ids")
        if not isinstance(ids, list) or not all(type(id) is int for id in ids):
            raise Protocol("ids is not a list of numbers")
        try:
            refused = act(self._open_ledger(), ids)
        except Trouble as trouble:
            self._send(visitor, Kind.REFUSED, str(trouble).encode())
            return
        answer = wire.encode({str(id): why for id, why in refused.items()})
        self._replies.append((visitor, Kind.ANSWER, answer, False))

    def _counts(self, visitor: Visitor, _body: bytes, _now: int) -> None:
        self._questions.append(
            lambda: self._send(visitor, Kind.ANSWER, wire.encode(self._counted()))
        )

    def _open_ledger(self) -> Ledger:
        assert self._ledger is not None
        return self._ledger


def _now() -> int:
    """Return the wall clock in ms: what is due must still be so after a boot."""
    return time.time_ns() // 1_000_000


def _later(began: float) -> float:
    """Return when to go on with what can wait: it gets a third of the time."""
    ended = time.monotonic()
    return ended + 2 * (ended - began)


def _chance() -> float:
    return int.from_bytes(os.urandom(4), "little") / (1 << 32)


def _owner(visitor: Visitor) -> str:
    if visitor.owner is None:
        raise Protocol("a worker says HELLO first")
    return visitor.owner


def _fields(body: bytes) -> dict[str, Any]:
    fields = wire.decode(body)
    if not isinstance(fields, dict):
        raise Protocol("a request is a JSON object")
    return fields


def _number(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or not -(1 << 62) < value < 1 << 62:
        raise Protocol(f"{name} is not a number")
    return value


def _introduction(body: bytes) -> tuple[str, list[tuple[int, int]]]:
    """Return who says HELLO, and what it has in hand."""
    said = _fields(body)
    try:
        name = str(said["owner"])
        holds = [(int(id), int(attempt)) for id, attempt in said["holds"]]
    except (KeyError, TypeError, ValueError):
        raise Protocol("a HELLO that says no owner or no jobs") from None
    if not name.replace(":", "").isalnum():
        raise Protocol("an owner of a strange name")
    return name, holds


def _settlement(body: bytes) -> tuple[int, int, Outcome, bool]:
    try:
        id, attempt, number, more, after = wire.SETTLEMENT.unpack_from(body)
        outcome = OUTCOMES[number](body[wire.SETTLEMENT.size :].decode(), after)
    except (struct.error, IndexError, UnicodeDecodeError):
        raise Protocol("a settle that cannot be read") from None
    if not 0 <= after <= TEN_YEARS:
        raise Protocol("a delay must be between 0 and ten years")
    return id, attempt, outcome, bool(more)


def _remove_socket(listener: socket.socket, path: str) -> None:
    """Remove our socket's name, unless another keeper has it by now."""
    try:
        with wire.connect(path) as probe:
            mine = probe.getpeername() == listener.getsockname()
        if mine:
            os.unlink(path)
    except OSError:  # gone, or in a folder of another user: a dead name harms nobody
        pass
