"""What a worker may say about a job, without a queue."""

from __future__ import annotations

import pytest

from graced import Retry


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
