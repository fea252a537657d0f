"""Reads the command line, has the command done, and makes exit statuses of what goes wrong."""

from __future__ import annotations

import os
import sys

from graced import program
from graced.exitcodes import BROKEN_PIPE, BUG, CONFIG, FAILED, INTERRUPTED, ReportedError
from graced.log.console import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import NoReturn


def command(prog: str, version: str, config: str | None = None) -> NoReturn:
    """Be the command line of a daemon of one's own, and exit with its status.

    It is graced's under another name: `prog` is in help and errors, is the default of the
    configuration's `name`, with the folders that follow from it, and the processes' name.
    `config` is where an installed daemon has its configuration, else /etc/PROG/config.yaml.
    """
    import re

    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", prog) is None:
        raise ValueError(f"prog={prog!r}: write a letter, then letters, digits and . _ -")
    program.be(prog, version, config or f"/etc/{prog}/config.yaml")
    if os.environ.get("GRACED_PROG", prog) != prog:  # a worker of another daemon has started it
        for name in ("GRACED_SOCKET", "GRACED_CONFIG"):
            os.environ.pop(name, None)
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    if argv is None and sys.getfilesystemencoding() != "utf-8":
        _start_again_in_utf8()
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["run"] and "--daemonize" not in words:
        _hold_signals()
    _open_standard_streams()
    try:
        return _obey(words)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _forget_standard_output()
        return BROKEN_PIPE
    except OSError as error:
        from errno import EMFILE, ENFILE

        if error.errno not in (EMFILE, ENFILE):
            return _bug(error)
        complain(f"{error.strerror}: raise LimitNOFILE= of the unit, or ulimit -n")
        return CONFIG
    except ImportError as error:
        closed = _closed_folder()
        if closed is None:
            return _bug(error)
        complain(f"{closed}: {error}: this user may not read the folder; chmod a+rX it")
        return CONFIG
    except Exception as error:  # noqa: BLE001 - what was not foreseen is a bug, and has its code
        return _bug(error)


def _closed_folder() -> str | None:
    """Return a folder of the program's code that this user may not read; None: there is none."""
    for folder, inner, _ in os.walk(os.path.dirname(os.path.dirname(__file__))):
        for path in (os.path.join(folder, name) for name in inner):
            if not os.access(path, os.R_OK | os.X_OK):
                return path
    return None


def _bug(error: Exception) -> int:
    from traceback import format_exception

    complain("a bug in graced; please report it:\n" + "".join(format_exception(error)))
    return BUG


def _start_again_in_utf8() -> None:
    """Name files as the configuration does, which is UTF-8; in another locale some have no name."""
    if sys.executable and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _hold_signals() -> None:
    """Keep those that ask for a stop until the daemon has its handlers, and takes them up."""
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


def _open_standard_streams() -> None:
    """Open those that are closed: the first file opened would be taken for one of them."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number, this one
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _forget_standard_output() -> None:
    """Its reader is gone: let the interpreter's own flush at exit go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)


def _obey(words: list[str]) -> int:
    if words[:1] == ["run"]:
        import gc

        gc.disable()  # imports make no garbage; the supervisor enables it again
    else:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    from graced.cli.arguments import parse

    try:
        args = parse(words)
    except SystemExit as leave:  # argparse: 0 after --help, 2 after a bad command line
        return _left(leave)
    except OSError as error:
        return _failed(error)
    if args.command == "run":
        from graced.cli.run import run

        return run(args)
    return _guarded(args)


def _guarded(args: argparse.Namespace) -> int:
    """Do what is no `graced run`; tell what goes wrong on the way to a daemon or a file."""
    _be_known_as(args.command)
    try:
        try:
            status = _perform(args)
        except ReportedError as error:
            complain(error)
            status = error.exit_code
        _flush()
        return status
    except OSError as error:
        return _failed(error)


def _perform(args: argparse.Namespace) -> int:
    match args.command:
        case "check":
            from graced.cli.check import check

            return check(args)
        case "new":
            from graced.cli.new import new

            return new(args)
        case "doctor":
            from graced.cli.doctor import doctor

            return doctor(args)
        case "try":
            from graced.cli.trial import try_worker

            return try_worker(args)
        case "submit":
            from graced.cli.submit import submit

            return submit(args)
        case "jobs" | "pause" | "resume":
            from graced.cli import jobs

            return jobs.COMMANDS[args.command](args)
        case "top":
            from graced.cli.top import top

            return top(args)
        case "queue":
            from graced.cli import queue_commands

            return queue_commands.COMMANDS[args.action](args)
        case "metrics" | "history":
            from graced.cli import monitoring_commands

            return monitoring_commands.COMMANDS[args.command](args)
    from graced.cli import daemon_commands

    return daemon_commands.COMMANDS[args.command](args)


def _left(leave: SystemExit) -> int:
    try:
        _flush()
    except OSError as error:
        return _failed(error)
    return leave.code if isinstance(leave.code, int) else FAILED


def _flush() -> None:
    """Write what is buffered: what is written at exit can't be reported any more."""
    sys.stdout.flush()


def _failed(error: OSError) -> int:
    if isinstance(error, BrokenPipeError):
        raise error
    where = f"{error.filename}: " if error.filename else ""
    complain(f"{where}{error.strerror or error}")
    _forget_standard_output()
    return FAILED


def _be_known_as(command: str) -> None:
    """Not be the program to pgrep(1): that is the main process alone. See prctl(2), PR_SET_NAME."""
    try:
        with open("/proc/self/comm", "w", encoding="ascii", errors="replace") as comm:
            comm.write(program.process_name(command))
    except OSError:  # no /proc: then pgrep finds nothing either
        pass
