"""A worker's word to the benchmark: its process, the time, and what happened."""

import os
import time

_events = os.open(os.environ["EVENTS"], os.O_WRONLY | os.O_CLOEXEC)


def say(word: bytes) -> None:
    """Write one line to the FIFO, whole."""
    os.write(_events, b"%d %d %s\n" % (os.getpid(), time.monotonic_ns(), word))


_handled = 0
_every = int(os.environ.get("SAY_EVERY", "50"))


def handled() -> None:
    """Count a job; say every fiftieth, or as the environment says."""
    global _handled
    _handled += 1
    if _handled % _every == 0:
        say(b"fifty" if _every == 50 else b"some")
