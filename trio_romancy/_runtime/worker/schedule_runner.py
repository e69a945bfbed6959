"""Fires schedules: sleeps until the next one is due, whichever worker fires it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio
from sqlalchemy import Connection

from ..._data.log_fields import about, visible
from ..._observe.dispatcher import HookDispatcher
from ..._observe.schedule_events import tell_schedule
from ..._storage.database import Database
from ..._storage.outages import retry_while_away
from ..._storage.sql.occurrences import Advance, advance, look
from ...clock import Clock, Microseconds
from .clock_sync import database_time

_logger = logging.getLogger("trio_romancy.schedules")

_POLL: Microseconds = 1_000_000
"""Time after which to look for what other processes have changed or ended."""
_LOCKED_FOR: Microseconds = 20_000
"""Time after which to look again at a schedule that another worker fires just now."""
_AGAIN_AFTER: Microseconds = 60_000_000
"""Time after which to try again a schedule that cannot be fired."""


class ScheduleRunner:
    """Fires schedules that are due, for one worker. Any number of workers do that side by side.

    Args:
      on_due: called when instances were started, or cancelled, for any worker.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        worker_id: str,
        dispatcher: HookDispatcher | None,
        on_due: Callable[[], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._worker_id = worker_id
        self._dispatcher = dispatcher
        self._on_due = on_due
        self._notified = trio.Event()
        self.running: frozenset[str] = frozenset()
        """Ids of the instances of schedules that have not ended, as far as is known."""
        self._faulty: dict[str, Microseconds] = {}
        """Schedules that cannot be fired, and when to try them again."""

    def notify(self) -> None:
        """Look at the schedules again: one was changed, or an instance of one may have ended."""
        self._notified.set()

    async def run(self) -> None:
        """Fire until cancelled."""
        while True:
            self._notified = trio.Event()
            outlook = await retry_while_away(self._database, self._database.read, look, self._clock.now())
            self.running = outlook.running
            due = [name for name in outlook.due if self._faulty.get(name, 0) <= self._clock.now()]
            results = [await self._advance(name) for name in due]
            if any(results):
                continue  # more may be due by now
            wake = [] if outlook.next_firing is None else [outlook.next_firing]
            if due or self._faulty:
                wake = [self._clock.now() + (_LOCKED_FOR if due else _POLL)]
            if not self._database.is_exclusive:
                wake.append(self._clock.now() + _POLL)
            with trio.CancelScope() as scope:
                if wake:
                    scope.deadline = self._clock.deadline(min(wake))
                await self._notified.wait()

    async def _advance(self, name: str) -> bool:
        """Fire what is due of one schedule. Returns whether anything was done."""
        try:
            done = await retry_while_away(self._database, self._database.run, self._transaction, name)
        except (KeyError, TypeError, ValueError, RuntimeError):
            message = "schedule %s cannot be fired, trying again in %.0f s"
            _logger.exception(message, visible(name), _AGAIN_AFTER / 1_000_000, extra=about(None))
            self._faulty[name] = self._clock.now() + _AGAIN_AFTER
            return False
        self._faulty.pop(name, None)
        if done is None or not done.has_changed:
            return False
        if done.fired or done.has_cancelled:
            self._on_due()
        tell_schedule(self._dispatcher, self._worker_id, done)
        return True

    def _transaction(self, connection: Connection, name: str) -> Advance | None:
        """Fire a schedule by the clock of the database, which this worker's may be ahead of."""
        return advance(connection, name, database_time(connection, self._clock))
