from __future__ import annotations

import errno
import os
import select
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.host.notify import MAX_VALUE_BYTES, READY_FD, Notifier, _encoded


class Systemd:
    """A strict reader: UTF-8, credentials of the sender, one datagram at a time."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)

    def take(self) -> dict[str, str] | None:
        try:
            data, more, flags, _ = self.socket.recvmsg(4096, 256)
        except BlockingIOError:
            return None
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        ((_, kind, credentials),) = more
        assert kind == socket.SCM_CREDENTIALS
        assert struct.unpack("iii", credentials)[0] == os.getpid()
        return dict(line.split("=", 1) for line in data.decode("utf-8").split("\n"))

    def all(self) -> list[dict[str, str]]:
        return list(iter(self.take, None))

    def close(self) -> None:
        self.socket.close()
        if not self.address.startswith("@"):
            os.unlink(self.address)


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    name = f"@graced-test-{uuid.uuid4().hex}" if request.param == "abstract" else f"{tmp_path}/n"
    systemd = Systemd(name)
    yield systemd
    systemd.socket.close()


@pytest.fixture
def troubles() -> list[str]:
    return []


@pytest.fixture
def notifier(systemd: Systemd, troubles: list[str]) -> Iterator[Notifier]:
    notifier = Notifier({"NOTIFY_SOCKET": systemd.address}, troubles.append)
    yield notifier
    notifier.close()


def enclosed(systemd: Systemd) -> tuple[bytes, list[int]]:
    """Return the next message and the descriptors that came with it."""
    data, extra, _, _ = systemd.socket.recvmsg(4096, socket.CMSG_SPACE(64))
    rights = [value for _, kind, value in extra if kind == socket.SCM_RIGHTS]
    return data, [fd for value in rights for fd in struct.unpack("i", value)]


def test_a_descriptor_is_enclosed(systemd: Systemd, notifier: Notifier) -> None:
    read, write = os.pipe()
    assert notifier.store("web", read)
    os.close(read)
    data, [fd] = enclosed(systemd)
    assert data == b"FDSTORE=1\nFDNAME=web\nFDPOLL=0"
    os.write(write, b"same")
    assert os.read(fd, 10) == b"same"
    os.close(fd)
    notifier.unstore("web")
    assert systemd.take() == {"FDSTOREREMOVE": "1", "FDNAME": "web"}
    with pytest.raises(BrokenPipeError):
        os.write(write, b"nobody has it any more")
    os.close(write)


def test_a_descriptor_waits_for_its_turn(systemd: Systemd, notifier: Notifier) -> None:
    count = filled(notifier)
    read, write = os.pipe()
    notifier.store("web", read)
    os.close(read)
    for _ in range(count):
        systemd.socket.recv(4096)
    notifier.flush()
    while not (fds := enclosed(systemd)[1]):
        pass
    [fd] = fds
    os.write(write, b"same")
    assert os.read(fd, 10) == b"same"
    os.close(fd)
    os.close(write)


def test_without_systemd_nothing_is_stored() -> None:
    assert not Notifier({}).store("web", 0)


def filled(notifier: Notifier) -> int:
    """Send until the socket takes no more; return how many statuses were taken."""
    for n in range(10_000):
        notifier.status(f"filler {n}")
        if notifier.wants_write:
            return n
    raise AssertionError("the socket is never full")


def test_everything_arrives_as_sent(systemd: Systemd, notifier: Notifier) -> None:
    before = time.monotonic_ns() // 1000
    notifier.ready("4/4 workers ready → on")
    notifier.reloading()
    notifier.extend(1.5)
    notifier.status("two\nlines\r\nand \x1b[31m\udcff")
    notifier.watchdog()
    notifier.stopping("draining")
    notifier.failed(78, errno.EACCES)
    told = systemd.all()
    usec = int(told[1].pop("MONOTONIC_USEC"))
    assert before <= usec <= time.monotonic_ns() // 1000
    assert told == [
        {"READY": "1", "STATUS": "4/4 workers ready → on"},
        {"RELOADING": "1"},
        {"EXTEND_TIMEOUT_USEC": "1500000"},
        {"STATUS": "two lines and \\x1b[31m\\udcff"},
        {"WATCHDOG": "1"},
        {"STOPPING": "1", "STATUS": "draining"},
        {"EXIT_STATUS": "78", "ERRNO": str(errno.EACCES)},
    ]
    assert not notifier.wants_write


def test_nobody_reading_neither_blocks_nor_loses(systemd: Systemd, notifier: Notifier) -> None:
    taken = filled(notifier)
    notifier.reloading("reloading")  # if one of these blocked, it would for ever
    for n in range(100):
        notifier.status(f"status {n}")
        notifier.extend(n)
        notifier.watchdog()
    notifier.ready("ready")
    notifier.stopping()
    notifier.status("last")
    assert notifier.wants_write
    told = systemd.all()
    while notifier.wants_write:
        assert select.select([], [notifier], [], 60)[1]
        notifier.flush()
        told += systemd.all()
    told = told[taken:]
    important = [m for m in told if set(m) - {"STATUS", "WATCHDOG", "EXTEND_TIMEOUT_USEC"}]
    assert [next(iter(m)) for m in important] == ["RELOADING", "READY", "STOPPING"]
    assert important[1]["STATUS"] == "ready"
    assert told[-2] == {"STATUS": "last"}
    assert told[-1] == {"WATCHDOG": "1"}
    extensions = [m["EXTEND_TIMEOUT_USEC"] for m in told if "EXTEND_TIMEOUT_USEC" in m]
    assert extensions[-1] == "99000000"


def test_of_waiting_statuses_only_the_latest_is_sent(systemd: Systemd, notifier: Notifier) -> None:
    taken = filled(notifier)
    for n in range(10):
        notifier.status(f"newer {n}")
    told = systemd.all()
    notifier.flush()
    assert (told + systemd.all())[taken:] == [{"STATUS": "newer 9"}]


def test_waiting_extensions_are_one(systemd: Systemd, notifier: Notifier) -> None:
    taken = filled(notifier)
    for n in range(5):
        notifier.extend(n)
    told = systemd.all()
    notifier.flush()
    told = (told + systemd.all())[taken:]
    assert [m for m in told if "STATUS" not in m] == [{"EXTEND_TIMEOUT_USEC": "4000000"}]


def test_a_status_never_comes_after_a_newer_one(systemd: Systemd, notifier: Notifier) -> None:
    filled(notifier)
    notifier.ready("newer")
    notifier.reloading()
    told = systemd.all()
    while notifier.wants_write:
        notifier.flush()
        told += systemd.all()
    assert [m["STATUS"] for m in told if "STATUS" in m][-1] == "newer"


def test_the_last_flush_is_bounded(systemd: Systemd, notifier: Notifier) -> None:
    filled(notifier)
    notifier.stopping()
    begun = time.monotonic()
    notifier.final(0.2)
    assert time.monotonic() - begun > 0.15
    assert notifier.wants_write
    systemd.all()
    notifier.final(3600)  # and is over as soon as all is sent
    assert not notifier.wants_write
    assert {"STOPPING": "1"} in systemd.all()


def test_a_vanished_manager_is_told_once_and_not_fatal(
    systemd: Systemd, notifier: Notifier, troubles: list[str]
) -> None:
    filled(notifier)
    systemd.close()
    notifier.stopping()
    notifier.ready()
    notifier.status("x")
    assert not notifier.wants_write
    assert len(troubles) == 1
    assert "no longer takes" in troubles[0]
    notifier.final(10)


def test_a_manager_that_came_back_is_found(
    systemd: Systemd, notifier: Notifier, troubles: list[str]
) -> None:
    systemd.close()
    notifier.status("lost")
    fd = notifier.fileno()
    again = Systemd(systemd.address)
    notifier.ready("here")
    assert again.take() == {"READY": "1", "STATUS": "here"}
    assert notifier.fileno() == fd
    assert len(troubles) == 1
    again.close()
    again = Systemd(systemd.address)
    notifier.status("at once")
    assert again.take() == {"STATUS": "at once"}
    assert len(troubles) == 1
    again.close()
    notifier.status("gone for good")
    assert len(troubles) == 2, "what was well in between is told again"


def test_nobody_there_at_the_start_is_not_fatal(tmp_path: Path, troubles: list[str]) -> None:
    environ = {"NOTIFY_SOCKET": f"{tmp_path}/none"}
    notifier = Notifier(environ, troubles.append)
    assert environ == {}
    assert len(troubles) == 1
    notifier.ready()
    notifier.status("x")
    notifier.watchdog()
    notifier.final(1)
    assert not notifier.wants_write
    assert notifier.fileno() == -1


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "/" + "x" * 200, "relative"])
def test_addresses_that_cannot_be(address: str, troubles: list[str]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address}, troubles.append)
    notifier.ready()
    assert notifier.fileno() == -1
    assert len(troubles) == (1 if address else 0)


@pytest.mark.parametrize(
    "address", ["vsock:2:1234", "vsock-stream:2:1234", "vsock-seqpacket:2:1", "relative"]
)
def test_what_is_no_unix_socket_is_not_taken_for_a_path(
    address: str, troubles: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as somebody:
        somebody.bind(address)
        notifier = Notifier({"NOTIFY_SOCKET": address}, troubles.append)
        assert notifier.fileno() == -1
    [said] = troubles
    what = "is of a virtual machine" if "vsock" in address else "is no path"
    assert said.startswith(f"NOTIFY_SOCKET={address} {what}: graced speaks to Unix sockets alone")


def test_the_environment_is_cleaned(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch, troubles: list[str]
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.address)
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier(os.environ, troubles.append)
    notifier.ready()
    assert systemd.take() == {"READY": "1"}
    assert notifier.watchdog_interval == 3.0
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)
    notifier.close()


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "x"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
    ],
)
def test_the_watchdog_is_for_us_or_not(environ: dict[str, str], interval: float | None) -> None:
    assert Notifier(environ).watchdog_interval == interval
    assert environ == {}


def test_children_do_not_inherit_the_socket(notifier: Notifier) -> None:
    assert not os.get_inheritable(notifier.fileno())


@given(st.dictionaries(st.sampled_from(["STATUS", "X"]), st.text(st.characters()), min_size=1))
def test_any_text_is_one_short_line_of_utf8(message: dict[str, str]) -> None:
    data = _encoded(message).decode("utf-8")
    assert [line.split("=")[0] for line in data.split("\n")] == list(message)


def test_a_long_status_is_cut_at_a_character() -> None:
    data = _encoded({"STATUS": "→" * 5000})
    assert MAX_VALUE_BYTES < len(data) < MAX_VALUE_BYTES + 10
    assert data.decode("utf-8").endswith("→")


def test_who_waits_for_the_daemon_is_told_once() -> None:
    read, write = os.pipe()
    environ = {READY_FD: str(write)}
    notifier = Notifier(environ)
    assert environ == {}
    notifier.ready()
    notifier.ready()
    assert os.read(read, 100) == b"READY"
    assert os.read(read, 100) == b""
    os.close(read)


def test_who_waited_may_be_gone() -> None:
    read, write = os.pipe()
    notifier = Notifier({READY_FD: str(write)})
    os.close(read)
    notifier.ready()


def test_sdnotify_is_only_paid_for_under_systemd() -> None:
    code = (
        "import sys; from graced.host.notify import Notifier; Notifier({}).ready();"
        "print('sdnotify' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert done.stdout == b"False\n"
