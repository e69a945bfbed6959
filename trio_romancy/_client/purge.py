"""Deletes instances that have ended, in short transactions."""

from __future__ import annotations

from collections.abc import Callable, Collection

import trio

from .._settings import as_statuses, checked_limit
from .._storage.outages import retry_while_away
from .._storage.sql.purge import purge as delete_some
from .._storage.sql.search import Place
from .._storage.sql.statuses import FINAL
from ..clock import Duration
from ..model import Status
from .engine import Engine

_AT_ONCE = 500
"""Instances that one transaction examines."""


async def purge(
    engine: Engine,
    older_than: Duration,
    status: Status | Collection[Status] | None,
    on_batch: Callable[[int], object] | None,
) -> int:
    """Delete instances that have ended. Return their number. A cancellation is delivered between two transactions.

    Args:
      older_than: seconds (or a timedelta) since the end of the instance.
      status: a final status, or several; None: all final ones.
      on_batch: called after each transaction with the number of instances that it has deleted.

    Raises:
      ValueError: if a status does not exist or is not final, or the duration is negative.
    """
    statuses = _final(status)
    least_age = checked_limit("older_than", older_than, least=0)
    if least_age is None:
        return 0
    before = engine.clock.now() - least_age
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
        return [*FINAL]
    statuses = as_statuses(status)
    if not statuses:
        raise ValueError("no status is given; leave it out to purge all instances that have ended")
    for each in statuses:
        if not each.is_final:
            raise ValueError(f"an instance that is {each} has not ended, so it cannot be purged")
    return statuses
