"""The schedules: which of their instants have come, and what becomes of those that were missed.

The rules:

1.  A queue says where each of its schedules stands before anything is asked of it: up to when its
    instants are settled. One that is new there, or has another rule than it had, starts now.
2.  Each instant that comes is asked for once and in order. The queue keeps it together with the
    job, or says that it has it already: so there is one job for each, however many ask.
3.  An instant is missed if it came before this daemon looked after the schedule, or if it is seen
    late by :data:`LATE_S`. What becomes of those is said by ``missed``; what a clock that was set
    forward has passed over is no fault of ours, so ``skip`` is ``once`` then.
4.  A clock that was set back repeats nothing: instants go on once it is where it was. If it was
    set back by more than :data:`CORRECTED_S` and stays so for :data:`DOUBT_S`, it was wrong before,
    and the schedule starts anew.

Times are seconds since the epoch, of the wall clock. The instants are :mod:`graced.cron`'s.
"""

from __future__ import annotations

from graced import cron
from graced.core.actions import Say, SubmitInstant, Wanted, WatchSchedules
from graced.units import format_span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import tzinfo
    from typing import Any

    from graced.core.events import ClockSeen, InstantKept, SchedulesKnown
    from graced.core.fleet import Fleet
    from graced.settings import Schedule

LATE_S = 60  # seconds after which an instant is missed: the process or the machine slept
MOST = 1000  # instants of one schedule that are made up for, or are asked for at once
STEP_S = 1.0  # seconds by which a clock that is set differs
CORRECTED_S = 3 * 3600  # seconds, as cron(8) has it
DOUBT_S = 600  # seconds that a clock gets to find out what time it is


class _Watched:
    """One schedule, and where it stands."""

    def __init__(self, settings: Schedule, zone: tzinfo, wall: int) -> None:
        self.settings = settings
        self.rule = cron.rule_of(settings)
        self.zone = zone
        self.here_since = wall  # this daemon looks after it
        self.since: int | None = None  # where it began; None: the queue has not said yet
        self.last: int | None = None  # the last instant that the queue has kept
        self.asked: int | None = None  # the last one that was asked for
        self.pending: set[int] = set()  # asked for, and not kept yet
        self.next: int | None = None  # when to look again
        self.in_doubt: int | None = None  # until when a clock may be wrong

    @property
    def key(self) -> tuple[str, str]:
        """What makes it another schedule, which starts anew, if it changes."""
        return self.settings.pool, rule_text(self.settings)

    @property
    def after(self) -> int:
        """Up to when its instants are settled."""
        assert self.since is not None
        return max(t for t in (self.since, self.last, self.asked) if t is not None)

    def look_ahead(self, wall: int) -> None:
        full = len(self.pending) >= MOST
        self.next = None if full else cron.following(self.rule, self.zone, max(self.after, wall))

    def shown(self, instant: int) -> str:
        return cron.shown(instant, self.zone)


def rule_text(schedule: Schedule) -> str:
    """Return what its instants follow from, as it is kept in the queue."""
    if schedule.cron is None:
        return f"every {schedule.every:g} s"
    return f"{' '.join(schedule.cron.split())} {schedule.zone}"


class Schedules:
    """All schedules of a daemon. ``zone`` finds a time zone by its name."""

    def __init__(self, fleet: Fleet, zone: Callable[[str], tzinfo]) -> None:
        self._fleet = fleet
        self._zone = zone
        self._watched: dict[str, _Watched] = {}
        self._adopted: Mapping[str, Schedule] = {}
        self._removed: set[str] = set()  # were looked after, until a reload removed them
        self._offset: float | None = None  # from the clock that is never set to the wall's

    def next_instant(self) -> float | None:
        """When the wall clock is to be looked at; 0: at once; None: there is nothing to do."""
        proposed = self._fleet.settings.schedules
        if proposed is not self._adopted and (proposed or self._adopted):
            return 0.0
        times = [w.next for w in self._watched.values() if w.next is not None]
        return min(times, default=None)

    # -- events ---------------------------------------------------------------

    def saw_clock(self, event: ClockSeen) -> None:
        """Ask for all that has come."""
        wall, step = int(event.wall), self._step(event)
        if step <= -STEP_S:
            self._set_back(wall, round(-step))
        if self._fleet.settings.schedules is not self._adopted:
            self._adopt(wall)
        for watched in self._watched.values():
            self._look(watched, wall, forward=step >= STEP_S)

    def _step(self, event: ClockSeen) -> float:
        offset = event.wall - event.elapsed
        step = 0.0 if self._offset is None else offset - self._offset
        self._offset = offset
        return step

    def known(self, event: SchedulesKnown) -> None:
        """A queue has said where its schedules stand."""
        for name, (since, last) in event.standings.items():
            watched = self._watched.get(name)
            if watched is not None and watched.settings.pool == event.pool:
                waited = watched.since is None
                watched.since, watched.last = since, last
                self._look(watched, int(event.wall), waited=waited)

    def kept(self, event: InstantKept) -> None:
        """A queue has kept an instant."""
        watched = self._watched.get(event.schedule)
        if watched is None or event.instant not in watched.pending:
            return
        watched.pending.discard(event.instant)
        watched.last = max(event.instant, watched.last or 0)
        if event.how == "overlaps":
            job = f"job {event.job} of an earlier one waits or is in hand"
            instant = watched.shown(event.instant)
            self._say(watched, "info", f"no job for {instant}: {job} (overlap: skip)")
        if watched.next is None:
            self._look(watched, int(event.wall))

    # -- the configuration ----------------------------------------------------

    def _adopt(self, wall: int) -> None:
        """Look after the schedules that are in force now."""
        before, self._watched = self._watched, {}
        anew: dict[str, Wanted] = {}  # a queue that hosts share does not forget what one removes
        self._adopted = self._fleet.settings.schedules
        for name, settings in self._adopted.items():
            watched = _Watched(settings, self._zone(settings.zone), wall)
            old = before.get(name)
            if old is not None and old.key == watched.key:
                watched, old.settings = old, settings
            elif old is not None or name in self._removed:
                anew[name] = Wanted(rule_text(settings), wall)
            self._watched[name] = watched
        self._removed = (self._removed | before.keys()) - self._watched.keys()
        pools = [w.settings.pool for w in (*before.values(), *self._watched.values())]
        for pool in dict.fromkeys(pools):
            self._tell(pool, **anew)

    def _tell(self, pool: str, **changed: Wanted) -> None:
        """Tell a queue which schedules it has."""
        of_pool = [w.settings for w in self._watched.values() if w.settings.pool == pool]
        wanted = {s.name: changed.get(s.name) or Wanted(rule_text(s)) for s in of_pool}
        self._fleet.out.append(WatchSchedules(pool, wanted))

    # -- instants -------------------------------------------------------------

    def _look(
        self, watched: _Watched, wall: int, *, forward: bool = False, waited: bool = False
    ) -> None:
        """Ask for the instants that have come; for the queue to say something, if it ``waited``."""
        if watched.since is None or self._is_in_doubt(watched, wall):
            return
        if len(watched.pending) < MOST:
            found = cron.latest(watched.rule, watched.zone, watched.after, wall, MOST)
            if found:
                present = watched.here_since if waited else max(watched.here_since, wall - LATE_S)
                missed = [instant for instant in found if instant <= present]
                self._ask_for(watched, missed, found[len(missed) :], forward=forward)
        watched.look_ahead(wall)

    def _ask_for(
        self, watched: _Watched, missed: list[int], come: list[int], *, forward: bool
    ) -> None:
        kept = self._made_up_for(watched, missed, forward=forward) if missed else []
        wanted = kept + come
        watched.asked = (missed + come)[-1]
        name, pool, jitter = watched.settings.name, watched.settings.pool, watched.settings.jitter
        for instant in wanted:
            watched.pending.add(instant)
            delay = jitter * self._fleet.context.jitter()
            self._fleet.out.append(SubmitInstant(pool, name, instant, delay))
        if not wanted:  # nor after a restart
            watched.since = watched.asked
            self._tell(pool, **{name: Wanted(rule_text(watched.settings), watched.since)})

    def _made_up_for(self, watched: _Watched, missed: list[int], *, forward: bool) -> list[int]:
        """Return which of the missed instants have a job yet, and say why the others have none."""
        policy = watched.settings.missed
        present = [t for t in missed if t > watched.here_since]
        if policy == "all":
            kept = missed
        elif policy == "once" or (forward and present):
            kept = missed[-1:]
        else:
            kept = []
        why = "while no daemon was there" if not present else "while the daemon or its host slept"
        if present and forward:
            why = "as the clock was set forward"
        self._say(watched, "warning", f"{_counted(watched, missed)} {why}; {_fate(kept, missed)}")
        return kept

    # -- clocks that are set --------------------------------------------------

    def _set_back(self, wall: int, step: int) -> None:
        if not self._watched:
            return
        span = format_span(step)
        self._fleet.say("warning", f"the clock was set back by {span}: schedules repeat nothing")
        for watched in self._watched.values():
            watched.here_since -= step
            if watched.since is not None and watched.since > wall:
                watched.since -= step
                rule = rule_text(watched.settings)
                name = watched.settings.name
                self._tell(watched.settings.pool, **{name: Wanted(rule, watched.since)})

    def _is_in_doubt(self, watched: _Watched, wall: int) -> bool:
        """Whether its instants are so far ahead that either the clock was wrong then, or is now."""
        if watched.after <= wall + CORRECTED_S:
            watched.in_doubt = None
            return False
        if watched.in_doubt is None:
            watched.in_doubt = watched.next = wall + DOUBT_S
            ahead = watched.shown(watched.after)
            self._say(
                watched,
                "warning",
                f"was kept up to {ahead}, and the clock shows {watched.shown(wall)}:"
                f" it starts anew if the clock still does in {format_span(DOUBT_S)}",
            )
        elif wall >= watched.in_doubt:
            rule = rule_text(watched.settings)
            watched.since, watched.last, watched.asked, watched.in_doubt = None, None, None, None
            watched.next = None
            watched.pending.clear()
            name = watched.settings.name
            self._tell(watched.settings.pool, **{name: Wanted(rule, wall, forget=True)})
        return True

    # -- what people see ------------------------------------------------------

    def picture(self, wall: float) -> dict[str, Any]:
        """Return what ``graced schedules`` tells."""
        return {name: self._pictured(watched, wall) for name, watched in self._watched.items()}

    def _pictured(self, watched: _Watched, wall: float) -> dict[str, Any]:
        now = int(wall)
        after = watched.here_since if watched.since is None else watched.after
        due = min(watched.pending, default=cron.following(watched.rule, watched.zone, after))
        return {
            "pool": watched.settings.pool,
            "last": watched.last,
            "next": cron.following(watched.rule, watched.zone, max(after, now)),
            "late": 0.0 if due is None else round(max(wall - due, 0.0), 3),
        }

    def _say(self, watched: _Watched, level: str, text: str) -> None:
        settings = watched.settings
        self._fleet.out.append(Say(level, f"schedule {settings.name}: {text}", settings.pool))


def _counted(watched: _Watched, missed: list[int]) -> str:
    """Return which instants were missed, in words."""
    first, last = watched.shown(missed[0]), watched.shown(missed[-1])
    if len(missed) == 1:
        return f"{first} was missed"
    is_all = cron.following(watched.rule, watched.zone, watched.after) == missed[0]
    count = f"{len(missed)} instants{'' if is_all else ' or more'}"
    return f"{count} from {first} to {last} were missed"


def _fate(kept: list[int], missed: list[int]) -> str:
    if not kept:
        return "passed over (missed: skip)"
    if len(kept) == len(missed):
        return "submitting it now" if len(kept) == 1 else "submitting all of them now (missed: all)"
    return "submitting the last one now"
