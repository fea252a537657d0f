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


def written(value: Any) -> str:
    """Return a value as text. TypeError, ValueError or RecursionError if it is no JSON value."""
    from json import dumps

    text = dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    # Names in no encoding come with lone surrogates, which UTF-8 has no room for: only those
    # are escaped, and in JSON's own way.
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def read(text: str) -> Any:
    """Return the value of a text. ValueError or RecursionError if it is no JSON value."""
    return _decoder().decode(text)


def size(text: str) -> int:
    """Return how many bytes of the limit a text takes."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


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
