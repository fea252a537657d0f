from __future__ import annotations

import itertools
import json
import os
import resource
import select
import selectors
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from graced.control import client
from graced.control import server as control
from graced.control.client import Connection, ConnectionLostError, ControlError, NoDaemonError
from graced.control.server import IDLE, MAX_CLIENTS, MAX_REQUEST, ControlServer, Request
from graced.host import unixsocket


class Loop:
    """What the supervisor does with a server, by hand."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.server = ControlServer(self.path)
        self.selector = selectors.DefaultSelector()
        self.server.register(self.selector)
        self.requests: list[Request] = []
        self.others: list[socket.socket] = []

    def turn(self, timeout: float = 0) -> int:
        """Do one turn; return how many events there were."""
        events = self.selector.select(timeout)
        for key, mask in events:
            key.data(mask)
        while (request := self.server.take()) is not None:
            self.requests.append(request)
        return len(events)

    def settle(self) -> None:
        """Turn until there is nothing to do."""
        for _ in range(1000):
            if not self.turn():
                return
        raise AssertionError("the loop spins")

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            self.turn(0.1)

    def connect(self) -> socket.socket:
        other = socket.socket(socket.AF_UNIX)
        unixsocket.connect(other, self.path)
        other.settimeout(30)
        self.others.append(other)
        return other

    def close(self) -> None:
        self.server.close()
        self.selector.close()
        for other in self.others:
            other.close()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    loop = Loop(tmp_path / "control.sock")
    yield loop
    loop.close()


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def replies(other: socket.socket) -> list[dict[str, Any]]:
    """Return what has been answered by now."""
    other.setblocking(False)
    data = b""
    try:
        while chunk := other.recv(1 << 20):
            data += chunk
    except (BlockingIOError, ConnectionResetError):
        pass
    return [json.loads(text) for text in data.splitlines()]


def is_closed(other: socket.socket) -> bool:
    poll = select.poll()
    poll.register(other, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


# Requests and replies


def test_a_request_and_its_reply(loop: Loop) -> None:
    other = loop.connect()
    other.sendall(line(command="scale", pool="jobs", workers=3))
    loop.settle()
    (request,) = loop.requests
    assert (request.command, request.arguments) == ("scale", {"pool": "jobs", "workers": 3})
    assert (request.client.pid, request.client.uid) == (os.getpid(), os.geteuid())
    loop.server.reply(request, {"ok": True, "text": "→\n"})
    assert replies(other) == [{"ok": True, "text": "→\n"}]
    other.sendall(line(command="status"))
    loop.settle()
    loop.server.reply(loop.requests[1].client, {"ok": True})
    assert replies(other) == [{"ok": True}]


def test_the_socket_is_for_its_user_and_group(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    old = os.umask(0)
    server = ControlServer(path)
    os.umask(old)
    status = os.stat(path)
    assert stat.S_IMODE(status.st_mode) == 0o660
    assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
    assert not os.get_inheritable(server.fileno())
    server.close()
    assert os.listdir(tmp_path) == []


@hypothesis_settings(max_examples=60)
@given(
    lines=st.lists(
        st.one_of(
            st.builds(lambda c, x: line(command=c, x=x), st.text(max_size=5), st.text(max_size=30)),
            st.sampled_from([b"\n", b"  \r\n", b"[]\n", b"{}\n", b"nonsense\n", b"\xff\xfe\n"]),
        ),
        max_size=8,
    ),
    cuts=st.lists(st.integers(1, 40), max_size=60),
    end=st.booleans(),
)
def test_requests_come_in_any_pieces(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cuts: list[int], end: bool
) -> None:
    loop = Loop(tmp_path_factory.mktemp("c") / "s")
    other = loop.connect()
    data = b"".join(lines)
    if end:
        data = data.removesuffix(b"\n")
    for cut in cuts:
        other.sendall(data[:cut])
        data = data[cut:]
        loop.settle()
    other.sendall(data)
    if end:
        other.shutdown(socket.SHUT_WR)
    loop.settle()
    said = []
    while loop.requests:
        (request,) = loop.requests
        loop.requests = []
        loop.server.reply(request, {"ok": True, "you said": request.command})
        said += replies(other)
        loop.settle()
    said += replies(other)
    expected = []
    for text in lines:
        if text.isspace():
            continue
        told = json.loads(text) if text.startswith(b"{") else {}
        expected.append(told.get("command"))
    assert [reply.get("you said") for reply in said] == expected
    assert [reply["ok"] for reply in said] == [command is not None for command in expected]
    assert bool(loop.server.clients) != end
    loop.close()


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"hello\n", "a request is a JSON object on one line: Expecting value"),
        (b"[1]\n", "a request is a JSON object on one line"),
        (b"{}\n", 'a request needs a "command"'),
        (b'{"command": 1}\n', 'a request needs a "command"'),
        (b"[" * 60000 + b"\n", "a request is a JSON object on one line"),
        (b'{"command": "x", "n": ' + b"9" * 60000 + b"}\n", "a request is a JSON object"),
    ],
)
def test_nonsense_is_answered_and_the_client_may_go_on(loop: Loop, sent: bytes, error: str) -> None:
    other = loop.connect()
    other.sendall(sent)
    loop.settle()
    (reply,) = replies(other)
    assert reply["ok"] is False
    assert reply["error"].startswith(error)
    other.sendall(line(command="status"))
    loop.settle()
    assert [r.command for r in loop.requests] == ["status"]


@pytest.mark.parametrize("ended", [True, False])
def test_a_request_that_is_too_long_is_refused(loop: Loop, ended: bool) -> None:
    other = loop.connect()
    other.setblocking(False)
    data = memoryview(b"x" * MAX_REQUEST + b"x" + (b"\n" if ended else b""))
    while data:
        try:
            data = data[other.send(data) :]
        except (BlockingIOError, BrokenPipeError):
            pass
        loop.settle()
        if is_closed(other):
            break
    loop.until(lambda: is_closed(other))
    (reply,) = replies(other)
    assert "at most 65536 bytes" in reply["error"]
    assert not loop.server.clients


def test_a_request_of_exactly_the_limit_is_taken(loop: Loop) -> None:
    other = loop.connect()
    data = line(command="x", y="")
    data = line(command="x", y="y" * (MAX_REQUEST - len(data)))
    assert len(data) == MAX_REQUEST
    sender = threading.Thread(target=other.sendall, args=(data,))
    sender.start()
    loop.until(lambda: loop.requests)
    sender.join()


def test_one_request_of_a_client_at_a_time(loop: Loop) -> None:
    other = loop.connect()
    other.sendall(line(command="a") + line(command="b") + line(command="c"))
    loop.settle()
    assert [r.command for r in loop.requests] == ["a"]
    loop.server.reply(loop.requests[0], {"n": 1})
    loop.settle()
    assert [r.command for r in loop.requests] == ["a", "b"]


def test_too_much_behind_a_request_in_hand_is_refused(loop: Loop) -> None:
    other = loop.connect()
    other.sendall(line(command="a"))
    loop.settle()
    sender = threading.Thread(target=lambda: _send_all(other, b"x" * (MAX_REQUEST + 1)))
    sender.start()
    loop.until(lambda: is_closed(other))
    sender.join()
    loop.server.reply(loop.requests[0], {"ok": True})
    assert not loop.server.clients


def _send_all(other: socket.socket, data: bytes) -> None:
    try:
        other.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        pass


# Clients that misbehave, and some that do not


def test_a_half_closed_client_gets_its_reply(loop: Loop) -> None:
    other = loop.connect()
    other.sendall(line(command="reload"))
    other.shutdown(socket.SHUT_WR)
    loop.settle()
    assert loop.turn() == 0, "end-of-file must not make the loop spin"
    loop.server.reply(loop.requests[0], {"ok": True})
    loop.settle()
    assert replies(other) == [{"ok": True}]
    assert is_closed(other)
    assert not loop.server.clients


@pytest.mark.parametrize("when", ["at once", "later", "after half-closing"])
def test_a_client_that_hung_up_is_no_error(loop: Loop, when: str) -> None:
    other = loop.connect()
    other.sendall(line(command="reload"))
    if when == "after half-closing":
        other.shutdown(socket.SHUT_WR)
    if when != "at once":
        loop.settle()
    other.close()
    loop.settle()
    assert [r.command for r in loop.requests] == ["reload"]
    assert bool(loop.server.clients) == (when == "after half-closing"), "it makes room at once"
    loop.server.reply(loop.requests[0], {"ok": True})
    loop.settle()
    assert not loop.server.clients
    assert loop.server.next_deadline() is None


def test_silent_clients_are_dropped_in_time(loop: Loop) -> None:
    silent, half, waiting = loop.connect(), loop.connect(), loop.connect()
    half.sendall(b'{"command": ')
    waiting.sendall(line(command="reload"))
    loop.settle()
    half.sendall(b'"st')  # sending slowly does not help
    loop.settle()
    deadline = loop.server.next_deadline()
    assert deadline is not None
    assert 0 < deadline - time.monotonic() <= IDLE
    loop.server.expire(deadline - 0.001)
    assert len(loop.server.clients) == 3
    loop.server.expire(time.monotonic() + IDLE)
    assert is_closed(silent)
    assert is_closed(half)
    assert not is_closed(waiting)
    assert loop.server.next_deadline() is None
    loop.server.reply(loop.requests[0], {"ok": True})
    assert replies(waiting) == [{"ok": True}]
    assert loop.server.next_deadline() is not None


def test_a_client_that_does_not_read_does_not_block(loop: Loop) -> None:
    other = loop.connect()
    other.sendall(line(command="stacks") + line(command="more"))
    loop.settle()
    big = {"text": "x" * 3_000_000}
    loop.server.reply(loop.requests[0], big)  # nobody reads: if it blocked, it would for ever
    loop.settle()
    assert len(loop.requests) == 1, "no more requests while a reply is not taken"
    data = bytearray()
    other.setblocking(False)
    while not data.endswith(b"\n"):
        loop.turn()
        try:
            data += other.recv(1 << 20)
        except BlockingIOError:
            loop.turn(1)
    assert json.loads(data) == big
    loop.settle()
    assert [r.command for r in loop.requests] == ["stacks", "more"]


def test_a_client_that_never_reads_is_dropped(loop: Loop) -> None:
    other = loop.connect()
    other.sendall(line(command="stacks"))
    loop.settle()
    loop.server.reply(loop.requests[0], {"text": "x" * 3_000_000})
    loop.server.expire(time.monotonic() + IDLE)
    assert is_closed(other)


def test_the_most_silent_makes_room_for_a_new_one(loop: Loop) -> None:
    crowd = [loop.connect() for _ in range(MAX_CLIENTS)]
    loop.settle()
    crowd[0].sendall(line(command="status"))
    loop.settle()
    late = loop.connect()
    loop.settle()
    assert len(loop.server.clients) == MAX_CLIENTS
    assert [is_closed(other) for other in crowd[:3]] == [False, True, False]
    late.sendall(line(command="status"))
    loop.settle()
    assert len(loop.requests) == 2


def test_none_is_silent_whose_request_is_not_read_yet(loop: Loop) -> None:
    """As after a stop of the daemon, in which many have come and gone."""
    crowd = [loop.connect() for _ in range(MAX_CLIENTS // 2)]
    for other in crowd:
        other.sendall(line(command="status"))
    for _ in range(MAX_CLIENTS):
        loop.connect().close()
    for _ in range(3):
        loop.settle()
    assert len(loop.requests) == len(crowd)
    assert not any(map(is_closed, crowd))


def test_too_many_that_wait_for_replies(loop: Loop) -> None:
    for _ in range(MAX_CLIENTS):
        loop.connect().sendall(line(command="reload"))
    loop.settle()
    loop.settle()
    assert len(loop.requests) == MAX_CLIENTS
    late = loop.connect()
    loop.settle()
    (reply,) = replies(late)
    assert "try again later" in reply["error"]
    assert is_closed(late)
    for request in loop.requests:
        loop.server.reply(request, {"ok": True})
    assert all(replies(other) == [{"ok": True}] for other in loop.others[:MAX_CLIENTS])


@pytest.mark.parametrize("waiting", [False, True])
def test_no_user_locks_out_another(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, waiting: bool
) -> None:
    """32 connections of a member of the group had kept root's `graced stop` out."""
    real, user = unixsocket.peer, [1000]
    monkeypatch.setattr(unixsocket, "peer", lambda sock: (real(sock)[0], user[0], 1000))
    for user[0] in (1000, 1001):
        for _ in range(MAX_CLIENTS + 5):
            if waiting:
                loop.connect().sendall(line(command="reload"))
            else:
                loop.connect()
            loop.settle()
    assert len(loop.server.clients) == 2 * MAX_CLIENTS
    user[0] = 0
    root = loop.connect()
    loop.settle()
    root.sendall(line(command="stop"))
    loop.settle()
    assert loop.requests[-1].command == "stop"
    loop.server.reply(loop.requests[-1], {"ok": True})
    assert replies(root) == [{"ok": True}]


def test_all_users_together_leave_room_for_root(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "MAX_ALL", 8)
    real, users = unixsocket.peer, itertools.count(1000)
    monkeypatch.setattr(unixsocket, "peer", lambda sock: (real(sock)[0], next(users), 1000))
    for _ in range(20):
        loop.connect().sendall(line(command="reload"))
        loop.settle()
    assert len(loop.server.clients) == 8
    monkeypatch.setattr(unixsocket, "peer", lambda sock: (real(sock)[0], 0, 0))
    loop.connect().sendall(line(command="stop"))
    loop.settle()
    loop.settle()
    assert loop.requests[-1].command == "stop"


def test_without_descriptors_it_does_not_spin(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    first, second = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    resource.setrlimit(resource.RLIMIT_NOFILE, (second.fileno() + 1, limits[1]))
    spare = []
    try:
        while True:
            spare.append(os.dup(0))
    except OSError:
        pass
    try:
        first.connect(loop.path)
        second.connect(loop.path)
        loop.settle()
        assert not loop.server.clients
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in spare:
            os.close(fd)
    deadline = loop.server.next_deadline()
    assert deadline is not None
    loop.settle()
    assert not loop.server.clients
    loop.server.expire(deadline)
    loop.settle()
    assert len(loop.server.clients) == 2
    first.close()
    second.close()


def test_the_last_descriptors_are_no_clients(loop: Loop) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.settimeout(60)
        lowest = second.fileno() + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + control.SPARE_FILES, limits[1]))
        try:
            first.connect(loop.path)
            loop.settle()
            assert not loop.server.clients
            assert b"may open no more files; try again later" in first.recv(1000)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# The end


BIG = {"text": "x" * 3_000_000}  # more than a socket takes


def stopping(loop: Loop) -> socket.socket:
    """Connect a client that has been answered, and has not read it."""
    other = loop.connect()
    other.sendall(line(command="stop"))
    loop.settle()
    loop.server.reply(loop.requests[-1], BIG)
    return other


def test_closing_waits_for_replies(loop: Loop) -> None:
    sleeper, reader, idle = stopping(loop), stopping(loop), loop.connect()
    loop.settle()
    got: list[bytes] = []

    def read() -> None:
        got.append(reader.makefile("rb").readline())
        sleeper.close()  # nobody is left to wait for

    thread = threading.Thread(target=read)
    thread.start()
    loop.server.close(3600)
    thread.join()
    assert json.loads(got[0]) == BIG
    assert all(map(is_closed, (reader, idle)))
    assert not os.path.exists(loop.path)


def test_closing_does_not_wait_for_ever(loop: Loop) -> None:
    sleeper, idle = stopping(loop), loop.connect()
    loop.settle()
    begun = time.monotonic()
    loop.server.close(0.5)
    assert time.monotonic() - begun >= 0.4
    assert all(map(is_closed, (sleeper, idle)))
    assert not os.path.exists(loop.path)


def test_closing_leaves_the_socket_of_a_successor(loop: Loop) -> None:
    successor = ControlServer(loop.path)
    loop.server.close()
    assert os.path.exists(loop.path)
    successor.close()


# Clients


SERVE = """
import selectors, sys, time
from graced.control.server import ControlServer
server = ControlServer(sys.argv[1])
selector = selectors.DefaultSelector()
server.register(selector)
print(flush=True)
while True:
    for key, events in selector.select():
        key.data(events)
    while request := server.take():
        if request.command == "echo":
            server.reply(request, {"ok": True, **request.arguments})
        elif request.command == "die":
            sys.exit()
        elif request.command == "garbage":
            request.client.answer(b"[1]\\n" if request.arguments else b"what?\\n")
        elif request.command == "stop":
            server.reply(request, {"ok": True})
            server.close(1)
            sys.exit()
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[str, int]]:
    path = str(tmp_path / "control.sock")
    command = [sys.executable, "-c", SERVE, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield path, process.pid
        process.kill()


def test_a_call(daemon: tuple[str, int]) -> None:
    path, pid = daemon
    assert client.call(path, "echo", {"x": [1, "→"]}) == {"ok": True, "x": [1, "→"]}
    with Connection(path, timeout=30) as connection:
        assert connection.pid == pid
        assert connection.call("echo", {"y": "z" * 50000})["y"] == "z" * 50000
        assert connection.call("echo") == {"ok": True}


def test_no_daemon(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    with pytest.raises(NoDaemonError, match="no daemon answers at") as caught:
        client.call(path, "status")
    assert caught.value.exit_code == 3
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with pytest.raises(NoDaemonError):
        client.call(path, "status")
    with pytest.raises(NoDaemonError):
        client.call(path + "/below", "status")


def test_a_daemon_that_dies_in_the_middle(daemon: tuple[str, int]) -> None:
    path, pid = daemon
    with pytest.raises(ConnectionLostError, match=rf"\(pid {pid}\) went away before it answered"):
        client.call(path, "die")


def test_a_daemon_that_does_not_answer(daemon: tuple[str, int]) -> None:
    with pytest.raises(ControlError, match=r"has not answered for 0.1 s"):
        client.call(daemon[0], "nothing", timeout=0.1)


@pytest.mark.parametrize("arguments", [{}, {"object": False}])
def test_a_daemon_that_talks_nonsense(daemon: tuple[str, int], arguments: dict[str, Any]) -> None:
    with pytest.raises(ControlError, match="answer is not"):
        client.call(daemon[0], "garbage", arguments)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_socket_of_somebody_else(loop: Loop, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder) == "/tmp":
            break
        folder.chmod(0o755)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(54321)
        os.setuid(54321)
        try:
            client.call(loop.path, "status")
        except ControlError as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert b"permission denied; be root" in os.read(read, 1000)
    os.close(read)
    os.close(write)


def test_waiting_until_it_is_gone(daemon: tuple[str, int]) -> None:
    path, pid = daemon
    watch = os.pidfd_open(pid)
    with Connection(path) as connection:
        assert connection.call("stop") == {"ok": True}
        connection.wait_gone()
    assert select.select([watch], [], [], 0)[0]
    os.close(watch)
    assert not os.path.exists(path)
