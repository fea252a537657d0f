"""A job as its keeper sees it: one row of the file, and the batch of changes to many.

Plain data; the rules are in :mod:`.dispatcher`, the SQL in :mod:`.store`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.queue.standing import Standing
    from graced.queue.terms import Terms

# Plain numbers, not an enum: sqlite3 binds exact ints three times as fast.
WAITING, RESERVED, TAKEN, DONE, DEAD, STAGED = range(6)

# What the world sees: a reserved job still waits.
NAMES = ("waiting", "waiting", "taken", "done", "dead", "staged")

OPEN = (WAITING, RESERVED, TAKEN)  # what still has to be done

SMALL = 512  # characters: a longer payload is read from the file when its job is handed out


# What is listed of each; None: of all. What is staged is not shown yet.
SHOWN: dict[str | None, tuple[int, ...]] = {
    None: (WAITING, RESERVED, TAKEN, DONE, DEAD),
    "waiting": (WAITING, RESERVED),
    "taken": (TAKEN,),
    "done": (DONE,),
    "dead": (DEAD,),
}


class Row:
    """One job. Times are milliseconds since the epoch, since they outlive a boot."""

    __slots__ = (
        "began",
        "cancelled",
        "due",
        "durable",
        "ended",
        "failures",
        "id",
        "limit",
        "owner",
        "payload",
        "priority",
        "schedule",
        "scheduled",
        "state",
        "submitted",
        "token",
        "unique",
    )

    def __init__(
        self,
        id: int,
        state: int,
        due: int,
        failures: int,
        limit: int,
        submitted: int,
        owner: str | None = None,
        priority: int = 0,
        token: int = 0,
        began: int | None = None,
        cancelled: int | None = None,
        unique: str | None = None,
        schedule: str | None = None,
        scheduled: int | None = None,
        payload: str | None = None,
    ) -> None:
        self.id = id
        self.state = state
        self.due = due  # when it may be taken
        self.failures = failures  # attempts that counted
        self.limit = limit  # attempts it has; 0: as many as the pool gives
        self.submitted = submitted
        self.owner = owner
        self.priority = priority  # among due ones the higher is taken first
        self.token = token  # grows whenever it is given an owner
        self.began = began  # when it was last handed out
        self.cancelled = cancelled  # when that was asked for, while it is in hand
        self.unique = unique  # no other open job has this key
        self.schedule = schedule
        self.scheduled = scheduled  # the instant of its schedule
        self.ended: int | None = None
        self.payload = payload  # None: not read from the file
        self.durable = False  # the file says that it is reserved for its owner

    @classmethod
    def submitted_on(
        cls,
        terms: Terms,
        id: int,
        state: int,
        due: int,
        now: int,
        owner: str | None,
        payload: str,
    ) -> Row:
        """Return a new job."""
        row = cls(id, state, due, 0, terms.max_attempts, now, owner, terms.priority)
        row.payload = payload
        row.unique = terms.unique
        if terms.schedule is not None:
            row.schedule = terms.schedule
        if terms.scheduled is not None:
            row.scheduled = round(terms.scheduled * 1000)
        return row

    @property
    def is_plain(self) -> bool:
        """Whether nothing but the usual is known of it, as of most new ones."""
        return self.token == 0 and self.unique is None and self.schedule is None

    def is_written(self) -> None:
        """It is in the file: a long payload need not be in memory."""
        if self.payload is not None and len(self.payload) > SMALL:
            self.payload = None

    @property
    def attempt(self) -> int:
        """The number of the attempt that is under way, or comes next."""
        return self.failures + 1


# One hand-out that came to nothing: job, token, attempt, began, ended, owner, counts, evidence
Attempt = tuple[int, int, int, "int | None", int, "str | None", bool, str]


class Batch:
    """All that has to be written before any request is answered."""

    __slots__ = (
        "attempts",
        "clock",
        "committed",
        "deleted",
        "dirty",
        "endings",
        "fresh",
        "gone",
        "keys",
        "paused",
        "staged",
        "standings",
        "streams",
    )

    def __init__(self) -> None:
        self.fresh: dict[int, Row] = {}  # not in the file yet, with payloads
        self.dirty: dict[int, Row] = {}  # in the file, changed
        self.endings: dict[int, tuple[str | None, str | None]] = {}  # id: result, evidence
        self.attempts: list[Attempt] = []
        self.keys: dict[str, int | None] = {}  # unique keys, and the open job that has each
        self.paused: bool | None = None
        self.standings: dict[str, Standing] = {}  # of schedules
        self.deleted: set[int] = set()
        self.gone: list[dict[str, int]] = []  # what can't be counted in the file any more
        self.streams: list[int] = []  # streams that began
        self.staged: list[tuple[int, list[Row]]] = []  # stream, its rows
        self.committed: list[tuple[int, int, int]] = []  # stream that ended, due, priority
        self.clock: int | None = None  # the queue's time, to be written with the rest

    def absorb(self, later: Batch) -> None:
        """Take over what changed later: of a row, the last change is the row itself."""
        self.fresh.update(later.fresh)
        self.dirty.update(later.dirty)
        self.endings.update(later.endings)
        self.attempts += later.attempts
        self.keys.update(later.keys)
        self.paused = self.paused if later.paused is None else later.paused
        self.standings.update(later.standings)
        self.deleted |= later.deleted
        self.gone += later.gone
        self.streams += later.streams
        self.staged += later.staged
        self.committed += later.committed
        self.clock = later.clock or self.clock

    def __bool__(self) -> bool:
        return bool(
            self.dirty
            or self.fresh
            or self.endings
            or self.deleted
            or self.streams
            or self.staged
            or self.committed
            or self.paused is not None
            or self.standings
        )
