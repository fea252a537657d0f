"""config.yaml and its example as they are: files go in, and come out whole, once, whatever dies."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import signal
from pathlib import Path

import pytest
from harness import ROOT, Daemon, wait_gone


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


def check_done(daemon: Daemon, contents: dict[str, bytes]) -> None:
    assert names(daemon, "inbox") == set()
    assert {n for n in names(daemon, "work") if not n.startswith(".")} == set()
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
    growing = place(folder, "inbox") / "growing"
    with growing.open("wb", buffering=0) as file:
        for _ in range(15):
            file.write(b"more ")
            folder.events.collect(0.1)
            assert not names(folder, "done")
    folder.until(lambda: names(folder, "done") >= {"growing.gz"})
    check_done(folder, {"growing": b"more " * 15})


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
    assert "max_size" in (place(folder, "failed") / "huge.reason").read_text()
    assert names(folder, "inbox") == set()


def test_killed_workers_files_are_taken_up_again(folder: Daemon) -> None:
    contents = some(30, 2_000_000)
    for name, content in contents.items():
        drop(folder, name, content)
    for _ in range(6):
        folder.until(lambda: [n for n in names(folder, "work") if n.endswith(".gz")])
        victims = folder.worker_pids("folder")
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        wait_gone(victims)
        folder.until(lambda: folder.status()["pools"]["folder"]["ready"] == 2)
    folder.until(lambda: len(names(folder, "done")) == 2 * len(contents))
    folder.until(
        lambda: not names(folder, "work") - {n for n in names(folder, "work") if n[0] == "."}
    )
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
