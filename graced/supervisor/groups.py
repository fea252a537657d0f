"""What is left of dead workers' process groups, until nothing is.

A group was sent SIGKILL when its worker died, but a process may take its time to
die. The job that it worked on must not run again before. What does nothing any more, or
can't be ended by us, is not waited for: zombies that another process has yet to reap, and
processes that have become another user's. A stop waits for the rest no longer than MAX_STOP_WAIT_S,
nor after another SIGINT: what was in hand stays taken, and the next start looks after it.
"""

from __future__ import annotations

from graced import clock
from graced.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from graced.log.logger import Log

FIRST_LOOK_S = 0.05  # seconds until a group is looked at again: its last process may be no child
MAX_PAUSE_S = 1.0  #   of ours; each look comes later, up to this
WARN_AFTER_S = 2.0  # seconds after which it is said what is waited for
MAX_STOP_WAIT_S = 10.0  # seconds that a stop waits


class _DeadWorker:
    """The groups of one worker, and what to do when they are empty."""

    __slots__ = ("child", "done", "given_up", "groups", "label", "left", "since")

    def __init__(
        self, label: str, groups: list[int], child: int | None, done: Callable[[], None]
    ) -> None:
        self.label = label
        self.groups = groups
        self.child = child
        self.done = done
        self.since = clock.monotonic()
        self.given_up = False
        self.left: list[int] = []  # processes that it has been waiting for so long that it was told


class ProcessGroups:
    """The groups that are not empty yet."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._waiting: list[_DeadWorker] = []
        self._look_at: float | None = None
        self._pause = FIRST_LOOK_S
        self._stop = False
        self._foreign: set[int] = set()  # processes of others that have been told

    @property
    def closed(self) -> bool:
        """Whether nothing is left that is waited for."""
        return all(dead.given_up for dead in self._waiting)

    def next_deadline(self) -> float | None:
        """When to look again, or None."""
        return self._look_at

    def words(self) -> str | None:
        """Return what is waited for, if it takes long."""
        left = [pid for dead in self._waiting for pid in dead.left]
        return f"waiting for {_named(left)}" if left else None

    def when_empty(
        self, label: str, groups: Iterable[int], child: int | None, done: Callable[[], None]
    ) -> None:
        """Call ``done`` once no process of these groups is left; mostly that is at once.

        ``child``: the worker itself, where it could not be killed.
        """
        dead = _DeadWorker(label, [group for group in groups if group], child, done)
        if child is None and all(process.group_is_empty(group) for group in dead.groups):
            done()
            return
        self._waiting.append(dead)
        self._pause = FIRST_LOOK_S
        self._look_at = clock.monotonic() + FIRST_LOOK_S

    def stop_waiting(self) -> float:
        """The daemon stops, all workers are gone: wait no longer than MAX_STOP_WAIT_S from now on.

        Return the seconds that this may take, at the first call.
        """
        if self._stop:
            return 0.0
        self._stop = True
        for dead in self._waiting:
            dead.since = clock.monotonic()
        return MAX_STOP_WAIT_S if self._waiting else 0.0

    def give_up(self) -> None:
        """Wait for nothing any more."""
        for dead in self._waiting:
            self._give_up(dead)

    def tick(self, now: float) -> None:
        """See which groups are empty by now."""
        if self._look_at is None or now < self._look_at:
            return
        for dead in self._waiting:
            dead.groups = [group for group in dead.groups if not process.group_is_empty(group)]
        left = self._living()
        for dead in self._waiting[:]:
            if pids := [pid for pid in left if left[pid] in dead.groups or pid == dead.child]:
                self._wait_for(dead, pids, now)
            else:
                self._waiting.remove(dead)
                dead.done()
        self._pause = min(self._pause * 2, MAX_PAUSE_S)
        self._look_at = now + self._pause if self._waiting else None

    def _living(self) -> dict[int, int]:
        """Return the processes that are waited for, and their groups."""
        children = {dead.child for dead in self._waiting}
        groups = {group for dead in self._waiting for group in dead.groups}
        left = process.living_in(groups) if groups else {}
        left |= {child: 0 for child in children if child and _lives(child)}
        foreign = {pid for pid in left if pid not in children and process.is_foreign(pid)}
        for pid in foreign - self._foreign:
            self._log.warning(
                f"{_named([pid])} of a dead worker's process group has become another user's and "
                "can't be killed; it is not waited for"
            )
        self._foreign |= foreign
        return {pid: group for pid, group in left.items() if pid not in foreign}

    def _wait_for(self, dead: _DeadWorker, pids: list[int], now: float) -> None:
        if now - dead.since >= WARN_AFTER_S:
            if not dead.left:
                self._log.warning(
                    f"worker {dead.label} was sent SIGKILL, but {_named(pids)} is still there; "
                    "what it had in hand waits until that has ended"
                )
            dead.left = pids
        if self._stop and now - dead.since >= MAX_STOP_WAIT_S:
            self._give_up(dead)

    def _give_up(self, dead: _DeadWorker) -> None:
        if not dead.given_up:
            dead.given_up, dead.left = True, []
            self._log.error(
                f"worker {dead.label}: not waiting any longer for what it has left; "
                "what it had in hand stays taken until the next start"
            )


def _lives(pid: int) -> bool:
    return process.state(pid) not in (None, "Z", "X")


def _named(pids: list[int]) -> str:
    return ", ".join(f"pid {pid} ({process.name_of(pid)}, {process.state(pid)})" for pid in pids)
