"""The commands that look at a daemon from outside: `metrics`."""

from __future__ import annotations

from graced.cli.daemon_commands import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Final


def _metrics(args: argparse.Namespace) -> int:
    from graced.monitoring.exposition import written
    from graced.monitoring.families import families

    print(written(families(ask(args, "metrics")), openmetrics=args.openmetrics), end="")
    return 0


COMMANDS: Final = {"metrics": _metrics}
