from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import resource
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from graced.log import formats, sinks
from graced.log.console import say
from graced.log.logger import Log
from graced.log.setup import open_log
from graced.settings import Log as Wanted

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        with contextlib.suppress(OSError):  # the test may have closed it
            os.close(fd)


def taken(read: int) -> str:
    """Return what is in the pipe now."""
    os.set_blocking(read, False)
    found = b""
    try:
        while data := os.read(read, 1 << 20):
            found += data
    except BlockingIOError:
        pass
    return found.decode("utf-8")


def fill(write: int) -> int:
    """Fill the pipe behind the back of its blocking descriptor; return how many bytes."""
    again = os.open(f"/proc/self/fd/{write}", os.O_WRONLY | os.O_NONBLOCK)
    filled = 0
    try:
        while True:
            filled += os.write(again, b"x" * 4096)
    except BlockingIOError:
        return filled
    finally:
        os.close(again)


# Formats


def test_text_has_time_level_message_and_fields(pipe: Pipe) -> None:
    Log("info", "text", pipe[1]).info("hello", a=1, b="two words", c='say "x"')
    line = taken(pipe[0])
    assert re.fullmatch(STAMP + r' info    hello a=1 b="two words" c="say \\"x\\""\n', line)


def test_a_worker_is_named_before_what_it_says(pipe: Pipe) -> None:
    log = Log("info", "text", pipe[1]).bind(pool="jobs", slot=2, generation=3, pid=1)
    log.error("boom")
    assert taken(pipe[0]).endswith(f" error   jobs/2[{os.getpid()}]: boom\n")


def test_further_lines_are_indented_and_cannot_pose_as_records(pipe: Pipe) -> None:
    Log("info", "text", pipe[1]).info("one\n2026-01-01T00:00:00.000Z error forged\n")
    lines = taken(pipe[0]).splitlines()
    assert lines[1] == "    2026-01-01T00:00:00.000Z error forged"
    assert len(lines) == 2


def test_journal_has_a_priority_on_every_line_and_no_time(pipe: Pipe) -> None:
    log = Log("debug", "journal", pipe[1])
    for level in ("debug", "info", "warning", "error"):
        log.write(level, "a\nb", {})
    found = taken(pipe[0])
    assert found == "".join(f"<{n}>a\n<{n}>    b\n" for n in (7, 6, 4, 3))


def test_json_has_everything(pipe: Pipe) -> None:
    log = Log("info", "json", pipe[1], {"name": "graced"}).bind(pool="jobs", slot=0, generation=2)
    log.warning("a\n→\x1b[2J", x=[1, None], message="no", level="no", time="no")
    (line,) = taken(pipe[0]).splitlines()
    told = json.loads(line)
    assert re.fullmatch(STAMP, told.pop("time"))
    assert told == {
        "level": "warning",
        "message": "a\n→\x1b[2J",
        "pid": os.getpid(),
        "name": "graced",
        "pool": "jobs",
        "slot": 0,
        "generation": 2,
        "x": [1, None],
    }


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no")


def loop() -> list[object]:
    found: list[object] = []
    found.append(found)
    return found


@pytest.mark.parametrize("format", ["text", "json", "journal"])
@pytest.mark.parametrize(
    "value",
    [Hostile(), loop(), float("nan"), b"\xff", "\udcff", {Hostile: 1}, {1, 2}, "x" * 10**6],
    ids=["str raises", "loop", "nan", "bytes", "surrogate", "keys", "set", "long"],
)
def test_any_value_is_one_line(pipe: Pipe, format: str, value: object) -> None:
    Log("info", format, pipe[1]).info("said", value=value, n=7)
    line = taken(pipe[0]) if len(str(type(value))) else ""
    assert "said" in line
    if format == "json" and line.endswith("\n"):
        assert json.loads(line)["n"] == 7


any_text = st.text(st.characters(exclude_categories=()), max_size=200)


@settings(max_examples=300)
@given(message=any_text, value=any_text, format=st.sampled_from(["text", "json", "journal"]))
@example(message="gnp.\u202eexe\u2066", value="\x9b2J\u200f", format="text")
@example(message="gnp.\u202eexe\u2066", value="\x9b2J\u200f", format="json")
def test_nothing_that_is_said_can_harm(message: str, value: str, format: str) -> None:
    read, write = os.pipe()
    log = Log("info", format, write)
    try:
        log.info(message, value=value)
        found = taken(read)  # decodes: it is UTF-8
    finally:
        log._output.sink.close()
        os.close(read)
        os.close(write)
    assert found.endswith("\n")
    lines = found[:-1].split("\n")
    assert all(c == "\t" or not (c < " " or "\x7f" <= c <= "\x9f") for line in lines for c in line)
    assert not set(found) & set("\u2028\u2029\u202a\u202e\u2066\u2069\u200f\u061c")
    if format == "json":
        (line,) = lines
        told = json.loads(line)
        told["message"].encode("utf-8")
        if not any("\ud800" <= c <= "\udfff" for c in message):
            assert told["message"] == message
    if format == "journal":
        assert all(line.startswith("<6>") for line in lines)
    if format == "text":
        assert re.match(STAMP, lines[0])
        assert all(line.startswith("    ") for line in lines[1:])


def test_arguments_are_filled_in_and_wrong_ones_are_told(pipe: Pipe) -> None:
    log = Log("info", "journal", pipe[1])
    log.info("%s of %d", "one", 2)
    log.info("%d", "one")
    log.info("100 %")
    first, second, third = taken(pipe[0]).splitlines()
    assert first == "<6>one of 2"
    assert second.startswith("<6>%d (with ('one',): ")
    assert third == "<6>100 %"


def test_levels_are_obeyed(pipe: Pipe) -> None:
    log = Log("warning", "text", pipe[1])
    log.debug("a")
    log.info("b")
    log.warning("c")
    assert taken(pipe[0]).count("\n") == 1
    assert log.level == "warning"


def test_an_exception_is_one_record(pipe: Pipe) -> None:
    log = Log("info", "json", pipe[1])
    try:
        raise ValueError("inside")
    except ValueError:
        log.exception("round %d failed", 7, rounds=3)
    (line,) = taken(pipe[0]).splitlines()
    told = json.loads(line)
    assert told["message"].startswith("round 7 failed\nTraceback")
    assert told["message"].endswith("ValueError: inside\n")
    assert told["rounds"] == 3


def test_a_workers_own_logger_is_not_named_twice(pipe: Pipe) -> None:
    log = Log("info", "journal", pipe[1]).bind(pool="jobs", slot=1)
    log.info("a", logger="jobs")
    log.info("b", logger="jobs.http")
    who = f"<6>jobs/1[{os.getpid()}]: "
    assert taken(pipe[0]).splitlines() == [who + "a", who + "b logger=jobs.http"]


def test_a_traceback_without_a_library(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "traceback", None)
    Log("info", "journal", pipe[1]).failure("it broke", KeyError("x"), {})
    assert taken(pipe[0]) == "<3>it broke\n<3>    KeyError: 'x'\n"


def test_an_exception_may_be_handed_over(pipe: Pipe) -> None:
    ours = Log("info", "journal", pipe[1])
    ours.exception("it broke", KeyError("x"))
    ours.exception("it broke: %s", KeyError("y"))
    told = taken(pipe[0]).splitlines()
    assert told == ["<3>it broke", "<3>    KeyError: 'x'", "<3>it broke: 'y'"]


# Never blocks, never raises


@pytest.mark.parametrize("reopened", [True, False])
def test_a_full_pipe_loses_lines_and_says_so(pipe: Pipe, reopened: bool) -> None:
    read, write = pipe
    log = Log("info", "text", write)
    if not reopened:
        log._output.sink = sinks.BlockingSink(os.dup(write))
    assert os.get_blocking(write), "the descriptor that others share stays as it was"
    filled = fill(write)
    for _ in range(5):
        log.info("nobody reads this")
    assert log.lost == 5
    assert taken(read) == "x" * filled
    log.info("now")
    first, second = taken(read).splitlines()
    assert "dropped 5 log lines" in first
    assert second.endswith("now")
    assert log.lost == 0


def test_a_record_taken_in_part_is_finished_before_the_next(pipe: Pipe) -> None:
    read, write = pipe
    log = Log("info", "journal", write)
    long = "".join(f"{n:07d}\n" for n in range(8000))
    log.info(long)
    log.info("lost one")
    assert not log.flush() or len(long) < formats.MAX_MESSAGE_CHARS
    found = taken(read)
    while not log.flush():
        found += taken(read)
    log.info("after")
    found += taken(read)
    lines = found.splitlines()
    assert lines[0] == "<6>0000000"
    assert lines[-2] == "<4>dropped 1 log line: the destination was not writable"
    assert lines[-1] == "<6>after"
    assert all(re.fullmatch(r"<6>    \d{7}", line) for line in lines[1:-2])


def test_a_full_socket_loses_lines_and_says_so() -> None:
    ours, theirs = socket.socketpair()
    log = Log("info", "journal", theirs.fileno())
    while not log.lost:
        log.info("y" * 5000)
    assert theirs.getblocking()
    assert os.get_blocking(theirs.fileno())
    data = b""
    ours.setblocking(False)
    for _ in range(3):
        try:
            while chunk := ours.recv(1 << 20):
                data += chunk
        except BlockingIOError:
            log.info("end")
    lines = data.decode().splitlines()
    assert all(line.startswith(("<6>", "<4>")) for line in lines)
    assert {line[3:] for line in lines} == {
        "y" * 5000,
        "dropped 1 log line: the destination was not writable",
        "end",
    }


def test_several_writers_never_mix_their_lines(pipe: Pipe) -> None:
    read, write = pipe
    children = []
    for n in range(4):
        child = os.fork()
        if child == 0:
            log = Log("info", "journal", write)
            for i in range(500):
                log.info(f"{n}:{i}:" + "z" * 3000)
            os._exit(0)
        children.append(child)
    os.close(write)
    with os.fdopen(read, "rb", closefd=False) as stream:
        lines = stream.read().decode().splitlines()
    for child in children:
        os.waitpid(child, 0)
    for line in lines:
        assert re.fullmatch(r"<6>\d:\d+:z{3000}|<4>dropped \d+ log lines?: .* not writable", line)
    assert len(lines) > 10


def test_a_reader_that_left_is_no_error(pipe: Pipe) -> None:
    log = Log("info", "text", pipe[1])
    os.close(pipe[0])
    log.info("x")
    log.info("y")
    assert log.lost == 2


def test_a_closed_standard_error_is_no_error() -> None:
    fd = os.open("/dev/null", os.O_WRONLY)
    os.close(fd)
    log = Log("info", "text", fd)
    log.info("x")
    assert log.lost == 1
    assert log.keep() == frozenset()


def test_a_full_disk_is_no_error() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        log = Log("info", "text", full.fileno())
        log.info("x")
        assert log.lost == 1


def test_a_file_size_limit_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "log"
    child = os.fork()
    if child == 0:
        log = open_log(Wanted(file=str(path)), {})
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))
        log.info("a line of which a part is taken, and the rest is waiting for better times")
        log.info("another")
        os._exit(0 if log.lost == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_stopped_terminal_does_not_block() -> None:
    ours, theirs = pty.openpty()
    log = Log("info", "text", theirs)
    os.write(ours, b"\x13")  # Ctrl-S
    deadline = time.monotonic() + 60
    while not log.lost and time.monotonic() < deadline:
        log.info("w" * 1000)
    assert log.lost
    os.close(ours)
    os.close(theirs)


def test_a_child_does_not_finish_its_parents_record(pipe: Pipe) -> None:
    read, write = pipe
    log = Log("info", "journal", write)
    log.info("long\n" * 13000)
    log.info("lost")
    assert log.lost == 1
    found = taken(read)
    child = os.fork()
    if child == 0:
        log.info("from the child")
        os._exit(0)
    os.waitpid(child, 0)
    assert taken(read) == "<6>from the child\n"
    while not log.flush():
        found += taken(read)
    assert (found + taken(read)).count("long\n") == 13000


def let_block(fd: int) -> None:
    """As user code may do, and any program that it starts and that sets up its standard error."""
    os.set_blocking(fd, True)


@pytest.mark.parametrize("another_users", [False, True])
def test_a_child_that_lets_its_log_block_blocks_nobody_else(
    pipe: Pipe, another_users: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open file is shared over a fork, O_NONBLOCK too: the main process had hung for good."""
    log = Log("info", "text", pipe[1])
    done, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        if another_users:
            monkeypatch.setattr(sinks, "_opened_again", lambda _: None)
        for fd in log.keep():
            let_block(fd)
        os.write(told, b".")
        time.sleep(60)
        os._exit(0)
    try:
        os.read(done, 1)
        fill(pipe[1])
        log.info("lost")
        assert log.lost == 1
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(done)
        os.close(told)
        log._output.sink.close()


def test_a_child_that_lets_its_log_block_blocks_no_sister(pipe: Pipe) -> None:
    log = Log("info", "text", pipe[1])
    one, other = os.pipe(), os.pipe()
    sisters = []
    for number in range(2):
        pid = os.fork()
        if pid == 0:
            (fd,) = log.keep()
            if number == 0:
                let_block(fd)
                os.write(one[1], b".")
                time.sleep(60)
            os.read(other[0], 1)
            log.info("lost")
            os._exit(log.lost)
        sisters.append(pid)
    os.read(one[0], 1)
    fill(pipe[1])
    os.write(other[1], b".")
    assert os.waitstatus_to_exitcode(os.waitpid(sisters[1], 0)[1]) == 1
    os.kill(sisters[0], 9)
    os.waitpid(sisters[0], 0)
    for fd in (*one, *other):
        os.close(fd)
    log._output.sink.close()


def test_bound_logs_and_their_children_need_the_kept_descriptors(pipe: Pipe) -> None:
    log = Log("info", "text", pipe[1]).bind(pool="a")
    (fd,) = log.keep()
    assert fd > 2
    assert not os.get_inheritable(fd)


# Files


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old\n")
    open_log(Wanted(file=str(path)), {}).info("new")
    assert len(lines_of(path)) == 2
    assert lines_of(path)[0] == "old"


def test_a_new_file_is_not_for_everybody(tmp_path: Path) -> None:
    path = tmp_path / "log"
    open_log(Wanted(file=str(path)), {})
    assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0


def test_reopening_follows_a_rotation_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = open_log(Wanted(file=str(path)), {})
    kept = log.keep()
    log.info("one")
    path.rename(tmp_path / "log.1")
    assert log.reopen()
    log.info("two")
    assert [len(lines_of(tmp_path / name)) for name in ("log.1", "log")] == [1, 1]
    assert log.keep() == kept, "children and selectors know the number"
    assert not any(os.get_inheritable(fd) for fd in kept)


def test_a_rotation_is_found_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    monkeypatch.setattr(sinks, "ROTATION_CHECK_S", 0.0)
    log = open_log(Wanted(file=str(path)), {}).bind(pool="p", slot=1)
    log.info("one")
    path.rename(tmp_path / "log.1")
    log.info("two")
    assert [len(lines_of(tmp_path / name)) for name in ("log.1", "log")] == [1, 1]


def test_it_does_not_look_at_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    assert sinks.ROTATION_CHECK_S > 0
    monkeypatch.setattr(sinks, "ROTATION_CHECK_S", 3600.0)
    log = open_log(Wanted(file=str(path)), {})
    log.info("one")
    path.rename(tmp_path / "log.1")
    log.info("two")
    assert not path.exists()


def test_a_rotation_that_cannot_be_followed_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setattr(sinks, "ROTATION_CHECK_S", 0.0)
    log = open_log(Wanted(file=str(folder / "log")), {})
    folder.rename(tmp_path / "gone")
    assert not log.reopen()
    log.info("still here")
    assert log.lost == 0
    assert len(lines_of(tmp_path / "gone" / "log")) == 1


def test_standard_streams_that_go_to_the_file_follow_it(tmp_path: Path) -> None:
    code = """
import os
from graced.settings import Log
from graced.log.setup import open_log
log = open_log(Log(file="log"), {})
print("one", flush=True)
os.rename("log", "log.1")
log.reopen()
print("two", flush=True)
os.write(2, b"three")
"""
    with open(tmp_path / "log", "ab") as file:
        environ = {**os.environ, "PYTHONPATH": os.getcwd()}
        run(code, stdout=file, cwd=tmp_path, check=True, env=environ)
    assert (tmp_path / "log.1").read_text() == "one\n"
    assert (tmp_path / "log").read_text() == "two\n"


def test_become_takes_over_for_bound_logs_too(tmp_path: Path) -> None:
    log = open_log(Wanted(file=str(tmp_path / "a")), {})
    bound = log.bind(pool="p")
    (old,) = log.keep()
    log.become(open_log(Wanted(level="debug", file=str(tmp_path / "b")), {}))
    bound.debug("x")
    assert lines_of(tmp_path / "a") == []
    assert len(lines_of(tmp_path / "b")) == 1
    assert old not in log.keep()
    log.become(log)
    bound.debug("y")
    assert len(lines_of(tmp_path / "b")) == 2


def test_a_file_that_cannot_be_opened_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        open_log(Wanted(file=str(tmp_path / "no" / "log")), {})


# The journal


def run(code: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, timeout=60, **options)  # type: ignore[call-overload,no-any-return]  # noqa: PLW1510


OPEN = """
import os
from graced.settings import Log
from graced.log.setup import open_log
open_log(Log(format=%r, file=%r), os.environ).info("hello")
"""


@pytest.mark.parametrize(
    ("format", "match", "file", "expected"),
    [
        ("auto", True, None, "journal"),
        ("auto", False, None, "text"),
        ("text", True, None, "text"),
        ("json", True, None, "json"),
        ("journal", False, None, "journal"),
        ("auto", True, "log", "text"),
    ],
)
def test_journal_format_is_for_the_journals_own_stream(
    tmp_path: Path, format: str, match: bool, file: str | None, expected: str
) -> None:
    ours, theirs = socket.socketpair()
    status = os.fstat(theirs.fileno())
    stream = f"{status.st_dev}:{status.st_ino if match else status.st_ino + 1}"
    path = tmp_path / file if file else None
    with theirs:
        run(
            OPEN % (format, str(path) if path else None),
            stderr=theirs.fileno(),
            env={**os.environ, "JOURNAL_STREAM": stream},
            check=True,
        )
    with ours:
        line = path.read_text() if path else ours.recv(4096).decode()
    patterns = {
        "journal": r"<6>hello\n",
        "text": STAMP + r" info    hello\n",
        "json": r'\{"time": "' + STAMP + r'".*\}\n',
    }
    assert re.fullmatch(patterns[expected], line)


def test_without_standard_error_nothing_breaks(tmp_path: Path) -> None:
    code = OPEN % ("auto", None)
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code]
    subprocess.run(command, timeout=60, check=True)


# Standard logging

STDLIB = """
import os, sys
{before}
from graced.log.logger import Log
from graced.log.stdlib import attach
log = Log("info", "json", 2, {{"pool": "p", "slot": 0}})
attach(log.bind(generation=4))
import warnings
warnings.warn("first warning")
import logging
logger = logging.getLogger("theirs")
logger.debug("not this")
logger.info("hello %s", "you", extra={{"x": 1}})
logger.warning("%d", "no number")
try:
    1 / 0
except ZeroDivisionError:
    logging.exception("failed")
warnings.warn("second warning")
logging.critical("last")
"""


@pytest.mark.parametrize("before", ["", "import logging"])
def test_standard_logging_and_warnings_come_to_the_log(before: str) -> None:
    code = STDLIB.format(before=before)
    done = run(code, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
    told = [json.loads(line) for line in done.stderr.decode().splitlines()]
    assert all(t["generation"] == 4 and t["pool"] == "p" for t in told)
    seen = [(t["level"], t["logger"], t["message"].splitlines()[0].strip()) for t in told]
    assert [s[:2] for s in seen] == [
        ("warning", "py.warnings"),
        ("info", "theirs"),
        ("warning", "theirs"),
        ("error", "root"),
        ("warning", "py.warnings"),
        ("error", "root"),
    ]
    assert "first warning" in seen[0][2]
    assert "second warning" in seen[4][2]
    assert seen[1][2] == "hello you"
    assert "'%d' cannot be formatted" in seen[2][2]
    assert "ZeroDivisionError: division by zero" in told[3]["message"]


def test_json_is_written_where_the_library_is_out_of_reach() -> None:
    """As for a user who may not read Python's own files."""
    code = """
import sys
from graced.log.logger import Log
log = Log("info", "json", 2)
sys.path.clear()
sys.path_importer_cache.clear()
try:
    import fractions
except ImportError as error:
    log.exception("no import", error)
"""
    done = run(code, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()
    assert "ModuleNotFoundError: No module named 'fractions'" in json.loads(done.stderr)["message"]


def test_a_users_own_logging_is_left_alone() -> None:
    code = """
import logging
logging.basicConfig(format="mine: %(message)s")
from graced.log.logger import Log
from graced.log.stdlib import attach
attach(Log("info", "json", 2))
logging.warning("x")
"""
    done = run(code, stderr=subprocess.PIPE)
    assert done.stderr == b"mine: x\n"


def test_threads_may_log_at_once(pipe: Pipe) -> None:
    log = Log("info", "journal", pipe[1])

    def speak() -> None:
        for _ in range(100):
            log.info("t" * 50)

    threads = [threading.Thread(target=speak) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken(pipe[0]).splitlines() == ["<6>" + "t" * 50] * 800


def test_the_log_costs_little_to_import() -> None:
    code = "import sys, graced.log.logger; print(*sorted(sys.modules))"
    done = run(code, stdout=subprocess.PIPE, check=True)
    loaded = set(done.stdout.decode().split())
    heavy = {"logging", "json", "traceback", "socket", "typing", "warnings", "threading", "re"}
    assert not loaded & heavy


def test_say_never_raises(pipe: Pipe) -> None:
    say("config.yaml:1:1: bad \x1b[31m", pipe[1])
    assert taken(pipe[0]) == "config.yaml:1:1: bad \\x1b[31m\n"
    os.close(pipe[0])
    say("x", pipe[1])
    say("x", 999)
