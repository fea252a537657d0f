"""What a worker may say about a job, without a queue."""

from __future__ import annotations

import json

import pytest

from graced import Retry
from graced.queue import jsonvalue


@pytest.mark.parametrize(
    "after", [-1, float("nan"), float("inf"), 4e8, 1e30, pytest.param(10**400, id="huge")]
)
def test_a_delay_that_no_job_can_have_is_told_at_once(after: float) -> None:
    with pytest.raises(ValueError, match=r"^Retry\(after=.*write seconds, from 0 to 316224000$"):
        Retry(after)


@pytest.mark.parametrize("after", [0, 0.5, 3660 * 86400])
def test_a_delay_may_be_ten_years(after: float) -> None:
    assert Retry(after).after == after
    assert Retry(after, "later").reason == "later"


def nested(levels: int, inner: str = "") -> str:
    return "[" * levels + inner + "]" * levels


@pytest.mark.parametrize("inner", ["", "1", '"[[["'])
def test_one_depth_is_the_limit_of_what_is_read_and_written(inner: str) -> None:
    most = nested(jsonvalue.MAX_DEPTH, inner)
    assert jsonvalue.written(jsonvalue.read(most)) == most
    wide = json.dumps([[{"a": []}]] * jsonvalue.MAX_DEPTH)
    assert jsonvalue.written(jsonvalue.read(wide)) == wide.replace(" ", "")
    for levels in (jsonvalue.MAX_DEPTH + 1, 950, 100_000):
        with pytest.raises(ValueError, match="nested more than 500 levels deep"):
            jsonvalue.read(nested(levels, inner))
    deep: object = 1
    for levels in range(1, 2001):
        deep = {"a": deep} if levels % 2 else (deep,)
        if levels in (jsonvalue.MAX_DEPTH + 1, 900, 2000):
            with pytest.raises(ValueError, match="nested more than 500 levels deep"):
                jsonvalue.written(deep)
