"""Claims what is due: new instances, timers, messages and what dead workers have left, all by one query."""

from __future__ import annotations

import logging
import random

import trio

from ..._data.log_fields import about, visible
from ..._definitions.registry import registry
from ..._settings import WorkerLimits
from ..._storage.database import Database
from ..._storage.outages import retry_while_away
from ..._storage.sql.claims import ClaimedInstance, claim_and_load
from ..._storage.sql.wake_ups import next_wake
from ...clock import CLAIMED_AHEAD, Clock, Microseconds
from .supervisor import Supervisor

_logger = logging.getLogger("trio_romancy.worker")

_SHORTEST_POLL = 0.05
_LONGEST_POLL = 1.0
"""Seconds between two polls of a database that other processes can write to as well."""
_SHARE = 0.1
"""Part of the time since the last claim after which to poll again, within those bounds. After a long rest an instance
is late by a tenth of that rest, at most."""
_LOCKED_FOR: Microseconds = 10_000
"""Time after which to try again to claim an instance that is due and could not be claimed."""
_LOOK_AGAIN: Microseconds = 1_000_000
"""Time after which to look for room again while activities await instances: what runs beside them ends unnoticed."""
_PATIENCE: Microseconds = 5_000_000
"""Time for which memory must have been full of instances that await others before the log says so."""
_NAMED = 10
"""The most instances that a line names."""
_NEVER: Microseconds = 2**62
_AT_ONCE = 200
"""The most instances to claim in one transaction."""


class Claimer:
    """Claims due instances for one worker, as far as it has room, and gives them to its supervisor."""

    def __init__(self, database: Database, clock: Clock, worker_id: str, limits: WorkerLimits) -> None:
        self._database = database
        self._clock = clock
        self._worker_id = worker_id
        self._limits = limits
        self.listens = database.can_listen and not clock.is_virtual
        """Whether the database tells when something becomes due. Under virtual time polling costs nothing."""
        self._notified = trio.Event()
        self._is_due = False
        """Whether something is known to be due, so that there is no need to ask for the next wake-up."""
        self._next_wake: Microseconds | None = None
        """Time at which the next instance is due, as far as is known; None if no instance is known to become due."""
        self._is_full = False
        self._waits_for_starts = False
        """Whether starts under way may have taken the room that was missing, and may not need it."""
        self._full_since: Microseconds | None = None
        """Time since which memory has been full of instances that await others; None if it is not."""
        self._is_stopping = False

    # -- notifications ---------------------------------------------------------------------------------------------

    def notify(self) -> None:
        """Ask the database soon: something may have become due."""
        self._notified.set()

    def notify_due(self) -> None:
        """Claim now: something has become due."""
        self._is_due = True
        self._notified.set()

    def notify_wake(self, when: Microseconds) -> None:
        """Claim at that time, at the latest: something becomes due then."""
        if self._next_wake is None or when < self._next_wake:
            self._next_wake = when
            self._notified.set()

    def notify_room(self) -> None:
        """Claim now if there was no room before: an instance has left memory, or only waits."""
        if self._is_full:
            self._notified.set()

    def notify_owner(self, owner: str) -> None:
        """Claim what a process has made due.

        Args:
          owner: id of the worker that owns the instance; empty: any worker may claim it.
        """
        if owner == self._worker_id:
            self.notify_due()
        elif not owner:
            self.notify()

    def stop(self) -> None:
        """Claim nothing more. :meth:`run` returns when the claim under way has ended."""
        self._is_stopping = True
        self._notified.set()

    # -- claiming --------------------------------------------------------------------------------------------------

    async def run(self, supervisor: Supervisor) -> None:
        """Claim until :meth:`stop`."""
        idle_since = self._clock.now()
        while not self._is_stopping:
            self._notified = trio.Event()
            has_claimed = await self._claim(supervisor)
            now = self._clock.now()
            wake = None if self._next_wake is None else self._next_wake - CLAIMED_AHEAD
            if has_claimed:
                idle_since = now
            elif wake is not None and wake <= now:
                wake = now + _LOCKED_FOR  # another transaction is writing to it
            may_have_room = supervisor.has_awaiting or self._waits_for_starts
            look = now + _LOOK_AGAIN if self._is_full and may_have_room else None
            until = min(filter(None, (wake, look, self._poll_at(idle_since))), default=None)
            with trio.CancelScope() as scope:
                if until is not None:
                    scope.deadline = self._clock.deadline(until)
                await self._notified.wait()

    def _poll_at(self, idle_since: Microseconds) -> Microseconds | None:
        """Return when to ask whether another process has made something due. Workers do not ask all at once."""
        if self._database.is_exclusive:
            return None
        now = self._clock.now()
        poll = _LONGEST_POLL
        if not self.listens:
            poll = min(max((now - idle_since) / 1_000_000 * _SHARE, _SHORTEST_POLL), _LONGEST_POLL)
        return now + round(poll * random.uniform(1.0, 1.25) * 1_000_000)

    async def _claim(self, supervisor: Supervisor) -> bool:
        """Claim what is due, as far as there is room. Returns whether anything was."""
        names = registry.workflow_names()
        suspects = not supervisor.has_suspect
        if self.listens and not self._is_due:
            # The notification may come from this worker's own journal, which notifies the claimer itself once durable.
            await supervisor.journal.reported()
        is_due, self._is_due = self._is_due, False
        self._next_wake = None  # a notification from here on may be about something new
        if not is_due:
            self._next_wake = await retry_while_away(
                self._database, self._database.read, next_wake, self._worker_id, names, suspects=suspects
            )
        now = self._clock.now()
        if not is_due and (self._next_wake is None or self._next_wake > now + CLAIMED_AHEAD):
            self._is_full = False
            return False
        limit = self._make_room(supervisor)

        def spawn(found: tuple[list[ClaimedInstance], Microseconds | None]) -> None:
            # The claim has removed their wake-up times. The wake-up of an instance that is being released is restored
            # in the same batch. Otherwise nothing would wake the instance if the worker died in between.
            for claimed in found[0]:
                supervisor.spawn(claimed)

        self._next_wake = None  # the claim may miss what becomes due meanwhile, which must notify
        supervisor.arriving += limit
        try:
            claimed, self._next_wake = await supervisor.journal.call_then(
                spawn, claim_and_load, self._worker_id, now, names, limit, suspects=suspects, ahead=CLAIMED_AHEAD
            )
        finally:
            supervisor.arriving -= limit
        if self._is_full:
            self._next_wake = None  # `notify_room` comes when there is room
        return bool(claimed)

    def _make_room(self, supervisor: Supervisor) -> int:
        """Return how many instances may be claimed. Without room, passivate some that only wait."""
        self._waits_for_starts = supervisor.arriving > 0
        free = self._limits.max_resident - supervisor.resident - supervisor.arriving
        room = min(self._limits.max_running - supervisor.running, free)
        self._is_full = room <= 0
        if not self._is_full:
            self._full_since = None
        else:
            self._name_awaiting(supervisor)
            supervisor.passivate_idle(max(supervisor.resident - self._limits.max_resident, 0) + 1)
        return min(max(room, 0), _AT_ONCE)

    def _name_awaiting(self, supervisor: Supervisor) -> None:
        """Log, once, that memory is full, and that instances in it await others in activities, perhaps in vain."""
        awaiting = supervisor.awaiting() if supervisor.resident >= self._limits.max_resident else []
        if not awaiting:
            self._full_since = None
            return
        now = self._clock.now()
        if self._full_since is None:
            self._full_since = now
        if now - self._full_since < _PATIENCE:
            return
        self._full_since = _NEVER
        named = ", ".join(visible(id) for id in awaiting[:_NAMED])
        _logger.warning(
            "worker %s: instances are due, and memory is full of max_resident=%d others, of which %d await instances "
            "in their activities: %s%s; if they await those that are due, none goes on: raise max_resident, or await "
            "children in the workflow, by ctx.run",
            self._worker_id,
            self._limits.max_resident,
            len(awaiting),
            named,
            "" if len(awaiting) <= _NAMED else f" and {len(awaiting) - _NAMED} more",
            extra=about(None),
        )
