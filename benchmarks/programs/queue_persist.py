"""Jobs that do nothing under persist-queue, with a thread for each worker."""

import os
import sys
import threading

from persistqueue import SQLiteAckQueue
from say import handled

word, count = sys.argv[1], int(sys.argv[2])
path = os.path.splitext(os.environ["QUEUE"])[0]
queue = SQLiteAckQueue(path, multithreading=True)


def consume() -> None:
    while True:
        queue.ack(queue.get())
        handled()


if word == "fill":
    queue._putter.execute("PRAGMA synchronous=OFF")
    for _ in range(count):
        queue.put("null")
    queue.close()
else:
    queue._putter.execute("PRAGMA synchronous=FULL")
    for _ in range(count):
        threading.Thread(target=consume).start()
