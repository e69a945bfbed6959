"""Keeps an app's clock on its database's time, so that leases, timers and messages mean the same to all workers."""

from __future__ import annotations

import logging
from functools import partial

import trio
from sqlalchemy import Connection

from ..._storage.database import Database
from ..._storage.dialects import server_time
from ..._storage.dialects.errors import is_transient
from ...clock import Clock, Microseconds
from .services import keep_running

_logger = logging.getLogger("trio_romancy.clock")

_EVERY = 10.0
"""Seconds between two comparisons."""
_REMARKABLE: Microseconds = 1_000_000
"""Least difference that is logged."""


async def keep_time(
    database: Database, clock: Clock, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Compare the clock with that of the database, if it has one, every few seconds.

    Started after the first comparison. An outage of the database only delays the next one.

    Raises:
      Exception: if the database refuses the first comparison.
    """
    has_other = not clock.is_virtual and await _has_compared(database, clock)
    task_status.started()
    if has_other:
        await keep_running("the comparison of clocks", partial(_compare_on, database, clock))


async def _compare_on(database: Database, clock: Clock) -> None:
    while True:
        await trio.sleep(_EVERY)
        await _has_compared(database, clock)


async def _has_compared(database: Database, clock: Clock) -> bool:
    """Compare the clock, unless the database is away. Returns whether the database has a clock of its own."""
    try:
        return await _compare(database, clock)
    except Exception as error:
        if not is_transient(error):
            raise
        return True  # while the database is away, the clock need not agree with it


async def _compare(database: Database, clock: Clock) -> bool:
    """Set the clock by that of the database, unless the time that the answer took can explain their difference.

    Returns whether the database has a clock of its own.
    """

    def ask(connection: Connection) -> tuple[Microseconds, Microseconds | None, Microseconds]:
        return clock.now(), server_time(connection), clock.now()

    earliest, there, latest = await database.read(ask)
    if there is None:
        return False
    if earliest <= there <= latest:
        return True
    change = there - (earliest + latest) // 2
    clock.behind += change
    if abs(change) >= _REMARKABLE:
        _logger.warning(
            "the clock of this machine is %.1f s %s that of %s, which counts; is it set by NTP?",
            abs(clock.behind) / 1_000_000,
            "behind" if clock.behind > 0 else "ahead of",
            database.name,
        )
    return True
