"""Random histories: whatever happens, in whatever order, the law of the world holds.

Besides the law, which judges every single event: nothing spins, reports of the dead
change nothing, a world that behaves again comes to full strength, and a stop ends.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace

from core_simulator import Code, HostLease, Simulator, Work, pool, settings
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from graced.core import events as ev
from graced.core.states import DaemonState, PoolState
from graced.settings import Backoff, Pool

NAMES = ("a", "b", "c")

WORKS = (
    Work(),
    Work(round=0.3),
    Work(round=2.0, setup=1.0, teardown=0.5),
    Work(round=0.2, dies_after=3),
    Work(round=0.2, raises=True, dies_after=2),
    Work(round=0.5, wants_after=2),
    Work(lives=0.02),
    Work(setup=0.5, setup_fails="setup() raised KeyError"),
    Work(setup=None),
    Work(setup=None, frozen=True),
    Work(round=0.3, stuck_round=2, frozen=True),
    Work(round=0.3, stuck_round=1, stuck_for=3.005),
    Work(round=5.0, deaf_to_int=True, deaf_to_term=True),
    Work(round=4.0, teardown=9.0, dies_late=2.5),
    Work(round=1.0, leases=((0.5, 6.0, 4.0), (8.0, 2.0, math.inf))),
    Work(round=math.inf, leases=((0.1, 3.0, 3.0),)),
)
CODES = (
    Code(),
    Code(imports=1.0, forks=0.3),
    Code(imports=0.2, fails="SyntaxError"),
    Code(imports=None),
    Code(forks=None),
    Code(silent=True),
    Code(fails="SyntaxError", lingers=True),
    Code(fork_fails="no memory"),
    Code(lives=0.004),
    Code(lives=2.0),
)
SPANS = (0.0005, 0.003, 0.03, 0.11, 0.5, 1.0, 3.0, 10.0, 70.0)

# Good behaviour three times as often as each bad one, so that histories get somewhere.
works = st.lists(st.sampled_from(WORKS[:3] * 3 + WORKS), min_size=1, max_size=4)
codes = st.lists(st.sampled_from(CODES[:2] * 5 + CODES), min_size=1, max_size=3)


@st.composite
def pools(draw: st.DrawFn) -> tuple[Pool, ...]:
    """Settings of one to three pools, each after some of those before it."""
    names = draw(st.permutations(NAMES))[: draw(st.integers(1, 3))]
    made: list[Pool] = []
    for name in names:
        after = tuple(p.name for p in made if draw(st.booleans()))
        made.append(
            pool(
                name,
                after=after,
                workers=draw(st.integers(1, 3)),
                surge=draw(st.integers(0, 3)),
                ready_timeout=draw(st.sampled_from((2.0, 6.0))),
                drain_timeout=draw(st.sampled_from((0.0, 1.0, 8.0))),
                stop_timeout=draw(st.sampled_from((0.0, 0.5, 3.0))),
                round_timeout=draw(st.sampled_from((None, 3.0))),
                max_rounds=draw(st.sampled_from((None, None, 1, 4))),
                max_age=draw(st.sampled_from((None, None, 0.5, 12.0))),
                backoff=Backoff(limit=4.0, reset=draw(st.sampled_from((1.0, 20.0)))),
            )
        )
    return tuple(made)


class Histories(RuleBasedStateMachine):
    """One daemon, to which anything may happen."""

    @initialize(first=pools(), mix=works, code=codes)
    def begin(self, first: tuple[Pool, ...], mix: list[Work], code: list[Code]) -> None:
        self.jitters = 0
        self.simulator = Simulator(settings(*first), jitter=self._jitter)
        self.behave(mix)
        self.load(code)
        self.simulator.start()

    def _jitter(self) -> float:
        self.jitters += 1
        return self.jitters * 0.37 % 1.0

    # -- time -------------------------------------------------------------------------

    @rule(span=st.sampled_from(SPANS))
    def pass_time(self, span: float) -> None:
        simulator = self.simulator
        ticks, busiest = len(simulator.ticks), 1
        end = simulator.now + span
        while simulator.step(end):
            busiest = max(busiest, len(simulator.daemon.members()))
        simulator.now = end
        spent = len(simulator.ticks) - ticks
        assert spent <= 10 + 25 * busiest * (span + 1), f"{spent} ticks in {span} s"

    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.simulator.step(self.simulator.now + 100)

    # -- how the world behaves from here on --------------------------------------------

    @rule(mix=works)
    def behave(self, mix: list[Work]) -> None:
        self.simulator.work_for = lambda p: mix[p.nth % len(mix)]

    @rule(code=codes)
    def load(self, code: list[Code]) -> None:
        self.simulator.code_for = lambda z: code[z.id % len(code)]

    # -- what people ask for -------------------------------------------------------------

    @rule(new=pools(), broken=st.booleans())
    def reload(self, new: tuple[Pool, ...], broken: bool) -> None:
        self.simulator.next_config = "config.yaml:1:1: no" if broken else settings(*new)
        self.simulator.do(ev.ReloadAsked())

    @rule()
    def reload_unchanged(self) -> None:
        self.simulator.do(ev.ReloadAsked())

    @rule(name=st.sampled_from(NAMES), workers=st.integers(0, 4))
    def scale(self, name: str, workers: int) -> None:
        self.simulator.law.by_hand = True
        self.simulator.do(ev.ScaleAsked(name, workers))

    # -- leases of a server's jobs ----------------------------------------------------

    @rule(name=st.sampled_from(NAMES), length=st.sampled_from((5.0, 9.0)))
    def lease_jobs(self, name: str, length: float) -> None:
        held = [lease.pool for lease in self.simulator.host_leases]
        if name in self.simulator.daemon.pools and name not in held:
            HostLease(self.simulator, name, length)

    @rule(told=st.booleans())
    def renew_leases(self, told: bool) -> None:
        for lease in self.simulator.host_leases:
            if told or lease.until - self.simulator.now > lease.length / 2:
                lease.renew()
                if told:  # as a keeper does where the main process may be at work
                    lease.tell()

    @rule(data=st.data())
    def lose_job(self, data: st.DataObject) -> None:
        busy = self.simulator.alive(phase="busy")
        if busy:
            self.simulator.do(ev.JobLost(data.draw(st.sampled_from(busy)).id))

    @precondition(lambda self: self.simulator.now > 1010)
    @rule(event=st.sampled_from((ev.DrainAsked(), ev.InterruptAsked())))
    def stop(self, event: ev.Event) -> None:
        self.simulator.do(event)

    # -- what happens to processes ---------------------------------------------------------

    @rule(data=st.data(), how=st.sampled_from(("die", "die", "term", "int", "leave")))
    def hurt_worker(self, data: st.DataObject, how: str) -> None:
        alive = self.simulator.alive()
        if not alive:
            return
        process = alive[data.draw(st.integers(0, len(alive) - 1))]
        if how == "die":
            self.simulator.die(process, "killed by SIGSEGV")
        elif how == "leave":
            self.simulator.die(process, "drained", planned=True)
        else:
            self.simulator.law.by_hand = True
            (self.simulator.sigterm if how == "term" else self.simulator.sigint)(process)
        self.simulator.settle()

    @rule(data=st.data())
    def cancel_job(self, data: st.DataObject) -> None:
        alive = self.simulator.alive()
        if alive:
            process = alive[data.draw(st.integers(0, len(alive) - 1))]
            self.simulator.do(ev.JobCancelled(process.id, 7))

    @rule(data=st.data())
    def kill_zygote(self, data: st.DataObject) -> None:
        living = [z for z in self.simulator.zygotes.values() if z.state != "gone"]
        if living:
            self.simulator.end_zygote(living[data.draw(st.integers(0, len(living) - 1))])
            self.simulator.settle()

    @rule(data=st.data())
    def hear_of_the_dead(self, data: st.DataObject) -> None:
        simulator = self.simulator
        dead = [p.id for p in simulator.processes.values() if simulator.daemon.find(p.id) is None]
        number = dead[data.draw(st.integers(0, len(dead) - 1))] if dead else 10**6
        event = data.draw(st.sampled_from(reports(number)))
        simulator.do(ev.Tick())  # time may have passed
        before = simulator.status()
        assert simulator.daemon.handle(event, simulator.now) == []
        assert simulator.status() == before

    @rule(data=st.data())
    def hear_again(self, data: st.DataObject) -> None:
        """A report that is true, but not news, starts nothing new."""
        simulator = self.simulator
        members = [m for m in simulator.daemon.members() if m.pid is not None and not m.leaving]
        if not members or simulator.exit is not None:
            return
        member = members[data.draw(st.integers(0, len(members) - 1))]
        if member.state.value == "ready":
            simulator.do(ev.BecameReady(member.id))

    # -- what always holds -------------------------------------------------------------------

    @invariant()
    def status_can_be_told(self) -> None:
        if hasattr(self, "simulator"):
            status = self.simulator.status()
            assert status["state"] in {s.value for s in DaemonState}

    def teardown(self) -> None:
        if hasattr(self, "simulator"):
            self._recover()
            self._end()

    def _recover(self) -> None:
        """A world that behaves again comes to full strength, in the newest generation."""
        simulator = self.simulator
        self.behave([Work(round=0.5)])
        self.load([Code()])
        for zygote in simulator.zygotes.values():
            zygote.code = replace(zygote.code, forks=0.002, fork_fails=None, silent=False)
        simulator.next_config = simulator.daemon.settings
        simulator.until(lambda: simulator.daemon.stopping or self._recovered(), within=300)
        words = simulator.law.words
        if not simulator.daemon.stopping:
            assert words.count("READY") == words.count("RELOADING") + 1

    def _recovered(self) -> bool:
        simulator = self.simulator
        daemon = simulator.daemon
        return daemon.state is DaemonState.RUNNING and all(
            made.complete
            and made.state is PoolState.UP
            and not made.restarts.backoff.active
            and len(simulator.serving(made.name)) >= made.target - (made.settings.surge == 0)
            and all(m.generation == daemon.generation for m in made.staying())
            for made in daemon.pools.values()
        )

    def _end(self) -> None:
        """Whatever the world is like, a stop ends."""
        simulator = self.simulator
        if simulator.exit is None:
            simulator.do(ev.DrainAsked())
            end = simulator.until_exit(300)
            assert end.code in (0, 1)
        assert not simulator.daemon.members()
        assert simulator.law.words.count("STOPPING") == 1


def reports(worker: int) -> list[ev.Event]:
    """All that could still be said of a worker or a zygote that is gone."""
    return [
        ev.Spawned(worker, 4),
        ev.SpawnFailed(worker, "no"),
        ev.BecameReady(worker),
        ev.Acknowledged(worker, 1),
        ev.Acknowledged(worker, 3),
        ev.SeenInSetup(worker),
        ev.LeaseSeen(worker, 1.0, 1e9),
        ev.ReplacementWanted(worker, "max_rss"),
        ev.RoundDone(worker),
        ev.JobCancelled(worker, 7),
        ev.JobLost(worker),
        ev.SeenAtJob(worker),
        ev.RoundOverdue(worker, 1.0),
        ev.StackPrinted(worker),
        ev.Killed(worker),
        ev.Recovered(worker),
        ev.Died(worker, "no", False),
        ev.Imported(worker),
        ev.ImportFailed(worker, "no"),
        ev.ZygoteDied(worker, "no"),
    ]


TestHistories = Histories.TestCase
TestHistories.settings = hypothesis_settings(
    max_examples=int(os.environ.get("GRACED_HISTORIES", "200")),
    stateful_step_count=40,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking would take many minutes
)
