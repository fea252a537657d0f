"""The jobs of one host's workers, where a server decides who gets which: what is said in a turn.

Nothing is decided here that another host could decide otherwise: what workers and clients say is
gathered, said to the server as one :class:`~.link.Turn`, and what it answers becomes jobs in their
hands. What was not answered is kept and said again; the token of each hand-out tells the server
what it has heard before. No descriptors, no SQL.
"""

from __future__ import annotations

import random
from operator import itemgetter

from graced.queue.job import Discarded, Done, Postponed
from graced.queue.protocol import Accepted, ServerGone, StorageError
from graced.queue.servers.link import DEAD, DONE, WAITS, Settle, Submission, Turn
from graced.queue.tally import OUTCOMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from graced.queue.job import Outcome
    from graced.queue.policy import Policy
    from graced.queue.protocol import QueueError
    from graced.queue.servers.link import Answer, Handout, Link
    from graced.queue.standing import Standing, Wanted
    from graced.queue.terms import Terms

MOST_AT_ONCE = 1000  # jobs claimed in one turn
GONE = "gone"  # the state of a job that was dropped


class Row:
    """A job in the hands of a worker of this host, or of one that was here before."""

    __slots__ = (
        "attempt",
        "cancelled",
        "due",
        "failures",
        "id",
        "limit",
        "owner",
        "payload",
        "scheduled",
        "submitted",
        "token",
        "unseen",
    )

    def __init__(self, told: Handout, *, unseen: bool) -> None:
        self.id = told.id
        self.token = told.token
        self.owner: str | None = told.owner
        self.failures = told.failures
        self.attempt = told.failures + 1
        self.limit = told.limit
        self.submitted = told.submitted
        self.due = told.due
        self.scheduled = told.scheduled
        self.payload = told.payload
        self.cancelled = False
        self.unseen = unseen  # its worker has not been told of it

    @property
    def key(self) -> tuple[int, int]:
        """What a hand-out is known by."""
        return self.id, self.token


class Consumer:
    """A worker, and what it has in hand."""

    __slots__ = ("asked", "capacity", "name", "rows", "withheld")

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[int, Row] = {}
        self.asked = False  # it is idle
        self.capacity = 1  # jobs at once; if that is another number it need not ask
        self.withheld = False  # it is about to be interrupted

    @property
    def wants(self) -> int:
        """How many jobs it can be given now."""
        if self.withheld:
            return 0
        return int(self.asked) if self.capacity == 1 else max(self.capacity - len(self.rows), 0)


class ServedDispatcher:
    """See :class:`graced.queue.protocol.Dispatcher`; times are the server's business."""

    def __init__(
        self,
        policy: Policy,
        chance: Callable[[], float],
        is_ours: Callable[[str], bool],
        warn: Callable[[str], None],
    ) -> None:
        self.policy = policy
        self.consumers: dict[str, Consumer] = {}
        self.link: Link | None = None
        self.may_have = True  # jobs that are ready, for all that is known
        self.has_staged = False  # streams of ours are to be published, or forgotten
        self.is_paused = False
        self._is_fresh = True  # nothing has been heard on this connection, as what is cancelled
        self._chance = chance
        self._is_ours = is_ours
        self._warn = warn
        self._idle: dict[str, Consumer] = {}  # in the order of their asking
        self._settles: dict[tuple[int, int], Settle] = {}
        self._said: set[tuple[int, int]] = set()  # of them, those that may have been heard
        self._submissions: list[tuple[Submission, Accepted]] = []
        self._adopted: set[str] = set()
        self._handouts: list[Row] = []
        self._given: set[tuple[int, int]] = set()  # the last handouts that are still in hand
        self._cancelling: list[Row] = []
        self._ended: list[tuple[int, str]] = []
        self._interrupted: set[int] = set()  # jobs that an interrupt has cost no attempt
        self._book = random.getrandbits(63)
        self._counted = dict.fromkeys(OUTCOMES, 0)
        # Lost with a lease, and still in a worker's hands, for all that is known.
        self._void: dict[tuple[int, int], str] = {}

    # -- workers

    def _consumer(self, name: str) -> Consumer:
        found = self.consumers.get(name)
        if found is None:
            found = self.consumers[name] = Consumer(name)
            found.withheld = not self._is_ours(name)  # its jobs would be under our lease
        return found

    def join(self, name: str, holds: Iterable[tuple[int, int]], now: int) -> None:
        """A worker has connected and says what it has in hand: it has seen nothing else."""
        consumer = self._consumer(name)
        held = set(holds)
        self._rest(consumer)
        for row in list(consumer.rows.values()):
            if row.key in held:
                row.unseen = False
            else:
                self._give_back(row)
        self._let_go(name, held)
        if held and not self._is_ours(name):
            self._adopted.add(name)

    def ask(self, name: str, now: int) -> Row | None:
        """A worker is idle: it gets a job with the next turn."""
        consumer = self._consumer(name)
        consumer.asked = True
        self._line_up(consumer)
        return None

    def want(self, name: str, count: int, now: int) -> None:
        """A worker takes so many jobs at once, in all; 0: no more."""
        consumer = self._consumer(name)
        consumer.capacity = count
        self._line_up(consumer)

    def put_back(self, name: str, id: int, token: int, now: int) -> None:
        row = self._consumer(name).rows.get(id)
        if row is not None and row.token == token:
            self._give_back(row)

    def _line_up(self, consumer: Consumer) -> None:
        if consumer.wants:
            self._idle[consumer.name] = consumer
        else:
            self._idle.pop(consumer.name, None)

    def settle(
        self, name: str, id: int, token: int, outcome: Outcome, more: bool, now: int
    ) -> Row | None:
        """A job ended. Of one that this worker does not hold nothing changes."""
        row = self._consumer(name).rows.get(id)
        if row is not None and row.token == token:
            self._settle(row, outcome)
        elif (id, token) in self._void:
            del self._void[id, token]
            self._warn_late(id, token)
        return self.ask(name, now) if more else None

    def _settle(self, row: Row, outcome: Outcome) -> None:
        if isinstance(outcome, Done):
            self._end(row, Settle(row.id, row.token, DONE, outcome.result, row.failures))
        elif isinstance(outcome, Postponed):
            self._fail(row, outcome.evidence, outcome.after)
        else:
            self._fail(row, outcome.evidence, None, final=isinstance(outcome, Discarded))

    def leave(self, name: str, now: int) -> None:
        consumer = self._consumer(name)
        self._rest(consumer)
        for row in list(consumer.rows.values()):
            self._give_back(row)
        self._let_go(name)

    def absent(self, name: str, now: int) -> None:
        if name in self.consumers:
            self._rest(self.consumers[name])

    def withhold(self, name: str) -> None:
        consumer = self._consumer(name)
        consumer.withheld = True
        self._line_up(consumer)

    def _rest(self, consumer: Consumer) -> None:
        consumer.asked, consumer.capacity = False, 1
        self._line_up(consumer)

    def _let_go(self, name: str, held: Container[tuple[int, int]] = ()) -> None:
        """Of the jobs that were lost, a worker has these in hand at most."""
        for key in [key for key, owner in self._void.items() if owner == name and key not in held]:
            del self._void[key]

    def requeue(self, row: Row, now: int) -> None:
        self._give_back(row)

    def bury(
        self,
        name: str,
        evidence: str | None,
        now: int,
        *,
        alone: bool = True,
        interrupted: bool = False,
    ) -> list[int]:
        """A worker and all of its processes are gone; with evidence the attempt counts.

        The first time that a job's worker was `interrupted` by others costs it no attempt.
        """
        back = []
        consumer = self._consumer(name)
        for row in list(consumer.rows.values()):
            free = interrupted and row.id not in self._interrupted
            if evidence is None or row.unseen or free or row.cancelled:
                if free and not row.unseen:
                    self._interrupted.add(row.id)
                self._give_back(row)
                if not row.cancelled:
                    back.append(row.id)
            elif self._fail(row, evidence, None):
                back.append(row.id)
        self._rest(consumer)
        self._let_go(name)
        self._adopted.discard(name)  # nobody would look for the end of what it had
        del self.consumers[name]
        return back

    def payload(self, row: Row) -> str:
        """Return a row's payload."""
        return row.payload

    # -- what becomes of a row

    def _give_back(self, row: Row) -> None:
        self._end(row, Settle(row.id, row.token, WAITS, None, row.failures))

    def _fail(self, row: Row, evidence: str, after: float | None, *, final: bool = False) -> bool:
        """An attempt has failed; return whether another one follows."""
        failures = row.failures + 1
        dead = final or failures >= (row.limit or self.policy.max_attempts)
        if after is None:
            after = self.policy.delay(failures, self._chance())
        kind = DEAD if dead else WAITS
        self._end(row, Settle(row.id, row.token, kind, evidence, failures, after))
        return not dead

    def _end(self, row: Row, settle: Settle) -> None:
        consumer = self.consumers.get(row.owner or "")
        if consumer is not None:
            consumer.rows.pop(row.id, None)
            self._line_up(consumer)
        self._given.discard(row.key)
        cancelled = row.cancelled and settle.kind != DONE
        self._settles[row.key] = settle.replace(cancelled=True) if cancelled else settle

    # -- clients

    def submit(self, payloads: Sequence[str], terms: Terms, now: int) -> Accepted:
        """Accept jobs with the next turn, which fills in their ids, or why they are refused."""
        accepted = Accepted()
        self._submissions.append((Submission(payloads, terms), accepted))
        return accepted

    def schedules(self, wanted: Mapping[str, Wanted], now: int) -> dict[str, Standing]:
        """Watch schedules: return where they stand."""
        link = self._reached()
        return {name: link.adopt(name, each, now) for name, each in wanted.items()}

    def open_stream(self) -> int:
        return self._reached().open_stream()

    def stage(self, stream: int, payloads: Sequence[str], terms: Terms, now: int) -> list[int]:
        """Keep some jobs of a stream, out of everybody's sight."""
        return self._reached().stage(stream, payloads, terms)

    def commit_stream(self, stream: int, terms: Terms, now: int) -> int:
        """Accept a stream; return how many jobs it has."""
        try:
            count = self._reached().commit_stream(stream, terms)
        except ServerGone as error:
            raise error.lost() from None
        self._counted["submitted"] += count
        self.has_staged = True
        return count

    def abort_stream(self, stream: int) -> None:
        """Forget a stream that did not come to its end; the server does it if we can't."""
        try:
            if self.link is not None:
                self.link.abort_stream(stream)
                self.has_staged = True  # what is left of it
        except StorageError as trouble:
            self._warn(f"queue: stream {stream} is not taken back yet: {trouble}")

    def retry(self, ids: Iterable[int], now: int) -> dict[int, str]:
        self.may_have = True
        return self._reached().retry(list(ids))

    def drop(self, ids: Iterable[int]) -> dict[int, str]:
        ids = list(ids)
        refused = self._reached().drop(ids)
        self._ended += [(id, GONE) for id in ids if id not in refused]
        return refused

    def cancel(self, ids: Iterable[int], now: int) -> dict[int, str]:
        ids = list(ids)
        refused, dead = self._reached().cancel(ids)
        self._counted["dead"] += dead
        in_hand = {row.id: row for c in self.consumers.values() for row in c.rows.values()}
        for id in ids:
            if id in in_hand:
                self._cancel(in_hand[id])
        return refused

    def _cancel(self, row: Row) -> None:
        if not row.cancelled:
            row.cancelled = True
            self._cancelling.append(row)

    def cancelling(self) -> list[Row]:
        found, self._cancelling = self._cancelling, []
        return found

    def pause(self, paused: bool, now: int) -> None:
        self._reached().pause(paused)
        self.is_paused = paused
        self.may_have = True

    def _reached(self) -> Link:
        if self.link is None:
            raise StorageError("the queue's server can't be reached now; try again later")
        return self.link

    def ended(self) -> list[tuple[int, str]]:
        """Return the jobs that are done, dead or GONE since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def counted(self) -> tuple[int, Mapping[str, int]]:
        """Return what this keeper has counted."""
        return self._book, self._counted

    def rang(self, text: str) -> None:
        """Somebody else has done something to the queue."""
        kind, _, id = text.partition(":")
        if kind == "ended" and id.isdecimal():
            self._ended.append((int(id), kind))
        elif kind == "staged":
            self.has_staged = True
        elif kind == "paused":  # or not any more
            self.is_paused = False
        self.may_have = True

    # -- the turn

    @property
    def pending(self) -> int:
        """How much the server has not heard yet."""
        return len(self._settles)

    @property
    def has_news(self) -> bool:
        """Whether there is something to say, or to ask for."""
        said = self._settles or self._submissions or self._adopted or self._is_fresh
        return bool(said) or (self.may_have and self.has_idle and not self.is_paused)

    @property
    def has_idle(self) -> bool:
        """Whether workers wait for jobs, and may be given some.

        None may, while one works on a job that is others' by now: it might be given to us again.
        """
        return bool(self._idle) and not self._void

    def next_turn(self, lease: float, *, looks: bool) -> Turn:
        """Return all that is to be said now."""
        return Turn(
            lease,
            list(self._settles.values()),
            [submission for submission, _ in self._submissions],
            sorted(self._adopted),
            self._wanting(),
            looks,
        )

    def _wanting(self) -> list[str]:
        """Return the idle, once for each job that they want: whoever has least comes first."""
        if not self.has_idle:
            return []
        by_need = [
            (len(consumer.rows) + n, name)
            for name, consumer in self._idle.items()
            for n in range(min(consumer.wants, MOST_AT_ONCE))
        ]
        by_need.sort(key=itemgetter(0))  # of equals, who has asked first
        return [name for _, name in by_need[:MOST_AT_ONCE]]

    def answered(self, turn: Turn, answer: Answer) -> None:
        """Take note of what the server says to a turn."""
        late = set(answer.late)
        for settle in turn.settles:
            key = settle.id, settle.token
            del self._settles[key]
            if key not in late:
                self._count(settle)
                if settle.kind != WAITS:
                    self._ended.append((settle.id, "done" if settle.kind == DONE else "dead"))
            elif key not in self._said:
                self._late(settle)
            self._said.discard(key)
        for (_, accepted), ids in zip(self._submissions, answer.accepted, strict=True):
            accepted.tell(ids)
            self._counted["submitted"] += 0 if isinstance(ids, str) else len(ids)
        self._submissions.clear()
        self._adopted.clear()
        self._is_fresh = False
        for told in answer.held:
            self._consumer(told.owner).rows.setdefault(told.id, Row(told, unseen=False))
        for told in answer.jobs:
            self._hand(Row(told, unseen=True))
        self._see_cancelled(answer.cancelled)
        self.is_paused = answer.paused
        if turn.idle:
            self.may_have = answer.more
        elif turn.submissions:
            self.may_have = True

    def _count(self, settle: Settle) -> None:
        """Count what the server has taken."""
        if settle.kind == DONE:
            self._counted["done"] += 1
            return
        self._counted["dead"] += settle.kind == DEAD or settle.cancelled
        self._counted["failed"] += settle.text is not None and not settle.cancelled

    def _see_cancelled(self, cancelled: Iterable[tuple[int, int]]) -> None:
        if cancelled:
            in_hand = {row.key: row for c in self.consumers.values() for row in c.rows.values()}
            for key in cancelled:
                if key in in_hand:
                    self._cancel(in_hand[key])

    def _hand(self, row: Row) -> None:
        consumer = self._consumer(row.owner or "")
        consumer.rows[row.id] = row
        consumer.asked = False
        self._line_up(consumer)
        self._handouts.append(row)

    def handouts(self) -> list[Row]:
        """Return the jobs that were claimed for idle workers since the last call."""
        handouts, self._handouts = self._handouts, []
        for row in handouts:
            row.unseen = False
        self._given = {row.key for row in handouts}
        return handouts

    @property
    def has_stragglers(self) -> bool:
        """Whether of the jobs that were handed out last some have ended, and others have not."""
        return bool(self._settles) and bool(self._given)

    def _late(self, settle: Settle) -> None:
        if settle.kind != WAITS or settle.text is not None:  # else it was only given back
            self._warn_late(settle.id, settle.token)

    def _warn_late(self, id: int, token: int) -> None:
        self._warn(
            f"job {id}: settled too late, for its hand-out {token} is over; that changed nothing"
        )

    def unanswered(self, turn: Turn) -> None:
        """Nobody knows whether the server has heard a turn: what was to be settled is kept."""
        self._said.update((settle.id, settle.token) for settle in turn.settles)

    def refuse_submits(self, why: QueueError) -> None:
        """The server can't be asked to accept jobs now."""
        for _, accepted in self._submissions:
            accepted.tell(why)
        self._submissions.clear()

    # -- a new connection

    def joined(
        self, held: Iterable[Handout], *, first: bool, was_over: bool = False
    ) -> list[Row]:
        """We are connected, the first time or once more; return the jobs that were lost meanwhile.

        What the server says to be in hand here is: what we know nothing of was claimed by a turn
        that was not answered, and is given back; what only we know of is another host's by now.
        """
        held = list(held)
        known = {row.key: row for c in self.consumers.values() for row in c.rows.values()}
        for told in held:
            key = told.id, told.token
            if key in known or key in self._settles:
                continue
            row = Row(told, unseen=False)
            if first or told.daemon or not self._is_ours(told.owner):
                self._consumer(told.owner).rows[told.id] = row
            else:
                self._give_back(row)
        there = {(told.id, told.token) for told in held}
        lost = [row for key, row in known.items() if key not in there]
        for row in lost:
            self._lose(row)
        for key in [key for key in self._settles if key not in there]:
            self._not_ours(key, was_over)
        self.may_have = self._is_fresh = True
        return lost

    def _not_ours(self, key: tuple[int, int], was_over: bool) -> None:
        """A settle is not to be said (again): its hand-out is over, or it was heard before.

        A server that has lost some of what it knew may give its number to another job.
        """
        settle = self._settles.pop(key)
        if key not in self._said:
            self._late(settle)
        elif was_over:
            self._warn(
                f"job {settle.id}: settled, but that was not answered before the lease was over:"
                " if it came too late, it changed nothing"
            )
        self._said.discard(key)

    def _lose(self, row: Row) -> None:
        consumer = self.consumers.get(row.owner or "")
        if consumer is not None:
            consumer.rows.pop(row.id, None)
        self._void[row.key] = row.owner or ""

    def apply(self, policy: Policy) -> None:
        """Go by other settings from now on."""
        self.policy = policy
