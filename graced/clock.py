"""Time, of two kinds: monotonic for every decision, wall time for what people read.

Nothing here sleeps, and no decision may ever be made on wall time.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import tzinfo

monotonic = time.monotonic
monotonic_ns = time.monotonic_ns


def iso(at_ns: int | None = None) -> str:
    """Return a moment as ISO 8601 in UTC with milliseconds, by default the present one.

    `at_ns` is nanoseconds since the epoch, as :func:`time.time_ns` returns them.
    """
    seconds, rest = divmod(time.time_ns() if at_ns is None else at_ns, 1_000_000_000)
    t = time.gmtime(seconds)
    day = f"{t.tm_year:04d}-{t.tm_mon:02d}-{t.tm_mday:02d}"
    return f"{day}T{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}.{rest // 1_000_000:03d}Z"


def zone(name: str) -> tzinfo:
    """Return a time zone by its name in the IANA's table. ValueError if there is none."""
    if name == "UTC":  # without a table, too
        from datetime import UTC

        return UTC
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"there is no time zone {name}") from error
