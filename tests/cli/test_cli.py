"""The commands: each against a daemon of paper, a few against the real one."""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_harness import DEADLINE, ROOT, Daemon, pidfd, wait_gone

from graced.cli import arguments, main
from graced.control.server import ControlServer

Reply = dict[str, Any] | None


class Paper:
    """A control socket in a thread: each command has one answer; None hangs up."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.server = ControlServer(self.path)
        self.answers: dict[str, Reply] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.came = threading.Event()
        self._end, self._ended = os.pipe()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            self.server.register(selector)
            selector.register(self._end, selectors.EVENT_READ, None)
            while True:
                for key, events in selector.select():
                    if key.data is None:
                        self.server.close()
                        return
                    key.data(events)
                while request := self.server.take():
                    self.asked.append((request.command, request.arguments))
                    self.came.set()
                    if request.command in self.answers:
                        answer = self.answers[request.command]
                        if answer is None:
                            request.client.close()
                        else:
                            self.server.reply(request, answer)

    def close(self) -> None:
        os.write(self._ended, b"x")
        self._thread.join()
        os.close(self._end)
        os.close(self._ended)


@pytest.fixture
def paper(tmp_path: Path) -> Iterator[Paper]:
    paper = Paper(tmp_path / "control.sock")
    yield paper
    paper.close()


def graced(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "graced", *words]
    given = {"capture_output": True, "text": True, "timeout": DEADLINE, **options}
    environ = {k: v for k, v in os.environ.items() if not k.startswith("GRACED")}
    given["env"] = {**environ, "PYTHONPATH": str(ROOT), **options.get("env", {})}
    return subprocess.run(line, check=False, **given)


# What is asked and what is printed


def test_status_for_programs_and_for_people(paper: Paper) -> None:
    status = {"name": "shop", "pid": 812, "pools": {"jobs": {"target": 2}}, "text": "→"}
    paper.answers["status"] = {"ok": True, "status": status}
    done = graced("status", "--json", "--socket", paper.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == status
    done = graced("status", env={"GRACED_SOCKET": paper.path})
    assert done.returncode == 0
    assert "shop (pid 812" in done.stdout
    assert paper.asked == [("status", {})] * 2


def test_scale(paper: Paper) -> None:
    paper.answers["scale"] = {"ok": True, "pool": "jobs", "from": 2, "to": 3}
    done = graced("scale", "jobs", "3", "--socket", paper.path)
    assert (done.returncode, done.stdout) == (0, "jobs: 2 → 3 workers\n")
    assert paper.asked == [("scale", {"pool": "jobs", "workers": 3})]


def test_arrows_need_no_locale(paper: Paper) -> None:
    paper.answers["scale"] = {"ok": True, "pool": "jobs", "from": 2, "to": 3}
    environ = {"PYTHONIOENCODING": "ascii"}
    done = graced("scale", "jobs", "3", "--socket", paper.path, env=environ)
    assert (done.returncode, done.stdout) == (0, "jobs: 2 \\u2192 3 workers\n")


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_names_beyond_ascii_need_no_locale(tmp_path: Path, locale: str) -> None:
    place = tmp_path / "é" / "é.yaml"
    place.parent.mkdir()
    pool = {"worker": "graced.workers:Command", "path": ["é"], "env": {"é": "é"}}
    place.write_text(json.dumps({"pools": {"jobs": pool}}))
    environ = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": locale}
    done = graced("check", "-c", str(place), env=environ, encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{place}: ok\n", "")


def test_stacks(paper: Paper) -> None:
    paper.answers["stacks"] = {
        "ok": True,
        "stacks": [
            {"process": "main", "pid": 1, "stack": "a\nb\n"},
            {"process": "worker", "pid": 2, "pool": "p", "slot": 0, "generation": 1, "stack": "c"},
        ],
    }
    done = graced("stacks", "--socket", paper.path)
    assert done.stdout == (
        "== main process (pid 1)\na\nb\n\n== worker p/0 (pid 2, generation 1)\nc\n\n"
    )


def test_reload(paper: Paper) -> None:
    paper.answers["reload"] = {"ok": True, "generation": 3}
    done = graced("reload", "--socket", paper.path)
    assert (done.returncode, done.stdout) == (0, "reloaded: generation 3\n")
    paper.answers["reload"] = {"ok": False, "error": "config.yaml:7:5: no"}
    done = graced("reload", "--socket", paper.path)
    assert (done.returncode, done.stderr) == (1, "graced: config.yaml:7:5: no\n")


HOSTILE = "\x1b[2J\x9b3A\r\u202egnp\u2066"


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (["stacks"], {"stacks": [{"process": HOSTILE, "pid": 1, "stack": f"File {HOSTILE}\n"}]}),
        (["stacks"], {"stacks": [{"process": "worker", "pool": HOSTILE, "stack": "none"}]}),
        (["health"], {"healthy": False, "health": HOSTILE}),
        (["health"], {"healthy": True, "ready": True, "health": HOSTILE, "status": HOSTILE}),
        (["health", "--ready"], {"healthy": True, "ready": False, "status": HOSTILE}),
        (["status"], {"status": {"name": HOSTILE, "pools": {HOSTILE: {}}}}),
        (["scale", "a", "1"], {"pool": HOSTILE, "from": 1, "to": 2}),
        (["reload"], {"ok": False, "error": HOSTILE}),
    ],
)
def test_what_a_daemon_says_moves_no_cursor(
    paper: Paper, command: list[str], answer: dict[str, Any]
) -> None:
    """A worker may have said it: escapes in a stack, in the name of an exception."""
    paper.answers[command[0]] = {"ok": True, **answer}
    done = graced(*command, "--socket", paper.path)
    told = done.stdout + done.stderr
    assert r"\x1b[2J\x9b3A\x0d\u202egnp\u2066" in told
    assert not set(told) & set(HOSTILE[:1] + HOSTILE[4] + "\r\u202e\u2066")


@pytest.mark.parametrize("answer", [None, {"ok": False}, {"ok": False, "error": "a\x1b[2Jb"}])
def test_trouble_is_one_line(paper: Paper, answer: Reply) -> None:
    paper.answers["status"] = answer
    done = graced("status", "--socket", paper.path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("graced: ")
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


# Finding the daemon


def test_the_configuration_leads_to_the_daemon_though_it_is_wrong(
    paper: Paper, tmp_path: Path
) -> None:
    paper.answers["reload"] = {"ok": True}
    (tmp_path / "config.yaml").write_text("runtime_dir: .\nnonsense: 1\n")
    assert graced("reload", "-c", str(tmp_path / "config.yaml")).returncode == 0
    assert graced("reload", cwd=tmp_path).returncode == 0
    assert graced("reload", "--set", f"runtime_dir={tmp_path}").returncode == 0


@pytest.mark.parametrize(
    "words", [["status"], ["reload"], ["stop"], ["stop", "--now"], ["scale", "a", "1"], ["stacks"]]
)
def test_nobody_there(tmp_path: Path, words: list[str]) -> None:
    done = graced(*words, "--socket", str(tmp_path / "none"))
    assert done.returncode == 3
    assert done.stderr == f"graced: no daemon answers at {tmp_path}/none; is it started?\n"


EVERY = [
    *[["status"], ["health"], ["reload"], ["stop"], ["stop", "--now"], ["stacks"]],
    *[["scale", "jobs", "1"], ["jobs"], ["jobs", "drop", "1"], ["submit", "--json", "1"]],
    *[["submit", "--wait", "--", "true"], ["doctor"]],
]


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_a_configuration_that_is_not_there_is_no_other(
    paper: Paper, tmp_path: Path, words: list[str]
) -> None:
    """Another daemon is at the place that one would have that is named nowhere."""
    head, tail = (words[:-2], words[-2:]) if "--" in words else (words, [])
    typo = str(tmp_path / "confg.yaml")
    default = {"RUNTIME_DIRECTORY": str(tmp_path)}
    (tmp_path / "config.yaml").write_text(f"runtime_dir: {tmp_path}\n")
    named = graced(*head, "-c", typo, *tail, env=default, cwd=tmp_path)
    by_variable = graced(*words, env={**default, "GRACED_CONFIG": typo}, cwd=tmp_path)
    remedy = "check the path; or say with --socket where the daemon is"
    for done in (named, by_variable):
        assert done.returncode == 78, done
        assert done.stderr == f"graced: {typo}: no such file; {remedy}\n"
    assert paper.asked == []


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_a_socket_that_is_named_is_no_other(
    daemon: Daemon, tmp_path: Path, words: list[str]
) -> None:
    daemon.pool("graced.workers:Command")
    head, tail = (words[:-2], words[-2:]) if "--" in words else (words, [])
    nowhere = str(tmp_path / "none")
    config = {"GRACED_CONFIG": str(daemon.config)}
    named = graced(*head, "--socket", nowhere, *tail, env=config)
    by_variable = graced(*words, env={**config, "GRACED_SOCKET": nowhere})
    for done in (named, by_variable):
        assert (done.returncode, done.stdout) == (3, ""), done
        assert done.stderr == f"graced: no daemon answers at {nowhere}; is it started?\n"
    assert not (tmp_path / "state").exists()
    assert graced(*head, "--socket", "", *tail, env=config).returncode == 2


# A working directory that is gone

GONE = ("sh", "-c", 'mkdir gone && cd gone && rmdir ../gone && exec "$@"', "sh")
REMOVED = "no such file; the working directory was removed: go to another, or give"


def from_nowhere(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    line, env = [*GONE, *daemon.command(*words)], daemon.environment()
    return subprocess.run(
        line, cwd=daemon.short, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("words", [["run"], ["run", "--daemonize"], ["check"]], ids=" ".join)
def test_a_relative_path_where_the_working_directory_is_gone(
    daemon: Daemon, words: list[str]
) -> None:
    done = from_nowhere(daemon, *words, "-c", "some.yaml")
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == f"some.yaml: {REMOVED} an absolute path\n"


def test_absolute_paths_where_the_working_directory_is_gone(daemon: Daemon) -> None:
    daemon.pool("graced.workers:Command")
    at = ("-c", str(daemon.config))
    for words in (["check", *at], ["submit", *at, "--", "true"], ["jobs", *at]):
        done = from_nowhere(daemon, *words)
        assert (done.returncode, done.stderr) == (0, ""), words
    assert from_nowhere(daemon, "status", *at).returncode == 3
    assert from_nowhere(daemon, "status", "--set", f"runtime_dir={daemon.short}").returncode == 3
    daemon.start(wrap=GONE).ready()
    for words in (["status", *at], ["reload", *at], ["submit", "--wait", *at, "--", "true"]):
        done = from_nowhere(daemon, *words)
        assert (done.returncode, done.stderr) == (0, ""), words
    daemon.send(signal.SIGHUP)
    daemon.log.wait("reloaded: generation 3")
    assert from_nowhere(daemon, "stop", *at).returncode == 0
    daemon.ended(0)


def test_a_reload_once_the_folder_of_a_relative_path_is_gone(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Idle")
    here, daemon.config = daemon.config, Path("config.yaml")
    move = 'mkdir here && cp "$0" here/config.yaml && cd here && exec "$@"'
    daemon.start(wrap=("sh", "-c", move, str(here))).ready()
    shutil.rmtree(daemon.short / "here")
    daemon.config = here
    done = daemon.run("reload")
    why = f"config.yaml: {REMOVED} an absolute path"
    refused = f"graced: reload refused, generation 1 goes on: {why}\n"
    assert (done.returncode, done.stderr) == (1, refused)
    assert daemon.workers()[0]["generation"] == 1
    daemon.send(signal.SIGTERM)
    daemon.ended(0)


# Bad command lines


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["-c", "x"],
        ["run", "more"],
        ["run", "-c"],
        ["run", "--set"],
        ["run", "--set", "novalue"],
        ["run", "--conf", "x"],
        ["run", "--pidfile", "x"],
        ["run", "--", "x"],
        ["status", "--jsn"],
        ["scale", "jobs"],
        ["scale", "jobs", "many"],
        ["scale", "jobs", "-1"],
        ["submit", "--delay", "soon"],
        ["submit", "--delay", "3661d", "--json", "1"],
        ["submit", "--max-attempts", "x"],
        ["submit", "--max-attempts", "0", "--json", "1"],
        ["submit", "--max-attempts", "1000000001", "--json", "1"],
        ["submit", "--max-attempts", "4294967296", "--json", "1"],
        ["jobs", "fly"],
        ["jobs", "--state", "lost"],
    ],
    ids=" ".join,
)
def test_bad_command_lines(words: list[str]) -> None:
    done = graced(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "graced" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["", *(name for name, *_ in arguments.COMMANDS)])
def test_help(command: str) -> None:
    done = graced(*[command][: bool(command)], "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: graced")


def test_version() -> None:
    done = graced("--version")
    assert (done.returncode, done.stdout) == (0, "graced 0.2.0\n")


ASKING = ("status", "health", "reload", "stop", "stacks")
FLAGS = [
    ("nmae=x", (*ASKING, "submit", "jobs", "doctor"), "nmae: unknown key; did you mean 'name'?"),
    ("name=a b", (*ASKING, "submit", "jobs", "doctor"), "name"),
    ("runtime_dir=[", (*ASKING, "jobs"), "runtime_dir"),
    ("runtime_dir=[a]", (*ASKING, "jobs"), "runtime_dir: is a list or a mapping; write a text"),
]


@pytest.mark.parametrize(("flag", "commands", "said"), FLAGS, ids=[flag for flag, *_ in FLAGS])
def test_a_flag_that_would_be_passed_over_is_refused(
    flag: str, commands: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in commands:
        assert main.main([command, "--set", flag]) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]


def test_flags_that_say_where_the_daemon_or_its_queue_is() -> None:
    for command in (*ASKING, "submit", "jobs", "doctor"):
        for flag in ("name=shop", "runtime_dir=/x", "runtime_dir=", "runtime_dir=null"):
            assert arguments.parse([command, "--set", flag]).set == [flag]
        for flag in ("state_dir=/x", "pools.any.workers=8", "pools.any.queue=sqlite:///x.db"):
            assert arguments.parse([command, "--set", flag]).set == [flag]


def test_a_reload_says_which_flags_it_has_no_use_for(paper: Paper) -> None:
    paper.answers["reload"] = {"ok": True, "generation": 2}
    flags = ["--set", "pools.jobs.workers=8", "--set", "name=graced"]
    done = graced("reload", "--socket", paper.path, *flags)
    assert (done.returncode, done.stdout) == (0, "reloaded: generation 2\n")
    [said] = done.stderr.splitlines()
    assert said.startswith("graced: --set pools.jobs.workers has no effect on a daemon that runs")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("jobs retry --pool P 7 8", {"action": "retry", "ids": ["7", "8"], "pool": "P"}),
        ("jobs --pool P retry 7 --json 8", {"action": "retry", "ids": ["7", "8"], "pool": "P"}),
        ("jobs drop 7 --set name=x", {"action": "drop", "ids": ["7"], "set": ["name=x"]}),
        ("jobs", {"action": None, "ids": []}),
        ("scale jobs -c f 3", {"pool": "jobs", "workers": 3, "config": "f"}),
        ("scale -c f jobs 3", {"pool": "jobs", "workers": 3, "config": "f"}),
        ("submit --pool P -- a --wait", {"words": ["a", "--wait"], "pool": "P", "wait": False}),
        ("submit a --delay 1s b", {"words": ["a", "b"], "delay": 1.0}),
        ("doctor --ignore X unit --ignore Y", {"unit": "unit", "ignore": ["X", "Y"]}),
        ("stop --socket s --now", {"socket": "s", "now": True}),
    ],
)
def test_options_stand_anywhere(line: str, expected: dict[str, Any]) -> None:
    assert vars(arguments.parse(line.split())).items() >= expected.items()


def test_a_command_line_for_a_job_is_left_as_it_is() -> None:
    args = arguments.parse(["submit", "--wait", "--", "convert", "--json", "-x", "--", "--set"])
    assert args.words == ["convert", "--json", "-x", "--", "--set"]
    assert args.wait
    assert args.json is None
    assert arguments.parse(["submit", "--json", "-", "--delay", "1m"]).delay == 60.0
    assert arguments.parse(["submit", "--json", "-5"]).json == "-5"
    args = arguments.parse(["jobs", "retry", "3", "4"])
    assert (args.action, args.ids) == ("retry", ["3", "4"])
    assert arguments.parse(["jobs", "--state", "dead", "--json"]).action is None


def test_a_bug_has_its_own_exit_code(paper: Paper) -> None:
    paper.answers["status"] = {"ok": True}  # and no status: that can't be
    done = graced("status", "--socket", paper.path)
    assert done.returncode == 70
    assert done.stderr.startswith("graced: a bug in graced; please report it:\nTraceback")


# Pipes and keys


def test_a_reader_that_left(paper: Paper) -> None:
    status = {"pools": {}, "text": "x" * 1_000_000}
    paper.answers["status"] = {"ok": True, "status": status}
    read, write = os.pipe()
    os.close(read)
    done = graced("status", "--json", "--socket", paper.path, capture_output=False, stdout=write,
                  stderr=subprocess.PIPE)  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


PRINTS = ["reload", "status --json", "--help", "--version", "run --help", "check --show"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", PRINTS)
def test_a_full_disk(paper: Paper, words: str, unbuffered: str) -> None:
    paper.answers["reload"] = {"ok": True}
    paper.answers["status"] = {"ok": True, "status": {"pools": {}}}
    socket = ["--socket", paper.path] if words in ("reload", "status --json") else []
    with open("/dev/full", "wb") as full:
        done = graced(*words.split(), *socket, capture_output=False, stdout=full,
                      stderr=subprocess.PIPE, env={"PYTHONUNBUFFERED": unbuffered})  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "graced: No space left on device\n")


def test_what_code_prints_on_a_full_disk_is_not_what_is_checked(daemon: Daemon) -> None:
    daemon.module("mine", f"print('hello')\n{CHECKS[0][0]}")
    daemon.pool("mine:Mine", path=["."])
    with open("/dev/full", "wb") as full:
        done = graced("check", "-c", str(daemon.config), capture_output=False, stderr=full,
                      stdout=subprocess.PIPE)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{daemon.config}: ok\n")


def test_closed_standard_streams(paper: Paper) -> None:
    paper.answers["reload"] = {"ok": True}
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "graced"]
    line = [*shell, "reload", "--socket", paper.path]
    assert subprocess.run(line, cwd=ROOT, timeout=DEADLINE, check=False).returncode == 0


def test_a_try_with_closed_standard_streams(daemon: Daemon) -> None:
    daemon.pool("graced.workers:Command")
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "graced"]
    line = [*shell, "try", "jobs", "-c", str(daemon.config), "--", "touch", f"{daemon.config}.done"]
    assert subprocess.run(line, cwd=ROOT, timeout=DEADLINE, check=False).returncode == 0
    assert os.path.exists(f"{daemon.config}.done")


def test_ctrl_c_in_a_client_is_quiet(paper: Paper) -> None:
    line = [sys.executable, "-m", "graced", "reload", "--socket", paper.path]
    # A shell's `make test &` has it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE) as process:
        signal.signal(signal.SIGINT, before)
        assert paper.came.wait(DEADLINE)
        assert interrupted(process) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""


def interrupted(process: subprocess.Popen[bytes]) -> int:
    """Press Ctrl-C, again if it came right before a system call; return the exit status."""
    for _ in range(6):
        process.send_signal(signal.SIGINT)
        try:
            return process.wait(DEADLINE / 6)
        except subprocess.TimeoutExpired:
            pass
    raise AssertionError("it heard no Ctrl-C")


# Stopping


STOPS = """
import os, selectors, sys, time
from graced.control.server import ControlServer
server = ControlServer(sys.argv[1])
selector = selectors.DefaultSelector()
server.register(selector)
print(flush=True)
while not (request := server.take()):
    for key, events in selector.select():
        key.data(events)
server.reply(request, eval(sys.argv[2]))
server.close(1)
os.write(1, b"closed\\n")
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("reply", "code", "error"),
    [
        ({"ok": True, "code": 0, "error": None}, 0, ""),
        (
            {"ok": False, "code": 1, "error": "1 worker was killed"},
            1,
            "graced: 1 worker was killed\n",
        ),
        ({"ok": True}, 0, ""),
    ],
)
def test_stop_waits_until_the_process_is_gone(
    tmp_path: Path, reply: dict[str, Any], code: int, error: str
) -> None:
    path = str(tmp_path / "s")
    line = [sys.executable, "-c", STOPS, path, repr(reply)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(line, cwd=ROOT, **pipes) as daemon:  # type: ignore[call-overload]
        assert daemon.stdout.readline() == b"\n"
        client = [sys.executable, "-m", "graced", "stop", "--socket", path]
        with (
            subprocess.Popen(client, cwd=ROOT, stderr=subprocess.PIPE, text=True) as stop,
            pidfd(stop.pid) as ending,
        ):
            assert daemon.stdout.readline() == b"closed\n"
            with selectors.DefaultSelector() as selector:
                selector.register(ending, selectors.EVENT_READ)
                assert not selector.select(0.3), "the daemon's process is still there"
            daemon.stdin.close()
            assert stop.wait(DEADLINE) == code
            assert stop.stderr is not None
            assert stop.stderr.read() == error


def test_a_daemon_that_dies_while_stopping(paper: Paper) -> None:
    paper.answers["stop"] = None
    done = graced("stop", "--now", "--socket", paper.path)
    assert done.returncode == 1
    assert "went away before it answered" in done.stderr
    assert paper.asked == [("stop", {"now": True})]


# check


CHECKS: list[tuple[str, str | None]] = [
    ("from graced import Worker\nclass Mine(Worker):\n  def step(self): pass\n", None),
    ("from graced import Worker\nclass Mine(Worker):\n  def run(self): pass\n", None),
    ("import sys\nprint('hello')\nsys.stdin.read()\nfrom graced import JobWorker\n"
     "class Mine(JobWorker):\n  def handle(self, job): pass\n", None),
    ("from graced.workers import Command\nclass Mine(Command): pass\n", None),
    ("from graced import Worker\nclass Mine(Worker):\n  def steps(self): pass\n",
     "mine:Mine has no step(), so it has nothing to do; define step(self)"),
    ("from graced import JobWorker\nclass Mine(JobWorker):\n  def step(self): pass\n",
     "mine:Mine has no handle(), so it has nothing to do; define handle(self, job)"),
    ("from graced import SocketWorker as Mine", "; define handle(self, connection, address)"),
    ("import nonexistent", "nonexistent"),
    ("class Mine(:", "SyntaxError"),
    ("x = 1", "has no class 'Mine'"),
    ("class Mine: pass", "not a subclass of graced.Worker"),
    ("raise SystemExit(3)", "sys.exit"),
    ("import os; os._exit(9)", "its import ended the process: exit status 9"),
    ("import os; os.kill(os.getpid(), 11)", "its import ended the process: killed by SIGSEGV"),
    ("import time; time.sleep(3600)", "its import hangs, or takes longer than ready_timeout (1s)"),
    ("import os\nif os.fork() == 0:\n  import time; time.sleep(3600)\nos._exit(3)", "status 3"),
    ("raise RuntimeError('a' * 100000)", "RuntimeError"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "said"), CHECKS, ids=[str(n) for n in range(len(CHECKS))])
def test_check_tells_why_a_class_cannot_be_had(daemon: Daemon, code: str, said: str | None) -> None:
    daemon.module("mine", code)
    hangs = said is not None and "hangs" in said
    daemon.pool("mine:Mine", path=["."], ready_timeout="1s" if hangs else "60s")
    done = daemon.run("check")
    assert "Traceback" not in done.stderr
    if said is None:
        assert (done.returncode, done.stdout) == (0, f"{daemon.config}: ok\n"), done.stderr
    else:
        assert (done.returncode, done.stdout) == (78, "")
        assert done.stderr.count("\n") == 1
        place = re.escape(str(daemon.config)) + r":\d+:13: pools\.jobs\.worker: "
        assert re.match(place, done.stderr)
        assert said in done.stderr
    daemon.nothing_left()


def test_check_prints_the_next_three_instants_of_each_schedule(daemon: Daemon) -> None:
    pools = {"jobs": {}, "idle": {"worker": "sample_workers:Idle", "path": [str(ROOT / "tests")]}}
    rule = {"pool": "jobs", "cron": "30 2 29 2 *", "zone": "Europe/Berlin"}
    daemon.configure(pools, schedules={"leap": rule})
    done = daemon.run("check")
    assert done.returncode == 0, done.stderr
    head, said = done.stdout.splitlines()
    assert head.endswith(": ok")
    instant = r"20\d\d-02-29T02:30:00\+01:00"
    assert re.fullmatch(rf"schedule leap \(pool jobs\): {instant}, {instant}, {instant}", said)

    daemon.configure(pools, schedules={"leap": {"pool": "idle", "every": "10m"}})
    done = daemon.run("check")
    assert done.returncode == 78
    place = re.escape(str(daemon.config)) + r":\d+:\d+: schedules\.leap\.pool: "
    assert re.match(place + "sample_workers:Idle takes no jobs, so pool idle has no", done.stderr)


@pytest.mark.parametrize("preload", [True, False])
def test_check_tells_of_threads_as_a_start_does(daemon: Daemon, *, preload: bool) -> None:
    daemon.module(
        "threaded",
        "import threading\nfrom sample_workers import *\n"
        "threading.Thread(target=threading.Event().wait, name='poller', daemon=True).start()\n",
    )
    daemon.pool("threaded:Idle", path=[".", str(ROOT / "tests")], preload=preload)
    done = daemon.run("check")
    assert done.returncode == (78 if preload else 0)
    if preload:
        reason = done.stderr.partition("pools.jobs.worker: ")[2].strip()
        assert reason.startswith(
            "the import started threads (poller: runs threading.Event.wait), and a fork would copy"
        )
        daemon.start().ended(1)
        daemon.log.wait(re.escape(reason))


EFFECTS = {
    "cut": ("os.closerange(3, 999)", "its import has closed descriptors of graced's"),
    "back": (
        "if os.fork():\n    os.wait()",
        "the import has forked, and the child came back from it",
    ),
    "daemon": (
        "if os.fork():\n    os._exit(0)\nos.setsid()",
        "the import has forked|its import ended the process: exit status 0",  # as time allows
    ),
    "reaper": (
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "warning: the import has changed the handling of SIGCHLD: put back",
    ),
    "linked": (
        "import socket\nkept = socket.create_connection(('127.0.0.1', PORT))",
        "warning: the import left a connection to 127.0.0.1:PORT open, which all workers would",
    ),
    "late": (
        "",
        "warning: pools.late.env: PYTHONHASHSEED, LD_PRELOAD: read when a program starts",
    ),
}


def test_check_tells_what_an_import_does_to_its_process(daemon: Daemon) -> None:
    late = {"PYTHONHASHSEED": "1", "LD_PRELOAD": "", "PYTHONASYNCIODEBUG": "1", "LANG": "C"}
    pools: dict[str, Any] = {}
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        for name, (code, _) in EFFECTS.items():
            code = "import os, signal\nfrom sample_workers import *\n" + code.replace("PORT", port)
            daemon.module(f"mine_{name}", code)
            path = [".", str(ROOT / "tests")]
            env = late if name == "late" else {}
            pools[name] = {"worker": f"mine_{name}:Idle", "path": path, "env": env}
        done = daemon.configure(pools).run("check")
        assert done.returncode == 78
        said = done.stderr.splitlines()
        for name, (_, text) in EFFECTS.items():
            (line,) = [line for line in said if f"pools.{name}.worker: " in line]
            assert re.match(text.replace("PORT", port), line.partition(".worker: ")[2])
        for name in ("cut", "back", "daemon"):
            del pools[name]
        done = daemon.configure(pools).run("check")
        assert (done.returncode, done.stderr.count("warning")) == (0, 3)
        daemon.start().ready()
        for line in done.stderr.splitlines():
            daemon.log.wait(re.escape(line.partition("warning: ")[2]))


def test_check_tells_of_every_pool(daemon: Daemon) -> None:
    pools = {name: {"worker": f"{name}:No"} for name in ("one", "two")}
    done = daemon.configure({**pools, "good": {"worker": "sample_workers:Idle"}}).run(
        "check", "--show"
    )
    assert done.returncode == 78
    assert done.stderr.count("\n") == 2
    assert "pools.one.worker" in done.stderr
    assert "pools.two.worker" in done.stderr
    assert "drain_timeout" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_check_is_the_user_before_it_runs_users_code(daemon: Daemon) -> None:
    daemon.module("mine", "import os\nraise RuntimeError(f'I am {os.geteuid()}')")
    daemon.configure({"jobs": {"worker": "mine:Mine", "path": ["."]}}, user="nobody")
    said = daemon.run("check").stderr
    assert "I am 65534" in said or "Permission" in said or "No module" in said
    daemon.configure({"jobs": {"worker": "mine:Mine"}}, user="no-such-user")
    assert "no-such-user" in daemon.run("check").stderr


# The classic daemon


def detached(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    return daemon.run("run", "--daemonize", "--pidfile", str(daemon.short / "pid"), *words)


@pytest.fixture
def with_log(daemon: Daemon) -> Daemon:
    daemon.configure(
        {"jobs": {"worker": "sample_workers:Idle"}}, log={"file": str(daemon.short / "log")}
    )
    return daemon


def test_a_daemon_that_left_the_terminal(with_log: Daemon) -> None:
    done = detached(with_log)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    status = with_log.status()
    assert status["ready"]
    pid = status["pid"]
    assert (with_log.short / "pid").read_text() == f"{pid}\n"
    assert os.getsid(pid) not in (pid, os.getsid(0)), "a session of its own, and not its leader"
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    for fd, name in enumerate(
        ("/dev/null", str(with_log.short / "log"), str(with_log.short / "log"))
    ):
        assert os.readlink(f"/proc/{pid}/fd/{fd}") == name
    assert with_log.run("reload").returncode == 0
    assert detached(with_log).returncode == 75
    os.rename(with_log.short / "log", with_log.short / "log.1")
    os.kill(pid, signal.SIGUSR1)
    with_log.until((with_log.short / "log").exists)
    assert with_log.run("stop").returncode == 0
    assert not (with_log.short / "pid").exists()
    with_log.nothing_left()


def test_a_stale_pidfile_does_not_block(with_log: Daemon) -> None:
    assert detached(with_log).returncode == 0
    pid = with_log.status()["pid"]
    with pidfd(pid):
        os.kill(pid, signal.SIGKILL)
        wait_gone([pid])
    assert (with_log.short / "pid").exists()
    with_log.nothing_left()
    assert detached(with_log).returncode == 0
    assert with_log.run("stop", "--now").returncode == 0


def test_a_daemon_that_cannot_start_says_why_on_the_terminal(with_log: Daemon) -> None:
    (with_log.short / "log").write_text("old\n")
    done = detached(with_log, "--set", "pools.jobs.worker=sample_workers:FailsInSetup")
    assert done.returncode == 1
    assert "no database at db.example:5432" in done.stderr
    assert "old" not in done.stderr
    with_log.nothing_left()
    assert not (with_log.short / "pid").exists()


def test_what_can_be_told_before_leaving_is(with_log: Daemon) -> None:
    done = detached(with_log, "--set", "pools.jobs.workers=many")
    assert done.returncode == 78
    assert "pools.jobs.workers" in done.stderr
    done = detached(with_log, "--set", "log.file=null")
    assert done.returncode == 78
    assert "set log.file to a file" in done.stderr
    done = with_log.run("run", "--daemonize", "--pidfile", "/nowhere/pid")
    assert done.returncode == 78
    assert "/nowhere/pid: No such file or directory; give another --pidfile" in done.stderr


def test_a_daemon_killed_while_it_starts(with_log: Daemon) -> None:
    result: list[subprocess.CompletedProcess[str]] = []
    words = (
        "--set",
        "pools.jobs.worker=sample_workers:SlowSetup",
        "--set",
        "pools.jobs.ready_timeout=60s",
    )
    thread = threading.Thread(target=lambda: result.append(detached(with_log, *words)))
    thread.start()
    pid = with_log.until(lambda: _number(with_log.short / "pid"))
    with_log.until((with_log.short / "run" / "control.sock").exists)
    os.kill(pid, signal.SIGKILL)
    thread.join(DEADLINE)
    assert result[0].returncode == 1
    assert "died while it was starting" in result[0].stderr


def _number(path: Path) -> int:
    return int(path.read_text() or 0) if path.exists() else 0


# Start-up


def test_help_and_clients_do_not_load_the_supervisor() -> None:
    code = "import sys\nfrom graced.cli.main import main\nmain(sys.argv[1:])\nprint(*sys.modules)"
    line = [sys.executable, "-c", code, "status", "--socket", "/nowhere/s"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert "graced.supervisor.loop" not in done.stdout.split()


def test_a_queue_is_told_in_words() -> None:
    from graced.cli.status_table import table

    counts = {"waiting": 3, "taken": 1, "done": 0, "dead": 0}
    pools = {"jobs": {"queue": {**counts, "oldest": 75.0}}}
    told = table({"pools": pools})
    assert "queue: 3 waiting, 1 taken, 0 done, 0 dead; the oldest has waited 1 min 15 s" in told
    pools = {"jobs": {"queue": {**dict.fromkeys(counts), "trouble": "disk full"}}}
    assert "queue in trouble: disk full" in table({"pools": pools})
