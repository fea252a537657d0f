"""Who is measured: graced, the bare fork loop, and peers; how each is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(__file__).parent / "programs"


@dataclass(frozen=True)
class Case:
    """What to run: so many workers of a kind."""

    workers: int = 4
    worker: str = "work:Idle"  # for graced
    pool: dict[str, Any] = field(default_factory=dict)  # more keys of graced's pool
    top: dict[str, Any] = field(default_factory=dict)  # more keys of its configuration
    heavy: bool = False  # over an import of 50 MB
    crash: bool = False  # a worker that is ready, and gone


class Contender:
    """A program that can be measured."""

    name = ""
    python = sys.executable
    packages: tuple[str, ...] = ()  # what is installed for it beside its own

    def command(self, case: Case, home: Path) -> list[str]:
        """Return the command line for a case; files go to `home`."""
        raise NotImplementedError

    def environment(self, case: Case) -> dict[str, str]:
        """Return what it needs in its environment."""
        return {"PYTHONPATH": str(PROGRAMS)}


class Graced(Contender):
    """The program that users start, with its configuration file."""

    name = "graced"

    def command(self, case: Case, home: Path) -> list[str]:
        """Write a configuration; return `graced run`."""
        return [*self.script(), "run", "-c", str(configure(case, home))]

    def environment(self, case: Case) -> dict[str, str]:
        """Return the environment of a clone that need not be installed."""
        return {"PYTHONPATH": str(ROOT)}

    def script(self) -> list[str]:
        """Return the installed command, or else the package's own way to be run."""
        script = Path(sys.executable).parent / "graced"
        return [str(script)] if script.exists() else [sys.executable, "-m", "graced"]


class Earlier(Graced):
    """Another version, by the path of its command: what an upgrade changes."""

    name = "earlier"

    def __init__(self, command: str) -> None:
        self._command = command

    def environment(self, case: Case) -> dict[str, str]:
        """Return nothing: it is installed."""
        return {}

    def script(self) -> list[str]:
        """Return its command."""
        return [self._command]


def configure(case: Case, home: Path, **more: Any) -> Path:
    """Write a configuration file, as people do."""
    worker = "heavy:Heavy" if case.heavy else case.worker
    pool = {
        "worker": worker,
        "workers": case.workers,
        "path": [str(PROGRAMS)],
        **case.pool,
        **more,
    }
    config = {
        "runtime_dir": str(home / "run"),
        "state_dir": str(home / "state"),
        **case.top,
        "pools": {"jobs": pool},
    }
    file = home / "config.yaml"
    file.write_text("".join(_yaml(config)))
    return file


def _yaml(mapping: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for key, value in mapping.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:\n"
            yield from _yaml(value, indent + "  ")
        else:
            said = f"[{', '.join(value)}]" if isinstance(value, list) else value
            yield f"{indent}{key}: {said}\n"


class Raw(Contender):
    """The bare fork loop."""

    name = "raw"

    def command(self, case: Case, home: Path) -> list[str]:
        """Return the fork loop's command line."""
        return [self.python, str(PROGRAMS / "raw.py"), str(case.workers)]

    def environment(self, case: Case) -> dict[str, str]:
        """Say by the environment what else it should do."""
        extra = {"HEAVY": "1"} if case.heavy else {}
        return {**super().environment(case), **extra, **({"CRASH": "1"} if case.crash else {})}


class Cotyledon(Contender):
    """https://pypi.org/project/cotyledon/"""

    name = "cotyledon"

    def command(self, case: Case, home: Path) -> list[str]:
        """Return the command line of a program over its service manager."""
        return [self.python, str(PROGRAMS / "peer_cotyledon.py"), str(case.workers)]


class Gunicorn(Contender):
    """https://pypi.org/project/gunicorn/"""

    name = "gunicorn"

    def command(self, case: Case, home: Path) -> list[str]:
        """Return its command line with synchronous workers, no control socket, no log of ours."""
        settings = str(PROGRAMS / "peer_gunicorn.py")
        line = [self.python, "-m", "gunicorn", "-c", settings, "-w", str(case.workers)]
        return [*line, "peer_gunicorn:application"]


class Huey(Contender):
    """https://pypi.org/project/huey/"""

    name = "huey"

    def command(self, case: Case, home: Path) -> list[str]:
        """Return its consumer's command line, with processes for workers."""
        line = [self.python, "-m", "huey.bin.huey_consumer", "peer_huey.huey"]
        return [*line, "-k", "process", "-w", str(case.workers)]


LIMIT = Raw()
OURS = Graced()
PEERS: list[Contender] = [Cotyledon(), Gunicorn(), Huey()]


def install_peers(folder: Path, peers: Sequence[Contender]) -> None:
    """Make a throw-away environment with the peers in it; pip's own cache speeds it up."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    names = sorted({name for peer in peers for name in (peer.name, *peer.packages)})
    subprocess.run([python, "-m", "pip", "install", "-qq", *names], check=True)
    for peer in peers:
        peer.python = python


def versions(peers: Sequence[Contender]) -> dict[str, str]:
    """Return the versions that are installed, by name."""
    line = [peers[0].python, "-m", "pip", "list", "--format", "json"]
    listed = subprocess.run(line, check=True, capture_output=True, text=True).stdout
    found = {package["name"]: package["version"] for package in json.loads(listed)}
    return {peer.name: found[peer.name] for peer in peers}


def base_environment() -> dict[str, str]:
    """Return the environment without what would change a contender's behaviour."""
    dropped = ("GRACED", "NOTIFY", "PYTHON", "WATCHDOG", "LISTEN")
    return {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
