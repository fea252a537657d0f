"""A queue on a server as its keeper has it: connected or not, with a lease or not, and when to try.

Whichever server it is: the engine gives a function that connects, see :class:`~.link.Link`. What is
said and heard is the business of :mod:`.dispatcher`, how long a lease may be believed in of
:mod:`graced.queue.hostlease`.
"""

from __future__ import annotations

import random
import select
import time

from graced.queue import liveness
from graced.queue.hostlease import HostLease
from graced.queue.protocol import ClientMissing, ServerGone, StorageError
from graced.queue.servers.dispatcher import Row, ServedDispatcher
from graced.queue.servers.link import CLOSED, NO_RING, Answer, Handout, Link
from graced.queue.servers.place import KEEPER, host_name, keeper_lives
from graced.queue.timing import NEVER, Clock, RetryTimer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from graced.queue.plan import KeeperPlan
    from graced.queue.policy import Policy

FIRST_RETRY = 0.1  # seconds until a server that is gone is tried again
LAST_RETRY = 1.0
POLL = 1.0  # seconds between two looks for jobs where the server can't ring
FIRST_TIDY = 30.0  # seconds until what is done is looked through, so that few connections do it
TIDY = (1.0, 600.0)  # seconds between two looks, at least and at most
SLOW_COUNT = 0.5  # seconds; of a queue that takes so long to count
COUNTING_SHARE = 10  # counts are this many times as long in use as they took


def boottime() -> float:
    """Return the seconds since the boot, a suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ServedQueue:
    """See :class:`graced.queue.protocol.Storage`.

    ``tell`` hears ("degraded", why), ("well",), ("lost", *workers).
    """

    def __init__(
        self,
        plan: KeeperPlan,
        tell: Callable[[tuple[Any, ...]], None],
        connect: Callable[[], Link],
        engine: str,
        poll: float | None,
        now: Callable[[], float] = boottime,
    ) -> None:
        self._now = now
        self.clock = Clock()
        self.trouble: str | None = None
        self.dispatcher: ServedDispatcher | None = None  # None: not opened yet
        self._plan = plan
        self._policy = plan.policy
        self._limit: int | None = None  # max_waiting, as the server was told
        self._tell = tell
        self._connect = connect
        self._engine = engine
        self._poll_every = poll
        self._link: Link | None = None
        self._lease = HostLease(plan.policy.lease)
        self._rings = select.epoll()  # the connection, whichever it is now
        self._retry = RetryTimer(FIRST_RETRY, LAST_RETRY, now)
        self._look_at = 0.0  # when to ask for jobs, though nothing was rung; monotonic
        self._due_at = NEVER  # when the next job is due
        self._tidy_at = self._now() + FIRST_TIDY
        self._gather_until = 0.0
        self._counts: dict[str, Any] = {}
        self._counts_good_until = 0.0
        self._lock: int | None = None
        self._retry.soon()

    # -- open and closed

    def fileno(self) -> int:
        """Return the descriptor that turns readable when the server rings."""
        return self._rings.fileno()

    @property
    def wants_opening(self) -> bool:
        """Whether it was never open, and it is time to try."""
        return self.dispatcher is None and self._retry.is_due()

    def open(self) -> bool:
        """Try to connect for the first time; False if that can't be now."""
        try:
            held = self._joined()
        except (StorageError, ClientMissing, OSError) as trouble:
            self.failed(_as_storage_error(trouble))
            return False
        address = self._plan.address
        self.dispatcher = ServedDispatcher(
            self._policy, random.random, address.is_ours, self._plan.log.warning
        )
        self.dispatcher.link = self._link
        self.dispatcher.joined(self._ours_to_judge(held), first=True)
        self._well()
        self._warn()
        return True

    def _warn(self) -> None:
        """Say once what the server does not promise."""
        try:
            link = self._reached()
            for warning in link.warnings():
                self._plan.log.warning(f"queue: {warning}")
            if not link.rings:
                every = f"{self._poll_every or POLL:g} s"
                self._plan.log.info(
                    "queue: a pooler of connections is in between, which passes no notice on:"
                    f" looking for new jobs every {every}"
                )
        except StorageError as trouble:
            self.failed(trouble)

    def _joined(self) -> list[Handout]:
        """Connect, and take the lease or go on with it; return what is in hand at this place."""
        address = self._plan.address
        host = host_name(address, self._plan.pool, self._plan.name)
        if self._lock is None:
            self._lock = liveness.hold(address.file, address.owner(KEEPER))
        link = self._connect()
        try:
            asked_at = self._now()
            held = link.join(host, self._policy.lease, self._policy)
        except BaseException:  # closed, whatever it is; raised on
            link.close()
            raise
        self._link, self._limit = link, self._policy.max_waiting
        if link.fileno() != NO_RING:
            self._rings.register(link.fileno(), select.EPOLLIN)
        self._granted(asked_at)
        return [told.replace(daemon="") if told.daemon == host.daemon else told for told in held]

    def _ours_to_judge(self, held: list[Handout]) -> list[Handout]:
        """Return what is in hand here, but for that of another daemon whose keeper is at work."""
        file = self._plan.address.file
        living = {d for d in {told.daemon for told in held} if d and keeper_lives(file, d)}
        return [told for told in held if told.daemon not in living]

    def _granted(self, asked_at: float) -> None:
        before = self._lease.left(asked_at)
        self._lease.granted(asked_at, self._policy.lease)
        self._publish()
        if before is None or before < self._policy.lease / 2:  # the main process may be at work
            self._tell(("lease",))

    def _publish(self) -> None:
        """Let the main process see until when its workers may have jobs, whatever we do next."""
        record = self._plan.record
        if record is not None:
            record.host_lease = round(self._lease.length * 1e9)
            record.host_lease_until = round(self._lease.until * 1e9)

    def _connected(self, dispatcher: ServedDispatcher) -> bool:
        """Have a connection that goes by our settings; False if that can't be now."""
        is_open = self._link is not None and self._link.fileno() != CLOSED
        if is_open and self._limit == self._policy.max_waiting:
            return True
        self._disconnect()
        was_over = not self._lease.left(self._now())
        try:
            held = self._ours_to_judge(self._joined())
        except (StorageError, ClientMissing, OSError) as trouble:
            self.failed(_as_storage_error(trouble))
            return False
        dispatcher.link = self._link
        self._say_lost(dispatcher.joined(held, first=False, was_over=was_over))
        return True

    def _say_lost(self, lost: Sequence[Row]) -> None:
        """Have workers ended that work on jobs which are others' by now."""
        if not lost:
            return
        numbers = ", ".join(str(row.id) for row in lost)
        self._plan.log.error(f"queue: the lease was over: jobs {numbers} are others' by now")
        address = self._plan.address
        owners = {row.owner or "" for row in lost}
        self._tell(("lost", *(address.worker(o) for o in owners if address.is_ours(o))))

    def _disconnect(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            if link.fileno() >= 0:
                self._rings.unregister(link.fileno())
            link.close()
        if self.dispatcher is not None:
            self.dispatcher.link = None

    def close(self) -> int:
        """Give the lease back; return how much could not be said."""
        dispatcher, link = self.dispatcher, self._link
        left = 0 if dispatcher is None else dispatcher.pending
        if link is not None:
            try:
                link.leave()
            except StorageError as trouble:
                self._plan.log.warning(f"queue: the lease could not be given back: {trouble}")
        self._disconnect()
        self._rings.close()
        if self._lock is not None:
            liveness.release(self._plan.address.file, self._plan.address.owner(KEEPER), self._lock)
        return left

    def apply(self, policy: Policy) -> None:
        self._policy = policy
        self._look_at = 0.0
        if self.dispatcher is not None:
            self.dispatcher.apply(policy)

    # -- when

    @property
    def write_paused(self) -> bool:
        """Whether the server can't be reached, and it is too early to try again."""
        return self._retry.due is not None and not self._retry.is_due()

    def resume_writing(self) -> None:
        """Try at the next opportunity, whatever went wrong before."""
        self._retry.over()

    def sleep(self, *, idle: bool) -> float:
        # What was rung while the server answered something has come along: no descriptor tells.
        if self._retry.due is None and self._hear():
            return 0
        if self._retry.due is not None or self._link is None:
            return max(self._retry.left(), 0)
        now = self._now()
        until = min(self._look_at, self._tidy_at) - now
        if self.dispatcher is not None and self.dispatcher.has_idle:
            until = min(until, self._due_at - now)
        return max(min(until, self._lease.renew_at() - self._now()), 0)

    def patience(self) -> float:
        """Hear those, too, who were just given jobs and are quick: a turn takes as long for all."""
        if self.dispatcher is None or not self.dispatcher.has_stragglers:
            return 0
        return max(self._gather_until - self._now(), 0)

    def next_due(self) -> int | None:
        """Nothing here goes by the wall's clock."""
        return None

    def rang(self) -> None:
        """Hear what the server has rung."""
        self._hear()

    def _hear(self) -> bool:
        """Hear what the server has rung; return whether it has."""
        link, dispatcher = self._link, self.dispatcher
        if link is None or dispatcher is None:
            return False
        try:
            heard = link.heard()
        except StorageError as trouble:
            self.failed(trouble)
            return False
        for text in heard:
            dispatcher.rang(text)
        return bool(heard)

    # -- the turn

    def commit(
        self,
        dispatcher: ServedDispatcher,
        listen: Callable[[], bool] | None,
        refuse: Callable[[str], None],
    ) -> Sequence[Row] | None:
        """Say all there is to say; return the jobs that were claimed, None if it can't be said."""
        if not self._connected(dispatcher):
            dispatcher.refuse_submits(StorageError(str(self.trouble)))
            return None
        renews = self._now() >= self._lease.renew_at() or self.trouble is not None
        now = self._now()
        if now >= min(self._look_at, self._due_at) or renews:
            dispatcher.may_have = True
        if not (renews or dispatcher.has_news):
            self._put_off_look(now)
            return ()
        return self._turn(dispatcher, looks=renews)

    def _turn(self, dispatcher: ServedDispatcher, *, looks: bool) -> Sequence[Row] | None:
        link = self._link
        assert link is not None
        turn = dispatcher.next_turn(self._policy.lease, looks=looks)
        asked_at = self._now()
        try:
            answer = link.turn(turn, self._policy)
        except StorageError as trouble:
            dispatcher.unanswered(turn)
            dispatcher.refuse_submits(
                trouble.lost() if isinstance(trouble, ServerGone) else trouble
            )
            self.failed(trouble)
            return None
        if answer.lost:
            self._lost()
            return None
        self._granted(asked_at)
        dispatcher.answered(turn, answer)
        self._heed(dispatcher, answer)
        self.rang()
        handouts = dispatcher.handouts()
        answered_at = self._now()
        self._gather_until = answered_at + (answered_at - asked_at) / 2
        if not self._lease.holds(answered_at):  # this process was stopped meanwhile
            for row in handouts:
                dispatcher.requeue(row, 0)
            return ()
        return handouts

    def _heed(self, dispatcher: ServedDispatcher, answer: Answer) -> None:
        now = self._now()
        self._due_at = NEVER if answer.due_in is None else now + answer.due_in
        self._put_off_look(now)
        if answer.expired:
            self._tidy_at = now  # what they had staged
        for host in answer.expired:
            jobs = "its job goes" if host.jobs == 1 else f"its {host.jobs} jobs go"
            self._plan.log.warning(
                f"queue: host {host.host} was not heard of for {host.lease:g} s: {jobs} to others"
            )

    def _put_off_look(self, now: float) -> None:
        link = self._link
        every = self._poll_every or (NEVER if link is not None and link.rings else POLL)
        self._look_at = now + every

    def _lost(self) -> None:
        """The server knows no such lease or connection: have it say what is still ours."""
        self._lease.lost()
        self._disconnect()
        self._retry.soon()

    def written(self) -> None:
        """It was said: all is well again."""
        if self.trouble is not None or self._retry.due is not None:
            self._well()

    def read_ahead(self, dispatcher: ServedDispatcher) -> bool:
        """Whether to claim on: where as many jobs came as were asked for, and workers are idle."""
        return dispatcher.may_have and dispatcher.has_idle and not dispatcher.is_paused

    def maintain(self, dispatcher: ServedDispatcher, *, idle: bool) -> None:
        link, now = self._link, self._now()
        if dispatcher.has_staged:
            dispatcher.has_staged = False
            self._tidy_at = now
        if link is None or now < self._tidy_at:
            return
        keep = self._policy.keep_done
        try:
            more = link.maintain(keep)
        except StorageError as trouble:
            self.failed(trouble)
            return
        if more:  # perhaps jobs of a stream
            dispatcher.may_have = True
        spent = self._now() - now
        rest = min(max(keep / 50, TIDY[0]), TIDY[1]) * (0.9 + 0.2 * random.random())
        self._tidy_at = self._now() + (2 * spent if more else rest)

    # -- reading

    def listing(self, id: int) -> dict[str, Any] | None:
        """Return a job's listing, None if there is no such job; its end will be told."""
        try:
            return self._reached().look(id, watch=True)
        except StorageError as trouble:
            return {"id": id, "state": "unknown", "evidence": str(trouble)}

    def job(self, id: int) -> dict[str, Any] | None:
        link = self._reached()
        found = link.look(id)
        return None if found is None else {**found, "tries": link.attempts(id)}

    def page(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        return self._reached().page(state, after, limit)

    def _reached(self) -> Link:
        if self._link is None:
            raise StorageError(self.trouble or "the queue's server is not connected yet")
        return self._link

    def counts(self) -> dict[str, Any]:
        """Return how many jobs are in each state, as last known, and how long the lease is good."""
        began = self._now()
        if self._link is not None and began >= self._counts_good_until:
            try:
                self._counts = self._link.counts()
            except StorageError as trouble:
                self.failed(trouble)
            took = self._now() - began
            self._counts_good_until = began + COUNTING_SHARE * took if took > SLOW_COUNT else 0.0
        if self.dispatcher is None:
            return {}
        left = self._lease.left(self._now())
        return {
            **self._counts,
            "engine": self._engine,
            "lease_left": None if left is None else round(left, 1),
        }

    # -- how it is

    def refusal(self) -> str | None:
        """Return why there can be no new jobs at this moment."""
        return self.trouble

    def failed(self, error: StorageError) -> None:
        """The server could not be asked, or would not do it: say so, and try again later."""
        link = self._link
        if isinstance(error, ServerGone) or (link is not None and link.fileno() == CLOSED):
            self._disconnect()
        self._retry.failed()
        if str(error) != self.trouble:
            self._tell(("degraded" if self.trouble is None else "still", str(error)))
            self.trouble = str(error)

    def _well(self) -> None:
        self._retry.over()
        if self.trouble is not None:
            self.trouble = None
            self._tell(("well",))


def _as_storage_error(trouble: Exception) -> StorageError:
    return trouble if isinstance(trouble, StorageError) else StorageError(str(trouble))
