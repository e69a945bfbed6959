"""Cron expressions name the same moments as an independent oracle, whatever a zone does with its clocks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_romancy._schedules.calendar import Calendar, jitter_of, open_zone
from trio_romancy._schedules.cron import Cron
from trio_romancy.clock import from_datetime, to_datetime

ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]
BEGIN, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
STEP = timedelta(minutes=15)
"""Clocks are changed at multiples of this, so the oracle looks at nothing in between."""

Matches = Callable[[datetime], bool]

WALL_TIME: dict[str, Matches] = {
    "30 2 * * *": lambda wall: (wall.hour, wall.minute) == (2, 30),
    "15,45 1,2 * * *": lambda wall: wall.hour in (1, 2) and wall.minute in (15, 45),
    "0 0-3 * * SUN": lambda wall: wall.hour <= 3 and wall.minute == 0 and wall.isoweekday() == 7,
    "0 12 1 * MON": lambda wall: (wall.hour, wall.minute) == (12, 0) and (wall.day == 1 or wall.isoweekday() == 1),
}
REAL_TIME: dict[str, Matches] = {
    "*/15 * * * FRI": lambda wall: wall.isoweekday() == 5,
    "*/30 3 * * *": lambda wall: wall.hour == 3 and wall.minute % 30 == 0,
    "0 */6 * * *": lambda wall: wall.hour % 6 == 0 and wall.minute == 0,
    "15 */2 * 3-4 *": lambda wall: wall.minute == 15 and wall.month in (3, 4) and wall.hour % 2 == 0,
}


@cache
def steps(zone: ZoneInfo) -> list[tuple[datetime, datetime]]:
    """Return moments, each with what clocks show then."""
    moments = [BEGIN + STEP * number for number in range((END - BEGIN) // STEP)]
    return [(moment, moment.astimezone(zone).replace(tzinfo=None)) for moment in moments]


def oracle(zone: ZoneInfo, matches: Matches, *, keeps_wall_time: bool) -> list[datetime]:
    """Return the moments at which a clock on the wall makes Debian's cron run something."""
    found, latest = [], BEGIN.astimezone(zone).replace(tzinfo=None) - STEP
    for moment, wall in steps(zone):
        if not keeps_wall_time:
            if matches(wall):
                found.append(moment)
            continue
        passed = [latest + STEP * number for number in range(1, (wall - latest) // STEP + 1)]  # none while it repeats
        if any(matches(each) for each in passed):
            found.append(moment)
        latest = max(latest, wall)
    return found


def occurrences(expression: str, zone: ZoneInfo) -> list[datetime]:
    calendar = Calendar(Cron(expression, zone), None, zone, ())
    return [to_datetime(when) for when in calendar.between(from_datetime(BEGIN), from_datetime(END))]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", WALL_TIME)
def test_each_wall_time_comes_once_in_two_years(expression: str, zone: str) -> None:
    expected = oracle(ZoneInfo(zone), WALL_TIME[expression], keeps_wall_time=True)
    assert occurrences(expression, ZoneInfo(zone)) == expected


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", REAL_TIME)
def test_an_expression_with_a_star_is_followed_in_real_time(expression: str, zone: str) -> None:
    expected = oracle(ZoneInfo(zone), REAL_TIME[expression], keeps_wall_time=False)
    assert occurrences(expression, ZoneInfo(zone)) == expected


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (date(2025, 3, 29), "2025-03-29T01:30:00+00:00"),
        (date(2025, 3, 30), "2025-03-30T01:00:00+00:00"),  # there is no half past two: at three o'clock
        (date(2025, 10, 25), "2025-10-25T00:30:00+00:00"),
        (date(2025, 10, 26), "2025-10-26T00:30:00+00:00"),  # half past two comes twice: at the first
        (date(2025, 10, 27), "2025-10-27T01:30:00+00:00"),
    ],
)
def test_half_past_two_in_berlin_comes_once_on_the_nights_on_which_clocks_are_changed(day: date, expected: str) -> None:
    assert [
        when.isoformat() for when in occurrences("30 2 * * *", ZoneInfo("Europe/Berlin")) if when.date() == day
    ] == [expected]


@given(st.datetimes(datetime(2024, 1, 1), datetime(2040, 1, 1)), st.sampled_from([*WALL_TIME, *REAL_TIME]))
def test_the_next_occurrence_is_later_and_there_is_none_in_between(moment: datetime, expression: str) -> None:
    cron = Cron(expression, ZoneInfo("Australia/Lord_Howe"))
    when = from_datetime(moment.replace(tzinfo=UTC))
    following = cron.next_after(when)
    assert following is not None
    assert following > when
    assert cron.next_after(when + (following - when) // 2) == following
    assert cron.next_after(following - 1) == following


def test_seconds_are_a_sixth_field_in_front() -> None:
    cron = Cron("*/20 59 23 31 12 *", ZoneInfo("UTC"))
    begin = from_datetime(datetime(2025, 5, 1, 12, 0, 0, 5, tzinfo=UTC))
    found = [cron.next_after(begin)]
    while len(found) < 4:
        assert found[-1] is not None
        found.append(cron.next_after(found[-1]))
    assert [to_datetime(when).isoformat() for when in found if when is not None] == [
        "2025-12-31T23:59:00+00:00",
        "2025-12-31T23:59:20+00:00",
        "2025-12-31T23:59:40+00:00",
        "2026-12-31T23:59:00+00:00",
    ]


def test_leap_days_and_days_that_never_come() -> None:
    leap = Cron("0 0 29 2 *", ZoneInfo("Europe/Berlin"))
    found = leap.next_after(from_datetime(datetime(2025, 1, 1, tzinfo=UTC)))
    assert found is not None
    assert to_datetime(found).isoformat() == "2028-02-28T23:00:00+00:00"
    with pytest.raises(ValueError, match="not a valid cron expression: bad day-of-month"):
        Cron("0 0 31 2 *", ZoneInfo("UTC"))


def test_an_interval_is_counted_from_the_epoch_so_that_a_deploy_does_not_move_it() -> None:
    calendar = Calendar(None, 20 * 60 * 1_000_000, ZoneInfo("UTC"), ())
    begin = from_datetime(datetime(2025, 5, 1, 12, 7, tzinfo=UTC))
    times = [to_datetime(when).strftime("%H:%M") for when in calendar.between(begin, begin + 3_600_000_000)]
    assert times == ["12:20", "12:40", "13:00"]


def test_excluded_days_and_expressions_are_left_out() -> None:
    zone = ZoneInfo("Europe/Berlin")
    excluded = (date(2025, 12, 25), Cron("* * * * SAT,SUN", zone))
    calendar = Calendar(Cron("0 9 * * *", zone), None, zone, excluded)
    begin = from_datetime(datetime(2025, 12, 24, tzinfo=UTC))
    days = [to_datetime(when).day for when in calendar.between(begin, begin + 7 * 86_400_000_000)]
    assert days == [24, 26, 29, 30]  # the 27th is a Saturday
    nothing = Calendar(Cron("0 9 * * *", zone), None, zone, [Cron("* * * * *", zone)])
    assert nothing.next_after(begin) is None


@pytest.mark.parametrize(
    "expression", ["", "* * * *", "61 * * * *", "* * * * * * *", "@daily", "a b c d e", "0 0 0 * *"]
)
def test_what_is_no_cron_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="is not a valid cron expression"):
        Cron(expression, ZoneInfo("UTC"))


@pytest.mark.parametrize("name", ["Europe/Bonn", "", "../etc/passwd", "/etc/localtime", "a\0b"])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="tz is the name of a time zone"):
        open_zone(name)


def test_the_jitter_of_an_occurrence_is_the_same_for_all_workers() -> None:
    shifts = [jitter_of("nightly", when, 60_000_000) for when in range(1000)]
    assert shifts == [jitter_of("nightly", when, 60_000_000) for when in range(1000)]
    assert 0 <= min(shifts) < 5_000_000 < 55_000_000 < max(shifts) < 60_000_000
    assert jitter_of("nightly", 1, 0) == 0
