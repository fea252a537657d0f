"""Texts made fit to be shown: whatever goes to a terminal or a log passes through here.

What user code has raised or printed, what a job is, how a process calls itself: any of it may
hold escapes that a terminal obeys, or marks that have a line shown in another order than it is.
"""

from __future__ import annotations

_SEPARATORS = (0x2028, 0x2029)  # of lines and paragraphs
_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
WIDE = (*_SEPARATORS, *_DIRECTIONS)  # what is not shown, beyond one byte
_HARMLESS = {
    code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))
} | {code: f"\\u{code:04x}" for code in WIDE}


def harmless(text: str) -> str:
    """Return `text` without anything that a terminal obeys or UTF-8 can't say; LF and TAB stay."""
    if text.isprintable():
        return text
    text = text.translate(_HARMLESS)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def one_line(text: str) -> str:
    """Return `text` harmless and on a single line."""
    return harmless(text).replace("\n", "\\n").replace("\t", " ")


def printable(text: str, longest: int = 200) -> str:
    """Return *text* fit for one line of a terminal or a log."""
    if len(text) > longest:
        text = text[: longest - 3] + "..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Secret(str):
    """A text that is not to be shown; what it is used for gets it as any other."""

    file: str | None  # how the file that it stands in is named in the configuration

    def __new__(cls, text: str, file: str | None = None) -> Secret:
        made = super().__new__(cls, text)
        made.file = file
        return made

    def __repr__(self) -> str:
        return "'***'"


def quoted(text: str) -> str:
    """Return *text* in quotes, cut short, for a message; of a secret nothing."""
    if isinstance(text, Secret):
        return repr(text)
    return f"'{printable(text, 60)}'"


def printed(value: object) -> str:
    """Return what str() makes of a value, whatever user code its `__str__` is."""
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a user's __str__ may raise whatever it likes
        return f"<{type(value).__name__} that cannot be printed: {type(error).__name__}>"


def in_one_line(error: BaseException) -> str:
    """Return `ValueError: what it says`, whatever its `__str__` does; of a group also the first."""
    try:
        said = " ".join(str(error).split())
    except Exception as worse:  # noqa: BLE001  # user code's __str__ may raise anything
        said = f"(its str() raised {type(worse).__name__})"
    name = type(error).__name__
    told = f"{name}: {said}" if said else name
    if isinstance(error, BaseExceptionGroup):
        return f"{told}: {in_one_line(error.exceptions[0])}"
    return told
