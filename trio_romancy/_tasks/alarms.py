"""Wakes the actors of a worker that sleep, each at its time, from one task."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

import trio

from ..clock import Clock, Microseconds

_KEPT = 1000
"""So many alarms that were taken back are no reason to look through all of them."""


class Alarms:
    """Calls functions at their times. What waits for that costs no task."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rings: dict[int, Callable[[], None]] = {}
        self._heap: list[tuple[Microseconds, int]] = []
        """The times, also of those that were taken back."""
        self._numbers = count()
        self._is_sooner = trio.Event()

    def set(self, when: Microseconds, ring: Callable[[], None]) -> int:
        """Call ``ring`` at that time. Returns what :meth:`cancel` takes."""
        number = next(self._numbers)
        self._rings[number] = ring
        heapq.heappush(self._heap, (when, number))
        if self._heap[0][1] == number:
            self._is_sooner.set()
        return number

    def cancel(self, number: int) -> None:
        """Take an alarm back, if it has not been rung."""
        self._rings.pop(number, None)
        if len(self._heap) > 2 * len(self._rings) + _KEPT:
            self._heap = [entry for entry in self._heap if entry[1] in self._rings]
            heapq.heapify(self._heap)

    async def run(self) -> None:
        """Ring until cancelled."""
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
