"""Completions for bash, zsh and fish, from the parser; the shells' own code is in shells/.

shtab and argcomplete were tried first. shtab writes from a parser, too, but that of Debian 12
(1.5.5) knows no fish, completes no command line after `--`, offers `retry` and `drop` again
after themselves, and a later one writes other bytes, so that two builds of one version would
differ; the rpm would need it where it is not packaged. argcomplete starts Python for each TAB.
What is here asks the running daemon only for what nobody else knows: its pools and jobs.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from manpages import docs_make, operands, options, subparsers

SHELLS = Path(__file__).resolve().parent / "shells"
FILES = ("graced.bash", "_graced", "graced.fish")
# What a metavar stands for, and so what can be offered; every one of the parser's is here.
KINDS = {
    "FILE": "file",
    "PATH": "file",
    "KEY=VALUE": "key",
    "UNIT": "unit",
    "POOL": "pool",
    "P": "pool",
    "ID": "job",
    "-- COMMAND": "command",
    "DIRECTIVE": "any",
    "N": "any",
    "TIME": "any",
    "VALUE": "any",
}


def completions(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return the text of each file."""
    known = subparsers(parser)
    keys = {"daemon": _keys(""), "pool": _keys("pools.NAME.")}
    return {
        "graced.bash": _filled("graced.bash", {**keys, "table": _bash(known)}),
        "_graced": _filled(
            "_graced", {**keys, "commands": _zsh_commands(parser), "table": _zsh(known)}
        ),
        "graced.fish": _filled(
            "graced.fish", {**keys, "valued": _valued(known), "table": _fish(parser)}
        ),
    }


def _filled(name: str, parts: dict[str, str]) -> str:
    text = (SHELLS / name).read_text(encoding="utf-8")
    for part, value in parts.items():
        assert text.count(f"@{part}@") == 1, f"{name}: @{part}@"
        text = text.replace(f"@{part}@", value)
    return text


def _keys(prefix: str) -> str:
    """Return the keys of the configuration below a prefix that --set can give a plain value."""
    found = docs_make().keys()
    sections = {key.rpartition(".")[0] for key in found} | {"pools"}
    below = [key for key in found if key.startswith(prefix) and key not in sections]
    return " ".join(key.removeprefix(prefix) for key in below if prefix or "NAME" not in key)


def kind(action: argparse.Action) -> str:
    """Return what can be offered for an option's value, or an operand."""
    if action.choices:
        return "|".join(str(choice) for choice in action.choices)
    return KINDS[str(action.metavar)]


def summary(parser: argparse.ArgumentParser) -> str:
    """Return what a command does, as it is put beside its name."""
    return _short(parser.description or "")


def _short(text: str | None) -> str:
    """Return a help text as it stands in a list: without its parentheses and its full stop."""
    return (text or "").replace("%%", "%").partition(" (")[0].rstrip(".")


# bash


def _bash(known: dict[str, argparse.ArgumentParser]) -> str:
    """Return the branches of a table: options with the kinds of their values, then operands."""
    lines = [f"        commands) echo '{' '.join(known)}' ;;"]
    for name, parser in known.items():
        told = [
            option + ("" if action.nargs == 0 else f"={kind(action)}")
            for action in options(parser)
            for option in reversed(action.option_strings)
        ]
        told += [kind(action) + "*" * (action.nargs == "*") for action in operands(parser)]
        lines.append(f"        {name}) echo '{' '.join(told)}' ;;")
    return "\n".join(lines)


# zsh

ZSH_ACTIONS = {
    "file": "_files",
    "key": "_graced_keys",
    "unit": "_graced_units",
    "pool": "_graced_pools",
    "job": "_graced_jobs",
    "command": "(--)",
    "any": " ",
}


def _zsh_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _zsh_commands(parser: argparse.ArgumentParser) -> str:
    lines = [
        "        " + _zsh_quoted(f"{name}:{summary(each)}")
        for name, each in subparsers(parser).items()
    ]
    return "\n".join(lines)


def _zsh(known: dict[str, argparse.ArgumentParser]) -> str:
    lines = []
    for name, parser in known.items():
        specs = [*map(_zsh_option, options(parser)), *_zsh_operands(parser)]
        body = " \\\n".join(f"                {spec}" for spec in specs)
        lines.append(
            f"            {name})\n                _arguments -s -S \\\n{body} && ret=0 ;;"
        )
    return "\n".join(lines)


def _zsh_option(action: argparse.Action) -> str:
    names = action.option_strings
    text = re.sub(r"[][:]", r"\\\g<0>", _short(action.help))
    value = ""
    if action.nargs != 0:
        value = (
            f":{str(action.metavar or action.dest).lower().replace(':', '')}:{_zsh_action(action)}"
        )
    repeated = isinstance(action.default, list)
    if "--help" in names:
        return "'(- : *)'{-h,--help}" + _zsh_quoted(f"[{text}]")
    if len(names) == 1:
        long = f"{names[0]}{'=' if value else ''}"
        return _zsh_quoted(f"{'*' if repeated else ''}{long}[{text}]{value}")
    short, long = names
    each = f"{{{short},{long}{'=' if value else ''}}}"
    return _zsh_quoted(f"({short} {long})") + each + _zsh_quoted(f"[{text}]{value}")


def _zsh_action(action: argparse.Action) -> str:
    return (
        f"({' '.join(map(str, action.choices))})" if action.choices else ZSH_ACTIONS[kind(action)]
    )


def _zsh_operands(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in operands(parser):
        called = str(action.metavar or action.dest).lower().removeprefix("-- ")
        many = "*" if action.nargs == "*" and kind(action) != "command" else ""
        yield _zsh_quoted(f"{many}:{called}:{_zsh_action(action)}")


# fish

FISH_VALUES = {
    "file": "-r -F",
    "key": "-x -a '(__graced_keys)'",
    "unit": "-x -a '(__graced_units)'",
    "pool": "-x -a '(__graced_pools)'",
    "job": "-x -a '(__graced_jobs)'",
    "any": "-x",
}


def _valued(known: dict[str, argparse.ArgumentParser]) -> str:
    """Return the branches that say which options of a command take a value."""
    lines = []
    for name, parser in known.items():
        names = [n for a in options(parser) if a.nargs != 0 for n in a.option_strings]
        lines.append(f"        case {name}\n            string split ' ' -- '{' '.join(names)}'")
    return "\n".join(lines)


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish(parser: argparse.ArgumentParser) -> str:
    lines = [_fish_option(action, "__graced_bare") for action in options(parser)]
    for name, each in subparsers(parser).items():
        lines.append(
            f"complete -c graced -n __graced_bare -a {name} -d {_fish_quoted(summary(each))}"
        )
    for name, each in subparsers(parser).items():
        lines += [_fish_option(action, f"'__graced_is {name}'") for action in options(each)]
        lines += _fish_operands(name, each)
    return "\n".join(lines)


def _fish_option(action: argparse.Action, where: str) -> str:
    names = " ".join(
        f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
        for name in action.option_strings
    )
    value = f" {_fish_value(action)}" if action.nargs != 0 else ""
    text = f" -d {_fish_quoted(_short(action.help))}" if action.help else ""
    return f"complete -c graced -n {where} {names}{value}{text}"


def _fish_value(action: argparse.Action) -> str:
    if action.choices:
        return f"-x -a '{' '.join(map(str, action.choices))}'"
    return FISH_VALUES[kind(action)]


def _fish_operands(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    for place, action in enumerate(operands(parser)):
        where = f"__graced_is {name}; and __graced_has {place}{' or more' * (action.nargs == '*')}"
        if kind(action) not in ("any", "command"):
            yield f"complete -c graced -n '{where}' {_fish_value(action)}"
