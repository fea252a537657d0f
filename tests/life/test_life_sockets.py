"""Sockets that pools listen on: nobody who calls is refused or cut off, whatever goes on.

Callers are threads that connect, say a word and wait for the answer, again and again; each
answer names the process and the generation that gave it.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daemon_harness import DEADLINE, ROOT, Daemon, stat

from graced.host.address import parse
from graced.host.listeners import stored_name

Where = int | str  # a port, or the path of a Unix socket


def connect(where: Where) -> socket.socket:
    family = socket.AF_INET if isinstance(where, int) else socket.AF_UNIX
    sock = socket.socket(family)
    sock.settimeout(DEADLINE)
    sock.connect(("127.0.0.1", where) if isinstance(where, int) else where)
    return sock


def call(where: Where, word: str = "hello") -> list[str]:
    """Return who answered, of which generation, and what was said."""
    with connect(where) as sock:
        sock.sendall(word.encode())
        answer = b""
        while part := sock.recv(100):
            answer += part
    return answer.decode().split()


class Callers:
    """Some threads that call all the time; a context manager that tells what went wrong."""

    def __init__(self, where: Where, count: int = 4) -> None:
        self.where = where
        self.answers: list[list[str]] = []
        self.troubles: list[str] = []
        self._over = threading.Event()
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        self.more(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(DEADLINE)
        assert self.troubles == []

    def _call(self) -> None:
        while not self._over.is_set():
            try:
                answer = call(self.where)
                assert answer[2:] == ["hello"], f"cut: {answer}"
            except (OSError, AssertionError) as error:
                self.troubles.append(repr(error))
                self._over.set()
            else:
                self.answers.append(answer)
            with self._changed:
                self._changed.notify_all()

    def more(self, count: int) -> list[list[str]]:
        """Wait for so many further answers, and return them."""
        start = len(self.answers)
        self.until(lambda: len(self.answers) >= start + count)
        return self.answers[start:]

    def until(self, what: Callable[[], bool]) -> None:
        with self._changed:
            came = self._changed.wait_for(lambda: self._over.is_set() or what(), DEADLINE)
        assert came, "nobody answers"
        assert self.troubles == []


def greet(daemon: Daemon, *listen: str, **keys: Any) -> Daemon:
    return daemon.pool("sample_workers:Greeter", **{"listen": list(listen), "workers": 2, **keys})


@pytest.fixture(params=["tcp", "unix"])
def place(request: pytest.FixtureRequest, daemon: Daemon, port: int) -> tuple[str, Where]:
    """An address as it is configured, and where to call."""
    if request.param == "tcp":
        return f"tcp://127.0.0.1:{port}", port
    path = str(daemon.short / "x.sock")
    return f"unix://{path}", path


def test_all_workers_answer_and_each_caller_is_answered_once(
    daemon: Daemon, place: tuple[str, Where]
) -> None:
    address, where = place
    greet(daemon, address, options={"seconds": 0.01}).start().ready()
    with Callers(where) as callers:
        callers.until(lambda: len({pid for pid, *_ in callers.answers}) == 2)
    assert daemon.run("stop").returncode == 0
    daemon.ended(0)
    with pytest.raises(OSError, match=r"refused|No such file"):
        connect(where)


def test_reloads_refuse_nobody(daemon: Daemon, place: tuple[str, Where]) -> None:
    address, where = place
    greet(daemon, address).start().ready()
    with Callers(where) as callers:
        for generation in range(2, 6):
            assert daemon.run("reload").returncode == 0
            said = str(generation)
            callers.until(lambda said=said: callers.answers[-1][1] == said)  # type: ignore[misc]
            callers.more(50)
    assert not daemon.log.matching("error")


def test_workers_that_die_cut_their_own_caller_alone(daemon: Daemon, port: int) -> None:
    greet(daemon, f"tcp://127.0.0.1:{port}", workers=3).start().ready()
    dead = []
    with Callers(port) as callers:
        for times in range(1, 6):
            with connect(port) as sock:
                sock.sendall(b"hang")
                dead.append(daemon.events.wait("^waiting", times)[-1].pid)
                os.kill(dead[-1], signal.SIGKILL)
                try:
                    assert sock.recv(100) == b""
                except ConnectionResetError:
                    pass
            callers.more(20)
            daemon.until(lambda: not set(dead) & set(daemon.worker_pids()))


def test_a_drain_finishes_the_connection_in_hand(daemon: Daemon, port: int) -> None:
    greet(daemon, f"tcp://127.0.0.1:{port}", options={"seconds": 1}).start().ready()
    answers: list[list[str]] = []
    callers = [
        threading.Thread(target=lambda: answers.append(call(port, "wait"))) for _ in range(2)
    ]
    for caller in callers:
        caller.start()
    daemon.events.wait("^waiting", 2)
    daemon.send(signal.SIGTERM)
    for caller in callers:
        caller.join(DEADLINE)
    assert [answer[2] for answer in answers] == ["wait", "wait"]
    daemon.ended(0)
    daemon.events.wait("^teardown", 2)


def test_a_replaced_worker_leaves_nobody_waiting(daemon: Daemon, port: int) -> None:
    """One worker, told to drain again and again: its successor takes who has knocked meanwhile."""
    greet(daemon, f"tcp://127.0.0.1:{port}", workers=1).start().ready()
    with Callers(port, 8) as callers:
        [pid] = daemon.worker_pids()
        for _ in range(5):
            os.kill(pid, signal.SIGTERM)
            pid = daemon.until(lambda old=pid: successor(daemon, old))  # type: ignore[misc]
            callers.more(20)


def successor(daemon: Daemon, old: int) -> int:
    """Return who has followed a worker that is gone, or 0."""
    pids = daemon.worker_pids()
    return pids[0] if len(pids) == 1 and pids != [old] else 0


def test_what_handle_raises_is_logged_and_the_connection_closed(daemon: Daemon, port: int) -> None:
    greet(daemon, f"tcp://127.0.0.1:{port}", workers=1).start().ready()
    [before] = daemon.worker_pids()
    assert call(port, "raise") == []
    daemon.log.wait("handle.. raised")
    daemon.log.wait("ValueError: as asked")
    assert call(port)[0] == str(before)
    daemon.until(lambda: daemon.workers()[0]["state"] == "ready")  # its round is over
    [worker] = daemon.workers()
    assert (worker["rounds"], worker["errors"]) == (2, 1)


def test_a_connection_that_takes_too_long(daemon: Daemon, port: int) -> None:
    greet(daemon, f"tcp://127.0.0.1:{port}", workers=1, round_timeout="3s").start().ready()
    with connect(port) as sock:
        sock.sendall(b"hang")
        try:
            assert sock.recv(100) == b""
        except ConnectionResetError:
            pass
    daemon.log.wait("sample_workers.py.* in handle")
    assert call(port)[2] == "hello"


def test_an_interrupt_ends_the_connection(daemon: Daemon, port: int) -> None:
    greet(daemon, f"tcp://127.0.0.1:{port}", workers=1).start().ready()
    with connect(port) as sock:
        sock.sendall(b"hang")
        daemon.events.wait("^waiting")  # a connection with something unread would be reset
        daemon.send(signal.SIGINT)
        assert sock.recv(100) == b""
    daemon.ended(0)
    daemon.events.wait("^teardown")


def test_waiting_is_no_work_and_costs_nothing(daemon: Daemon, port: int) -> None:
    greet(daemon, f"tcp://127.0.0.1:{port}", workers=1, round_timeout="2s").start().ready()
    [pid] = daemon.worker_pids()
    daemon.until(lambda: stat(pid)[0] == "S" and daemon.workers()[0]["state"] == "ready")
    before = switches(pid)
    daemon.log.collect(2.5)
    [worker] = daemon.workers()
    assert (worker["pid"], worker["state"], worker["rounds"]) == (pid, "ready", 0)
    assert switches(pid) == before


def test_one_call_wakes_one_worker(daemon: Daemon, port: int) -> None:
    greet(daemon, f"tcp://127.0.0.1:{port}", workers=8).start().ready()
    pids = daemon.worker_pids()

    def woken() -> int:
        return sum(switches(pid) for pid in pids)

    for _ in range(20):
        call(port)
    before = woken()
    for _ in range(100):
        call(port)
    assert woken() - before < 500  # 100 calls of two or three sleeps each; a herd has 800 more


def switches(pid: int) -> int:
    """Return how often a process has gone to sleep by itself."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split()[1])
    raise AssertionError(pid)


# What a reload changes


def test_a_reload_opens_and_closes(daemon: Daemon, port: int) -> None:
    path = str(daemon.short / "x.sock")
    greet(daemon, f"tcp://127.0.0.1:{port}").start().ready()
    with Callers(port) as callers:
        greet(daemon, f"tcp://127.0.0.1:{port}", f"unix://{path}?mode=0600")
        assert daemon.run("reload").returncode == 0
        assert call(path)[1] == "2"
        assert os.stat(path).st_mode & 0o777 == 0o600
        greet(daemon, f"tcp://127.0.0.1:{port}?backlog=7")
        assert daemon.run("reload").returncode == 0
        callers.more(20)
    daemon.until(lambda: not os.path.exists(path))


def test_a_port_that_was_dropped_can_be_had_again(daemon: Daemon, port: int) -> None:
    greet(daemon, f"tcp://127.0.0.1:{port}").start().ready()
    with connect(port) as sock:  # a round that is longer than all that follows
        sock.sendall(b"hang")
        busy = daemon.events.wait("^waiting")[0].pid
        daemon.pool("sample_workers:Idle", workers=2)
        assert daemon.run("reload").returncode == 0
        greet(daemon, f"tcp://127.0.0.1:{port}")
        again = daemon.run("reload")
        assert again.returncode == 0, again
        assert call(port)[1] == "3"
        os.kill(busy, signal.SIGKILL)
    daemon.pool("sample_workers:Idle", workers=2)
    assert daemon.run("reload").returncode == 0
    daemon.until(lambda: is_refused(port))


def is_refused(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def test_a_reload_without_its_address_is_refused_by_name(daemon: Daemon, port: int) -> None:
    path = str(daemon.short / "x.sock")
    greet(daemon, f"tcp://127.0.0.1:{port}").start().ready()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        greet(daemon, f"unix://{path}", taken)
        refused = daemon.run("reload")
    assert refused.returncode == 1
    assert f"pools.jobs.listen: cannot listen on {taken}: Address already in use" in refused.stderr
    assert not os.path.exists(path)
    assert call(port)[1] == "1"


def test_two_addresses_of_one_port_are_told_as_such(daemon: Daemon, port: int) -> None:
    greet(daemon, f"tcp://127.0.0.1:{port}").start().ready()
    greet(daemon, f"tcp://0.0.0.0:{port}")
    refused = daemon.run("reload")
    assert refused.returncode == 1
    why = f"cannot listen on tcp://0.0.0.0:{port}: this daemon listens on tcp://127.0.0.1:{port}; "
    assert why in refused.stderr
    assert call(port)[1] == "1"


def test_a_refused_reload_closes_what_it_opened(daemon: Daemon, port: int) -> None:
    path = str(daemon.short / "x.sock")
    greet(daemon, f"tcp://127.0.0.1:{port}").start().ready()
    daemon.pool("sample_workers:Nobody", listen=f"unix://{path}")
    assert daemon.run("reload").returncode == 1
    assert not os.path.exists(path)
    assert call(port)[1] == "1"


def test_a_pool_that_never_listened_can_begin_to(daemon: Daemon, port: int) -> None:
    daemon.pool("sample_workers:Idle").start().ready()
    greet(daemon, f"tcp://127.0.0.1:{port}")
    assert daemon.run("reload").returncode == 0
    assert call(port)[1] == "2"


# The start


def test_an_address_that_is_taken(daemon: Daemon) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        greet(daemon, f"tcp://127.0.0.1:{other.getsockname()[1]}").start()
        daemon.ended(1)
    daemon.log.wait("pools.jobs.listen: cannot listen on tcp://.*: Address already in use; stop")
    daemon.notices.wait("^STATUS=failed: pools.jobs.listen: cannot listen on tcp://")
    daemon.notices.wait("^EXIT_STATUS=1$")


def test_unix_sockets_that_are_stale_taken_or_none(daemon: Daemon) -> None:
    path = daemon.short / "x.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        greet(daemon, f"unix://{path}").start()
        daemon.ended(1)
        daemon.log.wait("cannot listen on unix://.*; a process listens there")
    daemon.start().ready()  # what a dead process has left is taken
    assert call(str(path))[2] == "hello"
    assert path.stat().st_mode & 0o777 == 0o660
    daemon.run("stop")
    daemon.ended(0)
    path.unlink(missing_ok=True)  # systemd, that keeps it, may hand it to a restarted daemon
    path.write_text("mine")
    daemon.start()
    daemon.ended(1)
    assert path.read_text() == "mine"


# The main process is killed


@pytest.mark.parametrize("systemd", ["none", "fake"])
@pytest.mark.parametrize("word", ["hang", "spin"])
def test_after_a_kill_a_new_daemon_listens_while_old_rounds_go_on(
    daemon: Daemon, place: tuple[str, Where], word: str, systemd: str
) -> None:
    """A worker that spins never looks at its signals; zygotes hold the socket, too."""
    address, where = place
    if systemd == "none":
        daemon.environ["NOTIFY_SOCKET"] = ""
    elif word == "spin":
        pytest.skip("what systemd keeps is not shut down; and it kills such a worker")
    greet(daemon, address, drain_timeout="5m").start()
    daemon.events.wait("^setup jobs", 2)
    with connect(where) as caller:
        caller.sendall(word.encode())
        busy = daemon.events.wait("^waiting")[0].pid
        old = daemon.left()
        daemon.send(signal.SIGKILL)
        daemon.ended(-signal.SIGKILL)
        daemon.start()
        daemon.events.wait("^setup jobs", 4)
        assert int(call(where)[0]) not in old
        assert busy in daemon.left()


def test_a_file_that_is_gone_is_made_again_by_a_reload(daemon: Daemon) -> None:
    path = daemon.short / "x.sock"
    greet(daemon, f"unix://{path}").start().ready()
    path.unlink()
    (daemon.home / "broken.py").write_text("class")
    daemon.configure({"jobs": {"worker": "broken:X", "path": [str(daemon.home)],
                               "listen": [f"unix://{path}"]}})  # fmt: skip
    assert daemon.run("reload").returncode == 1
    assert not path.exists()
    greet(daemon, f"unix://{path}")
    assert daemon.run("reload").returncode == 0
    daemon.log.wait("x.sock: its file is gone; the new workers have a new one")
    assert call(str(path))[1:] == ["2", "hello"]
    assert daemon.run("reload").returncode == 0
    assert call(str(path))[1:] == ["3", "hello"]
    assert len(daemon.log.matching("its file is gone")) == 2


def test_a_file_that_somebody_else_has_put_there_is_his(daemon: Daemon) -> None:
    daemon.environ["NOTIFY_SOCKET"] = ""  # which would keep the socket, and the file with it
    path = daemon.short / "x.sock"
    greet(daemon, f"unix://{path}").start()
    daemon.log.wait("ready: ")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        path.chmod(0o600)
        done = daemon.run("reload")
        assert (done.returncode, "a process listens there" in done.stderr) == (1, True)
        assert daemon.run("stop").returncode == 0
        assert path.stat().st_mode & 0o777 == 0o600
        connect(str(path)).close()


def test_ipv6_beside_ipv4(daemon: Daemon, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", port))
    except OSError:
        pytest.skip("no IPv6 here")
    greet(daemon, f"tcp://[::]:{port}", f"tcp://0.0.0.0:{port}").start().ready()
    assert call(port)[2] == "hello"
    with socket.create_connection(("::1", port), DEADLINE) as sock:
        sock.sendall(b"six")
        assert sock.recv(100).endswith(b"six")


def test_a_worker_without_an_address(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Greeter", backoff={"first": "10ms"}).start()
    daemon.ended(1)
    daemon.log.wait("Greeter has nothing to listen on; write pools.jobs.listen")


def test_a_run_of_one_s_own(daemon: Daemon, port: int) -> None:
    code = """
        from graced import Worker
        class Own(Worker):
            def run(self):
                while not self.draining:
                    try:
                        connection, _ = self.sockets[0].accept()
                    except BlockingIOError:
                        self.wait(0.01)
                        continue
                    with connection:
                        connection.settimeout(30)
                        connection.sendall(b"x y own" if connection.recv(100) else b"")
    """
    daemon.module("own", "\n".join(line[8:] for line in code.splitlines()))
    daemon.pool("own:Own", listen=f"tcp://127.0.0.1:{port}", path=["."]).start().ready()
    assert call(port)[2] == "own"
    daemon.send(signal.SIGTERM)
    daemon.ended(0)


# From systemd


HAND_OVER = """
import os, socket, sys
names = []
for number, pair in enumerate(sys.argv[1].split(",")):
    name, port = pair.split("=")
    sock = socket.create_server(("127.0.0.1", int(port)))
    os.dup2(sock.detach(), 100 + number)
    names.append(name)
for number in range(len(names)):
    os.dup2(100 + number, 3 + number)
os.closerange(3 + len(names), 200)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(names)))
os.environ["LISTEN_FDNAMES"] = ":".join(names)
os.execv(sys.argv[2], sys.argv[2:])
"""


def handed_over(daemon: Daemon, **ports: int) -> Daemon:
    """Start it as systemd would, with sockets from descriptor 3 on."""
    pairs = ",".join(f"{name.replace('_', '-')}={port}" for name, port in ports.items())
    return daemon.start(wrap=(daemon.python, "-c", HAND_OVER, pairs))


def test_a_socket_that_systemd_hands_over(daemon: Daemon, port: int) -> None:
    greet(daemon, "fd:web")
    handed_over(daemon, web=port).ready()
    with Callers(port) as callers:
        assert daemon.run("reload").returncode == 0
        callers.more(20)
    assert not daemon.notices.matching("FDSTORE")  # systemd has it anyway


def test_the_variables_are_meant_for_nobody_else(daemon: Daemon, port: int) -> None:
    code = """
        import os, sample_workers
        class Tell(sample_workers.Idle):
            def setup(self):
                names = [name for name in os.environ if name.startswith("LISTEN")]
                sample_workers.say("has", *names)
    """
    daemon.module("tell", "\n".join(line[8:] for line in code.splitlines()))
    daemon.pool("tell:Tell", path=[".", str(ROOT / "tests")])
    handed_over(daemon, web=port).ready()
    [line] = daemon.events.wait("^has")
    assert line.text == "has"


def test_a_name_that_systemd_does_not_hand_over(daemon: Daemon, port: int) -> None:
    greet(daemon, "fd:web")
    handed_over(daemon, admin=port)
    daemon.ended(78)
    daemon.log.wait("fd:web: systemd hands over no socket of this name, there are admin; see")


def test_a_reload_takes_what_was_handed_over_before(daemon: Daemon, port: int) -> None:
    daemon.pool("sample_workers:Idle")
    handed_over(daemon, web=port).ready()
    greet(daemon, "fd:web")
    assert daemon.run("reload").returncode == 0
    assert call(port)[1] == "2"


def test_a_daemon_that_leaves_its_terminal_takes_them_along(daemon: Daemon, port: int) -> None:
    pool = {"worker": "sample_workers:Greeter", "listen": ["fd:web"]}
    daemon.configure({"jobs": pool}, log={"file": str(daemon.home / "log")})
    file = daemon.home / "pid"
    line = daemon.command("run", "--daemonize", "--pidfile", str(file), "-c", str(daemon.config))
    daemon.pump.start()
    subprocess.run(
        [daemon.python, "-c", HAND_OVER, f"web={port}", *line],
        cwd=daemon.short,
        env=daemon.environment(),
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=True,
    )
    assert call(port)[1] == "1"
    assert daemon.run("stop").returncode == 0
    daemon.nothing_left()


def test_sockets_of_another_process_are_not_touched(daemon: Daemon, port: int) -> None:
    daemon.environ.update(LISTEN_PID="1", LISTEN_FDS="1", LISTEN_FDNAMES="web")
    greet(daemon, "fd:web").start()
    daemon.ended(78)
    daemon.log.wait("there is none at all")


def test_what_is_ours_is_kept_by_systemd_until_a_reload_drops_it(daemon: Daemon, port: int) -> None:
    name = stored_name(parse(f"tcp://127.0.0.1:{port}"))
    greet(daemon, f"tcp://127.0.0.1:{port}").start().ready()
    daemon.notices.wait("^FDSTORE=1$")
    daemon.notices.wait(f"^FDNAME={name}$")
    assert daemon.run("reload").returncode == 0
    assert len(daemon.notices.matching("^FDSTORE=1$")) == 1
    daemon.pool("sample_workers:Idle")
    assert daemon.run("reload").returncode == 0
    daemon.notices.wait("^FDSTOREREMOVE=1$")
    daemon.notices.wait(f"^FDNAME={name}$", 2)


def test_after_a_crash_the_same_socket_is_taken_up(daemon: Daemon, port: int) -> None:
    address = parse(f"tcp://127.0.0.1:{port}")
    greet(daemon, address.place)
    handed_over(daemon, **{stored_name(address): port}).ready()
    daemon.log.wait("reusing .*, which systemd kept over the restart")
    assert call(port)[2] == "hello"
    assert not daemon.notices.matching("FDSTORE")


def test_what_was_stored_for_another_configuration_is_dropped(daemon: Daemon, port: int) -> None:
    name = stored_name(parse(f"tcp://127.0.0.1:{port}"))
    daemon.pool("sample_workers:Idle")
    handed_over(daemon, **{name: port}).ready()
    daemon.notices.wait("^FDSTOREREMOVE=1$")
    daemon.notices.wait(f"^FDNAME={name}$")
    with pytest.raises(ConnectionRefusedError):
        connect(port)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_in_a_stop_nobody_is_let_in_who_will_not_be_served(
    daemon: Daemon, port: int, kind: str
) -> None:
    """The connection in hand is served to its end; whoever calls meanwhile is refused at once."""
    path = str(daemon.short / "door")
    where: Where = port if kind == "tcp" else path
    address = f"tcp://127.0.0.1:{port}" if kind == "tcp" else f"unix://{path}"
    daemon.module(
        "patient",
        "from sample_workers import *\n"
        "class Patient(Greeter):\n  def handle(self, connection, address):\n"
        "    say('begun')\n    connection.sendall(connection.recv(9))\n",
    )
    daemon.environ["NOTIFY_SOCKET"] = ""  # what systemd keeps as well goes on for the next start
    keys = {"path": [".", str(ROOT / "tests")], "listen": [address]}
    daemon.pool("patient:Patient", workers=2, **keys).start().log.wait("ready: 2 workers")
    with connect(where) as busy:
        daemon.events.wait("^begun")
        daemon.send(signal.SIGTERM)

        def refused() -> bool:
            try:
                connect(where).close()
            except (ConnectionRefusedError, FileNotFoundError):
                return True
            return False

        daemon.until(refused)
        assert daemon.process is not None
        assert daemon.process.poll() is None
        busy.sendall(b"over")
        assert busy.recv(100) == b"over"
    daemon.ended(0)
