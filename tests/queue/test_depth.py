"""When a keeper tells how many jobs there are: soon, seldom, and never again what is known."""

from __future__ import annotations

from graced.queue.depth import EVERY_S, MOST_IN_A_ROW, SPACING_S, DepthReport
from graced.queue.timing import NEVER


def counts(waiting: int) -> dict[str, object]:
    return {"waiting": waiting, "taken": 0, "done": 0, "dead": 0, "paused": False, "oldest": 3.0}


def test_nothing_is_due_until_something_stirs() -> None:
    report = DepthReport()
    assert report.left(100.0) == NEVER
    report.stirred(100.0)
    assert report.left(100.0) == 0
    assert report.look(counts(0), 100.0, 0.0) == {"waiting": 0, "taken": 0, "done": 0, "dead": 0}
    assert report.left(100.0) == NEVER
    report.stirred(100.1)
    assert 0 < report.left(100.1) <= SPACING_S
    assert report.look(counts(0), 100.4, 0.0) is None  # it is known
    report.stirred(500.0)
    assert report.look(counts(1), 500.0, 0.0) is not None


def test_a_busy_queue_is_looked_at_seldom_and_a_rare_change_at_once() -> None:
    report, now, looks = DepthReport(), 1000.0, 0
    end = now + 3600
    while now < end:
        report.stirred(now)
        now += report.left(now)
        report.look(counts(looks), now, 0.0)
        looks += 1
    assert looks <= 3600 / EVERY_S + MOST_IN_A_ROW + 2
    later = now + MOST_IN_A_ROW * EVERY_S
    report.stirred(later)
    assert report.left(later) <= SPACING_S


def test_what_is_long_to_count_is_counted_seldom() -> None:
    report = DepthReport()
    report.stirred(100.0)
    report.look(counts(0), 100.0, 0.5)
    report.stirred(103.0)
    assert report.left(103.0) == 22.0
    report.look(counts(1), 125.0, 0.001)
    report.stirred(126.0)
    assert report.left(126.0) == 0


def test_the_last_change_is_told_at_last() -> None:
    report, now = DepthReport(), 0.0
    for number in range(200):
        report.stirred(now)
        if report.left(now) <= 0:
            report.look(counts(number), now, 0.0)
        now += 0.1
    report.stirred(now)
    now += report.left(now)
    assert report.look(counts(200), now, 0.0) == {"waiting": 200, "taken": 0, "done": 0, "dead": 0}
