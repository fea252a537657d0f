"""Wrong configurations: each is refused with its place, what is wrong and what to do, exit 78."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from daemon_harness import Daemon


class Wrong(NamedTuple):
    """A configuration, and patterns that its refusal must have in one line."""

    text: str
    place: str
    words: str


POOL = "pools:\n  jobs:\n    worker: sample_workers:Idle\n"
WRONG = {
    "unknown key": Wrong("nmae: x\n" + POOL, r":1:1: ", "nmae.*name"),
    "unknown key of a pool": Wrong(POOL + "    wrokers: 2\n", r":4:5: ", "wrokers.*workers"),
    "duration": Wrong(POOL + "    drain_timeout: 30 parsecs\n", r":4:20: ", "30 parsecs.*30s"),
    "negative duration": Wrong(POOL + "    stop_timeout: -5s\n", r":4:19: ", "-5s"),
    "size": Wrong(POOL + "    max_rss: 3 apples\n", r":4:14: ", "3 apples.*300M"),
    "zero rounds": Wrong(POOL + "    max_rounds: 0\n", r":4:17: ", "max_rounds"),
    "workers": Wrong(POOL + "    workers: many\n", r":4:14: ", "many.*cpus"),
    "no workers": Wrong(POOL + "    workers: -1\n", r":4:14: ", "-1"),
    "boolean": Wrong(POOL + "    preload: maybe\n", r":4:14: ", "maybe.*true"),
    "level": Wrong("log:\n  level: loud\n" + POOL, r":2:10: ", "loud.*info"),
    "format": Wrong("log:\n  format: xml\n" + POOL, r":2:11: ", "xml.*json"),
    "worker without class": Wrong(
        "pools:\n  jobs:\n    worker: sample_workers\n", r":3:13: ", "sample_workers.*:"
    ),
    "list for a mapping": Wrong("pools: [jobs]\n", r":1:8: ", "pools"),
    "scalar for a pool": Wrong("pools:\n  jobs: 3\n", r":2:9: ", "jobs"),
    "after nobody": Wrong(POOL + "    after: [nobody]\n", r":4:\d+: ", "nobody"),
    "after itself": Wrong(POOL + "    after: [jobs]\n", r":4:\d+: ", "jobs"),
    "duplicate key": Wrong(POOL + "    workers: 1\n    workers: 2\n", r":5:5: ", "workers"),
    "tag": Wrong(POOL + "    env: !!python/object:os.system {}\n", r":4:10: ", "tag|!!python"),
    "syntax": Wrong("pools: {jobs: [\n", r":\d+:\d+: ", "."),
    "tab": Wrong("pools:\n\tjobs: {}\n", r":2:1: ", "tab|\\\\t"),
    "backoff": Wrong(POOL + "    backoff: {first: soon}\n", r":4:22: ", "soon.*s"),
    "factor": Wrong(POOL + "    backoff: {factor: 0.1}\n", r":4:23: ", "factor"),
    "no such user": Wrong("user: nobody-at-all\n" + POOL, r":1:7: ", "nobody-at-all"),
    "env of lists": Wrong(POOL + "    env: {A: [1]}\n", r":4:14: ", "env"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_configuration_is_refused(daemon: Daemon, name: str) -> None:
    wrong = WRONG[name]
    daemon.write_config(wrong.text).start()
    daemon.ended(78)
    found = daemon.log.matching(rf"config\.yaml{wrong.place}.*({wrong.words})")
    assert found, str(daemon.log)
    assert "Traceback" not in str(daemon.log)


def test_all_errors_are_told_at_once(daemon: Daemon) -> None:
    daemon.write_config(POOL + "    workers: many\n    preload: maybe\n    drain_timeout: x\n")
    for command in ("run", "check"):
        result = daemon.run(command)
        assert result.returncode == 78, result
        told = result.stdout + result.stderr
        assert all(f"config.yaml:{line}:" in told for line in (4, 5, 6)), told


def test_an_unknown_variable_is_named(daemon: Daemon) -> None:
    daemon.pool()
    daemon.environ["GRACED__POOLS__JOBS__WROKERS"] = "3"
    result = daemon.run("check")
    assert result.returncode == 78
    assert "GRACED__POOLS__JOBS__WROKERS" in result.stdout + result.stderr


def test_a_bad_flag_is_named(daemon: Daemon) -> None:
    daemon.pool()
    result = daemon.run("check", "--set", "pools.jobs.workers=many")
    assert result.returncode == 78
    assert "--set: pools.jobs.workers: cannot read 'many'" in result.stdout + result.stderr


def test_a_missing_file(daemon: Daemon) -> None:
    result = daemon.run("run", "-c", "/nowhere/config.yaml")
    assert result.returncode == 78
    assert "/nowhere/config.yaml" in result.stderr
    assert "Traceback" not in result.stderr


def test_commands_work_while_the_rest_of_the_file_is_broken(daemon: Daemon) -> None:
    daemon.pool().start().ready()
    text = daemon.config.read_text()
    daemon.write_config(text + "    workers: many\n    nonsense: 1\n")
    assert daemon.status()["pid"] == daemon.pid
    assert daemon.run("stop").returncode == 0
    daemon.ended(0)
