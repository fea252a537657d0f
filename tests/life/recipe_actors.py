"""Actors of dramatiq for the tests of its recipe, with a broker in memory and a message in it."""

from __future__ import annotations

import os
import time

import dramatiq
from dramatiq.brokers.stub import StubBroker
from sample_workers import say

dramatiq.set_broker(StubBroker())


@dramatiq.actor
def gated() -> None:
    say("begin")
    while not os.path.exists(os.environ["GATE"]):
        time.sleep(0.005)
    say("end")


gated.send()
