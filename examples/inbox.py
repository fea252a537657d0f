"""Have each file that is dropped into a folder compressed, by a job: twice seen, once submitted.

    pools:
      inbox:
        worker: inbox:Inbox
        path: [examples]
        options: {folder: /srv/inbox}
      jobs:
        worker: graced.workers:Command
        workers: cpus

The unique key is the file and the moment of its last change. While a job with this key waits or is
in hand, a second look, a second watcher or one that was started anew gets the number of that job.
"""

from __future__ import annotations

import os
import time

from graced import QueueError, Worker

QUIET = 1.0  # a file that was changed so many seconds ago may still be being written


class Inbox(Worker):
    """One round is one look. ``options``: ``folder``, ``look`` (seconds), ``pool``."""

    def setup(self) -> None:
        self.jobs = self.queue(self.options.get("pool", "jobs"))
        self.submitted: set[str] = set()  # a file whose job is dead is not submitted for ever

    def step(self) -> None:
        keys = {}
        for entry in os.scandir(self.options["folder"]):
            if not entry.name.startswith(".") and not entry.name.endswith(".gz"):
                try:
                    changed = entry.stat().st_mtime
                except FileNotFoundError:  # it has just been compressed
                    continue
                if time.time() - changed > QUIET:
                    keys[f"{entry.name[:150]} {changed}"] = entry.path
        for key in keys.keys() - self.submitted:
            self.submit(key, keys[key])
        self.submitted &= keys.keys()
        self.wait(float(self.options.get("look", 1)))

    def submit(self, key: str, path: str) -> None:
        try:
            number = self.jobs.submit({"argv": ["gzip", "--", path]}, unique=key)
        except QueueError as error:  # at the next look again
            self.log.warning("%s: %s", path, error)
        else:
            self.submitted.add(key)
            self.log.info("%s: job %d", path, number)
