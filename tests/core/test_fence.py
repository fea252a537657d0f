"""A host's lease of jobs on a server: no worker has one any more when it ends."""

from __future__ import annotations

import math

import pytest
from core_simulator import HostLease, Simulator, Work, pool, settings, simulator

from graced.core import actions as ac
from graced.core import events as ev
from graced.core.states import WorkerState
from graced.fencing import KILL_BEFORE_S, moments

POLITE = Work(round=math.inf)
FROZEN = Work(round=math.inf, frozen=True)
CRITICAL = Work(round=math.inf, leases=((0.0, 900.0, math.inf),))
IDLE = Work()


def begin(*works: Work, stop_timeout: float = 2.0) -> tuple[Simulator, HostLease]:
    """A pool whose workers behave so from their start, and a lease of 10 s from now on."""
    made = simulator(pool(workers=len(works), stop_timeout=stop_timeout))
    made.work_for = lambda process: works[process.slot] if process.nth < len(works) else IDLE
    made.start().until(lambda: made.daemon.ready).run(0.5)
    return made, HostLease(made)


@pytest.mark.parametrize(
    ("stop_timeout", "lead"), [(2.0, 2.0), (5.0, 5.0), (30.0, 5.0), (0.0, KILL_BEFORE_S)]
)
def test_the_interrupt_leaves_stop_timeout_but_half_of_the_lease_is_theirs(
    stop_timeout: float, lead: float
) -> None:
    assert moments(100.0, 10.0, stop_timeout) == (100.0 - lead, 99.0)
    made, lease = begin(POLITE, IDLE, stop_timeout=stop_timeout)
    [busy] = [process for process in made.alive() if process.phase == "busy"]
    made.until(lambda: not busy.alive)
    assert made.now == pytest.approx(lease.until - lead, abs=0.3)
    assert len(made.alive()) == 1, "who has no job is left alone"
    made.run(60.0)
    assert len(made.serving()) == 2, "it is started anew, and waits"


def test_a_lease_that_is_renewed_costs_nothing() -> None:
    made, lease = begin(POLITE, FROZEN, CRITICAL)
    before = len(made.actions(ac.Interrupt)) + len(made.actions(ac.Kill))
    for _ in range(20):
        made.run(3.0)
        lease.renew()  # nobody is told: it stands on the scoreboard
    assert len(made.actions(ac.Interrupt)) + len(made.actions(ac.Kill)) == before
    looks = len(made.ticks)
    made.run(1.0)
    assert len(made.ticks) - looks <= 1, "nothing spins"


@pytest.mark.parametrize("work", [POLITE, FROZEN, CRITICAL], ids=["polite", "frozen", "critical"])
def test_nobody_has_a_job_when_the_lease_ends(work: Work) -> None:
    made, lease = begin(work)
    [worker] = made.alive()
    made.run(lease.until - KILL_BEFORE_S + 0.3 - made.now)
    assert not worker.alive
    made.run(100.0)
    assert len(made.serving()) == 1


def test_a_job_that_was_on_its_way_is_found_too() -> None:
    made, lease = begin(IDLE)
    [worker] = made.alive()
    made.run(lease.until - KILL_BEFORE_S + 0.1 - made.now)
    worker.phase = "busy"  # it was handed out at the last moment, and arrives now
    made.run(KILL_BEFORE_S)
    assert not worker.alive
    looked = len(made.actions(ac.LookForJob))
    made.run(100.0)
    assert len(made.actions(ac.LookForJob)) - looked < 12, "and then nothing is looked for"


def test_a_renewal_in_the_last_moment_takes_it_back() -> None:
    made, lease = begin(CRITICAL)
    [worker] = made.alive()
    made.run(lease.until - 1.5 - made.now)
    assert made.actions(ac.Interrupt), "it was asked to leave"
    lease.renew()
    made.run(5.0)
    assert worker.alive, "but not killed"


def test_a_pool_that_a_reload_has_added_again_keeps_to_its_lease() -> None:
    """Its keeper has not left meanwhile, and tells nothing twice."""
    made, lease = begin(IDLE)
    jobs = made.daemon.settings
    for pools in (settings(pool("other")), jobs):
        made.next_config = pools
        made.do(ev.ReloadAsked())
        made.run(0.5)
    [worker] = made.alive("jobs")
    worker.phase = "busy"
    made.run(lease.until - made.now)
    assert not worker.alive


def test_who_has_a_job_that_is_lost_is_killed_at_once() -> None:
    made, _ = begin(CRITICAL, POLITE)
    lost, other = made.alive()
    made.do(ev.JobLost(lost.id))
    made.run(0.2)
    assert not lost.alive
    assert other.alive
    assert made.pool().members[other.id].state is WorkerState.READY


@pytest.mark.parametrize("late", [KILL_BEFORE_S + 0.1, 500.0])
def test_a_daemon_that_stood_still_until_the_lease_was_over_kills_as_soon_as_it_goes_on(
    late: float,
) -> None:
    made, lease = begin(POLITE, FROZEN, CRITICAL)
    workers = made.alive()
    made.now = lease.until + late
    made.run(0.3)
    assert not any(worker.alive for worker in workers)
    looked = len(made.actions(ac.LookForJob))
    made.run(100.0)
    assert len(made.serving()) == 3
    assert len(made.actions(ac.LookForJob)) - looked < 24, "and then nothing is looked for"
