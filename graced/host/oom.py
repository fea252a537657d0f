"""Out of memory as a fact: the kernel counts whom it killed in a control group.

See "memory.events" in the kernel's cgroup-v2 documentation; version 1 has the
same counter in ``memory.oom_control``.
"""

from __future__ import annotations

import os

CGROUPS = "/proc/self/cgroup"
MOUNTS = "/proc/self/mounts"


class OomKills:
    """The kills of this process's own control group that nobody has asked about yet."""

    def __init__(self, file: str | None = None) -> None:
        self._file = file if file is not None else find()
        self._seen = self._count()

    def one_more(self) -> bool:
        """Whether a kill was counted that was not accounted for; accounts for one."""
        if self._count() <= self._seen:
            return False
        self._seen += 1
        return True

    def _count(self) -> int:
        if self._file is None:
            return 0
        try:
            with open(self._file, encoding="ascii", errors="replace") as lines:
                for line in lines:
                    key, _, value = line.partition(" ")
                    if key == "oom_kill":
                        return int(value)
        except (OSError, ValueError):  # the group is gone, or this kernel doesn't count
            pass
        return 0


def find(cgroups: str = CGROUPS, mounts: str = MOUNTS) -> str | None:
    """Return the file in which the kernel counts for our control group, if there is one."""
    try:
        with open(cgroups, encoding="utf-8", errors="replace") as lines:
            groups = [line.rstrip("\n").split(":", 2) for line in lines]
        with open(mounts, encoding="utf-8", errors="replace") as lines:
            mounted = [line.split(" ") for line in lines]
    except OSError:
        return None
    for _, controllers, path in (group for group in groups if len(group) == 3):
        for kind, name, wanted in (
            ("cgroup2", "memory.events", controllers == ""),
            ("cgroup", "memory.oom_control", "memory" in controllers.split(",")),
        ):
            for where in (m[1] for m in mounted if wanted and len(m) > 3 and m[2] == kind):
                file = os.path.join(where, path.lstrip("/"), name)
                if os.access(file, os.R_OK):
                    return file
    return None
