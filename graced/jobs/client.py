"""`graced submit` and `graced jobs`: from words on a command line to a queue, and back.

They talk to the pool's keeper; while no daemon runs, they open the queue's file themselves
under the keeper's lock. What a queue can be asked is in :mod:`graced.jobs.queue`.
"""

from __future__ import annotations

import json
import os
import sys
import time

from graced.host.log import say
from graced.host.logtext import one_line
from graced.jobs import wire
from graced.jobs.job import MAX_PAYLOAD
from graced.jobs.queue import QueueError, QueueGone
from graced.jobs.remote import ClientEnd, chunks

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any, BinaryIO

    from graced.core.settings import Pool, Settings
    from graced.jobs.queue import ClientQueue

FAILED = 1
USAGE = 2
NO_DAEMON = 3
WRONG = 78
PATIENCE = 5.0  # seconds for a keeper that is just being started, or started again
LOOK = 0.05  # seconds between two looks for it
PAGE = 500


class Refusal(Exception):
    """What cannot be done; says why, and has the exit status."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def submit(args: argparse.Namespace, control: str) -> int:
    """Run `graced submit`; return its exit status. ``control`` is the control socket's path."""
    return _guarded(lambda: _submit(args, control))


def jobs(args: argparse.Namespace, control: str) -> int:
    """Run `graced jobs`; return its exit status."""
    return _guarded(lambda: _jobs(args, control))


def _guarded(command: Any) -> int:
    try:
        return int(command())
    except Refusal as refusal:
        say(f"graced: {refusal}")
        return refusal.exit_code
    except QueueGone as error:
        say(f"graced: {error}")
        return NO_DAEMON
    except QueueError as error:
        say(f"graced: {error}")
        return FAILED


# graced submit


def _submit(args: argparse.Namespace, control: str) -> int:
    delay, max_attempts = args.delay or 0.0, args.max_attempts
    if max_attempts is not None and max_attempts < 1:
        raise Refusal("--max-attempts: a job has one attempt at least", USAGE)
    if args.json == "-" and not args.words:
        return _stream(args, control, delay, max_attempts or 0)
    payload = _payload(args)
    end = open_queue(args, control)
    if args.wait and isinstance(end, FileEnd):
        raise Refusal("--wait: no daemon runs, so nobody would do the job", NO_DAEMON)
    [id] = end.submit([payload], delay, max_attempts or 0)
    if args.wait:
        return _wait(args, control, end, id)
    print(id)
    return 0


def _payload(args: argparse.Namespace) -> str:
    """Return the payload that the command line says, as JSON text."""
    if bool(args.words) == (args.json is not None):
        raise Refusal("submit: write a command line after --, or --json VALUE, one of them", USAGE)
    if args.words:
        text = json.dumps({"argv": args.words}, separators=(",", ":"))
    else:
        text = _checked(os.fsencode(args.json), "--json")
    if len(text) > MAX_PAYLOAD:
        raise Refusal(f"a job is at most {MAX_PAYLOAD} bytes of JSON", USAGE)
    return text


def _checked(raw: bytes, where: str) -> str:
    """Return one JSON value's text; Refusal if it is none."""
    try:
        text = raw.decode()
        json.loads(text, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise Refusal(f"{where}: not UTF-8", FAILED) from None
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{where}: not a JSON value: {error}", FAILED) from None
    return text


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _stream(args: argparse.Namespace, control: str, delay: float, max_attempts: int) -> int:
    if args.wait:
        raise Refusal("--wait is for one job", USAGE)
    end = open_queue(args, control)
    progress = Progress()
    try:
        count = end.stream(_lines(sys.stdin.buffer, progress), delay, max_attempts)
    except Refusal as refusal:
        raise Refusal(f"{refusal}; nothing was submitted", refusal.exit_code) from None
    finally:
        progress.clear()
        end.close()
    print(f"{count} jobs submitted" if count != 1 else "1 job submitted")
    return 0


def _lines(source: BinaryIO, progress: Progress) -> Iterator[str]:
    """Yield one payload of each line that is not blank."""
    number = 0
    while raw := source.readline(MAX_PAYLOAD + 2):
        number += 1
        stripped = raw.strip()
        if len(stripped) > MAX_PAYLOAD:
            raise Refusal(f"standard input:{number}: longer than {MAX_PAYLOAD} bytes", FAILED)
        if stripped:
            yield _checked(stripped, f"standard input:{number}")
            progress.show(number)


class Progress:
    """How far it is, for people: on a terminal only."""

    def __init__(self) -> None:
        self._shown = False
        self._visible = sys.stderr is not None and sys.stderr.isatty()

    def show(self, count: int) -> None:
        """Tell every thousandth."""
        if self._visible and count % wire.CHUNK_JOBS == 0:
            self._shown = True
            sys.stderr.write(f"\r{count:,} jobs ")
            sys.stderr.flush()

    def clear(self) -> None:
        """Leave nothing behind."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


# --wait


def _wait(args: argparse.Namespace, control: str, end: ClientQueue, id: int) -> int:
    """Wait for a job's end, over restarts of its keeper; print its result."""
    while True:
        try:
            ended = end.wait(id)
            break
        except QueueGone:
            end.close()
            end = open_queue(args, control)
    result = ended.get("result") or _evidence(ended).get("result")
    if isinstance(result, str):
        result = json.loads(result)
    if result is not None:
        print(json.dumps(result))
    if ended["state"] != "done":
        say(f"graced: job {id} {_fate(ended)}")
    return _status(ended, result, command=bool(args.words))


def _status(ended: dict[str, Any], result: Any, *, command: bool) -> int:
    """Return a command's own exit status, 128 + N for a signal; else 0 or 1."""
    if command and isinstance(result, dict):
        if isinstance(result.get("exit"), int):
            return int(result["exit"])
        if isinstance(result.get("signal"), int):
            return 128 + int(result["signal"])
    return 0 if ended["state"] == "done" else FAILED


def _evidence(job: dict[str, Any]) -> dict[str, Any]:
    text = job.get("evidence")
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {"reason": str(found)}


def _fate(job: dict[str, Any]) -> str:
    if job["state"] == "gone":
        return "was dropped"
    attempts = job.get("attempts", 0)
    tries = f"{attempts} attempt{'s' if attempts != 1 else ''}"
    reason = _evidence(job).get("reason", "nobody knows why")
    return f"is {job['state']} after {tries}: {reason}"


# graced jobs


def _jobs(args: argparse.Namespace, control: str) -> int:
    if args.action:
        return _change(args, control)
    if args.ids:
        raise Refusal("jobs: write retry or drop before the numbers", USAGE)
    end = open_queue(args, control, must_exist=True)
    show = _as_json if args.json else Table()
    for job in _all(end, args.state):
        print(show(job))
    return 0


def _all(end: ClientQueue | None, state: str | None) -> Iterator[dict[str, Any]]:
    after = 0
    while end is not None:
        page = end.jobs(state, after, PAGE)
        if not page:
            return
        yield from page
        after = page[-1]["id"]


def _change(args: argparse.Namespace, control: str) -> int:
    ids = [_id(text) for text in args.ids]
    if not ids:
        raise Refusal(f"jobs {args.action}: write the numbers of the jobs", USAGE)
    end = open_queue(args, control)
    refused = (end.retry if args.action == "retry" else end.drop)(ids)
    end.close()
    for id, why in refused.items():
        say(f"graced: job {id}: {why}")
    return FAILED if refused else 0


def _id(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise Refusal(f"jobs: {text!r} is not the number of a job", USAGE)
    return int(text)


def _as_json(job: dict[str, Any]) -> str:
    """Return one line with everything that is known of a job."""
    shown = {key: job[key] for key in ("id", "state", "attempts", "max_attempts", "owner")}
    for moment in ("submitted", "due", "ended"):
        at = job[moment]
        shown[moment] = None if at is None else _iso(at)
    for value in ("payload", "result", "evidence"):
        shown[value] = _parsed(job[value])
    return json.dumps(shown)


def _parsed(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:  # what a stranger has put into the queue
        return text


def _iso(at: float) -> str:
    from graced.host.clock import iso

    return iso(round(at * 1000) * 1_000_000)


class Table:
    """One job a line, for people; the first line comes with the head."""

    LONGEST = 100

    def __init__(self) -> None:
        self._head = f"{'ID':>8}  {'STATE':8} {'TRIES':>5}  {'AGE':>6}  WHAT\n"

    def __call__(self, job: dict[str, Any]) -> str:
        """Return a job's line."""
        head, self._head = self._head, ""
        age = _age(time.time() - job["submitted"])
        what = _shortened(_what(_parsed(job["payload"])), self.LONGEST)
        why = _evidence(job).get("reason")
        if why and job["state"] != "done":
            what += f"  ({_shortened(str(why), self.LONGEST)})"
        tries = job["attempts"]
        return f"{head}{job['id']:>8}  {job['state']:8} {tries:>5}  {age:>6}  {one_line(what)}"


def _what(payload: Any) -> str:
    if isinstance(payload, dict) and isinstance(payload.get("argv"), list):
        from shlex import join

        return join(str(word) for word in payload["argv"])
    return json.dumps(payload)


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


# Where the queue is


def open_queue(
    args: argparse.Namespace, control: str, *, must_exist: bool = False
) -> ClientQueue | Any:
    """Return the pool's queue: its keeper's if a daemon runs, else its file.

    With ``must_exist`` None if there is no file. Raises Refusal or QueueError.
    """
    end = time.monotonic() + PATIENCE
    while True:
        found = _answering(os.path.dirname(control), args.pool)
        if found is not None:
            return found
        running = _is_running(control)
        if not running:
            try:
                return _open_file(args, must_exist)
            except _Occupied as occupied:  # a keeper that is about to listen, or to leave
                trouble: Exception = occupied.trouble
        else:
            trouble = Refusal(_no_queue(args.pool), FAILED)
        if time.monotonic() > end:
            raise trouble
        time.sleep(LOOK)


def _no_queue(pool: str | None) -> str:
    who = "no pool" if pool is None else f"no pool {pool!r}"
    return f"the running daemon has {who} whose workers take jobs"


def _answering(folder: str, pool: str | None) -> ClientEnd | None:
    """Return the keeper that listens in a folder; Refusal if there are several."""
    names = [f"queue-{pool}.sock"] if pool is not None else _sockets(folder)
    found = {}
    for name in names:
        try:
            found[name] = ClientEnd(os.path.join(folder, name))
        except QueueGone:  # a name that a keeper has left behind
            continue
    if len(found) > 1:
        pools = ", ".join(n.removeprefix("queue-").removesuffix(".sock") for n in found)
        raise Refusal(f"several pools have a queue: {pools}; say which with --pool", USAGE)
    return next(iter(found.values()), None)


def _sockets(folder: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(n for n in names if n.startswith("queue-") and n.endswith(".sock"))


def _is_running(control: str) -> bool:
    try:
        wire.connect(control).close()
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        return False
    except OSError:  # it is there, and we may not or cannot talk to it now
        return True
    return True


class _Occupied(Exception):
    """Somebody else has the file."""

    def __init__(self, trouble: QueueError) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble


def _open_file(args: argparse.Namespace, must_exist: bool) -> FileEnd | None:
    from graced.host import runtimedir
    from graced.jobs.queue import locate
    from graced.jobs.sqlite import Occupied

    settings = _settings(args)
    pool = _pool(settings, args.pool)
    try:
        folder = _state_dir(settings, make=not must_exist)
    except runtimedir.Unusable as error:
        raise Refusal(str(error), error.exit_code) from None
    file = locate(pool.queue, pool.name, folder)
    if must_exist and not os.path.exists(file):
        return None
    try:
        _drop_root(settings)
        return FileEnd(file, pool)
    except Occupied as occupied:
        raise _Occupied(occupied) from None


def _state_dir(settings: Settings, *, make: bool) -> str:
    from graced.host import runtimedir

    if not make:
        return runtimedir.find_state(settings.name, settings.state_dir, os.environ)
    owner = _owner(settings)
    return runtimedir.state_path(settings.name, settings.state_dir, os.environ, owner)


def _settings(args: argparse.Namespace) -> Settings:
    from graced.host import configfile

    reading = configfile.read(args.config, os.environ, args.set)
    if reading.settings is None:
        problems = "\n".join(map(str, reading.problems))
        raise Refusal(f"no daemon runs, and its configuration is wrong:\n{problems}", WRONG)
    return reading.settings


def _pool(settings: Settings, wanted: str | None) -> Pool:
    pools = settings.pools
    if wanted is not None:
        if wanted not in pools:
            raise Refusal(f"there is no pool {wanted!r}; there are {', '.join(pools)}", USAGE)
        return pools[wanted]
    likely = [p for p in pools.values() if p.queue or p.worker == "graced.workers:Command"]
    candidates = likely or list(pools.values())
    if len(candidates) != 1:
        names = ", ".join(pool.name for pool in candidates)
        raise Refusal(f"no daemon runs; say which pool with --pool: {names}", USAGE)
    return candidates[0]


def _owner(settings: Settings) -> tuple[int, int] | None:
    """Return whose the queue's folder and file have to be, if we are root."""
    from graced.host import process

    if os.geteuid() != 0 or (settings.user is None and settings.group is None):
        return None
    try:
        uid, gid, *_ = process.account(settings.user, settings.group)
    except process.ProcessError as error:
        raise Refusal(str(error), WRONG) from None
    return uid, gid


def _drop_root(settings: Settings) -> None:
    """Become the daemon's user: what root writes into a queue, that user could not."""
    from graced.host import process

    if os.geteuid() == 0:
        try:
            process.change_user(settings.user, settings.group)
        except process.ProcessError as error:
            raise Refusal(str(error), WRONG) from None


class FileEnd:
    """A queue's file, opened by ourselves: no keeper has it, and none gets it meanwhile."""

    def __init__(self, file: str, pool: Pool) -> None:
        from graced.jobs.ledger import Ledger
        from graced.jobs.policy import Policy
        from graced.jobs.sqlite import Store

        self._store = Store(file)
        self._ledger = Ledger(self._store, Policy.of(pool), lambda: 0.5)
        self._tidy()

    def submit(
        self, payloads: Sequence[str], delay: float = 0.0, max_attempts: int = 0
    ) -> Sequence[int]:
        """Accept all the payloads durably, or none: return their ids, or raise QueueError."""
        first, count = self._ledger.submit(payloads, delay, max_attempts, _now())
        self._ledger.commit(_now())
        return range(first, first + count)

    def stream(self, payloads: Iterable[str], delay: float = 0.0, max_attempts: int = 0) -> int:
        """Accept any number of payloads, all or none, in bounded memory; return how many."""
        ledger = self._ledger
        stream = ledger.open_stream()
        try:
            for chunk in chunks(payloads):
                ledger.stage(stream, chunk, max_attempts, _now())
                ledger.commit(_now())
            count = ledger.seal(stream, delay, _now())
            ledger.commit(_now())
        except BaseException:
            ledger.refuse_submits()
            ledger.scrap(stream)
            raise
        self._tidy()
        return count

    def wait(self, job: int) -> dict[str, Any]:
        """Return the listing of a job that has ended; there is nobody to wait for."""
        found = self._store.listing(job) or {"id": job, "state": "gone"}
        if found["state"] in ("waiting", "taken"):
            raise Refusal(f"the daemon is gone; job {job} stays in the queue", NO_DAEMON)
        return found

    def jobs(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        """Return a page of jobs in the order of their ids, beginning after one."""
        from graced.jobs.row import SHOWN

        return self._store.page(SHOWN[state], after, limit, 1 << 30)

    def retry(self, ids: Sequence[int]) -> dict[int, str]:
        """Make jobs due now, dead ones with all their attempts; return the refusals by id."""
        refused = self._ledger.retry(ids, _now())
        self._ledger.commit(_now())
        return refused

    def drop(self, ids: Sequence[int]) -> dict[int, str]:
        """Forget jobs that nobody works on; return the refusals by id."""
        refused = self._ledger.drop(ids)
        self._ledger.commit(_now())
        return refused

    def counts(self) -> dict[str, Any]:
        """Return how many jobs there are in each state."""
        return self._ledger.counts(_now())

    def close(self) -> None:
        """Let a keeper have the file."""
        self._store.close()

    def _tidy(self) -> None:
        while self._ledger.untidy:
            self._ledger.tidy(_now())


def _now() -> int:
    return time.time_ns() // 1_000_000
