"""One pool: filling, recycling, scaling, the stop ladder, stuck rounds, lost zygotes."""

from __future__ import annotations

import itertools
import math

import pytest
from core_simulator import Code, Process, Simulator, Work, pool, simulator, started

from graced.core import actions as ac
from graced.core import events as ev
from graced.core.member import KILL_AGAIN_AFTER_S, Member
from graced.core.states import KillReason, StartReason, WorkerState


def slots(processes: list[Process]) -> list[int]:
    return sorted(p.slot for p in processes)


def heard(process: Process) -> list[str]:
    return [what for _, what in process.heard]


def only(made: Simulator) -> Process:
    (process,) = made.alive()
    return process


# -- start -------------------------------------------------------------------------


def test_workers_of_a_start_are_ordered_together() -> None:
    made = started(pool(workers=4))
    (spawn,) = made.actions(ac.Spawn)
    assert [b.slot for b in spawn.orders] == [0, 1, 2, 3]
    assert slots(made.serving()) == [0, 1, 2, 3]


def test_zygote_gets_its_pools_settings() -> None:
    from graced.settings import Settings

    mail = pool("mail", env={"A": "1"})
    made = Simulator(Settings(pools={"mail": mail})).start()
    (zygote,) = made.actions(ac.StartZygote)
    assert (zygote.pool, zygote.generation) == (mail, 1)


def test_limits_are_jittered_downwards_by_a_tenth() -> None:
    spread = iter([0.0, 0.0, 1.0, 1.0, 0.5, 0.5])
    made = simulator(
        pool(workers=3, max_rounds=1000, max_rss=1000), jitter=lambda: next(spread)
    ).start()
    made.until(lambda: made.daemon.ready)
    assert [b.max_rounds for b in made.spawn_orders()] == [1000, 900, 950]
    assert [b.max_rss for b in made.spawn_orders()] == [1000, 900, 950]


def test_max_rounds_of_one_stays_one_and_none_is_zero() -> None:
    made = simulator(pool(max_rounds=1), jitter=lambda: 1.0).start()
    made.until(made.spawn_orders)
    assert made.spawn_orders()[0].max_rounds == 1
    assert made.spawn_orders()[0].max_rss == 0
    unlimited = started(pool())
    assert unlimited.spawn_orders()[0].max_rounds == 0


# -- deaths ------------------------------------------------------------------------


def test_worker_that_dies_is_replaced_at_once_in_its_slot() -> None:
    made = started(pool(workers=3))
    made.run(5)
    made.die(made.alive(slot=1)[0], "killed by SIGSEGV")
    made.settle()
    (order,) = made.spawn_orders(since=made.now)
    assert order.slot == 1
    made.run(1)
    assert slots(made.serving()) == [0, 1, 2]
    assert made.pool().restarts.deaths == 1
    (death,) = made.status()["pools"]["jobs"]["last_deaths"]
    assert death["reason"] == "killed by SIGSEGV"
    assert death["slot"] == 1


def test_planned_end_is_no_death() -> None:
    made = started(pool(workers=2))
    made.law.by_hand = True
    made.sigterm(made.alive(slot=0)[0])
    made.settle()
    made.run(1)
    assert slots(made.serving()) == [0, 1]
    assert made.pool().restarts.deaths == 0
    assert made.said("left after 0 rounds")


def test_worker_drained_by_hand_has_a_replacement_while_it_finishes() -> None:
    made = simulator(pool(drain_timeout=100.0))
    made.work_for = lambda p: Work(round=50.0)
    made.start().run(1)
    made.sigterm(made.alive()[0])
    made.settle()
    made.run(1)
    old, new = made.alive()
    assert (old.drained, new.drained, new.phase) == (True, False, "busy")
    made.run(60)
    assert made.alive() == [new]


def test_worker_drained_by_hand_is_on_the_ladder() -> None:
    made = simulator(pool(drain_timeout=3.0, stop_timeout=2.0))
    made.work_for = lambda p: Work(round=math.inf, deaf_to_int=True) if p.nth == 0 else Work()
    made.start().run(1)
    first = made.alive()[0]
    made.sigterm(first)
    made.settle()
    at = made.now
    made.until(lambda: first.phase == "gone")
    assert made.now - at == pytest.approx(5.0, abs=0.01)


def test_only_the_last_deaths_are_kept() -> None:
    made = simulator(pool())
    made.work_for = lambda p: Work(round=1.0)
    made.start()
    for number in range(15):
        made.until(lambda: any(p.good for p in made.alive()))
        made.die(only(made), f"death {number}")
        made.settle()
    reasons = [d["reason"] for d in made.status()["pools"]["jobs"]["last_deaths"]]
    assert reasons == [f"death {n}" for n in range(5, 15)]
    assert made.pool().restarts.deaths == 15


# -- the ladder ----------------------------------------------------------------------


def ladder(**work: object) -> tuple[Simulator, Process]:
    """A world whose one worker was just asked to drain, in a round that never ends."""
    made = simulator(pool(drain_timeout=10.0, stop_timeout=4.0))
    made.work_for = lambda p: Work(**{"round": math.inf, **work})  # type: ignore[arg-type]
    made.start().run(1)
    made.now = 2000.0
    made.do(ev.DrainAsked())
    return made, only(made)


def times(process: Process, what: str) -> list[float]:
    return [at - 2000.0 for at, heard in process.heard if heard == what]


def test_ladder_drains_interrupts_kills() -> None:
    made, process = ladder(deaf_to_int=True)
    assert made.until_exit().code == 1
    assert times(process, "TERM") == [0.0]
    assert times(process, "INT")[0] == pytest.approx(10.0)
    assert times(process, "KILL") == [pytest.approx(14.0)]


def test_interrupts_are_repeated_until_acknowledged_but_no_drain() -> None:
    """A ready worker can't miss SIGTERM, and a second one is the wish to end at once to many."""
    made, process = ladder(frozen=True)
    made.until_exit()
    assert times(process, "TERM") == [0.0]
    assert len(times(process, "INT")) == pytest.approx(40, abs=3)
    assert all(t > 9.99 for t in times(process, "INT"))


def test_drain_is_repeated_to_one_whose_handlers_may_not_stand() -> None:
    made = simulator(pool(drain_timeout=10.0, stop_timeout=4.0))
    made.start()
    made.until(lambda: any(member.pid for member in made.daemon.members()))
    [member] = made.daemon.members()
    member.drain(made.now)
    sent = []
    for _ in range(100):
        made.now += 0.05
        if made.now > 1001.0 and not member.was_ready:
            member.ready()
            ready = len(sent)
        sent += [a for a in member.tick(made.now) if isinstance(a, ac.Drain)]
    assert ready > 3
    assert len(sent) == ready + 1  # once more, since it is ready


@pytest.mark.parametrize("answers", [True, False])
def test_drain_that_is_not_answered_is_told_once(answers: bool) -> None:
    made, process = ladder(deaf_to_term=not answers)
    made.run(9)
    said = [say for say in made.actions(ac.Say) if "has not answered SIGTERM" in say.text]
    assert len(said) == (not answers)
    assert times(process, "TERM") == [0.0]


def test_clean_leave_of_one_that_has_not_acknowledged_is_no_death() -> None:
    """Its own handler of SIGTERM was called, and it left with status 0."""
    made = simulator(pool(workers=2))
    made.work_for = lambda p: Work(round=math.inf, deaf_to_term=True)
    made.start().run(1)
    made.do(ev.ScaleAsked("jobs", 1))
    made.die(made.alive(slot=1)[0], "exited with status 0", clean=True)
    made.run(0.1)
    assert made.pool().restarts.deaths == 0
    assert [bury.counts for bury in made.actions(ac.CleanUp)] == [False]
    made.die(made.alive(slot=0)[0], "exited with status 0", clean=True)  # unasked
    made.run(0.1)
    assert made.pool().restarts.deaths == 1


@pytest.mark.parametrize("lived", [0.01, 10.0])
def test_leave_that_a_handler_of_its_own_may_have_asked_for_is_no_death(lived: float) -> None:
    made = started(pool())
    for _ in range(3):
        made.until(made.serving)
        made.run(lived)
        made.die(made.alive()[0], "run() returned", clean=True, own_handler=True)
        made.settle()
    assert made.pool().restarts.deaths == 0
    assert made.said("left after 0 rounds: run() returned")
    assert made.pool().restarts.backoff.active == (lived < 1)  # it does not spin


def test_signal_is_not_repeated_after_its_acknowledgement() -> None:
    made, process = ladder(teardown=3.0)
    assert made.until_exit().code == 0
    assert len(times(process, "TERM")) == 1
    assert len(times(process, "INT")) == 1


def test_worker_that_finishes_its_round_is_not_interrupted() -> None:
    made, process = ladder(round=9.5)
    assert made.until_exit().code == 0
    assert times(process, "INT") == []
    assert process.rounds == 1


def test_time_outs_of_zero_leave_no_rung_out() -> None:
    made = simulator(pool(drain_timeout=0.0, stop_timeout=0.0))
    made.work_for = lambda p: Work(round=math.inf, frozen=True)
    made.start().run(1)
    made.do(ev.DrainAsked())
    process = only(made)
    at = made.now
    made.until_exit()
    assert list(dict.fromkeys(heard(process))) == ["TERM", "INT", "KILL"]
    assert made.now - at < 0.1


def draining_with_lease(start: float, lease: float, ends: float, **work: object) -> Process:
    """A drain asked 1 s after ready, with a lease ``start`` seconds after the drain."""
    made = simulator(pool(drain_timeout=10.0, stop_timeout=4.0))
    settings: dict[str, object] = {"round": math.inf, "deaf_to_int": True, **work}
    made.work_for = lambda p: Work(**settings, leases=((1.0 + start, lease, ends),))  # type: ignore[arg-type]
    made.start()
    made.until(made.serving)
    made.run(1.0)
    shift = made.now
    made.do(ev.DrainAsked())
    process = only(made)
    made.until_exit()
    process.heard = [(at - shift + 2000.0, what) for at, what in process.heard]
    return process


def test_drain_waits_for_a_lease() -> None:
    process = draining_with_lease(3.0, 100.0, 5.0)
    assert times(process, "INT")[0] == pytest.approx(15.0, abs=0.01)
    assert times(process, "KILL") == [pytest.approx(19.0, abs=0.01)]


def test_lease_taken_before_the_drain_counts_from_the_drain() -> None:
    process = draining_with_lease(-0.5, 100.0, 5.5)
    assert times(process, "INT")[0] == pytest.approx(15.0, abs=0.01)


def test_lease_that_outlives_its_section_ends_with_it() -> None:
    process = draining_with_lease(3.0, 5.0, math.inf)
    assert times(process, "INT")[0] == pytest.approx(15.0, abs=0.01)
    assert times(process, "KILL") == [pytest.approx(19.0, abs=0.01)]


def test_no_kill_under_a_lease_and_the_rest_of_the_rung_after_it() -> None:
    process = draining_with_lease(12.0, 30.0, 30.0)
    assert times(process, "INT")[0] == pytest.approx(10.0, abs=0.01)
    assert times(process, "KILL") == [pytest.approx(44.0, abs=0.01)]


def test_interrupt_is_delivered_when_the_lease_ends_and_stop_timeout_runs_from_there() -> None:
    process = draining_with_lease(9.0, 30.0, 3.0, deaf_to_int=False, teardown=3.5)
    # 9 s on the drain rung, 3 s of lease, 1 s: interrupted at 13, gone at 16.5
    assert times(process, "INT")[0] == pytest.approx(13.0, abs=0.01)
    assert times(process, "KILL") == []


def test_lease_counts_from_the_rung_though_it_was_not_known_when_that_began() -> None:
    made = started(pool(drain_timeout=4.0, stop_timeout=2.0))
    first = only(made)
    first.work.round, first.work.deaf_to_int = math.inf, True
    made._next_round(first)
    made._take_lease(first, 100.0, 35.0)
    made.run(20)
    made.do(ev.ReplacementWanted(first.id, "max_rss"))
    made.until(lambda: first.heard)  # drained when its successor is ready, no lease looked at
    drained = made.now
    made.until(lambda: first.phase == "gone")
    assert made.now - drained == pytest.approx(15.0 + 4.0 + 2.0, abs=0.1)


def test_second_interrupt_kills_under_a_lease() -> None:
    made = simulator(pool())
    made.work_for = lambda p: Work(round=math.inf, leases=((0.5, 100.0, 100.0),))
    made.start().run(1)
    made.do(ev.InterruptAsked())
    made.run(1)
    assert made.alive()
    made.do(ev.InterruptAsked())
    process = only(made)
    assert heard(process)[-1] == "KILL"
    assert made.until_exit(1).code == 1


def test_worker_that_survives_a_kill_gets_it_again() -> None:
    made, process = ladder(deaf_to_int=True, dies_late=3.5)
    made.until_exit()
    assert len(times(process, "KILL")) == 4


def test_drain_in_setup_interrupts_at_once() -> None:
    made = simulator(pool(drain_timeout=100.0, stop_timeout=4.0))
    made.work_for = lambda p: Work(setup=50.0)
    made.start().run(1)
    made.do(ev.DrainAsked())
    assert made.until_exit(1).code == 0


def test_acknowledgement_from_setup_is_an_interrupt() -> None:
    member = Member(1, pool(drain_timeout=100.0, stop_timeout=4.0), 1, 1, 0, StartReason.FIRST, 0.0)
    member.spawned(801, 0.0)
    member.drain(1.0)
    member.acknowledged(2, 1.05)
    assert member.state is WorkerState.INTERRUPTED
    assert member.deadline() == pytest.approx(5.05)


def test_drain_in_a_setup_that_hangs_takes_stop_timeout_only() -> None:
    made = simulator(pool(drain_timeout=100.0, stop_timeout=4.0, ready_timeout=1000.0))
    made.work_for = lambda p: Work(setup=None, deaf_to_int=True)
    made.start().run(1)
    at = made.now
    made.do(ev.DrainAsked())
    assert made.until_exit(10).code == 1
    assert made.now - at == pytest.approx(4.0, abs=0.1)
    (process,) = made.processes.values()
    assert "INT" in heard(process)


def test_worker_drained_before_it_is_born_hears_of_it_at_its_birth() -> None:
    made = simulator(pool())
    made.code_for = lambda z: Code(forks=1.0)
    made.start().until(made.spawn_orders)
    made.do(ev.DrainAsked())
    (process,) = made.processes.values()
    assert heard(process) == []
    assert made.until_exit(2).code == 0
    assert heard(process) == ["TERM"]


def leave_unborn(made: Simulator, event: ev.Event) -> float:
    """Have a stop asked for while a zygote owes a worker; return how long the stop takes."""
    made.start().until(made.spawn_orders)
    made.run(0.1)
    at = made.now
    made.do(event)
    end = made.until_exit()
    assert end.reason in (None, "1 worker had to be killed")
    return made.now - at


@pytest.mark.parametrize("event", [ev.DrainAsked(), ev.InterruptAsked()])
@pytest.mark.parametrize("drain_timeout", [1.0, 30.0])
def test_stop_does_not_wait_for_a_zygote_that_does_not_fork(
    drain_timeout: float, event: ev.Event
) -> None:
    made = simulator(pool(drain_timeout=drain_timeout, stop_timeout=4.0))
    made.code_for = lambda z: Code(forks=None)
    assert leave_unborn(made, event) == pytest.approx(2.0, abs=0.01)
    assert made.exit == ac.Exit(0, None)
    assert made.said("its zygote does not fork")
    assert made.said("left before it was forked")
    assert made.pool().restarts.deaths == 0


@pytest.mark.parametrize("drain_timeout", [1.0, 2.5, 30.0])
def test_worker_that_turns_up_when_its_zygote_is_killed_leaves_in_time(
    drain_timeout: float,
) -> None:
    made = simulator(pool(drain_timeout=drain_timeout, stop_timeout=4.0))
    made.code_for = lambda z: Code(silent=True)
    made.work_for = lambda p: Work(setup=None, frozen=True)
    assert leave_unborn(made, ev.DrainAsked()) <= drain_timeout + 4.0 + 0.01
    (process,) = made.processes.values()
    assert {"TERM", "INT"}.issuperset(h for h in heard(process) if h != "KILL")
    assert "KILL" in heard(process)


def test_worker_that_turns_up_in_a_stop_now_leaves_in_time() -> None:
    made = simulator(pool(stop_timeout=4.0))
    made.code_for = lambda z: Code(silent=True)
    made.work_for = lambda p: Work(setup=None, frozen=True)
    assert leave_unborn(made, ev.InterruptAsked()) == pytest.approx(4.0, abs=0.01)
    (process,) = made.processes.values()
    assert heard(process)[0] == "INT"


def test_stop_now_after_a_drain_leaves_a_zygote_no_more_time() -> None:
    made = simulator(pool(stop_timeout=4.0))
    made.code_for = lambda z: Code(forks=None)
    made.start().until(made.spawn_orders)
    at = made.now
    made.do(ev.DrainAsked())
    made.run(1.5)
    made.do(ev.InterruptAsked())
    made.until_exit()
    assert made.now - at == pytest.approx(2.0, abs=0.01)


def test_worker_that_was_in_a_round_all_along_finishes_it() -> None:
    made = simulator(pool(stop_timeout=0.5, drain_timeout=30.0))
    made.code_for = lambda z: Code(silent=True)
    made.work_for = lambda p: Work(setup=0.05, round=6.0)
    made.start().until(made.spawn_orders)
    made.do(ev.DrainAsked())  # its fork was not heard of
    assert made.until_exit(20).code == 0
    (process,) = made.processes.values()
    assert (process.rounds, heard(process)) == (1, ["TERM"])


def test_zygote_that_was_to_fork_in_time_is_left_alone() -> None:
    made = simulator(pool(stop_timeout=4.0))
    made.code_for = lambda z: Code(forks=0.5)
    made.work_for = lambda p: Work(round=9.0)
    made.start().until(made.serving)
    zygote = made.zygotes[1]
    made.do(ev.ScaleAsked("jobs", 2))
    made.do(ev.DrainAsked())
    made.run(5)
    assert zygote.state == "imported"  # it guards the worker that is still in its round
    assert made.until_exit(20).code == 0


def test_interrupt_reaches_a_worker_that_was_not_born_yet() -> None:
    made = simulator(pool())
    made.code_for = lambda z: Code(forks=1.0)
    made.start().until(made.spawn_orders)
    made.do(ev.DrainAsked())
    made.do(ev.InterruptAsked())
    made.until_exit(2)
    (process,) = made.processes.values()
    assert heard(process) == ["INT"]


def test_second_interrupt_kills_a_worker_as_soon_as_it_is_born() -> None:
    made = simulator(pool(stop_timeout=10.0))
    made.code_for = lambda z: Code(forks=0.02)
    made.work_for = lambda p: Work(frozen=True)
    made.start().until(made.spawn_orders)
    made.do(ev.InterruptAsked())
    made.do(ev.InterruptAsked())
    made.until_exit(1)
    (process,) = made.processes.values()
    assert heard(process) == ["KILL"]


def test_worker_born_after_its_zygote_was_given_up_is_still_led_down() -> None:
    made = simulator(pool(stop_timeout=1.0, ready_timeout=1.0))
    made.code_for = lambda z: Code(forks=None)
    made.work_for = lambda p: Work(setup=None, frozen=True)
    made.start().until(lambda: made.actions(ac.KillZygote))
    (process,) = made.processes.values()
    made._fork(made.zygotes[process.zygote], process)  # its last message, on the way
    made.settle()
    born = made.now
    made.until(lambda: "KILL" in heard(process), within=5)
    assert heard(process)[0] == "INT"
    assert made.now - born == pytest.approx(1.0, abs=0.01)


def test_exit_by_itself_in_the_moment_of_the_kill_is_no_kill() -> None:
    made, process = ladder(deaf_to_int=True)
    made.until(lambda: "KILL" in heard(process))
    made.die(process, "interrupted", planned=True)
    made.settle()
    assert made.until_exit().code == 0


def test_crash_on_the_way_out_is_a_death_but_no_kill() -> None:
    made, process = ladder()
    made.die(process, "killed by SIGSEGV")
    made.settle()
    assert made.until_exit().code == 0
    assert made.pool().restarts.deaths == 1


# -- setup() that takes too long -------------------------------------------------------


def test_setup_that_hangs_is_interrupted_and_counts_as_a_death() -> None:
    made = started(pool(ready_timeout=7.0, stop_timeout=2.0))
    made.work_for = lambda p: Work(setup=None)
    made.die(only(made), "killed by SIGSEGV")
    made.settle()
    made.run(8)
    assert made.pool().restarts.deaths == 2
    assert made.pool().restarts.last_deaths[-1][3] == "setup() took longer than 7 s"


def test_slot_of_a_hanging_setup_is_not_given_away_before_its_end() -> None:
    made = started(pool(ready_timeout=1.0, stop_timeout=5.0))
    made.work_for = lambda p: Work(setup=None, deaf_to_int=True)
    made.die(only(made), "killed by SIGSEGV")
    made.settle()
    made.run(5)
    assert len(made.alive()) == 1
    made.run(1.2)
    assert made.pool().restarts.deaths == 2


def test_birth_order_counts_for_ready_timeout() -> None:
    made = simulator(pool(ready_timeout=2.0))
    made.code_for = lambda z: Code(forks=1.5)
    made.work_for = lambda p: Work(setup=1.0)
    made.start().run(2.2)
    assert made.processes
    assert any(h == "INT" for p in made.processes.values() for h in heard(p))


# -- rounds that take too long ---------------------------------------------------------


def stuck(**work: object) -> Simulator:
    made = simulator(pool(round_timeout=5.0))
    values: dict[str, object] = {"round": 0.1, "stuck_round": 3, **work}
    made.work_for = lambda p: Work(**values) if p.nth == 0 else Work()  # type: ignore[arg-type]
    return made.start().until(lambda: made.actions(ac.PrintStack))


def test_stuck_round_has_its_stack_printed_then_is_killed_and_replaced() -> None:
    made = stuck(frozen=True)
    process = only(made)
    assert made.actions(ac.Kill) == []
    made.until(lambda: made.actions(ac.Kill))
    assert made.actions(ac.Kill) == [ac.Kill(process.id, force=False, stuck=True)]
    made.run(1)
    assert made.pool().restarts.last_deaths[-1][3] == "a round took longer than 5 s"
    assert made.pool().restarts.deaths == 1
    assert [p.nth for p in made.serving()] == [1]
    made.do(ev.DrainAsked())
    assert made.until_exit().code == 0  # a death, not the ladder's kill


def test_stuck_round_that_ends_before_the_kill_is_forgiven() -> None:
    made = stuck(stuck_for=5.01)
    process = only(made)
    made.run(1)
    assert made.alive() == [process]
    assert made.pool().restarts.deaths == 0
    made.until(lambda: process.rounds > 10)
    assert process.phase in ("ready", "busy")


def test_second_stuck_round_of_a_forgiven_worker_is_seen() -> None:
    made = stuck(stuck_for=5.01)
    process = only(made)
    made.run(1)
    process.work.stuck_round, process.work.stuck_for = process.rounds + 1, math.inf
    made.until(lambda: process.phase == "gone")
    assert len(made.actions(ac.PrintStack)) == 2


def test_stuck_round_under_a_lease_is_killed_when_the_lease_ends() -> None:
    made = simulator(pool(round_timeout=5.0))
    made.work_for = lambda p: Work(round=math.inf, leases=((2.0, 20.0, 9.0),), frozen=True)
    made.start().until(made.serving)
    process, at = only(made), made.now
    made.run(4)
    made.do(ev.Tick())  # leases are looked at
    made.until(lambda: process.phase == "gone")
    assert 11.0 <= made.now - at <= 22.1


def test_worker_that_leaves_though_its_round_is_overdue_is_no_death() -> None:
    made = stuck(stuck_for=5.01)
    made.do(ev.DrainAsked())
    assert made.until_exit().code == 0
    assert made.pool().restarts.deaths == 0


def test_interrupted_worker_is_not_killed_for_the_round_it_had() -> None:
    made = stuck(teardown=3.0)
    made.do(ev.InterruptAsked())  # it leaves its round before the stack is printed
    assert made.until_exit().code == 0
    assert made.pool().restarts.kills == 0


def test_stuck_end_of_a_worker_that_was_leaving_is_not_its_slots_trouble() -> None:
    made = simulator(pool(round_timeout=5.0, drain_timeout=100.0))
    made.work_for = lambda p: Work(round=0.1, stuck_round=3, frozen=True) if p.nth < 2 else Work()
    made.start().until(lambda: only(made).rounds == 3 if made.alive() else False)
    made.law.by_hand = True  # who scales to and fro can have more of them drain
    made.do(ev.ScaleAsked("jobs", 0))
    made.do(ev.ScaleAsked("jobs", 1))
    made.run(2)
    made.do(ev.ScaleAsked("jobs", 0))
    made.do(ev.ScaleAsked("jobs", 1))
    made.run(20)
    assert [p.nth for p in made.alive()] == [2]
    assert made.pool().restarts.deaths == 2
    assert made.pool().restarts.backoff.since is None
    assert made.pool().complete


def test_worker_stuck_in_a_drain_is_killed_before_drain_timeout_and_fails_the_stop() -> None:
    made = simulator(pool(round_timeout=5.0, drain_timeout=100.0))
    made.work_for = lambda p: Work(round=0.1, stuck_round=3, frozen=True)
    made.start().until(lambda: only(made).rounds == 3 if made.alive() else False)
    made.do(ev.DrainAsked())
    assert made.until_exit(10).code == 1
    assert made.pool().restarts.last_deaths[-1][3] == "a round took longer than 5 s"


def test_recovery_does_not_cancel_the_ladders_kill() -> None:
    member = Member(1, pool(stop_timeout=1.0), 1, 1, 0, StartReason.FIRST, 0.0)
    member.spawned(801, 0.0)
    member.ready()
    member.overdue("a round took longer than 5 s")
    assert member.stack_printed(5.0) == [ac.Kill(1, stuck=True)]
    member.interrupt(5.01)
    member.kill_at = None  # as if a lease held it
    assert member.tick(6.02) == [ac.Kill(1)]
    member.recovered()  # the answer to the first
    assert member.deadline() == pytest.approx(6.07)
    assert member.tick(6.08) == [ac.Kill(1)]


def stuck_member() -> Member:
    member = Member(1, pool(stop_timeout=1.0), 1, 1, 0, StartReason.FIRST, 0.0)
    member.spawned(801, 0.0)
    member.ready()
    assert member.overdue("a round took longer than 5 s")
    return member


def test_stack_that_is_printed_late_does_not_soften_the_ladders_kill() -> None:
    member = stuck_member()
    member.interrupt(5.0)
    assert member.tick(6.01) == [ac.Kill(1)]
    assert member.stack_printed(6.02) == []
    assert member.tick(6.07) == [ac.Kill(1)]


def test_overdue_round_is_news_once() -> None:
    assert not stuck_member().overdue("a round took longer than 5 s")


def test_lease_of_the_dead_does_not_hold_up_another_kill() -> None:
    member = stuck_member()
    member.kill(5.0, KillReason.FORCED)
    member.killed(5.0)
    member.leases(3.0, 100.0, 5.5)
    assert member.tick(9.1) == [ac.Kill(1, force=True)]


def test_killed_from_outside_is_told_as_such_though_the_round_was_overdue() -> None:
    made = stuck(frozen=True)
    made.die(only(made), "killed by SIGBUS")
    made.settle()
    assert made.pool().restarts.last_deaths[-1][3] == "killed by SIGBUS"


# -- recycling -------------------------------------------------------------------------


def most_births(made: Simulator, workers: int, life: float) -> float:
    """Return how many spawns there can be, if no worker lives less than so many seconds."""
    return workers * (1 + (made.now - 1000.0) / life)


def test_recycled_worker_leaves_after_its_successor_is_ready() -> None:
    made = simulator(pool(workers=2, max_rounds=5))
    made.work_for = lambda p: Work(round=1.0, setup=2.0, teardown=0.5)
    made.start().until(lambda: made.daemon.ready)
    for _ in range(200):
        made.step()
        assert len(made.serving()) >= 2
        assert len(made.alive()) <= 4
    assert made.pool().restarts.deaths == 0
    assert 6 < len(made.spawn_orders()) <= most_births(made, workers=2, life=4.0)


def test_max_age_is_met_up_to_a_tenth_early() -> None:
    made = started(pool(max_age=100.0), jitter=lambda: 0.5)
    made.until(lambda: len(made.spawn_orders()) == 2)
    assert made.now - 1000.05 == pytest.approx(95.0, abs=0.01)


def test_wish_to_be_replaced_counts_once() -> None:
    made = started(pool())
    process = only(made)
    made.do(ev.ReplacementWanted(process.id, "recycle()"))
    made.do(ev.ReplacementWanted(process.id, "max_rss"))
    made.run(5)
    assert len(made.spawn_orders()) == 2
    assert [p.nth for p in made.alive()] == [1]


def test_without_surge_a_recycled_worker_leaves_first() -> None:
    made = simulator(pool(workers=3, surge=0, max_rounds=4))
    made.work_for = lambda p: Work(round=1.0, setup=0.5, teardown=0.5)
    made.start().until(lambda: made.daemon.ready)
    for _ in range(300):
        made.step()
        assert len(made.alive()) <= 3
        assert len(made.serving()) >= 2
    assert 6 < len(made.spawn_orders()) <= most_births(made, workers=3, life=3.0)


def test_surge_bounds_the_workers_ahead() -> None:
    made = started(pool(workers=6, surge=2))
    made.work_for = lambda p: Work(setup=1.0)
    for process in made.alive():
        made.do(ev.ReplacementWanted(process.id, "recycle()"))
    most = 0
    while made.step(made.now + 30):
        most = max(most, len(made.alive()))
    assert most == 8
    assert slots(made.serving()) == list(range(6))
    assert all(p.nth >= 6 for p in made.serving())


def test_never_more_than_workers_drain_in_recycling() -> None:
    made = simulator(pool(workers=2, max_rounds=1, drain_timeout=1000.0))
    made.work_for = lambda p: Work(round=0.5, teardown=20.0)
    made.start().until(lambda: made.daemon.ready)
    end = made.now + 120
    while made.step(end):
        assert len(made.pool().leaving()) <= 2
    assert 8 < len(made.spawn_orders()) <= most_births(made, workers=2, life=0.5)


def test_worker_that_ages_in_setup_does_not_block_its_slot() -> None:
    made = started(pool(max_age=1.0))
    made.work_for = lambda p: Work(setup=2.0)
    made.run(30)
    assert 8 <= len(made.spawn_orders()) <= most_births(made, workers=1, life=0.9)
    assert len(made.alive()) <= 2


def test_successor_that_hangs_is_gone_before_the_next_one_comes() -> None:
    made = started(pool(workers=3, ready_timeout=1.0, stop_timeout=5.0))
    made.work_for = lambda p: Work(setup=None, deaf_to_int=True)
    made.do(ev.ReplacementWanted(made.alive(slot=1)[0].id, "max_rss"))
    end = made.now + 30
    while made.step(end):
        assert len(made.alive()) <= 4


def test_recycle_of_a_successor_at_once_goes_on() -> None:
    made = simulator(pool(max_rounds=1))
    made.work_for = lambda p: Work(round=1.0)
    made.start().run(60)
    assert len(made.spawn_orders()) == pytest.approx(59, abs=5)


# -- scaling ---------------------------------------------------------------------------


def test_scale_up_and_down() -> None:
    made = started(pool(workers=2))
    made.do(ev.ScaleAsked("jobs", 5))
    made.run(1)
    assert slots(made.serving()) == [0, 1, 2, 3, 4]
    made.do(ev.ScaleAsked("jobs", 1))
    made.run(1)
    assert slots(made.serving()) == [0]
    made.do(ev.ScaleAsked("jobs", 0))
    made.run(1)
    assert made.alive() == []
    assert made.pool().restarts.deaths == 0
    made.do(ev.ScaleAsked("jobs", 1))
    made.run(1)
    assert slots(made.serving()) == [0]


def test_scale_of_an_unknown_pool_does_nothing() -> None:
    made = started(pool())
    made.do(ev.ScaleAsked("nope", 5))
    assert len(made.alive()) == 1


def test_scale_in_a_stop_does_nothing() -> None:
    made = simulator(pool())
    made.work_for = lambda p: Work(round=5.0)
    made.start().run(1)
    made.do(ev.DrainAsked())
    made.do(ev.ScaleAsked("jobs", 5))
    made.until_exit()
    assert len(made.spawn_orders()) == 1


def test_scaled_down_workers_finish_their_round() -> None:
    made = simulator(pool(workers=3))
    made.work_for = lambda p: Work(round=5.0)
    made.start().run(1)
    made.do(ev.ScaleAsked("jobs", 1))
    made.run(5)
    assert slots(made.alive()) == [0]
    assert all(p.good == 1 for p in made.processes.values())


# -- zygotes ---------------------------------------------------------------------------


def zygote(made: Simulator) -> None:
    made.end_zygote(next(z for z in made.zygotes.values() if z.state != "gone"))
    made.settle()


def test_lost_zygote_is_started_again_and_its_workers_are_undisturbed() -> None:
    made = started(pool(workers=2))
    before = made.alive()
    made.run(100)
    zygote(made)
    (again,) = made.actions(ac.StartZygote, since=made.now)
    assert again.generation == 1
    made.run(1)
    assert made.alive() == before
    assert all(p.heard == [] for p in before)
    made.die(before[0], "killed by SIGSEGV")
    made.settle()
    made.run(1)
    assert slots(made.serving()) == [0, 1]
    assert made.spawn_orders()[-1].worker in {p.id for p in made.alive()}


def test_orders_that_died_with_their_zygote_are_given_again() -> None:
    made = simulator(pool(workers=2))
    made.code_for = lambda z: Code(forks=1.0 if len(made.zygotes) == 0 else 0.01)
    made.start().until(made.spawn_orders)
    zygote(made)
    made.run(1)
    assert slots(made.serving()) == [0, 1]
    assert made.daemon.ready


def test_zygotes_that_die_after_each_import_are_started_later_and_later() -> None:
    made = started(pool())
    made.run(100)
    made.code_for = lambda z: Code(imports=0.01, lives=0.01)
    zygote(made)
    since = made.now
    made.run(10)
    starts = len(made.actions(ac.StartZygote, since))
    assert 4 <= starts <= 10
    assert len(made.alive()) == 1


def test_zygote_lost_now_and_then_is_started_at_once_each_time() -> None:
    made = started(pool())
    for _ in range(3):
        made.run(61)
        zygote(made)
        assert len(made.actions(ac.StartZygote, since=made.now)) == 1


def test_lost_zygote_whose_code_is_broken_is_tried_for_ever() -> None:
    made = started(pool())
    made.code_for = lambda z: Code(fails="SyntaxError")
    zygote(made)
    made.run(300)
    assert made.exit is None
    assert len(made.alive()) == 1
    made.code_for = lambda z: Code()
    made.run(31)
    assert made.daemon.ready


def test_zygote_that_never_forks_is_replaced() -> None:
    made = started(pool(ready_timeout=4.0, stop_timeout=2.0))
    made.run(100)
    made.code_for = lambda z: Code()
    made.zygotes[1].code.forks = None
    made.die(only(made), "killed by SIGSEGV")
    made.settle()
    made.run(7)
    assert made.said("its zygote does not fork")
    assert slots(made.serving()) == [0]


def test_import_that_hangs_is_ended_by_ready_timeout() -> None:
    made = simulator(pool(ready_timeout=4.0))
    made.code_for = lambda z: Code(imports=None)
    made.start()
    end = made.until_exit(6)
    assert end.code == 1
    assert end.reason is not None
    assert "importing graced.workers:Command took longer than 4 s" in end.reason


def test_stop_does_not_wait_for_an_import() -> None:
    made = simulator(pool(ready_timeout=100.0))
    made.code_for = lambda z: Code(imports=None)
    made.start().run(1)
    made.do(ev.DrainAsked())
    assert made.until_exit(0.1).code == 0


def test_zygote_that_does_not_leave_after_its_import_failed_is_killed() -> None:
    made = simulator(pool(stop_timeout=2.0))
    made.code_for = lambda z: Code(fails="SyntaxError", lingers=True)
    made.start().until(lambda: made.said("giving up"))
    at = made.now
    assert made.until_exit(100).code == 1
    assert made.now - at == pytest.approx(2.0, abs=0.01)


def test_fork_that_fails_is_tried_again() -> None:
    made = started(pool())
    made.zygotes[1].code.fork_fails = "out of memory"
    made.die(only(made), "killed by SIGSEGV")
    made.settle()
    made.run(1)
    assert made.pool().restarts.backoff.active
    assert made.pool().restarts.last_deaths[-1][3] == "could not be forked: out of memory"
    made.zygotes[1].code.fork_fails = None
    made.run(2)
    assert slots(made.serving()) == [0]


# -- how often it wakes up --------------------------------------------------------------


def test_idle_pool_has_no_deadline() -> None:
    made = started(pool(workers=4))
    made.run(1)
    assert made.daemon.next_deadline() is None


@pytest.mark.parametrize(
    "work",
    [
        Work(round=math.inf, frozen=True),
        Work(round=math.inf, deaf_to_int=True, leases=((0.5, 30.0, 30.0),)),
        Work(round=math.inf, deaf_to_int=True, dies_late=20.0),
        Work(setup=None, frozen=True),
    ],
    ids=["frozen", "leased", "unkillable", "setup"],
)
def test_stubborn_worker_costs_few_ticks(work: Work) -> None:
    made = simulator(pool(drain_timeout=5.0, stop_timeout=5.0))
    made.work_for = lambda p: work
    made.start().run(1)
    at, ticks = made.now, len(made.ticks)
    made.do(ev.DrainAsked())
    made.until_exit()
    assert len(made.ticks) - ticks <= 25 * (made.now - at)


def test_worker_states_only_go_forward() -> None:
    made, process = ladder(deaf_to_int=True)
    member = made.pool().members[process.id]
    made.until(lambda: member.state is WorkerState.KILLED)
    made.do(ev.BecameReady(process.id))
    made.do(ev.Acknowledged(process.id, 3))
    made.do(ev.SeenInSetup(process.id))
    made.do(ev.RoundOverdue(process.id, 1.0))
    assert member.state is WorkerState.KILLED


def test_max_rss_below_what_a_fresh_worker_has_is_told_once() -> None:
    made = started(pool(workers=2, max_rss=20 << 20))
    told = "max_rss (20M) already at the first look"
    made.do(ev.ReplacementWanted(made.alive()[0].id, "max_rss"))
    assert not made.said(told)
    for _ in range(3):
        made.do(ev.ReplacementWanted(made.alive()[1].id, "max_rss", at_once=True))
        made.run(5)
    warned = [say for say in made.actions(ac.Say) if told in say.text]
    assert [say.level for say in warned] == ["warning"]
    assert "raise pools.jobs.max_rss" in warned[0].text


def test_one_that_outlives_a_kill_is_killed_again_once_a_second() -> None:
    made = simulator(pool(drain_timeout=1.0, stop_timeout=1.0))
    made.work_for = lambda p: Work(round=math.inf, deaf_to_int=True, dies_late=10.0)
    made.start().run(1)
    made.do(ev.DrainAsked())
    made.until_exit()
    kills = [t for t, action in made.did if isinstance(action, ac.Kill)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(kills)]
    assert len(gaps) > 5
    assert min(gaps) > KILL_AGAIN_AFTER_S / 2


# -- a job that is cancelled ---------------------------------------------------------


def test_the_worker_of_a_cancelled_job_goes_down_the_ladder_and_is_no_death() -> None:
    """One that does not answer is killed; another takes its place, and no back-off begins."""
    for deaf in (False, True):
        made = started(pool(stop_timeout=2.0))
        first = only(made)
        first.work.round, first.work.deaf_to_int = math.inf, deaf
        made._next_round(first)
        made.do(ev.JobCancelled(first.id, 7))
        made.do(ev.JobCancelled(first.id, 7))
        made.until(lambda first=first: first.phase == "gone")
        assert heard(first)[0] == "INT"
        assert ("KILL" in heard(first)) == deaf
        made.until(lambda made=made: made.daemon.ready)
        status = made.status()["pools"]["jobs"]
        assert (status["deaths"], status["backoff"]) == (0, None)
        made.do(ev.DrainAsked())
        assert made.until_exit(30).code == 0, "what was killed long ago is no failure of a stop"
