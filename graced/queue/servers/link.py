"""What a keeper says to a server and hears from it, in one round trip a turn.

A further server engine is a class that does what :class:`Link` says. Who gets which job is
decided by the server, in one transaction a turn; the keeper's side of it is in :mod:`.dispatcher`.
"""

from __future__ import annotations

from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Protocol

    from graced.queue.policy import Policy
    from graced.queue.standing import Standing, Wanted
    from graced.queue.terms import Terms
else:
    Protocol = object

DONE, WAITS, DEAD = range(3)  # what becomes of a hand-out
CLOSED = -1  # the descriptor of a link that is
NO_RING = -2  # and of one on which nobody rings


class HostName(Record):
    """Under which name a keeper takes its lease."""

    daemon: str  # another one for each main process and pool
    name: str  # the host's, for people
    place: str  # where its workers' locks are: who has the same can see them


class Settle(Record):
    """What became of one hand-out; nothing, unless the token is that of the present one."""

    id: int
    token: int
    kind: int
    text: str | None = None  # a result, or the evidence of an attempt
    failures: int = 0  # from now on
    after: float | None = None  # seconds until it is due; None: as it was
    cancelled: bool = False  # whatever is said here, it is dead


class Submission(Record):
    """Jobs that are accepted all or none."""

    payloads: Sequence[str]
    terms: Terms


class Turn(Record):
    """All that a keeper has to say."""

    lease: float  # seconds that are asked for
    settles: Sequence[Settle] = ()
    submissions: Sequence[Submission] = ()
    adopted: Sequence[str] = ()  # workers of a former daemon at this place, whose jobs are ours now
    idle: Sequence[str] = ()  # a worker's name for each job that it can take
    looks: bool = False  # for hosts whose lease is over


class Handout(Record):
    """A job in the hands of a worker."""

    id: int
    token: int
    owner: str
    daemon: str  # whose lease it is in; "": ours
    failures: int
    limit: int  # attempts; 0: the pool's
    submitted: int  # ms since the epoch
    due: int  # the same
    scheduled: int | None
    payload: str


class Expired(Record):
    """A host that was not heard of: its jobs go to the others."""

    host: str
    daemon: str
    jobs: int
    lease: float


class Answer(Record):
    """What the server says to a turn. Nothing of it has happened if the lease was lost."""

    lost: bool = False
    jobs: Sequence[Handout] = ()
    held: Sequence[Handout] = ()  # of those adopted
    late: Sequence[tuple[int, int]] = ()  # settles that changed nothing: id, token
    accepted: Sequence[list[int] | str] = ()  # for each submission its ids, or why it was refused
    cancelled: Sequence[tuple[int, int]] = ()  # in hand here, and not to be any more
    expired: Sequence[Expired] = ()
    more: bool = False  # further jobs may be ready
    paused: bool = False
    due_in: float | None = None  # seconds until the next job is due that is not ready


class Link(Protocol):
    """One connection to a server, for one queue. A call takes bounded time.

    Raises :class:`~graced.queue.protocol.StorageError` where the server can't do it now,
    ServerGone if it is not there: then the link is closed.
    """

    def fileno(self) -> int:
        """Return the descriptor that turns readable when somebody rings; CLOSED, NO_RING."""

    def heard(self) -> list[str]:
        """Return what was rung: new, cancel, staged, paused, or ended:ID; never block."""

    @property
    def rings(self) -> bool:
        """Whether the server tells by itself what is new; else it has to be asked."""

    def join(self, host: HostName, lease: float, policy: Policy) -> list[Handout]:
        """Take a lease, or go on with this daemon's; return what is in hand at this place."""

    def turn(self, turn: Turn, policy: Policy) -> Answer:
        """Do all of a turn, or nothing."""

    def leave(self) -> None:
        """Give the lease back, unless something is in hand."""

    def maintain(self, keep: float) -> bool:
        """Do a step of what can wait; return whether there is more of it."""

    def adopt(self, name: str, wanted: Wanted, now: int) -> Standing:
        """Watch a schedule, as :func:`graced.queue.standing.adopted` has it."""

    def submit(self, payloads: Sequence[str], terms: Terms) -> list[int]:
        """Accept jobs, all or none. QueueError if they are refused."""

    def open_stream(self) -> int:
        """Begin a stream of jobs that shall be accepted all or none."""

    def stage(self, stream: int, payloads: Sequence[str], terms: Terms) -> list[int]:
        """Keep some jobs of a stream, out of everybody's sight."""

    def commit_stream(self, stream: int, terms: Terms) -> int:
        """Accept a stream; return how many jobs it has."""

    def abort_stream(self, stream: int) -> None:
        """Forget a stream that did not come to its end; maintain() does, where it is long."""

    def retry(self, ids: Sequence[int]) -> dict[int, str]:
        """Make jobs due now; return the refusals."""

    def drop(self, ids: Sequence[int]) -> dict[int, str]:
        """Forget jobs that nobody works on; return the refusals."""

    def cancel(self, ids: Sequence[int]) -> tuple[dict[int, str], int]:
        """Have jobs dead that are not done; return the refusals, and how many are dead now."""

    def pause(self, paused: bool) -> None:
        """Hand out no further jobs until it is said otherwise."""

    def look(self, id: int, *, watch: bool = False) -> dict[str, Any] | None:
        """Return a job's listing; with `watch` "ended:ID" is rung once it has ended."""

    def attempts(self, id: int) -> list[dict[str, Any]]:
        """Return what became of a job's hand-outs that came to nothing."""

    def page(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        """Return jobs in the order of their ids."""

    def counts(self) -> dict[str, Any]:
        """Return how many jobs are in each state, `oldest` and `paused`."""

    def warnings(self) -> list[str]:
        """Return what the server does not promise, as it is set: what is wrong, and what to do."""

    def status(self) -> dict[str, Any]:
        """Return engine, version, durability, warnings, hosts with their leases, counts."""

    def close(self) -> None:
        """Close the connection."""
