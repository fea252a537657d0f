"""Completions for shells, which shtab makes of the parser; packages bring them along.

    python3 -m graced.cli.completions NAME OUTDIR

writes NAME.bash and _NAME (for zsh), for the command NAME. What a word stands for is told by its
metavar. Pools are those of the running daemon.
"""

from __future__ import annotations

import sys
from pathlib import Path

from graced import program
from graced.cli import arguments

RUNNING = """\
    timeout 2 NAME status --json 2>/dev/null </dev/null |
        grep -oE '"[A-Za-z][A-Za-z0-9_-]*": [{]"(worker|target)"' | cut -d '"' -f 2"""
PREAMBLE = {
    "bash": f"""\
_FUNCTION_pools() {{ compgen -W "$(
{RUNNING}
)" -- "$1"; }}
_FUNCTION_commands() {{ compgen -A command -A file -- "$1"; }}
""",
    "zsh": f"""\
_FUNCTION_pools() {{ compadd -- ${{(f)"$(
{RUNNING}
)"}}; }}
_FUNCTION_commands() {{ _command_names; _files; }}
""",
}
# What shtab 1.5.5, that of Debian 12, gets wrong, and later versions get right themselves: bash
# offers only the first of several choices; any number of words is "*:::" in zsh.
MENDED = (
    ('"${current_action}_choices"', '"${current_action}_choices[@]"'),
    ("local IFS=$'\\n'", "local IFS=$' \\n'"),
    ('"(*)::', '"*:::'),
)


def main(name: str, outdir: str) -> None:
    """Write the completions of a command into a folder."""
    try:
        import shtab
    except ImportError:
        sys.exit(f"completions: {sys.executable} has no shtab: apt-get install python3-shtab")
    folder = Path(outdir)
    folder.mkdir(parents=True, exist_ok=True)
    program.be(name, "", f"/etc/{name}/config.yaml")
    function = name.replace("-", "_")
    parser = arguments.parser()
    _mark(parser, function, shtab.FILE)
    for shell, file in (("bash", f"{name}.bash"), ("zsh", f"_{name}")):
        preamble = PREAMBLE[shell].replace("NAME", name).replace("FUNCTION", function)
        text = shtab.complete(parser, shell, preamble={shell: preamble})  # type: ignore[arg-type]
        for wrong, right in MENDED:
            text = text.replace(wrong, right)
        (folder / file).write_text(text, encoding="utf-8")


def _mark(parser: arguments.Parser, function: str, file: object) -> None:
    """Say at each word of a command what completes it."""
    pools, commands = f"_{function}_pools", f"_{function}_commands"
    pool = {"bash": pools, "zsh": pools}
    known = {
        "FILE": file,
        "PATH": file,
        "POOL": pool,
        "P": pool,
        "-- COMMAND": {"bash": commands, "zsh": commands},
    }
    for command in parser.commands.values():
        for action in command._actions:
            if action.metavar in known:
                action.complete = known[action.metavar]  # type: ignore[attr-defined]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python3 -m graced.cli.completions NAME OUTDIR")
    main(*sys.argv[1:])
