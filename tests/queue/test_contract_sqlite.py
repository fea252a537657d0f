"""The embedded engine keeps the contract of all queues."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract import QueueContract
from keeper_harness import KeeperHarness

from graced.queue.policy import Policy
from graced.settings import Retry


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[KeeperHarness]:
    with KeeperHarness(tmp_path, Policy(retry=Retry(0.01, 2.0, 0.1))) as harness:
        yield harness.start()


class TestSQLite(QueueContract):
    """The keeper and its file."""
