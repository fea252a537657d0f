"""The daemon: the order of its pools, READY, stops of all kinds, and exit codes."""

from __future__ import annotations

import math

import pytest
from core_simulator import Code, Simulator, Work, pool, settings, simulator, started

from graced.core import actions as ac
from graced.core import events as ev
from graced.core.states import DaemonState, ZygoteState
from graced.units import format_duration

CHAIN = (pool("db"), pool("api", after=("db",)), pool("web", after=("api",)))


def at(made: Simulator, kind: type[ac.Action], **fields: object) -> float:
    """When the first action of a kind was asked for."""
    for time, action in made.did:
        if isinstance(action, kind) and all(getattr(action, k) == v for k, v in fields.items()):
            return time
    raise AssertionError(f"no {kind.__name__}")


def first_signal(made: Simulator, name: str) -> float:
    return min(t for p in made.processes.values() if p.pool.name == name for t, _ in p.heard)


# -- start ---------------------------------------------------------------------------


def test_ready_is_told_once_when_every_worker_of_every_pool_is() -> None:
    made = simulator(pool("a", workers=2), pool("b"))
    made.work_for = lambda p: Work(setup=3.0 if p.slot == 1 else 0.1)
    made.start().run(2.9)
    assert made.law.words == []
    assert made.status()["state"] == "starting"
    made.run(0.5)
    assert made.law.words == ["READY"]
    assert made.status()["state"] == "running"
    made.die(made.alive("b")[0], "killed by SIGSEGV")
    made.settle()
    assert made.status()["ready"] is False
    made.run(10)
    assert made.status()["ready"] is True
    assert made.law.words == ["READY"]


def test_pool_starts_after_those_that_it_comes_after_are_ready() -> None:
    made = simulator(*reversed(CHAIN))
    made.work_for = lambda p: Work(setup=1.0)
    made.start().until(lambda: made.daemon.ready)
    starts = {a.pool.name: t for t, a in made.did if isinstance(a, ac.StartZygote)}
    assert starts["api"] - starts["db"] == pytest.approx(1.05, abs=0.01)
    assert starts["web"] - starts["api"] == pytest.approx(1.05, abs=0.01)


def test_pools_without_an_order_start_together() -> None:
    made = simulator(pool("a"), pool("b")).start()
    assert len(made.actions(ac.StartZygote)) == 2


def test_pool_of_several_workers_holds_up_the_next_until_all_are_ready() -> None:
    made = simulator(pool("a", workers=2), pool("b", after=("a",)))
    made.work_for = lambda p: Work(setup=5.0 if p.slot == 1 else 0.1)
    made.start().run(4.9)
    assert len(made.actions(ac.StartZygote)) == 1
    made.run(1)
    assert len(made.actions(ac.StartZygote)) == 2


def test_pool_that_is_scaled_to_nothing_during_the_start_still_loads_its_code() -> None:
    made = simulator(pool())
    made.code_for = lambda z: Code(imports=5.0)
    made.start()
    made.do(ev.ScaleAsked("jobs", 0))
    made.run(4.9)
    assert made.law.words == []
    made.run(0.2)
    assert made.law.words == ["READY"]
    made.code_for = lambda z: Code(fails="no")
    made.end_zygote(made.zygotes[1])
    made.run(10)
    made.code_for = lambda z: Code()
    made.do(ev.ScaleAsked("jobs", 2))
    made.run(40)
    assert len(made.serving()) == 2


def test_slot_that_died_holds_ready_back() -> None:
    made = simulator(pool(workers=2))
    made.work_for = lambda p: Work(lives=1.0) if p.nth == 0 else Work(setup=5.0)
    made.start().run(0.5)
    made.work_for = lambda p: Work(setup_fails="no")
    made.run(10)
    assert len(made.serving()) == 1
    assert made.law.words == []
    made.work_for = lambda p: Work(round=0.1)
    made.run(30)
    assert made.law.words == ["READY"]


def test_slot_that_was_scaled_away_and_back_holds_ready_back() -> None:
    made = simulator(pool("a", workers=2), pool("b"))
    made.work_for = lambda p: Work(setup=5.0 if p.pool.name == "b" else 0.1)
    made.start().run(1)
    made.work_for = lambda p: Work(setup=10.0)
    made.do(ev.ScaleAsked("a", 1))
    made.run(1)
    made.do(ev.ScaleAsked("a", 2))
    made.run(5)
    assert made.law.words == []
    made.run(10)
    assert made.law.words == ["READY"]


def test_start_gives_systemd_a_time() -> None:
    made = simulator(pool(ready_timeout=30.0)).start()
    (extend,) = made.actions(ac.Extend)
    assert 30.0 <= extend.seconds <= 100.0
    made.run(100)
    assert len(made.actions(ac.Extend)) <= 3


def test_deadlines_that_systemd_was_given_are_never_missed() -> None:
    made = simulator(*CHAIN)
    made.work_for = lambda p: Work(setup=25.0, round=28.0, teardown=4.0)
    made.start()
    promised = 0.0
    asked = False
    while made.exit is None:
        for time, action in made.did:
            if isinstance(action, ac.Extend):
                promised = max(promised, time + action.seconds)
        if made.daemon.state is not DaemonState.RUNNING:
            assert made.now <= promised
        elif not asked:
            asked = True
            made.run(1)
            made.do(ev.DrainAsked())
            promised = made.now + max(a.seconds for a in made.actions(ac.Extend, made.now))
        made.step()


def test_drain_asks_systemd_for_the_time_of_all_pools_one_after_the_other() -> None:
    quick = {"ready_timeout": 1.0, "drain_timeout": 30.0, "stop_timeout": 5.0}
    made = started(pool("db", **quick), pool("web", after=("db",), **quick))
    for process in made.alive():
        process.work.teardown = 3.0
    made.do(ev.DrainAsked())
    (extend,) = made.actions(ac.Extend, since=made.now)
    assert extend.seconds >= 70.0


def test_lease_in_a_drain_gives_systemd_the_time_that_it_may_take() -> None:
    made = simulator(pool(drain_timeout=10.0, stop_timeout=5.0))
    made.work_for = lambda p: Work(round=math.inf, leases=((2.0, 500.0, 500.0),))
    made.start().run(1)
    made.do(ev.DrainAsked())
    made.run(5)
    promised = [t + a.seconds for t, a in made.did if isinstance(a, ac.Extend)]
    assert max(promised) < 1100
    made.do(ev.Tick())  # whatever comes next; leases are looked at
    promised = [t + a.seconds for t, a in made.did if isinstance(a, ac.Extend)]
    assert max(promised) > 1510
    assert made.until_exit().code == 0


# -- drain ---------------------------------------------------------------------------


def test_drain_tells_stopping_first_and_exits_with_0() -> None:
    made = simulator(pool(workers=3))
    made.work_for = lambda p: Work(round=7.0)
    made.start().run(1)
    before = len(made.did)
    made.do(ev.DrainAsked())
    assert made.did[before][1] == ac.TellStopping()
    assert made.status()["state"] == "draining"
    assert made.until_exit() == ac.Exit(0, None)
    assert all(p.good == 1 for p in made.processes.values())
    assert made.law.words == ["READY", "STOPPING"]


def test_second_drain_changes_nothing() -> None:
    made = simulator(pool(drain_timeout=10.0))
    made.work_for = lambda p: Work(round=9.0)
    made.start().run(1)
    made.do(ev.DrainAsked())
    done = len(made.did)
    made.run(3)
    made.do(ev.DrainAsked())
    assert made.did[done:] == []
    assert made.until_exit().code == 0


def test_drain_while_interrupting_changes_nothing() -> None:
    made = simulator(pool(drain_timeout=10.0))
    made.work_for = lambda p: Work(round=9.0, teardown=2.0)
    made.start().run(1)
    made.do(ev.InterruptAsked())
    made.do(ev.DrainAsked())
    assert made.status()["state"] == "stopping"
    made.until_exit(3)


def test_pools_leave_in_the_opposite_order() -> None:
    made = started(*CHAIN)
    made.work_for = lambda p: Work()
    for process in made.alive():
        process.work.teardown = 2.0
    now = made.now
    made.do(ev.DrainAsked())
    made.until_exit()
    assert first_signal(made, "web") == now
    assert first_signal(made, "api") == pytest.approx(now + 2.0, abs=0.01)
    assert first_signal(made, "db") == pytest.approx(now + 4.0, abs=0.01)


def test_pool_that_waits_for_its_dependents_starts_nothing() -> None:
    made = started(*CHAIN)
    for process in made.alive("web"):
        process.work.teardown = 10.0
    made.do(ev.DrainAsked())
    made.run(1)
    made.die(made.alive("db")[0], "killed by SIGSEGV")
    made.end_zygote(next(z for z in made.zygotes.values() if z.pool.name == "db"))
    made.settle()
    since = made.now
    made.run(5)
    assert made.spawn_orders(since=since) == []
    assert made.actions(ac.StartZygote, since) == []
    assert not made.said("starting again")
    assert len(made.alive("api")) == 1
    assert made.until_exit().code == 0


def test_pool_without_workers_still_comes_between() -> None:
    made = started(*CHAIN)
    made.work_for = lambda p: Work(setup_fails="no")
    made.die(made.alive("api")[0], "killed by SIGSEGV")
    made.settle()
    made.until(lambda: made.pool("api").restarts.backoff.active and not made.alive("api"))
    made.alive("web")[0].work.teardown = 3.0
    now = made.now
    made.do(ev.DrainAsked())
    made.until_exit()
    assert first_signal(made, "db") == pytest.approx(now + 3.0, abs=0.01)


def test_drain_during_the_start() -> None:
    made = simulator(*CHAIN)
    made.work_for = lambda p: Work(setup=100.0 if p.pool.name == "api" else 0.1)
    made.start().run(1)
    made.do(ev.DrainAsked())
    end = made.until_exit(1)
    assert end.code == 0
    assert made.spawn_orders("web") == []
    assert made.law.words == ["STOPPING"]


def test_drain_before_anything_is_imported() -> None:
    made = simulator(*CHAIN).start()
    made.do(ev.DrainAsked())
    assert made.until_exit(1).code == 0
    assert made.spawn_orders() == []


def test_drain_in_backoff() -> None:
    made = started(pool())
    made.work_for = lambda p: Work(setup_fails="no")
    made.die(made.alive()[0], "killed by SIGSEGV")
    made.settle()
    made.run(5)
    made.do(ev.DrainAsked())
    spawns = len(made.spawn_orders())
    assert made.until_exit(1).code == 0
    assert len(made.spawn_orders()) == spawns


def test_death_in_a_drain_is_not_replaced() -> None:
    made = simulator(pool(workers=2))
    made.work_for = lambda p: Work(round=5.0)
    made.start().run(1)
    made.do(ev.DrainAsked())
    made.die(made.alive(slot=0)[0], "killed by SIGSEGV")
    made.settle()
    assert made.until_exit().code == 0
    assert len(made.spawn_orders()) == 2


def test_nothing_happens_after_the_exit() -> None:
    made = started(pool())
    made.do(ev.DrainAsked())
    made.until_exit()
    for event in (ev.Tick(), ev.InterruptAsked(), ev.ReloadAsked(), ev.ScaleAsked("jobs", 3)):
        assert made.daemon.handle(event, made.now) == []


# -- interrupt -------------------------------------------------------------------------


def test_interrupt_reaches_all_pools_at_once() -> None:
    made = simulator(*CHAIN)
    made.work_for = lambda p: Work(round=50.0, teardown=1.0)
    made.start().until(lambda: made.daemon.ready)
    now = made.now
    made.do(ev.InterruptAsked())
    assert made.status()["state"] == "stopping"
    assert made.until_exit(2).code == 0
    assert {first_signal(made, n) for n in ("db", "api", "web")} == {now}
    assert {what for p in made.processes.values() for _, what in p.heard} == {"INT"}


def test_interrupt_during_a_drain() -> None:
    made = simulator(pool(drain_timeout=100.0))
    made.work_for = lambda p: Work(round=50.0)
    made.start().run(1)
    made.do(ev.DrainAsked())
    made.run(1)
    made.do(ev.InterruptAsked())
    assert made.until_exit(1).code == 0
    assert made.law.words == ["READY", "STOPPING"]


def test_interrupt_during_a_drain_reaches_pools_that_waited() -> None:
    made = started(*CHAIN)
    made.alive("web")[0].work.teardown = 3.0
    made.do(ev.DrainAsked())
    made.run(1)
    now = made.now
    made.do(ev.InterruptAsked())
    assert first_signal(made, "db") == now
    assert made.until_exit().code == 0


def test_interrupt_after_a_start_that_gave_up() -> None:
    made = simulator(pool("a"), pool("b"))
    made.work_for = lambda p: Work(round=100.0) if p.pool.name == "a" else Work(setup_fails="no")
    made.start().until(lambda: made.daemon.stopping)
    made.do(ev.InterruptAsked())
    assert made.until_exit(1).code == 1


def test_second_interrupt_kills_at_once_and_a_third_changes_nothing() -> None:
    made = simulator(pool(workers=2, stop_timeout=100.0))
    made.work_for = lambda p: Work(round=50.0, deaf_to_int=True, dies_late=0.5)
    made.start().run(1)
    made.do(ev.InterruptAsked())
    made.run(1)
    made.do(ev.InterruptAsked())
    assert len(made.actions(ac.Kill)) == 2
    made.do(ev.InterruptAsked())
    assert [s.text for s in made.actions(ac.Say)].count("killing every worker") == 1
    end = made.until_exit(1)
    assert end == ac.Exit(1, "2 workers had to be killed")


def test_second_interrupt_with_one_worker() -> None:
    made = simulator(pool())
    made.work_for = lambda p: Work(round=50.0, frozen=True)
    made.start().run(1)
    made.do(ev.InterruptAsked())
    made.do(ev.InterruptAsked())
    assert made.until_exit(1).reason == "1 worker had to be killed"


def test_interrupt_does_not_give_new_time_to_those_already_interrupted() -> None:
    made = simulator(pool(drain_timeout=1.0, stop_timeout=5.0))
    made.work_for = lambda p: Work(round=math.inf, deaf_to_int=True)
    made.start().run(1)
    now = made.now
    made.do(ev.DrainAsked())
    made.run(3)
    made.do(ev.InterruptAsked())
    made.until_exit()
    assert made.now - now == pytest.approx(6.0, abs=0.01)


def test_interrupts_ladder_ends_with_a_kill() -> None:
    made = simulator(pool(stop_timeout=5.0))
    made.work_for = lambda p: Work(round=math.inf, frozen=True)
    made.start().run(1)
    now = made.now
    made.do(ev.InterruptAsked())
    assert made.until_exit().code == 1
    assert made.now - now == pytest.approx(5.0, abs=0.01)


# -- exit codes -------------------------------------------------------------------------


def test_deaths_while_running_leave_the_exit_code_alone() -> None:
    made = started(pool())
    made.die(made.alive()[0], "killed by SIGSEGV")
    made.settle()
    made.run(10)
    made.do(ev.DrainAsked())
    assert made.until_exit().code == 0


def test_kill_long_before_the_stop_is_no_failure_of_it() -> None:
    made = started(pool(drain_timeout=1.0, stop_timeout=1.0))
    (old,) = made.alive()
    old.work.frozen = True
    made.do(ev.ReplacementWanted(old.id, "max_rss"))
    made.run(5)
    assert old.phase == "gone"
    made.do(ev.DrainAsked())
    assert made.until_exit() == ac.Exit(0, None)


def test_kill_of_a_hanging_setup_in_a_stop_counts() -> None:
    made = started(pool(ready_timeout=5.0, stop_timeout=3.0))
    made.work_for = lambda p: Work(setup=None, frozen=True)
    made.die(made.alive()[0], "killed by SIGSEGV")
    made.settle()
    made.run(6)
    made.do(ev.DrainAsked())
    assert made.until_exit().code == 1


# -- what is stale ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        ev.Imported(999),
        ev.ImportFailed(999, "no"),
        ev.ZygoteDied(999, "no"),
        ev.Spawned(999, 4),
        ev.SpawnFailed(999, "no"),
        ev.BecameReady(999),
        ev.Acknowledged(999, 3),
        ev.SeenInSetup(999),
        ev.LeaseSeen(999, 1.0, None),
        ev.ReplacementWanted(999, "max_rss"),
        ev.RoundDone(999),
        ev.RoundOverdue(999, 1.0),
        ev.StackPrinted(999),
        ev.Killed(999),
        ev.Recovered(999),
        ev.Died(999, "no", False),
        ev.ConfigRefused("no"),
        ev.ConfigAccepted(settings()),
    ],
    ids=lambda e: type(e).__name__,
)
def test_stale_reports_change_nothing(event: ev.Event) -> None:
    made = started(pool())
    before = made.status()
    assert made.daemon.handle(event, made.now) == []
    assert made.status() == before


def test_reports_that_come_twice_change_nothing() -> None:
    made = started(pool())
    (process,) = made.alive()
    for event in (ev.BecameReady(process.id), ev.Imported(1)):
        assert made.daemon.handle(event, made.now) == []


def test_import_that_is_over_after_its_time_out_is_ignored() -> None:
    made = started(pool(ready_timeout=2.0))
    made.code_for = lambda z: Code(imports=None)
    made.end_zygote(made.zygotes[1])
    made.settle()
    made.run(1.9)
    late = max(made.zygotes)
    made._do = lambda a, do=made._do: None if isinstance(a, ac.KillZygote) else do(a)  # type: ignore[method-assign,misc]
    made.run(0.2)
    made.do(ev.Imported(late))
    assert made.spawn_orders(since=made.now) == []
    assert made.pool().zygotes[late].state is ZygoteState.LOST


# -- readiness and durations -----------------------------------------------------------


def test_a_daemon_that_drains_is_not_ready_though_every_worker_is_there() -> None:
    made = simulator(pool(workers=2))
    made.work_for = lambda p: Work(round=50.0)
    made.start().run(1)
    assert made.daemon.ready
    made.do(ev.DrainAsked())
    assert len(made.alive()) == 2
    assert not made.daemon.ready
    assert made.status()["ready"] is False


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.4, "400 ms"), (1.5, "1.5 s"), (119, "119 s"), (120, "2 min"), (600, "10 min")],
)
def test_durations_as_people_write_them(value: float, words: str) -> None:
    assert format_duration(value) == words
