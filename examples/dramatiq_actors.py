"""The actors of a dramatiq broker, in threads of workers that graced starts, reloads and drains.

    pools:
      actors:
        worker: dramatiq_actors:Actors
        path: [examples, src]
        workers: cpus
        drain_timeout: 2m
        options: {module: shop.actors, threads: 8}

It stands in for the command `dramatiq`. A drain lets actors finish what they have begun; messages
that were fetched and not begun go back to the broker.
"""

from __future__ import annotations

from importlib import import_module

import dramatiq

from graced import Worker

LONG_MS = 3_600_000  # that actors may take to finish: the stop ladder of graced comes first


class Actors(Worker):
    """``options``: ``module``, which declares broker and actors; ``threads``."""

    def setup(self) -> None:
        import_module(self.options["module"])
        threads = int(self.options.get("threads", 8))
        self.consumer = dramatiq.Worker(dramatiq.get_broker(), worker_threads=threads)
        self.consumer.start()

    def step(self) -> None:
        self.wait()

    def teardown(self) -> None:
        self.consumer.stop(timeout=LONG_MS)
