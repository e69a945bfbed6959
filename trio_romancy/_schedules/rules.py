"""The rules of a schedule: when it is due, and what happens then. As the database holds them, and back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from typing import Any

from attrs import frozen

from .._data.codec import dumps, loads
from ..clock import Microseconds
from ..model import Overlap
from .calendar import Calendar, jitter_of, open_zone
from .cron import Cron


@frozen
class Rules:
    """When a schedule is due, and what happens then."""

    cron: str | None
    every: Microseconds | None
    """The interval, if there is no cron expression."""
    tz: str
    exclude: Sequence[str]
    """Dates as ISO 8601, and cron expressions."""
    jitter: Microseconds
    """Time by which an occurrence is late at most, each by another part of it."""
    overlap: Overlap
    catch_up: Microseconds | None
    """How late an occurrence may be at most; None: any time."""
    pause_on_failure: bool

    @classmethod
    def from_text(cls, text: str) -> Rules:
        """Return the rules that a stored text stands for.

        Raises:
          ValueError, KeyError, TypeError: if the text is damaged.
        """
        data: dict[str, Any] = loads(text)
        return cls(
            data["cron"],
            data["every"],
            data["tz"],
            tuple(data["exclude"]),
            data["jitter"],
            Overlap(data["overlap"]),
            data["catch_up"],
            data["pause_on_failure"],
        )

    def to_text(self) -> str:
        """Return the rules as they are stored: JSON text."""
        return dumps(
            {
                "cron": self.cron,
                "every": self.every,
                "tz": self.tz,
                "exclude": list(self.exclude),
                "jitter": self.jitter,
                "overlap": self.overlap,
                "catch_up": self.catch_up,
                "pause_on_failure": self.pause_on_failure,
            }
        )

    @property
    def calendar(self) -> Calendar:
        """The occurrences.

        Raises:
          ValueError: naming what is wrong with the expression, the zone or the exclusions.
        """
        return _calendar(self.cron, self.every, self.tz, tuple(self.exclude))

    def has_times_of(self, other: Rules) -> bool:
        """Tell whether the occurrences are those of other rules."""
        mine, theirs = ((one.cron, one.every, one.tz, tuple(one.exclude), one.jitter) for one in (self, other))
        return mine == theirs

    def fires_at(self, schedule: str, due: Microseconds) -> Microseconds:
        """Return when an occurrence fires: at its time, or later by its jitter."""
        return due + jitter_of(schedule, due, self.jitter)


@lru_cache(maxsize=1_000)
def _calendar(cron: str | None, every: Microseconds | None, tz: str, exclude: tuple[str, ...]) -> Calendar:
    zone = open_zone(tz)
    excluded = [Cron(one, zone) if " " in one else date.fromisoformat(one) for one in exclude]
    return Calendar(None if cron is None else Cron(cron, zone), every, zone, excluded)
