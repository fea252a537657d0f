"""`graced new NAME`: a project of one's own daemon, made of the files in graced/template.

They are an ordinary project named my-app: what is common to all kinds in project/, what one kind
has of its own in kinds/. Names are replaced, and a few words in capitals.
"""

from __future__ import annotations

import os
import re
import sys
import time
from keyword import iskeyword
from pathlib import Path
from shlex import quote

from graced import __version__
from graced.exitcodes import FAILED, USAGE
from graced.log.console import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

TEMPLATE = Path(__file__).parents[1] / "template"
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")  # for deb, Python and systemd
MAX_NAME_CHARS = 31  # of a user, see useradd(8)
# Modules that are there when it runs, and users that every system has: the service would be one.
MODULES = frozenset(
    "daemon graced lockfile mypy pip psycopg pytest python python3 redis rich ruff sdnotify"
    " setproctitle setuptools test tests waitress yaml".split()
)
YAML_WORDS = frozenset("false no null off on true yes".split())
FOLDERS = frozenset("build dist packaging systemd tests var".split())  # of the project
USERS = frozenset(
    "adm backup bin dbus games irc list lp mail man messagebus news nobody operator polkitd proxy"
    " root shutdown sshd sync sys systemd uucp www-data".split()
)


def new(args: argparse.Namespace) -> int:
    """Make the project; return the exit status."""
    name: str = args.name
    reason = why_not(name)
    if reason is not None:
        complain(f"{name!r} {reason}; {suggested(name)} could be a name")
        return USAGE
    folder = Path(args.dir or name)
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        complain(f"{folder}: is there, and is no empty folder; name another one with --dir")
        return FAILED
    for path, text in files(name, args.kind):
        _write(folder / path, text)
    then = f"cd {quote(str(folder))} && make run"
    print(f"{folder}: a daemon of your own, {name}; README.md leads on: {then}")
    return 0


# Its name


def why_not(name: str) -> str | None:
    """Return why this can't be the name of a package, module, unit and user; None if it can."""
    module = name.replace("-", "_")
    if len(name) > MAX_NAME_CHARS:
        return f"is longer than {MAX_NAME_CHARS} characters, the most that a user may have"
    if len(name) < 2 or NAME.fullmatch(name) is None:
        return "is not made of lower-case letters and digits, a letter first, with single dashes"
    if name in YAML_WORDS:
        return "is a word of YAML's"
    if iskeyword(module):
        return "is a word of Python's"
    if module in sys.stdlib_module_names:
        return "is a module of Python's"
    if module in MODULES:
        return "is a module that it would need itself"
    if module in FOLDERS:
        return "is a folder that the project has for something else"
    if name in USERS:
        return "is a user of the system's"
    return None


def suggested(name: str) -> str:
    """Return a name like this one that can be."""
    plain = name if name != "graced" else "my-app"
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "-", plain).lower()
    words = [word for word in re.split(r"[^a-z0-9]+", plain) if word]
    plain = "-".join(words).lstrip("0123456789-")[:MAX_NAME_CHARS].rstrip("-") or "my-app"
    return plain if why_not(plain) is None else f"my-{plain}"[:MAX_NAME_CHARS].rstrip("-")


# Its files


def files(name: str, kind: str) -> Iterator[tuple[str, str]]:
    """Yield each file's path in the project, and its text."""
    own = TEMPLATE / "kinds" / kind
    words = {
        "my_app": name.replace("-", "_"),
        "my-app": name,
        "MY-APP": name.upper(),
        "YEAR": time.strftime("%Y"),
        "WORKER": "`my_app/worker.py`" if (own / "worker.py").exists() else "`config.yaml`",
        "GRACED_VERSION": ".".join(__version__.split(".")[:2]),
        "GRACED_FROM": _origin(),
        "POOLS\n": (own / "pools.yaml").read_text("utf-8"),
        "TRY\n": (own / "try.md").read_text("utf-8"),
    }
    for path in _below(TEMPLATE / "project"):
        yield _filled(path, words), _filled((TEMPLATE / "project" / path).read_text("utf-8"), words)
    for path in _below(own):
        if path.endswith(".py"):
            home = "tests" if path.startswith("test_") else words["my_app"]
            yield f"{home}/{path}", _filled((own / path).read_text("utf-8"), words)


def _below(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield str(path.relative_to(folder))


def _filled(text: str, words: dict[str, str]) -> str:
    for word in ("POOLS\n", "TRY\n", "WORKER", *words):  # those first: they have names in them
        text = text.replace(word, words[word])
    return text


def _write(path: Path, text: str) -> None:
    path = Path(*(re.sub("^dot-", ".", part) for part in path.parts))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    if text.startswith("#!"):
        path.chmod(0o777 & ~_umask())


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _origin() -> str:
    """Return what pip is to install graced from: where this one was installed from."""
    from importlib.metadata import PackageNotFoundError, distribution

    checkout = TEMPLATE.parents[1]
    if (checkout / "pyproject.toml").is_file():
        return str(checkout)
    try:
        told = distribution("graced").read_text("direct_url.json")
    except PackageNotFoundError:
        told = None
    if told is None:
        return "graced"
    from json import loads

    where = loads(told)
    commit = where.get("vcs_info", {}).get("commit_id")
    vcs = f"{where['vcs_info']['vcs']}+" if commit else ""
    return f"'graced @ {vcs}{where['url']}{f'@{commit}' if commit else ''}'"
