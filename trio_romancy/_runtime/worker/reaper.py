"""Ends the leases of dead workers, and parks instances whose journal fits the code of no live worker."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import trio
from sqlalchemy import Connection

from ..._data.log_fields import about
from ..._observe.dispatcher import HookDispatcher
from ..._observe.instance_events import tell_end
from ..._storage.database import Database
from ..._storage.outages import retry_while_away
from ..._storage.sql import incompatible
from ..._storage.sql.workers import end_dead_leases, next_expiry
from ...clock import Clock, Microseconds
from ...model import Status

_logger = logging.getLogger("trio_romancy.worker")


class Reaper:
    """Frees the instances of dead workers, and parks those that no live worker can run.

    Args:
      lease_time: how long a worker may be silent.
      on_freed: called when the instances of a dead worker are free to be claimed.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        worker_id: str,
        lease_time: Microseconds,
        dispatcher: HookDispatcher | None,
        on_freed: Callable[[], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._worker_id = worker_id
        self._lease_time = lease_time
        self._dispatcher = dispatcher
        self._on_freed = on_freed

    async def run(self) -> None:
        """Free and park instances until cancelled. Returns at once if no other process can reach the database."""
        while not self._database.is_exclusive:
            now = self._clock.now()
            expiry, has_incompatible = await retry_while_away(
                self._database, self._database.read, _survey, self._worker_id, now
            )
            if expiry is not None and expiry <= now:
                await self._end_dead_leases(now)
            if has_incompatible:
                await self._park_incompatible(now)
            # A live worker renews its lease long before this. A process can be found dead before its lease expires.
            longest = now + self._lease_time // 2
            after = random.randrange(100_000, 300_000)  # the clocks of two workers may differ a little
            until = longest if expiry is None else min(longest, max(expiry, now) + after)
            await trio.sleep_until(self._clock.deadline(until))

    async def _end_dead_leases(self, now: Microseconds) -> None:
        # Not as part of a batch: the row of a worker that hangs may be locked.
        dead_ids = await retry_while_away(self._database, self._database.run, end_dead_leases, self._worker_id, now)
        for dead in dead_ids:
            _logger.warning("worker %s is dead: its instances are free to be claimed", dead)
        self._on_freed()

    async def _park_incompatible(self, now: Microseconds) -> None:
        for parked in await retry_while_away(self._database, self._database.run, incompatible.sweep, now):
            message = "instance %s is stuck: its journal fits the code of no live worker"
            _logger.error(message, parked.instance_id, extra=about(parked.instance_id, parked.workflow))
            if self._dispatcher is not None:
                tell_end(self._dispatcher, parked, self._worker_id, now, Status.STUCK, parked.error)


def _survey(connection: Connection, me: str, now: Microseconds) -> tuple[Microseconds | None, bool]:
    """Return when the lease of another worker expires, and whether there are journals that do not fit some code."""
    return next_expiry(connection, me, now), incompatible.has_any(connection)
