"""Back-off: how often a pool that keeps dying starts again, and what ends it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from core_simulator import Code, Process, Simulator, Work, pool, simulator, started

from graced.core import actions as ac
from graced.core import backoff as core
from graced.core import events as ev
from graced.core.backoff import wait
from graced.core.states import StartReason
from graced.settings import Backoff


def broken(process: Process) -> Work:
    return Work(setup=0.001, setup_fails="exited with status 1 in setup()")


def kill(made: Simulator, slot: int = 0) -> None:
    made.die(made.alive(slot=slot)[0], "killed by SIGSEGV")
    made.settle()


def in_backoff(**values: Any) -> Simulator:
    """A pool whose one worker died, and its replacement too."""
    made = started(pool(**values))
    made.run(10)
    made.work_for = broken
    kill(made)
    return made.until(lambda: made.pool().restarts.backoff.active)


# -- the wait ------------------------------------------------------------------------


def test_wait_grows_to_its_limit() -> None:
    limits = Backoff(first=0.1, factor=3.0, limit=2.0)
    assert [wait(limits, n) for n in range(5)] == pytest.approx([0.1, 0.3, 0.9, 2.0, 2.0])


@pytest.mark.parametrize("failures", [0, 1, 31, 400, 100_000])
def test_wait_never_overflows(failures: int) -> None:
    assert 0 < wait(Backoff(factor=1e10, limit=9.0), failures) <= 9.0
    assert wait(Backoff(factor=1.0), failures) == pytest.approx(0.1)


def test_probes_come_later_and_later() -> None:
    made = in_backoff(backoff=Backoff(first=1.0, factor=2.0, limit=8.0))
    since = made.now
    made.run(40)
    spawns = [t for t, a in made.did if isinstance(a, ac.Spawn) and t > since]
    gaps = [b - a for a, b in itertools.pairwise(spawns)]
    assert gaps[:5] == pytest.approx([1.8, 3.6, 7.2, 7.2, 7.2], abs=0.01)


@pytest.mark.parametrize(("jitter", "expected"), [(0.0, 0.9), (1.0, 1.0)])
def test_jitter_shortens_a_wait_by_a_tenth_at_most(jitter: float, expected: float) -> None:
    made = started(pool(backoff=Backoff(first=1.0)), jitter=lambda: jitter)
    made.work_for = broken
    kill(made)
    made.until(lambda: made.pool().restarts.backoff.active)
    assert made.pool().restarts.backoff.delay == pytest.approx(expected)


def test_wait_is_told() -> None:
    made = in_backoff()
    assert made.said("in setup(), after 0 rounds; starting again in 90 ms")


# -- when it begins ------------------------------------------------------------------


def test_first_death_is_replaced_at_once_the_second_means_backoff() -> None:
    made = started(pool())
    made.run(10)
    kill(made)
    assert not made.pool().restarts.backoff.active
    made.until(made.serving)
    kill(made)
    assert made.pool().restarts.backoff.active


def test_replacement_that_completed_a_round_is_replaced_at_once() -> None:
    made = simulator(pool())
    made.work_for = lambda p: Work(round=1.0)
    made.start().run(10.5)
    for _ in range(5):
        kill(made)
        assert not made.pool().restarts.backoff.active
        made.run(1.6)
        assert made.serving()


def test_replacement_whose_rounds_all_raised_did_not_complete_one() -> None:
    made = simulator(pool())
    made.work_for = lambda p: Work(round=0.1, raises=True, dies_after=10)
    made.start().run(5)
    assert made.pool().restarts.backoff.active


def test_replacement_that_lived_long_counts_as_a_first() -> None:
    made = started(pool(backoff=Backoff(reset=30.0)))
    kill(made)
    made.run(31)
    kill(made)
    assert not made.pool().restarts.backoff.active


def test_successors_that_die_mean_backoff_and_the_old_worker_stays() -> None:
    made = started(pool(max_age=5.0))
    made.work_for = broken
    made.run(60)
    assert made.pool().restarts.backoff.active
    assert len(made.serving()) == 1
    assert made.serving()[0].nth == 0
    assert len(made.spawn_orders()) < 15
    made.work_for = lambda p: Work(round=0.5)
    made.run(31)
    assert not made.pool().restarts.backoff.active
    assert made.serving()[0].nth > 0


def test_successors_that_die_without_surge() -> None:
    made = started(pool(workers=2, max_age=5.0, surge=0))
    made.work_for = broken
    made.run(60)
    assert len(made.serving()) == 1  # the other one is not given up for a broken one
    assert len(made.spawn_orders()) < 15
    made.work_for = lambda p: Work(round=0.1)
    made.run(60)
    assert len(made.serving()) >= 1
    assert not made.pool().restarts.backoff.active


def test_stuck_rounds_mean_backoff() -> None:
    made = simulator(pool(round_timeout=1.0))
    made.work_for = lambda p: Work(round=math.inf, frozen=True)
    made.start().run(30)
    assert made.pool().restarts.backoff.active
    assert len(made.spawn_orders()) < 12


# -- in it ---------------------------------------------------------------------------


def test_two_workers_that_exit_at_once_are_started_24_times_in_10_seconds_at_most() -> None:
    made = started(pool(workers=2), jitter=lambda: 0.0)
    made.work_for = broken
    kill(made, 0)
    kill(made, 1)
    since = made.now
    made.run(10)
    assert len(made.spawn_orders(since=since - 1)) <= 24
    assert len(made.spawn_orders(since=since)) >= 5  # and it does try


def test_two_workers_that_become_ready_and_exit_too() -> None:
    made = simulator(pool(workers=2))
    made.work_for = lambda p: Work(setup=0.0, lives=0.001)
    made.start().run(10)
    assert 8 <= len(made.spawn_orders()) <= 24
    assert made.exit is None


def test_one_probe_at_a_time() -> None:
    made = started(pool(workers=4))
    made.run(1)
    made.work_for = lambda p: Work(setup=2.0, setup_fails="no")
    for slot in range(4):
        kill(made, slot)
    made.run(3)
    assert made.pool().restarts.backoff.active
    end = made.now + 60
    while made.step(end):
        assert len(made.alive()) <= 1


def test_death_of_a_neighbour_waits_for_the_probe() -> None:
    made = started(pool(workers=2))
    made.run(1)
    made.work_for = lambda p: Work(setup=5.0, setup_fails="no")
    kill(made, 0)
    made.until(lambda: made.pool().restarts.backoff.probe)
    since = made.now
    kill(made, 1)
    made.run(1)
    assert made.spawn_orders(since=since + 0.001) == []
    assert made.said("waiting for the probe in back-off")


def test_probe_ordered_from_a_lost_zygote_fails_and_nothing_spins() -> None:
    made = in_backoff()
    made.zygotes[1].code.forks = 1.0
    made.until(lambda: made.pool().restarts.backoff.probe)
    made.code_for = lambda z: Code(imports=5.0)
    made.end_zygote(made.zygotes[1])
    made.settle()
    ticks = len(made.ticks)
    made.run(4.9)
    assert len(made.ticks) - ticks <= 2
    made.work_for = lambda p: Work(round=0.1)
    made.run(10)
    assert made.serving()


def test_healthy_neighbours_do_not_end_it() -> None:
    made = simulator(pool(workers=2))
    made.work_for = lambda p: Work(round=0.2) if p.slot == 0 else Work(setup_fails="no")
    made.start().run(20)
    assert made.pool().restarts.backoff.active
    assert len(made.spawn_orders()) < 20


# -- what ends it ----------------------------------------------------------------------


def test_completed_round_of_the_probe_ends_it() -> None:
    made = started(pool(workers=3))
    made.run(1)
    made.work_for = broken
    for slot in range(3):
        kill(made, slot)
    made.run(3)
    made.work_for = lambda p: Work(round=3.0)
    made.until(made.serving)
    made.run(2.9)
    assert len(made.alive()) == 1
    made.run(0.2)
    assert len(made.serving()) == 3
    assert made.status()["pools"]["jobs"]["backoff"] is None
    assert made.said("a round was completed, back-off is over")


def test_completed_round_of_a_worker_started_since_the_trouble_ends_it() -> None:
    made = started(pool(workers=2))
    made.run(1)
    made.work_for = lambda p: Work(round=5.0) if p.slot == 0 else Work(setup_fails="no")
    kill(made, 0)
    kill(made, 1)
    made.run(4.9)
    assert made.pool().restarts.backoff.active
    failures = made.pool().restarts.backoff.failures
    made.until(lambda: made.said("a round was completed"), within=1)
    assert made.pool().restarts.backoff.failures < failures


def test_round_that_was_over_before_the_backoff_began_counts_too() -> None:
    made = started(pool(workers=2))
    made.run(1)
    made.work_for = lambda p: Work(round=0.5) if p.slot == 0 else Work(setup=1.0, setup_fails="no")
    kill(made, 0)
    kill(made, 1)
    made.until(lambda: made.pool().restarts.deaths == 3)
    made.settle()
    assert not made.pool().restarts.backoff.active


def test_round_that_raised_does_not_end_it() -> None:
    made = in_backoff()
    made.work_for = lambda p: Work(round=0.5, raises=True)
    made.run(20)
    assert made.serving()
    assert made.pool().restarts.backoff.active


def test_death_of_a_worker_with_a_round_to_its_credit_ends_it() -> None:
    made = in_backoff()
    made.work_for = lambda p: Work(setup=0.01)
    made.until(made.serving)
    (probe,) = made.serving()
    probe.good = 1
    kill(made)  # its bell was not heard any more
    assert not made.pool().restarts.backoff.active
    assert len(made.spawn_orders(since=made.now)) == 1


def test_death_of_a_neighbour_with_a_round_to_its_credit_ends_it() -> None:
    made = started(pool(workers=2, backoff=Backoff(first=20.0)))
    made.run(1)
    made.work_for = lambda p: Work(setup_fails="no") if p.slot == 0 else Work()
    kill(made, 1)
    made.run(1)
    kill(made, 0)
    made.until(lambda: made.pool().restarts.backoff.active)
    made.pool().restarts.backoff.since = made.alive(slot=1)[
        0
    ].ordered_at  # born in the same trouble
    made.alive(slot=1)[0].good = 1
    made.work_for = lambda p: Work()
    kill(made, 1)  # its bell was not heard any more
    assert not made.pool().restarts.backoff.active
    made.run(1)
    assert len(made.serving()) == 2


def test_scaled_to_where_none_is_missing_it_is_over_and_the_outdated_are_renewed() -> None:
    made = started(pool(workers=2, surge=0))
    made.run(10)
    made.work_for = broken
    kill(made, 1)
    made.until(lambda: made.pool().restarts.backoff.active)
    (old,) = made.alive(slot=0)
    made.do(ev.ReplacementWanted(old.id, "max_rss"))
    made.work_for = lambda p: Work()
    made.law.by_hand = True
    made.do(ev.ScaleAsked("jobs", 1))
    assert made.said("no worker is missing, back-off is over")
    made.until(lambda: not old.alive and made.serving())


def test_probe_alive_for_reset_ends_it() -> None:
    made = in_backoff(workers=1, backoff=Backoff(reset=20.0))
    made.work_for = lambda p: Work(round=math.inf)  # busy all the time
    made.until(lambda: made.pool().restarts.backoff.probe)
    made.run(19.9)
    assert made.pool().restarts.backoff.active
    made.run(0.2)
    assert not made.pool().restarts.backoff.active
    assert made.said("the probe lives, back-off is over")


def test_probe_that_waits_for_work_and_lives_ends_it() -> None:
    """Others that die meanwhile need not wait for `reset`."""
    made = in_backoff(workers=3)
    kill(made, slot=1)
    made.work_for = lambda p: Work()
    made.until(lambda: made.pool().restarts.backoff.probe)
    made.run(0.9)
    assert made.pool().restarts.backoff.active
    made.run(0.2)
    assert not made.pool().restarts.backoff.active
    assert made.said("waits for work, back-off is over")
    assert len(made.serving()) == 3


@pytest.mark.parametrize("lived", [0.3, 5.0])
def test_probe_has_to_live_ten_times_as_long_as_those_that_died(lived: float) -> None:
    made = started(pool())
    made.run(10)
    made.work_for = lambda p: Work(setup=0.0, lives=lived)
    kill(made)
    made.until(lambda: made.pool().restarts.backoff.active)
    made.work_for = lambda p: Work()
    made.until(lambda: made.pool().restarts.backoff.probe)
    made.run(10 * lived - 0.1)
    assert made.pool().restarts.backoff.active
    made.run(1.0)
    assert not made.pool().restarts.backoff.active


def test_probe_that_is_busy_at_the_look_is_looked_at_again() -> None:
    made = in_backoff()
    made.work_for = lambda p: Work(round=1.5, raises=True)
    made.until(lambda: made.pool().restarts.backoff.probe)
    made.run(1.2)
    (probe,) = made.serving()
    assert probe.phase == "busy"
    probe.work.round = None
    made.run(0.5)
    assert made.pool().restarts.backoff.active
    made.run(1.0)
    assert not made.pool().restarts.backoff.active


def test_probe_that_dies_after_a_good_round_has_ended_it() -> None:
    """The next start is at once, and its death is the first of a new trouble."""
    made = started(pool(backoff=Backoff(first=5.0)))
    made.run(10)
    made.work_for = broken
    kill(made)
    made.until(lambda: made.pool().restarts.backoff.active)
    made.work_for = lambda p: Work(round=0.2, dies_after=1)
    made.until(made.serving)
    (probe,) = made.serving()
    made.until(lambda: probe.phase == "gone")
    died = made.now
    made.until(lambda: len(made.spawn_orders(since=died)) == 1)
    assert made.now - died < 0.1
    assert not made.pool().restarts.backoff.active


def test_death_of_the_probe_after_a_round_that_is_not_told_yet_ends_it() -> None:
    backoff = core.Backoff(Backoff(), lambda: 0.0)
    backoff.died(1, StartReason.FIRST, 0, 0.0, 1.0)
    backoff.died(2, StartReason.REPLACEMENT, 0, 1.0, 2.0)
    backoff.probing(3)
    backoff.died(3, StartReason.PROBE, 1, 3.0, 4.0)
    assert not backoff.active
    assert backoff.failures == 0
    backoff.died(4, StartReason.REPLACEMENT, 0, 4.0, 6.0)
    assert backoff.active  # that death began a trouble of its own, and this is its second,
    assert backoff.delay == pytest.approx(0.09)  # from the first wait on
    assert backoff.proves(5.0)  # who was started between the two is evidence


def test_planned_end_of_the_probe_proves_nothing() -> None:
    made = in_backoff()
    made.work_for = lambda p: Work(round=3.0, raises=True)
    made.until(made.serving)
    failures = made.pool().restarts.backoff.failures
    (probe,) = made.serving()
    made.sigterm(probe)
    made.settle()
    made.until(lambda: probe.phase == "gone")
    made.run(0.1)
    assert made.pool().restarts.backoff.active
    assert made.pool().restarts.backoff.failures == failures
    assert len(made.serving()) == 1
    assert made.serving() != [probe]


def unasked(process: Process, made: Simulator, signal: str) -> Work:
    """Of a worker that sends itself a signal as soon as it is ready."""
    send = made.sigint if signal == "INT" else made.sigterm
    made._after(0.02, lambda: send(process))
    return Work(setup=0.001)


@pytest.mark.parametrize("signal", ["TERM", "INT"])
def test_workers_that_ask_themselves_to_leave_mean_backoff(signal: str) -> None:
    """It is no death, but nothing is repeated for ever without a wait."""
    made = started(pool())
    made.law.by_hand = True
    made.run(10)
    made.work_for = lambda p: unasked(p, made, signal)
    (made.sigint if signal == "INT" else made.sigterm)(made.alive()[0])
    made.run(10)
    assert made.pool().restarts.backoff.active
    assert made.pool().restarts.deaths == 0
    assert len(made.spawn_orders()) < 15
    assert made.status()
    if signal == "INT":
        assert "was interrupted, but not by graced" in made.pool().restarts.evidence


def test_one_interrupted_by_hand_is_replaced_at_once_and_no_death() -> None:
    made = started(pool(workers=2))
    made.law.by_hand = True
    made.run(10)
    made.sigint(made.alive(slot=0)[0])
    made.run(0.1)
    assert len(made.serving()) == 2
    assert made.pool().restarts.deaths == 0
    assert not made.pool().restarts.backoff.active
    assert made.said(
        "was interrupted, but not by graced: by a SIGINT of its own, or by hand; start"
    )
    (bury,) = made.actions(ac.CleanUp)
    assert bury.counts


@pytest.mark.parametrize("how", ["DrainAsked", "InterruptAsked"])
def test_interrupt_of_graced_s_own_counts_for_nothing(how: str) -> None:
    made = simulator(pool(drain_timeout=1.0))
    made.work_for = lambda p: Work(round=math.inf)
    made.start().run(1)
    made.do(getattr(ev, how)())
    assert made.until_exit().code == 0
    (bury,) = made.actions(ac.CleanUp)
    assert not bury.counts


def test_interrupt_of_its_own_in_a_drain_counts_for_the_job() -> None:
    made = simulator(pool(drain_timeout=10.0))
    made.work_for = lambda p: Work(round=math.inf)
    made.start().run(1)
    made.do(ev.DrainAsked())
    made.sigint(made.alive()[0])
    made.until_exit()
    (bury,) = made.actions(ac.CleanUp)
    assert bury.counts


# -- deaths that count for a job -------------------------------------------------------


def test_death_that_counts_for_a_job_is_no_evidence_against_the_pool() -> None:
    made = started(pool(workers=2))
    for number in range(20):
        made.run(0.05)
        made.die(made.serving()[0], "killed by SIGSEGV", job=True)
        made.settle()
        assert not made.pool().restarts.backoff.active, number
    made.run(0.1)
    assert len(made.serving()) == 2
    assert made.pool().restarts.deaths == 20
    assert all(bury.counts for bury in made.actions(ac.CleanUp))


def test_death_of_the_probe_for_a_job_neither_ends_nor_prolongs_a_backoff() -> None:
    made = in_backoff()
    made.work_for = lambda p: Work()
    made.until(made.serving)
    failures = made.pool().restarts.backoff.failures
    made.die(made.serving()[0], "killed by SIGSEGV", job=True)
    made.settle()
    made.run(0.1)
    assert made.pool().restarts.backoff.active
    assert made.pool().restarts.backoff.failures == failures
    assert made.serving()


def test_reload_ends_it() -> None:
    made = in_backoff()
    made.work_for = lambda p: Work()
    made.do(ev.ReloadAsked())
    made.run(1)
    assert made.daemon.generation == 2
    assert not made.pool().restarts.backoff.active
    assert len(made.serving()) == 1


def test_scale_down_leaves_nothing_to_probe() -> None:
    made = started(pool(workers=2))
    made.run(1)
    made.work_for = broken
    kill(made, 1)
    made.until(lambda: made.pool().restarts.backoff.active)
    made.do(ev.ScaleAsked("jobs", 1))
    made.run(1)
    assert not made.pool().restarts.backoff.active
    assert made.daemon.next_deadline() is None
    made.work_for = lambda p: Work()
    made.do(ev.ScaleAsked("jobs", 2))
    made.run(1)
    assert len(made.serving()) == 2


@pytest.mark.parametrize("deaf", [False, True])
def test_scale_down_below_the_probe(deaf: bool) -> None:
    made = started(pool(workers=2))
    made.run(1)
    made.work_for = lambda p: Work(setup=3.0, setup_fails="no")
    kill(made, 1)
    made.work_for = lambda p: Work(setup=None if deaf else 3.0, setup_fails="no", deaf_to_int=deaf)
    made.until(lambda: made.pool().restarts.backoff.probe)
    made.do(ev.ScaleAsked("jobs", 1))
    made.run(10)
    assert len(made.alive()) == 1
    assert not made.pool().restarts.backoff.active


def test_a_probe_that_had_to_be_killed_is_followed_by_another_one() -> None:
    made = in_backoff()
    made.work_for = lambda p: Work(setup=None, deaf_to_int=True)
    made.until(lambda: made.pool().restarts.backoff.probe)
    made.do(ev.ScaleAsked("jobs", 0))
    made.work_for = lambda p: Work()
    made.do(ev.ScaleAsked("jobs", 1))
    made.run(60)
    assert made.said("had to be killed")
    assert len(made.serving()) == 1


# -- giving up ------------------------------------------------------------------------


def test_first_start_gives_up_after_three() -> None:
    made = simulator(pool())
    made.work_for = broken
    end = made.start().until_exit(5)
    assert len(made.spawn_orders()) == 3
    assert end.code == 1
    assert end.reason == "pool jobs can't start: exited with status 1 in setup()"
    assert made.said("; giving up")
    assert made.law.words == ["STOPPING"]


def test_first_start_of_many_gives_up_after_one_probe() -> None:
    made = simulator(pool(workers=4))
    made.work_for = broken
    made.start().until_exit(5)
    assert len(made.spawn_orders()) == 9


@pytest.mark.parametrize("ready_timeout", [2.0, 300.0])
def test_first_start_that_hangs_gives_up_after_three(ready_timeout: float) -> None:
    made = simulator(pool(ready_timeout=ready_timeout, backoff=Backoff(reset=60.0)))
    made.work_for = lambda p: Work(setup=None)
    assert made.start().until_exit(1000).code == 1
    assert len(made.spawn_orders()) == 3


def test_probe_that_hangs_for_longer_than_reset_is_no_success() -> None:
    made = simulator(pool(workers=2, ready_timeout=300.0, backoff=Backoff(reset=60.0)))
    made.work_for = lambda p: Work(setup=None)
    assert made.start().until_exit(1000).code == 1
    assert len(made.spawn_orders()) == 5


def test_failed_import_ends_the_first_start_at_once() -> None:
    made = simulator(pool())
    made.code_for = lambda z: Code(fails="ImportError: no module named 'nope'")
    end = made.start().until_exit(1)
    assert end.code == 1
    assert end.reason == "pool jobs can't start: ImportError: no module named 'nope'"
    assert len(made.zygotes) == 1


def test_other_pools_are_drained_when_one_gives_up() -> None:
    made = simulator(pool("a"), pool("b"))
    made.work_for = lambda p: broken(p) if p.pool.name == "b" else Work(round=5.0)
    end = made.start().until_exit(20)
    assert end.code == 1
    (a,) = [p for p in made.processes.values() if p.pool.name == "a"]
    assert a.good == 1


def test_pool_that_was_ready_once_never_gives_up_though_the_daemon_was_not() -> None:
    made = simulator(pool(workers=2))
    made.work_for = lambda p: Work(lives=0.5) if p.slot == 0 else Work(setup_fails="no")
    made.start().run(1000)
    assert made.exit is None


def test_pool_whose_workers_die_before_they_are_seen_ready_does_not_give_up() -> None:
    made = simulator(pool())
    made.work_for = lambda p: Work(setup=math.inf)
    made.start().run(0.01)
    for _ in range(4):
        made.until(made.alive)
        made.die(made.alive()[0], "killed by SIGSEGV", was_ready=True)
        made.settle()
    made.run(1)
    assert made.exit is None
    assert made.pool().restarts.backoff.active


def test_daemon_that_was_ready_never_gives_up() -> None:
    made = in_backoff()
    made.run(3600)
    assert made.exit is None
    assert made.spawn_orders(since=made.now - 31)


def test_worker_that_becomes_ready_in_time_saves_the_start() -> None:
    made = simulator(pool())
    made.work_for = lambda p: broken(p) if p.nth < 2 else Work(round=0.1)
    made.start().run(5)
    assert made.exit is None
    assert made.daemon.ready
    assert not made.pool().restarts.backoff.active


def test_a_trouble_that_follows_another_ends_with_a_round_too() -> None:
    backoff = core.Backoff(Backoff(), lambda: 0.0)
    backoff.died(1, StartReason.FIRST, 0, 0.5, 1.0)
    backoff.died(2, StartReason.REPLACEMENT, 0, 1.0, 2.0)
    backoff.end()  # a round was completed
    backoff.died(3, StartReason.REPLACEMENT, 0, 2.0, 3.0)
    assert backoff.active
    backoff.probing(4)
    assert backoff.proves(4.0)
    assert not backoff.proves(2.5)


def test_reload_under_way_does_not_end_it() -> None:
    """The canary has the only slot (surge 0), but it proves nothing of the code in force."""
    made = in_backoff(surge=0, backoff=Backoff(first=20.0))
    fails = Work(setup=5.0, setup_fails="ValueError")
    made.work_for = lambda p: fails if p.generation == 2 else Work()
    made.do(ev.ReloadAsked())
    made.until(lambda: made.alive(generation=2))
    made.run(1.0)
    assert made.pool().restarts.backoff.active
    made.until(lambda: made.said("reload refused"))
    assert made.pool().restarts.backoff.active
    assert not made.said("back-off is over")
    made.until(lambda: made.serving(generation=1))
