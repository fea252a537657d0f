from __future__ import annotations

import datetime
import time

from hypothesis import given
from hypothesis import strategies as st

from graced import clock

EPOCH = datetime.datetime(1970, 1, 1)
DIGITS = 0.002  # seconds; milliseconds are told, and two clocks need not agree on less


@given(st.datetimes(min_value=EPOCH, max_value=datetime.datetime(2200, 1, 1)))
def test_iso_agrees_with_the_library(moment: datetime.datetime) -> None:
    since = moment - EPOCH
    ns = (since // datetime.timedelta(microseconds=1)) * 1000
    assert clock.iso(ns) == moment.isoformat(timespec="milliseconds") + "Z"


def test_iso_is_now_by_default() -> None:
    before = time.time()
    told = datetime.datetime.fromisoformat(clock.iso())
    assert before - DIGITS <= told.timestamp() <= time.time()
    assert told.utcoffset() == datetime.timedelta(0)
