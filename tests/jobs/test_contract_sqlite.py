"""The embedded engine keeps the contract of all queues."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract import QueueContract
from kept import Kept

from graced.core.settings import Retry
from graced.jobs.policy import Policy


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Kept]:
    with Kept(tmp_path, Policy(retry=Retry(0.01, 2.0, 0.1))) as kept:
        yield kept.start()


class TestSQLite(QueueContract):
    """The keeper and its file."""
