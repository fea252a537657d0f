from __future__ import annotations

import datetime
import time

from hypothesis import given
from hypothesis import strategies as st

from graced.host import clock

EPOCH = datetime.datetime(1970, 1, 1)


@given(st.datetimes(min_value=EPOCH, max_value=datetime.datetime(2200, 1, 1)))
def test_iso_agrees_with_the_library(moment: datetime.datetime) -> None:
    since = moment - EPOCH
    ns = (since // datetime.timedelta(microseconds=1)) * 1000
    assert clock.iso(ns) == moment.isoformat(timespec="milliseconds") + "Z"


def test_iso_is_now_by_default() -> None:
    told = datetime.datetime.fromisoformat(clock.iso())
    assert abs(told.timestamp() - time.time()) < 5
    assert told.utcoffset() == datetime.timedelta(0)


def test_a_monotonic_moment_is_told_in_wall_time() -> None:
    told = datetime.datetime.fromisoformat(clock.iso_at(clock.monotonic() - 100))
    assert abs(told.timestamp() - (time.time() - 100)) < 5
