"""What a pool is configured with lies in no other pool's memory."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

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


def with_tag(daemon: Daemon) -> Daemon:
    """Have `!file` in the configuration, which is made of plain data."""
    return daemon.write_config(daemon.config.read_text().replace(": FILE ", ": !file "))


TELLS = """
import hashlib, os
from sample_workers import Idle, say

class Tells(Idle):
    def setup(self):
        for text in (os.environ["FROM_FILE"], self.options["key"]):
            say("has", hashlib.sha256(text.encode()).hexdigest())
"""


def test_what_stands_in_files_reaches_the_worker_alone_and_is_read_anew(daemon: Daemon) -> None:
    daemon.module("tells", TELLS)
    daemon.environ["CREDENTIALS_DIRECTORY"] = str(daemon.home)
    pool = {
        "worker": "tells:Tells",
        "path": [str(daemon.home), str(TESTS)],
        "env_file": "jobs.env",
        "options": {"key": "FILE ${CREDENTIALS_DIRECTORY}/key"},
    }
    daemon.configure({"jobs": pool, "commands": {"queue": "FILE url"}})
    with_tag(daemon)
    (daemon.home / "url").write_text("sqlite:///from_file.db\n")
    secrets = []
    for generation in (1, 2):
        variable, option = secret(), secret()
        secrets += [variable[0], option[0]]
        (daemon.home / "jobs.env").write_text(f"# of the shop\nFROM_FILE='{variable[0]}'\n")
        (daemon.home / "key").write_text(option[0] + "\n")
        if generation == 1:
            daemon.start().ready()
        else:
            assert daemon.run("reload").returncode == 0
        daemon.events.wait(f"^has {variable[1]}$")
        daemon.events.wait(f"^has {option[1]}$")
    assert daemon.run("submit", "--pool", "commands", "--", "true").returncode == 0
    assert (daemon.home / "state" / "from_file.db").exists()
    (daemon.home / "key").unlink()
    refused = daemon.run("reload")
    assert refused.returncode == 1
    assert f"pools.jobs.options.key: {daemon.home}/key: no such file" in refused.stderr
    (daemon.home / "key").write_text(secrets[-1])
    shown = [daemon.run(*words).stdout for words in (("check", "--show"), ("stacks",))]
    assert "!file" in shown[0]
    lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in daemon.left()]
    said = [str(daemon.status()), str(daemon.log), str(daemon.notices), *shown, *lines]
    for text in secrets:
        assert not [each for each in said if text in each]


def test_no_pool_has_the_secrets_of_another_in_its_memory(daemon: Daemon) -> None:
    """A zygote is a copy of the main process, which had read all of them; after a reload too."""
    daemon.module("search", SEARCH)
    mine, env, option = secret(), secret(), secret()
    digests = {"mine": mine[1], "env": env[1], "option": option[1]}
    (daemon.home / "jobs.env").write_text(f"PASSWORD={env[0]}\n")
    (daemon.home / "key").write_text(option[0])
    other = {
        "worker": "sample_workers:Silent",
        "env_file": "jobs.env",
        "options": {"key": "FILE key"},
    }
    pool = {
        "worker": "search:Search",
        "path": [str(daemon.home), str(TESTS)],
        "options": {"digests": digests, "password": mine[0]},
    }
    daemon.configure({"a": pool, "b": other})
    with_tag(daemon).start().ready()
    for generation in (1, 2):
        daemon.events.wait("^(mine|env|option) ", 3 * generation)
        told = [line.text for line in daemon.events.matching("^(mine|env|option) ")][-3:]
        assert sorted(told) == ["env missing", "mine found", "option missing"]
        if generation == 1:
            assert daemon.run("reload").returncode == 0
