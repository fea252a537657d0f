"""The pytest plugin: the fixture ``daemon``, and the daemon's log in the report of a failure.

pytest finds it by itself, in every project where graced is installed: it imports nothing of graced
until the fixture is used.
"""

from __future__ import annotations

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any

    from graced.testing.daemon import Daemon

_started: pytest.StashKey[list[Daemon]] = pytest.StashKey()


@pytest.fixture
def daemon(request: pytest.FixtureRequest) -> Iterator[Callable[..., Daemon]]:
    """Start the real daemon: ``daemon(config, "pools.jobs.workers=2")``, or a mapping, or text.

    It is ready when the call returns, and gone with all that it started when the test is over.
    What it can be asked is said at :class:`graced.testing.Daemon`.
    """
    from graced.testing.daemon import Daemon

    started = request.node.stash.setdefault(_started, [])

    def start(config: Any, *sets: str, **options: Any) -> Daemon:
        made = Daemon(config, *sets, **options)
        started.append(made)
        return made.start().ready()

    yield start
    for each in started:
        each.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Have what the daemon has said in the report of a test that failed."""
    outcome = yield
    started = item.stash.get(_started, None)
    report = outcome.get_result()
    if started and report.failed:
        report.sections += [(f"log of {each.config}", str(each.log)) for each in started]
