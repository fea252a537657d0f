"""Jobs that do nothing under litequeue, with a process for each worker."""

import os
import signal
import sys

from litequeue import LiteQueue
from say import handled

word, count = sys.argv[1], int(sys.argv[2])
path = os.environ["QUEUE"]


def consume() -> None:
    queue = LiteQueue(path, timeout=60)
    queue.conn.execute("PRAGMA synchronous=FULL")
    while message := queue.pop():
        queue.done(message.message_id)
        handled()


if word == "fill":
    queue = LiteQueue(path)
    queue.conn.execute("PRAGMA synchronous=OFF")
    for _ in range(count):
        queue.put("null")
    queue.close()
else:
    for _ in range(count):
        if os.fork() == 0:
            consume()
            os._exit(0)
    signal.pause()
