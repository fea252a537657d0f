"""What the scoreboard says, whatever is written there."""

from __future__ import annotations

import random

import pytest

from graced.core import events as ev
from graced.host.scoreboard import (
    CHILD_GROUP,
    DEADLINE,
    LEASE_SINCE,
    LEASE_UNTIL,
    LEASED,
    PHASE,
    PID,
    QUEUE,
    READY_AT,
    Phase,
    WorkerRecord,
)
from graced.supervisor.monitor import NANOSECONDS, ScoreboardMonitor

NOW = 1000.0
WORST = (-1, -(2**63), 2**55, 2**62, 2**63 - 1)


def watched(**words: int) -> tuple[ScoreboardMonitor, WorkerRecord]:
    record = WorkerRecord.detached()
    monitor = ScoreboardMonitor()
    monitor.allow_leases(3600.0)
    monitor.add(1, record, 10.0, NOW - 100)
    for name, value in words.items():
        setattr(record, name, value)
    return monitor, record


@pytest.mark.parametrize("word", WORST)
def test_a_lease_that_no_worker_can_take_is_none(word: int) -> None:
    monitor, record = watched(lease_since=int((NOW - 1) * NANOSECONDS))
    record.words[LEASE_UNTIL] = word
    assert monitor.lease(1, NOW) == (0.0, None)


@pytest.mark.parametrize("word", WORST)
def test_a_lease_that_began_at_no_time_is_none(word: int) -> None:
    monitor, record = watched(lease_until=int((NOW + 10) * NANOSECONDS))
    record.words[LEASE_SINCE] = word
    assert monitor.lease(1, NOW) == (0.0, None)


@pytest.mark.parametrize("word", WORST)
def test_leases_took_no_longer_than_the_life(word: int) -> None:
    monitor, record = watched(leased=3 * NANOSECONDS)
    assert monitor.lease(1, NOW) == (3.0, None)
    record.words[LEASED] = word
    held = monitor.lease(1, NOW + 1)[0]
    assert held <= 3.0
    assert monitor.lease(1, NOW + 1000)[0] == held, "or the ladder's clock would stand still"


def test_a_lease_of_the_longest_time_is_believed() -> None:
    since, until = int(NOW * NANOSECONDS), int((NOW + 3600) * NANOSECONDS)
    monitor, _ = watched(lease_since=since, lease_until=until)
    assert monitor.lease(1, NOW) == (0.0, NOW + 3600)


@pytest.mark.parametrize("word", WORST)
def test_a_deadline_of_nonsense_is_not_due_for_ever(word: int) -> None:
    """One of -1 was due at every turn of the loop: a core was busy with it."""
    monitor, record = watched(ready_at=1, phase=Phase.BUSY, round_started=int(NOW * NANOSECONDS))
    record.words[DEADLINE] = word
    monitor.rang(1, NOW)
    due = monitor.next_deadline()
    assert due is None or due > NOW


@pytest.mark.parametrize("word", WORST)
def test_what_names_no_process_names_none(word: int) -> None:
    _, record = watched()
    record.words[CHILD_GROUP] = record.words[PID] = record.words[QUEUE] = word
    assert (record.child_group, record.pid, record.queue) == (0, 0, 0)


def test_a_ring_of_nobody_has_all_looked_at() -> None:
    """Half a ring may be another's: what was written there by mistake has put all out of step."""
    monitor, record = watched()
    monitor.add(7, record, None, NOW)
    assert monitor.to_look_at([]) == []
    assert monitor.to_look_at([7]) == [7]
    monitor.drop(7)
    assert monitor.to_look_at([7, 1]) == [7, 1], "it has just gone"
    for nobody in (-1, 0, 8, 2**40):
        assert monitor.to_look_at([nobody]) == [1]
    assert monitor.to_look_at(None) == [1]


@pytest.mark.parametrize("seed", range(200))
def test_random_words_are_read_without_harm(seed: int) -> None:
    chance = random.Random(seed)
    monitor, record = watched()
    monitor.watch_rounds(1)
    now = NOW
    for _ in range(50):
        for _ in range(chance.randrange(8)):
            record.words[chance.randrange(32)] = chance.choice(
                [chance.getrandbits(64) - 2**63, chance.randrange(-2, 8), *WORST]
            )
        if chance.random() < 0.3:
            record.words[READY_AT], record.words[PHASE] = 1, Phase.BUSY
        now += chance.random()
        events = [*monitor.rang(1, now), *monitor.due(now), *monitor.leases(now)]
        assert record.text is not None
        for event in events:
            if isinstance(event, ev.LeaseSeen) and event.held_until is not None:
                assert event.held_until <= now + 3600
            if isinstance(event, ev.Acknowledged):
                assert 0 <= event.ack <= 3
        reading = monitor.readings(now)[1]
        assert reading.rounds >= 0
        assert reading.errors >= 0
        assert reading.busy_for is None or reading.busy_for >= 0
        assert monitor.new_stack(1) in (True, False)
