"""Which instants have a job: scripts and random histories, with a queue that goes by its rules."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from graced import clock, cron
from graced.core import actions as ac
from graced.core import events as ev
from graced.core.daemon import Daemon
from graced.queue.standing import Standing, adopted
from graced.settings import Pool, Schedule, Settings

NOON = 1_790_000_000 // 86400 * 86400 + 12 * 3600  # of a day in UTC
HOUR = 3600


class Queue:
    """What outlives daemons: the jobs, and where the schedules stand."""

    def __init__(self, *, is_shared: bool = False) -> None:
        self.is_shared = is_shared  # what one host removes others may have
        self.standings: dict[str, Standing] = {}
        self.jobs: list[tuple[str, int]] = []

    def watch(self, wanted: dict[str, ac.Wanted], now: int) -> dict[str, tuple[int, int | None]]:
        for name in () if self.is_shared else self.standings.keys() - wanted.keys():
            self.standings[name] = self.standings[name].replace(rule="")
        for name, w in wanted.items():
            told = (w.rule, w.since, w.forget)
            self.standings[name] = adopted(self.standings.get(name), told, now)
        return {name: (self.standings[name].since, self.standings[name].last) for name in wanted}

    def submit(self, name: str, instant: int) -> str:
        standing = self.standings[name]
        if not standing.takes(instant):
            return "known"
        self.standings[name] = standing.replace(last=instant)
        self.jobs.append((name, instant))
        return "made"


class Play:
    """A daemon, its clock and its queue. The queue answers only while it is open."""

    def __init__(self, queue: Queue | None = None, wall: float = NOON, **keys: Any) -> None:
        self.queue = queue or Queue()
        self.wall, self.elapsed = wall, 0.0
        self.said: list[str] = []
        self.open = True
        self.asked: list[ac.WatchSchedules | ac.SubmitInstant] = []
        self.configure(**keys)
        self.start()

    def configure(self, **keys: Any) -> None:
        given = {"every": 600.0, **keys}
        if "cron" in given:
            given["every"] = None
        schedule = Schedule("s", **{"pool": "jobs", **given})
        self.settings = Settings(pools={"jobs": Pool("jobs")}, schedules={"s": schedule})

    def start(self) -> None:
        """Start a daemon, after the former was killed."""
        self.daemon = Daemon(self.settings, lambda: 0.5, self.elapsed, clock.zone)
        self.asked.clear()
        self.look()

    def reload(self, **keys: Any) -> None:
        self.configure(**keys)
        self.daemon.settings = self.settings  # as a commit does
        self.look()

    def look(self) -> None:
        """Let the loop turn until nothing is due."""
        for _ in range(20):
            due = self.daemon.next_instant()
            if due is None or due > self.wall:
                break
            self.tell(ev.ClockSeen(self.wall, self.elapsed))
            self.answer()
        else:
            pytest.fail("the loop never sleeps")

    def answer(self) -> None:
        while self.open and self.asked:
            match self.asked.pop(0):
                case ac.WatchSchedules(pool, wanted):
                    found = self.queue.watch(dict(wanted), int(self.wall))
                    self.tell(ev.SchedulesKnown(pool, found, self.wall))
                case ac.SubmitInstant(_, name, instant):
                    kept = self.queue.submit(name, instant)
                    self.tell(ev.InstantKept(name, instant, kept, 1, self.wall))

    def tell(self, event: ev.Event) -> None:
        for action in self.daemon.handle(event, self.elapsed):
            match action:
                case ac.Say(_, text):
                    self.said.append(text)
                case ac.WatchSchedules() | ac.SubmitInstant():
                    self.asked.append(action)

    def sleep(self, seconds: float) -> None:
        """Let time pass; the timer wakes the daemon at each instant, and nothing else does."""
        end = self.elapsed + seconds
        while True:
            due = self.daemon.next_instant()
            if due is None or due - self.wall > end - self.elapsed:
                break
            self.pass_by(max(due - self.wall, 0.0))
            self.look()
        self.pass_by(end - self.elapsed)

    def pass_by(self, seconds: float) -> None:
        """Let time pass in which the daemon is not there, or stopped."""
        self.wall += seconds
        self.elapsed += seconds

    def set_clock(self, by: float) -> None:
        """Set the clock: a timer tells."""
        self.wall += by
        self.tell(ev.ClockSeen(self.wall, self.elapsed))
        self.answer()
        self.look()

    @property
    def minutes(self) -> list[int]:
        """The instants that have a job, in minutes from noon."""
        return [(instant - NOON) // 60 for _, instant in self.queue.jobs]


def test_a_new_schedule_starts_now_and_has_a_job_for_each_instant() -> None:
    play = Play()
    play.sleep(30 * 60)
    assert play.minutes == [10, 20, 30]
    assert play.daemon.next_instant() == NOON + 40 * 60
    assert play.said == []


@pytest.mark.parametrize(
    ("missed", "minutes", "said"),
    [
        ("skip", [10, 50], "passed over (missed: skip)"),
        ("once", [10, 40, 50], "submitting the last one now"),
        ("all", [10, 20, 30, 40, 50], "submitting all of them now (missed: all)"),
    ],
)
def test_what_fell_due_while_no_daemon_was_there(
    missed: str, minutes: list[int], said: str
) -> None:
    play = Play(missed=missed)
    play.sleep(15 * 60)
    play.pass_by(30 * 60)
    play.start()
    play.start()  # once more: it was passed over for good
    play.sleep(5 * 60)
    assert play.minutes == minutes
    [line] = play.said
    assert line == (
        "schedule s: 3 instants from 2026-09-21T12:20:00+00:00 to 2026-09-21T12:40:00+00:00"
        f" were missed while no daemon was there; {said}"
    )


def test_the_last_thousand_are_made_up_for_at_most() -> None:
    play = Play(every=1.0, missed="all")
    play.pass_by(40 * 86400)
    play.start()
    now = int(play.wall)
    assert [instant for _, instant in play.queue.jobs] == [*range(now - 999, now + 1)]
    assert "1000 instants or more" in play.said[-1]
    play.set_clock(7200)
    assert "940 instants or more" in play.said[-1], "the last minute is not late"


def test_a_queue_that_opens_late_forgets_nothing() -> None:
    play = Play(missed="skip")
    play.sleep(10 * 60)
    play.open = False
    play.start()
    play.sleep(20 * 60)
    late = play.daemon.schedules
    assert late is not None
    assert late.picture(play.wall)["s"] == {
        "pool": "jobs", "last": None, "next": NOON + 40 * 60, "late": 600.0,
    }  # fmt: skip
    play.reload(missed="skip", jitter=5.0)
    play.open = True
    play.answer()
    play.look()
    assert play.minutes == [10, 20, 30]
    assert play.said == []


def test_a_queue_that_takes_nothing_for_long_is_asked_for_a_thousand_at_most() -> None:
    play = Play(every=1.0)
    play.open = False
    play.sleep(1500)
    assert len(play.asked) == 1000
    play.open = True
    play.answer()
    play.sleep(10)
    instants = [instant - NOON for _, instant in play.queue.jobs]
    assert instants[:1000] == [*range(1, 1001)]
    assert instants[-10:] == [*range(1501, 1511)]


def test_a_daemon_that_slept_goes_by_missed() -> None:
    play = Play(missed="skip")
    play.pass_by(35 * 60)
    play.look()
    assert play.minutes == []
    assert "while the daemon or its host slept; passed over" in play.said[-1]


@pytest.mark.parametrize("missed", ["skip", "once"])
def test_a_clock_that_is_set_forward_forgets_nothing(missed: str) -> None:
    play = Play(cron="30 12 * * *", missed=missed)
    play.sleep(10 * 60)
    play.set_clock(HOUR)
    play.sleep(86400)
    assert play.minutes == [30, 30 + 1440]
    assert "as the clock was set forward; submitting it now" in play.said[-1]


def test_a_clock_that_is_set_back_repeats_nothing() -> None:
    play = Play()
    play.sleep(30 * 60)
    play.set_clock(-HOUR)
    play.sleep(HOUR + 20 * 60)
    assert play.minutes == [10, 20, 30, 40, 50]
    assert "set back by 1 h 0 min: schedules repeat nothing" in play.said[0]


def test_a_clock_that_is_set_back_forgets_nothing_that_was_still_to_come() -> None:
    play = Play(cron="30 11 * * *", missed="skip")
    play.set_clock(-HOUR)
    play.sleep(HOUR)
    assert play.minutes == [-30]
    play = Play(cron="30 11 * * *")
    play.set_clock(-HOUR)
    play.start()
    play.sleep(HOUR)
    assert play.minutes == [-30]


def test_a_clock_that_was_wrong_for_long_starts_the_schedule_anew() -> None:
    play = Play(wall=NOON + 400 * 86400)
    play.sleep(20 * 60)
    before = len(play.queue.jobs)
    play.set_clock(-400 * 86400)
    play.sleep(9 * 60)
    assert len(play.queue.jobs) == before
    play.sleep(41 * 60)
    assert play.minutes[before:] == [40, 50, 60, 70]


def test_a_clock_that_is_wrong_for_a_moment_does_not() -> None:
    play = Play()
    play.sleep(20 * 60)
    play.wall -= 400 * 86400
    play.start()
    play.sleep(5 * 60)
    play.set_clock(400 * 86400)
    play.sleep(10 * 60)
    assert play.minutes == [10, 20, 30]


def test_a_reload_changes_what_it_changes() -> None:
    play = Play()
    play.sleep(15 * 60)
    play.reload(payload={"other": 1})
    play.sleep(5 * 60)
    play.reload(every=60.0)
    play.sleep(2 * 60)
    assert play.minutes == [10, 20, 21, 22]
    play.daemon.settings = play.settings.replace(schedules={})
    play.look()
    play.sleep(HOUR)
    assert play.daemon.next_instant() is None
    play.reload(every=60.0)  # once more there, it starts now
    play.sleep(60)
    assert play.minutes == [10, 20, 21, 22, 83]


@pytest.mark.parametrize("is_shared", [False, True])
def test_one_that_a_reload_brings_back_starts_anew(is_shared: bool) -> None:
    play = Play(Queue(is_shared=is_shared), missed="all")
    play.sleep(15 * 60)
    play.daemon.settings = Settings(pools={"jobs": Pool("jobs")})
    play.look()
    play.sleep(HOUR)
    play.reload(missed="all")
    play.sleep(10 * 60)
    assert play.minutes == [10, 80]
    play.start()
    assert play.minutes == [10, 80]


def test_two_daemons_at_one_queue() -> None:
    one = Play()
    other = Play(one.queue)
    for _ in range(6):
        one.sleep(600)
        other.sleep(600)
    assert one.minutes == [10, 20, 30, 40, 50, 60]


def test_a_daemon_that_has_left_wants_no_clock() -> None:
    play = Play()
    assert play.daemon.next_instant() is not None
    play.tell(ev.DrainAsked())
    assert play.daemon.exited
    assert play.daemon.next_instant() is None


STEPS = st.one_of(
    st.tuples(st.just("sleep"), st.integers(1, 4000)),
    st.tuples(st.just("pass_by"), st.integers(1, 4000)),
    st.tuples(st.just("set_clock"), st.integers(-HOUR, HOUR)),
    st.tuples(st.just("start"), st.just(0)),
    st.tuples(st.just("shut"), st.just(0)),
)


RULES: list[dict[str, Any]] = [
    {"every": 600.0},
    {"every": 7.0},
    {"cron": "*/5 * * * *"},
    {"cron": "30 12,13 * * *"},
]


@how(max_examples=150, deadline=None)
@given(
    st.lists(STEPS, max_size=25),
    st.sampled_from(RULES),
    st.sampled_from(["skip", "once", "all"]),
)
def test_no_instant_has_two_jobs_and_none_is_forgotten(
    steps: list[tuple[str, int]], rule: dict[str, Any], missed: str
) -> None:
    play = Play(missed=missed, **rule)
    for step, by in steps:
        match step:
            case "shut":
                play.open = not play.open
                if play.open:
                    play.answer()
                    play.look()
            case "start":
                play.start()
            case _:
                getattr(play, step)(by)
    play.open = True
    play.answer()
    play.look()
    instants = [instant for _, instant in play.queue.jobs]
    assert all(a < b for a, b in pairwise(instants))
    if missed == "all" and all(by >= 0 for step, by in steps if step == "set_clock"):
        rule = cron.rule_of(play.settings.schedules["s"])
        begin = play.queue.standings["s"].since
        due = cron.latest(rule, clock.zone("UTC"), begin, int(play.wall), 1000)
        assert set(due) <= set(instants)
