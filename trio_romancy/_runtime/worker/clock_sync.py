"""Keeps an app's clock on its database's time, so that leases, timers and messages mean the same to all workers."""

from __future__ import annotations

import logging

import trio
from sqlalchemy import Connection

from ..._storage.database import Database
from ..._storage.dialects import server_time
from ..._storage.dialects.errors import is_outage
from ..._storage.outages import retry_while_away_for
from ..._storage.sql.workers import shared_clock
from ...clock import Clock, Microseconds
from .services import keep_running

_logger = logging.getLogger("trio_romancy.clock")

_EVERY = 10.0
"""Seconds between two comparisons."""
_REMARKABLE: Microseconds = 1_000_000
"""Least difference that is logged."""


async def keep_time(
    database: Database, clock: Clock, patience: float, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Set the clock by that of the database, if it has one, every few seconds. An outage only delays that.

    Nothing else moves the clock. If the clock of the machine shows another time, that is logged.

    Started after the first comparison.

    Args:
      patience: seconds that the database may be away before the first comparison.

    Raises:
      Exception: if the database refuses the first comparison, or was away for longer.
    """
    if clock.is_virtual:
        task_status.started()
        return
    timekeeper = _Timekeeper(database, clock)
    await retry_while_away_for(patience, database, timekeeper.compare)
    task_status.started()
    await keep_running("the comparison of clocks", timekeeper.run)


class _Timekeeper:
    """Compares the clock of an app with that of its database and that of its machine."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._is_servers = True
        """Whether the database has a clock of its own, as far as is known."""
        self._remarked: Microseconds = 0
        """How far the machine's clock was behind when that was last logged."""

    async def run(self) -> None:
        """Compare until cancelled."""
        while True:
            await trio.sleep(_EVERY)
            try:
                await self.compare()
            except Exception as error:
                if not is_outage(error):
                    raise  # otherwise the database is away: the clock goes on by itself

    async def compare(self) -> None:
        """Set the clock by that of the database, unless the time that the answer took can explain their difference."""
        clock = self._clock

        def ask(connection: Connection) -> tuple[Microseconds, Microseconds | None, Microseconds]:
            return clock.now(), server_time(connection), clock.now()

        if self._is_servers:
            earliest, there, latest = await self._database.read(ask)
            self._is_servers = there is not None
            if there is None:
                await self._follow_workers()
            elif not earliest <= there <= latest:
                clock.correct(there - (earliest + latest) // 2)
        self._look_at_machine()

    async def _follow_workers(self) -> None:
        """Take the time of the workers that live: the clock of the machine may have been set since they began."""
        theirs = await self._database.read(shared_clock, self._clock.steady())
        if theirs is not None:
            self._clock.correct(theirs - self._clock.ahead_of_steady)

    def _look_at_machine(self) -> None:
        """Log how far the clock of the machine is off, once for each time that it was set."""
        behind = self._clock.now() - self._clock.of_machine()
        if abs(behind - self._remarked) < _REMARKABLE:
            return
        self._remarked = behind
        seconds, direction = abs(behind) / 1_000_000, "behind" if behind > 0 else "ahead of"
        if self._is_servers:
            message = "the clock of this machine is %.1f s %s that of %s, which counts; is it set by NTP?"
            _logger.warning(message, seconds, direction, self._database.name)
        else:
            message = (
                "the clock of this machine was set: it is %.1f s %s the time of the workers, which go on as if it had "
                "not been; stop them all, and start them again, to have timers follow it"
            )
            _logger.warning(message, seconds, direction)


def database_time(connection: Connection, clock: Clock) -> Microseconds:
    """Return the time by the clock of the database, which this worker's may be ahead of, or else by this worker's."""
    now = None if clock.is_virtual else server_time(connection)
    return clock.now() if now is None else now
