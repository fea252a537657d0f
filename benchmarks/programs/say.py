"""A worker's word to the benchmark: its process, the time, and what happened."""

import os
import time

_events = os.open(os.environ["EVENTS"], os.O_WRONLY | os.O_CLOEXEC)


def say(word: bytes) -> None:
    """Write one line to the FIFO, whole."""
    os.write(_events, b"%d %d %s\n" % (os.getpid(), time.monotonic_ns(), word))


_handled = 0


def handled() -> None:
    """Count a job; say every fiftieth."""
    global _handled
    _handled += 1
    if _handled % 50 == 0:
        say(b"fifty")
