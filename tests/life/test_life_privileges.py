"""Privileges: nothing is root after the start, and what root does before leads nobody's way."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from daemon_harness import ROOT, Daemon, children
from test_life_start import python_for

from graced.host import credentials

pytestmark = pytest.mark.usefixtures("as_root")
NOBODY = pwd.getpwnam("nobody")
OURS = {"worker": "graced.workers:Command", "path": []}


@pytest.fixture
def daemon(daemon: Daemon) -> Daemon:
    """A daemon whose code, configuration and folders nobody can get to."""
    daemon.python = python_for("nobody")
    code = daemon.short / "code"
    shutil.copytree(ROOT / "graced", code / "graced", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests" / "sample_workers.py", code)
    daemon.environ["PYTHONPATH"] = os.pathsep.join([str(code), str(Path(yaml.__file__).parents[1])])
    daemon.config = daemon.short / "config.yaml"
    return daemon


@pytest.fixture
def theirs(daemon: Daemon) -> Path:
    """A folder of nobody's."""
    folder = daemon.short / "theirs"
    folder.mkdir()
    os.chown(folder, NOBODY.pw_uid, NOBODY.pw_gid)
    return folder


def status(pid: int) -> dict[str, str]:
    """Return what /proc/PID/status says."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def configured(daemon: Daemon, **top: object) -> Daemon:
    settings = {"user": "nobody", "state_dir": str(daemon.short / "state"), **top}
    daemon.configure({"jobs": OURS}, **settings)
    return daemon


def test_no_process_is_root_and_none_has_a_right_or_a_terminal(daemon: Daemon) -> None:
    daemon.environ |= {"SUDO_USER": "root", "SSH_AUTH_SOCK": "/s", "DBUS_SESSION_BUS_ADDRESS": "d"}
    daemon.environ["XDG_RUNTIME_DIR"] = "/run/user/0"
    configured(daemon).start().ready()
    done = daemon.run("submit", "--wait", "--", "sh", "-c", f"env > {daemon.short}/state/env")
    assert done.returncode == 0, done
    variables = (daemon.short / "state" / "env").read_text()
    for name in ("SUDO_", "SSH_", "DBUS_", "XDG_"):
        assert f"\n{name}" not in f"\n{variables}"
    assert "USER=nobody" in variables
    pids = [daemon.pid, *children(daemon.pid)]
    names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids}
    assert names >= {"graced", "graced-zygote", "graced-worker", "graced-keeper"}
    for pid in pids:
        told = status(pid)
        assert told["Uid"].split() == [str(NOBODY.pw_uid)] * 4
        assert told["Gid"].split() == [str(NOBODY.pw_gid)] * 4
        assert told["Groups"].split() == [str(NOBODY.pw_gid)]
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(told[kind], 16) == 0, kind
        assert told["NoNewPrivs"] == "1"
        terminal = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4]
        assert pid == daemon.pid or terminal == "0"
    for name in ("lock", "control.sock", "queue-jobs.sock"):
        assert (daemon.short / "run" / name).stat().st_uid == NOBODY.pw_uid
    daemon.send(signal.SIGTERM)
    daemon.ended(0)


def test_folders_and_files_of_a_version_that_stayed_root_are_taken_over(daemon: Daemon) -> None:
    for name, files in {"run": ["lock", "control.sock"], "state": ["jobs.db-keeper"]}.items():
        (daemon.short / name).mkdir(exist_ok=True)
        for file in files:
            (daemon.short / name / file).write_text("")
    os.chown(daemon.short / "run", NOBODY.pw_uid, NOBODY.pw_gid)  # mixed: the lock is root's
    configured(daemon).start().ready()
    assert daemon.run("submit", "--wait", "--", "true").returncode == 0
    for file in (daemon.short / "run" / "lock", *(daemon.short / "state").glob("jobs.db*")):
        found = file.lstat()
        assert found.st_uid == NOBODY.pw_uid, file
        assert stat.S_IMODE(found.st_mode) & 0o077 == 0, file


def test_a_folder_with_things_of_others_is_not_given_away(daemon: Daemon) -> None:
    state = daemon.short / "state"
    state.mkdir()
    (state / "secrets").write_text("root's")
    idle = {"worker": "sample_workers:Idle", "path": []}
    daemon.configure({"jobs": idle}, user="nobody", state_dir=str(state)).start().ready()
    assert state.stat().st_uid == 0
    daemon.log.wait("no queue can be kept: .*set state_dir")


def test_a_python_in_roots_own_folder_is_refused(daemon: Daemon) -> None:
    where = "import sysconfig; print(sysconfig.get_path('stdlib'))"
    found = subprocess.run([daemon.python, "-c", where], capture_output=True, text=True, check=True)
    home = daemon.short / "home"
    home.mkdir(0o700)
    (home / "lib").symlink_to(Path(found.stdout.strip()).parent)
    configured(daemon)
    daemon.environ["PYTHONHOME"] = str(home)
    for command in (["run"], ["submit", "--pool", "jobs", "--json", "1"], ["pause", "jobs"]):
        done = daemon.run(*command)
        assert done.returncode == 78, done
        assert f"{home}/lib" in done.stderr
        assert "user nobody cannot read Python's own code; install it" in done.stderr


@pytest.mark.parametrize("nested", [False, True])
def test_a_log_leads_root_nowhere(daemon: Daemon, theirs: Path, *, nested: bool) -> None:
    roots = daemon.short / "roots"
    roots.mkdir()
    (roots / "log").write_text("root's\n")
    link = theirs / "logs" if nested else theirs / "log"
    link.symlink_to(roots if nested else roots / "log")
    file = theirs / "logs" / "log" if nested else link
    configured(daemon, log={"file": str(file)}).start().ended(78)
    assert (roots / "log").read_text() == "root's\n"
    assert (roots / "log").stat().st_uid == 0
    daemon.log.wait("Permission denied")


def test_a_pid_file_of_roots_is_emptied(daemon: Daemon) -> None:
    pidfile, log = daemon.short / "graced.pid", daemon.short / "graced.log"
    configured(daemon, log={"file": str(log)})
    started = daemon.run("run", "--daemonize", "--pidfile", str(pidfile), "-c", str(daemon.config))
    assert started.returncode == 0, started
    pid = int(pidfile.read_text())
    assert (pidfile.stat().st_uid, stat.S_IMODE(pidfile.stat().st_mode)) == (0, 0o600)
    assert status(pid)["Uid"].split()[0] == str(NOBODY.pw_uid)
    assert daemon.run("stop").returncode == 0
    assert pidfile.read_text() == ""


def test_a_reload_cannot_have_what_only_root_can(daemon: Daemon) -> None:
    configured(daemon).start().ready()
    daemon.configure(
        {"jobs": {**OURS, "listen": f"unix://{daemon.short}/web.sock"}},
        user="nobody",
        state_dir=str(daemon.short / "state"),
    )
    refused = daemon.run("reload")
    assert refused.returncode == 1
    assert "restart it as root" in refused.stderr
    daemon.config.chmod(0o600)
    refused = daemon.run("reload")
    assert refused.returncode == 1
    assert "may not be read by this user" in refused.stderr


def test_a_socket_in_roots_folder_is_opened_by_root_for_the_user(daemon: Daemon) -> None:
    web = daemon.short / "web.sock"
    daemon.configure(
        {"jobs": {**OURS, "listen": f"unix://{web}"}},
        user="nobody",
        state_dir=str(daemon.short / "state"),
    )
    daemon.start().ready()
    assert web.stat().st_uid == NOBODY.pw_uid
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(web))


@pytest.mark.parametrize("why", ["log", "code"])
def test_a_start_that_fails_leaves_no_folder(daemon: Daemon, why: str) -> None:
    run, log = daemon.short / "new", daemon.short / "no" / "log"
    configured(daemon, runtime_dir=str(run), log={"file": str(log) if why == "log" else None})
    if why == "code":
        (daemon.short / "code" / "graced" / "host").chmod(0o700)
    daemon.start().ended(78)
    assert not run.exists()
    assert not (daemon.short / "state").exists()


def test_code_that_the_user_reads_by_another_group_will_do(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, groups = daemon.short / "of-a-group", os.getgroups()
    code.mkdir()
    code.chmod(0o750)
    os.chown(code, 0, 4242)
    for module in (os, credentials):
        monkeypatch.setattr(module, "__file__", str(code / "module.py"))
    with pytest.raises(credentials.CredentialsError, match="cannot read"):
        credentials.check_code_for("nobody", None)
    monkeypatch.setattr(os, "getgrouplist", lambda _name, gid: [gid, 4242])
    credentials.check_code_for("nobody", None)
    assert (os.geteuid(), os.getgroups()) == (0, groups)


# What others can write


@pytest.mark.parametrize("where", ["file", "folder", "drop-in", "path", "here"])
def test_root_runs_nothing_that_others_can_write(daemon: Daemon, theirs: Path, where: str) -> None:
    proof = daemon.short / "proof"
    (theirs / "evil.py").write_text(f"open({str(proof)!r}, 'w').close()\nclass Evil: pass\n")
    pool = f"pools: {{jobs: {{worker: 'evil:Evil', path: ['{theirs}']}}}}\n"
    config = daemon.config
    config.write_text("pools: {jobs: {}}\n" if where == "drop-in" else pool)
    if where == "drop-in":
        (daemon.short / "config.d").mkdir()
        drop_in = daemon.short / "config.d" / "a.yaml"
        drop_in.write_text(pool)
        os.chown(drop_in, NOBODY.pw_uid, NOBODY.pw_gid)
    elif where == "file":
        os.chown(config, NOBODY.pw_uid, NOBODY.pw_gid)
    elif where in ("folder", "here"):
        config = theirs / "config.yaml"
        config.write_text(pool)
    words = ["check"] if where == "here" else ["check", "-c", str(config)]
    told = subprocess.run(
        [sys.executable, "-m", "graced", *words],
        cwd=theirs,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 78, told
    assert "belongs to user nobody" in told.stderr
    assert "sudo -u" in told.stderr
    assert not proof.exists()


@pytest.mark.parametrize(
    "theirs", ["evil", "evil/__init__.py", "evil/__pycache__", "evil/deed.py", "__pycache__"]
)
def test_root_imports_no_file_that_others_can_write(daemon: Daemon, theirs: str) -> None:
    proof, home = daemon.short / "proof", daemon.short / "code"
    (home / "evil" / "__pycache__").mkdir(parents=True)
    (home / "__pycache__").mkdir()
    (home / "evil" / "__init__.py").touch()
    (home / "evil" / "deed.py").write_text(f"open({str(proof)!r}, 'w').close()\n")
    daemon.config.write_text(f"pools: {{jobs: {{worker: 'evil.deed:Evil', path: ['{home}']}}}}\n")
    os.chown(home / theirs, NOBODY.pw_uid, NOBODY.pw_gid)
    told = daemon.run("check")
    assert told.returncode == 78, told
    assert f"{home / theirs} belongs to user nobody" in told.stderr
    assert not proof.exists()


@pytest.fixture
def impostor(daemon: Daemon) -> Iterator[Path]:
    """The socket of another user, where a daemon's could be."""
    public = daemon.short / "public"
    public.mkdir()
    public.chmod(0o1777)
    folder = public / "run"
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setresgid(NOBODY.pw_gid, NOBODY.pw_gid, NOBODY.pw_gid)
        os.setresuid(NOBODY.pw_uid, NOBODY.pw_uid, NOBODY.pw_uid)
        folder.mkdir()
        listeners = []
        for name in ("control.sock", "queue-jobs.sock"):
            listeners.append(socket.socket(socket.AF_UNIX))
            listeners[-1].bind(str(folder / name))
            listeners[-1].listen()
        os.write(write, b"!")
        signal.pause()
        os._exit(0)
    os.read(read, 1)
    yield folder
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("words", [["status"], ["health"], ["submit", "--", "true"]])
def test_who_is_not_the_daemon_is_not_asked(
    daemon: Daemon, impostor: Path, words: list[str]
) -> None:
    daemon.configure({"jobs": OURS}, runtime_dir=str(impostor))
    told = daemon.run(*words)
    assert told.returncode == 1, told
    assert "belongs to user nobody, which is neither root, nor you" in told.stderr
    assert "sudo -u nobody" in told.stderr
    named = daemon.run(words[0], "--socket", str(impostor / "control.sock"), *words[1:])
    assert (named.returncode, "belongs to user nobody" in named.stderr) == (1, True), named
