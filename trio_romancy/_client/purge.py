"""Deletes instances that have ended, in as many short transactions as it takes."""

from __future__ import annotations

from collections.abc import Callable, Collection

import trio

from .._settings import as_statuses, checked_duration
from .._storage.outages import retry_while_away
from .._storage.sql.purge import purge as delete_some
from .._storage.sql.search import Place
from ..clock import Duration
from ..model import Status
from .engine import Engine

_AT_ONCE = 500
"""Instances that are looked at in one transaction."""


async def purge(
    engine: Engine,
    older_than: Duration,
    status: Status | Collection[Status] | None,
    on_batch: Callable[[int], object] | None,
) -> int:
    """Delete them, and say how many. A cancellation is delivered between two transactions.

    Raises:
      ValueError: if some status is none, or not final, or the duration is negative.
    """
    statuses = _final(status)
    before = engine.clock.now() - checked_duration("older_than", older_than, least=0)
    deleted = 0
    end: Place | None = None
    while True:
        batch = await retry_while_away(
            engine.database, engine.database.run, delete_some, statuses, before, end, _AT_ONCE
        )
        deleted += batch.deleted
        if batch.deleted and on_batch is not None:
            on_batch(batch.deleted)
        end = batch.end
        if end is None:
            return deleted
        await trio.lowlevel.checkpoint()


def _final(status: Status | Collection[Status] | None) -> list[Status]:
    if status is None:
        return [each for each in Status if each.is_final]
    statuses = as_statuses(status)
    if not statuses:
        raise ValueError("no status is given; leave it out to purge whatever has ended")
    for each in statuses:
        if not each.is_final:
            raise ValueError(f"an instance that is {each} has not ended, so it cannot be purged")
    return statuses
