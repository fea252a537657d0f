"""Texts of the configuration that name something: which are fit for it, and why others are not.

Names, classes, paths, addresses, queues, users. Which key is which of them is said in
:mod:`graced.config.schema`; values that are more than a name, such as durations,
are read in :mod:`graced.config.scalars`.
"""

from __future__ import annotations

from graced.queue.address import QueueURLError
from graced.queue.engines import check_url, missing_library
from graced.queue.servers.url import shown
from graced.text import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.config.nodes import Mark

NAME = r"[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)*"
MAX_NAME_LENGTH = 32
CLASS = r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*"


class ConfigValueError(Exception):
    """A value that can't be: what is wrong with it, and what to write."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


def is_name(text: str) -> bool:
    """Tell whether *text* can be the name of a daemon or of a pool, as :data:`NAME` says.

    It has to serve in file names, process titles and names of variables, where
    two underscores separate keys.
    """
    parts = text.replace("-", "_").split("_")
    return (
        len(text) <= MAX_NAME_LENGTH
        and text.isascii()
        and text[:1].isalpha()
        and all(part.isalnum() for part in parts)
    )


def check_name(text: str, _mark: Mark) -> str:
    if not is_name(text):
        raise ConfigValueError(
            f"{quoted(text)} cannot be a name",
            f"write up to {MAX_NAME_LENGTH} letters and digits, a letter first, "
            "with single dashes or underscores between them",
        )
    return text


def worker_class(text: str, _mark: Mark) -> str:
    module, _, name = text.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
        raise ConfigValueError(
            f"{quoted(text)} does not name a class", "write module:Class, such as shop.mail:Sender"
        )
    return text


def file(text: str, mark: Mark) -> str:
    if text.endswith("/"):
        raise ConfigValueError(f"{quoted(text)} names a folder", "write the path of a file")
    return folder(text, mark)


def folder(text: str, mark: Mark) -> str:
    """Return a path, absolute: what is relative starts from the folder of its file."""
    if not text or "\0" in text:
        raise ConfigValueError(f"{quoted(text)} cannot be a path", "write a path")
    import os.path

    return os.path.normpath(os.path.join(mark.source.base, text))


def address(text: str, _mark: Mark) -> str:
    from graced.host.address import AddressError, parse

    try:
        parse(text)
    except AddressError as error:
        raise ConfigValueError(error.what, error.remedy) from None
    return text


def queue(text: str, _mark: Mark) -> str:
    try:
        check_url(text)
    except QueueURLError as error:  # it is quoted without what is secret in it
        raise ConfigValueError(f"{quoted(shown(text))} {error.what}", error.remedy) from None
    missing = missing_library(text)
    if missing is not None:
        raise ConfigValueError(f"{quoted(shown(text))}: {missing[0]}", missing[1])
    return text


def name_of_pool(text: str, _mark: Mark) -> str:
    return text  # whether there is one is a rule


def cron(text: str, _mark: Mark) -> str:
    from graced.cron import CronError, read

    try:
        read(text)
    except CronError as error:
        raise ConfigValueError(f"{quoted(text)}: {error.what}", error.remedy) from None
    return text


def zone(text: str, _mark: Mark) -> str:
    from graced import clock

    try:
        clock.zone(text)
    except ValueError:
        raise ConfigValueError(f"there is no time zone {quoted(text)}", _zones(text)) from None
    return text


def _zones(text: str) -> str:
    import difflib
    import zoneinfo

    known = zoneinfo.available_timezones()
    if not known:
        return "install tzdata (apt install tzdata, or pip install tzdata), or write UTC"
    close = difflib.get_close_matches(text[:40], sorted(known), 1)
    also = [name for name in sorted(known) if name.lower().endswith(text[:40].lower())]
    if not close + also:
        return "write the name of one, such as Europe/Berlin or UTC"
    return f"did you mean '{(close + also)[0]}'?"


def user(text: str, _mark: Mark) -> str:
    import pwd

    try:
        entry = pwd.getpwuid(int(text)) if _is_id(text) else pwd.getpwnam(text)
    except (KeyError, ValueError, OverflowError):
        raise ConfigValueError(
            f"there is no user {quoted(text)}", "write a user of this host"
        ) from None
    return entry.pw_name


def group(text: str, _mark: Mark) -> str:
    import grp

    try:
        entry = grp.getgrgid(int(text)) if _is_id(text) else grp.getgrnam(text)
    except (KeyError, ValueError, OverflowError):
        raise ConfigValueError(
            f"there is no group {quoted(text)}", "write a group of this host"
        ) from None
    return entry.gr_name


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10
