"""The configuration: found, read, checked, told.

Nothing here raises for what a user wrote: it all becomes problems, together.
The layers of YAML (layers, parser) become one tree, the builder (builder, schema, scalars)
makes settings of it, rules look at what has to agree.
"""

from __future__ import annotations

import os

from graced import program
from graced.config import rules
from graced.config.builder import Builder
from graced.config.files import absolute_path
from graced.config.layers import Layers
from graced.config.nodes import Mark, Problem
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from graced.settings import Settings

__all__ = ["ConfigReading", "Problem", "absolute_path", "find", "read", "read_identity", "show"]

HERE = "config.yaml"
MAX_PROBLEMS = 100  # more would not be read


class ConfigReading(Record):
    """What became of one reading of the configuration."""

    settings: Settings | None  # None if there are problems
    problems: tuple[Problem, ...]
    sources: Mapping[str, str]  # dotted key to config.yaml:7:5, $VARIABLE, --set or default
    files: tuple[str, ...]
    path: str


def find(path_option: str | None, environ: Mapping[str, str]) -> str:
    """Return the path of the configuration, whether there is a file or not.

    That is what ``-c`` says, ``$GRACED_CONFIG``, ``config.yaml`` here, or the
    one in ``/etc``, below the program's name.
    """
    if path_option is not None:
        return path_option
    named = environ.get("GRACED_CONFIG")
    if named:
        return named
    return next((path for path in (HERE, program.config) if os.path.lexists(path)), HERE)


def read(
    path: str | None, environ: Mapping[str, str], sets: Sequence[str], *, to_run: bool = True
) -> ConfigReading:
    """Read all layers of the configuration, and return all their problems at once.

    Without *to_run* it does not matter whether this process could run the daemon.
    """
    path = find(path, environ)
    layers = Layers(path)
    layers.add_main(_missing_advice(path, environ))
    layers.add_overlays()
    layers.add_variables(environ)
    layers.add_flags(sets)

    tree, lost = layers.tree, list[Problem]()
    if layers.names_files:
        from graced.config.secrets import References

        references = References(environ, to_run=to_run)
        tree, lost = references.resolve(tree), references.problems
    builder = Builder(to_run=to_run)
    settings = builder.settings(tree)
    if layers.complete:
        blame = _Blame(builder, Mark(layers.main))
        rules.check(settings, blame)
        if to_run:
            rules.check_account(settings, blame)
            rules.check_code(settings, blame)
    problems = layers.problems + lost + builder.problems
    few = _few(sorted(problems, key=lambda problem: problem.order))
    return ConfigReading(
        settings if not few else None, few, builder.sources, tuple(layers.files), path
    )


def read_identity(
    path: str | None, environ: Mapping[str, str], sets: Sequence[str]
) -> tuple[str, str | None]:
    """Return ``name`` and ``runtime_dir``, even if all else is broken.

    A file that was named has to be there. Raises UnknownDaemonError.
    """
    from graced.config.identity import identity

    named = path is not None or bool(environ.get("GRACED_CONFIG"))
    return identity(find(path, environ), environ, sets, named=named)


def read_user(path: str | None, environ: Mapping[str, str], sets: Sequence[str]) -> int | None:
    """Return the number of the configured user; None if there is none to be found."""
    import pwd

    from graced.config.identity import user

    name = user(find(path, environ), environ, sets)
    if name is None:
        return None
    try:
        return int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def show(reading: ConfigReading) -> str:
    """Return the merged configuration as YAML, each value with a comment: where it was set."""
    from graced.config.show import shown

    return shown(reading.settings, reading.sources) if reading.settings else ""


class _Blame:
    """Makes problems of broken rules, unless one of the values was wrong in itself."""

    def __init__(self, builder: Builder, main: Mark) -> None:
        self.builder = builder
        self.main = main
        self.wrong = {problem.key for problem in builder.problems}

    def __call__(self, keys: tuple[str, ...], what: str, remedy: str) -> None:
        if not self.wrong.isdisjoint(keys):
            return
        key = next((key for key in keys if key in self.builder.marks), keys[0])
        self.builder.problem(self.builder.marks.get(key, self.main), key, what, remedy)


def _few(problems: list[Problem]) -> tuple[Problem, ...]:
    if len(problems) <= MAX_PROBLEMS:
        return tuple(problems)
    last = problems[MAX_PROBLEMS - 1]
    more = len(problems) - MAX_PROBLEMS + 1
    rest = Problem(last.place, "", f"and {more} more problems from here on", "correct these first")
    return (*problems[: MAX_PROBLEMS - 1], rest)


def _missing_advice(path: str, environ: Mapping[str, str]) -> str:
    place = absolute_path(path)
    if not os.path.isabs(place):
        return "the working directory was removed: go to another, or give an absolute path"
    if place == absolute_path(environ.get("GRACED_CONFIG") or place + "/none"):
        return "check $GRACED_CONFIG"
    if place in map(absolute_path, (HERE, program.config)):
        return f"write ./{HERE} or {program.config}, or name a file with -c or $GRACED_CONFIG"
    return "check the path after -c"
