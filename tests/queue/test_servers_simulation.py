"""Three hosts that share a queue on a server: whatever goes wrong, no job runs twice at once.

Longer by hand: ``python tests/queue/servers_simulator.py 1000000 7``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest
from servers_simulator import LawBroken, World, world

from graced.core import fence
from graced.fencing import moments
from graced.queue.job import Done
from graced.queue.policy import Policy
from graced.queue.servers.dispatcher import ServedDispatcher
from graced.queue.servers.link import Answer, Handout
from graced.queue.servers.storage import ServedQueue

STEPS = 4000


def play(seed: int, change: Callable[[World], None] = lambda _world: None) -> World:
    with world(seed) as made:
        change(made)
        made.run(STEPS)
        made.end()
        return made


@pytest.mark.parametrize("seed", range(8))
def test_jobs_are_done_once_and_never_twice_at_once(seed: int) -> None:
    made = play(seed)
    assert len(made.server.done) > 50, "something happens"


def broken(change: Callable[[World], None] = lambda _world: None) -> None:
    """The law finds it out, within some histories."""
    with pytest.raises(LawBroken):
        deque((play(seed, change) for seed in range(40)), maxlen=0)


def test_the_law_finds_a_late_settle_that_is_said_and_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ServedDispatcher, "_not_ours", lambda *_: None)
    broken(lambda made: setattr(made.server, "accepts_late", True))


def test_the_law_finds_a_lease_that_is_counted_from_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    granted = ServedQueue._granted
    monkeypatch.setattr(ServedQueue, "_granted", lambda self, _asked: granted(self, self._now()))
    broken()


def test_the_law_finds_a_kill_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(until: float, length: float, stop_timeout: float) -> tuple[float, float]:
        return moments(until + 3.0, length, stop_timeout)

    monkeypatch.setattr(fence, "moments", late)
    broken()


def test_a_worker_that_dies_before_it_is_adopted_is_not() -> None:
    """Its jobs stay with the daemon before, whose lease ends."""
    dispatcher = ServedDispatcher(Policy(), lambda: 0.5, lambda name: False, lambda text: None)
    dispatcher.join("before:1", [(5, 1)], 0)
    dispatcher.bury("before:1", None, 0)
    assert not dispatcher.next_turn(30.0, looks=False).adopted


def test_a_worker_of_another_daemon_gets_no_job_under_our_lease() -> None:
    """It has found the keeper of a dead one, and will find its own."""
    ours = "now:1"
    dispatcher = ServedDispatcher(Policy(), lambda: 0.5, ours.__eq__, lambda text: None)
    for name in ("next:1", ours):
        dispatcher.join(name, [], 0)
        dispatcher.ask(name, 0)
    assert dispatcher.next_turn(30.0, looks=False).idle == [ours]


def test_what_ended_under_a_lease_that_is_over_is_not_said_of_another_job_of_its_number() -> None:
    said: list[str] = []
    dispatcher = ServedDispatcher(Policy(), lambda: 0.5, lambda name: True, said.append)
    ids = range(1, 4)
    for id in ids:
        dispatcher.ask(f"now:{id}", 0)
    jobs = [Handout(id, 1, f"now:{id}", "", 0, 0, 0, 0, None, "null") for id in ids]
    dispatcher.answered(dispatcher.next_turn(30.0, looks=False), Answer(jobs=jobs))
    for id in (1, 2):
        dispatcher.settle(f"now:{id}", id, 1, Done(), False, 0)
    dispatcher.unanswered(dispatcher.next_turn(30.0, looks=False))
    dispatcher.settle("now:3", 3, 1, Done(), False, 0)
    dispatcher.joined(jobs[:1], first=False, was_over=True)
    assert [settle.id for settle in dispatcher.next_turn(30.0, looks=False).settles] == [1]
    assert ["if it came too late" in text for text in said] == [True, False]
    assert ["settled too late" in text for text in said] == [False, True]


def test_a_turn_waits_for_those_that_were_given_jobs_last_while_some_have_ended() -> None:
    dispatcher = ServedDispatcher(Policy(), lambda: 0.5, lambda name: True, lambda text: None)
    for name in ("now:1", "now:2"):
        dispatcher.ask(name, 0)
    jobs = [Handout(id, 1, f"now:{id}", "", 0, 0, 0, 0, None, "null") for id in (1, 2)]
    dispatcher.answered(dispatcher.next_turn(30.0, looks=False), Answer(jobs=jobs))
    assert len(dispatcher.handouts()) == 2
    assert not dispatcher.has_stragglers, "there is nothing to say yet"
    dispatcher.settle("now:1", 1, 1, Done(), True, 0)
    assert dispatcher.has_stragglers
    dispatcher.bury("now:2", None, 0)
    assert not dispatcher.has_stragglers
