"""When an instance begins, and by when it has to end, as the start of an instance gives it."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

from attrs import frozen

from ..clock import CLAIMED_AHEAD, Duration, Microseconds, at_once, from_datetime, microseconds


class TimesRow(TypedDict):
    """The times in the row of a new instance that no worker owns."""

    wake_at: Microseconds
    not_before: Microseconds | None
    deadline: Microseconds | None


@frozen
class StartTimes:
    """When an instance begins, and by when it has to end. Without any of these it begins at once, and may take long."""

    delay: Microseconds | None = None
    """Time from the start after which it begins."""
    at: Microseconds | None = None
    """Time at which it begins, if there is no delay."""
    limit: Microseconds | None = None
    """Time from the start after which it is cancelled."""
    deadline: Microseconds | None = None
    """Time at which it is cancelled, if there is no limit."""

    def row(self, now: Microseconds) -> TimesRow:
        """Return the times of an instance that is started now."""
        begin = self.at if self.delay is None else now + self.delay
        if begin is not None and begin <= now:
            begin = None
        deadline = self.deadline if self.limit is None else now + self.limit
        wake_at = at_once(now) if begin is None else begin + CLAIMED_AHEAD  # it must not begin as early as a timer
        return {"wake_at": wake_at, "not_before": begin, "deadline": deadline}


def checked_times(
    name: str, delay: Duration | None, at: datetime | None, deadline: Duration | datetime | None
) -> StartTimes | None:
    """Return the times that a start gives; None if it gives none.

    Args:
      name: name of the workflow, for messages.

    Raises:
      ValueError: if a duration is negative or endless, a datetime has no zone, or both a delay and a time are given.
    """
    if delay is not None and at is not None:
        raise ValueError(f"workflow {name!r} is started after a delay or at a time, not both")
    waits = None if delay is None else _checked(name, "delay", delay)
    begin = None if at is None else _moment(name, "at", at)
    if isinstance(deadline, datetime):
        limit, end = None, _moment(name, "deadline", deadline)
    else:
        limit, end = None if deadline is None else _checked(name, "deadline", deadline), None
    if limit is not None and limit <= (waits or 0):
        raise ValueError(f"workflow {name!r}: the deadline is later than the start, and than the delay")
    if waits is None and begin is None and limit is None and end is None:
        return None
    return StartTimes(waits, begin, limit, end)


def _checked(name: str, option: str, value: Duration) -> Microseconds:
    try:
        duration = microseconds(value)
    except ValueError as error:
        raise ValueError(f"workflow {name!r}: {option}: {error}") from None
    if duration is None or duration < 0:
        raise ValueError(f"workflow {name!r}: {option} is a duration from zero on, with an end, not {value!r}")
    return duration


def _moment(name: str, option: str, value: datetime) -> Microseconds:
    try:
        return from_datetime(value)
    except (AttributeError, TypeError):
        raise ValueError(f"workflow {name!r}: {option} is an aware datetime, not {value!r}") from None
    except ValueError as error:
        raise ValueError(f"workflow {name!r}: {option}: {error}") from None
