"""What a pool is configured with lies in no other pool's memory."""

from __future__ import annotations

import hashlib
import os

from daemon_harness import TESTS, Daemon

SEARCH = """
import hashlib
from sample_workers import Idle, say

MARK, SIZE = b"secret".hex().encode(), 44

def kept():
    \"\"\"Yield what stands after each mark: what is looked for is in no text of ours.\"\"\"
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
        for line in maps.readlines():
            first, last = (int(at, 16) for at in line.split()[0].split("-"))
            if line.split()[1][0] != "r" or line.rstrip().endswith("[vvar]"):
                continue
            try:
                memory.seek(first)
                data = memory.read(last - first)
            except (OSError, ValueError, OverflowError):
                continue
            at = data.find(MARK)
            while at >= 0:
                yield data[at:at + SIZE]
                at = data.find(MARK, at + 1)

class Search(Idle):
    def step(self):
        found = {hashlib.sha256(text).hexdigest() for text in kept()}
        for name, digest in self.options["digests"].items():
            say(name, "found" if digest in found else "missing")
        super().step()
"""


def secret() -> tuple[str, str]:
    text = b"secret".hex() + os.urandom(16).hex()
    return text, hashlib.sha256(text.encode()).hexdigest()


def test_no_pool_has_the_secrets_of_another_in_its_memory(daemon: Daemon) -> None:
    """A zygote is a copy of the main process, which had read all of them; after a reload too."""
    daemon.module("search", SEARCH)
    mine, env, option = secret(), secret(), secret()
    digests = {"mine": mine[1], "env": env[1], "option": option[1]}
    other = {
        "worker": "sample_workers:Silent",
        "env": {"PASSWORD": env[0]},
        "options": {"key": option[0]},
    }
    pool = {
        "worker": "search:Search",
        "path": [str(daemon.home), str(TESTS)],
        "options": {"digests": digests, "password": mine[0]},
    }
    daemon.configure({"a": pool, "b": other}).start().ready()
    for generation in (1, 2):
        daemon.events.wait("^(mine|env|option) ", 3 * generation)
        told = [line.text for line in daemon.events.matching("^(mine|env|option) ")][-3:]
        assert sorted(told) == ["env missing", "mine found", "option missing"]
        if generation == 1:
            assert daemon.run("reload").returncode == 0
