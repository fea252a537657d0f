"""Durations and sizes as people write them: 500ms, 30s, 2m; 300M, 1G.

Texts in, numbers out, and back; and as they are shown to people, rounded.
"""

from __future__ import annotations

SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

# A century: what is longer is a slip of the pen, and would not fit 64 bits of nanoseconds thrice.
MAX_DURATION_S = 36_500 * 86400.0
MAX_SIZE_BYTES = 1 << 60


class TooLarge(ValueError):
    """A number that is one, but can't be meant."""


def duration(text: str) -> float:
    """Return the seconds that *text* stands for; raise ValueError if it stands for none."""
    seconds = _scaled(text, SECONDS)
    if seconds > MAX_DURATION_S:
        raise TooLarge("more than a century")
    return seconds


def size(text: str) -> int:
    """Return the bytes that *text* stands for; raise ValueError if it stands for none."""
    number = _scaled(text, BYTES)
    if number > MAX_SIZE_BYTES:
        raise TooLarge("more than any machine has")
    return int(number)


def _scaled(text: str, units: dict[str, float] | dict[str, int]) -> float:
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = text[len(digits) :]
    digits = digits.rstrip(" ")
    if unit not in units or not _is_number(digits) or len(digits) > 40:
        raise ValueError("not a number and a unit")
    if unit == "ms":
        return float(digits) / 1000  # exact where times 0.001 is not: 7ms is 0.007
    return float(digits) * units[unit]


def _is_number(digits: str) -> bool:
    return digits.isascii() and digits.replace(".", "", 1).isdigit()


def show_duration(seconds: float) -> str:
    """Write a duration so that :func:`duration` reads the same number again."""
    return _shown(seconds, SECONDS) or _shown(seconds * 1000, {"ms": 1}) or _decimal(seconds)


def show_size(number: int) -> str:
    """Write a size so that :func:`size` reads the same number again."""
    return _shown(number, BYTES) or str(number)


def _shown(number: float, units: dict[str, float] | dict[str, int]) -> str:
    """Write *number* in the largest unit that divides it; "" if none does."""
    for unit, scale in reversed(units.items()):
        if unit and scale >= 1 and number >= scale and number % scale == 0:
            return f"{int(number // scale)}{unit}"
    return ""


def _decimal(seconds: float) -> str:
    text = repr(seconds)
    return f"{seconds:.25f}".rstrip("0") + "0s" if "e" in text else text.removesuffix(".0") + "s"


# For people: rounded


def format_duration(seconds: float) -> str:
    """Return a duration in its largest unit: ``400 ms``, ``12 s``, ``3 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    return f"{seconds / 60:.0f} min"


def format_span(seconds: float | None) -> str:
    """Return a length of time in its two largest units: 350 ms, 12.0 s, 3 h 5 min, 2 d 1 h."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {int(seconds) % 60} s"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes // 60 % 24} h"


def format_size(number: int | None) -> str:
    """Return a number of bytes in its largest unit: 24.0M."""
    if number is None:
        return "-"
    if number < 1024:
        return str(number)
    value, units = number / 1024, "KMGT"
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.1f}{units[0]}"


def format_age(seconds: float) -> str:
    """Return an age in its largest unit, short: 12s, 3m, 5h, 2d."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"
