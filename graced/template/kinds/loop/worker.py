"""Looks again and again how full a file system is."""

import shutil

from graced import Worker


class DiskWatch(Worker):
    """``options``: ``path``, ``limit`` in percent, ``every`` so many seconds."""

    def setup(self) -> None:
        """In the new process; the worker is ready when this returns."""
        self.path = str(self.options.get("path", "/"))
        self.limit = float(self.options.get("limit", 90))
        self.every = float(self.options.get("every", 60))

    def step(self) -> None:
        """One round. What is raised is logged, and the next round is begun."""
        usage = shutil.disk_usage(self.path)
        percent = 100 * usage.used / usage.total
        if percent > self.limit:
            self.log.warning("%s is %.1f %% full", self.path, percent)
        else:
            self.log.info("%s: %.1f %% of %.0f %%", self.path, percent, self.limit)
        self.wait(self.every)  # as time.sleep() does, but it ends at once when asked to stop
