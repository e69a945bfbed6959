"""Wall time as whole microseconds since the epoch (UTC), and trio deadlines made from it.

Under a :class:`trio.testing.MockClock` wall time is virtual, too: it starts at :data:`VIRTUAL_EPOCH` and moves with
trio's clock. Otherwise it is a reading of a wall clock, plus the time since that reading on a clock that cannot be
set. That is ``CLOCK_BOOTTIME`` where the system has it, because that goes on while the machine is suspended. The
reading is that of the machine when the app is opened, or when the live workers of a SQLite file were. With a database
server it is that of the server, every few seconds. So all apps on a database agree on the time, and setting the clock
of a machine moves no timer.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import trio

Microseconds = int
"""A point in time: microseconds since the epoch, UTC."""

Duration = float | timedelta
"""A length of time: seconds, or a timedelta. ``math.inf`` and ``timedelta.max`` are endless."""

LONGEST: Microseconds = 1_000_000 * 24 * 3600 * 1_000_000
"""Longest duration with an end: a million days. Counted from now, it ends before the last year of a datetime."""

CLAIMED_AHEAD: Microseconds = 200_000
"""How early a passive instance is claimed before its next timer, so that it is in time even on a busy worker."""

VIRTUAL_EPOCH: Microseconds = 1_700_000_000_000_000
"""Time of a virtual clock when trio's clock shows zero."""

steady_ns: Callable[[], int] = (
    partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic_ns
)
"""Returns nanoseconds on a clock that cannot be set. On Linux it goes on while the machine is suspended."""

_AT_ONCE: Microseconds = 1 << 62

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FARTHEST_SLEEP = 5.0
"""Longest sleep on trio's clock, in seconds. Then the time is read again: the machine may have been suspended, or the
clock corrected. What was due meanwhile is late by as much, at most."""


class Clock:
    """Tells wall time, and converts a point in wall time to a trio deadline."""

    __slots__ = ("_trio_clock", "ahead_of_steady")

    def __init__(self, trio_clock: trio.abc.Clock | None) -> None:
        self._trio_clock = trio_clock
        self.ahead_of_steady: Microseconds = 0 if self.is_virtual else self.of_machine() - steady_ns() // 1000
        """Wall time at the last reading, minus what the clock that cannot be set showed then."""

    @property
    def is_virtual(self) -> bool:
        """Whether the clock is virtual: its time moves only while all tasks wait."""
        return self._trio_clock is not None

    def now(self) -> Microseconds:
        """Return the current time."""
        if self._trio_clock is None:
            return steady_ns() // 1000 + self.ahead_of_steady
        return VIRTUAL_EPOCH + round(self._trio_clock.current_time() * 1_000_000)

    def steady(self) -> Microseconds:
        """Return the time on a clock that cannot be set, neither by :meth:`correct`, for durations."""
        return steady_ns() // 1000 if self._trio_clock is None else self.now()

    def of_machine(self) -> Microseconds:
        """Return what the clock of the machine shows, which can be set at any time."""
        return time.time_ns() // 1000

    def correct(self, by: Microseconds) -> None:
        """Move the time: another clock is the right one, and shows this much more."""
        self.ahead_of_steady += by

    def deadline(self, when: float) -> float:
        """Return the deadline on trio's clock for something that is due at ``when``; if that is infinite, never.

        A far deadline comes in slices, each earlier than ``when``: after each of them, compare with :meth:`now`.
        """
        seconds = (when - self.now()) / 1_000_000
        if self._trio_clock is None:
            seconds = min(seconds, _FARTHEST_SLEEP)
        return trio.current_time() + max(seconds, 0.0)

    async def sleep_until(self, when: Microseconds) -> None:
        """Sleep until that time, also if the machine is suspended meanwhile."""
        while self.now() < when:  # noqa: ASYNC110
            await trio.sleep_until(self.deadline(when))


def at_once(now: Microseconds) -> Microseconds:
    """Return the time to store for what is due at once, as from ``now``.

    It has come, whatever a clock shows. Such times are negative, so they sort before all others, and among each other
    as they were given.
    """
    return now - _AT_ONCE


def due_since(stored: Microseconds) -> Microseconds:
    """Return the time from which something is due, for a time that was stored with or without :func:`at_once`."""
    return stored + _AT_ONCE if stored < 0 else stored


def current_clock() -> Clock:
    """Return the clock of the current trio run."""
    return Clock(_mock_clock())


def _mock_clock() -> Any:
    clock = trio.lowlevel.current_clock()
    # A program with a MockClock has imported trio.testing. No other program should pay for that import.
    testing = sys.modules.get("trio.testing")
    return clock if testing is not None and isinstance(clock, testing.MockClock) else None


_held: trio.lowlevel.RunVar[int] = trio.lowlevel.RunVar("trio_romancy_held", default=0)
_threshold: trio.lowlevel.RunVar[float] = trio.lowlevel.RunVar("trio_romancy_threshold")


@contextmanager
def hold_virtual_time() -> Iterator[None]:
    """Stop a virtual clock while something outside of trio works, such as a thread or a database server.

    Otherwise it would jump to the next deadline as soon as all tasks wait, as if that work took for ever.
    """
    clock = _mock_clock()
    if clock is None:
        yield
        return
    if _held.get() == 0:
        _threshold.set(clock.autojump_threshold)
        clock.autojump_threshold = math.inf
    _held.set(_held.get() + 1)
    try:
        yield
    finally:
        _held.set(_held.get() - 1)
        if _held.get() == 0:
            clock.autojump_threshold = _threshold.get()


def microseconds(duration: Duration) -> Microseconds | None:
    """Return a duration in whole microseconds; None if it is endless.

    Raises:
      ValueError: if it is not a duration, or has an end that is too far away to be stored.
    """
    try:
        if isinstance(duration, timedelta):
            whole = None if duration == timedelta.max else duration // timedelta(microseconds=1)
        else:
            whole = None if duration == math.inf else round(duration * 1_000_000)
    except (OverflowError, TypeError, ValueError):
        raise ValueError(f"a duration is a number of seconds or a timedelta, not {duration!r}") from None
    if whole is None:
        return None
    if whole > LONGEST:
        raise ValueError(
            f"a duration is at most {LONGEST // 86_400_000_000:,} days, not {duration!r}; "
            f"math.inf is a duration without end"
        )
    return max(whole, -LONGEST)


def seconds(duration: Duration) -> float:
    """Return a duration in seconds; ``math.inf`` if it is endless.

    Raises:
      ValueError: if it is not a duration, or has an end that is too far away to be stored.
    """
    whole = microseconds(duration)
    return math.inf if whole is None else whole / 1_000_000


LATEST: Microseconds = 253_402_300_799_999_999
"""The last moment of the year 9999, after which Python knows no time."""


def to_datetime(when: Microseconds) -> datetime:
    """Return a point in time as an aware datetime in UTC, exact to the microsecond."""
    return _EPOCH + timedelta(microseconds=when)


def from_datetime(when: datetime) -> Microseconds:
    """Return an aware datetime as a point in time.

    Raises:
      ValueError: if it has no time zone, and so names no moment.
    """
    if when.utcoffset() is None:
        raise ValueError(f"{when!r} has no time zone; give an aware datetime, such as datetime.now(timezone.utc)")
    return (when - _EPOCH) // timedelta(microseconds=1)
