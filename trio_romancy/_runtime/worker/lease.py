"""Takes the lease of a worker, after the lease of a process with the same worker id has ended."""

from __future__ import annotations

import logging

import trio
from sqlalchemy import Connection

from ..._definitions.code_version import code_version
from ..._settings import Settings
from ..._storage.database import Database
from ..._storage.outages import retry_while_away, retry_while_away_for
from ..._storage.sql import incompatible
from ..._storage.sql.workers import Lease, Process, end_dead_leases, join
from ...clock import Clock, Microseconds
from ...errors import RomancyError

_logger = logging.getLogger("trio_romancy.worker")


async def take_lease(
    database: Database,
    clock: Clock,
    worker_id: str,
    process: Process,
    settings: Settings,
    *,
    wait: Microseconds | None,
    patience: float,
    after_death: bool = False,
) -> Lease:
    """Take the lease of a worker. Waits for another live process with the same worker id to end.

    Args:
      process: the process of the worker, the same each time: a worker that joins again takes over from itself at once.
      wait: how long to wait for that process; None: without a limit.
      patience: seconds that the database may be away.
      after_death: whether to count the death of that process although it is this one, which lives.

    Raises:
      RomancyError: if that process has not ended in time.
      DatabaseError: if the database was away for longer.
    """
    begun = clock.now()
    version = settings.code_version or code_version()

    async def join_now() -> Lease | None:
        now = clock.now()  # each time: the lease begins when the database is back
        until = now + settings.lease_time
        return await database.run(
            join, worker_id, process, now, until, version, clock=clock.ahead_of_steady, after_death=after_death
        )

    while True:
        lease = await retry_while_away_for(patience, database, join_now)
        now = clock.now()
        if lease is not None:
            await retry_while_away(database, database.run, _arrive, worker_id, version, now)
            return lease
        problem = f"another live process runs as worker {worker_id!r}; give each its own worker_id"
        if wait is not None and now - begun > wait:
            raise RomancyError(problem)
        _logger.warning("%s: waiting for it to end", problem)
        await trio.sleep(settings.lease_time / 4_000_000)


def _arrive(connection: Connection, me: str, version: str, now: Microseconds) -> None:
    """Free the instances of dead workers, and let the new worker try the incompatible ones."""
    end_dead_leases(connection, me, now)
    incompatible.revive(connection, version, now)
