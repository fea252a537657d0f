"""The daemon starts: what it says, what it gives its workers, and how a start can fail."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from daemon_harness import ROOT, Daemon, children, comm, stat
from test_imports import HEAVY

KEYS_OF_STATUS = set("name version pid state generation ready uptime last_reload pools".split())
KEYS_OF_POOL = set("target ready busy deaths backoff queue workers last_deaths".split())
KEYS_OF_WORKER = set("slot pid state generation rounds errors busy_for age rss".split())


def test_who_is_ready_in_time_is_heard_by_a_daemon_that_stood_still(daemon: Daemon) -> None:
    daemon.pool("sample_workers:GatedSetup", options={"gate": daemon.gate()}, ready_timeout="3s")
    daemon.start().events.wait("^setting-up")
    daemon.until(lambda: any(daemon.worker_pids()))  # the birth has been reported,
    daemon.until(lambda: stat(daemon.pid)[0] == "S")  # and there is nothing to do but wait
    daemon.send(signal.SIGSTOP)
    try:
        over = time.monotonic() + 3.0
        daemon.open_gate()
        daemon.events.wait("^setup ")
        daemon.until(lambda: time.monotonic() > over)
    finally:
        daemon.send(signal.SIGCONT)
    daemon.ready()
    assert daemon.status()["pools"]["jobs"]["deaths"] == 0


def test_ready_is_said_once_all_workers_are(daemon: Daemon) -> None:
    daemon.pool("sample_workers:SlowSetup", workers=3, options={"seconds": 0.3}).start().ready()
    ready = daemon.notices.matching("^READY=1$")
    assert len(ready) == 1
    setups = daemon.events.matching("^setup ")
    assert len(setups) == 3
    assert ready[0].at > max(line.at for line in setups)
    assert sorted(line.words[2] for line in setups) == ["0", "1", "2"]
    assert {tuple(line.words[1::2]) for line in setups} == {("jobs", "1")}


def test_only_the_main_process_speaks_to_systemd(daemon: Daemon) -> None:
    daemon.pool(workers=2).start().ready()
    daemon.notices.wait(r"^STATUS=.*2/2 workers ready")
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    assert {line.pid for line in daemon.notices.lines} == {daemon.pid}
    said = [line.text for line in daemon.notices.lines if not line.text.startswith("STATUS")]
    assert said.index("READY=1") < said.index("STOPPING=1")
    assert said.count("STOPPING=1") == 1


def test_processes_have_names(daemon: Daemon) -> None:
    daemon.pool(workers=2).start().ready()
    assert comm(daemon.pid) == "graced"
    names = ["graced-worker", "graced-worker", "graced-zygote"]
    daemon.until(lambda: sorted(comm(pid) for pid in children(daemon.pid)) == names)


def test_workers_lead_groups_and_are_the_main_process_s_own(daemon: Daemon) -> None:
    daemon.pool(workers=3).start().ready()
    pids = daemon.worker_pids()
    for pid in pids:
        _, parent, group, *_ = stat(pid)
        assert int(parent) == daemon.pid
        assert int(group) == pid
    assert set(pids) == {line.pid for line in daemon.events.matching("^setup ")}


def test_a_worker_gets_its_environment(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Environment", env={"COLOUR": "blue"}).start().ready()
    assert daemon.events.wait("^env ")[0].words == ["env", "blue", "None"]
    assert daemon.events.wait("^leads ")[0].words == ["leads", "True", str(daemon.pid)]
    assert daemon.events.wait("^stdin ")[0].words == ["stdin", "/dev/null"]


def test_a_worker_holds_no_descriptor_of_the_main_process(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Environment", workers=2).start().ready()
    for line in daemon.events.wait("^fds ", 2):
        held = dict(word.split("=", 1) for word in line.words[1:])
        sockets = [fd for fd, target in held.items() if target.startswith("socket:")]
        assert not sockets, held
        assert not [target for target in held.values() if str(daemon.short) in target], held


def test_path_comes_before_sys_path(daemon: Daemon) -> None:
    daemon.module("colorsys", "from sample_workers import Idle\nclass Mine(Idle): pass\n")
    tests = str(Path(__file__).parents[1])
    daemon.pool("colorsys:Mine", path=[".", tests]).start().ready()
    assert daemon.events.wait("^setup ")


def test_without_preload_each_worker_imports(daemon: Daemon) -> None:
    daemon.module(
        "counted", "from sample_workers import *\nsay('imported')\nclass Mine(Idle): pass\n"
    )
    tests = str(Path(__file__).parents[1])
    daemon.pool("counted:Mine", path=[".", tests], workers=3, preload=False).start().ready()
    assert len(daemon.events.matching("^imported")) == 3


def test_with_preload_the_zygote_imports_once(daemon: Daemon) -> None:
    daemon.module(
        "counted", "from sample_workers import *\nsay('imported')\nclass Mine(Idle): pass\n"
    )
    tests = str(Path(__file__).parents[1])
    daemon.pool("counted:Mine", path=[".", tests], workers=3).start().ready()
    assert len(daemon.events.matching("^imported")) == 1


def test_a_pool_starts_after_those_it_names_and_ends_before_them(daemon: Daemon) -> None:
    daemon.configure(
        {
            "front": {"worker": "sample_workers:StubbornTeardown", "after": ["back"], "workers": 2},
            "back": {
                "worker": "sample_workers:SlowSetup",
                "options": {"seconds": 0.5},
                "workers": 2,
            },
        }
    )
    daemon.start().ready()
    order = [line.words[1] for line in daemon.events.matching("^setup ")]
    assert order == ["back", "back", "front", "front"]
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    fronts = {line.pid for line in daemon.events.matching("^tearing")}
    ends = [line.pid in fronts for line in daemon.events.matching("^teardown")]
    assert ends == [True, True, False, False]


def test_the_first_zygotes_are_forked_before_the_supervisor_is_imported(daemon: Daemon) -> None:
    for name in ("back", "front"):
        told = f"say('{name}', 'graced.supervisor.loop' in sys.modules)"
        daemon.module(name, f"import sys\nfrom sample_workers import *\n{told}\n")
    path = [".", str(Path(__file__).parents[1])]
    daemon.configure(
        {
            "front": {"worker": "front:Idle", "path": path, "after": ["back"]},
            "back": {"worker": "back:Idle", "path": path},
        }
    )
    daemon.start().ready()
    assert [line.text for line in daemon.events.matching("^(back|front) ")] == [
        "back False",
        "front True",
    ]


def python_for(user: str) -> str:
    """Return an interpreter that this user may run; root's own may be out of reach."""
    for python in (sys.executable, "/usr/bin/python3"):
        line = [python, "-c", "import sys, subprocess; sys.exit(sys.version_info < (3, 11))"]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(line, user=user, cwd="/", stderr=subprocess.DEVNULL, check=True)
            return python
    pytest.skip(f"{user} can run no Python here")


def uids(pid: int) -> set[int]:
    """Return the user numbers of a process: real, effective, saved, of the file system."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("Uid:"):
            return set(map(int, line.split()[1:]))
    raise AssertionError(pid)


@pytest.mark.usefixtures("as_root")
def test_a_user_is_become_before_any_code_of_the_user_runs(daemon: Daemon) -> None:
    nobody = pwd.getpwnam("nobody")
    daemon.python = python_for("nobody")
    code = daemon.short / "code"  # where nobody may read
    shutil.copytree(ROOT / "graced", code / "graced", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests" / "sample_workers.py", code)
    (code / "who.py").write_text("from sample_workers import *\nsay('importing as', os.getuid())\n")
    daemon.environ["PYTHONPATH"] = os.pathsep.join([str(code), str(Path(yaml.__file__).parents[1])])
    daemon.configure({"jobs": {"worker": "who:Environment", "path": [str(code)]}}, user="nobody")
    daemon.start().ready()
    assert daemon.events.wait("^importing")[0].words[-1] == str(nobody.pw_uid)
    ids = daemon.events.wait("^ids ")[0].words
    assert ids == ["ids", str(nobody.pw_uid), str(nobody.pw_gid), nobody.pw_dir]
    assert daemon.events.wait("^groups")[0].words == ["groups", str(nobody.pw_gid)]
    assert uids(daemon.pid) == {nobody.pw_uid}
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    assert daemon.events.matching("^teardown")


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("preload", [True, False])
def test_code_that_the_user_may_not_read_is_an_import_that_fails(
    daemon: Daemon, *, preload: bool
) -> None:
    daemon.python = python_for("nobody")
    code = daemon.short / "code"
    shutil.copytree(ROOT / "graced", code / "graced", ignore=shutil.ignore_patterns("__pycache__"))
    (code / "graced" / "queue").chmod(0o700)
    daemon.environ["PYTHONPATH"] = os.pathsep.join([str(code), str(Path(yaml.__file__).parents[1])])
    pool = {"worker": "graced.workers:Command", "preload": preload, "path": []}
    daemon.configure({"jobs": pool}, user="nobody", log={"format": "json"})
    daemon.start().ended(1)
    told = [json.loads(line.text) for line in daemon.log.lines]
    assert any("the code cannot be imported\nTraceback" in each["message"] for each in told)
    assert "cannot import 'graced.workers:Command': " in told[-1]["message"]


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("part", ["queue", "host"])
def test_code_of_our_own_that_may_not_be_read_is_no_bug(daemon: Daemon, part: str) -> None:
    code = daemon.short / "code" / "graced"
    shutil.copytree(ROOT / "graced", code, ignore=shutil.ignore_patterns("__pycache__"))
    (code / part).chmod(0)
    packages = (code.parent, Path(yaml.__file__).parents[1])
    done = subprocess.run(
        [python_for("nobody"), "-m", "graced", "check", "-c", str(daemon.config)],
        env={"PYTHONPATH": os.pathsep.join(map(str, packages))},
        user="nobody", cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (78, 1), done.stderr
    assert done.stderr.startswith(f"graced: {code / part}: ")


def test_titles_tell_who_is_who(daemon: Daemon) -> None:
    pytest.importorskip("setproctitle")
    command = {"worker": "graced.workers:Command"}
    daemon.configure({"one": command, "two": {**command, "workers": 2}}, name="shop")
    daemon.start().ready()
    names = {
        *("shop: zygote one gen 1", "shop: worker one/0 gen 1"),
        *("shop: zygote two gen 1", "shop: worker two/0 gen 1"),
        *("shop: worker two/1 gen 1", "shop: keeper one", "shop: keeper two"),
    }
    daemon.until(lambda: {title(pid) for pid in children(daemon.pid)} == names)
    assert title(daemon.pid).endswith(f"run -c {daemon.config}")
    assert sorted(comm(pid) for pid in children(daemon.pid)).count("graced-keeper") == 2


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()
    except OSError:  # it has just ended
        return ""


def test_status_has_the_keys_of_the_contract(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Rounds", workers=2, options={"seconds": 60}).start().ready()
    daemon.events.wait("^begin ", 2)
    status = daemon.status()
    assert set(status) >= KEYS_OF_STATUS
    assert status["pid"] == daemon.pid
    assert (status["state"], status["generation"], status["ready"]) == ("running", 1, True)
    pool = status["pools"]["jobs"]
    assert set(pool) >= KEYS_OF_POOL - {"queue"}
    assert (pool["target"], pool["ready"], pool["busy"], pool["deaths"]) == (2, 2, 2, 0)
    for worker in pool["workers"]:
        assert set(worker) >= KEYS_OF_WORKER
        assert worker["state"] == "busy"
        assert worker["busy_for"] >= 0
        assert worker["rss"] > 2**20
    daemon.send(signal.SIGINT)


def test_status_is_also_for_people(daemon: Daemon) -> None:
    daemon.pool(workers=2).start().ready()
    result = daemon.run("status")
    assert result.returncode == 0, result.stderr
    assert "jobs" in result.stdout
    for pid in daemon.worker_pids():
        assert str(pid) in result.stdout


def test_no_daemon_no_answer(daemon: Daemon) -> None:
    daemon.pool()
    for command in (["status"], ["status", "--json"], ["stop"]):
        result = daemon.run(*command)
        assert result.returncode == 3, result
        assert "Traceback" not in result.stderr


def test_version_and_command_line_errors(daemon: Daemon) -> None:
    import graced

    version = daemon.run("--version")
    assert version.returncode == 0
    assert graced.__version__ in version.stdout
    for line in (["fly"], ["run", "--no-such-flag"], []):
        result = daemon.run(*line)
        assert result.returncode == 2, (line, result)
        assert "Traceback" not in result.stderr


def test_a_second_daemon_is_refused(daemon: Daemon) -> None:
    daemon.pool().start().ready()
    result = daemon.run("run")
    assert result.returncode == 75, result
    assert "Traceback" not in result.stderr
    assert daemon.status()["pid"] == daemon.pid


def test_a_start_that_cannot_succeed_ends(daemon: Daemon) -> None:
    daemon.pool("sample_workers:FailsInSetup").start()
    daemon.ended(1)
    assert not daemon.notices.matching("^READY=1")
    assert daemon.log.matching("no database at db.example:5432")
    assert len(daemon.events.matching("^failing")) == 3  # the start, a replacement, one probe
    daemon.nothing_left()


def test_a_start_of_workers_that_exit_ends(daemon: Daemon) -> None:
    daemon.pool("sample_workers:ExitsInSetup").start()
    daemon.ended(1)
    assert daemon.log.matching(r"exit.*\b7\b")
    daemon.nothing_left()


def test_a_setup_that_hangs_ends_the_start(daemon: Daemon) -> None:
    daemon.pool("sample_workers:SlowSetup", options={"seconds": 60}, ready_timeout="1s").start()
    daemon.ended(1)
    assert daemon.log.matching("ready_timeout|not ready|setup")
    daemon.nothing_left()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nonexistent_module", "nonexistent_module"),
        ("class Mine(:", "SyntaxError|invalid syntax"),
        ("raise RuntimeError('licence is missing')", "licence is missing"),
        ("import os; os._exit(9)", "9"),
        ("x = 1", "Mine"),
        ("class Mine: pass", "Mine"),
    ],
)
def test_a_failed_import_ends_the_start_at_once(daemon: Daemon, code: str, reason: str) -> None:
    daemon.module("broken", code)
    daemon.pool("broken:Mine", path=["."]).start()
    daemon.ended()
    assert daemon.process is not None
    assert daemon.process.returncode in (1, 78)
    assert daemon.log.matching(reason), daemon.log
    daemon.nothing_left()


def test_a_zygote_with_threads_refuses_to_fork(daemon: Daemon) -> None:
    daemon.module(
        "threaded",
        "import threading, time\nfrom sample_workers import Idle\n"
        "threading.Thread(target=time.sleep, args=(3600,), daemon=True, name='pollen').start()\n"
        "class Mine(Idle): pass\n",
    )
    tests = str(Path(__file__).parents[1])
    daemon.pool("threaded:Mine", path=[".", tests]).start()
    daemon.ended(1)
    assert daemon.log.matching("pollen")
    assert daemon.log.matching("preload: false")


def test_standard_streams_may_be_closed(daemon: Daemon) -> None:
    shell = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
    daemon.pool(workers=2).start(wrap=shell)
    daemon.notices.wait("^READY=1$")
    assert daemon.status()["pools"]["jobs"]["ready"] == 2
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    daemon.nothing_left()


def test_stop_waits_until_the_daemon_is_gone(daemon: Daemon) -> None:
    daemon.pool("sample_workers:StubbornTeardown", options={"seconds": 0.5}).start().ready()
    result = daemon.run("stop")
    assert result.returncode == 0, result
    assert daemon.events.matching("^teardown")
    assert daemon.run("status").returncode == 3
    daemon.ended(0)


def test_stop_now_interrupts(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Rounds", workers=2, options={"seconds": 60}).start().ready()
    daemon.events.wait("^begin ", 2)
    assert daemon.run("stop", "--now").returncode == 0
    daemon.ended(0)
    assert len(daemon.events.matching("^teardown")) == 2
    assert not daemon.events.matching("^end ")


def test_log_lines_can_be_json(daemon: Daemon) -> None:
    daemon.configure(
        {"jobs": {"worker": "sample_workers:Raises", "max_errors": 2}}, log={"format": "json"}
    )
    daemon.start()
    daemon.log.wait("no such luck")
    daemon.send(signal.SIGINT)
    daemon.ended()
    lines = [json.loads(line.text) for line in daemon.log.lines]
    assert all(isinstance(line, dict) for line in lines)


def test_check_loads_the_worker_classes(daemon: Daemon) -> None:
    daemon.pool()
    result = daemon.run("check")
    assert result.returncode == 0, result
    daemon.pool("sample_workers:NoSuchWorker")
    result = daemon.run("check")
    assert result.returncode in (1, 78)
    assert "NoSuchWorker" in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert not daemon.events.lines


def test_check_shows_where_values_come_from(daemon: Daemon) -> None:
    daemon.pool(workers=2)
    daemon.environ["GRACED__POOLS__JOBS__MAX_ERRORS"] = "7"
    result = daemon.run("check", "--show", "--set", "pools.jobs.drain_timeout=9s")
    assert result.returncode == 0, result
    shown = {line.split("#")[0].strip(): line for line in result.stdout.splitlines()}
    found = [line for line in shown.values() if "max_errors" in line]
    assert found, result.stdout
    assert "GRACED__POOLS__JOBS__MAX_ERRORS" in found[0]
    found = [line for line in shown.values() if "drain_timeout" in line]
    assert found, result.stdout
    assert "--set" in found[0]
    found = [line for line in shown.values() if re.match(r"\s*workers:", line)]
    assert found, result.stdout
    assert "config.yaml" in found[0]


def test_drop_ins_environment_and_flags_in_this_order(daemon: Daemon) -> None:
    daemon.pool(workers=1)
    drop_ins = daemon.home / "config.d"
    drop_ins.mkdir()
    (drop_ins / "20-more.yaml").write_text("pools: {jobs: {workers: 3, max_errors: 3}}")
    (drop_ins / "10-some.yaml").write_text("pools: {jobs: {workers: 2}}")
    daemon.start().ready()
    assert daemon.status()["pools"]["jobs"]["target"] == 3
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    daemon.environ["GRACED__POOLS__JOBS__WORKERS"] = "4"
    daemon.start().ready(2)
    assert daemon.status()["pools"]["jobs"]["target"] == 4
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    daemon.start("--set", "pools.jobs.workers=5").ready(3)
    assert daemon.status()["pools"]["jobs"]["target"] == 5


def test_nothing_heavy_is_loaded_before_ready(daemon: Daemon) -> None:
    daemon.module(
        "light",
        "from graced import Worker\nclass Mine(Worker):\n  def step(self):\n    self.wait(3600)\n",
    )
    daemon.environ["PYTHONPROFILEIMPORTTIME"] = "1"
    daemon.pool("light:Mine", path=["."]).start().ready()
    lines = [line.text.split("|")[-1].strip() for line in daemon.log.matching("import time:")]
    loaded = set(lines[lines.index("graced") :])  # what comes before is the interpreter's own
    assert "graced.supervisor.loop" in loaded
    assert "light" in loaded
    of_zygotes = {"logging", "threading", "traceback"}  # what logging imports, for all workers
    of_command_line = {"argparse", "shutil"}
    of_history = {"json"}  # for its first event, once READY=1 is sent
    assert loaded & HEAVY <= of_zygotes | of_command_line | of_history


def test_folders_that_nobody_has_named_are_told(daemon: Daemon) -> None:
    run, state = str(daemon.short / "run"), str(daemon.home / "state")
    daemon.environ |= {"RUNTIME_DIRECTORY": run, "STATE_DIRECTORY": state}
    idle = {"jobs": {"worker": "sample_workers:Idle"}}
    daemon.configure(idle, runtime_dir=None, state_dir=None).start().ready()
    assert daemon.log.matching(f"control socket {run}/control.sock, state in {state}$")


@pytest.mark.parametrize(("umask", "warned"), [(0o002, False), (0o077, False), (0o000, True)])
def test_the_umask_is_the_workers_own(daemon: Daemon, umask: int, *, warned: bool) -> None:
    code = "import os, sys; os.umask(int(sys.argv[1])); os.execvp(sys.argv[2], sys.argv[2:])"
    daemon.module("masked", MASKED)
    daemon.pool("masked:Masked", path=[str(daemon.home), str(ROOT / "tests")])
    daemon.start(wrap=(sys.executable, "-c", code, str(umask))).ready()
    assert daemon.events.wait("^umask ")[0].words[1] == f"{umask:03o}"
    assert bool(daemon.log.matching("the umask is 000: every user may change files")) is warned


MASKED = """
import os
from sample_workers import Idle, say

class Masked(Idle):
    def setup(self):
        mask = os.umask(0)
        os.umask(mask)
        say("umask", f"{mask:03o}")
"""


LIMITED = """
import resource
from sample_workers import Idle, say

class Limited(Idle):
    def setup(self):
        say("limit", *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def limited(words: str) -> tuple[str, ...]:
    return ("sh", "-c", f'ulimit {words}; exec "$@"', "sh")


@pytest.mark.parametrize(("soft", "workers"), [(100, "100"), (10, "64")])
def test_main_opens_what_it_may_and_workers_what_they_might(
    daemon: Daemon, soft: int, workers: str
) -> None:
    daemon.module("limited", LIMITED)
    daemon.pool("limited:Limited", path=[str(daemon.home), str(ROOT / "tests")])
    daemon.start(wrap=limited(f"-S -n {soft}; ulimit -H -n 400")).ready()
    assert daemon.events.wait("^limit ")[0].words[1:] == [workers, "400"]
    limits = Path(f"/proc/{daemon.pid}/limits").read_text()
    assert re.search(r"Max open files +400 +400 ", limits)


@pytest.mark.parametrize(("files", "said"), [(5, "Too many open files"), (20, "may open 20 files")])
def test_too_few_descriptors_are_no_bug(daemon: Daemon, files: int, said: str) -> None:
    daemon.pool("sample_workers:Idle").start(wrap=limited(f"-n {files}"))
    daemon.ended(78)
    assert daemon.log.matching(f"{said}.*LimitNOFILE=.*ulimit -n")
    assert not daemon.log.matching("bug|Traceback")


def test_a_reload_that_would_need_too_many_is_refused(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Idle").start(wrap=limited("-n 30")).ready()
    daemon.configure({f"p{n}": {"worker": "sample_workers:Idle"} for n in range(10)})
    done = daemon.run("reload")
    assert done.returncode == 1
    assert "may open 30 files, and so many pools need 46: set LimitNOFILE=46" in done.stderr
    daemon.pool("sample_workers:Idle")
    assert daemon.run("reload").returncode == 0
