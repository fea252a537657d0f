"""`graced run --daemonize`: what it returns and when, and what it leaves where."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import re
import select
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from daemon_harness import DEADLINE, ROOT, Daemon, comm, pidfd, stat
from test_life_start import python_for

TESTS = str(Path(__file__).parents[1])
IDLE = {"worker": "sample_workers:Idle"}
TALKS = (
    "from sample_workers import *\nclass Talks(Idle):\n  n = 0\n  def step(self):\n"
    "    self.n += 1\n    self.log.info('word %d of %d', self.n, self.slot)\n"
    "    self.wait(0.05)\n"
)


def prepared(daemon: Daemon, pool: dict[str, object] | None = None, **top: object) -> Daemon:
    """Configure a daemon that can leave the terminal."""
    top = {"log": {"file": str(daemon.home / "graced.log")}, **top}
    return daemon.configure({"jobs": pool or IDLE}, **top)


def run(daemon: Daemon, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; it has none while anybody holds its standard streams."""
    if not daemon.pump.is_alive():
        daemon.pump.start()
    file = str(daemon.home / "graced.pid")
    return daemon.run("run", "--daemonize", "--pidfile", file, *more)


def started(daemon: Daemon, *more: str) -> int:
    """Start it and return its number."""
    result = run(daemon, *more)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", ""), result
    return int((daemon.home / "graced.pid").read_text())


def gone(daemon: Daemon, pid: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal, and wait for the end."""
    with pidfd(pid) as ending:
        os.kill(pid, number)
        assert select.select([ending], [], [], DEADLINE)[0]
    daemon.nothing_left()


def log_of(daemon: Daemon) -> str:
    return (daemon.home / "graced.log").read_text()


# The way there


def test_it_returns_when_ready(daemon: Daemon) -> None:
    prepared(
        daemon, {"worker": "sample_workers:SlowSetup", "workers": 2, "options": {"seconds": 0.5}}
    )
    pid = started(daemon)
    assert len(daemon.events.matching("^setup ")) == 2
    daemon.notices.wait("^READY=1$")
    status = daemon.status()
    assert (status["pid"], status["state"]) == (pid, "running")
    gone(daemon, pid)
    assert len(daemon.events.matching("^teardown ")) == 2
    assert "stopped" in log_of(daemon)
    assert not (daemon.home / "graced.pid").exists()


def test_it_has_left_everything_behind(daemon: Daemon) -> None:
    pid = started(prepared(daemon))
    assert comm(pid) == "graced"
    _, parent, _, session, terminal, *_ = stat(pid)
    assert int(parent) != os.getpid()
    assert int(session) not in (pid, os.getsid(0))  # it leads none: it can't get a terminal
    assert int(terminal) == 0
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    targets = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)]
    assert targets == ["/dev/null"] + 2 * [str(daemon.home / "graced.log")]
    worker = daemon.worker_pids()[0]
    daemon.until(lambda: stat(worker)[0] == "S")  # it opens and closes nothing more
    held = [os.readlink(f"/proc/{worker}/fd/{fd}") for fd in os.listdir(f"/proc/{worker}/fd")]
    assert str(daemon.home / "graced.pid") not in held
    gone(daemon, pid)


def test_paths_may_be_relative(daemon: Daemon) -> None:
    prepared(daemon)
    daemon.write_config(
        daemon.config.read_text().replace(str(daemon.home) + "/graced.log", "my.log")
    )
    daemon.pump.start()
    line = daemon.command("run", "--daemonize", "--pidfile", "my.pid", "-c", "config.yaml")
    quiet = {"stdin": subprocess.DEVNULL, "timeout": 60}
    subprocess.run(line, cwd=daemon.home, env=daemon.environment(), check=True, **quiet)  # type: ignore[call-overload]
    pid = int((daemon.home / "my.pid").read_text())
    assert "ready" in (daemon.home / "my.log").read_text()
    assert daemon.run("reload").returncode == 0
    gone(daemon, pid)
    assert not (daemon.home / "my.pid").exists()


# Starts that fail

FAILURES: dict[str, tuple[dict[str, object], int, str]] = {
    "setup": ({"worker": "sample_workers:FailsInSetup"}, 1, "no database at db.example:5432"),
    "import": ({"worker": "sample_workers:NoSuch"}, 1, "no class 'NoSuch'"),
    "wrong": (
        {"worker": "sample_workers:Idle", "workers": "many"},
        78,
        r"config\.yaml:\d+:\d+: .*many",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_start_that_fails_has_the_code_of_run(daemon: Daemon, name: str) -> None:
    pool, code, reason = FAILURES[name]
    prepared(daemon, {**pool, "backoff": {"first": "50ms"}})
    result = run(daemon)
    assert result.returncode == code, result
    assert re.search(reason, result.stderr), result
    assert "Traceback" not in result.stderr or name == "setup"
    assert not (daemon.home / "graced.pid").exists()
    daemon.nothing_left()


def test_why_it_is_refused_is_a_record_of_its_log(daemon: Daemon) -> None:
    log = {"file": str(daemon.home / "graced.log"), "format": "json"}
    (daemon.home / "no-folder").touch()
    prepared(daemon, log=log, state_dir=str(daemon.home / "no-folder"))
    result = run(daemon)
    assert (result.returncode, result.stderr) == (78, log_of(daemon))
    assert "set state_dir to a folder" in json.loads(result.stderr)["message"]


def test_a_second_one_is_refused(daemon: Daemon) -> None:
    pid = started(prepared(daemon))
    log = log_of(daemon)
    for more in ([], ["--pidfile", str(daemon.home / "other.pid")]):
        result = run(daemon, *more)
        assert result.returncode == 75, result
        assert re.fullmatch(rf"graced: .*: already running \(pid {pid}\); .*\n", result.stderr)
    assert log_of(daemon) == log  # it is the first one's
    assert int((daemon.home / "graced.pid").read_text()) == pid
    assert not (daemon.home / "other.pid").exists()
    assert daemon.status()["pid"] == pid
    gone(daemon, pid)


def test_it_needs_a_log_file(daemon: Daemon) -> None:
    daemon.pool()
    result = run(daemon)
    assert result.returncode == 78
    assert re.search(r"config\.yaml: log\.file: .*set log\.file", result.stderr)
    prepared(daemon, log={"file": str(daemon.home / "no" / "folder.log")})
    result = run(daemon)
    assert result.returncode == 78, result
    assert re.search(r"folder\.log.*No such file", result.stderr), result
    assert "Traceback" not in result.stderr
    daemon.nothing_left()


def test_a_pid_file_that_cannot_be_written_is_told(daemon: Daemon) -> None:
    prepared(daemon)
    result = run(daemon, "--pidfile", str(daemon.home / "no" / "folder.pid"))
    assert result.returncode == 78, result
    assert re.search(r"folder\.pid.*No such file", result.stderr), result
    daemon.nothing_left()


def test_what_is_no_pid_file_is_left_alone(daemon: Daemon) -> None:
    prepared(daemon)
    pipe, link = daemon.home / "pipe", daemon.home / "link"
    os.mkfifo(pipe)
    link.symlink_to("graced.pid")
    written = daemon.config.read_text()
    for file in (daemon.config, pipe, link, daemon.home):
        result = run(daemon, "--pidfile", str(file))
        assert (result.returncode, result.stderr) == (
            78, f"graced: {file}: is there, and no PID file; give another --pidfile\n"
        )  # fmt: skip
    assert daemon.config.read_text() == written
    assert pipe.is_fifo()
    assert link.is_symlink()
    daemon.nothing_left()


def test_a_pid_file_is_for_daemons(daemon: Daemon) -> None:
    result = prepared(daemon).run("run", "--pidfile", str(daemon.home / "graced.pid"))
    assert result.returncode == 2


# The PID file


def test_the_pid_file_is_locked_and_a_stale_one_is_no_obstacle(daemon: Daemon) -> None:
    first = started(prepared(daemon))
    with open(daemon.home / "graced.pid") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    gone(daemon, first, signal.SIGKILL)
    assert int((daemon.home / "graced.pid").read_text()) == first
    second = started(daemon)
    assert second != first
    gone(daemon, second)
    assert not (daemon.home / "graced.pid").exists()


# The log


def test_a_rotated_log_is_opened_again_by_all(daemon: Daemon) -> None:
    daemon.module("talks", TALKS)
    prepared(daemon, {"worker": "talks:Talks", "workers": 2, "path": [".", TESTS]})
    pid = started(daemon)
    log, old = daemon.home / "graced.log", daemon.home / "graced.log.1"
    daemon.until(lambda: "word 3 of 1" in log_of(daemon))
    log.rename(old)
    os.kill(pid, signal.SIGUSR1)
    daemon.until(lambda: log.exists() and "log file opened again" in log_of(daemon))
    daemon.until(lambda: all(re.search(rf"word \d+ of {slot}", log_of(daemon)) for slot in (0, 1)))
    size = old.stat().st_size
    daemon.until(lambda: log.stat().st_size > 2000)
    assert old.stat().st_size == size
    numbers = [int(n) for n in re.findall(r"word (\d+) of 1", old.read_text() + log_of(daemon))]
    assert numbers == list(range(1, len(numbers) + 1))  # not a line was lost
    worker = daemon.worker_pids()[0]
    for process in (pid, worker):
        for fd in (1, 2):
            assert os.readlink(f"/proc/{process}/fd/{fd}") == str(log)
    gone(daemon, pid)


# User and group


def as_nobody(daemon: Daemon) -> dict[str, str]:
    """Bring the code to where nobody may read it; return the settings."""
    daemon.python = python_for("nobody")
    code = daemon.short / "code"
    shutil.copytree(ROOT / "graced", code / "graced", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests" / "sample_workers.py", code)
    (code / "talks.py").write_text(TALKS)
    paths = [str(code), str(Path(yaml.__file__).parents[1])]
    daemon.environ["PYTHONPATH"] = os.pathsep.join(paths)
    return {"user": "nobody"}


@pytest.mark.usefixtures("as_root")
def test_a_user_is_become_and_has_the_log(daemon: Daemon) -> None:
    nobody = pwd.getpwnam("nobody")
    top = as_nobody(daemon)
    talks = {"worker": "talks:Talks", "path": [str(daemon.short / "code")]}
    daemon.config = daemon.short / "config.yaml"  # pytest's own folder is for root alone
    logs = daemon.short / "logs"
    logs.mkdir()
    os.chown(logs, nobody.pw_uid, nobody.pw_gid)
    log, new = logs / "graced.log", logs / "new.log"
    prepared(daemon, talks, log={"file": str(log)}, **top)
    pid = started(daemon)
    assert f"\nUid:\t{nobody.pw_uid}\t" in Path(f"/proc/{pid}/status").read_text()
    worker = daemon.worker_pids()[0]
    assert os.stat(f"/proc/{worker}").st_uid == nobody.pw_uid
    assert (log.stat().st_uid, log.stat().st_gid) == (nobody.pw_uid, nobody.pw_gid)
    log.rename(logs / "graced.log.1")
    os.kill(pid, signal.SIGUSR1)
    daemon.until(lambda: log.exists() and "word" in log.read_text())
    prepared(daemon, talks, log={"file": str(new)}, **top)
    result = daemon.run("reload")
    assert result.returncode == 0, result
    assert (new.stat().st_uid, new.stat().st_gid) == (nobody.pw_uid, nobody.pw_gid)
    daemon.until(lambda: "word" in new.read_text())
    # What only root could open is refused by name.
    prepared(daemon, talks, log={"file": str(daemon.short / "root.log")}, **top)
    result = daemon.run("reload")
    assert result.returncode == 1, result
    assert "root.log: Permission denied" in result.stderr
    assert "restart" in result.stderr
    gone(daemon, pid)
