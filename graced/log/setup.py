"""The log that the settings ask for: text, JSON or the journal; standard error or a file."""

from __future__ import annotations

import os

from graced.log.journal import journal_output
from graced.log.logger import Log
from graced.log.output import Output
from graced.log.sinks import FileSink, sink_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from graced import settings


def open_log(wanted: settings.Log, environ: Mapping[str, str], fd: int | None = None) -> Log:
    """Open the log that the settings ask for; OSError if its file can't be opened.

    `fd`: its file, which is open already and which this process may not be able to open.
    """
    format = wanted.format
    is_journal = wanted.file is None and speaks_to_journal(2, environ)
    if format == "auto":
        format = "journal" if is_journal else "text"
    if format == "journal" and is_journal:
        output = journal_output(wanted.level, 2)
        if output is not None:
            return Log(output=output)
    sink = sink_of(2) if wanted.file is None else FileSink(wanted.file, fd)
    return Log(output=Output(wanted.level, format, sink))


def speaks_to_journal(fd: int, environ: Mapping[str, str]) -> bool:
    """Return whether `fd` is the stream named by JOURNAL_STREAM, see systemd.exec(5)."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
