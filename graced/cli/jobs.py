"""`graced submit` and `graced jobs`: from words on a command line to a queue, and back.

Where the queue is, is found out by :mod:`graced.client.find`; how a job is shown is in
:mod:`graced.cli.job_table`; what a queue can be asked is in :mod:`graced.queue.protocol`.
"""

from __future__ import annotations

import json
import os
import sys
from codecs import BOM_UTF8 as BOM
from contextlib import contextmanager

from graced.cli.errors import CommandError
from graced.cli.job_table import Table, evidence, in_full, json_line, json_whole
from graced.cli.where import socket_path, where
from graced.client.daemon import daemon_pid, is_running
from graced.client.find import ConfiguredPlace, Manner
from graced.exitcodes import FAILED, NO_DAEMON, TIMED_OUT, USAGE
from graced.log.console import complain
from graced.queue import jsonvalue, wire
from graced.queue.job import MAX_PAYLOAD
from graced.queue.protocol import ClientQueue, QueueError, QueueGone, QueueView
from graced.queue.terms import Terms

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO

PAGE_JOBS = 500  # asked for at once


def _place(args: argparse.Namespace, control: str) -> ConfiguredPlace:
    """Return where the pool's queue is looked for."""
    manner = Manner(complain, naming="--pool", become_owner=True)
    return ConfiguredPlace(where(args), lambda: control, manner)


# graced submit


def _submit(args: argparse.Namespace, control: str) -> int:
    terms = _terms(args)
    if args.json == "-" and not args.words:
        return _stream(args, control, terms)
    payload = _payload(args)
    end = _place(args, control).open()
    if args.wait and not end.shared:
        raise CommandError("--wait: no daemon runs, so the job would not run", NO_DAEMON)
    [id] = end.submit([payload], terms)
    if args.wait:
        return _wait(args, control, end, id)
    print(id)
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
        text = _checked(os.fsencode(args.json).removeprefix(BOM), "--json")
    if jsonvalue.size(text) > MAX_PAYLOAD:
        raise CommandError(f"a job is at most {MAX_PAYLOAD} bytes of JSON", USAGE)
    return text


def _checked(raw: bytes, where: str) -> str:
    """Return one JSON value's text; CommandError if it is none."""
    try:
        text = raw.decode()
        jsonvalue.read(text)
    except UnicodeDecodeError:
        raise CommandError(f"{where}: not UTF-8", FAILED) from None
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{where}: not a JSON value: {error}", FAILED) from None
    return text


def _stream(args: argparse.Namespace, control: str, terms: Terms) -> int:
    if args.wait or args.unique is not None:
        raise CommandError(f"{'--wait' if args.wait else '--unique'} is for one job", USAGE)
    source = _standard_input()
    end = _place(args, control).open()
    progress = Progress()
    try:
        count = sum(map(len, end.stream(_lines(source, progress), terms)))
    except CommandError as refusal:
        raise CommandError(f"{refusal}; nothing was submitted", refusal.exit_code) from None
    finally:
        progress.clear()
        end.close()
    print(f"{count} jobs submitted" if count != 1 else "1 job submitted")
    return 0


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
            yield _checked(stripped, f"standard input:{number}")
            progress.show(number)


def _line(source: BinaryIO) -> bytes:
    try:
        return source.readline(MAX_PAYLOAD + len(BOM) + 2)
    except OSError as error:
        raise CommandError(f"standard input: {error.strerror or error}", FAILED) from None


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
    from graced.cli.progress_bar import ProgressBar, on_terminal
    from graced.queue.client_end import ClientEnd

    if not on_terminal():
        yield lambda _end: None
        return
    bar = ProgressBar(_place(args, control).keeper)
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
        end = _place(args, control).find()
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


# graced jobs


def _jobs(args: argparse.Namespace, control: str) -> int:
    if args.action and args.action.isdecimal():
        args.action, args.ids = "show", [args.action, *args.ids]
    if args.action in ("show", "log"):
        return (_show if args.action == "show" else _log)(args, control)
    if args.action:
        return _change(args, control)
    if args.all:
        raise CommandError("jobs: --all goes with cancel, retry or drop", USAGE)
    end = _place(args, control).view()
    show = json_line if args.json else Table()
    for job in _all(end, args.state):
        print(show(job))
    return 0


def _show(args: argparse.Namespace, control: str) -> int:
    """Tell all about single jobs."""
    ids = [_id(text) for text in args.ids]
    if not ids or args.all or args.state:
        raise CommandError("jobs show: write the numbers of the jobs", USAGE)
    end = _place(args, control).view()
    refused = {}
    for id in ids:
        job = None if end is None else end.job(id)
        if job is None:
            refused[id] = "no such job"
        else:
            print(json_whole(job) if args.json else in_full(job))
    return _refused(refused)


def _log(args: argparse.Namespace, control: str) -> int:
    """Print what was logged of jobs; FAILED if that was nothing."""
    from graced.cli.job_log import print_from_file, print_from_journal

    ids = [_id(text) for text in args.ids]
    if not ids or args.all or args.state or args.json:
        raise CommandError("jobs log: write the numbers of the jobs", USAGE)
    pool, file = _place(args, control).log()
    if file is not None:
        found, where = print_from_file(file, pool, ids), file
    else:
        found, where = print_from_journal(daemon_pid(control), pool, ids), "the journal"
    if not found:
        complain(f"nothing of this in {where}; what only a terminal has seen is kept nowhere")
    return 0 if found else FAILED


def _all(end: QueueView | None, state: str | None) -> Iterator[dict[str, Any]]:
    after = 0
    while end is not None:
        page = end.jobs(state, after, PAGE_JOBS)
        if not page:
            return
        yield from page
        after = page[-1]["id"]


def _change(args: argparse.Namespace, control: str) -> int:
    ids = [_id(text) for text in args.ids]
    if bool(ids) == args.all:
        raise CommandError(f"jobs {args.action}: write the numbers of the jobs, or --all", USAGE)
    end = _place(args, control).find()
    if args.all:
        return _change_all(args, end)
    refused = dict.fromkeys(ids, "no such job") if end is None else _changed(args, end, ids)
    if end is not None:
        end.close()
    return _refused(refused)


def _refused(refused: dict[int, str]) -> int:
    for id, why in refused.items():
        complain(f"job {id}: {why}")
    return FAILED if refused else 0


def _changed(args: argparse.Namespace, end: ClientQueue, ids: list[int]) -> dict[int, str]:
    acts = {"retry": end.retry, "drop": end.drop, "cancel": end.cancel}
    return acts[args.action](ids)


def _change_all(args: argparse.Namespace, end: ClientQueue | None) -> int:
    """Change all jobs of a state, those that there are now; tell how many."""
    state = args.state or ("dead" if args.action == "retry" else None)
    changed = 0
    refused: dict[int, str] = {}
    over = ("done", "dead") if args.action == "cancel" and state is None else ()
    ids = [job["id"] for job in _all(end, state) if job["state"] not in over]
    for at in range(0, len(ids), PAGE_JOBS):
        assert end is not None
        some = ids[at : at + PAGE_JOBS]
        no = _changed(args, end, some)
        refused |= no
        changed += len(some) - len(no)
    if end is not None:
        end.close()
    did = {"retry": "retried", "drop": "dropped", "cancel": "cancelled"}[args.action]
    print(f"{changed} jobs {did}" if changed != 1 else f"1 job {did}")
    return _refused(refused)


def _id(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise CommandError(f"jobs: {text!r} is not the number of a job", USAGE)
    return int(text)


# graced pause, graced resume


def _pause(args: argparse.Namespace, control: str) -> int:
    end = _place(args, control).open()
    end.pause(args.command == "pause")
    end.close()
    return 0


COMMANDS = {
    "pause": lambda args: _pause(args, socket_path(args)),
    "resume": lambda args: _pause(args, socket_path(args)),
    "submit": lambda args: _submit(args, socket_path(args)),
    "jobs": lambda args: _jobs(args, socket_path(args)),
}
