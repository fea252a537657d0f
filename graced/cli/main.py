"""The commands; the only place that wires the parts."""

from __future__ import annotations

import os
import sys

from graced.exitcodes import BROKEN_PIPE, BUG, CONFIG, FAILED, INTERRUPTED
from graced.log.console import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import Any, Final

    from graced.config.reader import ConfigReading

    Arguments = argparse.Namespace
    Parser = argparse.ArgumentParser

PATIENCE: Final = 30.0  # seconds for answers that need no waiting
PROBE: Final = 5.0  # seconds in which a healthy daemon has answered


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    _open_standard_streams()
    words = list(sys.argv[1:] if argv is None else argv)
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
        say(f"graced: {error.strerror}: raise LimitNOFILE= of the unit, or ulimit -n")
        return CONFIG
    except Exception as error:  # noqa: BLE001 - what nobody has foreseen is a bug, and has its code
        return _bug(error)


def _bug(error: Exception) -> int:
    from traceback import format_exception

    say("graced: a bug in graced; please report it:\n" + "".join(format_exception(error)))
    return BUG


def _open_standard_streams() -> None:
    """Open those that are closed: the first file opened would be taken for one of them."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number, this one


def _forget_standard_output() -> None:
    """Nobody reads it: let the interpreter's own flush at exit go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)


# graced run


def _run(config: str | None, sets: list[str]) -> int:
    from graced.host import descriptors, signals

    descriptors.remember_open_fds(os.environ.get("LISTEN_FDS"))
    signals.install()  # before what takes long to import: PID 1 loses what has no handler
    reading, again = _read(config, sets)
    if reading.settings is None:
        _tell_systemd(CONFIG, str(reading.problems[0]))
        return _tell(reading)
    return _start(reading, again)


def _run_as_told(args: Arguments) -> int:
    if not args.daemonize:
        if args.pidfile is not None:
            say("graced run: --pidfile goes with --daemonize")
            return 2
        return _run(args.config, args.set)
    return _daemonize(args.config, args.set, args.pidfile)


def _daemonize(config: str | None, sets: list[str], pidfile: str | None) -> int:
    from graced.cli import daemonize
    from graced.config import reader
    from graced.host import descriptors, memoryfile, signals
    from graced.supervisor.start import prepare, start

    descriptors.remember_open_fds(None)
    path = reader.whole(reader.find(config, os.environ))  # it will leave this folder
    reading, again = _read(path, sets)
    settings = reading.settings
    if settings is None:
        return _tell(reading)
    log_file = settings.log.file
    if log_file is None:
        say(f"{path}: log.file: --daemonize has no terminal to write to; set log.file to a file")
        return CONFIG
    prepared = prepare(settings, os.environ, pidfile and reader.whole(pidfile))
    if isinstance(prepared, int):
        return prepared

    def body() -> int:
        signals.install()
        return start(settings, again, os.environ, prepared)

    [log] = prepared.log.keep()
    keep = prepared.descriptors() | memoryfile.kept_descriptors(settings)
    return daemonize.run(body, log_file, log, prepared.pidfile, keep)


def _read(config: str | None, sets: list[str]) -> tuple[ConfigReading, Callable[[], ConfigReading]]:
    """Read the configuration; also return how to read the same again."""
    from graced.config import reader, reader_process

    path = reader.find(config, os.environ)

    def again() -> ConfigReading:
        return reader_process.read(path, os.environ, sets)

    return again(), again


def _start(reading: ConfigReading, again: Callable[[], ConfigReading]) -> int:
    from graced.supervisor.start import prepare, start

    assert reading.settings is not None
    prepared = prepare(reading.settings, os.environ)
    if isinstance(prepared, int):
        return prepared
    return start(reading.settings, again, os.environ, prepared)


def _tell_systemd(status: int, why: str) -> None:
    """Have `systemctl status` say why there is no daemon."""
    from graced.host.notify import farewell

    farewell(os.environ, status, why)


def _tell(reading: ConfigReading) -> int:
    for problem in reading.problems:
        say(str(problem))
    return CONFIG


# Commands that ask a running daemon


def _status(args: Arguments) -> int:
    status = _ask(args, "status")["status"]
    if args.json:
        from json import dumps

        print(dumps(status))
    else:
        from graced.cli.status_table import table

        print(table(status), end="")
    return 0


def _health(args: Arguments) -> int:
    reply = _ask(args, "health", timeout=PROBE)
    if not reply["healthy"]:
        _show(f"unhealthy: {reply['health']}")
        return FAILED
    if args.ready and not reply["ready"]:
        _show(f"not ready: {reply['status']}")
        return FAILED
    _show(f"healthy: {reply['status'] if args.ready else reply['health']}")
    return 0


def _reload(args: Arguments) -> int:
    from graced.config.identity import KEYS

    for flag in args.set:
        key = flag.partition("=")[0]
        if key not in KEYS:
            say(f"graced: --set {key} has no effect on a daemon that runs: change the file")
    reply = _ask(args, "reload", timeout=None)
    generation = reply.get("generation")
    print("reloaded" if generation is None else f"reloaded: generation {generation}")
    return 0


def _stop(args: Arguments) -> int:
    from graced.control.client import Connection

    with Connection(_socket(args)) as connection:
        reply = connection.call("stop", {"now": args.now})
        connection.wait_gone()
    if reply.get("error"):
        say(f"graced: {reply['error']}")
    return int(reply.get("code", 0 if reply.get("ok") else FAILED))


def _scale(args: Arguments) -> int:
    reply = _ask(args, "scale", {"pool": args.pool, "workers": args.workers})
    _show(f"{reply.get('pool')}: {reply.get('from')} → {reply.get('to')} workers")
    return 0


def _stacks(args: Arguments) -> int:
    for entry in _ask(args, "stacks")["stacks"]:
        _show(f"== {_process(entry)}")
        _show(entry.get("stack", "").rstrip("\n") + "\n")
    return 0


def _show(text: str) -> None:
    """Print what a daemon says: its workers may have said it before."""
    from graced.text import harmless

    print(harmless(text))


def _process(entry: dict[str, Any]) -> str:
    if "pool" not in entry:
        return f"{entry.get('process')} process (pid {entry.get('pid')})"
    where = f"{entry.get('process')} {entry['pool']}/{entry.get('slot')}"
    return f"{where} (pid {entry.get('pid')}, generation {entry.get('generation')})"


def _ask(
    args: Arguments,
    command: str,
    arguments: dict[str, Any] | None = None,
    timeout: float | None = PATIENCE,
) -> dict[str, Any]:
    from graced.control.client import ControlError, call

    reply = call(_socket(args), command, arguments, timeout)
    if not reply.get("ok"):
        raise ControlError(str(reply.get("error") or f"{command} failed, without a reason"))
    return reply


def _socket(args: Arguments) -> str:
    """Return where the daemon listens, whether it does or not. Raises WhichDaemon."""
    from graced.config import reader
    from graced.host import directories, unixsocket

    named = _named_socket(args)
    user = reader.read_user(args.config, os.environ, args.set)
    if user is not None:
        unixsocket.know(user)
    if named is not None:
        return named
    from graced.config.identity import UnknownDaemonError
    from graced.control.client import WhichDaemon

    try:
        name, folder = reader.read_identity(args.config, os.environ, args.set)
    except UnknownDaemonError as error:
        raise WhichDaemon(f"{error}; or say with --socket where the daemon is") from None
    return os.path.join(directories.find(name, folder, os.environ, user), directories.SOCKET)


def _named_socket(args: Arguments) -> str | None:
    """Return the control socket that the user has named: then no other daemon will do."""
    return args.socket or os.environ.get("GRACED_SOCKET") or None


# Other commands


def _check(args: Arguments) -> int:
    from graced.cli.check import check
    from graced.config import reader

    return check(reader.read(args.config, os.environ, args.set), args.show)


def _doctor(args: Arguments) -> int:
    from graced.control.client import ControlError, NoDaemonError
    from graced.doctor.facts import doctor

    pid = None
    if args.unit is None or args.config is not None:
        _socket(args)  # which daemon is meant is known, or said not to be
    if args.unit is None:
        try:
            pid = _ask(args, "status")["status"]["pid"]
        except (ControlError, NoDaemonError, OSError):  # then it looks at what would be started
            if _named_socket(args) is not None:
                raise
    return doctor(args.unit, args.config, args.set, pid, args.ignore)


def _submit(args: Arguments) -> int:
    from graced.cli.jobs import submit

    return submit(args, _socket(args))


def _jobs(args: Arguments) -> int:
    from graced.cli.jobs import jobs

    return jobs(args, _socket(args))


# The command line


def _obey(words: list[str]) -> int:
    if words[:1] == ["run"]:
        import gc

        gc.disable()  # imports make no garbage; the supervisor enables it again
    elif sys.stdout is not None:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        args = _parsed(words)
    except SystemExit as leave:  # argparse: 0 after --help, 2 after a bad command line
        return _left(leave)
    except OSError as error:
        return _failed(error)
    return _run_as_told(args) if args.do is _run_as_told else _ask_daemon(args, words[0])


def _ask_daemon(args: Arguments, command: str) -> int:
    """Do what is no `graced run`; tell what goes wrong on the way to a daemon or a file."""
    from graced.control.client import ControlError, NoDaemonError

    _be_known_as(command)
    try:
        status = int(args.do(args))
        _flush()
        return status
    except (ControlError, NoDaemonError) as error:
        say(f"graced: {error}")
        return error.exit_code
    except OSError as error:
        return _failed(error)


def _left(leave: SystemExit) -> int:
    try:
        _flush()
    except OSError as error:
        return _failed(error)
    return leave.code if isinstance(leave.code, int) else FAILED


def _flush() -> None:
    """Write what is buffered: what is written at exit can't be reported any more."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _failed(error: OSError) -> int:
    if isinstance(error, BrokenPipeError):
        raise error
    where = f"{error.filename}: " if error.filename else ""
    say(f"graced: {where}{error.strerror or error}")
    _forget_standard_output()
    return FAILED


def _be_known_as(command: str) -> None:
    """Be no `graced` to pgrep(1): that is the main process alone. See prctl(2), PR_SET_NAME."""
    try:
        with open("/proc/self/comm", "w", encoding="ascii", errors="replace") as comm:
            comm.write(f"graced-{command}"[:15])
    except OSError:  # no /proc: then nobody looks there either
        pass


def _parser() -> Parser:
    from graced.cli.arguments import parser

    return parser(WORK)


def _parsed(words: list[str]) -> Arguments:
    """Return what a command line says. Raises SystemExit, after telling why on standard error."""
    from graced.cli.arguments import parse

    words, tail = _split(words)
    args = parse(WORK, words)
    if tail is not None:
        if args.do is not _submit:
            _parser().error("only 'graced submit' takes a command line after --")
        args.words += tail
    return args


def _split(words: list[str]) -> tuple[list[str], list[str] | None]:
    """Take a command line off at its --: what follows is the user's, dashes and all."""
    if "--" not in words:
        return words, None
    at = words.index("--")
    return words[:at], words[at + 1 :]


WORK: Final = {
    "run": _run_as_told,
    "check": _check,
    "doctor": _doctor,
    "status": _status,
    "health": _health,
    "reload": _reload,
    "stop": _stop,
    "scale": _scale,
    "stacks": _stacks,
    "submit": _submit,
    "jobs": _jobs,
}
