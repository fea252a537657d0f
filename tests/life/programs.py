"""A program that a pool runs: serves inherited sockets, says what it hears, does as it is told.

    python programs.py [word…]

notify: says READY=1 once it has begun, by the descriptor of systemd. serve: answers each caller
with its number, until it has heard SIGTERM and the caller in hand is served. slow: takes a moment
over it. tells: of each caller. ignore: hears no SIGTERM. large: takes 50 MB. stopping: says so on
SIGUSR1.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time

WORDS = set(sys.argv[1:])
wake, woken = os.pipe()
os.set_blocking(woken, False)
signal.set_wakeup_fd(woken)


def notify(text: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text.encode(), os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))


def on_term(number: int, frame: object) -> None:
    os.write(1, f"heard {signal.Signals(number).name}\n".encode())  # a print may be under way
    if "ignore" not in WORDS:
        WORDS.add("over")


def on_usr1(number: int, frame: object) -> None:
    notify("STOPPING=1")


def answer(listener: socket.socket) -> None:
    try:
        caller = listener.accept()[0]
    except BlockingIOError:
        return
    with caller:
        caller.settimeout(30)
        if "tells" in WORDS:
            print("has a caller", flush=True)
        said = caller.recv(100)
        time.sleep(0.1 if "slow" in WORDS else 0)
        caller.sendall(b"%d 0 " % os.getpid() + said)


for number in (signal.SIGTERM, signal.SIGQUIT):
    signal.signal(number, on_term)
signal.signal(signal.SIGUSR1, on_usr1)
waiting: list[int | socket.socket] = [wake]
if "serve" in WORDS:
    assert os.environ["LISTEN_PID"] == str(os.getpid())
    names = os.environ["LISTEN_FDNAMES"].split(":")
    assert len(names) == int(os.environ["LISTEN_FDS"])
    waiting += [socket.socket(fileno=3 + index) for index in range(len(names))]
if "large" in WORDS:
    kept = b"x" * (50 << 20)
print("begins", *sys.argv[1:], os.getcwd(), os.environ.get("ROLE", ""), flush=True)
if "notify" in WORDS:
    notify("STATUS=warming up")
    notify("READY=1")
while "over" not in WORDS:
    for each in select.select(waiting, [], [])[0]:
        if isinstance(each, socket.socket):
            answer(each)
        else:
            os.read(wake, 100)
print("ends", flush=True)
