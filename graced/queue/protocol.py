"""What a client asks of a queue, and a keeper of its engine, whichever that is.

Any engine passes ``tests/queue/contract.py``. Which there are is said in :mod:`.engines`. Here
are names and rules only.
"""

from __future__ import annotations

from graced.exitcodes import CONFIG, NO_DAEMON, ReportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, Protocol

    from graced.queue.address import Library
    from graced.queue.job import Outcome
    from graced.queue.plan import KeeperPlan
    from graced.queue.policy import Policy
    from graced.queue.standing import Standing, Wanted
    from graced.queue.terms import Terms
    from graced.queue.timing import Clock
    from graced.settings import Pool
else:
    Protocol = object

STATES = ("waiting", "taken", "done", "dead")
NO_SUCH_JOB = "no such job"  # why a change of one is refused by any engine


class QueueError(ReportedError):
    """The queue refused; the text says why and what to do."""


class NotPermitted(QueueError):
    """It is not for this user."""


class QueueGone(QueueError):
    """No keeper has the queue at the moment; try again later."""

    exit_code = NO_DAEMON


class AnswerLost(QueueGone):
    """The keeper went away before it answered: what it was asked for may have been done."""


class StorageError(QueueError):
    """What keeps the queue cannot be used now: full, read-only, locked, corrupt, or gone.

    `full`: there is no room.
    """

    def __init__(self, text: str, *, full: bool = False) -> None:
        super().__init__(text)
        self.full = full


class ServerGone(StorageError):
    """The server that keeps the queue can't be reached; what was asked may have been done."""

    def lost(self) -> AnswerLost:
        """Return what to raise where that matters to whoever has asked."""
        return AnswerLost(f"{self}; it is not known whether it was done")


class ClientMissing(QueueError):
    """The client library of an engine is not installed."""

    exit_code = CONFIG


class QueueLockedError(StorageError):
    """Another process has the queue; ``holder`` is what it wrote about itself."""

    def __init__(self, text: str, holder: str) -> None:
        super().__init__(text)
        self.holder = holder


class QueueView(Protocol):
    """What ``graced jobs`` asks for, to list them."""

    shared: bool  # it may be left open: others have the queue meanwhile

    def wait(self, job: int, timeout: float | None = None) -> dict[str, Any]:
        """Return the job's listing once it is done, dead or gone; TimeoutError after seconds.

        Where no keeper has the queue: as it is.
        """

    def close(self) -> None:
        """Close the connection."""

    def jobs(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        """Return a page of jobs in the order of their ids, beginning after one."""

    def job(self, id: int) -> dict[str, Any] | None:
        """Return a job's listing with its attempts one by one; None if there is no such job."""


class ClientQueue(QueueView, Protocol):
    """What ``graced submit``, ``graced jobs`` and :class:`graced.Queue` ask for."""

    def submit(self, payloads: Sequence[str], terms: Terms) -> Sequence[int]:
        """Accept all the payloads durably, or none: return their ids, or raise QueueError.

        A single one whose unique key is that of an open job: return the id of that.
        """

    def stream(self, payloads: Iterable[str], terms: Terms) -> list[range]:
        """Accept any number of payloads, all or none, in bounded memory; return their ids."""

    def retry(self, ids: Sequence[int]) -> dict[int, str]:
        """Make jobs due now, dead ones with all their attempts; return the refusals by id."""

    def drop(self, ids: Sequence[int]) -> dict[int, str]:
        """Forget jobs that are in no worker's hands; return the refusals by id."""

    def cancel(self, ids: Sequence[int]) -> dict[int, str]:
        """Have jobs dead that are not done: now, or once their worker is interrupted."""

    def pause(self, paused: bool) -> None:
        """Hand out no further jobs until it is said otherwise, over restarts."""

    def counts(self) -> dict[str, Any]:
        """Return how many jobs there are in each state, and the age of the oldest due one."""

    def hang_up(self) -> None:
        """Wake up threads that sleep on the connection: nothing comes any more."""


# What a keeper asks of its engine


class Accepted(list[int]):
    """The ids of jobs that are accepted, or refused, with the next commit alone."""

    refusal: QueueError | str | None = None

    def tell(self, told: list[int] | QueueError | str) -> None:
        """Take the ids, or the reason why there are none."""
        if isinstance(told, (QueueError, str)):
            self.refusal = told
        else:
            self[:] = told


class Row(Protocol):
    """A job, as it is handed out."""

    id: int
    owner: str | None
    submitted: int  # ms of the queue's clock
    due: int  # ms of it, too: when it could be handed out first
    token: int  # another one for each time that it is handed out
    scheduled: int | None  # ms since the epoch: the instant of its schedule

    @property
    def attempt(self) -> int:
        """The number of the attempt that is under way, or comes next."""


class Consumer(Protocol):
    """A worker, as the queue knows it."""

    rows: dict[int, Any]  # handed to it, and not settled; by id


class Dispatcher(Protocol):
    """The rules of one open queue: which worker gets which job, and what becomes of it.

    Nothing is true before the storage has committed it. Times are ms of the queue's clock.
    """

    @property
    def consumers(self) -> Mapping[str, Consumer]:
        """All workers that have, or may have, a job in hand."""

    def join(self, name: str, holds: Iterable[tuple[int, int]], now: int) -> None:
        """A worker has connected and says what it has in hand, by id and token.

        It has seen nothing else.
        """

    def ask(self, name: str, now: int) -> Row | None:
        """A worker is idle; return a job that can be handed out at once."""

    def want(self, name: str, count: int, now: int) -> None:
        """A worker takes so many jobs at once, in all, until it says otherwise; 0: no more."""

    def put_back(self, name: str, id: int, token: int, now: int) -> None:
        """A worker has not begun a job, and won't."""

    def settle(
        self, name: str, id: int, token: int, outcome: Outcome, more: bool, now: int
    ) -> Row | None:
        """A job ended; return the next one if it can be handed out at once."""

    def leave(self, name: str, now: int) -> None:
        """A worker has nothing in hand and wants nothing."""

    def absent(self, name: str, now: int) -> None:
        """A worker's connection is gone: hand it nothing until it joins again."""

    def withhold(self, name: str) -> None:
        """A worker is about to be interrupted: hand it nothing any more."""

    def requeue(self, row: Any, now: int) -> None:
        """A job could not be handed out: its worker has not seen it."""

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

        Return the jobs that it had in hand and that wait again.
        """

    def payload(self, row: Any) -> str:
        """Return the payload of a job."""

    def submit(self, payloads: Sequence[str], terms: Terms, now: int) -> Sequence[int]:
        """Accept jobs; return their ids. QueueError if they are too many.

        A single one whose unique key is that of an open job: return the id of that. One that
        stands for an instant of a schedule is accepted if that instant is later than the last
        one of that schedule, which it is from now on; else return no ids.
        """

    def schedules(self, wanted: Mapping[str, Wanted], now: int) -> dict[str, Standing]:
        """Watch schedules: return where they stand, as :func:`.standing.adopted` has it.

        ``now`` is seconds of the wall clock. An engine that one daemon has alone also forgets the
        rules of all others, which are no more.
        """

    def open_stream(self) -> int:
        """Begin a stream of jobs that shall be accepted all or none."""

    def stage(self, stream: int, payloads: Sequence[str], terms: Terms, now: int) -> Sequence[int]:
        """Keep some jobs of a stream, not to be seen yet; return their ids."""

    def commit_stream(self, stream: int, terms: Terms, now: int) -> int:
        """Accept a stream, on the terms of all its jobs; return how many it has."""

    def abort_stream(self, stream: int) -> None:
        """Forget a stream that did not come to its end."""

    def retry(self, ids: Iterable[int], now: int) -> dict[int, str]:
        """Make jobs due now, dead ones with all their attempts; return the refusals."""

    def drop(self, ids: Iterable[int]) -> dict[int, str]:
        """Forget jobs that are in no worker's hands; return the refusals."""

    def cancel(self, ids: Iterable[int], now: int) -> dict[int, str]:
        """Have jobs dead that are not done; return the refusals.

        One in hand is dead once its worker has let go of it, whatever that says but "done".
        """

    def cancelling(self) -> list[Any]:
        """Return the rows in hand whose workers are to be told, since the last call."""

    def pause(self, paused: bool, now: int) -> None:
        """Hand out no further jobs until it is said otherwise, over restarts."""

    def ended(self) -> list[tuple[int, str]]:
        """Return the jobs that are done, dead, cancelled or gone since the last call."""

    def counted(self) -> tuple[int, Mapping[str, int]]:
        """Return how many jobs were `submitted`, are `done` and `dead`, and attempts have `failed`.

        As far as it is committed, since a beginning of which all that is known is a number: with
        another number it is another beginning. An attempt has failed if it counts, whatever
        becomes of its job then.
        """


class Storage(Protocol):
    """What a keeper's queue is kept in: open or not, writable or not, when to try again."""

    clock: Clock
    trouble: str | None  # why there can be no new jobs

    def refusal(self) -> str | None:
        """Return why there can be no new jobs at this moment; what is soon seen is looked at."""

    @property
    def dispatcher(self) -> Dispatcher | None:
        """Which worker gets which job; None while it is not open."""

    @property
    def wants_opening(self) -> bool:
        """Whether it is closed, and it is time to try."""

    @property
    def write_paused(self) -> bool:
        """Whether writing has failed, and it is too early to try again."""

    def fileno(self) -> int:
        """Return the descriptor that turns readable when others have changed it, or -1."""

    def rang(self) -> None:
        """Hear what others have changed."""

    def open(self) -> bool:
        """Try to open it; False if it is not to be had now."""

    def close(self) -> int:
        """Leave it as the next keeper wants it; return how much could not be written."""

    def apply(self, policy: Policy) -> None:
        """Go by other settings from now on."""

    def resume_writing(self) -> None:
        """Write at the next opportunity, whatever went wrong before."""

    def sleep(self, *, idle: bool) -> float:
        """Return how many seconds nothing has to be done about it."""

    def patience(self) -> float:
        """Return for how many seconds to hear more before the next commit."""

    def next_due(self) -> int | None:
        """Return the moment of the queue's clock at which something has to be done."""

    def commit(
        self, dispatcher: Any, listen: Callable[[], bool] | None, refuse: Callable[[str], None]
    ) -> Sequence[Row] | None:
        """Write all that changed; return what may be handed out, None if it can't be written."""

    def written(self) -> None:
        """It could be written: see whether all is well again."""

    def read_ahead(self, dispatcher: Any) -> bool:
        """Read on where few waiting jobs are in memory; whether that is worth a commit."""

    def maintain(self, dispatcher: Any, *, idle: bool) -> None:
        """Do a step of what can wait."""

    def failed(self, error: StorageError) -> None:
        """It could not be used: say so, and let some time pass."""

    def listing(self, id: int) -> dict[str, Any] | None:
        """Return a job's listing, None if there is no such job."""

    def job(self, id: int) -> dict[str, Any] | None:
        """Return the same with all of its attempts. StorageError if it can't be read."""

    def page(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]] | int:
        """Return jobs in the order of their ids. StorageError if it can't be read.

        Where none of the next ones is in the state: the id after which to ask again, later.
        """

    def counts(self) -> dict[str, Any]:
        """Return how many jobs are in each state, and `paused`; nothing while it is not open."""


class Engine(Protocol):
    """What :mod:`.engines` finds for the scheme of a URL: a module of the engine's package."""

    LIBRARY: Library | None  # without which nothing of it can be opened
    ADVICE: str  # which URLs may be written
    URL_PATTERN: str  # a regular expression

    def check_url(self, url: str) -> object:
        """Raise QueueURLError if a URL leads to no queue."""

    def queue_of(self, url: str, pool: str) -> str:
        """Return what a pool's queue is called in what its URL leads to."""

    def file_of(self, url: str | None, pool: str, state_dir: str) -> str:
        """Return the file that a queue is kept in, or beside which its workers' locks are.

        Raises QueueURLError.
        """

    def described(self, url: str | None, file: str) -> tuple[str, str]:
        """Return what people are told it is kept in, and the URL by which any pool can have it."""

    def open_storage(self, plan: KeeperPlan, tell: Callable[[tuple[Any, ...]], None]) -> Storage:
        """Return the queue as its keeper has it. ``tell`` hears ("degraded", why), ("well",)."""

    def script(self, url: str) -> str:
        """Return what `graced queue init` does to a server."""

    def init(self, url: str) -> str:
        """Prepare a server, or bring it up to date; return where. StorageError, ClientMissing."""

    def status(self, url: str, pool: str, file: str) -> dict[str, Any]:
        """Return how a queue is kept, which hosts share it, counts. StorageError, ClientMissing."""

    def keeper_of(self, file: str) -> str | None:
        """Return the socket of the keeper that has a queue, if there is one."""

    def open_offline(self, file: str, pool: Pool) -> ClientQueue:
        """Open a queue that no keeper has. Raises QueueLockedError, StorageError."""

    def view_offline(self, file: str, pool: Pool) -> QueueView:
        """Look at a queue that no keeper has, and leave it free."""
