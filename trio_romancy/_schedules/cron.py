"""Cron expressions: parsed by cronsim, and followed through the changes of a zone's clocks."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import product
from typing import Any, cast
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from ..clock import Microseconds, from_datetime, to_datetime

_LONGEST_GAP = timedelta(days=40 * 366)
"""How far ahead to look for the next match: the 29th of February is a certain weekday every 40 years at the latest."""
_QUARTER = 15 * 60
"""Seconds between two moments at which clocks may be changed: the offsets of zones are whole quarters of an hour."""
_SECOND: Microseconds = 1_000_000
_ANY_TIME = datetime(2000, 1, 1)


class Cron:
    """A cron expression of five fields, or of six with seconds in front, in one time zone.

    What happens as clocks are changed is what Debian's cron does. If minute and hour of an expression of five fields
    are given, each wall time comes once a day: one that is left out by the clocks comes right after the gap, and of
    one that comes twice the first counts. If one of them starts with ``*``, the expression is followed in real time.

    Raises:
      ValueError: if the expression is not valid, or matches no day.
    """

    def __init__(self, expression: str, zone: ZoneInfo) -> None:
        self.expression = expression
        self._zone = zone
        try:
            # The only use of cronsim: its iteration loses an hour where clocks move by half of one, as on Lord Howe.
            self._parsed: Any = CronSim(expression, _ANY_TIME)
        except CronSimError as error:
            raise ValueError(f"{expression!r} is not a valid cron expression: {str(error).lower()}") from None
        fields = expression.split()
        self._has_seconds = len(fields) == 6
        self._keeps_wall_time = not self._has_seconds and not any(field.startswith("*") for field in fields[:2])
        self._seconds: list[int] = sorted(self._parsed.seconds)
        self._minutes: list[int] = sorted(self._parsed.minutes)
        self._hours: list[int] = sorted(self._parsed.hours)

    def next_after(self, when: Microseconds) -> Microseconds | None:
        """Return the first match after a time; None if there is no match in forty years."""
        begin = to_datetime(when - when % _SECOND)  # matches are whole seconds
        if self._keeps_wall_time:
            return self._next_wall_time(begin, when)
        found = self._next_in_real_time(begin + timedelta(seconds=1))
        return None if found is None else from_datetime(found)

    def matches(self, when: Microseconds) -> bool:
        """Tell whether a time matches. An expression of five fields matches for all of its minute."""
        local = to_datetime(when).astimezone(self._zone)
        return (
            self._matches_day(local.date())
            and local.hour in self._hours
            and local.minute in self._minutes
            and (not self._has_seconds or local.second in self._seconds)
        )

    def _matches_day(self, day: date) -> bool:
        return day.month in self._parsed.months and cast("bool", self._parsed.match_day(day))

    def _next_wall_time(self, begin: datetime, when: Microseconds) -> Microseconds | None:
        first = begin.astimezone(self._zone).date()
        for day in self._days(first - timedelta(days=1)):
            for hour, minute in product(self._hours, self._minutes):
                found = from_datetime(self._at(day, hour, minute))
                if found > when:
                    return found
        return None

    def _days(self, first: date) -> Iterator[date]:
        """Yield the days that match, from the first one on."""
        last = date.max if first > date.max - _LONGEST_GAP else first + _LONGEST_GAP
        day = first
        while day < last:
            if self._matches_day(day):
                yield day
            day += timedelta(days=1)

    def _at(self, day: date, hour: int, minute: int) -> datetime:
        """Return the first moment at which clocks show a wall time, or the end of the gap that leaves it out."""
        moment = datetime.combine(day, time(hour, minute), self._zone)
        while _is_left_out(moment):
            moment += timedelta(minutes=1)  # of wall time
        return moment

    def _next_in_real_time(self, moment: datetime) -> datetime | None:
        last = datetime.max.replace(tzinfo=UTC) - timedelta(days=2)
        last = min(moment, last - _LONGEST_GAP) + _LONGEST_GAP
        while moment < last:
            local = moment.astimezone(self._zone)
            if not self._matches_day(local.date()):
                midnight = datetime.combine(local.date() + timedelta(days=1), time(), self._zone).astimezone(UTC)
                moment = max(midnight, moment + timedelta(seconds=1))
            elif local.hour not in self._hours:
                moment += timedelta(seconds=_QUARTER - (local.minute * 60 + local.second) % _QUARTER)
            elif local.minute not in self._minutes:
                moment += timedelta(seconds=self._until_minute(local.minute) - local.second)
            elif local.second not in self._seconds:
                later = bisect(self._seconds, local.second)
                target = self._seconds[later] if later < len(self._seconds) else 60
                moment += timedelta(seconds=target - local.second)
            else:
                return moment
        return None

    def _until_minute(self, minute: int) -> int:
        """Return the seconds until the next minute that matches, but not beyond the quarter of an hour."""
        later = bisect(self._minutes, minute)
        target = self._minutes[later] if later < len(self._minutes) else 60
        return min((target - minute) * 60, _QUARTER - minute * 60 % _QUARTER)


def _is_left_out(moment: datetime) -> bool:
    """Tell whether clocks are put forward past a wall time."""
    return moment.astimezone(UTC).astimezone(moment.tzinfo).replace(tzinfo=None) != moment.replace(tzinfo=None)
