"""JSON as payloads and results have it: nothing but what every reader of JSON can read.

Python's own would let NaN and Infinity pass, and read 1e400 as Infinity.
"""

from __future__ import annotations

from functools import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from json import JSONDecoder
    from typing import Any, NoReturn

INFINITY = float("inf")
MAX_DEPTH = 500  # levels of lists and objects in one another: some readers have room for no more


def written(value: Any) -> str:
    """Return a value as text. TypeError or ValueError if it is no JSON value."""
    from json import dumps

    try:
        text = dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    except RecursionError:
        raise _too_deep() from None
    _check_depth(text, value)
    # Names in no encoding come with lone surrogates, which UTF-8 has no room for: only those
    # are escaped, and in JSON's own way.
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def read(text: str) -> Any:
    """Return the value of a text. ValueError if it is no JSON value."""
    try:
        value = _decoder().decode(text)
    except RecursionError:
        raise _too_deep() from None
    _check_depth(text, value)
    return value


def size(text: str) -> int:
    """Return how many bytes of the limit a text takes."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _check_depth(text: str, value: Any) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (list, tuple, dict))
        ]
    if level:
        raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"it is nested more than {MAX_DEPTH} levels deep")


@cache
def _decoder() -> JSONDecoder:
    from json import JSONDecoder

    return JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (INFINITY, -INFINITY):
        raise ValueError(f"{digits[:40]} is too large a number")
    return number


def read_or_text(text: str | None) -> Any:
    """Return a stored value; where it is no JSON, as a stranger may have stored, its text."""
    if text is None:
        return None
    try:
        return read(text)
    except ValueError:
        return text
