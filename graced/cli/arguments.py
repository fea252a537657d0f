"""What may be written after `graced`: the commands, their options, and how values are read.

What a command does is found by :mod:`graced.cli.main`.
"""

from __future__ import annotations

import argparse
import os
import sys

from graced import program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


class Formatter(argparse.HelpFormatter):
    """argparse's, which asks shutil how wide a terminal is: that takes long to import."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size().columns or 80  # 0: not known
    except OSError:  # it is no terminal
        return 80


class Parser(argparse.ArgumentParser):
    """argparse's, which takes no notice of what it can't print where Python buffers nothing."""

    commands: Mapping[str, Parser] = {}

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords, formatter_class=Formatter, allow_abbrev=False)

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is not None and file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)


def parser(only: str | None = None) -> Parser:
    """Return what reads a command line; its `command` is the command's name.

    `only` makes it know that command alone: to enter all the options of all takes long.
    """
    parser = Parser(
        prog=program.name,
        description="Runs pools of worker processes, reloads them safely, and loses no work.",
        epilog=f"'{program.name} COMMAND --help' explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"{program.name} {program.version}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, what, options in COMMANDS:
        if only not in (None, name) or _is_hidden(name):
            continue
        command = commands.add_parser(
            name, help=what, description=what[0].upper() + what[1:] + "."
        )
        command.set_defaults(command=name)
        options(command)
    parser.commands = commands.choices
    return parser


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read a command line: a command's options may stand anywhere among its other words.

    argparse can't do that for commands within commands, so the command's own parser is asked.
    What follows -- is the user's command line, dashes and all. Raises SystemExit, once it has
    printed why.
    """
    words, tail = _split(words)
    only = [name for name, *_ in COMMANDS if [name] == words[:1] and not _is_hidden(name)]
    whole = parser(*only)
    if not only:
        return whole.parse_args(words)
    args = whole.commands[words[0]].parse_intermixed_args(words[1:])
    if tail is not None:
        if args.command not in ("submit", "try"):
            whole.error(f"only {program.name} submit and try take a command line after --")
        args.words += tail
    return args


def _is_hidden(name: str) -> bool:
    """Whether it is a command of graced's users, not of theirs."""
    return name == "new" and program.name != "graced"


def _split(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str] | None]:
    """Take a command line off at its --."""
    if "--" not in words:
        return words, None
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _config_options(parser: Parser, assignment: Callable[[str], str]) -> None:
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help=f"the configuration (else $GRACED_CONFIG, ./config.yaml, {program.config})",
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        type=assignment,
        help="one value over the file's, such as pools.jobs.workers=8; may be repeated",
    )


def _client_options(parser: Parser) -> None:
    _config_options(parser, _known_assignment)
    parser.add_argument(
        "--socket",
        metavar="PATH",
        type=_not_empty,
        help="the daemon's control socket (else $GRACED_SOCKET, or found by the configuration)",
    )


def _not_empty(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty: write a path")
    return text


def _assignment(text: str) -> str:
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return text


def _known_assignment(text: str) -> str:
    """Refuse what would be passed over unseen: then another daemon than the one meant is asked."""
    from graced.config.identity import flag_problem

    problem = flag_problem(_assignment(text))
    if problem is not None:
        raise argparse.ArgumentTypeError(problem)
    return text


def _duration(text: str) -> float:
    from graced.units import duration

    try:
        return duration(text)
    except ValueError as error:
        problem = f"cannot read {text!r} as a duration: {error}; write 30s, 5m or 2h"
        raise argparse.ArgumentTypeError(problem) from None


def _delay(text: str) -> float:
    from graced.queue.job import is_delay

    seconds = _duration(text)
    if not is_delay(seconds):
        raise argparse.ArgumentTypeError(f"{text!r} is more than ten years")
    return seconds


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _attempts(text: str) -> int:
    from graced.settings import MOST_ATTEMPTS

    count = _count(text)
    if not 1 <= count <= MOST_ATTEMPTS:
        raise argparse.ArgumentTypeError(f"a job has 1 to {MOST_ATTEMPTS} attempts, not {text}")
    return count


def _priority(text: str) -> int:
    from graced.queue.terms import HIGHEST, Terms

    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 9:
        problem = f"{text!r} is not a whole number from -{HIGHEST} to {HIGHEST}"
        raise argparse.ArgumentTypeError(problem)
    _refuse(Terms(priority=int(text)).problem())
    return int(text)


def _unique_key(text: str) -> str:
    from graced.queue.terms import Terms

    _refuse(Terms(unique=text).problem())
    return text


def _refuse(problem: str | None) -> None:
    if problem is not None:
        raise argparse.ArgumentTypeError(problem)


def _run(parser: Parser) -> None:
    _config_options(parser, _assignment)
    parser.add_argument(
        "--daemonize",
        action="store_true",
        help="leave the terminal; return when ready, or with the exit status",
    )
    parser.add_argument("--pidfile", metavar="FILE", help="where the daemon's number goes")


def _check(parser: Parser) -> None:
    _config_options(parser, _assignment)
    parser.add_argument(
        "--show",
        action="store_true",
        help="print the merged configuration and where each value was set",
    )


def _try(parser: Parser) -> None:
    _config_options(parser, _assignment)
    parser.add_argument("pool", metavar="POOL", help="the pool's name")
    parser.add_argument(
        "--json", metavar="VALUE", help="the payload of the job (else null); without a queue"
    )
    parser.add_argument("words", metavar="-- COMMAND", nargs="*", help="a command line to run")


def _doctor(parser: Parser) -> None:
    _client_options(parser)
    parser.add_argument(
        "--ignore",
        metavar="DIRECTIVE",
        action="append",
        default=[],
        help="what is meant to be as it is, such as ProtectHome; may be repeated",
    )
    parser.add_argument(
        "unit",
        metavar="UNIT",
        nargs="?",
        help=f"the unit (else the running daemon's, else {program.name}.service)",
    )


def _status(parser: Parser) -> None:
    _client_options(parser)
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def _metrics(parser: Parser) -> None:
    _client_options(parser)
    parser.add_argument("--openmetrics", action="store_true", help="as OpenMetrics 1.0")


def _history(parser: Parser) -> None:
    _client_options(parser)
    parser.add_argument(
        "--since", metavar="TIME", type=_duration, default=86400.0, help="so far back (1d)"
    )
    parser.add_argument("--pool", metavar="P", help="of this pool, and of all pools together")
    parser.add_argument("--json", action="store_true", help="as JSON, one event a line")
    parser.add_argument("--svg", metavar="FILE", help="draw it as a timeline into this file")


def _health(parser: Parser) -> None:
    _client_options(parser)
    parser.add_argument(
        "--ready", action="store_true", help="and every pool has all its workers ready"
    )
    parser.add_argument(
        "--max-dead", metavar="N", type=_count, help="and no queue has more dead jobs"
    )
    parser.add_argument(
        "--max-oldest", metavar="TIME", type=_duration, help="and no due job waits for longer: 5m"
    )


def _stop(parser: Parser) -> None:
    _client_options(parser)
    parser.add_argument(
        "--now", action="store_true", help="interrupt the rounds in hand instead of finishing them"
    )


def _scale(parser: Parser) -> None:
    _client_options(parser)
    parser.add_argument("pool", metavar="POOL", help="the pool's name")
    parser.add_argument("workers", metavar="N", type=_count, help="how many workers")


def _submit(parser: Parser) -> None:
    _client_options(parser)
    parser.add_argument("--pool", metavar="P", help="the pool (needed where several have a queue)")
    parser.add_argument(
        "--json", metavar="VALUE", help="the job's payload; -: one JSON value a line from stdin"
    )
    parser.add_argument("--delay", metavar="TIME", type=_delay, help="not before: 30s, 5m")
    parser.add_argument(
        "--max-attempts", metavar="N", type=_attempts, help="dead after so many (else the pool's)"
    )
    parser.add_argument(
        "--priority",
        metavar="N",
        type=_priority,
        default=0,
        help="among due jobs the higher goes first: -100 to 100, 0 if not given",
    )
    parser.add_argument(
        "--unique",
        metavar="KEY",
        type=_unique_key,
        help="no second job while one with this key is open; prints its number",
    )
    parser.add_argument(
        "--wait", action="store_true", help="wait, print the result, exit with its status"
    )
    parser.add_argument("words", metavar="-- COMMAND", nargs="*", help="a command line to run")


def _jobs(parser: Parser) -> None:
    _client_options(parser)
    parser.add_argument("--pool", metavar="P", help="the pool (needed where several have a queue)")
    parser.add_argument(
        "--state", choices=("waiting", "taken", "done", "dead"), help="only jobs in this state"
    )
    parser.add_argument("--json", action="store_true", help="as JSON, for programs, one job a line")
    parser.add_argument(
        "action",
        nargs="?",
        choices=JobActions(("show", "log", "cancel", "retry", "drop")),
        help="tell all about jobs or print their log, end them, try them again, remove them",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="retry all dead jobs, drop all that no worker has in hand, cancel all that are not"
        " over; else those of --state",
    )
    parser.add_argument("ids", metavar="ID", nargs="*", help="the jobs that are meant")


class JobActions(tuple[str, ...]):
    """What can be done with jobs; a number where an action could stand is a job to be shown."""

    __slots__ = ()

    def __contains__(self, word: object) -> bool:
        """Whether a word may stand there."""
        return super().__contains__(word) or (isinstance(word, str) and word.isdecimal())


def _pause(parser: Parser) -> None:
    _client_options(parser)
    parser.add_argument("pool", metavar="POOL", help="the pool's name")


def _queue(parser: Parser) -> None:
    _config_options(parser, _assignment)
    parser.add_argument(
        "--pool", metavar="P", help="the pool (else all whose queue is on a server)"
    )
    parser.add_argument(
        "action",
        choices=("init", "status"),
        help="make the tables that a server needs, or tell how it is and which hosts share a queue",
    )
    parser.add_argument(
        "--print", action="store_true", dest="show", help="init: print what would be run instead"
    )
    parser.add_argument("--json", action="store_true", help="status: as JSON, for programs")


def _new(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the daemon, its command and its packages")
    parser.add_argument("--dir", metavar="DIR", help="the project's folder (else ./NAME)")
    parser.add_argument("--kind", choices=KINDS, default="jobs", help="what its workers do (jobs)")


KINDS = ("jobs", "loop", "async", "program", "socket")
COMMANDS = (
    ("run", "run in the foreground", _run),
    ("check", "tell what is wrong with the configuration", _check),
    ("try", "run one worker here, for one job or one round", _try),
    ("doctor", "tell what is wrong with how systemd runs it", _doctor),
    ("status", "show what runs now", _status),
    ("top", "show what runs now, live in a terminal", _client_options),
    ("metrics", "print the metrics, as Prometheus reads them", _metrics),
    ("history", "tell what has happened: deaths, reloads, scalings, stops, queues", _history),
    ("health", "tell whether enough workers can work, for probes", _health),
    ("reload", "load code and configuration anew, and wait", _client_options),
    ("stop", "stop, and wait until the daemon is gone", _stop),
    ("scale", "change a pool's size until the next reload", _scale),
    ("stacks", "print the Python stack of every process", _client_options),
    ("submit", "add a job to a queue", _submit),
    ("jobs", "list jobs, show, cancel, retry or drop them", _jobs),
    ("pause", "hand out no jobs of a pool's queue until it is resumed", _pause),
    ("resume", "hand out jobs of a pool's queue again", _pause),
    ("schedules", "show which jobs come by the clock, and when", _status),
    ("queue", "prepare a server for queues, tell how it is", _queue),
    ("new", "make a project of your own daemon", _new),
)
