"""The keeper's process: one thread that serves workers and clients and alone writes the file.

It sleeps until somebody writes or something falls due. All requests that came in meanwhile
are one transaction, and are answered after its commit. Here are the loop, the workers, the
main process's word and the keepers before and after this one. Who is connected is in
:mod:`.connections`, what clients want in :mod:`.client_requests`, the file in
:mod:`.storage`, the dead in :mod:`.departures`, the rules in
:mod:`.dispatcher`.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque

from graced import settings
from graced.host.channel import Channel, ChannelClosed, ChannelFull
from graced.host.walltimer import WallTimer
from graced.log.setup import open_log
from graced.queue import messages, wire
from graced.queue.client_requests import Counter
from graced.queue.connections import Visitor, Visitors, listen, open_to
from graced.queue.departures import Departed
from graced.queue.policy import Policy
from graced.queue.sqlite.errors import Trouble
from graced.queue.sqlite.storage import Book
from graced.queue.timing import NEVER
from graced.queue.wire import Kind, Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from graced.queue.client_requests import Handler
    from graced.queue.plan import KeeperPlan
    from graced.queue.sqlite.dispatcher import Ledger
    from graced.queue.sqlite.rows import Row

SUBMITTING = (Kind.SUBMIT, Kind.STREAM, Kind.CHUNK, Kind.STREAM_END, Kind.WAIT)
MOST_PARKED = 64  # frames of one worker that wait for the file
LAST_LOOKS = 2.0  # seconds in which what is left of the dead may end, before a stop


class Service:
    """Everything that one keeper has open."""

    def __init__(
        self,
        plan: KeeperPlan,
        channel: Channel,
        listener: socket.socket,
        elder: socket.socket | None,
    ) -> None:
        self._plan = plan
        self._log = plan.log
        self._channel: Channel | None = channel
        self._elder = elder  # a connection to the keeper before us, while it has the file
        self._heir: Visitor | None = None  # the keeper after us, which waits for the file
        self._stop_by: float | None = None  # asked to stop: as soon as nobody is awaited, or then
        self._to_main: deque[tuple[Any, ...]] = deque()
        self._epoll = select.epoll()
        self._timer = WallTimer()
        self._timer_is_for: int | None = None  # moment of the queue's clock
        self._workers: dict[str, Visitor] = {}
        self._visitors = Visitors(listener, self._epoll, plan.log, self._handle, self._left)
        self._visitors.submit_group = plan.policy.submit_gid
        self._send = self._visitors.send
        self._book = Book(plan, self._to_main.append)
        self._departed = Departed(plan, self._visitors, self._workers, self._book.clock)
        self._counter = Counter(self._book, self._visitors, plan.log)
        self._settled: set[Visitor] = set()  # settles read since the last commit
        self._quiet: set[Visitor] = set()  # those that were not answered by a job
        self._handed_out = False  # since the last commit; an answer may come very soon
        self._idle = True  # nobody has said anything in this turn
        self._handlers: dict[int, Handler] = {
            Kind.HELLO: self._hello,
            Kind.ASK: self._ask,
            Kind.SETTLE: self._settle,
            Kind.LEAVE: self._leave,
            **self._counter.handlers,
        }

    # -- the loop

    def run(self) -> int:
        """Serve until the main process says stop, or it and all its workers are gone."""
        assert self._channel is not None
        self._epoll.register(self._channel.fileno(), select.EPOLLIN)
        self._epoll.register(self._timer.fileno(), select.EPOLLIN)
        if self._elder is not None:
            self._epoll.register(self._elder.fileno(), select.EPOLLIN)
        else:
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

    def _dispatch(self, fd: int, event: int) -> None:
        if self._visitors.hear(fd, event):
            return
        if self._channel is not None and fd == self._channel.fileno():
            self._hear_main(self._channel)
        elif self._elder is not None and fd == self._elder.fileno():
            self._hear_elder(self._elder)
        elif fd == self._timer.fileno():
            self._timer.clear()
            self._timer_is_for = None

    def _is_over(self) -> bool:
        if self._stop_by is not None:
            return not self._departed.is_awaited or time.monotonic() >= self._stop_by
        if self._channel is not None:
            return False
        return self._heir is not None or not self._workers

    def _turn(self) -> None:
        """Do what is due, after everybody has been heard."""
        if self._book.wants_opening:
            self._try_open()
        ledger = self._book.ledger
        if ledger is not None:
            self._departed.bury(ledger)
            self._counter.change(ledger)
            self._commit(ledger)
            self._book.tidy(ledger, idle=self._idle)
            self._book.keep_ballast()
        self._counter.answer()
        self._tell_main()

    def _timeout(self) -> float:
        """Return how long nothing has to be done, in seconds; -1: for ever."""
        if self._counter.is_busy:
            return 0
        wait = min(self._book.sleep(idle=self._idle), self._departed.looking.left())
        if self._stop_by is not None:
            wait = min(wait, self._stop_by - time.monotonic())
        due = self._book.next_due()
        if due is not None and due != self._timer_is_for:
            clock = self._book.clock
            if due <= clock.now():
                return 0
            self._timer.set(clock.wall(due))
            self._timer_is_for = due
        return -1 if wait == NEVER else max(wait, 0)

    def _close(self) -> int:
        """Leave everything as the next keeper wants it."""
        ledger = self._book.ledger
        if ledger is not None:
            self._book.rest_no_longer()
            self._departed.bury(ledger)
            self._commit(ledger)
            self._departed.leave_word()
        left = self._book.close()
        self._tell_main()
        if self._heir is None:
            self._visitors.close_listener(self._plan.socket)
        return left

    # -- the file

    def _try_open(self) -> None:
        if self._book.open():
            self._departed.find(self._ledger())
            self._to_main.append(("ready",))
        for visitor in self._visitors.all():
            parked, visitor.parked = visitor.parked, []
            self._visitors.serve(visitor, parked)

    def _ledger(self) -> Ledger:
        ledger = self._book.ledger
        assert ledger is not None
        return ledger

    def _commit(self, ledger: Ledger) -> None:
        """Write all that was asked for, and answer it."""
        book = self._book
        if book.rests:
            return
        listen, self._handed_out = self._hear if self._handed_out else None, False
        handouts = book.commit(ledger, listen, self._counter.refuse_new)
        if handouts is None:
            return
        self._hand_out_all(ledger, handouts)
        self._counter.committed(ledger)
        self._to_main.extend(("buried", owner) for owner in self._departed.buried())
        book.written()
        if book.read_ahead(ledger):
            self._commit(ledger)

    def _hand_out_all(self, ledger: Ledger, handouts: list[Row]) -> None:
        """Confirm all settles, each with a job if there is one."""
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

    # -- who is connected

    def _handle(self, visitor: Visitor, kind: int, body: bytes) -> None:
        handler = self._handlers.get(kind)
        ledger = self._book.ledger
        if visitor.submits_only and kind not in SUBMITTING:
            raise Protocol("members of submit_group may submit jobs, and nothing else")
        if kind == Kind.YIELD and visitor.trusted:
            self._yield(visitor, body)
        elif handler is None:
            raise Protocol(f"a frame of unknown kind {kind}; another version of graced?")
        elif ledger is not None:
            handler(ledger, visitor, body)
        elif len(visitor.parked) < self._most_parked(kind):
            visitor.parked.append((kind, body))
        else:
            self._send(visitor, Kind.REFUSED, (self._book.trouble or "not open yet").encode())

    def _most_parked(self, kind: int) -> int:
        """Return how many frames may wait for the file: a client's one only until it is tried."""
        if kind <= Kind.LEAVE:
            return MOST_PARKED
        return int(self._book.trouble is None)

    def _left(self, visitor: Visitor) -> None:
        """Forget a connection that is gone."""
        self._settled.discard(visitor)
        self._quiet.discard(visitor)
        self._counter.left(visitor)
        if visitor is self._heir:
            self._heir = None
        if visitor.owner is not None and self._workers.get(visitor.owner) is visitor:
            del self._workers[visitor.owner]
            if self._book.ledger is not None:
                self._book.ledger.absent(visitor.owner)
            self._departed.left(visitor.owner)

    # -- what workers say

    def _hello(self, ledger: Ledger, visitor: Visitor, body: bytes) -> None:
        name, holds = messages.introduction(body)
        if not visitor.trusted:
            raise Protocol("a worker of another user")
        if visitor.owner not in (None, name):
            raise Protocol("a worker has one name")
        former = self._workers.get(name)
        if former is not None and former is not visitor:
            self._visitors.close(former)
        visitor.owner = name
        self._workers[name] = visitor
        ledger.join(name, holds, self._book.clock.now())
        self._departed.introduced(name)

    def _ask(self, ledger: Ledger, visitor: Visitor, _body: bytes) -> None:
        row = ledger.ask(_owner(visitor), self._book.clock.now())
        if row is not None:
            self._hand_out(ledger, visitor, row)

    def _settle(self, ledger: Ledger, visitor: Visitor, body: bytes) -> None:
        id, attempt, outcome, more = messages.settlement(body)
        row = ledger.settle(_owner(visitor), id, attempt, outcome, more, self._book.clock.now())
        visitor.settles += 1
        self._settled.add(visitor)
        if row is not None:
            self._hand_out(ledger, visitor, row)
            self._handed_out = True
        else:
            self._quiet.add(visitor)

    def _leave(self, ledger: Ledger, visitor: Visitor, _body: bytes) -> None:
        ledger.leave(_owner(visitor))
        self._settled.add(visitor)
        self._quiet.add(visitor)

    def _hand_out(self, ledger: Ledger, visitor: Visitor, row: Row) -> None:
        try:
            payload = ledger.payload(row).encode()
        except Trouble as trouble:
            self._book.failed(trouble)
            ledger.undelivered(row)
            self._visitors.close(visitor)  # it comes again, and asks again
            return
        submitted = max(self._book.clock.wall(row.submitted), 0)
        head = wire.HANDOUT.pack(row.id, row.attempt, submitted, visitor.confirmed)
        self._send(visitor, Kind.JOB, head + payload)

    # -- the main process

    def _hear_main(self, channel: Channel) -> None:
        try:
            while (message := channel.receive()) is not None:
                self._obey(message)
        except ChannelClosed:
            self._epoll.unregister(channel.fileno())
            channel.close()
            self._channel = None
            self._log.warning("queue: the main process is gone; serving its workers to their end")

    def _obey(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("died", owner, evidence, counts):
                self._departed.told(owner, wire.encode(evidence).decode() if counts else None)
            case ("count",):
                self._counter.ask(lambda: self._to_main.append(("counts", self._book.counts())))
            case ("settings", *_):
                self._apply(Policy.told(message))
            case ("log", *told):
                self._log_to(settings.Log(*told))
            case ("listen",):
                self._listen_again()
            case ("stop",):
                self._stop_by = time.monotonic() + LAST_LOOKS

    def _listen_again(self) -> None:
        """Have a socket at its place once more, if nobody has one there."""
        place = self._plan.socket
        if os.path.lexists(place):
            return
        try:
            self._visitors.listen_at(listen(self._plan))
        except OSError as error:
            self._log.error("queue: %s: %s; new workers cannot reach it", place, error)
        else:
            self._log.error("queue: %s was removed; listening there again", place)

    def _apply(self, policy: Policy) -> None:
        self._plan = self._plan.replace(policy=policy)
        self._visitors.submit_group = policy.submit_gid
        self._book.apply(policy)
        try:
            open_to(self._plan)
        except OSError as error:
            self._log.error("queue: %s: %s", self._plan.socket, error.strerror)

    def _log_to(self, wanted: settings.Log) -> None:
        """Follow the main process to another log, as its user."""
        try:
            self._log.become(open_log(wanted, os.environ))
        except OSError as error:
            self._log.error("queue: %s: %s; the old log goes on", wanted.file, error.strerror)

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

    # -- the keepers before and after this one

    def _hear_elder(self, elder: socket.socket) -> None:
        if wire.receive(elder) == b"":
            self._epoll.unregister(elder.fileno())
            elder.close()
            self._elder = None
            if self._book.ledger is None:
                self._try_open()

    def _yield(self, visitor: Visitor, body: bytes) -> None:
        """Another keeper wants the file: it gets it once our main process is gone."""
        if body.decode(errors="replace") != self._plan.socket:
            self._send(visitor, Kind.REFUSED, b"our workers could not find you")
            return
        self._heir = visitor
        self._send(visitor, Kind.OCCUPIED, f"kept by process {os.getpid()}".encode())


def _owner(visitor: Visitor) -> str:
    if visitor.owner is None:
        raise Protocol("a worker says HELLO first")
    return visitor.owner
