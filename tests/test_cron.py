"""When schedules fall due: against cronsim, and against a look at every minute there is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graced import cron

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",  # had no midnight
    "Australia/Lord_Howe",  # half an hour
    "Africa/Casablanca",  # summer time but for Ramadan
    "Asia/Kathmandu",
    "Pacific/Apia",  # had no 30th of December
)
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: tzinfo = BERLIN, fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp())


def instants(rule: cron.Rule, zone: tzinfo, after: int, until: int) -> list[int]:
    found: list[int] = []
    while (after := cron.following(rule, zone, after) or until) < until:
        found.append(after)
    return found


def shown(text: str, begin: str, end: str, zone: tzinfo = BERLIN) -> list[str]:
    found = instants(cron.read(text), zone, at(begin, zone) - 1, at(end, zone))
    return [f"{datetime.fromtimestamp(t, zone):%d %H:%M %z}" for t in found]


# The two days


def test_a_time_that_does_not_exist_is_the_first_instant_after_the_gap() -> None:
    assert shown("30 2 * * *", "2026-03-28", "2026-03-31") == [
        "28 02:30 +0100",
        "29 03:00 +0200",
        "30 02:30 +0200",
    ]
    assert shown("0,30 2,3 * * *", "2026-03-29", "2026-03-30") == [
        "29 03:00 +0200",
        "29 03:30 +0200",
    ]


def test_a_time_that_comes_twice_is_the_first() -> None:
    assert shown("30 2 * * *", "2026-10-25", "2026-10-26") == ["25 02:30 +0200"]


def test_a_pace_goes_by_elapsed_time() -> None:
    for day, hours in (("2026-03-29", 23), ("2026-10-25", 25)):
        end = str(datetime.fromisoformat(day) + timedelta(days=1))
        found = instants(cron.read("*/10 * * * *"), BERLIN, at(day) - 1, at(end))
        assert len(found) == 6 * hours
        assert {b - a for a, b in pairwise(found)} == {600}


def test_a_day_that_a_zone_left_out() -> None:
    apia = ZoneInfo("Pacific/Apia")
    assert shown("0 12 30 12 *", "2011-12-29", "2012-01-02", apia) == ["31 00:00 +1400"]


def test_every_so_many_seconds_is_counted_from_the_epoch() -> None:
    assert instants(cron.Every(600), BERLIN, 0, 1800) == [600, 1200]
    assert cron.following(cron.Every(1), BERLIN, 1_700_000_000) == 1_700_000_001


# Reading


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("@daily", "0 0 * * *"),
        ("@Weekly", "0 0 * * sun"),
        ("0 0 * jan-mar Mon,wed", "0 0 * 1,2,3 1,3"),
        ("0 0 * * 7", "0 0 * * 0"),
        ("0 0 * * fri-sun", "0 0 * * 0,5,6"),
        ("5/20 1-5/2 * * *", "5,25,45 1,3,5 * * *"),
        ("  0   0 1 1 *  ", "@yearly"),
    ],
)
def test_other_ways_to_write_the_same(text: str, same: str) -> None:
    begin, end = at("2026-01-01"), at("2027-06-01")
    found = instants(cron.read(text), BERLIN, begin, end)
    assert found
    assert found == instants(cron.read(same), BERLIN, begin, end)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("0 0 31 2 *", "never falls due"),
        ("0 0 30,31 feb *", "never falls due"),
        ("0 0 31 2,4 */2", "never falls due"),
        ("* * *", "3 fields"),
        ("", "0 fields"),
        ("0 0 * * * *", "6 fields"),
        ("@often", "no such word"),
        ("@reboot", "no time"),
        ("60 * * * *", "minute cannot be '60'"),
        ("0 24 * * *", "hour cannot be '24'"),
        ("0 0 0 * *", "day of month cannot be '0'"),
        ("0 0 * 13 *", "month cannot be '13'"),
        ("0 0 * * 8", "day of week cannot be '8'"),
        ("0 0 * * moon", "day of week cannot be 'moon'"),
        ("-5 0 * * *", "minute cannot be ''"),
        ("5- 0 * * *", "minute cannot be ''"),
        ("1,,2 0 * * *", "minute cannot be ''"),
        ("30-10 * * * *", "ends before it begins"),
        ("*/0 * * * *", "step of '0'"),
        ("*/90 * * * *", "step of '90'"),
        ("*/ * * * *", "step of ''"),
        ("²  * * * *", "minute cannot be '²'"),
        ("0 0 L * *", "day of month cannot be 'L'"),
        (f"{'9' * 490} * * * *", "minute cannot be '9"),
        (f"{'9' * 500} * * * *", "is longer than 500 characters"),
    ],
)
def test_what_is_no_expression(text: str, what: str) -> None:
    with pytest.raises(cron.CronError) as caught:
        cron.read(text)
    assert what in caught.value.what
    assert caught.value.remedy
    assert len(caught.value.what) < 100


def test_one_of_the_days_will_do_unless_one_begins_with_a_star() -> None:
    assert cron.following(cron.read("0 0 31 2 mon"), BERLIN, at("2026-02-03")) == at("2026-02-09")
    assert [d[:2] for d in shown("0 0 13 * fri", "2026-02-01", "2026-02-21")] == ["06", "13", "20"]
    assert [d[:2] for d in shown("0 0 */2 * fri", "2026-02-01", "2026-03-01")] == ["13", "27"]


# Against others


def numbers(least: int, most: int) -> st.SearchStrategy[str]:
    one = st.integers(least, most)
    spans = st.tuples(one, one).map(lambda two: f"{min(two)}-{max(two)}")
    wide = spans.filter(lambda span: len(set(span.split("-"))) == 2)  # of one, cronsim goes on
    steps = st.tuples(st.one_of(wide, st.just("*")), st.integers(1, most - least + 1))
    single = st.one_of(one.map(str), spans, steps.map(lambda s: f"{s[0]}/{s[1]}"))
    listed = st.lists(st.one_of(one.map(str), spans), min_size=1, max_size=3).map(",".join)
    return st.one_of(st.just("*"), single, listed)


EXPRESSIONS = st.tuples(
    numbers(0, 59), numbers(0, 23), numbers(1, 31), numbers(1, 12), numbers(0, 7)
).map(" ".join)
MOMENTS = st.integers(at("1972-01-01"), at("2170-01-01"))


def read(text: str) -> cron.Cron | None:
    try:
        return cron.read(text)
    except cron.CronError as error:
        if "never falls due" not in error.what:
            raise
        return None


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS, st.sampled_from(ZONES), MOMENTS)
def test_it_is_as_cronsim_has_it(text: str, name: str, after: int) -> None:
    cronsim = pytest.importorskip("cronsim")
    rule, zone = read(text), ZoneInfo(name)
    start = datetime.fromtimestamp(after, zone)
    if rule is None:
        with pytest.raises(cronsim.CronSimError):
            cronsim.CronSim(text, start)
        return
    theirs = [int(t.timestamp()) for t in islice(cronsim.CronSim(text, start), 30)]
    for instant in dict.fromkeys(theirs):  # which has times in a gap twice
        ours = cron.following(rule, zone, after)
        if ours != instant and crosses_a_change(zone, after, max(instant, ours or 0)):
            return  # cronsim's fixed times go on from what clocks show: the next test judges
        assert ours == instant, (datetime.fromtimestamp(ours or 0, zone), text)
        after = instant


def crosses_a_change(zone: tzinfo, begin: int, end: int) -> bool:
    first = datetime.fromtimestamp(begin - 86400, zone).utcoffset()
    days = range(begin - 86400, end + 86400, 3600)
    return any(datetime.fromtimestamp(t, zone).utcoffset() != first for t in days)


def changes() -> list[tuple[str, int]]:
    """Return the hours in which clocks are set, in some years."""
    found = []
    for name in ZONES:
        zone = ZoneInfo(name)
        for year in (1999, 2011, 2026, 2090):
            hours = range(at(f"{year}-01-01", UTC), at(f"{year + 1}-01-01"), 3600)
            offsets = [datetime.fromtimestamp(t, zone).utcoffset() for t in hours]
            pairs = zip(hours[1:], pairwise(offsets), strict=True)
            found += [(name, hour) for hour, (old, new) in pairs if old != new]
    return found


def looked_up(rule: cron.Cron, zone: tzinfo, begin: int, end: int) -> list[int]:
    """Return the instants by looking at each minute from one of whole days to another."""
    minutes = range(begin, end, 60)
    shown = {t: datetime.fromtimestamp(t, zone).replace(tzinfo=None) for t in minutes}
    fits = [t for t in minutes if matches(rule, shown[t])]
    if rule.paced:
        return fits
    first: dict[datetime, int] = {}
    for t in minutes:
        first.setdefault(shown[t], t)
    found = {first[shown[t]] for t in fits}
    for a, b in pairwise(minutes):
        gap = shown[a] + timedelta(minutes=1)
        while gap < shown[b]:
            if matches(rule, gap):
                found.add(b)
            gap += timedelta(minutes=1)
    return sorted(found)


def matches(rule: cron.Cron, wall: datetime) -> bool:
    times = wall.minute in rule.minutes and wall.hour in rule.hours
    return times and rule.has_day(wall.date())


@settings(max_examples=60, deadline=None)
@given(EXPRESSIONS, st.sampled_from(changes()))
def test_where_clocks_are_set_it_is_as_each_minute_says(text: str, change: tuple[str, int]) -> None:
    rule, (name, hour) = read(text), change
    if rule is None:
        return
    begin, end = hour - 36 * 3600, hour + 36 * 3600
    zone = ZoneInfo(name)
    found = instants(rule, zone, begin + 6 * 3600 - 1, end)
    wanted = [t for t in looked_up(rule, zone, begin, end) if t >= begin + 6 * 3600]
    assert found == wanted
