"""Machines for the tests: one for each version of systemd, up while its tests run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from machine import LAB, SUITES, Machine, cleaned

HERE = str(Path(__file__).parent)
REQUIRED = "GRACED_LAB_REQUIRED"  # set where a machine that can't be had is a failure


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have these last: they take longest, and what they use has been tested by then."""
    items.sort(key=lambda item: str(item.path).startswith(HERE))


@pytest.fixture(scope="session")
def trees(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[str]]]:
    """Build the root file systems that are missing, one while the one before is tested.

    What comes of each is the reason why there is none, or nothing.
    """
    if why := _impossible():
        _give_up(why)
    wanted = [
        suite for suite in SUITES if any(_wants(item, suite) for item in request.session.items)
    ]
    with ThreadPoolExecutor(max_workers=1) as builder:
        yield {suite: builder.submit(_build, suite) for suite in wanted}
        builder.shutdown(cancel_futures=True)


@pytest.fixture(scope="session", params=list(SUITES))
def booted(request: pytest.FixtureRequest, trees: dict[str, Future[str]]) -> Iterator[Machine]:
    """A machine that is up."""
    suite: str = request.param
    if why := trees[suite].result():
        _give_up(f"no root file system of {suite} (is there a network?): {why}")
    with Machine(suite) as machine:
        yield machine


@pytest.fixture
def machine(booted: Machine) -> Iterator[Machine]:
    """A machine that is up, with nothing of an earlier test in it."""
    with cleaned(booted):
        yield booted


def _impossible() -> str | None:
    """Return why no machine can be booted here, or None."""
    if os.geteuid() != 0:
        return "needs root, to boot machines with a systemd of their own"
    missing = [name for name in ("unshare", "nsenter", "apt-get") if not shutil.which(name)]
    if missing:
        return f"needs {', '.join(missing)}, to boot machines with a systemd of their own"
    line = "unshare --pid --mount --uts --ipc --cgroup --net --fork mount -t tmpfs lab /mnt"
    tried = subprocess.run(line.split(), capture_output=True, text=True, timeout=60, check=False)
    return f"no new namespaces here: {tried.stderr.strip()}" if tried.returncode else None


def _wants(item: pytest.Item, suite: str) -> bool:
    call = getattr(item, "callspec", None)
    return call is not None and call.params.get("booted") == suite


def _build(suite: str) -> str:
    line = ["nice", str(LAB), "build", suite]  # the tests that run meanwhile come first
    built = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False)
    return built.stderr[-500:] if built.returncode else ""


def _give_up(why: str) -> None:
    if os.environ.get(REQUIRED):
        pytest.fail(why)
    pytest.skip(why)
