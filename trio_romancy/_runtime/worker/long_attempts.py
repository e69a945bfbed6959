"""Shows in the rows of instances which attempts have been running for long, so that every process can see them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from ..._tasks.light_event import LightEvent
from ...clock import Clock, Microseconds
from ..run.run import InstanceRun

_LONG: Microseconds = 2_000_000
"""Time for which an attempt must have run before the row of its instance shows it. Most end sooner, without a write."""


class LongAttempts:
    """Looks at the runs in memory while attempts have begun that are not shown yet.

    Args:
      runs: returns the runs in memory.
    """

    def __init__(self, clock: Clock, runs: Callable[[], Iterable[InstanceRun]]) -> None:
        self._clock = clock
        self._runs = runs
        self._begun: LightEvent | None = None
        """Event set by the next call of :meth:`notify`, while every attempt is shown."""

    def notify(self) -> None:
        """Note that an attempt has begun, or has failed and is repeated."""
        if self._begun is not None:
            self._begun.set()
            self._begun = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            if not self._show():
                self._begun = LightEvent()
                await self._begun.wait()
            await trio.sleep(_LONG / 1_000_000)

    def _show(self) -> bool:
        """Show the attempts that have been running or repeated for long. Return whether there are others."""
        late, are_left = self._clock.now() - _LONG, False
        for run in self._runs():
            attempted = run.in_flight.first_attempted_at()
            if attempted is None or run.is_gone or not run.writer.is_outdated(run.in_flight):
                continue
            if attempted <= late:
                run.writer.show_now(run.in_flight)
            else:
                are_left = True
        return are_left
