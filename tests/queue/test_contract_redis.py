"""Queues in Redis keep the contract of all queues."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract import QueueContract
from keeper_harness import KeeperHarness
from redis_server import Redis

from graced.queue.policy import Policy
from graced.settings import Retry


@pytest.fixture
def queue(tmp_path: Path, redis_server: Redis) -> Iterator[KeeperHarness]:
    policy = Policy(retry=Retry(0.01, 2.0, 0.1))
    with KeeperHarness(tmp_path, policy, url=redis_server.made()) as harness:
        yield harness.start()


class TestRedis(QueueContract):
    """The keeper and its server."""
