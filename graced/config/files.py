"""The files of the configuration: which there are, and what is in them, as text.

Nothing here waits for a pipe or a device, and as root nothing is read that others could write.
"""

from __future__ import annotations

import os
import stat

from graced import program
from graced.config.nodes import Problem, Source, mark_at
from graced.config.validators import ConfigValueError
from graced.host import safepaths

MAX_FILE_BYTES = 1 << 20
MAX_FILES = 100  # in a folder of drop-ins


def absolute_path(path: str) -> str:
    """Return an absolute path; the same path if the working directory is gone."""
    try:
        return os.path.abspath(path)
    except OSError:  # removed: then nothing relative is found there
        return path


def base_of(path: str) -> str:
    """Return the folder that relative paths in a configuration file start from."""
    return os.path.dirname(absolute_path(path)) if "\0" not in path else "/"


class NotText(Exception):
    """A file that is not UTF-8."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def overlay_folder(path: str) -> str:
    """Return where the drop-ins of a configuration are: config.d beside config.yaml, shop.d
    beside shop.yaml.
    """
    return f"{os.path.splitext(path)[0]}.d"


def overlays(folder: str) -> list[str]:
    """Return the names of the files in a folder of drop-ins that count, in order."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        what, advice = _reason(error, "")
        raise ConfigValueError(what, advice or "make it a folder, or remove it") from None
    found = sorted(name for name in names if name.endswith(".yaml") and name[0] != ".")
    if len(found) > MAX_FILES:
        raise ConfigValueError(f"has more than {MAX_FILES} files", "put several into one")
    return found


def read_bytes(path: str, advice: str, instead: str = "name another file with -c, ") -> bytes:
    """Return what is in a regular file, without ever waiting for a pipe or a device.

    `advice`: what to do if there is none; `instead`: what else, if root may not trust it.
    """
    try:
        _check_regular(os.stat(path))
        _check_trust(path, instead)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            _check_regular(os.fstat(descriptor))
            data = _read(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        what, other = _reason(error, advice)
        raise ConfigValueError(what, other) from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigValueError("is larger than 1 MiB", "make it smaller")
    return data


def _read(descriptor: int) -> bytes:
    data = b""
    while len(data) <= MAX_FILE_BYTES and (
        more := os.read(descriptor, MAX_FILE_BYTES + 1 - len(data))
    ):
        data += more
    return data


def _check_trust(path: str, instead: str) -> None:
    """Refuse, as root, a file that others could write: it says what root runs and opens."""
    if os.geteuid() != 0 or "\0" in path:
        return
    try:
        safepaths.demand(path)
    except safepaths.UnsafeFolderError as error:
        advice = f"{instead}run {program.name} as that user (sudo -u), or chown it to root"
        raise ConfigValueError(f"is not for root to read: {error}", advice) from None


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ConfigValueError("is a folder", "name the file in it")
    if not stat.S_ISREG(status.st_mode):
        raise ConfigValueError(
            "is not a regular file", "write it to a file: a reload reads it again"
        )


def _reason(error: OSError | ValueError, advice: str) -> tuple[str, str]:
    """Return what was wrong with a path, and what to do."""
    if isinstance(error, FileNotFoundError):
        return "no such file", advice
    if isinstance(error, PermissionError):
        return "may not be read by this user", "give this user the right to read it"
    what = (error.strerror or "") if isinstance(error, OSError) else str(error)
    return f"cannot be read: {what}", advice


def decode(data: bytes, source: Source) -> str:
    """Return the text of a file; raise NotText, with the place, if it is not UTF-8."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        mark = mark_at(source, before, len(before))
        what = f"has a byte that is not UTF-8, 0x{data[error.start]:02x}"
        raise NotText(mark.problem("", what, "save it as UTF-8")) from None
