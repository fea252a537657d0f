"""The limit: a bare program that forks workers, keeps up their number, and ends them.

It does the least that could be called a pool: no log, no configuration, no guarantees.
"""

import os
import signal
import sys
import time

if "HEAVY" in os.environ:
    import table  # noqa: F401

events = os.open(os.environ["EVENTS"], os.O_WRONLY)
heeded = {signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP}
workers: set[int] = set()
stopping = False


def say(word: bytes) -> None:
    os.write(events, b"%d %d %s\n" % (os.getpid(), time.monotonic_ns(), word))


def start_worker() -> None:
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, heeded)
        say(b"ready")
        if "CRASH" in os.environ:
            os._exit(1)
        while True:
            signal.pause()
    workers.add(pid)


def reap() -> None:
    while workers:
        gone, _ = os.waitpid(-1, os.WNOHANG)
        if not gone:
            break
        workers.discard(gone)
        if not stopping:
            start_worker()


signal.pthread_sigmask(signal.SIG_BLOCK, heeded)
for _ in range(int(sys.argv[1])):
    start_worker()
while workers:
    number = signal.sigwait(heeded)
    if number == signal.SIGCHLD:
        reap()
        continue
    stopping = number == signal.SIGTERM
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
