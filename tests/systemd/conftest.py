"""Machines for the tests: one for each version of systemd, up while its tests run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from machine import SUITES, Machine, build, cleaned, give_up, impossible


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have those that wait until a time limit of systemd's is over for its oldest and newest."""
    left_out = {item for item in items if item.get_closest_marker("waits") and _is_between(item)}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def _is_between(item: pytest.Item) -> bool:
    _oldest, *between, _newest = SUITES
    return any(_wants(item, suite) for suite in between)


@pytest.fixture(scope="session")
def trees(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[str]]]:
    """Build the root file systems that are missing, one while the one before is tested.

    What comes of each is the reason why there is none, or nothing.
    """
    if why := impossible():
        give_up(why)
    wanted = [
        suite for suite in SUITES if any(_wants(item, suite) for item in request.session.items)
    ]
    with ThreadPoolExecutor(max_workers=1) as builder:
        yield {suite: builder.submit(build, suite) for suite in wanted}
        builder.shutdown(cancel_futures=True)


@pytest.fixture(scope="session", params=list(SUITES))
def booted(request: pytest.FixtureRequest, trees: dict[str, Future[str]]) -> Iterator[Machine]:
    """A machine that is up."""
    suite: str = request.param
    if why := trees[suite].result():
        give_up(f"no root file system of {suite} (is there a network?): {why}")
    with Machine(suite) as machine:
        yield machine


@pytest.fixture
def machine(booted: Machine) -> Iterator[Machine]:
    """A machine that is up, with nothing of an earlier test in it."""
    with cleaned(booted):
        yield booted


def _wants(item: pytest.Item, suite: str) -> bool:
    call = getattr(item, "callspec", None)
    return call is not None and call.params.get("booted") == suite
