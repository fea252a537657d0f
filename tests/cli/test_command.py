"""graced.command: the command line of a daemon of one's own, under its name alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_harness import DEADLINE, ROOT

SCRIPT = "import graced\ngraced.command(prog={prog!r}, version='1.2.3', config={config!r})\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("GRACED_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "app").write_text(SCRIPT.format(prog="my-app2", config=f"{tmp_path}/etc.yaml"))
    return tmp_path


def run(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "app", *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=DEADLINE, check=False)


def test_nothing_that_is_said_has_another_name(home: Path) -> None:
    assert run("--version").stdout == "my-app2 1.2.3\n"
    assert run().returncode == 2
    assert "my-app2: error: " in run("-x").stderr
    missing = run("check")
    assert missing.returncode == 78
    assert f"write ./config.yaml or {home}/etc.yaml" in missing.stderr
    refused = run("run", "--pidfile", "x")
    assert refused.stderr == "my-app2: run: --pidfile goes with --daemonize\n"
    helps = [run("--help"), *(run(name, "--help") for name in ("run", "status", "doctor"))]
    for done in [missing, refused, *helps]:
        said = (done.stdout + done.stderr).replace("$GRACED_CONFIG", "").replace("$GRACED_SO", "")
        assert "graced" not in said.lower()


def test_name_and_folders_follow(home: Path) -> None:
    (home / "etc.yaml").write_text("runtime_dir: run\nstate_dir: state\npools: {jobs: {}}\n")
    assert run("check", "--show").stdout.startswith("name: my-app2 ")
    (home / "etc.yaml").write_text("{}\n")
    nobody = run("status")
    assert nobody.returncode == 3
    assert "/my-app2" in nobody.stderr
    assert nobody.stderr.startswith("my-app2: ")


def test_in_a_worker_of_another_daemon_it_does_not_ask_that_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "etc.yaml").write_text("{}\n")
    monkeypatch.setenv("GRACED_SOCKET", f"{home}/others.sock")
    monkeypatch.setenv("GRACED_CONFIG", f"{home}/others.yaml")
    monkeypatch.setenv("GRACED_PROG", "my-app2")
    assert "others.sock" in run("status").stderr
    monkeypatch.setenv("GRACED_PROG", "graced")
    assert "others" not in run("status").stderr


def test_processes_and_status_have_its_name(home: Path) -> None:
    long = "thumbnail-service"
    (home / "app").write_text(SCRIPT.format(prog=long, config=f"{home}/etc.yaml"))
    (home / "etc.yaml").write_text("runtime_dir: run\nstate_dir: state\npools: {jobs: {}}\n")
    daemon = subprocess.Popen([sys.executable, "app", "run"], stderr=subprocess.PIPE, text=True)
    try:
        assert daemon.stderr is not None
        assert any("ready: 1 worker" in line for line in daemon.stderr)
        status = json.loads(run("status", "--json").stdout)
        assert (status["name"], status["version"]) == (long, "1.2.3")
        (home / "app").write_text("import graced\ngraced.command(prog='other', version='9.9')\n")
        strange = ("-c", "etc.yaml", "--set", f"name={long}")  # another program's
        assert f"{long} 1.2.3)" in run("status", *strange).stdout
        assert "1.2.3" not in run("doctor", *strange).stdout
        (home / "app").write_text(SCRIPT.format(prog=long, config=f"{home}/etc.yaml"))
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in (daemon.pid, *children)}
        assert names == {"thumbnail-servi", "thumbnai-zygote", "thumbnai-worker", "thumbnai-keeper"}
        assert "version 1.2.3" in run("history").stdout
        assert run("stop").returncode == 0
        assert daemon.wait(DEADLINE) == 0
    finally:
        if daemon.poll() is None:
            daemon.kill()
        daemon.communicate()


def test_a_stop_that_comes_first_of_all_is_heard(home: Path) -> None:
    """It may come while Python still imports: it is a stop, and no death."""
    (home / "etc.yaml").write_text("runtime_dir: run\nstate_dir: state\npools: {jobs: {}}\n")
    first = "import os, signal, sys\nfrom graced.cli import main\n"
    parse = "import graced.cli.arguments as a; real = a.parse\n"
    send = "def parse(words): os.kill(os.getpid(), signal.SIGTERM); return real(words)\n"
    (home / "app").write_text(
        first
        + parse
        + send
        + "a.parse = parse\n"
        + SCRIPT.format(prog="x", config=f"{home}/etc.yaml")
    )
    assert run("run").returncode == 0


@pytest.mark.parametrize("prog", ["", "a b", "../x", "-x"])
def test_a_name_that_cannot_be(home: Path, prog: str) -> None:
    (home / "app").write_text(SCRIPT.format(prog=prog, config=None))
    assert "write a letter, then letters" in run("--version").stderr
