"""graced's modules that a process has not imported yet, kept as they are now.

An upgrade replaces files under a running daemon. What is imported after that, by a new zygote
say, comes from memory, so that no process is made of two versions. Kept as bytes, since
most of it will never be needed.
"""

from __future__ import annotations

import marshal
import os
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import CodeType, ModuleType
    from typing import Any

# What only commands import, each in a process of its own, besides all of graced.cli.
COMMANDS = (
    "graced.__main__",
    "graced.config.reference",
    "graced.doctor.facts",
    "graced.doctor.rules",
    "graced.queue.sqlite.offline",
)


def is_needed(name: str) -> bool:
    """Whether a process of the daemon may import a module later on."""
    return name not in COMMANDS and not name.startswith("graced.cli.")


class Reserve:
    """Finds and loads what is kept; first in `sys.meta_path`, and inherited by forks."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[bytes, str]] = {}  # code, file

    def keep(self, name: str, file: str) -> None:
        """Keep a module; one that can't be read is left as it is."""
        try:
            code = SourceFileLoader(name, file).get_code(name)
        except (OSError, SyntaxError, ValueError):  # it is just being replaced
            return
        self._kept[name] = (marshal.dumps(code), file)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module that is kept, see importlib.abc.MetaPathFinder."""
        kept = self._kept.get(name)
        if kept is None:
            return None
        # Not a subclass of importlib.abc.Loader, which takes long to import.
        loader: Any = self
        is_package = os.path.basename(kept[1]) == "__init__.py"
        spec = ModuleSpec(name, loader, origin=kept[1], is_package=is_package)
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(os.path.dirname(kept[1]))
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python make the module, see importlib.abc.Loader."""

    def exec_module(self, module: ModuleType) -> None:
        """Run what is kept."""
        code: CodeType = marshal.loads(self._kept[module.__name__][0])
        exec(code, module.__dict__)


def keep_all() -> Iterator[None]:
    """Keep what a daemon may still import of graced, one at each step; if not done before."""
    if any(isinstance(finder, Reserve) for finder in sys.meta_path):
        return
    package = sys.modules["graced"]
    reserve = Reserve()
    sys.meta_path.insert(0, reserve)
    for name, file in _modules("graced", package.__path__[0]):
        if is_needed(name) and name not in sys.modules:
            reserve.keep(name, file)
            yield


def _modules(package: str, folder: str) -> Iterator[tuple[str, str]]:
    """Yield the name and file of each module in a folder and those below."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # a zip, say: files in it are not replaced one by one
        return
    for entry in entries:
        stem, extension = os.path.splitext(entry.name)
        if extension == ".py":
            yield (package if stem == "__init__" else f"{package}.{stem}"), entry.path
        elif os.path.exists(os.path.join(entry.path, "__init__.py")):  # else it is no code of ours
            yield from _modules(f"{package}.{stem}", entry.path)
