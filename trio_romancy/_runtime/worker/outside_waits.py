"""Watch for workflows of activities only, of which no sequencer sees that they wait for something else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import trio

from ..._tasks.light_event import LightEvent
from ..run.outside import name_outside_waits
from ..run.run import InstanceRun

_FIRST_PAUSE = 1.0
"""Seconds until an instance is looked at. The pauses become longer while no instance comes into memory."""
_LONGEST_PAUSE = 60.0
_SHARE = 0.002
"""Share of the time that the watch may take."""


class OutsideWaits:
    """Looks at the runs without a mailbox from time to time, and names what they wait for.

    Args:
      runs: returns the runs in memory.
    """

    def __init__(self, runs: Callable[[], Iterable[InstanceRun]]) -> None:
        self._runs = runs
        self._added: LightEvent | None = None
        """Event set by the next call of :meth:`notify`, while there is nothing to look at."""
        self._pause = _FIRST_PAUSE
        self._has_new = False
        """Whether an instance has come into memory since the last look."""

    def notify(self) -> None:
        """Note that an instance has come into memory."""
        self._pause, self._has_new = _FIRST_PAUSE, True
        if self._added is not None:
            self._added.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await trio.sleep(self._pause)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            began, has_any, self._has_new = time.monotonic(), False, False
            for run in self._runs():
                if run.is_live and not run.has_mailbox:
                    has_any = True
                    name_outside_waits(run)
            await trio.sleep((time.monotonic() - began) / _SHARE)
            if not has_any and not self._has_new:
                self._added = LightEvent()
                await self._added.wait()
                self._added = None
