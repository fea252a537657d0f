"""Sockets, and what else outlives a restart, under real systemds.

Callers run in the machine, all the time: each connects, says a word and waits for the answer.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from typing import IO

import pytest
from daemon_harness import DEADLINE
from machine import GATE, LAB, ROOT_CONF, UNIT, Machine

pytestmark = pytest.mark.timeout(1800)

SOCKET = "graced.socket"
PORT = 8080
CALLERS = """
import os, socket, sys, threading
answers, troubles, one_by_one = set(), [], threading.Lock()
def call():
    while not (over.is_set() or troubles):
        try:
            with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60) as sock:
                sock.sendall(b"hello")
                said = sock.recv(100).split()
                assert said[2:] == [b"hello"], f"cut: {said}"
            with one_by_one:
                if said[0] not in answers:
                    answers.add(said[0])
                    print(said[0].decode(), flush=True)
        except Exception as error:
            troubles.append(repr(error))
            print("trouble", flush=True)
over = threading.Event()
threads = [threading.Thread(target=call) for _ in range(4)]
with one_by_one:  # nobody says who answered before all have begun
    for thread in threads:
        thread.start()
    print("begun", flush=True)
sys.stdin.read()
over.set()
for thread in threads:
    thread.join()
print("over", *troubles)
"""


@contextlib.contextmanager
def callers(machine: Machine, port: int = PORT) -> Iterator[Callable[[], None]]:
    """Call all the time, from before to after what is done meanwhile; nobody may be refused.

    Gives what waits until one of the workers that are new since it was asked last has answered.
    """
    line = [str(LAB), "run", machine.name, "python3", "-c", CALLERS, str(port)]
    process = subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "begun\n"
        yield Answers(machine, process.stdout).come
        said, _ = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert said.splitlines()[-1] == "over"


class Answers:
    """What the callers say: the number of each process, once it has answered somebody."""

    def __init__(self, machine: Machine, said: IO[str]) -> None:
        self._machine, self._said = machine, said
        self._known: set[int] = set()
        self._answered: set[int] = set()

    def come(self) -> None:
        new = set(self._machine.worker_pids()) - self._known
        assert new
        self._known |= new
        while not new & self._answered:
            self._answered.add(int(self._said.readline()))


def start(machine: Machine, *listen: str) -> None:
    machine.configure("sample_workers:Greeter", listen=list(listen))
    machine.systemctl("start")


@pytest.fixture
def activated(machine: Machine) -> Iterator[Machine]:
    """A machine with graced.socket open, and a daemon to serve it that does not run yet."""
    machine.configure("sample_workers:Greeter", listen="fd:web")
    machine.systemctl("start", SOCKET)
    yield machine
    machine.systemctl("stop", UNIT)
    machine.systemctl("stop", SOCKET)


def test_the_example_verifies_without_a_word(machine: Machine) -> None:
    done = machine.attempt("systemd-analyze", "verify", SOCKET)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_call_starts_the_daemon(activated: Machine) -> None:
    assert activated.show("ActiveState") == "inactive"
    with callers(activated) as answers_come:
        activated.events.wait("^setup", 2)
        activated.shows("ActiveState", "active")
        answers_come()


def test_restarts_refuse_nobody_who_calls_the_socket(activated: Machine) -> None:
    activated.systemctl("start")
    with callers(activated) as answers_come:
        answers_come()
        for _ in range(3):
            activated.systemctl("restart")
            answers_come()
        activated.systemctl("reload")
        answers_come()
    assert not activated.journal.matching("Traceback")


def test_the_socket_survives_a_kill_of_the_main_process(activated: Machine) -> None:
    activated.dropin("RestartSec=100ms")
    activated.systemctl("start")
    main = activated.main_pid()
    activated.run("kill", "-KILL", str(main))
    activated.events.wait("^setup", 4)
    with callers(activated) as answers_come:
        activated.shows("StatusText", "2/2 workers ready")
        answers_come()


def test_reloads_refuse_nobody(machine: Machine) -> None:
    start(machine, f"tcp://127.0.0.1:{PORT}")
    with callers(machine) as answers_come:
        answers_come()
        for _ in range(2):
            machine.systemctl("reload")
            answers_come()


def test_a_socket_of_ours_outlives_the_main_process(machine: Machine) -> None:
    """From its death to the new start nobody is refused: those who call wait."""
    machine.dropin("RestartSec=500ms")
    start(machine, f"tcp://127.0.0.1:{PORT}", "unix:///run/graced/x.sock")
    assert machine.show("NFileDescriptorStore") == "2"
    main = machine.main_pid()
    machine.run("kill", "-KILL", str(main))
    machine.until(lambda: machine.main_pid() != main)
    with callers(machine) as answers_come:
        machine.events.wait("^setup", 4)
        machine.shows("StatusText", "2/2 workers ready")
        answers_come()
    machine.journal.wait(f"reusing tcp://127.0.0.1:{PORT}, which systemd kept over the restart")
    machine.run("test", "-S", "/run/graced/x.sock")
    assert machine.main_pid() != main


def test_a_reload_takes_back_what_systemd_kept(machine: Machine) -> None:
    start(machine, f"tcp://127.0.0.1:{PORT}", f"tcp://127.0.0.1:{PORT + 1}")
    assert machine.show("NFileDescriptorStore") == "2"
    machine.configure("sample_workers:Greeter", listen=f"tcp://127.0.0.1:{PORT}")
    machine.systemctl("reload")
    machine.shows("NFileDescriptorStore", "1")
    machine.systemctl("stop")
    assert machine.show("Result") == "success"


def test_root_opens_what_another_user_serves(machine: Machine) -> None:
    machine.dropin(ROOT_CONF)
    machine.dropin("CapabilityBoundingSet=CAP_NET_BIND_SERVICE")
    machine.configure(
        "sample_workers:Greeter",
        listen=["tcp://127.0.0.1:81", "unix:///run/graced/x.sock"],
        top={"user": "daemon"},
    )
    machine.systemctl("start")
    with callers(machine, 81) as answers_come:
        answers_come()
        said = machine.run("stat", "-c", "%U %a", "/run/graced/x.sock").split()
        assert said == ["daemon", "660"]
        machine.systemctl("reload")  # for which systemd gives the folder to User=
        answers_come()
    assert "set that to the configuration's user" in machine.run("journalctl", "-b", "-u", UNIT)
    machine.systemctl("stop")
    assert machine.show("Result") == "success"


def test_jobs_outlive_the_main_process(machine: Machine) -> None:
    machine.dropin("RestartSec=100ms")
    queue = "sqlite:///outlive.db"  # in which no other test has left a job
    config = f"pools: {{jobs: {{workers: 2, queue: '{queue}'}}}}\n"
    machine.write("/etc/graced/config.yaml", config)
    machine.systemctl("start")
    line = ["sh", "-c", "sleep 0.05; echo $0 >>/var/lib/graced/done"]
    for number in range(40):
        machine.run("graced", "submit", "--", *line, str(number))
    main = machine.main_pid()
    machine.run("kill", "-KILL", str(main))

    def done() -> bool:
        status = machine.attempt("graced", "status", "--json")
        if status.returncode:
            return False
        queue = json.loads(status.stdout)["pools"]["jobs"]["queue"] or {}
        return bool(queue.get("done") == 40)

    machine.until(done)
    assert machine.main_pid() != main
    said = machine.run("sort", "-u", "/var/lib/graced/done").split()
    assert sorted(map(int, said)) == list(range(40))


# The journal

LIFE = """
import sys
from graced import Worker
class Talks(Worker):
    def setup(self):
        self.log.warning("hello\\nsecond line")
    def step(self):
        if self.options.get("huge"):
            self.log.info("x" * 60000 + "\u20ac" * 5000)
            self.options.clear()
        self.wait(0.2)
        raise ValueError("as asked")
"""


def entries(machine: Machine, *matches: str) -> list[dict[str, str]]:
    lines = machine.run("journalctl", "-o", "json", "--all", *matches).splitlines()
    return [json.loads(line) for line in lines]


def test_the_journal_has_fields_and_whole_tracebacks(machine: Machine) -> None:
    machine.write("/srv/app/talks.py", LIFE)
    machine.configure("talks:Talks", 1, max_errors=100)
    machine.systemctl("start")
    main, [worker] = machine.main_pid(), machine.worker_pids()
    machine.journal.wait("ValueError: as asked")
    found = entries(machine, f"_PID={worker}", "GRACED_POOL=jobs", "PRIORITY=3")
    said = found[0]["MESSAGE"]
    assert "step() raised" in said.splitlines()[0]
    assert said.splitlines()[-1] == "ValueError: as asked"
    for name, value in {
        "GRACED_SLOT": "0",
        "GRACED_GENERATION": "1",
        "SYSLOG_IDENTIFIER": "graced",
        "_SYSTEMD_UNIT": UNIT,
        "_TRANSPORT": "journal",
    }.items():
        assert found[0][name] == value
    [hello] = entries(machine, f"_PID={worker}", "PRIORITY=4")
    assert hello["MESSAGE"].endswith("hello\nsecond line")
    machine.run("kill", "-KILL", str(worker))
    machine.journal.wait(rf"worker jobs/0 \(pid {worker}\) .*SIGKILL")
    died = entries(machine, f"_PID={main}", "GRACED_POOL=jobs")
    assert any("SIGKILL" in line["MESSAGE"] for line in died)
    assert "jobs" in machine.run("journalctl", "-F", "GRACED_POOL").split()


FAILS = f"""
from sample_workers import pass_gate, say
from graced import Worker
from graced.log import journal
journal.PATIENCE = 600.0  # the test holds journald up
class Fails(Worker):
    def setup(self):
        say("waiting")
        pass_gate({{"gate": "{GATE}"}})
        say("failing")
        raise OSError("no database")
    def step(self):
        raise NotImplementedError
"""


@contextlib.contextmanager
def frozen(machine: Machine, unit: str) -> Iterator[None]:
    pid = str(machine.main_pid(unit))
    machine.run("kill", "-STOP", pid)
    try:
        yield
    finally:
        machine.run("kill", "-CONT", pid)


def test_the_last_words_of_a_worker_are_its_unit_s(machine: Machine) -> None:
    machine.write("/srv/app/fails.py", FAILS)
    machine.configure("fails:Fails", 4, backoff={"first": "10ms"})
    machine.dropin("Restart=no")
    for _ in range(5):  # between reading and looking up journald may be held up, too
        since = "--since=@" + machine.run("date", "+%s.%N").strip()[:-3]
        machine.events.forget()
        machine.run("systemctl", "start", "--no-block", UNIT)
        machine.events.wait("^waiting", 4)
        with frozen(machine, "systemd-journald.service"):
            machine.open_gate()
            machine.events.wait("^failing", 4)
        machine.shows("ActiveState", "failed")
        machine.close_gate()
        machine.journal_read()
        said = entries(machine, since, f"_SYSTEMD_UNIT={UNIT}", "GRACED_POOL=jobs")
        assert any("OSError: no database" in line["MESSAGE"] for line in said)
        lost = [
            line["MESSAGE"].splitlines()[0]
            for line in entries(machine, since, "GRACED_POOL=jobs")
            if "_SYSTEMD_UNIT" not in line and "GRACED_SLOT" in line  # a worker, no killed keeper
        ]
        if not lost:
            return
    assert lost == []


def test_an_entry_larger_than_a_datagram(machine: Machine) -> None:
    machine.write("/srv/app/talks.py", LIFE)
    machine.configure("talks:Talks", 1, options={"huge": True})
    machine.systemctl("start")
    machine.journal.wait("ValueError: as asked")
    [entry] = [e for e in entries(machine, "PRIORITY=6") if len(e["MESSAGE"] or "") > 60000]
    assert entry["GRACED_POOL"] == "jobs"


def test_what_a_job_logs_has_its_field(machine: Machine) -> None:
    code = """
from graced import JobWorker
class Logs(JobWorker):
    def handle(self, job):
        self.log.warning("handling %s", job.payload)
        raise ValueError("as asked")
"""
    machine.write("/srv/app/logs.py", code)
    machine.configure("logs:Logs", 1, max_attempts=1)
    machine.systemctl("start")
    payloads = ('"one"', '"two"')
    jobs = [machine.run("graced", "submit", "--json", one).strip() for one in payloads]
    machine.journal.wait("ValueError: as asked", 2)
    said = [entry["MESSAGE"] for entry in entries(machine, f"GRACED_JOB={jobs[1]}")]
    assert any("handling two" in text for text in said)
    assert any(text.endswith("ValueError: as asked") for text in said)
    assert not any("handling one" in text for text in said)


def test_a_job_has_its_field(machine: Machine) -> None:
    machine.write("/etc/graced/config.yaml", "pools: {jobs: {}}\n")
    machine.systemctl("start")
    job = machine.run("graced", "submit", "--", "sh", "-c", "echo said by the job").strip()
    machine.journal.wait("said by the job")
    assert any("said by the job" in e["MESSAGE"] for e in entries(machine, f"GRACED_JOB={job}"))
    assert "said by the job" in machine.run("graced", "jobs", "log", job)
