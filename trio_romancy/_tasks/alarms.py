"""Alarms of all actors of a worker, in one task."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

import trio

from ..clock import Clock

_KEPT = 1000
"""Number of cancelled alarms that may remain in the heap, beside as many as are set."""


class Alarms:
    """Calls functions, each at its time.

    A sleeping instance is an entry of a heap, not a task. Without that the benchmarks ``memory`` and ``timers`` lose: a
    task that only sleeps occupies more than a kilobyte.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rings: dict[int, Callable[[], None]] = {}
        self._heap: list[tuple[float, int]] = []
        """Times with the numbers of their alarms, those of cancelled alarms included."""
        self._numbers = count()
        self._is_sooner = trio.Event()

    def set(self, when: float, ring: Callable[[], None]) -> int:
        """Call ``ring`` at ``when`` (microseconds), in the task of :meth:`run`. Returns a number for :meth:`cancel`."""
        number = next(self._numbers)
        self._rings[number] = ring
        heapq.heappush(self._heap, (when, number))
        if self._heap[0][1] == number:
            self._is_sooner.set()
        return number

    def cancel(self, number: int) -> None:
        """Cancel an alarm. Has no effect after its function was called."""
        self._rings.pop(number, None)
        if len(self._heap) > 2 * len(self._rings) + _KEPT:
            self._heap = [entry for entry in self._heap if entry[1] in self._rings]
            heapq.heapify(self._heap)

    async def run(self) -> None:
        """Call the functions of due alarms, until cancelled."""
        while True:
            self._is_sooner = trio.Event()
            deadline = self._clock.deadline(self._heap[0][0]) if self._heap else float("inf")
            with trio.CancelScope(deadline=deadline):
                await self._is_sooner.wait()
            now = self._clock.now()
            while self._heap and self._heap[0][0] <= now:
                _, number = heapq.heappop(self._heap)
                ring = self._rings.pop(number, None)
                if ring is not None:
                    ring()
