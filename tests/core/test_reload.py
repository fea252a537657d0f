"""A reload is a transaction: every phase, accepted and refused, alone and on top of trouble."""

from __future__ import annotations

import math

import pytest
from core_simulator import Code, Process, Simulator, Work, pool, settings, simulator, started

from graced.core import actions as ac
from graced.core import events as ev
from graced.core.states import ReloadPhase
from graced.settings import Pool, Settings


def reload(made: Simulator, *pools: Pool | str) -> None:
    """Ask for a reload that reads these pools; a text stands for a broken file."""
    if pools:
        first = pools[0]
        new = first if isinstance(first, str) else settings(*pools)  # type: ignore[arg-type]
        made.next_config = new
    made.do(ev.ReloadAsked())


def over(made: Simulator) -> bool:
    return made.daemon.reloads.current is None and not made.daemon.reloads.queued


def ended(made: Simulator) -> list[ac.EndReload]:
    return made.actions(ac.EndReload)


def refused(made: Simulator, within: float = 100.0) -> str:
    made.until(lambda: over(made), within)
    end = ended(made)[-1]
    assert not end.ok
    assert made.said("reloading")
    assert made.said(f"reload refused: {end.reason}")
    assert made.status()["state"] == "running"
    assert made.law.words[-1] == "READY"
    return end.reason or ""


def accepted(made: Simulator, within: float = 100.0) -> None:
    made.until(lambda: over(made), within)
    assert ended(made)[-1] == ac.EndReload(True, None)
    assert made.law.words[-1] == "READY"


def old(made: Simulator) -> list[Process]:
    return made.alive(generation=1)


# -- accepted --------------------------------------------------------------------------


def test_reload_replaces_every_worker_and_loses_none() -> None:
    made = simulator(pool(workers=4))
    made.work_for = lambda p: Work(round=0.7, setup=0.5, teardown=0.3)
    made.start().until(lambda: made.daemon.ready)
    made.run(1)
    reload(made, pool(workers=4, max_rounds=9))
    assert made.status()["state"] == "reloading"
    while not over(made):
        assert len(made.serving()) >= 4
        assert len(made.alive()) <= 9
        made.step()
    accepted(made)
    assert sorted(p.slot for p in made.serving()) == [0, 1, 2, 3]
    assert {p.generation for p in made.serving()} == {2}
    assert made.daemon.generation == 2
    assert made.daemon.settings.pools["jobs"].max_rounds == 9
    made.run(2)
    assert old(made) == []
    assert all(what == "TERM" for p in made.processes.values() for _, what in p.heard)
    assert all(p.good == p.rounds for p in made.processes.values())
    assert made.actions(ac.Commit) == [ac.Commit(2)]
    assert made.law.words == ["READY", "RELOADING", "READY"]


def test_nothing_old_is_touched_before_the_canary_is_ready() -> None:
    made = started(pool(workers=2))
    made.work_for = lambda p: Work(setup=5.0)
    made.code_for = lambda z: Code(imports=3.0)
    reload(made)
    made.run(7.9)
    assert len(made.spawn_orders()) == 3
    assert all(p.heard == [] for p in made.processes.values())
    assert made.actions(ac.Commit) == []
    made.run(0.2)
    assert made.actions(ac.Commit) == [ac.Commit(2)]


def test_it_is_over_when_the_old_ones_were_told_to_drain_not_when_they_are_gone() -> None:
    made = simulator(pool(workers=2, drain_timeout=100.0))
    made.work_for = lambda p: Work(round=50.0)
    made.start().until(lambda: made.daemon.ready)
    reload(made)
    accepted(made, within=5)
    assert len(old(made)) == 2
    assert all(p.drained for p in old(made))


@pytest.mark.parametrize("surge", [1, 2, 4])
def test_surge_bounds_the_workers_ahead(surge: int) -> None:
    made = started(pool(workers=4, surge=surge))
    made.work_for = lambda p: Work(setup=1.0)
    reload(made)
    most = 0
    while not over(made):
        most = max(most, len([p for p in made.alive() if not p.drained]))
        made.step()
    accepted(made)
    assert most == min(4 + surge, 7)  # the canary has come and its predecessor gone before


def test_zygote_of_the_old_generation_is_killed_once_its_workers_are_gone() -> None:
    made = simulator(pool())
    made.work_for = lambda p: Work(round=5.0)
    made.start().run(1)
    reload(made)
    accepted(made)
    assert made.zygotes[1].state == "imported"
    made.until(lambda: not old(made))
    made.run(1)
    assert made.zygotes[1].state == "gone"


def test_new_settings_hold_for_new_workers_only() -> None:
    made = simulator(pool(workers=1, drain_timeout=3.0, stop_timeout=1.0))
    made.work_for = lambda p: Work(round=math.inf, deaf_to_int=True)
    made.start().run(1)
    now = made.now
    reload(made, pool(workers=1, drain_timeout=300.0))
    made.until(lambda: not old(made))
    assert made.now - now == pytest.approx(4.0, abs=0.2)


def test_pool_is_added() -> None:
    made = started(pool("a"))
    reload(made, pool("a"), pool("b", workers=3, after=("a",)))
    accepted(made)
    assert len(made.serving("b")) == 3
    assert {p.generation for p in made.serving()} == {2}


def test_pool_is_removed() -> None:
    made = simulator(pool("a"), pool("b", workers=2))
    made.work_for = lambda p: Work(round=5.0)
    made.start().run(1)
    reload(made, pool("a"))
    accepted(made)
    assert set(made.daemon.pools) == {"a", "b"}
    assert made.daemon.ready  # what is on its way out does not count
    made.run(6)
    assert made.alive("b") == []
    assert set(made.daemon.pools) == {"a"}
    assert all(p.good == 1 for p in made.processes.values() if p.pool.name == "b")


def test_removed_pool_outlives_the_old_workers_that_came_after_it() -> None:
    made = started(pool("db"), pool("web", workers=2, after=("db",)))
    for process in made.alive("web"):
        process.work.teardown = 4.0
    reload(made, pool("web", workers=2))
    made.until(lambda: len(made.alive("web", generation=2)) == 2)
    made.run(3)
    assert made.alive("db")[0].heard == []
    made.run(5)
    assert made.alive("db") == []
    accepted(made)
    assert set(made.daemon.pools) == {"web"}


def test_killed_workers_of_a_removed_pool_count_only_if_the_stop_meets_them() -> None:
    for seconds, code in ((5.0, 0), (0.0, 1)):
        made = simulator(pool("a"), pool("b", drain_timeout=1.0, stop_timeout=1.0))
        made.work_for = lambda p: Work(round=math.inf if p.pool.name == "b" else 1.0, frozen=True)
        made.start().run(1)
        made.alive("a")[0].work.frozen = False
        made.work_for = lambda p: Work()
        reload(made, pool("a"))
        made.run(seconds)
        assert set(made.daemon.pools) == ({"a"} if seconds else {"a", "b"})
        made.do(ev.DrainAsked())
        assert made.until_exit().code == code


def test_pool_shrinks_and_grows() -> None:
    made = started(pool(workers=4))
    reload(made, pool(workers=2))
    accepted(made)
    made.run(1)
    assert sorted(p.slot for p in made.alive()) == [0, 1]
    reload(made, pool(workers=5))
    accepted(made)
    assert sorted(p.slot for p in made.serving()) == [0, 1, 2, 3, 4]


def test_scale_holds_until_the_next_reload() -> None:
    made = started(pool(workers=2))
    made.do(ev.ScaleAsked("jobs", 4))
    made.run(1)
    reload(made)
    accepted(made)
    made.run(1)
    assert len(made.alive()) == 2


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_scale_during_the_proof_is_not_undone_by_the_commit(workers: int) -> None:
    made = started(pool(workers=2))
    made.code_for = lambda z: Code(imports=5.0)
    reload(made)
    made.do(ev.ScaleAsked("jobs", workers))
    made.run(1)
    assert len(made.serving(generation=1)) == workers
    accepted(made)
    made.run(1)
    assert len(made.serving(generation=2)) == len(made.alive()) == workers
    reload(made)
    accepted(made)
    assert len(made.serving()) == 2


def test_canary_of_a_pool_waits_for_those_that_it_comes_after() -> None:
    made = started(pool("web", after=("db",)), pool("db"))
    made.work_for = lambda p: Work(setup=2.0)
    reload(made)
    made.run(1)
    assert made.alive("web", generation=2) == []
    made.run(1.5)
    assert len(made.alive("web", generation=2)) == 1


def test_no_canary_before_all_code_is_loaded() -> None:
    made = started(pool("a"), pool("b", surge=0))
    made.code_for = lambda z: (
        Code(imports=5.0, fails="SyntaxError") if z.pool.name == "a" else Code()
    )
    reload(made)
    made.run(4.9)
    assert len(made.spawn_orders()) == 2
    assert refused(made) == "pool a: SyntaxError"
    assert all(p.heard == [] for p in made.processes.values())


# -- refused ----------------------------------------------------------------------------


def untouched(made: Simulator, count: int = 2) -> None:
    """The old generation has not missed a round, and the next reload works."""
    made.run(20)
    assert len(made.serving(generation=1)) == count
    assert all(p.heard == [] for p in made.processes.values() if p.generation == 1)
    assert len(made.alive()) == count
    assert made.daemon.generation == 1
    made.work_for = lambda p: Work()
    made.code_for = lambda z: Code()
    reload(made, pool(workers=count))
    accepted(made)
    assert made.daemon.generation == 2  # a refused one used up no number
    assert made.actions(ac.Commit) == [ac.Commit(2)]


def test_broken_file_is_refused() -> None:
    made = started(pool(workers=2))
    reload(made, "config.yaml:7:5: nonsense")
    assert refused(made) == "config.yaml:7:5: nonsense"
    assert made.law.words == ["READY", "RELOADING", "READY"]
    assert len(made.zygotes) == 1
    untouched(made)


@pytest.mark.parametrize("key", ["name", "runtime_dir", "state_dir", "user", "group"])
def test_what_cannot_change_is_refused_by_name(key: str) -> None:
    made = started(pool(workers=2))
    made.next_config = Settings(pools={"jobs": pool(workers=2)}, **{key: "new"})  # type: ignore[arg-type]
    made.do(ev.ReloadAsked())
    reason = refused(made)
    assert reason.startswith(f"{key} can't change in a running daemon")
    assert "new" in reason
    untouched(made)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (Code(fails="SyntaxError: line 3"), "pool jobs: SyntaxError: line 3"),
        (Code(imports=None), "pool jobs: importing graced.workers:Command took longer than 30 s"),
        (
            Code(lives=0.0001),
            "pool jobs: could not be forked: its zygote was killed by SIGKILL",
        ),
        (Code(fork_fails="no memory"), "pool jobs: could not be forked: no memory"),
    ],
    ids=["fails", "hangs", "dies", "can't fork"],
)
def test_code_that_does_not_load_is_refused(code: Code, reason: str) -> None:
    made = started(pool(workers=2))
    made.code_for = lambda z: code
    reload(made)
    assert refused(made) == reason
    untouched(made)


def test_zygote_that_does_not_fork_is_refused() -> None:
    made = started(pool(workers=2, ready_timeout=4.0, stop_timeout=1.0))
    made.code_for = lambda z: Code(forks=None)
    reload(made)
    made.until(lambda: over(made))
    assert not ended(made)[-1].ok
    untouched(made)


@pytest.mark.parametrize("event", [ev.DrainAsked(), ev.InterruptAsked()])
def test_stop_does_not_wait_for_a_candidate_whose_zygote_does_not_fork(event: ev.Event) -> None:
    made = started(pool(workers=2, ready_timeout=40.0, stop_timeout=4.0))
    made.code_for = lambda z: Code(forks=None)
    made.do(ev.ReloadAsked())
    made.run(1)
    at = made.now
    made.do(event)
    assert made.until_exit().code == 0
    assert made.now - at == pytest.approx(2.0, abs=0.01)


def test_zygote_that_does_not_fork_is_killed_soon_after_its_reload_was_refused() -> None:
    made = started(pool(workers=2, ready_timeout=4.0, stop_timeout=3.0))
    made.code_for = lambda z: Code(forks=None)
    reload(made)
    made.until(lambda: over(made))
    made.run(1.6)
    assert [z.state for z in made.zygotes.values()] == ["imported", "gone"]
    untouched(made)


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (Work(setup_fails="setup() raised KeyError"), "pool jobs: setup() raised KeyError"),
        (Work(setup=None), "pool jobs: setup() took longer than 30 s"),
        (Work(setup=None, frozen=True), "pool jobs: setup() took longer than 30 s"),
    ],
    ids=["raises", "hangs", "frozen"],
)
def test_setup_that_fails_is_refused(work: Work, reason: str) -> None:
    made = started(pool(workers=2))
    made.work_for = lambda p: work
    reload(made)
    assert refused(made) == reason
    untouched(made)
    made.run(60)  # by then it is killed, if need be
    assert (made.pool().restarts.deaths, made.pool().restarts.last_deaths) == (0, [])


@pytest.mark.parametrize("signal", ["TERM", "INT"])
def test_canary_that_is_asked_to_leave_by_hand_is_no_proof(signal: str) -> None:
    made = started(pool(workers=2))
    made.work_for = lambda p: Work(setup=5.0)
    reload(made)
    made.run(1)
    (canary,) = made.alive(generation=2)
    (made.sigterm if signal == "TERM" else made.sigint)(canary)
    made.settle()
    assert "asked to leave" in refused(made)
    untouched(made)


def test_canary_that_dies_before_the_others_are_proven() -> None:
    made = started(pool("a"), pool("b"))
    made.work_for = lambda p: Work(setup=5.0 if p.pool.name == "b" else 0.1)
    reload(made)
    made.run(1)
    made.die(made.alive("a", generation=2)[0], "killed by SIGSEGV")
    made.settle()
    assert refused(made) == "pool a: killed by SIGSEGV"
    made.run(10)
    assert len(made.serving(generation=1)) == 2
    assert made.alive(generation=2) == []


def test_zygote_that_dies_after_its_canary_is_ready_but_before_the_others() -> None:
    made = started(pool("a"), pool("b"))
    made.work_for = lambda p: Work(setup=5.0 if p.pool.name == "b" else 0.1)
    reload(made)
    made.run(1)
    made.end_zygote(next(z for z in made.zygotes.values() if z.generation == 2))
    made.settle()
    assert "zygote" in refused(made)


def test_added_pool_of_a_refused_reload_goes_and_may_come_again_at_once() -> None:
    made = started(pool("a"))
    made.work_for = lambda p: Work(setup_fails="no") if p.pool.name == "b" else Work(teardown=5.0)
    reload(made, pool("a"), pool("c"), pool("b"))
    assert made.daemon.ready  # the new pool is not in force
    assert refused(made) == "pool b: no"
    made.work_for = lambda p: Work()
    reload(made)
    accepted(made)
    assert made.daemon.generation == 2
    assert {p.pool.name for p in made.serving()} == {"a", "b", "c"}


def test_removed_pool_that_comes_back_is_waited_for() -> None:
    made = simulator(pool("a"), pool("b"))
    made.work_for = lambda p: Work(round=9.0)
    made.start().run(1)
    reload(made, pool("a"))
    accepted(made)
    reload(made, pool("a"), pool("b"))
    made.run(1)
    assert not over(made)
    accepted(made, within=20)
    assert len(made.serving("b")) == 1


def test_refused_reload_says_nothing_of_the_next_generation() -> None:
    made = started(pool(workers=2, ready_timeout=2.0, stop_timeout=20.0))
    made.work_for = lambda p: Work(setup=None, deaf_to_int=True)
    reload(made)
    assert "took longer" in refused(made)
    made.work_for = lambda p: Work()
    reload(made)
    accepted(made, within=5)
    made.run(30)  # the first canary is killed in generation 2, whose number it has
    assert made.pool().restarts.deaths == 0  # of the workers in force
    assert made.pool().restarts.last_deaths == []
    assert not made.pool().restarts.backoff.active
    assert made.pool().restarts.backoff.since is None
    assert len(made.alive()) == 2


# -- surge 0 ------------------------------------------------------------------------------


def test_without_surge_each_old_worker_leaves_first_the_canarys_too() -> None:
    made = started(pool(workers=3, surge=0))
    made.work_for = lambda p: Work(setup=1.0)
    for process in made.alive():
        process.work.teardown = 1.0
    reload(made, pool(workers=3, surge=0))
    while not over(made):
        assert len(made.alive()) <= 3
        assert len(made.serving()) >= 2
        made.step()
    accepted(made)


def test_without_surge_a_canary_that_fails_gives_its_slot_back() -> None:
    made = started(pool(workers=2, surge=0))
    made.work_for = lambda p: Work(setup=2.0, setup_fails="no") if p.generation == 2 else Work()
    reload(made)
    assert refused(made) == "pool jobs: no"
    made.run(1)
    assert sorted(p.slot for p in made.serving(generation=1)) == [0, 1]
    assert made.pool().restarts.deaths == 0  # of the workers in force
    assert made.pool().restarts.last_deaths == []
    assert not made.pool().restarts.backoff.active


def test_without_surge_a_refusal_while_the_old_worker_leaves() -> None:
    made = started(pool("a", surge=0), pool("b"))
    made.alive("a")[0].work.teardown = 5.0
    made.work_for = lambda p: Work(setup_fails="no") if p.pool.name == "b" else Work()
    reload(made, pool("a", surge=0), pool("b"))
    assert refused(made) == "pool b: no"
    made.run(10)
    assert len(made.serving("a", generation=1)) == 1
    assert len(made.alive()) == 2


def test_death_of_the_old_worker_while_it_makes_room() -> None:
    made = started(pool(surge=0))
    made.alive()[0].work.teardown = 5.0
    reload(made)
    made.until(lambda: made.alive()[0].phase == "teardown")
    made.die(made.alive()[0], "killed by SIGSEGV")
    made.settle()
    accepted(made)


# -- one after the other --------------------------------------------------------------------


def test_however_many_arrive_exactly_one_more_follows() -> None:
    made = started(pool(workers=2))
    for _ in range(1000):
        reload(made)
    made.until(lambda: ended(made))
    assert made.status()["state"] == "reloading"  # the next one has begun at once
    made.run(60)
    assert len(made.actions(ac.ReadConfig)) == 2
    assert [e.ok for e in ended(made)] == [True, True]
    assert made.law.words == ["READY"] + ["RELOADING", "READY"] * 2
    assert made.daemon.generation == 3


def test_one_that_follows_a_refused_one() -> None:
    made = started(pool())
    made.code_for = lambda z: Code(imports=2.0, fails="no")
    reload(made)
    made.run(1)
    made.code_for = lambda z: Code()
    reload(made)
    made.run(10)
    assert [e.ok for e in ended(made)] == [False, True]
    assert made.daemon.generation == 2


def test_further_reload_waits_for_the_draining() -> None:
    made = simulator(pool(workers=2, drain_timeout=1000.0))
    made.work_for = lambda p: Work(round=100.0)
    made.start().until(lambda: made.daemon.ready)
    reload(made)
    accepted(made)
    assert len(made.pool().leaving()) == 2
    reload(made)
    while not over(made):
        assert len(made.pool().leaving()) <= 2
        assert len(made.serving()) >= 2
        made.step()
    accepted(made)
    assert made.now > 1100.0
    assert {p.generation for p in made.serving()} == {3}


def test_reload_asked_during_the_start_begins_when_ready() -> None:
    made = simulator(pool())
    made.work_for = lambda p: Work(setup=5.0)
    made.start().run(1)
    reload(made)
    assert made.actions(ac.ReadConfig) == []
    made.run(20)
    assert made.daemon.generation == 2
    assert made.law.words == ["READY", "RELOADING", "READY"]


def test_reload_mends_a_start_that_is_in_backoff() -> None:
    made = simulator(pool(workers=2), pool("late", after=("jobs",)))
    made.work_for = lambda p: (
        Work(setup_fails="no") if p.slot == 1 and p.generation == 1 else Work()
    )
    made.start().run(5)
    assert made.status()["state"] == "starting"
    reload(made, pool(workers=2), pool("late", after=("jobs",)))
    made.run(10)
    assert ended(made) == [ac.EndReload(True, None)]
    assert made.law.words == ["READY"]
    assert made.daemon.generation == 2
    assert made.daemon.ready
    assert len(made.alive()) == 3


def test_refused_reload_of_a_start_in_backoff() -> None:
    made = simulator(pool(workers=2))
    made.work_for = lambda p: Work(setup_fails="no") if p.slot == 1 else Work()
    made.start().run(5)
    reload(made, "broken")
    made.code_for = lambda z: Code(fails="no")
    reload(made, pool(workers=2), pool("new", worker="bad"))
    assert made.law.words == []
    made.work_for = lambda p: Work(round=0.1)
    made.run(60)
    assert made.law.words == ["READY"]
    assert not any(e.ok for e in ended(made))


# -- trouble in between -----------------------------------------------------------------------


def test_death_of_an_old_worker_during_the_proof_is_replaced_from_the_old_generation() -> None:
    made = started(pool(workers=2))
    made.code_for = lambda z: Code(imports=5.0)
    reload(made)
    made.die(made.alive(slot=0)[0], "killed by SIGSEGV")
    made.settle()
    made.run(1)
    assert len(made.serving(generation=1)) == 2
    accepted(made)
    made.run(1)
    assert len(made.alive()) == 2


@pytest.mark.parametrize("surge", [1, 2, 3])
def test_commit_while_workers_are_recycled(surge: int) -> None:
    made = started(pool(workers=3, surge=surge))
    made.work_for = lambda p: Work(setup=6.0 if p.slot else 0.5)
    for process in made.alive():
        made.do(ev.ReplacementWanted(process.id, "max_rss"))
    reload(made)
    made.until(lambda: made.actions(ac.Commit))
    made.run(0.1)
    assert made.alive(generation=1, phase="setup") == []  # overtaken before they were ready
    accepted(made, within=60)
    made.run(20)
    assert sorted(p.slot for p in made.alive()) == [0, 1, 2]
    assert {p.generation for p in made.alive()} == {2}


def test_recycling_all_the_time_does_not_keep_a_reload_from_its_end() -> None:
    made = simulator(pool(workers=4, max_rounds=1, surge=4))
    made.work_for = lambda p: Work(round=0.5, setup=0.4)
    made.start().until(lambda: made.daemon.ready)
    reload(made)
    accepted(made, within=10)


def test_backoff_after_the_commit_ends_the_reload_as_incomplete() -> None:
    made = started(pool(workers=2))
    made.work_for = lambda p: Work(setup_fails="no") if p.slot == 1 else Work()
    reload(made)
    made.until(lambda: over(made))
    end = ended(made)[-1]
    assert (end.ok, end.incomplete) == (False, True)
    assert end.reason == "pool jobs is in back-off: no, after the change"
    assert made.said("reload incomplete")
    assert made.law.words[-1] == "READY"
    assert len(made.serving()) == 2  # the old worker of slot 1 goes on
    assert made.daemon.generation == 2
    made.work_for = lambda p: Work(round=1.0)
    made.run(60)
    assert {p.generation for p in made.alive()} == {2}


def test_new_code_that_cannot_be_loaded_again_ends_the_reload_as_incomplete() -> None:
    made = started(pool(workers=2))
    made.work_for = lambda p: Work(setup=3.0)
    reload(made)
    made.until(lambda: made.actions(ac.Commit))
    made.code_for = lambda z: Code(fails="SyntaxError")
    made.end_zygote(next(z for z in made.zygotes.values() if z.generation == 2))
    made.settle()
    made.until(lambda: over(made), within=10)
    assert not ended(made)[-1].ok
    made.code_for = lambda z: Code()
    made.run(60)
    assert {p.generation for p in made.alive()} == {2}


def test_slots_that_died_under_the_old_code_owe_nothing_to_the_new() -> None:
    made = started(pool(workers=2))
    made.run(1)
    made.work_for = lambda p: Work(setup_fails="no")
    for slot in (0, 1):
        made.die(made.alive(slot=slot)[0], "killed by SIGSEGV")
    made.settle()
    made.run(2)
    made.work_for = lambda p: Work(lives=1.0) if p.slot == 1 and not _second(made) else Work()
    reload(made)
    accepted(made)
    made.run(1.5)
    assert not made.pool().restarts.backoff.active


def _second(made: Simulator) -> bool:
    """Whether slot 1 already had a worker of the new generation."""
    return any(p.slot == 1 and p.generation == 2 and p.pid for p in made.processes.values())


def test_round_of_the_canary_does_not_speak_for_the_old_code() -> None:
    made = started(pool("a", workers=2), pool("b"))
    made.run(1)
    made.work_for = lambda p: Work(setup_fails="no")
    made.die(made.alive("a", slot=1)[0], "killed by SIGSEGV")
    made.settle()
    made.until(lambda: made.pool("a").restarts.backoff.active)
    made.work_for = lambda p: (
        (Work(round=0.1) if p.pool.name == "a" else Work(setup=20.0))
        if p.generation == 2
        else Work(setup_fails="no")
    )
    reload(made)
    made.run(5)
    assert made.alive("a", generation=2)[0].good
    assert made.pool("a").restarts.backoff.active
    assert not made.said("a round was completed")


# -- stops --------------------------------------------------------------------------------------


def phase(made: Simulator) -> ReloadPhase | None:
    current = made.daemon.reloads.current
    return None if current is None else current.phase


@pytest.mark.parametrize("stop", [ev.DrainAsked(), ev.InterruptAsked()], ids=["drain", "int"])
@pytest.mark.parametrize("after", [0.0, 0.5, 1.5, 3.5, 5.5, 30.0])
@pytest.mark.parametrize("surge", [0, 1])
def test_stop_in_every_phase(stop: ev.Event, after: float, surge: int) -> None:
    made = started(pool("a", workers=3, surge=surge), pool("b", after=("a",)))
    made.work_for = lambda p: Work(setup=2.0)
    made.code_for = lambda z: Code(imports=1.0)
    reload(made, pool("a", workers=3, surge=surge), pool("c"), pool("b", after=("a",)))
    made.run(after)
    under_way = not over(made)
    reload(made)
    made.do(stop)
    now = made.now
    assert made.until_exit().code == 0
    assert made.now - now < 1
    ends = ended(made)
    assert not ends[-1].ok or not under_way
    assert made.law.words[-1] == "STOPPING"


def test_a_stop_tells_whether_the_new_generation_was_in_force() -> None:
    for committed in (False, True):
        made = started(pool(workers=2))
        made.work_for = lambda p: Work(setup=3.0)
        reload(made)
        if committed:
            made.until(lambda: made.actions(ac.Commit))  # noqa: B023  # called at once
        made.do(ev.DrainAsked())
        assert ended(made) == [ac.EndReload(False, "the daemon is stopping", committed)]


def test_reload_asked_in_a_stop_is_refused() -> None:
    made = simulator(pool())
    made.work_for = lambda p: Work(round=5.0)
    made.start().run(1)
    made.do(ev.DrainAsked())
    reload(made)
    assert ended(made) == [ac.EndReload(False, "the daemon is stopping")]


def test_stop_while_the_order_of_pools_is_turned_round() -> None:
    made = started(pool("a"), pool("b", after=("a",)))
    for process in made.alive():
        process.work.teardown = 5.0
    reload(made, pool("b"), pool("a", after=("b",)))
    made.until(lambda: made.actions(ac.Commit))
    made.do(ev.DrainAsked())
    assert made.until_exit(60).code == 0


def test_removed_pools_that_are_held_leave_in_a_stop() -> None:
    made = started(pool("db"), pool("web", workers=2, after=("db",)))
    made.work_for = lambda p: Work(setup=5.0)
    reload(made, pool("web", workers=2))
    made.until(lambda: made.actions(ac.Commit))
    made.do(ev.DrainAsked())
    assert made.until_exit(60).code == 0


def test_recycling_all_the_time_leaves_room_for_the_canary() -> None:
    made = simulator(pool(workers=2, max_age=0.5))
    made.work_for = lambda p: Work(setup=0.31)
    made.start().until(lambda: made.daemon.ready)
    made.run(5)
    reload(made)
    made.until(lambda: made.actions(ac.Commit), within=5)


@pytest.mark.parametrize("surge", [0, 1])
def test_recycling_all_the_time_lets_every_slot_have_its_turn(surge: int) -> None:
    made = simulator(pool(workers=4, max_rounds=1, surge=surge))
    made.work_for = lambda p: Work(round=0.1 if p.slot < 2 else 4.0, setup=0.5)
    made.start().until(lambda: made.daemon.ready)
    reload(made)
    accepted(made, within=20)


def test_recycling_without_surge_leaves_the_canary_alone() -> None:
    made = started(pool("a", surge=0), pool("b"))
    made.work_for = lambda p: Work(setup=5.0 if p.pool.name == "b" else 0.1)
    reload(made, pool("a", surge=1), pool("b"))
    made.run(1)
    (canary,) = made.alive("a", generation=2)
    made.do(ev.ReplacementWanted(made.alive("a", generation=1)[0].id, "max_rss"))
    assert canary.heard == []
    accepted(made)
    assert made.serving("a") == [canary]


def test_canary_in_a_slot_that_has_just_become_empty_counts_as_ahead() -> None:
    made = started(pool(workers=2))
    made.work_for = lambda p: Work(setup=3.0)
    made.do(ev.ReplacementWanted(made.alive(slot=1)[0].id, "max_rss"))
    reload(made)
    made.run(1)
    made.die(made.alive(slot=0)[0], "killed by SIGSEGV")
    made.settle()
    while not over(made):
        assert len([p for p in made.alive() if not p.drained]) <= 3
        made.step()
    accepted(made)


def test_canary_beside_a_slot_that_is_between_two_workers_counts_as_ahead() -> None:
    made = simulator(pool("a", workers=2, round_timeout=3.0), pool("b"))
    stuck = Work(round=math.inf, frozen=True, dies_late=2.0)
    made.work_for = lambda p: stuck if p.pool.name == "a" and p.slot == 0 else Work()
    made.start().until(lambda: made.daemon.ready)
    made.work_for = lambda p: Work(setup=30.0 if p.pool.name == "b" else 0.1)
    reload(made)
    made.until(lambda: made.actions(ac.Kill))
    made.work_for = lambda p: Work(setup=5.0)
    made.do(ev.ReplacementWanted(made.alive("a", slot=1)[0].id, "max_rss"))
    made.run(20)  # the law counts
    assert len(made.serving("a")) == 3


def test_canary_does_not_prove_the_slot_of_the_old_generation() -> None:
    made = simulator(pool("a", workers=2), pool("b"))
    made.work_for = lambda p: (
        Work(setup_fails="no") if (p.pool.name, p.slot) == ("a", 0) else Work()
    )
    made.start().until(lambda: made.pool("a").restarts.backoff.active)
    made.work_for = lambda p: (
        Work(setup_fails="no")
        if p.generation == 1
        else Work(setup=20.0 if p.pool.name == "b" else 0.1)
    )
    reload(made)
    made.run(10)
    assert made.alive("a", slot=0, generation=2)[0].phase == "ready"
    assert made.law.words == []


def test_nothing_spins_while_a_canary_has_the_slot_of_the_next_probe() -> None:
    made = started(pool(surge=0))
    made.work_for = lambda p: Work(setup_fails="no")
    made.die(made.alive()[0], "killed by SIGSEGV")
    made.settle()
    made.until(lambda: made.pool().restarts.backoff.active)
    made.work_for = lambda p: Work(setup=20.0)
    reload(made)
    ticks = len(made.ticks)
    made.run(19)
    assert len(made.ticks) - ticks < 5
    accepted(made)


def test_canary_that_needs_its_slot_waits_for_those_that_drain() -> None:
    made = started(pool(drain_timeout=100.0))
    made.alive()[0].work.teardown = 10.0
    made.do(ev.ReplacementWanted(made.alive()[0].id, "max_rss"))
    made.run(1)
    (first, second) = made.alive()
    assert (first.drained, second.drained) == (True, False)
    reload(made, pool(surge=0))
    made.run(5)
    assert second.heard == []
    accepted(made, within=20)


def test_reload_that_was_asked_for_begins_in_the_moment_the_other_ends() -> None:
    made = started(pool())
    made.alive()[0].work.frozen = True  # so that nothing else happens then
    reload(made)
    reload(made)
    made.until(lambda: ended(made))
    times = [t for t, a in made.did if isinstance(a, (ac.EndReload, ac.TellReloading))]
    assert times[1] == times[2]
    assert phase(made) is not None


def test_stop_ends_the_canary_of_a_pool_that_waits_for_others() -> None:
    made = started(pool("db"), pool("web", after=("db",)))
    made.alive("web")[0].work.teardown = 10.0
    made.work_for = lambda p: Work(setup=5.0)
    reload(made)
    made.run(1)
    made.do(ev.DrainAsked())
    assert made.alive("db", generation=2) == []
    assert made.alive("db", generation=1)[0].heard == []
    assert made.until_exit().code == 0


def test_reload_mends_a_pool_whose_lost_zygote_could_not_be_started_again() -> None:
    made = started(pool())
    made.code_for = lambda z: Code(fails="SyntaxError")
    made.end_zygote(made.zygotes[1])
    made.run(10)
    made.code_for = lambda z: Code()
    reload(made)
    accepted(made, within=5)
    made.run(60)
    assert len([z for z in made.zygotes.values() if z.state == "imported"]) == 1
    assert len([z for z in made.zygotes.values() if z.generation == 2]) == 1


def test_a_stop_asked_for_twice_tells_of_no_reload() -> None:
    made = started(pool())
    made.work_for = lambda p: Work(round=math.inf)
    made.run(1)
    made.do(ev.DrainAsked())
    made.do(ev.InterruptAsked())
    made.until_exit()
    assert not ended(made)
