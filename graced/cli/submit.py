"""`graced submit`: from words on a command line to a queue, and with `--wait` back.

Where the queue is, is found out by :mod:`graced.client.find`.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from codecs import BOM_UTF8 as BOM
from contextlib import closing, contextmanager, suppress

from graced.cli.errors import CommandError
from graced.cli.job_table import evidence
from graced.cli.progress_bar import CLEARED, ProgressBar, on_terminal
from graced.cli.where import queue_place, socket_path
from graced.client.daemon import is_running
from graced.exitcodes import FAILED, NO_DAEMON, TIMED_OUT, USAGE
from graced.log.console import complain
from graced.queue import jsonvalue, wire
from graced.queue.job import MAX_PAYLOAD
from graced.queue.protocol import ClientQueue, QueueError, QueueGone
from graced.queue.terms import Terms

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO


def submit(args: argparse.Namespace) -> int:
    """Submit what the command line or standard input says; return the exit status."""
    control = socket_path(args)
    terms = _terms(args)
    if args.json == "-" and not args.words:
        return _stream(args, control, terms)
    payload = _payload(args)
    end = queue_place(args, control).open()
    if args.wait and not end.shared:
        raise CommandError("--wait: no daemon runs, so the job would not run", NO_DAEMON)
    with closing(end):
        [id] = end.submit([payload], terms)
        if args.wait:
            return _wait(args, control, end, id)
    _print(str(id), f"job {id} is submitted")
    return 0


def _terms(args: argparse.Namespace) -> Terms:
    return Terms(args.delay or 0.0, args.max_attempts or 0, args.priority, args.unique)


def _payload(args: argparse.Namespace) -> str:
    """Return the payload that the command line says, as JSON text."""
    if bool(args.words) == (args.json is not None):
        raise CommandError(
            "submit: write a command line after --, or --json VALUE, one of them", USAGE
        )
    if args.words:
        text = jsonvalue.written({"argv": args.words})
    else:
        text = _checked(os.fsencode(args.json).removeprefix(BOM), "--json", USAGE)
    if jsonvalue.size(text) > MAX_PAYLOAD:
        raise CommandError(f"a job is at most {MAX_PAYLOAD} bytes of JSON", USAGE)
    return text


def _checked(raw: bytes, where: str, status: int) -> str:
    """Return one JSON value's text; CommandError with this exit status if it is none."""
    try:
        text = raw.decode()
        jsonvalue.read(text)
    except UnicodeDecodeError:
        raise CommandError(f"{where}: not UTF-8", status) from None
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{where}: not a JSON value: {error}", status) from None
    return text


def _stream(args: argparse.Namespace, control: str, terms: Terms) -> int:
    if args.wait or args.unique is not None:
        raise CommandError(f"{'--wait' if args.wait else '--unique'} is for one job", USAGE)
    source = _standard_input()
    end = queue_place(args, control).open()
    progress = Progress(source)
    try:
        count = sum(map(len, end.stream(_lines(source, progress), terms)))
    except CommandError as refusal:
        raise CommandError(f"{refusal}; nothing was submitted", refusal.exit_code) from None
    finally:
        progress.clear()
        end.close()
    said = f"{count} jobs submitted" if count != 1 else "1 job submitted"
    _print(said, said)
    return 0


def _print(text: str, what: str) -> None:
    """Write to standard output, or say elsewhere what is done: it need not be done again."""
    try:
        print(text, flush=True)
    except OSError as error:
        if not isinstance(error, BrokenPipeError):
            complain(what)
        raise


def _standard_input() -> BinaryIO:
    if sys.stdin is None:  # closed, when Python started
        raise CommandError("--json -: standard input is closed; nothing was submitted", FAILED)
    source = sys.stdin.buffer
    os.set_blocking(source.fileno(), True)  # else what comes late is taken for the end
    return source


def _lines(source: BinaryIO, progress: Progress) -> Iterator[str]:
    """Yield one payload of each line that is not blank."""
    number = 0
    while raw := _line(source):
        number += 1
        stripped = (raw.removeprefix(BOM) if number == 1 else raw).strip()
        if len(stripped) > MAX_PAYLOAD:
            raise CommandError(f"standard input:{number}: longer than {MAX_PAYLOAD} bytes", FAILED)
        if stripped:
            yield _checked(stripped, f"standard input:{number}", FAILED)
            progress.show(number, len(raw))


def _line(source: BinaryIO) -> bytes:
    try:
        return source.readline(MAX_PAYLOAD + len(BOM) + 2)
    except OSError as error:
        raise CommandError(f"standard input: {error.strerror or error}", FAILED) from None


class Progress:
    """How far it is, for people: on a terminal only, by rich; a count alone where that is missing.

    Of a file it is known how much is left.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._visible = on_terminal()
        self._shown = False
        self._bytes = 0
        self._bar: Any = None
        if self._visible:
            with suppress(ImportError):
                self._bar = _bar(source)

    def show(self, count: int, size: int) -> None:
        """Tell every thousandth; `size` bytes have been read of the last one."""
        self._bytes += size
        if not self._visible or count % wire.CHUNK_JOBS:
            return
        if self._bar is not None:
            self._bar.update(0, completed=self._bytes, description=f"{count:,} jobs")
            return
        self._shown = True
        sys.stderr.write(f"\r{count:,} jobs ")
        sys.stderr.flush()

    def clear(self) -> None:
        """Leave nothing behind."""
        if self._bar is not None:
            self._bar.stop()
        if self._shown:
            sys.stderr.write(CLEARED)
            sys.stderr.flush()


def _bar(source: BinaryIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    found = os.fstat(source.fileno())
    left = (BarColumn(), TimeRemainingColumn()) if stat.S_ISREG(found.st_mode) else ()
    columns = SpinnerColumn(), TextColumn("{task.description}"), *left
    bar = Bar(*columns, console=Console(stderr=True), transient=True)
    bar.add_task("0 jobs", total=found.st_size if left else None)
    bar.start()
    return bar


# --wait


def _wait(args: argparse.Namespace, control: str, end: ClientQueue, id: int) -> int:
    """Wait for a job's end, over restarts of its keeper; print its result."""
    with _progress_bar(args, control, id) as watch:
        while True:
            try:
                watch(end)
                ended = end.wait(id)
                break
            except QueueGone:
                end.close()
                end = _next_end(args, control, id)
    if ended["state"] in ("waiting", "taken"):  # so says its file: no daemon runs
        raise _gone(id)
    done, result = ended["state"] == "done", _result(ended)
    if done or result is not None:
        print(json.dumps(result))
    if not done:
        complain(f"job {id} {_fate(ended)}")
    command = bool(args.words) or "result" in evidence(ended)  # or one that came as JSON
    return _status(ended, result, command=command)


@contextmanager
def _progress_bar(
    args: argparse.Namespace, control: str, id: int
) -> Iterator[Callable[[ClientQueue], None]]:
    """Show on a terminal how far a job is, while the end that is handed in waits for it."""
    from graced.queue.client_end import ClientEnd

    if not on_terminal():
        yield lambda _end: None
        return
    bar = ProgressBar(queue_place(args, control).keeper)
    bar.job = id

    def watch(end: ClientQueue) -> None:
        if isinstance(end, ClientEnd):
            end.sleep = bar.sleep

    try:
        yield watch
    finally:
        bar.close()


def _next_end(args: argparse.Namespace, control: str, id: int) -> ClientQueue:
    """Return where the job is now that its keeper is gone; CommandError if its daemon is, too."""
    try:
        end = queue_place(args, control).find()
    except (CommandError, QueueError):  # the right to submit is none to the file
        if is_running(control):
            raise
        raise _gone(id) from None
    if end is None:
        raise _gone(id)
    return end


def _gone(id: int) -> CommandError:
    return CommandError(f"the daemon is gone; job {id} stays in the queue", NO_DAEMON)


def _result(ended: dict[str, Any]) -> Any:
    """Return what handle() returned, or what is known of how a command that failed has ended."""
    text = ended.get("result")
    return evidence(ended).get("result") if text is None else json.loads(text)


def _status(ended: dict[str, Any], result: Any, *, command: bool) -> int:
    """Return 0 for what is done. Else a command's status, as a shell has it; 1 for all others."""
    if ended["state"] == "done":
        return 0
    if not command:
        return FAILED
    if evidence(ended).get("timed_out"):
        return TIMED_OUT
    status = result.get("exit") if isinstance(result, dict) else None
    number = result.get("signal") if isinstance(result, dict) else None
    if isinstance(number, int):
        status = 128 + number
    # A command may have left with 0 and have failed all the same; 256 would come out as 0, too.
    return status if isinstance(status, int) and 0 < status < 256 else FAILED


def _fate(job: dict[str, Any]) -> str:
    if job["state"] == "gone":
        return "was dropped"
    attempts = job.get("attempts", 0)
    tries = f"{attempts} attempt{'s' if attempts != 1 else ''}"
    reason = evidence(job).get("reason", "no reason was recorded")
    return f"is {job['state']} after {tries}: {reason}"
