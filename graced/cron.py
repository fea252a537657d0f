"""When a schedule falls due: five fields as in cron(5), or every so many seconds.

An instant is whole seconds since the epoch. No clock and no file: time and zone are arguments.

A fixed time of a day that has no such time, since clocks are set forward then, is the first
instant after the gap; where clocks are set back and there are two, it is the first. An expression
whose minute or hour begins with a star stands for a pace rather than a time: it is met whenever
a clock on the wall shows a time that matches, twice where that shows it twice. So has cron(8) of
Debian it. The instants of ``every`` are counted from the epoch, so that all hosts have the same.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, date, datetime, timedelta, tzinfo

from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from graced.settings import Schedule

EXAMPLE = "30 2 * * *"
SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MINUTE, HOUR, DAY = 60, 3600, 86400  # seconds
LONGEST = 500  # characters
LAST_YEAR = 9000  # Python's calendar ends soon after it
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)  # days of the months


class CronError(Exception):
    """No expression: what is wrong with it, and what to write."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


class _Field(Record):
    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()  # of the numbers from `least` on


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, tuple("jan feb mar apr may jun jul aug sep oct nov dec".split())),
    _Field("day of week", 0, 7, tuple("sun mon tue wed thu fri sat".split())),
)


class Cron(Record):
    """An expression that was read."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]  # 0 and 7 are Sunday
    both: bool  # day of month and day of week have to match; else one of them will do
    paced: bool  # by elapsed time

    def has_day(self, day: date) -> bool:
        """Whether it falls due on a day."""
        if day.month not in self.months:
            return False
        of_month = day.day in self.days
        of_week = day.isoweekday() in self.weekdays or day.isoweekday() % 7 in self.weekdays
        return (of_month and of_week) if self.both else (of_month or of_week)


class Every(Record):
    """An instant every so many seconds."""

    seconds: int


if TYPE_CHECKING:
    Rule: TypeAlias = Cron | Every


# Reading


def read(text: str) -> Cron:
    """Read an expression. CronError if it is none, or one that never falls due."""
    if text.strip().lower() == "@reboot":
        raise CronError("@reboot is no time", "do that in setup() of the worker")
    words = SHORTHANDS.get(text.strip().lower(), text).split()
    if len(words) == 1 and words[0].startswith("@"):
        raise CronError("there is no such word", f"write one of {', '.join(SHORTHANDS)}")
    if len(text) > LONGEST:
        raise CronError(f"is longer than {LONGEST} characters", "write ranges and steps")
    if len(words) != len(_FIELDS):
        count = f"{len(words)} fields" if len(words) != 1 else "one field"
        names = ", ".join(field.name for field in _FIELDS)
        raise CronError(f"has {count}, not five", f"write {names}, such as '{EXAMPLE}'")
    numbers = [_numbers(word, field) for word, field in zip(words, _FIELDS, strict=True)]
    minutes, hours, days, months, weekdays = numbers
    both = words[2].startswith("*") or words[4].startswith("*")
    if both and all(days[0] > _LONGEST[month - 1] for month in months):
        what = f"never falls due: no such month has a day {days[0]}"
        raise CronError(what, "write a day that the month has")
    paced = words[0].startswith("*") or words[1].startswith("*")
    return Cron(minutes, hours, days, months, weekdays, both, paced)


def _numbers(word: str, field: _Field) -> tuple[int, ...]:
    return tuple(sorted({number for part in word.split(",") for number in _part(part, field)}))


def _part(part: str, field: _Field) -> range:
    """Return what one of a list stands for: *, 5, 1-5, */10, 1-30/5, and 5/10 for 5-59/10."""
    span, slash, step = part.partition("/")
    first, dash, last = span.partition("-")
    if span == "*":
        low, high = field.least, field.most
    elif dash:
        low, high = _number(first, field), _number(last, field)
        if high == 0 < low and field.most == 7:
            high = 7  # fri-sun
    else:
        low = _number(first, field)
        high = field.most if slash else low
    if high < low:
        raise CronError(f"{field.name} {span!r} ends before it begins", "write the lower one first")
    return range(low, high + 1, _step(step, field) if slash else 1)


def _number(text: str, field: _Field) -> int:
    if text.lower() in field.names:
        return field.names.index(text.lower()) + field.least
    if text.isascii() and text.isdigit() and field.least <= int(text[:9]) <= field.most:
        return int(text)
    names = f", or {field.names[0]} to {field.names[-1]}" if field.names else ""
    remedy = f"write *, or {field.least} to {field.most}{names}"
    raise CronError(f"{field.name} cannot be {text[:40]!r}", remedy)


def _step(text: str, field: _Field) -> int:
    size = field.most - field.least + 1
    if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= size:
        return int(text)
    what = f"{field.name} cannot have a step of {text[:40]!r}"
    raise CronError(what, f"write 1 to {size}; what is longer may be an every:, such as every: 90m")


def rule_of(schedule: Schedule) -> Rule:
    """Return the rule of a schedule's settings, which were checked."""
    if schedule.cron is not None:
        return read(schedule.cron)
    assert schedule.every is not None
    return Every(int(schedule.every))


# Instants


def following(rule: Rule, zone: tzinfo, after: int) -> int | None:
    """Return the first instant after a moment; None if the calendar ends before."""
    if isinstance(rule, Every):
        return (after // rule.seconds + 1) * rule.seconds
    local = _local(after, zone)
    return _paced(rule, zone, after) if rule.paced else _fixed(rule, zone, local.date(), after)


def latest(rule: Rule, zone: tzinfo, after: int, until: int, limit: int) -> list[int]:
    """Return the last instants after a moment and up to another, in order, `limit` at most."""
    span = MINUTE * limit
    while True:
        start = max(after, until - span)
        found: deque[int] = deque(maxlen=limit)
        instant = following(rule, zone, start)
        while instant is not None and instant <= until:
            found.append(instant)
            instant = following(rule, zone, instant)
        if start == after or len(found) == limit:
            return list(found)
        span *= 4


def _fixed(cron: Cron, zone: tzinfo, today: date, after: int) -> int | None:
    """Go through the days: what they show never goes back, if the first of two is meant."""
    for day in _days(cron, today - timedelta(days=1)):
        for hour in cron.hours:
            for minute in cron.minutes:
                instant = _instant(datetime(day.year, day.month, day.day, hour, minute), zone)
                if instant > after:
                    return instant
    return None


def _days(cron: Cron, day: date) -> Iterator[date]:
    while day.year < LAST_YEAR:
        if day.month not in cron.months:
            day = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
            continue
        if cron.has_day(day):
            yield day
        day += timedelta(days=1)


def _paced(cron: Cron, zone: tzinfo, after: int) -> int | None:
    """Go through time as it passes, from one minute, hour or day to the next."""
    instant = after - _local(after, zone).second
    step = MINUTE
    while True:
        instant = _leap(instant, step, zone)
        local = _local(instant, zone)
        if local.year >= LAST_YEAR:
            return None
        if not cron.has_day(local.date()):
            step = DAY - local.hour * HOUR - local.minute * MINUTE
        elif local.hour not in cron.hours:
            step = HOUR - local.minute * MINUTE
        elif local.minute not in cron.minutes or local.second:
            step = MINUTE - local.second
        elif instant > after:
            return instant
        else:
            step = MINUTE


def _leap(instant: int, step: int, zone: tzinfo) -> int:
    """Go on by so many seconds, but over no change of the clocks: to it by the minute."""
    if step > MINUTE and _offset(instant, zone) != _offset(instant + step, zone):
        return instant + MINUTE
    return instant + step


def _instant(wall: datetime, zone: tzinfo) -> int:
    """Return when clocks show a time; the first of two; if they never do, the first after it."""
    first = _seconds(wall.replace(tzinfo=zone, fold=0))
    if _local(first, zone).replace(tzinfo=None) == wall:
        return first
    low, high = _seconds(wall.replace(tzinfo=zone, fold=1)), first  # before the gap, and after it
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(middle, zone) == _offset(high, zone):
            high = middle
        else:
            low = middle
    return high


def _seconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(seconds=1)


def _local(instant: int, zone: tzinfo) -> datetime:
    return (_EPOCH + timedelta(seconds=instant)).astimezone(zone)


def _offset(instant: int, zone: tzinfo) -> timedelta | None:
    return _local(instant, zone).utcoffset()


# For people


def shown(instant: int, zone: tzinfo) -> str:
    """Return an instant as clocks show it in a zone, in ISO 8601."""
    return _local(instant, zone).isoformat()
