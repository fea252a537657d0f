"""Instants of schedules on their way into a queue on a server, which takes what it has room for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from graced.queue.instants import Instants
from graced.queue.protocol import Accepted
from graced.queue.timing import NEVER


def test_as_long_as_some_are_taken_the_rest_is_soon_tried_again() -> None:
    asked: list[Accepted] = []

    def submit(*_job: Any) -> Accepted:
        asked.append(Accepted())
        return asked[-1]

    storage: Any = SimpleNamespace(
        write_paused=False, refusal=lambda: None, clock=SimpleNamespace(now=lambda: 0)
    )
    dispatcher: Any = SimpleNamespace(submit=submit)
    told: list[tuple[Any, ...]] = []
    instants = Instants(storage, told.append)
    for n in range(5):
        instants.submit("s", n, "1", 0.0, False)
    while len(told) < 5:  # a server with room for one
        while not asked:
            instants.turn(dispatcher)
        asked[0].tell([7])
        for accepted in asked[1:]:
            accepted.tell("the queue is full")
        asked.clear()
        instants.committed()
        assert instants.sleep() <= 0.1 or instants.sleep() == NEVER
    assert told == [("kept", "s", n, "made", 7) for n in range(5)]
