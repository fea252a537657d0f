"""The real program and its queue: every promise of the contract on jobs."""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import select
import shlex
import signal
import sqlite3
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from daemon_harness import DEADLINE, SOON, TESTS, Daemon, pidfd, stat, wait_gone

from graced.cli.main import main
from graced.host import credentials
from graced.queue.client_end import ClientEnd
from graced.queue.terms import Terms

HERE = str(TESTS / "queue")


@pytest.fixture
def jobs(daemon: Daemon) -> Daemon:
    return daemon


def pool(daemon: Daemon, worker: str, **keys: Any) -> Daemon:
    quick = {"first": "10ms", "factor": 2, "limit": "50ms"}
    keys = {"path": [HERE, str(TESTS)], "retry": quick, **keys}
    return daemon.pool(worker, **keys)


def command(daemon: Daemon, **keys: Any) -> Daemon:
    return pool(daemon, "graced.workers:Command", **keys)


def submitted(daemon: Daemon, *words: str) -> int:
    done = daemon.run("submit", *words)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def listed(daemon: Daemon, *words: str) -> list[dict[str, Any]]:
    done = daemon.run("jobs", "--json", *words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def ended(daemon: Daemon, state: str, count: int = 1) -> list[dict[str, Any]]:
    def look() -> list[dict[str, Any]]:
        found = listed(daemon, "--state", state)
        return found if len(found) >= count else []

    return daemon.until(look)


def stream(daemon: Daemon, lines: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        daemon.command("submit", "--json", "-", *words),
        env={**daemon.environment(), "GRACED_CONFIG": str(daemon.config)},
        input="\n".join(lines),
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


# JobWorker


def test_a_job_is_done_and_its_result_kept(jobs: Daemon) -> None:
    pool(jobs, "sample_job_workers:Counting", workers=2).start().ready()
    id = submitted(jobs, "--json", '{"n": 1}')
    [job] = ended(jobs, "done")
    assert job["id"] == id
    assert job["payload"] == {"n": 1}
    assert job["result"]["slot"] in (0, 1)
    assert job["attempts"] == 1
    assert jobs.status()["pools"]["jobs"]["queue"] == {
        "waiting": 0, "taken": 0, "done": 1, "dead": 0, "paused": False,
    }  # fmt: skip
    jobs.send(signal.SIGTERM)
    jobs.ended(0)
    jobs.nothing_left()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("raise", '"ValueError: this job raises"'),
        ("late", '"not there yet"'),
        ("much later", "write seconds, from 0 to 316224000"),
        ("altered", "Retry.after is 1e+30: no delay of a job"),
        ("garbled", "keeper refuses what this worker says: a settle that cannot be read"),
        ("discard", '"nobody needs it"'),
        ("long", '"xxxx'),
        ("caught", '"of no use"'),
        ("bare discard", '"reason": "NotAsked", "discarded": true'),
        ("bare retry", '"reason": "NotYet: not yet: the disk is away"}'),
        ("object", "handle() returned what is no JSON value"),
        ("nan", "handle() returned what is no JSON value"),
        ("exit", "sys.exit(3)"),
        ("segfault", "SIGSEGV"),
        ("hang", "a round took longer than 500 ms"),
    ],
)
def test_what_goes_wrong_is_kept_as_evidence(jobs: Daemon, payload: str, reason: str) -> None:
    pool(jobs, "sample_job_workers:Various", round_timeout="500ms" if payload == "hang" else None)
    jobs.start().ready()
    submitted(jobs, "--json", f'"{payload}"', "--max-attempts", "2")
    good = submitted(jobs, "--json", '"good"')
    [job] = ended(jobs, "dead")
    assert reason in json.dumps(job["evidence"]), job
    once = payload in ("discard", "bare discard", "caught", "long")
    assert job["attempts"] == (1 if once else 2)
    assert [j["id"] for j in ended(jobs, "done")] == [good], "its neighbours are done"


def test_a_segfault_leaves_its_signal_and_its_stack(jobs: Daemon) -> None:
    pool(jobs, "sample_job_workers:Various").start().ready()
    submitted(jobs, "--json", '"segfault"')
    [job] = ended(jobs, "dead")
    assert job["attempts"] == 3
    assert job["evidence"]["signal"] == "SIGSEGV"
    assert "handle" in job["evidence"]["stack"]


def test_jobs_that_crash_their_worker_hold_no_other_one_up(jobs: Daemon) -> None:
    pool(jobs, "sample_job_workers:Various", retry={"first": "1h", "limit": "1h"}).start().ready()
    assert stream(jobs, ['"segfault"'] * 8).returncode == 0
    assert jobs.run("submit", "--wait", "--json", '"good"').returncode == 0
    assert len(jobs.log.wait("died: killed by SIGSEGV", 8)) == 8
    assert not jobs.log.matching("starting again in"), "no back-off for what the jobs have done"
    assert jobs.status()["pools"]["jobs"]["backoff"] is None


def test_retry_says_when(jobs: Daemon) -> None:
    pool(jobs, "sample_job_workers:Various", retry={"first": "1h", "limit": "1h"}).start().ready()
    submitted(jobs, "--json", '"retry"')
    [job] = ended(jobs, "done")
    assert (job["attempts"], job["result"]) == (2, 2)


def test_a_drain_finishes_the_job_in_hand_and_takes_no_more(jobs: Daemon) -> None:
    pool(jobs, "sample_job_workers:UntilDrained").start().ready()
    assert stream(jobs, ["1"] * 5).returncode == 0
    jobs.events.wait("begin")
    jobs.send(signal.SIGTERM)
    jobs.ended(0)
    assert len(jobs.events.matching("^begin")) == len(jobs.events.matching("^end")) == 1
    states = Counter(job["state"] for job in listed(jobs))
    assert states == {"done": 1, "waiting": 4}


def test_a_zombie_of_a_process_that_has_left_holds_no_stop(jobs: Daemon) -> None:
    """What is left of the worker's group has ended, but its parent, in another session, lives."""
    pool(jobs, "sample_job_workers:Various").start().ready()
    leaves = "(sleep 1800 & exec setsid sleep 3600) & sleep 900"
    submitted(jobs, "--json", json.dumps({"sh": leaves}))

    def left_its_session() -> list[int]:
        return [p for p, name in jobs.left().items() if name == "sleep" and stat(p)[3] == str(p)]

    [gone] = jobs.until(left_its_session)
    jobs.send(signal.SIGINT)
    jobs.ended(0, deadline=SOON)
    os.kill(gone, signal.SIGKILL)
    [job] = listed(jobs)
    assert (job["state"], job["attempts"]) == ("waiting", 0)


def test_an_interrupt_returns_the_job_with_no_attempt_lost(jobs: Daemon) -> None:
    pool(jobs, "sample_job_workers:Stubborn").start().ready()
    id = submitted(jobs, "--json", "1", "--max-attempts", "1")
    jobs.events.wait("begin")
    jobs.send(signal.SIGINT)
    jobs.ended(0)
    assert jobs.events.matching(f"cleaned {id}")
    [job] = listed(jobs)
    assert (job["state"], job["attempts"]) == ("waiting", 0)
    pool(jobs, "sample_job_workers:Counting")
    jobs.start().ready(2)
    [job] = ended(jobs, "done")
    assert (job["id"], job["attempts"]) == (id, 1)


def test_a_worker_interrupted_by_hand_gives_its_job_to_another(jobs: Daemon) -> None:
    pool(jobs, "sample_job_workers:Stubborn", workers=2).start().ready()
    submitted(jobs, "--json", "1")
    [begun] = jobs.events.wait("begin")
    with pidfd(begun.pid) as ending:  # one signal may come right before a system call
        jobs.until(lambda: has_ended(ending) or signal.pidfd_send_signal(ending, signal.SIGINT))
    again = jobs.events.wait("begin", 2)[1]
    assert again.pid != begun.pid
    assert again.words[2] == "1"  # the first interrupt of a job costs no attempt, whoever sent it


@pytest.mark.parametrize("payload", ["interrupt", "kill -INT", "KeyboardInterrupt"])
def test_a_job_that_interrupts_its_own_worker_is_not_repeated_for_ever(
    jobs: Daemon, payload: str
) -> None:
    pool(jobs, "sample_job_workers:Various").start().ready()
    submitted(jobs, "--json", json.dumps(payload), "--max-attempts", "3")
    [dead] = ended(jobs, "dead")
    assert dead["attempts"] == 3
    assert "interrupt" in json.dumps(dead["evidence"]).lower()
    attempts = [line.words[2] for line in jobs.events.matching("^handle ")]
    free = ["1"] * (payload != "KeyboardInterrupt")  # the first interrupt, but not what it raises
    assert attempts == [*free, "1", "2", "3"]
    submitted(jobs, "--json", "1")
    ended(jobs, "done")
    pool_status = jobs.status()["pools"]["jobs"]
    assert (pool_status["backoff"], pool_status["deaths"]) == (None, 0)


def test_jobs_that_kill_their_workers_hold_up_no_other(jobs: Daemon) -> None:
    """The deaths are theirs, and no evidence against the pool: it does not back off."""
    slow = {"first": "60s", "factor": 2, "limit": "60s"}
    pool(jobs, "sample_job_workers:Various", backoff=slow, max_attempts=2).start().ready()
    assert stream(jobs, ['"segfault"'] * 4 + ["1"]).returncode == 0
    ended(jobs, "done")
    assert len(ended(jobs, "dead", 4)) == 4
    assert not jobs.log.matching("back-off|starting again in")
    assert jobs.status()["pools"]["jobs"]["deaths"] == 8


def test_children_of_a_killed_worker_are_gone_before_its_job_runs_again(jobs: Daemon) -> None:
    pool(jobs, "sample_job_workers:Various", workers=2).start().ready()
    submitted(jobs, "--json", '"child"')
    [child] = jobs.events.wait("child")
    os.kill(child.pid, signal.SIGKILL)
    jobs.events.wait("handle", 2)
    assert is_dead(int(child.words[1]))


def has_ended(ending: int) -> bool:
    """Return whether the process of a pidfd is gone, or not yet reaped."""
    return bool(select.select([ending], [], [], 0)[0])


def is_dead(pid: int) -> bool:
    try:
        return stat(pid)[0] in "ZX"
    except OSError:  # and reaped
        return True


def test_jobs_go_on_while_the_keeper_is_killed(jobs: Daemon) -> None:
    pool(jobs, "sample_job_workers:Counting", workers=2, options={"seconds": 0.02}).start().ready()
    assert stream(jobs, ["1"] * 120).returncode == 0
    killed: set[int] = set()
    for kill in range(1, 4):
        jobs.events.wait("^end", kill * 25)
        [keeper] = jobs.until(lambda: [p for p, n in jobs.left().items() if n == "graced-keeper"])
        assert keeper not in killed
        os.kill(keeper, signal.SIGKILL)
        wait_gone([keeper])
        killed.add(keeper)
    jobs.log.wait("its keeper killed by SIGKILL; starting again", len(killed))
    jobs.events.wait("^end", 120)
    assert len(ended(jobs, "done", 120)) == 120
    assert len(jobs.events.matching("^begin")) == 120
    assert all(line.words[2] == "1" for line in jobs.events.matching("^begin"))


def test_a_drain_waits_for_the_next_keeper_to_settle(jobs: Daemon) -> None:
    pool(jobs, "sample_job_workers:UntilDrained").start().ready()
    submitted(jobs, "--json", "1")
    jobs.events.wait("^begin")
    [keeper] = [pid for pid, name in jobs.left().items() if name == "graced-keeper"]
    os.kill(keeper, signal.SIGSTOP)  # it takes no settle,
    jobs.send(signal.SIGTERM)
    jobs.events.wait("^end")
    os.kill(keeper, signal.SIGKILL)  # and dies with it unread
    jobs.ended(0)
    [job] = listed(jobs)
    assert (job["state"], job["attempts"]) == ("done", 1)


def runs_of(file: Path) -> dict[int, list[tuple[int, int | None]]]:
    """Return when each run of each job began and, if it did, ended."""
    runs: dict[int, list[tuple[int, int | None]]] = {}
    for line in file.read_text().splitlines():
        what, id, _pid, at = line.split()
        known = runs.setdefault(int(id), [])
        if what == "b":
            known.append((int(at), None))
        else:
            known[-1] = (known[-1][0], int(at))
    return runs


def test_kills_and_reloads_lose_nothing_and_double_nothing(jobs: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "runs"
    file.touch()
    pool(jobs, "sample_job_workers:Exact", workers=4, options={"file": str(file)}, max_attempts=50)
    jobs.start().ready()
    assert stream(jobs, ["1"] * 1000).returncode == 0
    dice = random.Random(1)
    turn = 0
    while len(listed(jobs, "--state", "done")) < 1000:  # a taken one may be waiting once more
        turn += 1
        pids = [w["pid"] for w in jobs.workers() if w["pid"]]
        if pids:
            victim = dice.choice(pids)
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if turn % 3 == 0:
            jobs.send(signal.SIGHUP)
    for id, runs in runs_of(file).items():
        assert runs[-1][1] is not None, id
        assert sum(end is not None for _, end in runs) >= 1
        for (_, end), (begin, _) in pairwise(runs):
            assert end is None or end <= begin, "run twice at once"


def test_kill_of_everything_and_a_restart(jobs: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "runs"
    file.touch()
    pool(jobs, "sample_job_workers:Exact", workers=4, options={"file": str(file)}, max_attempts=50)
    jobs.start().ready()
    assert stream(jobs, ["1"] * 500).returncode == 0
    jobs.until(lambda: file.read_text().count("e ") > 100)
    while left := jobs.left():
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if jobs.process is not None:
            jobs.process.poll()
        wait_gone(list(left))
    jobs.start().ready(2)
    assert len(ended(jobs, "done", 500)) == 500
    again = [id for id, runs in runs_of(file).items() if len(runs) > 1]
    # In hand of each worker: the job it did, and at most four before whose end was not confirmed.
    assert len(again) <= 4 * 5, "only what was in hand runs again"


def test_the_main_process_dies_and_the_next_daemon_goes_on(jobs: Daemon) -> None:
    pool(jobs, "sample_job_workers:Counting", workers=2, options={"seconds": 1}).start().ready()
    assert stream(jobs, ["1"] * 4).returncode == 0
    jobs.events.wait("^begin", 2)
    jobs.send(signal.SIGKILL)
    assert jobs.process is not None
    jobs.process.wait(DEADLINE)
    jobs.start().ready(2)
    assert len(ended(jobs, "done", 4)) == 4
    assert len(jobs.events.matching("^begin")) == 4, "those in hand were finished"


# Command


def test_output_goes_to_the_log_line_by_line(jobs: Daemon) -> None:
    command(jobs, options={"env": {"WHO": "world"}, "cwd": "/"}).start().ready()
    script = r"echo hello $WHO; pwd; echo odd >&2; printf '\377\n'; printf 'no end'"
    done = jobs.run("submit", "--wait", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, '{"exit": 0}\n')
    for text in ("hello world", r"jobs/0.*/ ", "odd", "xff", "no end"):
        jobs.log.wait(text)
    long = "import sys; sys.stdout.write('y' * 20000)"
    assert jobs.run("submit", "--wait", "--", "python3", "-c", long).returncode == 0
    jobs.log.wait("yyyy", 3)


@pytest.mark.parametrize(
    ("words", "status", "result"),
    [
        (["true"], 0, {"exit": 0}),
        (["sh", "-c", "exit 3"], 3, {"exit": 3}),
        (["sh", "-c", "kill -TERM $$"], 143, {"signal": 15}),
        (["no-such-command"], 127, {"exit": 127}),
        (["/"], 126, {"exit": 126}),
        ([""], 127, {"exit": 127}),
    ],
)
def test_wait_has_the_commands_own_status(
    jobs: Daemon, words: list[str], status: int, result: dict[str, int]
) -> None:
    command(jobs).start().ready()
    done = jobs.run("submit", "--wait", "--max-attempts", "1", "--", *words)
    assert done.returncode == status, done
    assert json.loads(done.stdout) == result
    payload = json.dumps({"argv": words})
    again = jobs.run("submit", "--wait", "--max-attempts", "1", "--json", payload)
    assert (again.returncode, again.stdout) == (status, done.stdout)
    assert jobs.status()["pools"]["jobs"]["deaths"] == 0


def test_wait_for_other_workers(jobs: Daemon) -> None:
    pool(jobs, "sample_job_workers:Various").start().ready()
    done = jobs.run("submit", "--wait", "--json", '[1, "zwei"]')
    assert (done.returncode, done.stdout) == (0, '[1, "zwei"]\n')
    for payload in ("null", "0", '""'):
        done = jobs.run("submit", "--wait", "--json", payload)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{payload}\n", "")
    done = jobs.run("submit", "--wait", "--json", '"raise"', "--max-attempts", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "is dead after 1 attempt: ValueError: this job raises" in done.stderr


def test_failed_commands_do_not_wear_out_their_worker(jobs: Daemon) -> None:
    command(jobs, max_errors=2, max_attempts=1).start().ready()
    lines = ['{"argv": ["false"]}'] * 8
    assert stream(jobs, lines).returncode == 0
    assert len(ended(jobs, "dead", 8)) == 8
    assert jobs.status()["pools"]["jobs"]["deaths"] == 0


def test_a_drain_waits_for_the_command(jobs: Daemon, tmp_path: Path) -> None:
    command(jobs).start().ready()
    script = f"touch {tmp_path}/begun; sleep 1; touch {tmp_path}/ended"
    submitted(jobs, "--", "sh", "-c", script)
    jobs.until((tmp_path / "begun").exists)
    jobs.send(signal.SIGTERM)
    jobs.ended(0)
    assert (tmp_path / "ended").exists()
    [job] = listed(jobs)
    assert job["state"] == "done"


@pytest.mark.parametrize("stubborn", [False, True])
def test_an_interrupt_ends_the_commands_group(jobs: Daemon, tmp_path: Path, stubborn: bool) -> None:
    patience = "10s" if stubborn else "60s"  # half of it for who heeds SIGTERM, half for the rest
    command(jobs, stop_timeout=patience).start().ready()
    trap = "trap '' TERM; " if stubborn else f"trap 'touch {tmp_path}/asked; exit' TERM; "
    script = trap + f"sleep 600 & echo $! $$ > {tmp_path}/pids; while :; do sleep 0.05; done"
    submitted(jobs, "--", "sh", "-c", script)
    file = tmp_path / "pids"
    pids = jobs.until(lambda: file.exists() and file.read_text().split())
    jobs.send(signal.SIGINT)
    jobs.ended(0)
    wait_gone([int(pid) for pid in pids])
    assert (tmp_path / "asked").exists() != stubborn
    [job] = listed(jobs)
    assert (job["state"], job["attempts"]) == ("waiting", 0)


def test_a_killed_workers_command_is_gone_before_it_runs_again(
    jobs: Daemon, tmp_path: Path
) -> None:
    command(jobs, workers=2).start().ready()
    script = f"sleep 600 & echo $! $$ >> {tmp_path}/pids; wait"
    submitted(jobs, "--", "sh", "-c", script)
    file = tmp_path / "pids"
    jobs.until(lambda: file.exists() and file.read_text().count("\n") == 1)
    [busy] = [w["pid"] for w in jobs.workers() if w["state"] == "busy"]
    os.kill(busy, signal.SIGKILL)
    jobs.until(lambda: file.read_text().count("\n") == 2)
    child, shell, *_ = file.read_text().split()
    assert is_dead(int(child))
    assert is_dead(int(shell))


def test_what_a_command_has_daemonized_holds_up_no_later_job(jobs: Daemon, tmp_path: Path) -> None:
    command(jobs, workers=1).start().ready()
    said = tmp_path / "demon"  # once it has left the group, and before its command ends
    demon = f"setsid sh -c 'echo $$ > {said}; exec sleep 600' &"
    demon += f" until [ -s {said} ]; do sleep 0.05; done"
    assert jobs.run("submit", "--wait", "--", "sh", "-c", demon).returncode == 0
    file = tmp_path / "pids"
    submitted(jobs, "--", "sh", "-c", f"echo $$ >> {file}; setsid sleep 600 & exec sleep 600")
    jobs.until(lambda: file.exists() and file.read_text().count("\n") == 1)
    os.kill(jobs.workers()[0]["pid"], signal.SIGKILL)
    jobs.until(lambda: file.read_text().count("\n") > 1)
    assert not is_dead(int(said.read_text()))
    while left := [pid for pid in jobs.left() if pid != int(said.read_text())]:
        for pid in left:  # of everybody at once, but for the two that are nobody's any more
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_gone(left)
    if jobs.process is not None:
        jobs.process.wait(DEADLINE)
    runs = file.read_text().count("\n")
    jobs.start().ready(2)
    jobs.until(lambda: file.read_text().count("\n") > runs)


def test_what_a_command_leaves_in_its_group_is_killed(jobs: Daemon, tmp_path: Path) -> None:
    command(jobs).start().ready()
    script = f"sleep 600 & echo $! > {tmp_path}/pid"
    assert jobs.run("submit", "--wait", "--", "sh", "-c", script).returncode == 0
    wait_gone([int((tmp_path / "pid").read_text())])


@pytest.mark.parametrize(
    ("cwd", "argv", "why"),
    [
        ("/tmp", ["/tmp"], "/tmp: Permission denied"),
        ("/nowhere", ["/nowhere"], "options.cwd: /nowhere: No such file or directory"),
        ("/tmp", [""], "'': command not found"),
    ],
)
def test_a_command_that_cannot_be_started_says_what_is_wrong(
    jobs: Daemon, cwd: str, argv: list[str], why: str
) -> None:
    command(jobs, options={"cwd": cwd}).start().ready()
    submitted(jobs, "--max-attempts", "1", "--", *argv)
    [job] = ended(jobs, "dead")
    assert job["evidence"]["reason"] == why


def test_a_timeout_of_one_command(jobs: Daemon) -> None:
    command(jobs, options={"timeout": "1s"}, max_attempts=1, stop_timeout="60s").start().ready()
    done = jobs.run("submit", "--wait", "--", "sleep", "600")
    assert done.returncode == 124
    assert "took too long" in done.stderr
    heeds = 'trap "exit 0" TERM; while :; do sleep 0.05; done'  # as many a service does

    def heeded() -> bool:
        done = jobs.run("submit", "--wait", "--", "sh", "-c", heeds)
        assert done.returncode == 124
        assert "is dead after 1 attempt: took too long" in done.stderr
        return done.stdout == '{"exit": 0}\n'  # else it had no trap by then

    jobs.until(heeded)


def test_round_timeout_counts_while_a_command_runs(jobs: Daemon) -> None:
    command(jobs, round_timeout="300ms", max_attempts=1).start().ready()
    done = jobs.run("submit", "--wait", "--", "sleep", "600")
    assert done.returncode == 124
    assert "a round took longer than 300 ms" in done.stderr


def test_wrong_options_are_told_at_once(jobs: Daemon) -> None:
    command(jobs, options={"cdw": "/"}).start()
    jobs.ended(1)
    jobs.log.wait("options.cdw: unknown option; did you mean 'cwd'?")


def test_a_worker_that_cannot_have_its_lock_says_so(jobs: Daemon) -> None:
    (jobs.home / "state").mkdir()
    (jobs.home / "state" / "jobs.db-owners").touch()
    command(jobs).start()
    jobs.ended(1)
    jobs.log.wait("cannot lock a file beside the queue: .*jobs.db-owners")


# submit and jobs


def test_who_looks_at_jobs_leaves_nothing_open(jobs: Daemon) -> None:
    command(jobs).start().ready()
    id = submitted(jobs, "--", "true")
    for words in (["jobs"], ["jobs", str(id)]):
        python, *rest = jobs.command(*words)
        done = subprocess.run(
            [python, "-X", "dev", *rest],  # tells of what is not closed
            cwd=jobs.short,
            env={**jobs.environment(), **jobs.address()},
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == 0
        assert "ResourceWarning" not in done.stderr, done.stderr


def test_without_a_daemon_jobs_are_written_to_the_file(jobs: Daemon) -> None:
    command(jobs)
    assert listed(jobs) == []
    id = submitted(jobs, "--", "echo", "later")
    assert stream(jobs, ['{"argv": ["true"]}'] * 3, "--delay", "1h").stdout == "3 jobs submitted\n"
    done = jobs.run("submit", "--wait", "--", "true")
    assert done.returncode == 3
    assert [j["state"] for j in listed(jobs)] == ["waiting"] * 4
    assert jobs.run("jobs", "drop", str(id + 1)).returncode == 0
    assert jobs.run("jobs", "retry", str(id + 2)).returncode == 0
    jobs.start().ready()
    assert {j["id"] for j in ended(jobs, "done", 2)} == {id, id + 2}


def test_a_queue_in_a_folder_whose_name_is_no_text(jobs: Daemon) -> None:
    state = f"{jobs.home}/\udcff"
    jobs.environ.update(STATE_DIRECTORY=state, RUNTIME_DIRECTORY=f"{jobs.short}/\udcff")
    jobs.configure({"jobs": {"worker": "graced.workers:Command"}}, state_dir=None, runtime_dir=None)
    jobs.start().ready()
    first = submitted(jobs, "--", "sleep", "1")
    jobs.send(signal.SIGKILL)
    jobs.ended(-signal.SIGKILL)
    jobs.start().ready(2)  # its keeper is handed the file by the one before
    second = submitted(jobs, "--", "true")
    ended(jobs, "done", 2)
    assert jobs.run("stop").returncode == 0
    jobs.ended(0)
    assert [job["id"] for job in listed(jobs)] == [first, second]
    os.unlink(f"{state}/jobs.db")
    os.mkfifo(f"{state}/jobs.db")
    jobs.start().ready(3)
    done = jobs.run("submit", "--", "true")
    assert done.returncode == 1, done
    assert f"{jobs.home}/\\udcff/jobs.db: not a regular file" in done.stderr


def test_a_stream_is_taken_whole_or_not_at_all(jobs: Daemon) -> None:
    command(jobs).start().ready()
    lines = [*['{"argv": ["true"]}'] * 1500, "{oops"]
    done = stream(jobs, lines, "--delay", "1h")
    assert done.returncode == 1
    assert "standard input:1501: not a JSON value" in done.stderr
    assert "nothing was submitted" in done.stderr
    done = stream(jobs, ["1", "[1e400]"])
    assert done.returncode == 1
    assert "standard input:2: not a JSON value: 1e400" in done.stderr
    assert listed(jobs) == []


def test_a_stream_from_where_nothing_can_be_read_or_that_begins_with_a_mark(jobs: Daemon) -> None:
    command(jobs)  # no daemon is needed
    words = shlex.join(jobs.command("submit", "--json", "-", "-c", str(jobs.config)))
    environ = jobs.environment()

    def shell(script: str) -> tuple[int, str]:
        line = ["sh", "-c", script]
        done = subprocess.run(line, env=environ, text=True, capture_output=True, check=False)
        return done.returncode, done.stdout + done.stderr

    closed = "graced: --json -: standard input is closed; nothing was submitted\n"
    assert shell(f"{words} <&-") == (1, closed)
    assert shell(f"{words} </proc/self/mem") == (
        1, "graced: standard input: Input/output error; nothing was submitted\n",
    )  # fmt: skip
    assert listed(jobs) == []
    assert shell(rf"printf '\357\273\277[1]\n2\n' | {words}") == (0, "2 jobs submitted\n")
    assert [job["payload"] for job in listed(jobs)] == [[1], 2]
    late = "import os; os.set_blocking(0, False); os.execvp('sh', ['sh', '-c', os.environ['LATE']])"
    environ["LATE"] = words
    pipe = f"(echo 1; sleep 0.5; echo 2) | python3 -c {shlex.quote(late)}"
    assert shell(pipe) == (0, "2 jobs submitted\n"), "what comes late is not taken for the end"


def test_what_may_come_in_may_go_out(jobs: Daemon) -> None:
    """However long it is as ASCII: a payload that is accepted can be a result, and be listed."""
    pool(jobs, "sample_job_workers:Various").start().ready()
    most = f'"{"é" * ((1 << 19) - 1)}"'
    assert stream(jobs, [most] * 5).stdout == "5 jobs submitted\n"
    for job in ended(jobs, "done", 5):
        assert job["payload"] == job["result"] == json.loads(most)
    done = stream(jobs, [most.replace("é", "éé", 1)])
    assert (done.returncode, done.stdout) == (1, "")
    lone = submitted(jobs, "--json", r'"\udcff é"')
    assert ended(jobs, "done", 6)[-1]["result"] == "\udcff é"
    assert json.loads(jobs.run("submit", "--wait", "--json", r'"\udcff é"').stdout) == "\udcff é"
    assert lone == 6


def test_what_others_have_put_into_the_queue_is_listed_as_json(jobs: Daemon) -> None:
    command(jobs).start().ready()
    jobs.until(lambda: list((jobs.short / "run").glob("queue-*.sock")))
    client = ClientEnd(str(jobs.short / "run" / "queue-jobs.sock"))
    client.submit(["[1e400]", "NaN", "oops"], Terms(3600))
    client.close()
    shown = jobs.run("jobs", "--json").stdout
    assert not re.search("Infinity|: NaN", shown)
    assert [json.loads(line)["payload"] for line in shown.splitlines()] == [
        "[1e400]", "NaN", "oops",
    ]  # fmt: skip


def test_dead_jobs_are_retried_and_dropped(jobs: Daemon, tmp_path: Path) -> None:
    command(jobs, max_attempts=1).start().ready()
    flag = tmp_path / "flag"
    id = submitted(jobs, "--", "test", "-e", str(flag))
    other = submitted(jobs, "--", "false")
    ended(jobs, "dead", 2)
    text = jobs.run("jobs", "--state", "dead").stdout
    assert f"test -e {flag}  (exited with status 1)" in text
    flag.touch()
    assert jobs.run("jobs", "retry", str(id)).returncode == 0
    assert [j["id"] for j in ended(jobs, "done")] == [id]
    assert jobs.run("jobs", "drop", str(other)).returncode == 0
    done = jobs.run("jobs", "drop", str(other), "no")
    assert done.returncode == 2
    done = jobs.run("jobs", "drop", str(other))
    assert (done.returncode, done.stderr) == (1, f"graced: job {other}: no such job\n")


def test_who_looks_at_the_jobs_page_by_page_locks_no_daemon_out(jobs: Daemon) -> None:
    command(jobs)
    assert stream(jobs, ['{"argv": ["true"]}'] * 1500, "--delay", "1h").returncode == 0
    line = [*jobs.command("jobs", "--json", "-c", str(jobs.config))]
    with subprocess.Popen(line, env=jobs.environment(), stdout=subprocess.PIPE) as pager:
        assert pager.stdout is not None
        assert select.select([pager.stdout], [], [], DEADLINE)[0], "it shows the first of them"
        jobs.start().ready()
        assert jobs.run("submit", "--wait", "--", "true").returncode == 0
        assert pager.poll() is None, "it has more to show"
        first = json.loads(pager.stdout.readline())
        pager.communicate()
    assert (first["id"], pager.returncode) == (1, 0)


@pytest.mark.usefixtures("as_root")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_who_may_only_read_the_file_may_look_at_it(jobs: Daemon) -> None:
    folder = jobs.short / "state"
    command(jobs)
    jobs.configure(jobs.settings["pools"], state_dir=str(folder))
    submitted(jobs, "--", "true")
    folder.chmod(0o755)
    assert as_somebody(12345, ["jobs", "-c", str(jobs.config)]) != 0  # at first, only its user may
    for file in folder.glob("jobs.db*"):
        file.chmod(0o644)
    config = jobs.short / "config.yaml"
    config.write_text(jobs.config.read_text())
    assert as_somebody(12345, ["jobs", "-c", str(config)]) == 0
    assert as_somebody(12345, ["submit", "-c", str(config), "--", "true"]) == 78


def test_a_hundred_submits_at_once_without_a_daemon_are_all_taken(jobs: Daemon) -> None:
    command(jobs)
    words = ["submit", "-c", str(jobs.config), "--", "true"]
    pids = [fork_of(words) for _ in range(100)]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert statuses == [0] * 100
    assert len(listed(jobs)) == 100


def test_all_jobs_of_a_state_are_retried_or_dropped(jobs: Daemon) -> None:
    """By the keeper, and in the file."""
    command(jobs, max_attempts=1).start().ready()
    assert stream(jobs, ['{"argv": ["false"]}'] * 3).returncode == 0
    ended(jobs, "dead", 3)
    submitted(jobs, "--", "true")
    submitted(jobs, "--delay", "1h", "--", "true")
    ended(jobs, "done")
    done = jobs.run("jobs", "retry", "--all", "--state", "dead")
    assert (done.returncode, done.stdout) == (0, "3 jobs retried\n"), done
    ended(jobs, "dead", 3)
    assert jobs.run("jobs", "drop", "--state", "done", "--all").stdout == "1 job dropped\n"
    for words, said in (
        (["retry", "--all", "1"], "or --all"),
        (["drop"], "write the numbers of the jobs, or --all"),
        (["--all"], "--all goes with cancel, retry or drop"),
    ):
        done = jobs.run("jobs", *words)
        assert (done.returncode, said in done.stderr) == (2, True), done
    jobs.send(signal.SIGTERM)
    jobs.ended(0)
    assert jobs.run("jobs", "retry", "--all").stdout == "3 jobs retried\n"
    assert jobs.run("jobs", "drop", "--all", "--state", "waiting").stdout == "4 jobs dropped\n"
    assert jobs.run("jobs", "drop", "--all").stdout == "0 jobs dropped\n"
    assert listed(jobs) == []


def test_several_queues_need_a_name(jobs: Daemon) -> None:
    one = {"worker": "graced.workers:Command"}
    jobs.configure({"one": one, "two": one}).start().ready()
    jobs.until(lambda: len(list((jobs.short / "run").glob("queue-*.sock"))) == 2)
    done = jobs.run("submit", "--", "true")
    assert done.returncode == 2
    assert "several pools have a queue: one, two; say which with --pool" in done.stderr
    assert jobs.run("submit", "--pool", "two", "--wait", "--", "true").returncode == 0


def test_without_a_daemon_several_queues_need_a_name_too(jobs: Daemon) -> None:
    mine = {"worker": "sample_job_workers:Various", "path": [HERE, str(TESTS)]}
    idle = {"worker": "sample_workers:Idle"}
    jobs.configure({"two": mine, "three": idle})
    done = jobs.run("submit", "--json", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no daemon runs; say which pool with --pool: two, three\n" in done.stderr
    jobs.configure({"one": {"worker": "graced.workers:Command"}, "two": mine, "three": idle})
    jobs.start().ready()
    state = jobs.home / "state"
    jobs.until(lambda: {file.name for file in state.glob("*.db")} == {"one.db", "two.db"})
    assert jobs.run("stop").returncode == 0
    for words in (["submit", "--json", "1"], ["jobs"], ["jobs", "drop", "1"]):
        done = jobs.run(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "no daemon runs; say which pool with --pool: one, two\n" in done.stderr
    assert jobs.run("submit", "--pool", "two", "--json", "1").returncode == 0
    (state / "two.db").unlink()
    assert jobs.run("submit", "--", "true").returncode == 0, "only one has a queue"


def test_before_the_first_start_a_job_waits_for_a_pool_that_takes_it(jobs: Daemon) -> None:
    jobs.configure({"i": {"worker": "sample_workers:Idle"}})
    done = jobs.run("jobs", "drop", "7")
    assert (done.returncode, done.stderr) == (1, "graced: job 7: no such job\n")
    assert not list(jobs.home.glob("state/*")), "to look makes no file"
    done = jobs.run("submit", "--json", '{"do": "value", "value": 5}')
    assert (done.returncode, done.stdout) == (0, "1\n")
    told = "graced: job queued; no daemon has served pool 'i' yet\n"
    assert done.stderr == told
    jobs.start().ready()
    jobs.log.wait(r"warning .*pool i: its worker is not a JobWorker; jobs in .*/i\.db will not run")
    assert jobs.run("stop").returncode == 0
    jobs.configure({"i": {"worker": "sample_job_workers:Various", "path": [HERE, str(TESTS)]}})
    jobs.start().ready()
    jobs.until(lambda: [job["state"] for job in listed(jobs)] == ["done"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["submit"], "write a command line after --, or --json VALUE"),
        (["submit", "--json", "1", "--", "ls"], "one of them"),
        (["submit", "--json", "{"], "--json: not a JSON value"),
        (["submit", "--json", "NaN"], "--json: not a JSON value"),
        (["submit", "--json", "[1e400]"], "--json: not a JSON value: 1e400 is too large"),
        (["submit", "--json", '{"a": [-1e400]}'], "--json: not a JSON value: -1e400 is too large"),
        (["submit", "--max-attempts", "0", "--", "ls"], "a job has 1 to 1000000000 attempts"),
        (["submit", "--json", "-", "--wait"], "--wait is for one job"),
        (["jobs", "retry"], "write the numbers"),
        (["jobs", "drop", "x"], "'x' is not the number of a job"),
        (["submit", "--pool", "no", "--", "ls"], "there is no pool 'no'"),
    ],
)
def test_wrong_words(jobs: Daemon, words: list[str], said: str) -> None:
    command(jobs)
    done = jobs.run(*words)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_queue_that_cannot_be_used_is_said_and_comes_back(jobs: Daemon) -> None:
    file = jobs.home / "state" / "jobs.db"
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE others (name)")
    command(jobs).start().ready()
    jobs.log.wait("a database of another program")
    done = jobs.run("submit", "--", "true")
    assert done.returncode == 1
    assert "a database of another program; name another file" in done.stderr
    health = jobs.run("health")
    assert (health.returncode, "queue jobs: " in health.stdout) == (1, True)
    file.unlink()
    jobs.until(lambda: jobs.run("submit", "--wait", "--", "true").returncode == 0)


@pytest.mark.usefixtures("as_root")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_another_user_of_the_group_may_submit(jobs: Daemon) -> None:
    command(jobs).start().ready()
    jobs.until(lambda: list((jobs.short / "run").glob("queue-*.sock")))
    sock = jobs.short / "run" / "queue-jobs.sock"
    os.chown(sock, 0, 65534)
    words = ["submit", "--wait", "--socket", str(jobs.short / "run" / "control.sock"), "--", "true"]
    assert as_somebody(65534, words) == 0
    assert as_somebody(12345, words) == 1


@pytest.mark.usefixtures("as_root")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_who_may_not_see_the_file_is_told_that_the_daemon_has_left(jobs: Daemon) -> None:
    command(jobs).start().ready()
    jobs.until(lambda: list((jobs.short / "run").glob("queue-*.sock")))
    for name in ("queue-jobs.sock", "control.sock"):
        os.chown(jobs.short / "run" / name, 0, 65534)
    (jobs.home / "state").chmod(0o700)
    submitted(jobs, "--", "sleep", "600")
    jobs.until(lambda: listed(jobs, "--state", "taken"))
    config = jobs.short / "config.yaml"  # the other folder is closed to others
    config.write_text(jobs.config.read_text())
    words = ["submit", "--wait", "-c", str(config), "--", "true"]
    waiting = fork_of(words, somebody(65534))
    jobs.until(lambda: listed(jobs, "--state", "waiting"))
    jobs.send(signal.SIGINT)
    jobs.ended(0)
    assert os.waitstatus_to_exitcode(os.waitpid(waiting, 0)[1]) == 3


@pytest.mark.usefixtures("as_root")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_root_leaves_no_file_of_its_own_in_the_folder_of_the_daemon_s_user() -> None:
    with tempfile.TemporaryDirectory(prefix="graced-") as home:  # pytest's own are closed to others
        os.chmod(home, 0o755)
        folder = Path(home, "state")
        folder.mkdir(0o750)
        os.chown(folder, 12345, 54321)
        config = Path(home, "config.yaml")
        config.write_text(f"state_dir: {folder}\nruntime_dir: {home}/run\npools: {{jobs: {{}}}}\n")
        words = ["submit", "-c", str(config), "--", "true"]
        assert in_a_fork(words) == 0
        made = [*folder.iterdir()]
        assert folder / "jobs.db" in made
        assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(12345, 54321)}

        elsewhere = Path(home, "of-root")
        elsewhere.write_text("root's")
        for path in made:
            path.unlink()
        os.symlink(elsewhere, folder / "jobs.db-keeper")
        assert in_a_fork(words) == 1
        assert elsewhere.read_text() == "root's"


@pytest.mark.usefixtures("as_root")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_who_may_write_the_file_may_submit_whoever_the_daemon_s_user_is() -> None:
    with tempfile.TemporaryDirectory(prefix="graced-") as home:  # pytest's own are closed to others
        os.chmod(home, 0o755)
        folder = Path(home, "state")
        folder.mkdir()
        os.chown(folder, 12345, 54321)
        config = Path(home, "config.yaml")
        head = f"user: root\nstate_dir: {folder}\nruntime_dir: {home}/run\n"
        config.write_text(f"{head}pools: {{jobs: {{}}}}\n")
        assert as_somebody(54321, ["submit", "-c", str(config), "--", "true"]) == 0
        assert as_somebody(54321, ["jobs", "-c", str(config)]) == 0
        assert as_somebody(54321, ["check", "-c", str(config)]) == 78


def as_somebody(group: int, words: list[str]) -> int:
    """Run a command as a user of a group."""
    return in_a_fork(words, somebody(group))


def somebody(group: int) -> Callable[[], None]:
    def become() -> None:
        os.setgroups([])
        os.setgid(group)
        os.setuid(12345)

    return become


def in_a_fork(words: list[str], first: Callable[[], None] = lambda: None) -> int:
    """Run a command without an exec: the interpreter may be out of the reach of who it becomes."""
    return os.waitstatus_to_exitcode(os.waitpid(fork_of(words, first), 0)[1])


def fork_of(words: list[str], first: Callable[[], None] = lambda: None) -> int:
    """Begin a command without an exec; return its process."""
    for name in ("cli.jobs", "cli.submit", "client.find", "queue.sqlite.offline"):
        importlib.import_module(f"graced.{name}")
    pid = os.fork()
    if pid == 0:
        status = 99
        credentials.check_code = lambda _user: None  # all of it is imported
        try:
            first()
            status = main(words)
        finally:
            os._exit(status)
    return pid


def test_a_reload_that_moves_the_log_takes_the_keeper_along(jobs: Daemon) -> None:
    various = {"jobs": {"worker": "sample_job_workers:Various", "path": [HERE, str(TESTS)]}}
    old, new = jobs.home / "old.log", jobs.home / "new.log"
    jobs.configure(various, log={"file": str(old)}).start().ready()
    submitted(jobs, "--json", '"discard"')
    jobs.until(lambda: "job 1 is dead" in old.read_text())
    jobs.configure(various, log={"file": str(new), "format": "json"})
    assert jobs.run("reload").returncode == 0
    submitted(jobs, "--json", '"discard"')
    dead = '"message": "job 2 is dead; '
    jobs.until(lambda: dead in new.read_text())
    assert "job 2" not in old.read_text()


def test_a_stopped_keeper_is_told_of_and_nothing_is_asked_of_it(jobs: Daemon) -> None:
    command(jobs).start().ready()
    jobs.until(lambda: list((jobs.short / "run").glob("queue-*.sock")))
    [keeper] = [pid for pid in jobs.left() if comm(pid) == "graced-keeper"]
    words = jobs.command("submit", "--wait", "-c", str(jobs.config), "--", "sleep", "600")
    with subprocess.Popen(words, env=jobs.environment(), stderr=subprocess.PIPE) as waiting:
        jobs.until(lambda: listed(jobs, "--state", "taken"))
        os.kill(keeper, signal.SIGSTOP)
        assert waiting.stderr is not None
        assert f"'kill -CONT {keeper}' lets it go on; waiting" in waiting.stderr.readline().decode()
        waiting.terminate()
    for line in (["submit", "--", "true"], ["jobs"], ["jobs", "drop", "1"]):
        done = jobs.run(*line)
        assert (done.returncode, done.stdout) == (1, ""), done
        assert f"is stopped; 'kill -CONT {keeper}' lets it go on; nothing was asked" in done.stderr
    done = jobs.run("health")
    assert done.returncode == 1
    assert f"queue jobs: its keeper (pid {keeper}) is stopped" in done.stdout
    assert "is stopped" in jobs.status()["pools"]["jobs"]["queue"]["trouble"]
    os.kill(keeper, signal.SIGCONT)
    jobs.until(lambda: jobs.run("health").returncode == 0)
    assert [job["id"] for job in listed(jobs)] == [1], "nobody is told no, and then has it done"


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def test_a_reload_warns_of_jobs_that_nobody_will_do(jobs: Daemon) -> None:
    command(jobs).start().ready()
    submitted(jobs, "--delay", "1h", "--", "true")
    path = [HERE, str(TESTS)]
    jobs.configure({"renamed": {"worker": "sample_job_workers:Counting", "path": path}})
    assert jobs.run("reload").returncode == 0
    file = jobs.home / "state" / "jobs.db"
    would = f"in {file}: a pool with `queue: sqlite:///{file}` would run them"
    jobs.log.wait(re.escape(f"queue jobs: the pool is gone, and 1 job waits {would}"))
    jobs.until(lambda: jobs.run("submit", "--json", "1", "--delay", "1h").returncode == 0)
    jobs.configure({"renamed": {"worker": "sample_workers:Idle"}})
    assert jobs.run("reload").returncode == 0
    jobs.log.wait("queue renamed: its workers take no jobs any more, and 1 job waits in ")


def test_a_pool_that_is_renamed_and_keeps_its_queue_leaves_no_job_behind(jobs: Daemon) -> None:
    command(jobs).start().ready()
    submitted(jobs, "--delay", "1s", "--", "true")
    jobs.configure({"renamed": {"queue": f"sqlite:///{jobs.home}/state/jobs.db"}})
    assert jobs.run("reload").returncode == 0
    jobs.until(lambda: listed(jobs, "--state", "done"))
    assert jobs.run("stop").returncode == 0
    assert not jobs.log.matching("the pool is gone")


def test_reload_keeps_the_queue(jobs: Daemon) -> None:
    pool(jobs, "sample_job_workers:Counting", options={"seconds": 0.3}).start().ready()
    assert stream(jobs, ["1"] * 6).returncode == 0
    jobs.events.wait("^begin", 2)
    assert jobs.run("reload").returncode == 0
    assert len(ended(jobs, "done", 6)) == 6
    assert len(jobs.events.matching("^begin")) == 6
