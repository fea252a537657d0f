"""The runtime directory is swept away under a running daemon: by a logout, by a cleaner of /tmp."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from daemon_harness import DEADLINE, TESTS, Daemon


def run_dir(daemon: Daemon) -> Path:
    return daemon.short / "run"


def second(daemon: Daemon) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        daemon.command("run", "-c", str(daemon.config)),
        env={**daemon.environment(), "NOTIFY_SOCKET": ""},
        cwd=daemon.short,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def test_a_reload_makes_it_again_and_no_second_daemon_starts_before(daemon: Daemon) -> None:
    pools = {"jobs": {"worker": "graced.workers:Command", "path": [str(TESTS)]}}
    daemon.configure({**pools, "idle": {"worker": "sample_workers:Idle"}}).start().ready()
    daemon.log.wait("is open")
    shutil.rmtree(run_dir(daemon))
    assert daemon.run("status").returncode == 3
    done = second(daemon)
    assert done.returncode == 75
    assert f"already running (pid {daemon.pid}, whose files here were removed)" in done.stderr
    daemon.send(signal.SIGHUP)
    daemon.log.wait("reloaded: generation 2")
    daemon.log.wait("queue-jobs.sock was removed; listening there again")
    assert daemon.log.matching("/run: was removed; made again, with its lock")
    assert daemon.status()["generation"] == 2
    assert daemon.run("submit", "--wait", "--", "true").returncode == 0
    done = second(daemon)
    assert done.returncode == 75
    assert f"already running (pid {daemon.pid});" in done.stderr
    (run_dir(daemon) / "control.sock").unlink()
    daemon.send(signal.SIGHUP)
    daemon.log.wait("control.sock: was removed; listening there again")
    assert daemon.run("stop").returncode == 0
    daemon.ended(0)
    assert os.listdir(run_dir(daemon)) == ["lock"]


def test_the_next_worker_has_a_queue_and_the_next_keeper_a_place(daemon: Daemon) -> None:
    daemon.pool("graced.workers:Command").start().ready()
    daemon.log.wait("is open")
    for name in ("worker", "keeper"):
        shutil.rmtree(run_dir(daemon))
        victims = [pid for pid, comm in daemon.left().items() if comm == f"graced-{name}"]
        assert victims
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        daemon.until(lambda: daemon.run("submit", "--wait", "--", "true").returncode == 0)
    assert daemon.log.matching("made again, with its lock")


def test_a_worker_that_cannot_reach_its_queue_says_so(daemon: Daemon) -> None:
    """The keeper is alive, but a folder is where its socket belongs."""
    daemon.pool("graced.workers:Command").start().ready()
    daemon.log.wait("is open")
    socket = run_dir(daemon) / "queue-jobs.sock"
    socket.unlink()
    socket.mkdir()
    os.kill(daemon.worker_pids()[0], signal.SIGKILL)
    daemon.log.wait(f"queue jobs: 1 worker cannot reach it at {socket}")
    said = f"1 worker cannot reach it at {socket}"
    assert daemon.status()["pools"]["jobs"]["queue"]["trouble"] == said
    daemon.notices.wait(f"^STATUS=.*; queue jobs: {said}")
    assert said in daemon.run("status").stdout
    socket.rmdir()
    daemon.send(signal.SIGHUP)
    daemon.log.wait("reloaded: generation 2")
    daemon.until(lambda: "trouble" not in daemon.status()["pools"]["jobs"]["queue"])


def test_a_daemon_whose_folder_has_become_anothers_leaves_it_alone(daemon: Daemon) -> None:
    """As if the other one had started before there was a second lock."""
    daemon.pool("sample_workers:Idle").start().ready()
    shutil.rmtree(run_dir(daemon))
    run_dir(daemon).mkdir()
    lock = f"flock -n {run_dir(daemon)}/lock sh -c 'echo held; read x'"
    with subprocess.Popen(
        ["sh", "-c", lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        for _ in range(2):
            daemon.send(signal.SIGHUP)
            daemon.log.wait("reloaded: generation")
        daemon.log.wait("reloaded: generation 3")
        said = daemon.log.matching("no client can reach this daemon any more: .* already running")
        assert len(said) == 1
        daemon.notices.wait("^STATUS=.*no client can reach this daemon any more")
        assert os.listdir(run_dir(daemon)) == ["lock"]
        other.communicate(b"\n")
    daemon.send(signal.SIGHUP)
    daemon.log.wait("reloaded: generation 4")
    assert daemon.status()["generation"] == 4
