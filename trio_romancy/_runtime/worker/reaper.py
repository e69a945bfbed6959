"""Ends the leases of dead workers, parks instances that no live worker can run, and wakes those that never would."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence

import trio
from attrs import frozen
from sqlalchemy import Connection

from ..._data.log_fields import about, visible
from ..._definitions.registry import registry
from ..._observe.dispatcher import HookDispatcher
from ..._observe.instance_events import tell_end
from ..._storage.database import Database
from ..._storage.outages import retry_while_away
from ..._storage.sql import incompatible
from ..._storage.sql.wake_ups import never_wake, wake_damaged
from ..._storage.sql.workers import OtherLease, end_leases, other_leases
from ...clock import Clock, Microseconds
from ...model import Status
from .contact import Contact
from .observer import Observer

_logger = logging.getLogger("trio_romancy.worker")


class Reaper:
    """Frees the instances of dead workers, parks those that no live worker can run, and wakes those that never would.

    Args:
      contact: contact of this worker with the database.
      lease_time: how long a worker may be silent.
      on_freed: called when the instances of a dead worker are free to be claimed.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        worker_id: str,
        contact: Contact,
        lease_time: Microseconds,
        dispatcher: HookDispatcher | None,
        on_freed: Callable[[], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._worker_id = worker_id
        self._contact = contact
        self._observer = Observer(clock, contact, lease_time)
        self._lease_time = lease_time
        self._dispatcher = dispatcher
        self._on_freed = on_freed
        self._unreadable: set[str] = set()
        """Workers whose damaged rows have been named in the log."""

    async def run(self) -> None:
        """Free and park instances until cancelled. Returns at once if no other process can reach the database."""
        while not self._database.is_exclusive:
            found = await retry_while_away(self._database, self._survey)
            self._name_unreadable(found.others)
            now = self._clock.now()
            if ending := self._observer.ended(found.others):
                await self._end(ending, now)
            if found.has_incompatible:
                await self._park_incompatible(now)
            if found.never_wake:
                await self._wake(found.never_wake, now)
            # A process can be found dead before its lease expires, and a lease must be read twice to end.
            pause = self._lease_time // 4
            after = random.randrange(10_000, 100_000)  # workers do not all do so at once
            lefts = [left for one in found.others if (left := self._observer.left(one)) > 0]
            await trio.sleep(min(pause, min(lefts, default=pause) + after) / 1_000_000)

    def _name_unreadable(self, others: Sequence[OtherLease]) -> None:
        unreadable = {one.worker_id for one in others if not one.is_readable}
        for worker_id in unreadable - self._unreadable:
            _logger.error(
                "the row of worker %s cannot be read: the death of its process is noticed only when its lease ends",
                visible(worker_id),
            )
        self._unreadable = unreadable

    async def _survey(self) -> Survey:
        workflows = registry.workflow_names()
        try:
            return await self._database.read(_survey, self._worker_id, self._clock.ahead_of_steady, workflows)
        except Exception:
            self._contact.broken()
            raise

    async def _end(self, ending: Sequence[OtherLease], now: Microseconds) -> None:
        # Not as part of a batch: the row of a worker that hangs may be locked.
        by_server = not self._clock.is_virtual
        run, may_end = self._database.run, self._observer.may_end  # asked again: an outage may come in between
        ended_now = await retry_while_away(
            self._database, run, end_leases, ending, now, by_server=by_server, may_end=may_end
        )
        for ended in ended_now:
            if ended.is_dead:
                _logger.warning("worker %s is dead: its instances are free to be claimed", ended.worker_id)
            else:
                message = "worker %s lost its lease, which it did not renew: its instances are free to be claimed"
                _logger.warning(message, ended.worker_id)
        self._on_freed()

    async def _park_incompatible(self, now: Microseconds) -> None:
        for parked in await retry_while_away(self._database, self._database.run, incompatible.sweep, now):
            message = "instance %s is stuck: its journal fits the code of no live worker"
            _logger.error(message, parked.instance_id, extra=about(parked.instance_id, parked.workflow))
            if self._dispatcher is not None:
                tell_end(self._dispatcher, parked, self._worker_id, now, Status.STUCK, parked.error)

    async def _wake(self, instance_ids: Sequence[str], now: Microseconds) -> None:
        await retry_while_away(self._database, self._database.run, wake_damaged, instance_ids, now)
        for id in instance_ids:
            _logger.warning(
                "the row of instance %s is damaged: its wake_at is no time; it is due now", visible(id), extra=about(id)
            )
        self._on_freed()


@frozen
class Survey:
    """What the reaper reads from time to time."""

    others: Sequence[OtherLease]
    """The leases of the other workers."""
    has_incompatible: bool
    """Whether there are journals that do not fit some code."""
    never_wake: Sequence[str]
    """Ids of instances that would never become due."""


def _survey(connection: Connection, me: str, clock: Microseconds, workflows: Sequence[str]) -> Survey:
    return Survey(
        other_leases(connection, me, clock), incompatible.has_any(connection), never_wake(connection, workflows)
    )
