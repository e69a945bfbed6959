"""Cancels instances whose deadline has passed: sleeps until the next one, whichever worker runs the instance."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio
from sqlalchemy import Connection

from ..._data.log_fields import about, visible
from ..._storage.database import Database
from ..._storage.outages import retry_while_away
from ..._storage.sql.deadlines import Settled, next_deadline, settle_deadlines
from ...clock import Clock, Microseconds
from .clock_sync import database_time

_logger = logging.getLogger("trio_romancy.worker")

_POLL: Microseconds = 1_000_000
"""Time after which to look for deadlines that other processes have set."""
_LOCKED_FOR: Microseconds = 20_000
"""Time after which to look again at an instance that another transaction is writing to."""


class DeadlineKeeper:
    """Cancels what is past its deadline, for one worker. Any number of workers do that side by side.

    Args:
      on_due: called when instances were cancelled, which their workers, or any worker, have to learn of.
    """

    def __init__(self, database: Database, clock: Clock, on_due: Callable[[], None]) -> None:
        self._database = database
        self._clock = clock
        self._on_due = on_due
        self._notified = trio.Event()

    def notify(self) -> None:
        """Look at the deadlines again: an instance with one was started."""
        self._notified.set()

    async def run(self) -> None:
        """Cancel until stopped."""
        while True:
            self._notified = trio.Event()
            wake = await retry_while_away(self._database, self._database.read, next_deadline)
            if wake is not None and wake <= self._clock.now():
                settled = await retry_while_away(self._database, self._database.run, self._settle)
                for id in settled.cancelled:
                    _logger.info("instance %s is cancelled: its deadline has passed", visible(id), extra=about(id))
                if settled.cancelled:
                    self._on_due()
                if settled.count:
                    continue
                wake = self._clock.now() + _LOCKED_FOR
            if not self._database.is_exclusive:
                poll = self._clock.now() + _POLL
                wake = poll if wake is None else min(wake, poll)
            with trio.CancelScope() as scope:
                if wake is not None:
                    scope.deadline = self._clock.deadline(wake)
                await self._notified.wait()

    def _settle(self, connection: Connection) -> Settled:
        """Act by the clock of the database, which this worker's may be ahead of."""
        return settle_deadlines(connection, database_time(connection, self._clock))
