"""graced(8) and graced.yaml(5), from what the program says of itself.

Commands and options come from the parser, keys from docs/make.py (which has them from the
settings), exit codes, signals, environment and files from the tables in docs/, which tests hold
to the program. Only the prose that ties them together, and the examples, stand here.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import roff
from roff import bold, filled, heading, inline, italic, sentence, tagged

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
MOST = 0.5  # of the commands have an option: it is explained once, for all
LITERAL = re.compile(r"(?<![\w-])(--?[a-z][a-z-]*|\$[A-Z_]+|/[a-z/.]+|[a-z]+(?:\.[a-z]+)+=\d+)")

DESCRIPTION = """\
graced runs pools of worker processes. It starts at once, finishes the work in hand before it
stops, takes new code and configuration without a pause, and gives back to the queue the jobs of
a worker that died.

What runs is said in a YAML file, see [configuration](configuration.md). A worker is a class in
Python, or one of those that need no code: `graced.workers:Command` runs command lines.

All commands but `run`, `check` and `doctor` talk to a running daemon over its control socket.
They find it by `name` and `runtime_dir` of the configuration, and work while the rest of the file
is broken. `submit` and `jobs` also work without a daemon, on the queue's file.
"""

EXAMPLES = (
    ("Look for mistakes in the configuration, and in how systemd runs the daemon:",
     ("graced check", "graced doctor")),
    ("Take new code and configuration; if it is refused, the old workers have not missed a round:",
     ("systemctl reload graced",)),
    ("Run a command as a job, and wait for it:",
     ("graced submit --wait -- convert in.png out.jpg",)),
    ("A job for each line of a file, all of them or none:",
     ("graced submit --pool mail --json - < jobs.jsonl",)),
    ("Which jobs have failed for good, and why; try one of them again:",
     ("graced jobs --state dead", "graced jobs retry 7")),
    ("Eight workers until the next reload:",
     ("graced scale jobs 8",)),
    ("A second daemon, of a file of its own:",
     ("graced run -c /srv/shop/config.yaml --set name=shop",)),
)  # fmt: skip

CONFIGURATION = """\
name: shop
pools:
  jobs:                           # takes command lines
    workers: 4
    drain_timeout: 5m             # longer than the longest of them
  mail:
    worker: shop.mail:Sender      # module:Class
    path: [/srv/shop]
    env: {TZ: UTC}
    options: {server: smtp.example.org}
    max_rss: 300M
"""

SYSTEMD = ["systemctl(1)", "journalctl(1)", "systemd.service(5)"]


# What both pages have


def page(name: str) -> str:
    """Return a page of docs/."""
    return (DOCS / name).read_text(encoding="utf-8")


def title(name: str, number: int, volume: str, version: str, epoch: int) -> list[str]:
    """Return the head of a manual page."""
    date = datetime.datetime.fromtimestamp(epoch, datetime.UTC).date()
    return [
        '.\\" Made by packaging/made.py; do not edit.',
        f'.TH {name} {number} {date} "graced {version}" "{volume}"',
        ".ad l",  # 80 columns are too few to be filled up with spaces
    ]


def see_also(names: list[str]) -> list[str]:
    """Return the last section, with the names of other pages."""
    references = [re.sub(r"^(.*)(\(\d\))$", r"`\1`\2", name) for name in names]
    more = (
        "Pages such as `workers.md` and `jobs.md` are in the folder `docs` of the sources; "
        "packages have them below `/usr/share/doc`."
    )
    return [
        heading("See also"),
        *filled(inline(", ".join(references))),
        *roff.converted(more),
    ]


# graced(8)


def commands(version: str, epoch: int, parser: argparse.ArgumentParser) -> str:
    """Return graced(8)."""
    known = subparsers(parser)
    shared = shared_options(known)
    lines = title("GRACED", 8, "System Manager's Manual", version, epoch)
    lines += [heading("Name"), "graced \\- run pools of worker processes that lose no work"]
    lines += [heading("Synopsis"), *_synopsis(known, shared)]
    lines += [heading("Description"), *roff.converted(DESCRIPTION)]
    lines += [heading("Commands"), *_commands(known, shared)]
    lines += [heading("Options of all commands"), *_shared(known, shared)]
    lines += _from_docs()
    lines += [heading("Examples"), *_examples()]
    lines += see_also(["graced.yaml(5)", *SYSTEMD])
    return roff.joined(lines)


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the commands by name."""
    [found] = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(found.choices)


def shared_options(known: dict[str, argparse.ArgumentParser]) -> dict[str, argparse.Action]:
    """Return the options that most commands have, by their longest names."""
    counts: dict[str, int] = {}
    found: dict[str, argparse.Action] = {}
    for parser in known.values():
        for action in options(parser):
            name = action.option_strings[-1]
            counts[name] = counts.get(name, 0) + 1
            found.setdefault(name, action)
    return {name: action for name, action in found.items() if counts[name] > MOST * len(known)}


def options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return what begins with a dash."""
    return [action for action in parser._actions if action.option_strings]


def operands(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return what does not."""
    return [action for action in parser._actions if not action.option_strings]


def _own(
    parser: argparse.ArgumentParser, shared: dict[str, argparse.Action]
) -> list[argparse.Action]:
    return [action for action in options(parser) if action.option_strings[-1] not in shared]


def _synopsis(
    known: dict[str, argparse.ArgumentParser], shared: dict[str, argparse.Action]
) -> list[str]:
    lines = [".SY graced", italic("COMMAND")]
    lines += [f"[{_option(shared[name], long=False)}]" for name in shared if name != "--help"]
    lines += ["\\&.\\|.\\|.", ".YS"]
    for name, parser in known.items():
        lines += [f'.SY "graced {name}"']
        lines += [f"[{_option(action)}]" for action in _own(parser, shared)]
        lines += [_operand(action) for action in operands(parser)]
        lines += [".YS"]
    return [*lines, ".SY graced", bold("--version"), ".YS"]


def _option(action: argparse.Action, *, long: bool = True) -> str:
    name = action.option_strings[-1 if long else 0]
    return bold(name) + (f"\\ {_value(action)}" if action.nargs != 0 else "")  # unbroken


def _value(action: argparse.Action) -> str:
    if action.choices:
        return "|".join(bold(str(choice)) for choice in action.choices)
    return italic(str(action.metavar or action.dest.upper()))


def _operand(action: argparse.Action) -> str:
    words = str(action.metavar or "").split()
    shown = " ".join(bold(word) if word == "--" else italic(word) for word in words)
    shown = shown or _value(action)
    if action.nargs == "*":
        return f"[{shown} \\&.\\|.\\|.]"
    return f"[{shown}]" if action.nargs == "?" else shown


def _commands(
    known: dict[str, argparse.ArgumentParser], shared: dict[str, argparse.Action]
) -> list[str]:
    lines = []
    for name, parser in known.items():
        lines += [heading(f"graced {name}", "SS"), *_meaning(name, parser)]
        for action in _own(parser, shared):
            lines += tagged(_tag(action), helped(action))
        for action in operands(parser):
            if action.help:
                lines += tagged(_operand_tag(action), helped(action))
    return lines


def _meaning(name: str, parser: argparse.ArgumentParser) -> list[str]:
    """Return what docs/commands.md says of a command and its forms, else what the parser does."""
    lines = []
    for form, does in roff.table(roff.section("## \n" + page("commands.md"), ""))[1]:
        words = form.strip("`").split()
        if words[1:2] != [name]:
            continue
        if len(words) == 2:
            lines += [".PP", *filled(inline(sentence(does)))]
        else:
            lines += tagged(inline(form), inline(sentence(does)))
    return lines or [".PP", *filled(inline(sentence(parser.description or "")))]


def _tag(action: argparse.Action) -> str:
    value = f" {_value(action)}" if action.nargs != 0 else ""
    return ", ".join(bold(name) for name in action.option_strings) + value


def _operand_tag(action: argparse.Action) -> str:
    return _value(action) if action.choices else italic(str(action.metavar).removeprefix("-- "))


def helped(action: argparse.Action) -> str:
    """Return an option's help as a sentence, with what is to be typed in bold."""
    text = sentence((action.help or "").replace("%%", "%"))
    return inline(LITERAL.sub(lambda found: f"`{found[0]}`", text))


def _shared(
    known: dict[str, argparse.ArgumentParser], shared: dict[str, argparse.Action]
) -> list[str]:
    lines = []
    for name, action in shared.items():
        without = [command for command, parser in known.items()
                   if name not in parser._option_string_actions]  # fmt: skip
        text = "Explain the command." if name == "--help" else helped(action)
        if without:
            text += " " + inline(f"Not of {_listed(without)}.")
        lines += tagged(_tag(action), text)
    return [*lines, *tagged(bold("--version"), "Print the version. Without a command.")]


def _listed(names: list[str]) -> str:
    *most, last = [f"`{name}`" for name in names]
    return f"{', '.join(most)} and {last}" if most else last


def _from_docs() -> list[str]:
    """Return the sections that docs/ has already."""
    signals = page("signals-and-ladder.md")
    said = page("commands.md")
    status = roff.section(said, "What `graced status --json` says")
    return [
        heading("Signals"),
        heading("To the main process", "SS"),
        *roff.converted(roff.section(signals, "To the main process")),
        heading("To a worker", "SS"),
        *roff.converted(roff.section(signals, "To a worker")),
        heading("Exit status"),
        *roff.converted(roff.section(said, "Exit codes")),
        heading("Environment"),
        *roff.converted(roff.section(said, "Environment")),
        heading("Files"),
        *roff.converted(roff.section(said, "Files")),
        heading("Status for programs"),
        *roff.converted(f"`graced status --json` prints one JSON object.\n\n{status}"),
    ]


def _examples() -> list[str]:
    lines = []
    for text, typed in EXAMPLES:
        lines += [".PP", *filled(inline(text)), *roff.example("\n".join(typed))]
    return lines


# graced.yaml(5)


def configuration(version: str, epoch: int) -> str:
    """Return graced.yaml(5)."""
    lines = title("GRACED.YAML", 5, "File Formats Manual", version, epoch)
    lines += [heading("Name"), "graced.yaml \\- configuration of graced"]
    lines += [heading("Synopsis"), *_places()]
    lines += _reference()
    lines += [heading("Example"), *roff.example(CONFIGURATION)]
    lines += see_also(["graced(8)", *SYSTEMD])
    return roff.joined(lines)


def _places() -> list[str]:
    places = ["/etc/graced/config.yaml", "/etc/graced/config.d/*.yaml"]
    return [part for place in places for part in (bold(place), ".br")][:-1]


def _reference() -> list[str]:
    """Return the reference that docs/make.py makes: text first, the keys below one heading."""
    introduction, *rest = re.split(r"^## ", docs_make().reference(), flags=re.M)
    lines = [heading("Description"), *roff.converted(introduction)]
    keys = [heading("Keys")]
    for part in rest:
        name, _, body = part.partition("\n")
        if "|" in body:
            keys += [heading(name, "SS"), *roff.converted(body)]
        else:
            lines += [heading(name), *roff.converted(body)]
    return lines + keys


def docs_make() -> ModuleType:
    """Return docs/make.py, which is a program and in no package."""
    spec = importlib.util.spec_from_file_location("docs_make", DOCS / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages(version: str, epoch: int, parser: argparse.ArgumentParser) -> dict[str, str]:
    """Return the text of each file."""
    return {
        "graced.8": commands(version, epoch, parser),
        "graced.yaml.5": configuration(version, epoch),
    }
