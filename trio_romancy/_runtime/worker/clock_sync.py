"""Keeps an app's clock on the time of its database: then leases, timers and messages mean the same to all workers."""

from __future__ import annotations

import logging

import trio
from sqlalchemy import Connection

from ..._storage.database import Database
from ..._storage.dialects import server_time
from ..._storage.dialects.errors import is_transient
from ...clock import Clock, Microseconds

_logger = logging.getLogger("trio_romancy.clock")

_EVERY = 10.0
"""Seconds between two comparisons."""
_REMARKABLE: Microseconds = 1_000_000
"""A difference to tell somebody of."""


async def keep_time(
    database: Database, clock: Clock, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Compare the clock with the database's now and again, if that has one. Started after the first time."""
    has_other = not clock.is_virtual
    while has_other:
        try:
            has_other = await _compare(database, clock)
        except Exception as error:
            if not is_transient(error):
                raise
            # While the database is away nobody needs its time.
        task_status.started()
        task_status = trio.TASK_STATUS_IGNORED
        if has_other:
            await trio.sleep(_EVERY)
    task_status.started()


async def _compare(database: Database, clock: Clock) -> bool:
    """Set the clock by the database's, if it is certain that they differ: the answer has taken some time itself.

    Returns whether the database has a clock that could be another one.
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
