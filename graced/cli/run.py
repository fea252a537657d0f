"""`graced run`: from the configuration to a daemon, in the foreground or away from the terminal."""

from __future__ import annotations

import os

from graced.exitcodes import CONFIG, USAGE
from graced.log.console import complain, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from graced.config.reader import ConfigReading


def run(args: argparse.Namespace) -> int:
    """Run the daemon; return its exit status."""
    if not args.daemonize:
        if args.pidfile is not None:
            complain("run: --pidfile goes with --daemonize")
            return USAGE
        return _foreground(args.config, args.set)
    return _daemonize(args.config, args.set, args.pidfile)


def _foreground(config: str | None, sets: list[str]) -> int:
    from graced.host import descriptors, signals

    descriptors.remember_open_fds(os.environ.get("LISTEN_FDS"))
    signals.install()  # before what takes long to import: PID 1 loses what has no handler
    reading, again = _read(config, sets)
    if reading.settings is None:
        _tell_systemd(CONFIG, str(reading.problems[0]))
        return _tell(reading)
    return _start(reading, again)


def _daemonize(config: str | None, sets: list[str], pidfile: str | None) -> int:
    from graced.cli import daemonize
    from graced.config import reader
    from graced.host import descriptors, memoryfile, signals
    from graced.supervisor.start import prepare, start

    descriptors.remember_open_fds(os.environ.get("LISTEN_FDS"))
    path = reader.absolute_path(reader.find(config, os.environ))  # it will leave this folder
    reading, again = _read(path, sets)
    settings = reading.settings
    if settings is None:
        return _tell(reading)
    log_file = settings.log.file
    if log_file is None:
        say(f"{path}: log.file: --daemonize has no terminal to write to; set log.file to a file")
        return CONFIG
    prepared = prepare(settings, os.environ, pidfile and reader.absolute_path(pidfile))
    if isinstance(prepared, int):
        return prepared

    def body() -> int:
        signals.install()
        return start(settings, again, os.environ, prepared)

    prepared.config = path
    [log] = prepared.log.keep()
    keep = prepared.descriptors() | memoryfile.kept_descriptors(settings)
    return daemonize.run(body, log_file, log, prepared.pidfile, keep)


def _read(config: str | None, sets: list[str]) -> tuple[ConfigReading, Callable[[], ConfigReading]]:
    """Read the configuration; also return how to read the same again."""
    from graced.config import reader, reader_process

    path = reader.find(config, os.environ)

    def again() -> ConfigReading:
        return reader_process.read(path, os.environ, sets)

    return reader_process.read(path, os.environ, sets, _import_supervisor), again


def _import_supervisor() -> None:
    """Import what takes as long as a configuration does to be read."""
    import graced.supervisor.start  # noqa: F401


def _start(reading: ConfigReading, again: Callable[[], ConfigReading]) -> int:
    from graced.config.files import absolute_path
    from graced.supervisor.start import prepare, start

    assert reading.settings is not None
    prepared = prepare(reading.settings, os.environ)
    if isinstance(prepared, int):
        return prepared
    prepared.config = absolute_path(reading.path)
    return start(reading.settings, again, os.environ, prepared)


def _tell_systemd(status: int, why: str) -> None:
    """Have `systemctl status` say why there is no daemon."""
    from graced.host.notify import farewell

    farewell(os.environ, status, why)


def _tell(reading: ConfigReading) -> int:
    for problem in reading.problems:
        say(str(problem))
    return CONFIG
