"""When a schedule is due: by a cron expression or an interval, without what is excluded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import date
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from attrs import frozen

from ..clock import LATEST, Microseconds, to_datetime
from .cron import Cron

_LONGEST_EXCLUDED: Microseconds = 10 * 366 * 86_400 * 1_000_000
"""Time for which all occurrences may be excluded: after that the schedule is taken to have no next one."""


@frozen
class Calendar:
    """The occurrences of a schedule, in order."""

    cron: Cron | None
    """The cron expression; None: there is an interval."""
    every: Microseconds | None
    """The interval, whose occurrences are multiples of it since the epoch."""
    zone: ZoneInfo
    excluded: Sequence[Cron | date]
    """Occurrences on these days, or that match these expressions, are left out."""

    def next_after(self, when: Microseconds) -> Microseconds | None:
        """Return the first occurrence after a time; None if no other follows."""
        last = min(when + _LONGEST_EXCLUDED, LATEST) if self.excluded else LATEST
        found = self._next(when)
        while found is not None and self._is_excluded(found) and found <= last:
            found = self._next(found)
        return None if found is None or found > last else found

    def between(self, start: Microseconds, end: Microseconds) -> Iterator[Microseconds]:
        """Yield the occurrences from ``start`` on, before ``end``."""
        found = self.next_after(start - 1)
        while found is not None and found < end:
            yield found
            found = self.next_after(found)

    def _next(self, when: Microseconds) -> Microseconds | None:
        if self.cron is not None:
            return self.cron.next_after(when)
        assert self.every is not None
        return (when // self.every + 1) * self.every

    def _is_excluded(self, when: Microseconds) -> bool:
        return any(
            one.matches(when) if isinstance(one, Cron) else to_datetime(when).astimezone(self.zone).date() == one
            for one in self.excluded
        )


def open_zone(name: str) -> ZoneInfo:
    """Return a time zone by its name, such as ``"Europe/Berlin"``.

    Raises:
      ValueError: if there is no such zone.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError):
        raise ValueError(f"tz is the name of a time zone, such as 'Europe/Berlin', not {name!r}") from None


def jitter_of(schedule: str, when: Microseconds, most: Microseconds) -> Microseconds:
    """Return how much later than its occurrence a schedule fires: the same for every worker, and less than ``most``."""
    if not most:
        return 0
    digest = hashlib.blake2b(f"{schedule}@{when}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % most
