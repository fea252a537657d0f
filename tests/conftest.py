"""What tests of the running daemon, and of its processes, share."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_harness import Daemon
from hypothesis import HealthCheck, settings
from ports import free_port
from postgresql_server import PostgreSQL, postgresql
from redis_server import Redis, redis
from zygote_harness import DEADLINE, ZygoteHarness

# Here, before any test is read: a machine that stands still for a moment is no failure.
settings.register_profile("patient", deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("patient")

# What makes Python write at once, or leave no bytecode, is not set where users are.
for name in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):
    os.environ.pop(name, None)
os.umask(0o022)  # users that tests become have to reach what the tests' own user has made


FIRST = ("zygote",)  # they fork the test's own process, whose descriptors grow with what it has run
LAST = ("packaging", "systemd")  # what needs root and a distribution's archive, and takes longest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the tests last that build packages and boot machines: by then the rest has passed."""
    items.sort(key=lambda item: place(item.path.parent.name))


def place(folder: str) -> int:
    return LAST.index(folder) + 1 if folder in LAST else -(folder in FIRST)


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """See that a test closes what it opens: select() and a fork suffer from what is left open."""
    before = open_files()
    yield
    end = time.monotonic() + DEADLINE
    while (left := open_files() - before).total() >= 4 and time.monotonic() < end:
        time.sleep(0.05)  # another thread, which builds packages, may just begin a process
    assert left.total() < 4, f"descriptors were left open: {left}"


def open_files() -> Counter[str]:
    """Return what the descriptors of this process lead to."""
    found: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[os.readlink(f"/proc/self/fd/{fd}")] += 1
    return found


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    """One server for all tests, each with schemas of its own."""
    with postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """One server for all tests, each with a prefix of its own."""
    with redis() as server:
        yield server


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon to be configured and started; nothing of it is left after the test."""
    with Daemon(tmp_path) as running:
        yield running


@pytest.fixture
def port() -> int:
    """A port of loopback that nobody uses."""
    return free_port()


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[ZygoteHarness]:
    """A main process without a core, for zygotes and workers; none is left after the test."""
    made = ZygoteHarness(tmp_path)
    yield made
    made.close()


@pytest.fixture
def as_root() -> None:
    """Skip the test where it is not run by root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
