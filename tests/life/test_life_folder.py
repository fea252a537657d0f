"""config.yaml and its example as they are: files go in, and come out whole, once, whatever dies."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from daemon_harness import ROOT, Daemon, wait_gone


@pytest.fixture
def folder(daemon: Daemon) -> Daemon:
    """The daemon of config.yaml, with its var/ among the test's own files."""
    daemon.config = ROOT / "config.yaml"
    daemon.environ |= {
        "GRACED__RUNTIME_DIR": str(daemon.short / "run"),
        "GRACED__STATE_DIR": str(daemon.home / "state"),
    }
    return daemon.start().ready()


def place(daemon: Daemon, name: str) -> Path:
    return daemon.short / "var" / name


def names(daemon: Daemon, name: str) -> set[str]:
    return {entry.name for entry in os.scandir(place(daemon, name))}


def drop(daemon: Daemon, name: str, content: bytes) -> None:
    """Put a file into the inbox the right way: written elsewhere, renamed, and old enough."""
    draft = place(daemon, "inbox") / f".{name}"
    draft.write_bytes(content)
    os.utime(draft, (0, 0))
    draft.rename(place(daemon, "inbox") / name)


def in_work(daemon: Daemon) -> set[str]:
    return {name for name in names(daemon, "work") if not name.startswith(".")}


def all_done(daemon: Daemon) -> bool:
    return not names(daemon, "inbox") and not in_work(daemon)


def check_done(daemon: Daemon, contents: dict[str, bytes]) -> None:
    assert names(daemon, "inbox") == set()
    assert in_work(daemon) == set()
    assert names(daemon, "failed") == set()
    done = place(daemon, "done")
    expected = {name + end for name in contents for end in (".gz", ".sha256")}
    assert names(daemon, "done") == expected
    for name, content in contents.items():
        assert gzip.decompress((done / f"{name}.gz").read_bytes()) == content
        note = (done / f"{name}.sha256").read_text()
        assert note == f"{hashlib.sha256(content).hexdigest()}  {name}\n"


def some(count: int, size: int) -> dict[str, bytes]:
    return {f"file {n}": random.randbytes(size) for n in range(count)}


def test_files_dropped_in_come_out_whole(folder: Daemon) -> None:
    contents = some(20, 100_000) | {"empty": b"", "naïve ☃": b"snow", "a" * 240: b"long"}
    for name, content in contents.items():
        drop(folder, name, content)
    folder.until(lambda: not names(folder, "inbox") and not names(folder, "work"))
    folder.log.wait("bytes done", len(contents))
    check_done(folder, contents)
    assert len(folder.log.matching("bytes done")) == len(contents)  # each was done once


def test_a_file_that_is_still_being_written_is_left_alone(folder: Daemon) -> None:
    contents: dict[str, bytes] = {}
    held_up = True
    while held_up:
        name = f"growing {len(contents)}"
        contents[name], held_up = grow(folder, name)
    folder.until(lambda: all_done(folder))
    check_done(folder, contents)


def grow(daemon: Daemon, name: str) -> tuple[bytes, bool]:
    """Write to a file again and again, and see that it is left alone.

    Returns what was written, and whether we were held up: for so long that it looked finished.
    """
    last = time.monotonic()
    with (place(daemon, "inbox") / name).open("wb", buffering=0) as file:
        for times in range(1, 16):
            before, last = last, time.monotonic()
            file.write(b"more ")
            daemon.events.collect(0.1)
            taken = f"{name}.gz" in names(daemon, "done")
            if time.monotonic() - before > 0.9:  # the example's QUIET is 1.0
                return b"more " * times, True
            assert not taken
    return b"more " * 15, False


def test_what_cannot_be_done_is_set_aside_with_a_reason(folder: Daemon) -> None:
    huge = place(folder, "inbox") / ".huge"
    with huge.open("wb") as file:
        file.truncate(1_000_000_001)  # sparse
    os.utime(huge, (0, 0))
    huge.rename(place(folder, "inbox") / "huge")
    drop(folder, "next", b"fine")
    folder.until(lambda: "huge.reason" in names(folder, "failed"))
    folder.until(lambda: "next.gz" in names(folder, "done"))
    assert names(folder, "failed") == {"huge", "huge.reason"}
    folder.until((place(folder, "failed") / "huge.reason").read_text)
    assert "max_size" in (place(folder, "failed") / "huge.reason").read_text()
    assert names(folder, "inbox") == set()


def test_killed_workers_files_are_taken_up_again(folder: Daemon) -> None:
    contents: dict[str, bytes] = {}
    halved = turn = 0
    while turn < 6 or not halved:  # we may be too late, if the machine is busy
        turn += 1
        more = {f"{turn} {name}": content for name, content in some(5, 2_000_000).items()}
        contents |= more
        victims = folder.worker_pids("folder")
        for name, content in more.items():
            drop(folder, name, content)
        folder.until(lambda: in_work(folder) or all_done(folder))
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        wait_gone(victims)
        halved += len(in_work(folder))
        folder.until(lambda: folder.status()["pools"]["folder"]["ready"] == 2)
    folder.until(lambda: all_done(folder))
    check_done(folder, contents)


def test_a_drain_leaves_no_half_file(folder: Daemon) -> None:
    contents = some(10, 20_000_000)
    for name, content in contents.items():
        drop(folder, name, content)
    folder.until(lambda: [n for n in names(folder, "work") if n.endswith(".gz")])
    folder.send(signal.SIGTERM)
    folder.ended(0)
    assert names(folder, "work") == set()
    done = {n.removesuffix(".gz") for n in names(folder, "done") if n.endswith(".gz")}
    assert done
    assert names(folder, "inbox") == set(contents) - done
    for name in done:
        packed = (place(folder, "done") / f"{name}.gz").read_bytes()
        assert gzip.decompress(packed) == contents[name]
