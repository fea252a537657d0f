"""`graced try`: one worker in the foreground; at a real terminal where it matters."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_harness import DEADLINE, ROOT

from graced import Queue

CODE = """
import asyncio, os, time
from graced import AsyncJobWorker, Discard, JobWorker, Retry, SocketWorker, Worker

class Jobs(JobWorker):
    def setup(self):
        self.log.info("set up")

    def handle(self, job):
        match job.payload:
            case "raise":
                raise ValueError("bad picture")
            case "retry":
                raise Retry(after=5)
            case "discard":
                raise Discard("no picture")
            case "exit":
                raise SystemExit(0)
            case "set":
                return {1}
            case "debug":
                answer = 41
                breakpoint()
                return answer
            case "progress":
                self.progress(0.4, "page 4 of 10")
                self.progress(None, "at the end")
            case "submit":
                return self.queue("commands").submit({"argv": ["true"]})
            case "catch":
                try:
                    self.log.info("waiting")
                    self.wait()
                except KeyboardInterrupt:
                    self.log.info("waiting on")
                    self.wait()
            case "wait":
                self.log.info("waiting")
                self.wait()
            case "turn":
                self.log.info("turning")
                while True:
                    time.sleep(0.01)
        seen = {name: os.environ.get(name) for name in ("SIZE", "GRACED_POOL", "GRACED__NAME")}
        return [job.payload, job.attempt, self.options["size"], seen, os.isatty(0)]

    def teardown(self):
        self.log.info("torn down")

class Async(AsyncJobWorker):
    async def handle(self, job):
        await asyncio.sleep(0.01)
        self.progress(0.2 * job.payload, "of async")

class Steps(Worker):
    def step(self):
        self.log.info("a round")
        if self.options.get("raise"):
            raise OSError("no network")

class FailsInSetup(Steps):
    def setup(self):
        raise RuntimeError("no database")

class FailsInTeardown(Steps):
    def teardown(self):
        raise RuntimeError("no goodbye")

class Loop(Worker):
    def run(self):
        self.log.info("my own")

class Hello(SocketWorker):
    def handle(self, connection, address):
        connection.sendall(b"hello")
"""
CONFIG = """
name: tried
pools:
  jobs: {worker: "tried:Jobs", path: [.], options: {size: 1}, env: {SIZE: big}}
  async: {worker: "tried:Async", path: [.]}
  steps: {worker: "tried:Steps", path: [.]}
  setup: {worker: "tried:FailsInSetup", path: [.]}
  teardown: {worker: "tried:FailsInTeardown", path: [.]}
  loop: {worker: "tried:Loop", path: [.]}
  hello: {worker: "tried:Hello", path: [.], listen: "unix:hello.sock"}
  nothing: {worker: "tried:Nothing", path: [.]}
  broken: {worker: "broken:Jobs", path: [.]}
  commands: {}
  program:
    worker: graced.workers:Program
    options: {argv: [sh, -c, 'echo here; sleep 1'], ready: 10ms}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tried.py").write_text(CODE)
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "config.yaml").write_text(CONFIG.replace("hello.sock", f"//{tmp_path}/hello.sock"))
    return tmp_path


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GRACED")}
    return {**kept, "PYTHONPATH": str(ROOT), "GRACED__NAME": "other", "TERM": "dumb"}


def trial(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "graced", "try", *words],
        cwd=project,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def test_a_job_and_its_result(project: Path) -> None:
    done = trial(project, "jobs", "--json", '{"a": 1}', "--set", "pools.jobs.options.size=2")
    assert done.returncode == 0, done.stderr
    seen = {"SIZE": "big", "GRACED_POOL": "jobs", "GRACED__NAME": None}
    assert json.loads(done.stdout) == [{"a": 1}, 1, 2, seen, False]
    assert re.search(r"set up\n.*torn down\n", done.stderr)
    assert json.loads(trial(project, "jobs").stdout)[0] is None


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("jobs", "--json", '"raise"'), 1, r'line 12, in handle[\s\S]*ValueError: bad picture'),
        (("jobs", "--json", '"retry"'), 1, "tried again after 5 s"),
        (("jobs", "--json", '"discard"'), 1, "discarded: no picture"),
        (("jobs", "--json", '"exit"'), 1, r"handle\(\) called sys.exit\(0\)"),
        (("jobs", "--json", '"set"'), 1, "no JSON value"),
        (("jobs", "--json", "nonsense"), 2, "not a JSON value"),
        (("jobs", "--json", "1", "--", "true"), 2, "not both"),
        (("async", "--json", "4"), 0, "80% of async\n"),
        (("steps",), 0, "a round"),
        (("steps", "--set", "pools.steps.options.raise=true"), 1, "OSError: no network"),
        (("steps", "--json", "1"), 2, "takes no jobs"),
        (("setup",), 1, "RuntimeError: no database"),
        (("teardown",), 1, "RuntimeError: no goodbye"),
        (("loop",), 0, "my own"),
        (("commands", "--", "sh", "-c", "echo here; exit 3"), 1, r"here[\s\S]*status 3"),
        (("program",), 0, r"here[\s\S]*exited with status 0"),
        (("program", "--set", "pools.program.options.argv=[nonesuch]"), 1, "no such|may not be"),
        (("other",), 2, "there is no pool 'other'; there are jobs, async, steps"),
        (("nothing",), 78, r"config.yaml:11:21: pools.nothing.worker: .*no class 'Nothing'"),
        (("broken",), 78, r"No module named 'nothing_of_that_name'"),
        (("jobs", "--set", "pools.jobs.workers=0"), 78, "--set: pools.jobs.workers: "),
    ],
)
def test_what_becomes_of_it(
    project: Path, words: tuple[str, ...], status: int, said: str
) -> None:
    done = trial(project, *words)
    assert (done.returncode, done.stdout.replace("null\n", "")) == (status, ""), done.stderr
    assert re.search(said, done.stderr), done.stderr


def test_how_far_it_is(project: Path) -> None:
    done = trial(project, "jobs", "--json", '"progress"')
    assert "\n40% page 4 of 10\nat the end\n" in done.stderr


def test_its_queues_are_those_of_the_daemon(project: Path) -> None:
    config = (project / "config.yaml").read_text()
    (project / "config.yaml").write_text(f"state_dir: state\nruntime_dir: run\n{config}")
    done = trial(project, "jobs", "--json", '"submit"')
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    with Queue.open(project / "config.yaml", pool="commands") as queue:
        assert queue.job(1).payload == {"argv": ["true"]}


def test_a_connection(project: Path) -> None:
    import socket

    with started(project, "hello") as process, socket.socket(socket.AF_UNIX) as client:
        end = time.monotonic() + DEADLINE
        while True:
            try:
                client.connect(str(project / "hello.sock"))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert process.poll() is None
                assert time.monotonic() < end
        assert client.recv(10) == b"hello"
        assert process.wait(DEADLINE) == 0
    assert not (project / "hello.sock").exists()


@contextlib.contextmanager
def started(project: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "graced", "try", *words],
        cwd=project,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Terminal:
    """A person at a terminal that `graced try` has."""

    def __init__(self, project: Path, *words: str) -> None:
        self.master, slave = pty.openpty()
        self.said = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "graced", "try", *words],
            cwd=project,
            env=environment(),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
        os.close(slave)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, pattern: str) -> str:
        """Wait until it is on the screen; return what came up to there, and forget it."""
        end = time.monotonic() + DEADLINE
        while not (found := re.search(pattern, self.said)):
            assert select.select([self.master], [], [], end - time.monotonic())[0], self.said
            try:
                data = os.read(self.master, 65536)
            except OSError:  # all have closed it
                data = b""
            assert data, self.said
            self.said += data.decode().replace("\r", "")
        before, self.said = self.said[: found.end()], self.said[found.end() :]
        return before

    def status(self) -> int:
        return self.process.wait(DEADLINE)


@pytest.fixture
def terminals(project: Path) -> Iterator[list[Terminal]]:
    made: list[Terminal] = []
    yield made
    for each in made:
        each.process.kill()
        each.process.wait()
        os.close(each.master)


def at(terminals: list[Terminal], project: Path, payload: str) -> Terminal:
    terminals.append(Terminal(project, "jobs", "--json", json.dumps(payload)))
    return terminals[-1]


def test_breakpoint_has_the_terminal(terminals: list[Terminal], project: Path) -> None:
    terminal = at(terminals, project, "debug")
    terminal.expect(r"\(Pdb\) ")
    terminal.type("p answer + 1\n")
    terminal.expect(r"\n42\n\(Pdb\) ")
    terminal.type("\x03\n")  # of no harm; Python may see it only when the line has come
    terminal.expect(r"KeyboardInterrupt--\n\(Pdb\) ")
    terminal.type("answer = 50\n")
    terminal.type("continue\n")
    terminal.expect(r"\n50\n")
    terminal.expect("torn down")
    assert terminal.status() == 0


def test_ctrl_c_works_after_one_that_the_code_has_caught(
    terminals: list[Terminal], project: Path
) -> None:
    terminal = at(terminals, project, "catch")
    terminal.expect("waiting")
    terminal.type("\x03")
    terminal.expect("waiting on")
    terminal.type("\x03")
    terminal.expect("torn down")
    assert terminal.status() == 130


def test_quitting_the_debugger_is_an_error(terminals: list[Terminal], project: Path) -> None:
    terminal = at(terminals, project, "debug")
    terminal.expect(r"\(Pdb\) ")
    terminal.type("quit\n")
    terminal.expect("BdbQuit")
    assert terminal.status() == 1


@pytest.mark.parametrize(("payload", "said"), [("wait", "waiting"), ("turn", "turning")])
def test_ctrl_c_interrupts_and_tears_down(
    terminals: list[Terminal], project: Path, payload: str, said: str
) -> None:
    terminal = at(terminals, project, payload)
    terminal.expect(said)
    terminal.type("\x1c")  # Ctrl-\: where is it?
    terminal.expect(r"most recent call first[\s\S]*in handle")
    terminal.type("\x03")
    terminal.expect("interrupted")
    terminal.expect("torn down")
    assert terminal.status() == 130


def test_sigterm_lets_the_round_end(terminals: list[Terminal], project: Path) -> None:
    terminal = at(terminals, project, "wait")
    terminal.expect("waiting")
    os.kill(terminal.process.pid, signal.SIGTERM)
    terminal.expect(r'\["wait", ?1')
    assert terminal.status() == 0
