"""Jobs that do nothing under huey: its consumer imports this, and it can be run to enqueue."""

import os
import statistics
import sys
import time
from collections.abc import Callable

from huey import SqliteHuey
from say import handled

fast = sys.argv[1:2] == ["fill"]  # what only prepares a run need not be durable
huey = SqliteHuey(filename=os.environ["QUEUE"], fsync=not fast)


@huey.task()
def nothing() -> None:
    handled()


def enqueue(task: Callable[[], object]) -> float:
    began = time.perf_counter_ns()
    task()
    return (time.perf_counter_ns() - began) / 1000


if __name__ == "__main__":
    import queue_huey  # under the name that the consumer knows its task by

    queue_huey.nothing()
    took = [enqueue(queue_huey.nothing) for _ in range(int(sys.argv[2]))]
    print(statistics.median(took))
