"""`graced jobs`, `graced pause` and `graced resume`.

How a job is shown is in :mod:`graced.cli.job_table`; what a queue can be asked is in
:mod:`graced.queue.protocol`.
"""

from __future__ import annotations

from graced.cli.errors import CommandError
from graced.cli.job_table import Table, in_full, json_line, json_whole
from graced.cli.where import queue_place, socket_path
from graced.client.daemon import daemon_pid
from graced.exitcodes import FAILED, USAGE
from graced.log.console import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any

    from graced.queue.protocol import ClientQueue, QueueView

PAGE_JOBS = 500  # asked for at once


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
    end = queue_place(args, control).view()
    show = json_line if args.json else Table()
    for job in _all(end, args.state):
        print(show(job))
    if end is not None:
        end.close()
    return 0


def _show(args: argparse.Namespace, control: str) -> int:
    """Tell all about single jobs."""
    ids = [_id(text) for text in args.ids]
    if not ids or args.all or args.state:
        raise CommandError("jobs show: write the numbers of the jobs", USAGE)
    end = queue_place(args, control).view()
    refused = {}
    for id in ids:
        job = None if end is None else end.job(id)
        if job is None:
            refused[id] = "no such job"
        else:
            print(json_whole(job) if args.json else in_full(job))
    if end is not None:
        end.close()
    return _refused(refused)


def _log(args: argparse.Namespace, control: str) -> int:
    """Print what was logged of jobs; FAILED if that was nothing."""
    from graced.cli.job_log import print_from_file, print_from_journal

    ids = [_id(text) for text in args.ids]
    if not ids or args.all or args.state or args.json:
        raise CommandError("jobs log: write the numbers of the jobs", USAGE)
    pool, file = queue_place(args, control).log()
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
    end = queue_place(args, control).find()
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
    end = queue_place(args, control).open()
    end.pause(args.command == "pause")
    end.close()
    return 0


COMMANDS = {
    "pause": lambda args: _pause(args, socket_path(args)),
    "resume": lambda args: _pause(args, socket_path(args)),
    "jobs": lambda args: _jobs(args, socket_path(args)),
}
