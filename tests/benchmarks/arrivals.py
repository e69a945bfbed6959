"""When what was sent came to the line after the wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from attrs import define, field

_PATIENCE = 10.0
"""Seconds without an arrival after which what is missing is lost."""


@define
class Arrivals:
    """Noted by the workflows themselves. What a replay runs through once more does not count again."""

    on_note: Callable[[], object] = lambda: None
    """Called each time, so that nobody need ask, or wait for the end of the workflow."""
    _at: dict[tuple[str, int], float] = field(factory=dict)

    def note(self, key: str, number: int) -> None:
        """Event ``number`` has come to the workflow that is called ``key``."""
        self._at.setdefault((key, number), time.perf_counter())
        self.on_note()

    def at(self, key: str, number: int) -> float | None:
        """When it came, on the clock of :func:`time.perf_counter`; None: it has not."""
        return self._at.get((key, number))

    def __len__(self) -> int:
        return len(self._at)

    def may_come(self, count: int, ended: float) -> bool:
        """Whether there are fewer, and it is worth waiting for more.

        Args:
          ended: when the last one was sent.
        """
        return len(self) < count and time.perf_counter() - max(self.last, ended) < _PATIENCE

    def clear(self) -> None:
        """Forget everything."""
        self._at.clear()

    @property
    def last(self) -> float:
        """When the last one came; long ago if none did."""
        return max(self._at.values(), default=0.0)
