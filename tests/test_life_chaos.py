"""A worker that writes nonsense wherever it can harms nobody but itself."""

from __future__ import annotations

import pytest
from chaos import configure, live, stop
from harness import Daemon

SECONDS = 10.0  # by hand, for as long as you like: python tests/chaos.py


@pytest.mark.parametrize("seed", [1])
def test_the_main_process_answers_whatever_workers_write(daemon: Daemon, seed: int) -> None:
    configure(daemon, seed).start().ready()
    live(daemon, SECONDS)
    stop(daemon)
    assert not daemon.log.matching("bug in graced")
