"""The keeper's process: one thread that serves workers and clients and alone writes the file.

It sleeps until something is written or falls due. All requests that came in meanwhile
are one transaction, and are answered after its commit. Here are the loop, the workers, the
main process's word and the keepers before and after this one. The connections are in
:mod:`.connections`, what clients want in :mod:`.client_requests`, the file in
:mod:`.storage`, the dead in :mod:`.departures`, the rules in
:mod:`.dispatcher`.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from itertools import accumulate

from graced import settings
from graced.host.channel import Channel, ChannelClosed, ChannelFull
from graced.host.walltimer import WallTimer
from graced.log.setup import open_log
from graced.queue import messages, progress, wire
from graced.queue.cancelling import Cancelling
from graced.queue.client_requests import ClientRequests
from graced.queue.connections import Connection, Connections, listen, open_to
from graced.queue.departures import DeadOwners
from graced.queue.depth import DepthReport
from graced.queue.instants import Instants
from graced.queue.policy import Policy
from graced.queue.protocol import Dispatcher, Engine, Row, StorageError
from graced.queue.tally import Tally
from graced.queue.timing import NEVER
from graced.queue.wire import Kind, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import Any

    from graced.queue.client_requests import Handler
    from graced.queue.plan import KeeperPlan

SUBMITTING = (Kind.SUBMIT, Kind.STREAM, Kind.CHUNK, Kind.STREAM_END, Kind.WAIT)
BY_WORKERS = (Kind.HELLO, Kind.ASK, Kind.SETTLE, Kind.LEAVE, Kind.WANT, Kind.PUT_BACK)
MOST_PARKED = settings.MOST_AT_ONCE + 64  # frames of one worker that wait for the file
MOST_UNREAD = 1 << 20  # bytes that a worker has not read, before it is told of further jobs
MAX_SLEEP = 20 * 86400.0  # seconds; epoll counts milliseconds in 32 bits
TELL_AGAIN = 0.1  # seconds until the main process may have read what it was told
SHOWN_STATES = ("taken", "dead", "waiting")  # jobs that are shown to people,
MAX_SHOWN = 20  #   so many of each,
MAX_SHOWN_BYTES = 100_000  #   and of all together
COMMIT_WITHIN = 0.005  # seconds in which what comes is for the same commit
LAST_LOOKS = 2.0  # seconds in which what is left of the dead may end, before a stop


class Server:
    """Everything that one keeper has open."""

    def __init__(
        self,
        plan: KeeperPlan,
        channel: Channel,
        listener: socket.socket,
        previous: socket.socket | None,
        engine: Engine,
    ) -> None:
        self._plan = plan
        self._log = plan.log
        self._channel: Channel | None = channel
        self._previous = previous  # a connection to the keeper before us, while it has the file
        self._next: Connection | None = None  # the keeper after us, which waits for the file
        self._stop_by: float | None = None  # asked to stop: as soon as none is awaited, or then
        self._to_main: deque[tuple[Any, ...]] = deque()
        self._epoll = select.epoll()
        self._timer = WallTimer()
        self._timer_is_for: int | None = None  # moment of the queue's clock
        self._workers: dict[str, Connection] = {}
        self._connections = Connections(
            listener, self._epoll, plan.log, self._handle, self._left, self._tell_later
        )
        self._connections.submit_group = plan.policy.submit_gid
        self._send = self._connections.send
        self._tally = plan.tally or Tally()
        self._depth = DepthReport()
        self._storage = engine.open_storage(plan, self._to_main.append)
        self._cancelling = Cancelling(
            plan.address, self._workers, self._cancel, self._to_main.append
        )
        self._dead_owners = DeadOwners(plan, self._connections, self._workers, self._storage.clock)
        self._client_requests = ClientRequests(self._storage, self._connections, plan)
        self._instants = Instants(self._storage, self._to_main.append)
        self._settled: set[Connection] = set()  # settles read since the last commit
        self._quiet: set[Connection] = set()  # those that were not answered by a job
        self._handed_out = False  # since the last commit; an answer may come very soon,
        self._commit_by = 0.0  #   and is heard until then, for the same commit
        self._idle = True  # nothing was said in this turn
        self._handlers: dict[int, Handler] = {
            Kind.HELLO: self._hello,
            Kind.ASK: self._ask,
            Kind.SETTLE: self._settle,
            Kind.LEAVE: self._leave,
            Kind.WANT: self._want,
            Kind.PUT_BACK: self._put_back,
            **self._client_requests.handlers,
        }

    # -- the loop

    def run(self) -> int:
        """Serve until the main process says stop, or it and all its workers are gone."""
        assert self._channel is not None
        self._epoll.register(self._channel.fileno(), select.EPOLLIN)
        self._epoll.register(self._timer.fileno(), select.EPOLLIN)
        if self._storage.fileno() >= 0:
            self._epoll.register(self._storage.fileno(), select.EPOLLIN)
        if self._previous is not None:
            self._epoll.register(self._previous.fileno(), select.EPOLLIN)
        else:
            self._try_open()
        self._turn()
        while not self._is_over():
            self._idle = not self._hear(self._timeout())
            while (patience := self._storage.patience()) > 0 and self._hear(patience):
                pass
            self._turn()
        return self._close()

    def _hear(self, timeout: float = 0) -> bool:
        """Hear all that have said something; return whether any has."""
        ready = self._epoll.poll(timeout)
        for fd, event in ready:
            self._dispatch(fd, event)
        return bool(ready)

    def _hear_more(self) -> bool:
        """Hear what is for the same commit; not for long, since clients wait for that."""
        return time.monotonic() < self._commit_by and self._hear()

    def _dispatch(self, fd: int, event: int) -> None:
        if self._connections.hear(fd, event):
            return
        if self._channel is not None and fd == self._channel.fileno():
            self._hear_main(self._channel)
        elif self._previous is not None and fd == self._previous.fileno():
            self._hear_previous(self._previous)
        elif fd == self._storage.fileno():
            self._storage.rang()
        elif fd == self._timer.fileno():
            self._timer.clear()
            self._timer_is_for = None

    def _is_over(self) -> bool:
        if self._stop_by is not None:
            return not self._dead_owners.is_awaited or time.monotonic() >= self._stop_by
        if self._channel is not None:
            return False
        ours = any(map(self._plan.address.is_ours, self._workers))  # not those of the next daemon
        return self._next is not None or not ours

    def _turn(self) -> None:
        """Do what is due, after all have been heard."""
        if self._storage.wants_opening:
            self._try_open()
        dispatcher = self._storage.dispatcher
        if dispatcher is not None:
            self._dead_owners.bury(dispatcher)
            self._client_requests.change(dispatcher)
            self._instants.turn(dispatcher)
            self._commit(dispatcher)
            self._cancelling.enforce(dispatcher)
            self._storage.maintain(dispatcher, idle=self._idle)
        self._client_requests.answer()
        self._report_depth()
        self._tell_main()

    def _report_depth(self) -> None:
        """Tell the main process how many jobs there are, if that has changed and it is time."""
        now = time.monotonic()
        if not self._idle:
            self._depth.stirred(now)
        if self._depth.left(now) <= 0 and self._storage.dispatcher is not None:
            counts = self._storage.counts()
            depth = self._depth.look(counts, now, time.monotonic() - now)
            if depth is not None:
                self._to_main.append(("depth", depth))

    def _timeout(self) -> float:
        """Return how long nothing has to be done, in seconds; -1: for ever."""
        if self._client_requests.is_busy:
            return 0
        wait = min(self._storage.sleep(idle=self._idle), self._dead_owners.looking.left())
        wait = min(wait, self._instants.sleep(), self._cancelling.left())
        if self._storage.dispatcher is not None:
            wait = min(wait, self._depth.left(time.monotonic()))
        if self._stop_by is not None:
            wait = min(wait, self._stop_by - time.monotonic())
        if self._to_main:
            wait = min(wait, TELL_AGAIN)
        due = self._storage.next_due()
        if due is not None and due != self._timer_is_for:
            clock = self._storage.clock
            if due <= clock.now():
                return 0
            self._timer.set(clock.wall(due))
            self._timer_is_for = due
        return -1 if wait == NEVER else min(max(wait, 0), MAX_SLEEP)

    def _close(self) -> int:
        """Leave everything as the next keeper wants it."""
        dispatcher = self._storage.dispatcher
        if dispatcher is not None:
            self._storage.resume_writing()
            self._dead_owners.bury(dispatcher)
            self._commit(dispatcher)
            self._dead_owners.leave_word()
        left = self._storage.close()
        self._tell_main()
        if self._next is None:
            self._connections.close_listener(self._plan.address.socket)
        return left

    # -- the file

    def _try_open(self) -> None:
        if self._storage.open():
            dispatcher = self._opened_dispatcher()
            self._tally.counted(*dispatcher.counted())  # those of the keepers before, too
            self._dead_owners.find(dispatcher)
            self._to_main.append(("ready",))
        for connection in self._connections.all():
            parked, connection.parked = connection.parked, []
            self._connections.serve(connection, parked)

    def _opened_dispatcher(self) -> Dispatcher:
        dispatcher: Dispatcher | None = self._storage.dispatcher
        assert dispatcher is not None
        return dispatcher

    def _commit(self, dispatcher: Dispatcher) -> None:
        """Write all that was asked for, and answer it."""
        storage = self._storage
        if storage.write_paused:
            return
        listen, self._handed_out = self._hear_more if self._handed_out else None, False
        self._commit_by = time.monotonic() + COMMIT_WITHIN
        handouts = storage.commit(dispatcher, listen, self._refuse_new)
        if handouts is None:
            self._client_requests.tell_refused()
            return
        self._tally.counted(*dispatcher.counted())
        self._hand_out_all(dispatcher, handouts)
        self._cancelling.order(dispatcher)
        self._client_requests.committed(dispatcher.ended())
        self._instants.committed()
        self._to_main.extend(("buried", owner) for owner in self._dead_owners.buried())
        storage.written()
        if storage.read_ahead(dispatcher):
            self._commit(dispatcher)

    def _refuse_new(self, why: str) -> None:
        """New jobs could not be written."""
        self._client_requests.refuse_new(why)
        self._instants.refused()

    def _hand_out_all(self, dispatcher: Dispatcher, handouts: Sequence[Row]) -> None:
        """Confirm all settles, each with a job if there is one."""
        for connection in self._settled:
            connection.confirmed = connection.settles
        self._settled.clear()
        quiet, self._quiet = self._quiet, set()
        now = self._storage.clock.now() if handouts else 0
        for row in handouts:
            worker = self._workers.get(row.owner or "")
            if worker is None:
                dispatcher.requeue(row, now)
            else:
                self._hand_out(dispatcher, worker, row, now)
                quiet.discard(worker)
        for connection in quiet:
            self._send(connection, Kind.SETTLED, wire.COUNT.pack(connection.confirmed))

    # -- connections

    def _handle(self, connection: Connection, kind: int, body: bytes) -> None:
        handler = self._handlers.get(kind)
        dispatcher = self._storage.dispatcher
        if connection.submits_only and kind not in SUBMITTING:
            raise ProtocolError("members of submit_group may submit jobs, and nothing else")
        if kind == Kind.YIELD and connection.trusted:
            self._yield(connection, body)
        elif handler is None:
            raise ProtocolError(f"a frame of unknown kind {kind}; another version of graced?")
        elif dispatcher is not None:
            handler(dispatcher, connection, body)
        elif len(connection.parked) < self._most_parked(kind):
            connection.parked.append((kind, body))
        else:
            self._send(connection, Kind.REFUSED, wire.text(self._storage.trouble or "not open yet"))

    def _most_parked(self, kind: int) -> int:
        """Return how many frames may wait for the file: a client's one only until it is tried.

        But who waits for a job's end goes on waiting.
        """
        if kind in BY_WORKERS or kind == Kind.WAIT:
            return MOST_PARKED
        return int(self._storage.trouble is None)

    def _left(self, connection: Connection) -> None:
        """Forget a connection that is gone."""
        self._settled.discard(connection)
        self._quiet.discard(connection)
        self._client_requests.left(connection)
        if connection is self._next:
            self._next = None
        if connection.owner is not None and self._workers.get(connection.owner) is connection:
            del self._workers[connection.owner]
            if self._storage.dispatcher is not None:
                self._storage.dispatcher.absent(connection.owner, self._storage.clock.now())
            self._dead_owners.left(connection.owner)

    # -- what workers say

    def _hello(self, dispatcher: Dispatcher, connection: Connection, body: bytes) -> None:
        name, holds, connection.cancels = messages.introduction(body)
        if not connection.trusted:
            raise ProtocolError("a worker of another user")
        if connection.owner not in (None, name):
            raise ProtocolError("a worker has one name")
        former = self._workers.get(name)
        if former is not None and former is not connection:
            self._connections.close(former)
        connection.owner = name
        self._workers[name] = connection
        dispatcher.join(name, holds, self._storage.clock.now())
        self._dead_owners.introduced(name)

    def _ask(self, dispatcher: Dispatcher, connection: Connection, _body: bytes) -> None:
        now = self._storage.clock.now()
        row = dispatcher.ask(_owner(connection), now)
        if row is not None:
            self._hand_out(dispatcher, connection, row, now)

    def _settle(self, dispatcher: Dispatcher, connection: Connection, body: bytes) -> None:
        id, token, outcome, more = messages.settlement(body)
        now = self._storage.clock.now()
        row = dispatcher.settle(_owner(connection), id, token, outcome, more, now)
        connection.settles += 1
        self._settled.add(connection)
        if begun := connection.begun.pop(id, 0):
            self._tally.took(time.monotonic_ns() - begun)
        if row is not None:
            self._hand_out(dispatcher, connection, row, now)
            self._handed_out = True
        else:
            self._quiet.add(connection)

    def _leave(self, dispatcher: Dispatcher, connection: Connection, _body: bytes) -> None:
        dispatcher.leave(_owner(connection), self._storage.clock.now())
        self._settled.add(connection)
        self._quiet.add(connection)

    def _want(self, dispatcher: Dispatcher, connection: Connection, body: bytes) -> None:
        count = messages.capacity(body)
        dispatcher.want(_owner(connection), count, self._storage.clock.now())

    def _put_back(self, dispatcher: Dispatcher, connection: Connection, body: bytes) -> None:
        id, token = messages.held(body)
        dispatcher.put_back(_owner(connection), id, token, self._storage.clock.now())

    def _tell_later(self, connection: Connection) -> None:
        """Tell a worker of further jobs, now that it has read of those before."""
        dispatcher, later = self._storage.dispatcher, connection.later
        while later and len(connection.out) <= MOST_UNREAD and dispatcher is not None:
            kind, row = later.popleft()
            known = dispatcher.consumers.get(connection.owner or "")
            if known is None or known.rows.get(row.id) is not row:
                continue
            if kind == Kind.CANCEL_JOB:
                self._tell_cancelled(connection, row)
            else:
                self._tell_of_job(dispatcher, connection, row, self._storage.clock.now())

    def _hand_out(
        self, dispatcher: Dispatcher, connection: Connection, row: Row, now: int
    ) -> None:
        if connection.later or len(connection.out) > MOST_UNREAD:
            connection.later.append((Kind.JOB, row))
        else:
            self._tell_of_job(dispatcher, connection, row, now)

    def _tell_of_job(
        self, dispatcher: Dispatcher, connection: Connection, row: Row, now: int
    ) -> None:
        try:
            payload = dispatcher.payload(row).encode()
        except StorageError as trouble:
            self._storage.failed(trouble)
            dispatcher.requeue(row, now)
            self._connections.close(connection)  # it comes again, and asks again
            return
        self._tally.waited(now - max(row.due, row.submitted))
        connection.begun[row.id] = time.monotonic_ns()
        submitted = max(self._storage.clock.wall(row.submitted), 0)
        told = row.id, row.attempt, submitted, connection.confirmed, row.token, row.scheduled or 0
        self._send(connection, Kind.JOB, wire.HANDOUT.pack(*told) + payload)

    def _cancel(self, connection: Connection, row: Row) -> None:
        """Tell a worker to cancel a job, after it has been told of it."""
        if connection.later:
            connection.later.append((Kind.CANCEL_JOB, row))
        else:
            self._tell_cancelled(connection, row)

    def _tell_cancelled(self, connection: Connection, row: Row) -> None:
        said = {"id": row.id, "token": row.token}
        self._send(connection, Kind.CANCEL_JOB, wire.encode(said))

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
                self._dead_owners.told(owner, wire.encode(evidence).decode() if counts else None)
            case ("count" | "look" as what,):
                self._client_requests.ask(self._count if what == "count" else self._look)
            case ("schedule", *told):
                self._instants.schedule(*told)
            case ("schedules", number):
                self._instants.schedules(number)
            case ("instant", *told):
                self._instants.submit(*told)
            case ("settings", *_):
                self._apply(Policy.told(message))
            case ("log", *told):
                self._log_to(settings.Log(*told))
            case ("listen",):
                self._listen_again()
            case ("stop",):
                self._stop_by = time.monotonic() + LAST_LOOKS

    def _count(self) -> None:
        self._to_main.append(("counts", self._storage.counts()))

    def _look(
        self,
        found: Sequence[dict[str, Any]] = (),
        states: Sequence[str] = SHOWN_STATES,
        after: int = 0,
        room: int = MAX_SHOWN,
    ) -> None:
        """Gather some jobs of each state that is worth a look, in hand and dead ones first."""
        if not states:
            sizes = accumulate(len(wire.encode(job)) for job in found)
            shown = [job for job, size in zip(found, sizes) if size < MAX_SHOWN_BYTES]
            self._to_main.append(("jobs", shown))
            return
        try:
            page = self._storage.page(states[0], after, room)
        except StorageError:
            page = []  # its trouble is told already
        if isinstance(page, int):
            after = page
        else:
            progress.add(page, self._plan.address.file)
            found, room = [*found, *map(messages.shortened, page)], room - len(page)
            if page and room:
                after = page[-1]["id"]
            else:
                states, after, room = states[1:], 0, MAX_SHOWN
        self._client_requests.ask(lambda: self._look(found, states, after, room))

    def _listen_again(self) -> None:
        """Have a socket at its place once more, if there is none."""
        place = self._plan.address.socket
        if os.path.lexists(place):
            return
        try:
            self._connections.listen_at(listen(self._plan))
        except OSError as error:
            self._log.error("queue: %s: %s; new workers cannot reach it", place, error)
        else:
            self._log.error("queue: %s was removed; listening there again", place)

    def _apply(self, policy: Policy) -> None:
        self._plan = self._plan.replace(policy=policy)
        self._connections.submit_group = policy.submit_gid
        self._storage.apply(policy)
        try:
            open_to(self._plan)
        except OSError as error:
            self._log.error("queue: %s: %s", self._plan.address.socket, error.strerror)

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

    def _hear_previous(self, previous: socket.socket) -> None:
        if wire.receive(previous) == b"":
            self._epoll.unregister(previous.fileno())
            previous.close()
            self._previous = None
            if self._storage.dispatcher is None:
                self._try_open()

    def _yield(self, connection: Connection, body: bytes) -> None:
        """Another keeper wants the file: it gets it once our main process is gone."""
        if os.fsdecode(body) != self._plan.address.socket:
            self._send(connection, Kind.REFUSED, b"our workers could not find you")
            return
        self._next = connection
        self._send(connection, Kind.OCCUPIED, f"kept by process {os.getpid()}".encode())


def _owner(connection: Connection) -> str:
    if connection.owner is None:
        raise ProtocolError("a worker says HELLO first")
    return connection.owner
