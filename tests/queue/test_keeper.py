"""A real keeper's process among real troubles: kill -9, full disks, bad files, strangers."""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import random
import select
import shutil
import signal
import socket
import sqlite3
import stat
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from keeper_harness import (
    DEADLINE,
    KeeperHarness,
    confirm,
    in_a_process,
    readdress,
    reconnect,
    settle,
    take,
    work_off,
)

from graced.client.daemon import Where
from graced.client.find import ConfiguredPlace, Manner
from graced.log.logger import Log
from graced.queue import connections, departures, liveness, progress, server, wire
from graced.queue.client_end import ClientEnd
from graced.queue.job import MAX_PAYLOAD, Done, Job, Postponed
from graced.queue.keeper import Keeper
from graced.queue.policy import Policy
from graced.queue.protocol import QueueError, QueueGone
from graced.queue.sqlite import dispatcher, storage, store
from graced.queue.sqlite.dispatcher import Dispatcher
from graced.queue.sqlite.lock import Lock, QueueLockedError
from graced.queue.sqlite.place import Place, Sight
from graced.queue.sqlite.rows import Batch
from graced.queue.sqlite.store import Store
from graced.queue.tally import OUTCOMES, Tally
from graced.queue.terms import Terms
from graced.queue.wire import Kind
from graced.queue.worker_end import WorkerEnd
from graced.settings import Retry

FULL = r"no space left|nearly full|disk is full"
QUICK = Policy(retry=Retry(0.01, 2.0, 0.1))


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[KeeperHarness]:
    with KeeperHarness(tmp_path, QUICK) as harness:
        yield harness


def labour(harness: KeeperHarness, number: int, report: int) -> None:
    """Be a worker until a job says stop; report each job that was done."""
    worker = harness.worker(number)
    while True:
        job = take(worker)
        if job.payload == "stop":
            settle(worker, job)
            return
        os.write(report, struct.pack("<QI", job.id, job.attempt))
        worker.settle(job, Done(), more=True)


def test_killed_five_times_under_load_each_job_is_done_once(harness: KeeperHarness) -> None:
    harness.start()
    client = harness.client()
    count = sum(map(len, client.stream(str(n) for n in range(4000))))
    read, write = os.pipe()
    pids = [in_a_process(lambda n=n: labour(harness, n, write)) for n in range(1, 5)]  # type: ignore[misc]
    os.close(write)
    seen: list[tuple[int, int]] = []
    for kill in range(1, 6):
        while len(seen) < kill * 500:
            seen += struct.iter_unpack("<QI", os.read(read, 12 * 64))
        harness.restart()
    harness.client().submit(['"stop"'] * 4)
    while data := os.read(read, 12 * 1024):
        seen += struct.iter_unpack("<QI", data)
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sorted(id for id, _ in seen) == list(range(1, count + 1))
    assert {attempt for _, attempt in seen} == {1}
    counts = harness.counts()
    assert (counts["done"], counts["waiting"], counts["taken"]) == (count + 4, 0, 0)
    told = harness.tally.picture()["jobs"]
    assert told == {"submitted": count + 4, "done": count + 4, "failed": 0, "dead": 0}


def test_a_daemon_counts_from_what_its_queue_had_at_first() -> None:
    tally = Tally()
    told = []
    # at the start, then two done; another file in its place; an older copy of that one
    for book, count in [(7, 5), (7, 7), (8, 100), (8, 101), (8, 50), (8, 51)]:
        tally.counted(book, dict.fromkeys(OUTCOMES, count))
        told.append(tally.picture()["jobs"]["done"])
    assert told == [0, 2, 2, 3, 3, 4]


def test_it_ignores_signals_to_everybody_and_stops_as_asked(harness: KeeperHarness) -> None:
    harness.start()
    assert harness.keeper.pid is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        os.kill(harness.keeper.pid, number)
    harness.client().submit(["1"])
    assert Path(f"/proc/{harness.keeper.pid}/comm").read_text() == "graced-keeper\n"
    assert harness.stop() == 0
    assert not os.path.exists(harness.socket)


def test_it_sleeps_while_nothing_happens(harness: KeeperHarness) -> None:
    harness.start()
    client = harness.client()
    client.submit(["1"], Terms(3600))
    worker = harness.worker(1)
    worker.ask()
    worker.receive()
    client.counts()

    def switches() -> int:
        for line in Path(f"/proc/{harness.keeper.pid}/status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                return int(line.split()[1])
        raise AssertionError

    def sleeps() -> bool:
        before = switches()
        select.select([], [], [], 1.0)
        return switches() == before

    assert any(sleeps() for _ in range(20)), "from when it has done all that it was asked for"


def test_deaths_told_to_a_dead_keeper_are_told_to_the_next(harness: KeeperHarness) -> None:
    harness.start()
    [id] = harness.client().submit(["1"])
    worker = harness.worker(1)
    take(worker)
    harness.kill()
    harness.died(worker, 1, True, signal=9)
    harness.start()
    again = take(harness.worker(2))
    assert (again.id, again.attempt) == (id, 2)
    harness.until(lambda: not harness.keeper._deaths)


def test_a_keeper_outlives_its_main_process_until_its_workers_leave(harness: KeeperHarness) -> None:
    harness.start()
    [id] = harness.client().submit(["1"])
    worker = harness.worker(1)
    job = take(worker)
    harness.keeper.close()
    settle(worker, job)
    assert harness.client().wait(id)["state"] == "done"
    worker.close()
    assert harness.keeper.pid is not None
    assert os.waitstatus_to_exitcode(os.waitpid(harness.keeper.pid, 0)[1]) == 0
    harness.keeper.pid = None


def test_a_keeper_without_its_main_process_does_not_live_on_for_another_s_workers(
    harness: KeeperHarness,
) -> None:
    harness.start()
    [id] = harness.client().submit(["1"])
    worker = harness.worker(1)
    job = take(worker)
    harness.keeper.close()
    readdress(harness.keeper, daemon_id="d2")
    harness.worker(1).ask()  # of the next daemon, whose keeper does not listen yet
    settle(worker, job)
    assert harness.client().wait(id)["state"] == "done"
    worker.close()
    assert harness.keeper.pid is not None
    assert os.waitstatus_to_exitcode(os.waitpid(harness.keeper.pid, 0)[1]) == 0
    harness.keeper.pid = None


# An overlapping restart


def test_the_next_daemon_gets_the_file_and_the_workers_of_the_dead_one(
    harness: KeeperHarness, tmp_path: Path
) -> None:
    harness.start()
    client = harness.client()
    first, second = client.submit(["1", "2"], Terms(0, 5))
    busy, doomed = harness.worker(1), harness.worker(2)
    in_hand, lost = take(busy), take(doomed)
    harness.keeper.close()  # the main process is dead, its workers live
    with KeeperHarness(tmp_path, QUICK, daemon_id="d2") as following:
        following.start()
        fresh = following.worker(1)
        fresh.ask()
        assert fresh.receive() is None
        settle(busy, in_hand)
        assert following.client().wait(first)["state"] == "done"
        assert following.counts()["taken"] == 1, "its worker's lock is held"
        harness.gone(doomed)
        again = take(fresh)
        assert (again.id, again.attempt) == (second, 2), "found taken after a crash: it counts"
        assert lost.id == second
        assert harness.keeper.pid is not None
        os.waitpid(harness.keeper.pid, 0)
        harness.keeper.pid = None


def test_a_client_that_comes_before_the_file_is_open_is_answered_once_it_is(
    harness: KeeperHarness, tmp_path: Path
) -> None:
    """Or is told who has the file, where that takes long: a look at it is 50 ms off."""
    lock = Lock(harness.file)
    previous = wire.listen(f"{tmp_path}/previous.sock")
    lock.take(f"{tmp_path}/previous.sock")
    harness.begin()
    stranger = connected(harness.socket)
    stranger.sendall(wire.frame(Kind.COUNTS, b"{}"))
    end = time.monotonic() + DEADLINE
    while unread(stranger):
        assert time.monotonic() < end, "the keeper does not read"
        os.sched_yield()
    lock.release()
    previous.close()  # which the keeper hears
    answer = stranger.recv(1000)
    stranger.close()
    assert b"not open yet" not in answer
    assert answer[4] in (Kind.ANSWER, Kind.REFUSED)


def unread(sock: socket.socket) -> int:
    """Return how much of what was sent the other side has not read; see unix(7), SIOCOUTQ."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])


def connected(path: str) -> socket.socket:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        try:
            return wire.connect(path, blocking=True)
        except OSError:
            os.sched_yield()
    raise AssertionError(f"{path}: nobody listens")


def test_two_daemons_with_one_file_are_told(harness: KeeperHarness, tmp_path: Path) -> None:
    harness.start()
    other = tmp_path / "other"
    other.mkdir()
    with KeeperHarness(other, QUICK, daemon_id="d2") as second:
        readdress(second.keeper, file=harness.file)
        second.begin()
        second.until(lambda: "another process keeps this queue" in str(second.keeper.trouble))
        with pytest.raises(QueueError, match="another process keeps this queue"):
            second.client().submit(["1"])
        harness.stop()
        second.until(lambda: second.keeper.open)
        second.client().submit(["1"])


def test_a_job_waits_for_what_its_worker_left_behind(harness: KeeperHarness) -> None:
    harness.start()
    [id] = harness.client().submit(["1"])
    worker = harness.worker(1)
    take(worker)
    left = subprocess.Popen(["sleep", "100"], pass_fds=[worker.lock], start_new_session=True)
    other = harness.worker(2)
    other.ask()
    harness.died(worker, 1, False)
    select.select([other.fileno()], [], [], 0.5)
    assert other.receive() is None
    assert harness.counts()["taken"] == 1
    left.kill()
    left.wait()
    assert take(other).id == id


def test_a_stop_waits_a_moment_for_what_still_dies(
    harness: KeeperHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a command's group: killed with its worker, and gone a little later."""
    monkeypatch.setattr(server, "LAST_LOOKS", 3600.0)  # a moment may be long here
    harness.start()
    [id] = harness.client().submit(["1"])
    worker = harness.worker(1)
    take(worker)
    left = subprocess.Popen(["sleep", "100"], pass_fds=[worker.lock], start_new_session=True)
    assert harness.keeper.pid is not None
    pidfd = os.pidfd_open(harness.keeper.pid)
    harness.died(worker, 1, False)
    harness.keeper.stop()
    early = select.select([pidfd], [], [], 0.2)[0]
    os.close(pidfd)
    left.kill()
    left.wait()
    assert not early
    assert harness.stop() == 0
    harness.start()
    assert harness.client().jobs("waiting", 0, 10)[0]["id"] == id


@pytest.mark.parametrize("forked", [False, True], ids=["lock", "lock and connection"])
def test_a_stop_does_not_wait_for_what_lives_on(harness: KeeperHarness, forked: bool) -> None:
    harness.start()
    harness.client().submit(["1"])
    worker = harness.worker(1)
    take(worker)
    kept = [worker.lock, worker.fileno()] if forked else [worker.lock]
    with subprocess.Popen(["sleep", "100"], pass_fds=kept, start_new_session=True) as left:
        harness.died(worker, 1, False)
        assert harness.stop() == 0
        harness.keeper = Keeper(harness.keeper.plan)  # the next daemon's
        readdress(harness.keeper, daemon_id="d2")
        harness.start()
        assert harness.counts()["taken"] == 1
        left.kill()
    harness.until(lambda: harness.counts()["waiting"])
    [job] = harness.client().jobs("waiting", 0, 9)
    assert job["attempts"] == 0, "a stop does not count, whoever writes that down"


def test_it_says_who_holds_the_lock_of_a_dead_worker(
    harness: KeeperHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departures, "SAY_AFTER", 0.0)
    read, write = os.pipe()
    harness.keeper.plan = harness.keeper.plan.replace(log=Log(fd=write))
    harness.start()
    harness.client().submit(["1"])
    worker = harness.worker(1)
    take(worker)
    with subprocess.Popen(["sleep", "100"], pass_fds=[worker.lock], start_new_session=True) as left:
        harness.died(worker, 1, False)
        assert select.select([read], [], [], DEADLINE)[0]
        said = os.read(read, 4096).decode()
        assert f"job 1 can't be given back yet: process {left.pid} (sleep) holds " in said
        assert "d1:1.lock; waiting until it ends" in said
        left.kill()
    os.close(read)
    os.close(write)


def test_a_lock_file_that_was_removed_is_made_again(harness: KeeperHarness) -> None:
    harness.start()
    worker = harness.worker(1)
    harness.client().submit(["1"])
    job = take(worker)
    shutil.rmtree(f"{harness.file}-owners")
    harness.restart()
    other = harness.worker(2)
    other.ask()
    reconnect(worker)
    other.receive()
    assert harness.counts()["taken"] == 1, "it lives, though its lock had no name any more"
    settle(worker, job)
    assert harness.client().jobs("done", 0, 9)[0]["attempts"] == 1


def test_lock_files_do_not_pile_up(harness: KeeperHarness) -> None:
    harness.start()
    for number in range(1, 6):
        worker = harness.worker(number)
        harness.client().submit(["1"])
        settle(worker, take(worker))
        harness.died(worker, number, False)
    harness.until(lambda: not harness.keeper._deaths)
    assert os.listdir(f"{harness.file}-owners") == []
    stale = Path(f"{harness.file}-owners/d0:7.lock")
    stale.touch()
    harness.restart()
    harness.until(lambda: not stale.exists() or harness.keeper.count())


# Bad files


def repaired(harness: KeeperHarness, why: str, repair: Callable[[], object]) -> None:
    harness.begin()
    harness.until(lambda: harness.keeper.trouble)
    assert why in str(harness.keeper.trouble)
    with pytest.raises(QueueError, match=why):
        harness.client().submit(["1"])
    with pytest.raises(TimeoutError):  # it may be repaired while somebody waits
        harness.client().wait(1, timeout=0.01)
    repair()
    harness.until(lambda: harness.keeper.open and harness.keeper.trouble is None)
    harness.client().submit(["1"])


def stays_as_it_is(file: str) -> Callable[[], object]:
    os.chmod(file, 0o644)

    def repair() -> None:
        assert stat.S_IMODE(os.stat(file).st_mode) == 0o644
        os.unlink(file)

    return repair


def test_a_corrupt_file(harness: KeeperHarness) -> None:
    Path(harness.file).write_bytes(os.urandom(8192))
    repaired(harness, "not an SQLite database, or a corrupt one", stays_as_it_is(harness.file))


def test_a_file_of_another_program(harness: KeeperHarness) -> None:
    with closing(sqlite3.connect(harness.file)) as db:
        db.execute("CREATE TABLE users (name)")
    repaired(harness, "a database of another program", stays_as_it_is(harness.file))


def test_a_file_of_a_newer_version(harness: KeeperHarness) -> None:
    harness.start()
    harness.stop()
    with closing(sqlite3.connect(harness.file)) as db:
        db.execute("PRAGMA user_version = 7")
    repaired(harness, "written by a newer graced", lambda: os.unlink(harness.file))


def test_a_missing_folder(harness: KeeperHarness, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    readdress(harness.keeper, file=f"{folder}/jobs.db")
    repaired(harness, "No such file or directory", folder.mkdir)


# A file that is not where it was


def waiting(harness: KeeperHarness) -> list[int]:
    """Return the jobs that wait in the file that has the queue's name, as the next keeper has."""
    harness.stop()
    harness.start()
    return [job["id"] for job in harness.client().jobs("waiting", 0, 100)]


@pytest.mark.parametrize(
    "names", ["jobs.db", "jobs.db-wal", "jobs.db-shm", "jobs.db*", "the folder"]
)
def test_what_is_removed_is_made_anew(harness: KeeperHarness, tmp_path: Path, names: str) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    harness.file = f"{folder}/jobs.db"
    readdress(harness.keeper, file=harness.file)
    harness.start()
    worker, client = harness.worker(1), harness.client()
    client.submit(["1", "2"])
    job = take(worker)
    if names == "the folder":
        shutil.rmtree(folder)
    else:
        for file in folder.glob(names):
            if file.is_file():
                file.unlink()
    client.submit(["3"])
    settle(worker, job)
    assert harness.keeper.trouble is None
    worker.leave()
    assert waiting(harness) == [2, 3]
    assert [job["id"] for job in harness.client().jobs("done", 0, 9)] == [1]


@pytest.mark.parametrize("moment", ["still open", "closed"])
def test_a_file_that_is_removed_while_its_log_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """rm takes one name after the other, and the keeper may look between two."""
    file = tmp_path / "jobs.db"
    store, batch = Store(str(file)), Batch()
    batch.paused = True
    store.put(batch)
    store.commit()
    os.unlink(f"{file}-wal")
    assert store.look() is Sight.LOST_LOG
    if moment == "still open":
        store._db.set_trace_callback(lambda _statement: file.unlink(missing_ok=True))
    else:
        open_file = Store._open

        def late(self: Store) -> sqlite3.Connection:
            monkeypatch.undo()
            file.unlink()
            return open_file(self)

        monkeypatch.setattr(Store, "_open", late)
    store.renew_log()
    if store.look() is Sight.REMOVED:
        store.make_anew()
    assert store.look() is Sight.FINE
    store.close()
    with closing(Store(str(file))) as again:
        assert again.is_paused()


def test_a_file_that_was_moved_gets_no_new_jobs_until_it_is_back(
    harness: KeeperHarness, tmp_path: Path
) -> None:
    harness.start()
    worker, client = harness.worker(1), harness.client()
    client.submit(["1", "2"])
    job = take(worker)
    os.rename(harness.file, tmp_path / "elsewhere")
    with pytest.raises(
        QueueError, match=r"it was moved to .*/elsewhere: no new jobs; move it back"
    ):
        client.submit(["3"])
    settle(worker, job)  # what was accepted is worked off, and is in the file wherever that is
    with closing(sqlite3.connect(f"file:{tmp_path}/elsewhere?mode=ro&immutable=1", uri=True)) as db:
        assert db.execute("SELECT id, state FROM jobs ORDER BY id").fetchall() == [(1, 3), (2, 0)]
    harness.until(lambda: harness.keeper.trouble)
    os.rename(tmp_path / "elsewhere", harness.file)
    client.submit(["3"])
    harness.until(lambda: harness.keeper.trouble is None)
    worker.leave()
    assert waiting(harness) == [2, 4]  # 3 was refused


def test_a_folder_that_may_not_be_entered_is_not_called_moved(
    harness: KeeperHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Place, "look", lambda _: Sight.AWAY)  # root may enter all of them
    monkeypatch.setattr(Place, "is_taken", False)
    harness.start()
    with pytest.raises(QueueError, match="it can't be reached: no new jobs"):
        harness.client().submit(["1"])


def test_a_file_that_was_replaced_keeps_its_jobs_and_gets_no_new_ones(
    harness: KeeperHarness, tmp_path: Path
) -> None:
    with KeeperHarness(tmp_path, daemon_id="d2") as other:
        other.file = f"{tmp_path}/backup.db"
        readdress(other.keeper, file=other.file)
        other.start()
        other.client().submit(["7", "8", "9"])
        other.stop()
    harness.start()
    worker, client = harness.worker(1), harness.client()
    client.submit(["1", "2"])
    job = take(worker)
    os.rename(other.file, harness.file)
    why = r"another file is in its place: no new jobs; those there are, are in .*jobs.db-replaced"
    with pytest.raises(QueueError, match=why):
        client.submit(["3"])
    settle(worker, job)
    worker.leave()
    assert waiting(harness) == [1, 2, 3]  # of the file that has the name
    with closing(sqlite3.connect(f"{harness.file}-replaced")) as db:
        assert db.execute("SELECT id, state FROM jobs ORDER BY id").fetchall() == [(1, 3), (2, 0)]


def test_a_file_that_was_emptied_takes_nothing(harness: KeeperHarness) -> None:
    harness.start()
    client = harness.client()
    client.submit(["1"])
    os.truncate(harness.file, 0)
    with pytest.raises(QueueError, match="it was emptied; restore it"):
        client.submit(["2"])


def test_a_log_that_was_emptied_spoils_nothing_more(harness: KeeperHarness) -> None:
    harness.start()
    client = harness.client()
    client.submit(["1"])
    harness.stop()  # which folds the log into the file
    harness.start()
    client = harness.client()
    client.submit(["2"])
    os.truncate(f"{harness.file}-wal", 0)
    with pytest.raises(QueueError, match="-wal: it was emptied"):
        client.submit(["3"])
    harness.stop()
    harness.start()
    assert waiting(harness) == [1]


def test_a_wait_for_the_keeper_says_who_may_tell_why(harness: KeeperHarness) -> None:
    said: list[str] = []
    harness.start()
    with closing(ClientEnd(harness.socket, tell=said.append)) as client:
        client.late()
    assert said == [
        f"{harness.socket}: the keeper has not answered yet; 'graced health' may tell why; waiting"
    ]


def test_a_log_that_another_program_has_folded_is_no_trouble(harness: KeeperHarness) -> None:
    harness.start()
    client = harness.client()
    client.submit(["1"])
    with closing(sqlite3.connect(harness.file)) as db:
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    client.submit(["2"])
    assert waiting(harness) == [1, 2]


def test_a_lock_that_was_removed_is_taken_again(harness: KeeperHarness) -> None:
    harness.start()
    os.unlink(f"{harness.file}-keeper")
    harness.client().submit(["1"])
    with pytest.raises(QueueLockedError):
        Store(harness.file)


def test_a_page_that_went_bad_is_said_and_nothing_is_forgotten(harness: KeeperHarness) -> None:
    harness.start()
    client = harness.client()
    client.stream(f'"{n:0200}"' for n in range(3000))
    worker = harness.worker(1)
    job = take(worker)
    harness.stop()
    size = os.path.getsize(harness.file)
    with open(harness.file, "r+b") as file:
        for page in range(20, size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    harness.begin()
    harness.until(lambda: "corrupt" in str(harness.keeper.trouble))
    worker.settle(job, Done(), more=False)
    worker.receive()
    assert worker.unsettled == 1


def test_a_locked_file_delays_and_loses_nothing(harness: KeeperHarness) -> None:
    harness.start()
    client = harness.client()
    [id] = client.submit(["1"])
    worker = harness.worker(1)
    job = take(worker)
    other = sqlite3.connect(harness.file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    worker.settle(job, Done(), more=True)
    harness.until(lambda: "another program has locked it" in str(harness.keeper.trouble))
    with pytest.raises(QueueError, match="locked"):
        client.submit(["2"])
    assert worker.receive() is None
    assert worker.unsettled == 1
    other.execute("ROLLBACK")
    other.close()
    harness.until(lambda: harness.keeper.trouble is None)
    confirm(worker)
    assert client.wait(id)["state"] == "done"
    client.submit(["3"])
    assert take(worker).payload == 3


def test_a_job_for_a_worker_that_went_meanwhile_goes_to_another(harness: KeeperHarness) -> None:
    harness.start()
    client = harness.client()
    [id] = client.submit(["1"])
    other = sqlite3.connect(harness.file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    worker = harness.worker(1)
    worker.ask()
    harness.until(lambda: "locked" in str(harness.keeper.trouble))
    worker.close()
    other.execute("ROLLBACK")
    other.close()
    harness.until(lambda: harness.keeper.trouble is None)
    again = take(harness.worker(2))
    assert (again.id, again.attempt) == (id, 1)


def test_a_reader_that_keeps_the_log_growing_is_named(
    harness: KeeperHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe2(os.O_NONBLOCK)
    harness.keeper.plan = harness.keeper.plan.replace(log=Log(fd=write))
    monkeypatch.setattr(storage, "LONG_LOG", 6 << 20)
    monkeypatch.setattr(storage, "LOOK_AT_LOG", 0.0)
    harness.start()
    client = harness.client()
    client.submit(["1"])
    long = f'"{"x" * 1_000_000}"'
    reader = sqlite3.connect(harness.file, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM jobs").fetchall()
    for _ in range(9):
        client.submit([long])
    harness.counts()
    told = os.read(read, 10_000).decode()
    assert "jobs.db-wal has grown to 6 MB, since a reader's transaction does not end" in told
    assert f"process {os.getpid()} (" in told
    assert told.count("has grown") == 1, "until it has doubled"
    reader.close()
    for _ in range(30):
        client.submit([long])
    assert os.path.getsize(f"{harness.file}-wal") < 20 << 20, "it is used again, and cut"
    with pytest.raises(BlockingIOError):
        os.read(read, 10_000)
    for fd in (read, write):
        os.close(fd)


def test_a_file_that_was_large_gives_its_space_back(harness: KeeperHarness) -> None:
    harness.start()
    client = harness.client()
    for _ in range(40):
        client.submit([f'"{"x" * 1_000_000}"'])
    assert client.drop(range(1, 41)) == {}
    end = time.monotonic() + DEADLINE
    while os.path.getsize(harness.file) > 8 << 20:
        assert time.monotonic() < end, "it never shrinks"
        harness.counts()
    client.submit(["1"])
    assert take(harness.worker(1)).payload == 1


def test_a_file_of_an_older_graced_is_used_as_it_is(tmp_path: Path) -> None:
    """What it has become stays its size until somebody rewrites it; nobody tries for ever."""
    path = f"{tmp_path}/jobs.db"
    Store(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in ("PRAGMA journal_mode=DELETE", "PRAGMA auto_vacuum=NONE", "VACUUM"):
            db.execute(statement)
        db.execute("DROP TABLE clock")
        db.execute("CREATE TABLE waste AS SELECT zeroblob(20000000)")
        db.execute("DROP TABLE waste")
    store = Store(path)
    rules = Dispatcher(store, QUICK, lambda: 0.5)
    assert store.spare() > 1 << 20
    for _ in range(3):
        rules.maintain(1)
    assert not rules.has_maintenance(1)
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=9m", "none", str(folder)], check=False
    )
    if mounted.returncode != 0:
        pytest.skip("may not mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_submits_and_settles_all_the_same(small_disk: Path) -> None:
    with KeeperHarness(small_disk, QUICK) as harness:
        harness.start()
        (small_disk / "film").write_bytes(bytes(3 << 20))
        client = harness.client()
        ids = list(client.submit(["1"] * 200))
        worker = harness.worker(1)
        work_off(worker, 5)
        accepted = []
        with pytest.raises(QueueError, match=FULL):  # noqa: PT012
            while True:
                accepted += client.submit([f'"{"x" * 100_000}"'])
        with open(small_disk / "filler", "wb", buffering=0) as filler, pytest.raises(OSError):  # noqa: PT012
            while True:
                filler.write(b"x" * 65536)
        job = take_if_any(worker)
        if job is not None:
            worker.settle(job, Done('"kept"'), more=False)
        with pytest.raises(QueueError, match=FULL):
            client.submit([f'"{"x" * 100_000}"'])
        harness.until(lambda: harness.keeper.trouble)
        os.unlink(small_disk / "filler")
        os.unlink(small_disk / "film")
        harness.until(lambda: harness.keeper.trouble is None)
        worker.leave()
        confirm(worker)
        client.submit(["3"])
        listed = {j["id"] for j in all_jobs(client)}
        assert len(listed) == len(ids) + len(accepted) + 1
        if job is not None:
            assert client.wait(job.id)["result"] == '"kept"'


@pytest.mark.parametrize(("size", "filled_to"), [(100_000, 0), (20_000, 0), (1_000_000, 3)])
def test_a_disk_that_the_queue_has_filled_empties_as_its_jobs_are_done(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, size: int, filled_to: int
) -> None:
    """With what others have on it, too; nobody makes any room."""
    monkeypatch.setattr(dispatcher, "SHORTEST", 0)
    text = f'"{"x" * size}"'
    with KeeperHarness(small_disk, QUICK.replace(keep_done=0.0)) as harness:
        harness.start()
        client = harness.client()
        count = submit_until_refused(client, text)
        with open(small_disk / "filler", "wb", buffering=0) as filler:
            while free(small_disk) > (filled_to or 1) << 20:
                filler.write(b"x" * 65536)
        for _ in range(20):
            with pytest.raises(QueueError, match=FULL):
                client.submit([text])
        assert (small_disk / "jobs.db-ballast").exists(), "refused submits spend none of it"
        worker = harness.worker(1)
        work_off(worker, count)
        worker.leave()
        confirm(worker)
        harness.until(lambda: harness.counts()["done"] == 0)
        os.unlink(small_disk / "filler")
        again = submit_until_refused(client, text)
        assert again >= count - 1
        assert [said[0] for said in harness.said].count("degraded") <= 3, harness.said


def submit_until_refused(client: ClientEnd, text: str) -> int:
    count = 0
    end = time.monotonic() + DEADLINE
    while True:
        try:
            client.submit([text])
            count += 1
        except QueueError:
            if count:
                return count
            assert time.monotonic() < end, "none is taken any more"


def test_two_messages_in_turn_are_told_once_each(small_disk: Path) -> None:
    """No room at all, and nearly none: what comes and goes is one trouble."""
    with KeeperHarness(small_disk, QUICK) as harness:
        harness.start()
        client = harness.client()
        with open(small_disk / "filler", "wb", buffering=0) as filler:
            for _ in range(6):
                with pytest.raises(OSError):  # noqa: PT012
                    while True:
                        filler.write(b"x" * 65536)
                with pytest.raises(QueueError, match=FULL):
                    client.submit(["1"])
                harness.counts()
                filler.truncate(os.path.getsize(filler.name) - (1500 << 10))
                filler.seek(0, os.SEEK_END)
                with pytest.raises(QueueError, match=FULL):
                    client.submit([f'"{"x" * 1_000_000}"'])
                harness.counts()
        assert [said[0] for said in harness.said].count("degraded") == 1, harness.said
        assert ("well",) not in harness.said


def test_a_full_disk_is_told_once(small_disk: Path) -> None:
    with KeeperHarness(small_disk, QUICK) as harness:
        harness.start()
        client = harness.client()
        with open(small_disk / "filler", "wb", buffering=0) as filler:
            while free(small_disk) > 1 << 20:
                filler.write(b"x" * 65536)
        for _ in range(3):
            with pytest.raises(QueueError, match=FULL):
                client.submit([f'"{"x" * 1_000_000}"'] * 2)
            harness.counts()  # all that it has said before has come then
        assert ("well",) not in harness.said
        assert len([said for said in harness.said if said[0] == "degraded"]) <= 2
        os.unlink(small_disk / "filler")
        harness.until(lambda: harness.keeper.trouble is None)
        client.submit(["3"])


def free(folder: Path) -> int:
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


def take_if_any(worker: WorkerEnd) -> Job | None:
    """Take what was handed out before the disk was full."""
    select.select([worker.fileno()], [], [], 0.2)
    return worker.receive()


def test_who_may_not_talk_to_it_is_told_who_may(harness: KeeperHarness, tmp_path: Path) -> None:
    harness.start()
    os.chmod(harness.socket, 0)
    tmp_path.chmod(0o711)

    def come() -> None:
        os.chdir(tmp_path)
        if os.geteuid() == 0:
            os.setuid(12345)
        with pytest.raises(QueueError, match="permission denied; be root, the daemon's user or"):
            ClientEnd(os.path.basename(harness.socket))

    assert os.waitstatus_to_exitcode(os.waitpid(in_a_process(come), 0)[1]) == 0


def all_jobs(client: ClientEnd) -> Iterator[dict[str, Any]]:
    after = 0
    while page := client.jobs(None, after, 500):
        yield from page
        after = page[-1]["id"]


# Strangers


def test_whatever_is_written_to_its_socket_it_goes_on(harness: KeeperHarness) -> None:
    harness.start()
    dice = random.Random(7)
    kinds = [int(k) for k in Kind]
    for _ in range(400):
        with wire.connect(harness.socket, blocking=True) as stranger:
            body = dice.randbytes(dice.choice([0, 3, 16, 30, 200]))
            frame = wire.frame(dice.choice(kinds), body)
            stranger.sendall(dice.choice([frame, frame[:-1], frame * 3, body]))
            if dice.random() < 0.3:
                stranger.settimeout(0.01)
                try:
                    stranger.recv(1000)
                except OSError:
                    pass
    assert harness.counts()["taken"] == 0
    harness.client().submit(["1"])
    assert take(harness.worker(1)).payload == 1


@pytest.mark.parametrize(
    ("delay", "attempts", "why"),
    [(3661 * 86400.0, 0, "between 0 and ten years"), (0.0, 10**9 + 1, "at most 1000000000")],
)
def test_what_no_command_line_says_is_refused(
    harness: KeeperHarness, delay: float, attempts: int, why: str
) -> None:
    harness.start()
    with pytest.raises(QueueError, match=why):
        harness.client().submit(["1"], Terms(delay, attempts))


HUGE = 10**30
STRANGE_NUMBERS = [HUGE, -HUGE, 1 << 63, -1, 0, 1.5, True, None, "1", [1], {}, float("nan")]
CHANGES = (Kind.RETRY, Kind.DROP, Kind.CANCEL)
STRANGE_TERMS = [
    *({"delay": delay} for delay in (float("nan"), float("inf"), -1.0, 1e308, True, "1")),
    *({"max_attempts": attempts} for attempts in (-1, (1 << 32) - 1, 1.5)),
    *({"priority": priority} for priority in (101, -101, 0.5, HUGE)),
    *({"unique": key} for key in ("", "x" * 201, "a\nb", "\udc80", 1)),
    *({"scheduled": at} for at in (float("nan"), -1.0, HUGE, "now")),
    {"x": 1},
    {"unique": "x" * 9000},
]
STRANGE = [
    *((kind, {"ids": [n]}) for kind in CHANGES for n in STRANGE_NUMBERS),
    *((kind, {"id": n}) for kind in (Kind.WAIT, Kind.SHOW) for n in STRANGE_NUMBERS),
    *((Kind.PAUSE, {"paused": n}) for n in (1, None, "", [])),
    *((Kind.LIST, {"state": None, "after": n, "limit": 1}) for n in STRANGE_NUMBERS),
    *((Kind.LIST, {"state": None, "after": 0, "limit": n}) for n in STRANGE_NUMBERS),
    *((Kind.LIST, {"state": s, "after": 0, "limit": 1}) for s in ([], {}, 1, "\ud800", True)),
    *((Kind.HELLO, {"owner": "d1:7", "holds": [[n, 1]]}) for n in STRANGE_NUMBERS),
    *((Kind.HELLO, {"owner": o, "holds": []}) for o in (1, [], "x" * 5000, "a/b", "\udc80", "²")),
    *((kind, body) for kind in Kind for body in ([], "x", 1, {})),
]
RAW = [
    *(wire.frame(kind, b"[" * 100_000) for kind in (Kind.RETRY, Kind.DROP, Kind.HELLO)),
    wire.frame(Kind.DROP, b'{"ids":[' + b"1," * 3_000_000 + b"1]}"),
    wire.frame(Kind.DROP, b'{"ids":[' + b"9" * 5000 + b"]}"),
    wire.frame(Kind.HELLO, b'{"owner":"d1:7","holds":[[1e999,1]]}'),
    *(
        wire.frame(kind, wire.PARCEL.pack(size, count) + b"{}")
        for kind in (Kind.SUBMIT, Kind.STREAM, Kind.CHUNK, Kind.STREAM_END)
        for size in (0, 1, 2, (1 << 32) - 1)
        for count in (0, 1, (1 << 32) - 1)
    ),
    *(
        wire.frame(Kind.SUBMIT, wire.PARCEL.pack(len(text), 0) + text)
        for text in (wire.encode(terms) for terms in STRANGE_TERMS)
    ),
    *(
        wire.frame(Kind.HELLO, b'{"owner":"d1:7","holds":[]}')
        + wire.frame(Kind.SETTLE, wire.SETTLEMENT.pack((1 << 64) - 1, 1, outcome, 255, after))
        for outcome in (0, 2, 3, 9)
        for after in (float("nan"), float("inf"), -1.0)
    ),
    wire.frame(Kind.HELLO, b'{"owner":"d1:7","holds":[]}')
    + wire.frame(Kind.HELLO, b'{"owner":"d1:8","holds":[]}'),
]


def test_no_number_that_a_client_can_send_ends_it(harness: KeeperHarness) -> None:
    harness.start()
    client = harness.client()
    [id] = client.submit(["1"], Terms(3600))
    frames = [wire.frame(kind, wire.encode(body)) for kind, body in STRANGE] + RAW
    for frame in frames:
        with wire.connect(harness.socket, blocking=True) as stranger:
            try:
                stranger.sendall(frame)
            except (BrokenPipeError, ConnectionResetError):  # it has read enough
                pass
            assert client.counts()["waiting"] == 1, frame[:100]
    assert client.retry([0, -1, HUGE, -HUGE, 1 << 63]) == dict.fromkeys(
        [0, -1, HUGE, -HUGE, 1 << 63], "no such job"
    )
    assert client.drop([HUGE, id]) == {HUGE: "no such job"}


def peak(harness: KeeperHarness) -> int:
    """Return the most memory that the keeper ever had, in MB."""
    for line in Path(f"/proc/{harness.keeper.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    raise AssertionError


def test_its_memory_does_not_grow_with_what_waits(harness: KeeperHarness) -> None:
    harness.start()
    client = harness.client()
    empty = peak(harness)
    with pytest.raises(QueueError, match="1900000 jobs at once; at most 10000, or any number as"):
        harness.client().submit([""] * 1_900_000)
    ids = wait_long(client, 8)
    few = peak(harness)
    assert few - empty < 250
    ids += wait_long(client, 50)
    assert peak(harness) - few < 25
    job = take(harness.worker(1))
    assert (job.id, len(job.payload)) == (ids[0], 1_000_000)
    harness.restart()
    assert take(harness.worker(2)).id == ids[1]
    assert peak(harness) - few < 25, "nor with what it reads ahead"


def wait_long(client: ClientEnd, count: int) -> list[int]:
    """Submit long jobs and short ones, and list all."""
    long, wide = "x" * 1_000_000, "\U0001f600" * 500
    ids = [client.submit([f'"{long}"'])[0] for _ in range(count)]
    client.submit([f'"{wide}"'] * 1000)
    assert {*ids} <= {job["id"] for job in all_jobs(client)}
    return ids


def test_many_jobs_are_dropped_while_others_are_served(harness: KeeperHarness) -> None:
    harness.start()
    client, other = harness.client(), harness.client()
    count = sum(map(len, client.stream("1" for _ in range(20_000))))
    while not client.jobs("waiting", count - 1, 1):
        pass  # they are let wait in steps
    with wire.connect(harness.socket, blocking=True) as dropper:
        ids = list(range(1, count + 1))
        dropper.sendall(wire.frame(Kind.DROP, wire.encode({"ids": ids})))
        waiting = [count]
        while waiting[-1]:
            waiting.append(other.counts()["waiting"])
        assert dropper.recv(100) == wire.frame(Kind.ANSWER, b"{}")
    assert len(set(waiting)) > 3, "others were answered in between"
    assert client.drop(ids) == dict.fromkeys(ids, "no such job"), "in several requests"


def test_others_are_answered_while_rare_jobs_are_looked_for(
    harness: KeeperHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOOKED_AT", 100)
    monkeypatch.setattr(dispatcher, "FEW", -1)
    harness.start()
    client = harness.client()
    client.submit(["1"] * 999)
    taken = take(harness.worker(1)).id
    client.cancel([999])

    def answers(state: str) -> list[Any]:
        """Ask for jobs, and then for their counts; return both answers as they come."""
        wanted = wire.encode({"state": state, "after": 0, "limit": 500})
        frames, heard = wire.Frames(), list[Any]()
        with wire.connect(harness.socket, blocking=True) as asker:
            asker.sendall(wire.frame(Kind.LIST, wanted) + wire.frame(Kind.COUNTS, b"{}"))
            while len(heard) < 2:
                heard += [wire.decode(body) for _kind, body in frames.feed(asker.recv(wire.READ))]
        return heard

    counts, jobs = answers("done")
    assert (counts["done"], jobs) == (0, [])
    for state, number in (("taken", taken), ("dead", 999)):
        jobs, counts = answers(state)
        assert [job["id"] for job in jobs] == [number], "at once: that is known"
        assert counts[state] == 1
    client.cancel([50])
    harness.keeper.look()
    shown = harness.until(lambda: harness.keeper.jobs)
    assert [job["id"] for job in shown][:3] == [taken, 50, 999], "which are far from each other"
    harness.keeper.jobs = []
    client.cancel(list(range(2, 901)))
    harness.keeper.look()
    shown = harness.until(lambda: harness.keeper.jobs)
    assert [job["id"] for job in shown] == [taken, *range(2, 22), *range(901, 921)]


def test_a_flood_of_questions_is_for_who_asks_them(harness: KeeperHarness) -> None:
    harness.start()
    client = harness.client()
    client.submit([f'"{"x" * 1_000_000}"'] * 5)
    question = wire.frame(Kind.LIST, wire.encode({"state": None, "after": 0, "limit": 500}))
    with wire.connect(harness.socket, blocking=True) as stranger:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
            while True:
                stranger.sendall(question * 500)
        assert client.counts()["waiting"] == 5
    wait = b"".join(wire.frame(Kind.WAIT, wire.encode({"id": 1})) for _ in range(20))
    with wire.connect(harness.socket, blocking=True) as stranger:
        for _ in range(3):
            stranger.sendall(wait)
            client.counts()
        client.drop([1])
        assert stranger.recv(1000)[4] == Kind.ANSWER


def test_frames_that_are_too_long_are_refused(harness: KeeperHarness) -> None:
    harness.start()
    with wire.connect(harness.socket, blocking=True) as stranger:
        stranger.sendall(wire.HEADER.pack(1 << 31, Kind.SUBMIT))
        answer = stranger.recv(1000)
        assert b"at most" in answer
        assert stranger.recv(1000) == b""
    with pytest.raises(QueueError, match="at most"):
        harness.client().submit([f'"{"x" * MAX_PAYLOAD}"'])


def test_who_does_not_read_is_let_go(harness: KeeperHarness) -> None:
    harness.start()
    harness.client().submit([f'"{"x" * 100_000}"'] * 15)
    with wire.connect(harness.socket, blocking=True) as stranger:
        question = wire.frame(Kind.LIST, wire.encode({"state": None, "after": 0, "limit": 500}))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
            for _ in range(100):
                stranger.sendall(question)
                harness.counts()


def test_who_is_silent_makes_room_and_who_waits_does_not(
    harness: KeeperHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST", 8)
    harness.start()
    client = harness.client()
    (job,) = client.submit(["1"])
    client.close()
    crowd = [wire.connect(harness.socket, blocking=True) for _ in range(12)]
    with closing(harness.client()) as client:
        assert client.counts()["waiting"] == 1
    for sock in crowd:
        sock.close()
    wait = wire.frame(Kind.WAIT, wire.encode({"id": job}))
    crowd = [wire.connect(harness.socket, blocking=True) for _ in range(8)]
    for sock in crowd:
        sock.sendall(wait)
        sock.settimeout(DEADLINE)
    for _ in range(2):
        harness.counts()  # it has heard them all
    with wire.connect(harness.socket, blocking=True) as late:
        late.settimeout(DEADLINE)
        assert late.recv(5)[4] == Kind.REFUSED
        assert b"try again later" in late.recv(1000)
    worker = harness.worker(1)  # not one of those that are counted, once it has said so
    crowd.pop().close()
    settle(worker, take(worker))
    for sock in crowd:
        assert sock.recv(5)[4] == Kind.ANSWER
        sock.close()


def test_half_frames_of_one_user_are_bounded(
    harness: KeeperHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_HELD", 1 << 20)
    harness.start()
    half = wire.HEADER.pack(4 << 20, Kind.SUBMIT) + bytes(300_000)
    crowd = [wire.connect(harness.socket, blocking=True) for _ in range(5)]
    for sock in crowd:
        sock.settimeout(DEADLINE)
        with suppress(OSError):
            sock.sendall(half)
    harness.client().submit(["1"])  # which is after those, and of the same user
    gone = [sock for sock in crowd if select.select([sock], [], [], 0)[0]]
    assert gone
    assert len(crowd) - len(gone) == 3
    for sock in crowd:
        sock.close()
    client = harness.client()
    for _ in range(3):  # what is whole is no half
        assert len(client.submit([f'"{"x" * 700_000}"'])) == 1


def test_another_user_may_submit_and_not_be_a_worker(
    harness: KeeperHarness, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    harness.start()
    harness.client().submit(["1"])
    os.chmod(harness.socket, 0o666)
    folder = tmp_path
    while folder != folder.parent:
        if folder.stat().st_uid == 0 and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o011)
        folder = folder.parent

    def stranger() -> None:
        os.setgid(65534)
        os.setuid(65534)
        assert len(harness.client().submit(["2"])) == 1
        with wire.connect(harness.socket, blocking=True) as sock:
            said = {"owner": "d1:9", "holds": []}
            sock.sendall(wire.frame(Kind.HELLO, wire.encode(said)) + wire.frame(Kind.ASK))
            assert b"another user" in sock.recv(1000)

    pid = in_a_process(stranger)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_members_of_submit_group_submit_and_nothing_else(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    group = grp.getgrgid(pwd.getpwnam("nobody").pw_gid)
    with KeeperHarness(tmp_path, QUICK.replace(submit_group=group.gr_name)) as harness:
        harness.start()
        [others] = harness.client().submit(["1"])
        for folder in (tmp_path, *tmp_path.parents[:2]):
            folder.chmod(folder.stat().st_mode | 0o055)
        place = ConfiguredPlace(Where(), lambda: f"{tmp_path}/control.sock", Manner())

        def member() -> None:
            for name in ("a", "z"):  # two pools that are not for it
                with closing(socket.socket(socket.AF_UNIX)) as other:
                    other.bind(f"{tmp_path}/queue-{name}.sock")
                    os.chmod(f"{tmp_path}/queue-{name}.sock", 0o600)
            os.setgroups([group.gr_gid])
            os.setgid(12345)
            os.setuid(12345)
            client = place.keeper()
            [mine] = client.submit(["2"])
            assert mine == others + 1
            with pytest.raises(QueueError, match="on the connection that has submitted it"):
                client.wait(others)
            for ask in (
                lambda: harness.client().jobs(None, 0, 10),
                lambda: harness.client().drop([mine]),
                lambda: harness.client().retry([mine]),
                lambda: harness.client().counts(),
            ):
                with pytest.raises(QueueError, match="may submit jobs, and nothing else"):
                    ask()

        def stranger() -> None:
            os.setgroups([])
            os.setgid(12345)
            os.setuid(12346)
            with pytest.raises((QueueError, QueueGone)):
                harness.client().submit(["3"])

        for somebody in (member, stranger):
            pid = in_a_process(somebody)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert harness.counts()["waiting"] == 2


def test_a_queue_is_for_its_user_alone_also_one_of_older_versions(tmp_path: Path) -> None:
    for name in ("jobs.db", "jobs.db-keeper"):
        (tmp_path / name).touch(0o660)
        (tmp_path / name).chmod(0o660)
    with KeeperHarness(tmp_path, QUICK) as harness:
        harness.start()
        harness.client().submit(["1"])
        take(harness.worker(1))
        files = [path for path in tmp_path.rglob("*") if not path.is_socket()]
        assert {path for path in files if path.stat().st_mode & 0o077} == set()


def test_it_goes_on_when_it_has_no_descriptors_left(harness: KeeperHarness) -> None:
    harness.start()
    assert harness.keeper.pid is not None
    import resource

    resource.prlimit(harness.keeper.pid, resource.RLIMIT_NOFILE, (40, 40))
    crowd = []
    for _ in range(60):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(harness.socket)
        crowd.append(sock)
    for sock in crowd:
        sock.close()
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        try:
            harness.client().submit(["1"])
            break
        except QueueGone:
            continue
    assert harness.counts()["waiting"] == 1


def test_a_long_path_is_no_trouble(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    with KeeperHarness(folder, QUICK) as harness:
        harness.start()
        harness.client().submit(["1"])
        assert take(harness.worker(1)).payload == 1


def test_settings_change_while_it_runs(
    harness: KeeperHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "SHORTEST", 0)
    harness.start()
    client = harness.client()
    client.submit(["1"] * 3)
    harness.keeper.apply(QUICK.replace(max_waiting=3, keep_done=0.0))
    harness.counts()
    with pytest.raises(QueueError, match="the queue is full"):
        client.submit(["1"])
    worker = harness.worker(1)
    settle(worker, take(worker))
    client.submit(["1"])
    harness.until(lambda: harness.counts()["done"] == 0)


def test_who_waits_for_a_job_gets_its_result_however_short_done_ones_are_kept(
    harness: KeeperHarness,
) -> None:
    harness.keeper.plan = harness.keeper.plan.replace(policy=QUICK.replace(keep_done=0.0))
    harness.start()
    client, worker = harness.client(), harness.worker(1)
    for _ in range(3):
        [id] = client.submit(["1"])
        settle(worker, take(worker), Done("7"))
        harness.counts()  # what the keeper does after a commit is done by then
        assert client.wait(id)["result"] == "7"
    harness.restart()  # it has the time to prune while nobody says anything
    harness.counts()
    assert harness.client().wait(id)["result"] == "7"


def test_lines_of_any_letters_make_a_stream(harness: KeeperHarness) -> None:
    harness.start()
    ids = harness.client().stream([f'"{chr(0x1F600) * 2100}"'] * 1100)
    assert sum(map(len, ids)) == 1100


def test_a_keeper_that_cannot_be_says_why(tmp_path: Path) -> None:
    harness = KeeperHarness(tmp_path, QUICK)
    keeper: Keeper = harness.keeper
    readdress(keeper, socket=f"{tmp_path}/nowhere/q.sock")
    harness.begin()
    harness.until(lambda: [m for m in harness.said if m[0] == "failed"])
    assert keeper.pid is not None
    assert os.waitstatus_to_exitcode(os.waitpid(keeper.pid, 0)[1]) == 1
    keeper.close()


def test_how_far_a_job_is_is_shown_while_that_is_true(harness: KeeperHarness) -> None:
    """However often it is told, nothing goes over the wire; the last word counts."""
    client = harness.start().client()
    [id] = client.submit(["1"])
    worker = harness.worker(1)
    job = take(worker)
    assert client.jobs("taken", 0, 9)[0]["progress"] is None
    for done in range(20_000):
        worker.tell_progress(job, done / 20_000, f"page {done}")
    worker.tell_progress(job, None, "the last page, " + "ä" * 100)
    told = {"fraction": None, "text": "the last page, " + "ä" * 100}
    assert client.jobs("taken", 0, 9)[0]["progress"] == told
    worker.tell_progress(job, 0.5, "")
    shown = client.job(id)
    assert shown is not None
    assert shown["progress"] == {"fraction": 0.5, "text": ""}
    settle(worker, job, Postponed("{}", 0.0))
    assert client.jobs(None, 0, 9)[0]["progress"] is None
    again = take(worker)
    assert client.jobs("taken", 0, 9)[0]["progress"] is None, "that was the last attempt"
    settle(worker, again)


def test_what_a_worker_has_told_is_no_word_on_its_end(harness: KeeperHarness) -> None:
    """The lock file in which it tells is that in which a keeper leaves word of its death."""
    harness.start().client().submit(["1"])
    worker = harness.worker(1)
    worker.tell_progress(take(worker), 0.5, "x" * 200)
    liveness.leave_word(harness.file, "d1:1", '{"reason":"killed"}')
    assert liveness.word_left(harness.file, "d1:1", None) == '{"reason":"killed"}'
    assert progress.read(harness.file, "d1:1") == {}


def test_a_full_queue_takes_the_instants_of_a_schedule_once_there_is_room(
    harness: KeeperHarness,
) -> None:
    harness.keeper.apply(QUICK.replace(max_waiting=1))
    harness.start()
    harness.watch(s="daily")
    [(since, _)] = harness.standings("s")
    for instant in (since + 1, since + 2, since + 3):
        harness.submit("s", instant)
    worker = harness.worker(1)
    for instant in (since + 1, since + 2, since + 3):
        job = take(worker)
        assert job.scheduled == instant
        settle(worker, job)
    assert harness.kept() == [("made", since + n) for n in (1, 2, 3)]


def test_a_keeper_that_follows_is_told_what_is_not_kept_yet(harness: KeeperHarness) -> None:
    harness.keeper.apply(QUICK.replace(max_waiting=1))
    harness.start()
    harness.watch(s="daily")
    [(since, _)] = harness.standings("s")
    harness.watch(s=("daily", since - 10, False))
    harness.submit("s", since + 1)
    harness.submit("s", since + 2)
    harness.kill()
    harness.start()
    assert harness.standings("s")[0][0] == since - 10
    assert [job.scheduled for job in work_off(harness.worker(1), 2)] == [since + 1, since + 2]
    assert {instant for _, instant in harness.kept()} == {since + 1, since + 2}


def test_fifty_who_submit_with_one_key_at_once_make_one_job(harness: KeeperHarness) -> None:
    harness.start()
    ids: list[int] = []
    start = threading.Barrier(50)

    def submit() -> None:
        client = ClientEnd(harness.socket)
        start.wait(DEADLINE)
        for _ in range(4):
            ids.extend(client.submit(["1"], Terms(unique="k")))
        client.close()

    threads = [threading.Thread(target=submit) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert ids == [1] * 200
    assert harness.counts()["waiting"] == 1
