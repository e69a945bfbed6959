"""Arrival times of events: when a workflow reaches the line after its wait."""

from __future__ import annotations

import time
from collections.abc import Callable

from attrs import define, field

_PATIENCE = 10.0
"""Seconds without an arrival after which the missing events count as lost."""


@define
class Arrivals:
    """Arrivals, recorded by the workflows themselves. A replay does not record one again."""

    on_note: Callable[[], object] = lambda: None
    """Called after each arrival."""
    _at: dict[tuple[str, int], float] = field(factory=dict)

    def note(self, key: str, number: int) -> None:
        """Record that event ``number`` has come to workflow ``key``."""
        self._at.setdefault((key, number), time.perf_counter())
        self.on_note()

    def at(self, key: str, number: int) -> float | None:
        """Return the arrival time, on the clock of :func:`time.perf_counter`; None if it has not come."""
        return self._at.get((key, number))

    def __len__(self) -> int:
        return len(self._at)

    def may_come(self, count: int, ended: float) -> bool:
        """Return whether fewer than ``count`` have come, and more may come.

        Args:
          ended: when the last one was sent.
        """
        return len(self) < count and time.perf_counter() - max(self.last, ended) < _PATIENCE

    def clear(self) -> None:
        """Forget everything."""
        self._at.clear()

    @property
    def last(self) -> float:
        """Time of the last arrival; 0 before the first."""
        return max(self._at.values(), default=0.0)
