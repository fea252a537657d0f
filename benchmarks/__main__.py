"""The benchmarks' command line; exit 1 where a target is missed."""

from __future__ import annotations

import argparse
import compileall
import signal
import sys
import tempfile
from pathlib import Path

import graced
from benchmarks import (  # noqa: F401  # they enter their rows
    rows_jobs,
    rows_life,
    rows_reload,
    rows_rest,
    rows_servers,
    rows_web,
)
from benchmarks.bench import ROWS, Bench
from benchmarks.contenders import PEERS, Contender, Earlier, install_peers, versions
from benchmarks.queues import QUEUES, SERVED
from benchmarks.stage import Trouble
from benchmarks.table import Line, as_json, render


def main(arguments: list[str]) -> int:
    """Measure the rows that were asked for; print what came out."""
    options = _parse(arguments)
    if options.list:
        for row in ROWS.values():
            print(f"{row.name:12} {row.what}")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything is cleaned up
    compileall.compile_dir(Path(graced.__file__).parent, quiet=1)  # as an installation does
    with tempfile.TemporaryDirectory(prefix="graced-peers-") as folder:
        if options.peers:
            install_peers(Path(folder), [*PEERS, *QUEUES, *SERVED])
            print(versions([*PEERS, *QUEUES, *SERVED]), file=sys.stderr)
        bench = _bench(options)
        lines = _measure(bench, options.rows or list(ROWS))
    print(as_json(lines) if options.json else render(lines, _names(bench, lines)))
    return 1 if any(line.met is False for line in lines) else 0


def _bench(options: argparse.Namespace) -> Bench:
    earlier: list[Contender] = [Earlier(options.against)] if options.against else []
    if not options.peers:
        return Bench(earlier, options.factor, earlier, backlog=options.backlog)
    return Bench([*earlier, *PEERS], options.factor, [*earlier, *QUEUES], SERVED, options.backlog)


def _names(bench: Bench, lines: list[Line]) -> list[str]:
    """Return the contenders that have figures, each once."""
    everybody = dict.fromkeys(c.name for c in [*bench.everybody, *bench.queues, *bench.served])
    return [name for name in everybody if any(name in line.found for line in lines)]


def _measure(bench: Bench, names: list[str]) -> list[Line]:
    lines: list[Line] = []
    for name in names:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            lines += ROWS[name].measure(bench)
        except Trouble as trouble:
            print(trouble, file=sys.stderr)
            lines.append(Line(f"{name}: could not be measured", "", {}))
    return lines


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="which; default: all")
    parser.add_argument("--list", action="store_true", help="name all rows")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--factor", type=float, default=1.0, help="repeat so many times as often")
    parser.add_argument("--peers", action="store_true", help="install peers for the run, and join")
    parser.add_argument("--against", metavar="GRACED", help="the command of another version joins")
    parser.add_argument("--backlog", type=int, default=200_000, help="jobs where many wait")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.rows if name not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; --list names them")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
