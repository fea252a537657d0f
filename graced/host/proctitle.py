"""Process titles for `ps`, where setproctitle is installed; it is never required."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder


def title_setter() -> Callable[[str], None] | None:
    """Return what sets the command line that others see, or None.

    Only the extension module is loaded: the package around it imports logging, which
    takes longer than forking a worker.
    """
    entries = [entry for entry in sys.path if isinstance(entry, str)]  # as Python does
    homes = [os.path.join(entry, "setproctitle") for entry in entries]
    spec = PathFinder.find_spec("_setproctitle", homes)
    if spec is None or spec.loader is None:
        return None
    module = spec.loader.create_module(spec)
    if module is None:
        return None
    spec.loader.exec_module(module)
    setter: Callable[[str], None] | None = getattr(module, "setproctitle", None)
    return setter
