"""The journal's own protocol, spoken to a socket that stands for journald."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from graced.log import formats, journal
from graced.log.logger import Log

Fields = list[tuple[str, str]]


class Journald:
    """Its two sockets: the stream behind standard error, and the one for entries."""

    def __init__(self, folder: Path) -> None:
        self.stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.stream.bind(str(folder / "stdout"))
        self.stream.listen()
        self.native = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.native.bind(str(folder / "socket"))
        self.native.setblocking(False)
        self.client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.client.connect(str(folder / "stdout"))
        status = os.fstat(self.client.fileno())
        self.environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}

    def close(self) -> None:
        for sock in (self.stream, self.native, self.client):
            sock.close()

    def log(self, **fields: object) -> Log:
        output = journal.journal_output("info", self.client.fileno())
        assert output is not None
        return Log(fields=fields, output=output)

    def take(self) -> Fields:
        data, extra, _, _ = self.native.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        for _, _, value in extra:
            [fd] = struct.unpack("i", value)
            assert not data
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
            data = os.pread(fd, 1 << 22, 0)
            os.close(fd)
        return list(parsed(data))


def parsed(data: bytes) -> Iterator[tuple[str, str]]:
    """Read an entry as journald does."""
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            [size] = struct.unpack("<Q", data[:8])
            value, data = data[8 : 8 + size], data[9 + size :]
        yield name.decode(), value.decode()


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    with contextlib.closing(Journald(tmp_path)) as journald:
        yield journald


def test_a_record_is_one_entry_with_fields(journald: Journald) -> None:
    journald.log(pool="jobs", slot=2, generation=3).warning("hello %s", "you", job=7)
    assert journald.take() == [
        ("MESSAGE", f"jobs/2[{os.getpid()}]: hello you job=7"),
        ("PRIORITY", "4"),
        ("SYSLOG_IDENTIFIER", "graced"),
        ("GRACED_POOL", "jobs"),
        ("GRACED_SLOT", "2"),
        ("GRACED_GENERATION", "3"),
        ("GRACED_JOB", "7"),
    ]


def test_lines_stay_together(journald: Journald) -> None:
    journald.log().error("one\ntwo\n  three = 3\n")
    assert journald.take()[0] == ("MESSAGE", "one\ntwo\n  three = 3")


def test_a_traceback_is_one_entry(journald: Journald) -> None:
    try:
        raise ValueError("x=y")
    except ValueError as error:
        journald.log().exception("it raised", error)
    fields = dict(journald.take())
    assert fields["MESSAGE"].startswith("it raised\nTraceback (most recent call last):\n  File ")
    assert fields["MESSAGE"].endswith("\nValueError: x=y")
    assert fields["PRIORITY"] == "3"


def test_nothing_can_be_smuggled_in(journald: Journald) -> None:
    journald.log().info("a\nPRIORITY=0", **{"odd näme\n=": "v\nMESSAGE=fake", "pool": "\udc80"})
    assert [name for name, _ in journald.take()] == [
        "MESSAGE",
        "PRIORITY",
        "SYSLOG_IDENTIFIER",
        "GRACED_ODD_N_ME__",
        "GRACED_POOL",
    ]


def test_what_is_too_large_for_a_datagram(journald: Journald) -> None:
    journald.log().info(
        "\N{EURO SIGN}" * formats.MAX_MESSAGE_CHARS,
        more="\N{EURO SIGN}" * formats.MAX_MESSAGE_CHARS,
    )
    fields = dict(journald.take())
    assert len(fields["GRACED_MORE"]) == formats.MAX_MESSAGE_CHARS


def test_it_never_blocks_and_counts_what_is_lost(journald: Journald) -> None:
    out = journald.log()
    for _ in range(5000):
        out.info("hello")
    lost = out.lost
    assert lost > 0
    for _ in range(5000 - lost):
        journald.take()
    out.info("again")
    assert (
        dict(journald.take())["MESSAGE"]
        == f"dropped {lost} log lines: the destination was not writable"
    )
    assert dict(journald.take())["MESSAGE"] == "again"
    assert out.lost == 0


def test_a_journal_that_is_gone_is_no_trouble(journald: Journald) -> None:
    out = journald.log()
    journald.native.close()
    out.info("hello")
    assert out.lost == 1


OPEN = """
import os
from graced.settings import Log
from graced.log.setup import open_log
log = open_log(Log(), os.environ)
log.info("one\\ntwo")
"""


def opened(journald: Journald) -> None:
    environ = {**os.environ, **journald.environ}
    line = [sys.executable, "-c", OPEN]
    subprocess.run(line, stderr=journald.client, env=environ, timeout=60, check=True)


def test_the_socket_beside_the_stream_is_used(journald: Journald) -> None:
    opened(journald)
    assert journald.take()[0] == ("MESSAGE", "one\ntwo")


def test_without_it_lines_go_to_the_stream(journald: Journald, tmp_path: Path) -> None:
    (tmp_path / "socket").unlink()
    stream, _ = journald.stream.accept()
    with stream:
        opened(journald)
        assert stream.recv(1000) == b"<6>one\n<6>    two\n"


def test_a_stream_of_somebody_else_is_just_a_stream() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert journal.journal_output("info", ours.fileno()) is None
    read, write = os.pipe()
    assert journal.journal_output("info", write) is None
    os.close(read)
    os.close(write)


def test_last_words_are_waited_for(journald: Journald, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until they are read, and not longer."""
    monkeypatch.setattr(journal, "SETTLE_TIMEOUT_S", 3600.0)
    out = journald.log()
    out.settle()
    out.info("hello")
    settled = threading.Event()
    waiting = threading.Thread(target=lambda: (out.settle(), settled.set()), daemon=True)
    waiting.start()
    assert not settled.wait(0.05), "nobody has read them"
    journald.take()
    assert settled.wait(60)
    waiting.join()


def test_a_journal_that_reads_nothing_is_not_waited_for_long(journald: Journald) -> None:
    out = journald.log()
    out.info("nobody reads this")
    begun = time.monotonic()
    out.settle()
    assert time.monotonic() - begun > journal.SETTLE_TIMEOUT_S
