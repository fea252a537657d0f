"""How well the daemon is, with the workers' states as arguments."""

from __future__ import annotations

from typing import Any

import pytest

from graced.core.states import WorkerState
from graced.core.status import Health, examine


class Someone:
    def __init__(
        self, slot: int, pid: int | None = None, state: WorkerState = WorkerState.READY
    ) -> None:
        self.pid = 100 + slot if pid is None else pid
        self.label = f"jobs/{slot}"
        self.state = state


def look(members: list[Any], quorum: int = 1, stopped: str = "", overdue: str = "") -> Health:
    return examine(members, quorum, lambda m: m.label in stopped, lambda m: m.label in overdue)


def test_stopped_and_overdue_workers_are_ill_once() -> None:
    health = look([Someone(0), Someone(1), Someone(2)], 1, "jobs/0 jobs/1", "jobs/1")
    assert (health.healthy, health.living, health.needed, health.ok) == (1, 3, 1, True)
    assert health.words() == "1 of 3 workers healthy: jobs/0 is stopped; jobs/1 is stopped"


@pytest.mark.parametrize(("quorum", "ok"), [(0, True), (2, True), (3, False), (9, False)])
def test_the_quorum_decides(quorum: int, ok: bool) -> None:
    health = look([Someone(0), Someone(1), Someone(2)], quorum, overdue="jobs/2")
    assert health.ok is ok
    assert ("needed" in health.words()) is not ok


def test_the_unborn_and_the_killed_do_not_count() -> None:
    health = look([Someone(0, pid=0), Someone(1, state=WorkerState.KILLED), Someone(2)], 3)
    assert (health.healthy, health.living, health.needed) == (1, 1, 1)


def test_nobody_there_is_no_illness() -> None:
    assert look([], 4).ok
    assert look([], 4).words() == "0 of 0 workers healthy"


def test_many_ills_are_counted() -> None:
    health = look([Someone(n) for n in range(6)], 1, "jobs/0 jobs/1 jobs/2 jobs/3 jobs/4 jobs/5")
    assert health.words() == (
        "0 of 6 workers healthy, 1 needed: jobs/0 is stopped; jobs/1 is stopped; "
        "jobs/2 is stopped; and 3 more"
    )
