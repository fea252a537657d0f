"""Idle workers under cotyledon."""

import sys
import threading

import cotyledon
from say import say


class Idle(cotyledon.Service):
    def __init__(self, worker_id: int) -> None:
        super().__init__(worker_id)
        self.over = threading.Event()
        say(b"ready")

    def run(self) -> None:
        self.over.wait()

    def terminate(self) -> None:
        self.over.set()


if __name__ == "__main__":
    manager = cotyledon.ServiceManager()
    manager.add(Idle, workers=int(sys.argv[1]))
    manager.run()
