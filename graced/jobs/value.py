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


def read(text: str) -> Any:
    """Return the value of a text. ValueError or RecursionError if it is no JSON value."""
    return _decoder().decode(text)


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
