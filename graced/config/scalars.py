"""How the text of a single value becomes the value, kind by kind, or what is wrong with it.

The kinds are those of :mod:`graced.config.schema`. Nothing is known here of keys, nor
of mappings and lists: :mod:`graced.config.builder` goes through those.
"""

from __future__ import annotations

from graced import units
from graced.config.nodes import Scalar
from graced.config.schema import ENDLESS, Bytes, Choice, Number, Seconds, Switch, Text, Whole
from graced.config.validators import ConfigValueError
from graced.text import printable, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from graced.config.schema import Single

_TRUE = ("true", "True", "TRUE")
_FALSE = ("false", "False", "FALSE")


def read_scalar(kind: Single, scalar: Scalar) -> Any:
    """Return the value of a scalar of a known kind; raise ConfigValueError if it has none."""
    if scalar.is_null:
        raise ConfigValueError("is empty", f"{remedy(kind)}, or leave the key out")
    match kind:
        case Text(check, noun):
            return check(text(scalar, noun), scalar.mark)
        case Seconds(zero):
            return _seconds(scalar.text, zero)
        case Bytes(least):
            return _bytes(scalar.text, least)
        case Choice(words):
            return _choice(scalar.text, words)
    if not scalar.plain:
        raise ConfigValueError(f"{quoted(scalar.text)} is a text in quotes", remedy(kind))
    match kind:
        case Whole():
            return _whole(scalar.text, kind)
        case Number():
            return _number(scalar.text, kind)
        case Switch():
            return _switch(scalar.text)


def remedy(kind: Single) -> str:
    """Return what to write for a value of this kind."""
    match kind:
        case Seconds():
            return "write a number and a unit, such as 30s"
        case Bytes():
            return "write a number of bytes, or a number and K, M, G or T, such as 300M"
        case Whole(least, most, word):
            end = f"of at least {least}" if most == ENDLESS else f"from {least} to {most}"
            return f"write a whole number {end}" + (f", or {word}" if word else "")
        case Number(least):
            return f"write a number of at least {least:g}, such as 2 or 1.5"
        case Switch():
            return "write true or false"
        case Choice(words):
            return f"write one of {', '.join(words)}"
        case Text(_, noun):
            return f"write a {noun}"


def _seconds(text: str, zero: bool) -> float:
    advice = remedy(Seconds())
    if text.startswith("-"):
        raise ConfigValueError(f"{quoted(text)} is negative", advice)
    try:
        seconds = units.duration(text)
    except units.TooLarge as error:
        raise ConfigValueError(f"{quoted(text)} is {error}", advice) from None
    except ValueError:
        raise ConfigValueError(f"cannot read {quoted(text)} as a duration", advice) from None
    if not seconds and not zero:
        raise ConfigValueError("must be more than 0", advice)
    return seconds


def _bytes(text: str, least: int) -> int:
    try:
        size = units.size(text)
    except units.TooLarge as error:
        raise ConfigValueError(f"{quoted(text)} is {error}", remedy(Bytes())) from None
    except ValueError:
        raise ConfigValueError(f"cannot read {quoted(text)} as a size", remedy(Bytes())) from None
    if size < least:
        raise ConfigValueError(f"must be at least {units.show_size(least)}", remedy(Bytes()))
    return size


def _choice(text: str, words: tuple[str, ...]) -> str:
    if text not in words:
        raise ConfigValueError(
            f"{quoted(text)} is none of {', '.join(words)}", suggestion(text, words)
        )
    return text


def _whole(text: str, kind: Whole) -> int:
    if kind.word and text == kind.word:
        import os

        return max(1, min(len(os.sched_getaffinity(0)), kind.most))
    digits = text.removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        raise ConfigValueError(f"cannot read {quoted(text)} as a whole number", remedy(kind))
    if digits[0] == "0" and len(digits) > 1:
        raise ConfigValueError(f"{quoted(text)} is octal to some readers of YAML", remedy(kind))
    number = int(text[:20])  # 20 digits are enough to be too large
    _check_range(number, text, kind)
    return number


def _number(text: str, kind: Number) -> float:
    if not (text.isascii() and text.replace(".", "", 1).isdigit()):
        raise ConfigValueError(f"cannot read {quoted(text)} as a number", remedy(kind))
    number = float(text)
    _check_range(number, text, kind)
    return number


def _check_range(number: float, text: str, kind: Whole | Number) -> None:
    if not kind.least <= number <= kind.most:
        too = "small" if number < kind.least else "large"
        raise ConfigValueError(f"{quoted(text)} is too {too}", remedy(kind))


def _switch(text: str) -> bool:
    if text not in _TRUE + _FALSE:
        raise ConfigValueError(f"cannot read {quoted(text)} as true or false", remedy(Switch()))
    return text in _TRUE


def text(scalar: Scalar, noun: str) -> str:
    """Return what is written; a number will do, but true and null are slips of the pen."""
    if scalar.is_null:
        raise ConfigValueError("is empty", f"write a {noun}")
    if scalar.plain and scalar.text in _TRUE + _FALSE:
        raise ConfigValueError(f"cannot read {quoted(scalar.text)} as a {noun}", f"write a {noun}")
    return scalar.text


def suggestion(text: str, words: tuple[str, ...]) -> str:
    """Return which of *words* may have been meant; look at some only, as it takes time."""
    import difflib

    some = words[:50]
    alike = text[:40].lower().replace("-", "_")
    close = difflib.get_close_matches(alike, some, 1) or [w for w in some if w.startswith(alike)]
    if alike and close:
        return f"did you mean {quoted(close[0])}?"
    shown = ", ".join(printable(word, 60) for word in some[:30])  # names of pools may be anything
    return f"write one of {shown}" + (", ..." if len(words) > 30 else "")


# Plain data, as in `options`


_ODD_WORDS = ("yes", "no", "on", "off")
_INTEGER = r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+"
_FLOAT = r"[-+]?[0-9]+\.[0-9]*([eE][-+][0-9]+)?|\.[0-9]+([eE][-+][0-9]+)?"
_ENDLESS = r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_ODD = (
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+"  # numbers in YAML 1.2
    r"|[-+]?0b[01_]+|[-+]?0x[0-9a-fA-F_]+|[-+]?[0-9][0-9_]*"  # and in YAML 1.1
    r"|[-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+][0-9]+)?|[-+]?\.[0-9_]+([eE][-+][0-9]+)?"
    r"|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?"
)


def plain(scalar: Scalar) -> str | int | float | bool | None:
    """Return what a scalar is to every reader of YAML; raise ConfigValueError where they differ."""
    text = scalar.text
    if not scalar.plain:
        return text
    if scalar.is_null:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if text[0] in "+-.0123456789":
        return _plain_number(text)
    if text.lower() in _ODD_WORDS:
        raise _odd(text, "write true or false, or put it in quotes")
    return text


def _plain_number(text: str) -> str | int | float:
    if len(text) < 19 and text.isdigit() and text.isascii() and text == str(int(text)):
        return int(text)  # the usual case, without the import
    import re

    if len(text) < 500:  # Python refuses to read numbers of some thousand digits
        if re.fullmatch(_INTEGER, text):
            return int(text, 16 if text.startswith("0x") else 10)
        if re.fullmatch(_FLOAT, text):
            return float(text)
        if re.fullmatch(_ENDLESS, text):
            return float(text.replace(".", ""))
    if re.fullmatch(_ODD, text):
        raise _odd(text, "put it in quotes, or write a plain number such as 10 or 1.5")
    return text


def _odd(text: str, advice: str) -> ConfigValueError:
    return ConfigValueError(f"{quoted(text)} is ambiguous in YAML", advice)
