"""Deletes old messages, and channels that are no longer used."""

from __future__ import annotations

import random

import trio

from ..._storage.database import Database
from ..._storage.outages import retry_while_away
from ..._storage.sql.messages import delete_idle_channels, delete_old_messages, oldest_message
from ...clock import Clock, Microseconds

_AT_ONCE = 1000
"""The most rows to delete in one transaction, so that it holds its locks for a short time."""
_LOOK_EVERY = 3600.0
"""Seconds after which to look for messages that other processes have sent."""


class Retention:
    """Sleeps until a message becomes too old. Under virtual time it wakes only if there is something to delete.

    Args:
      keep: how long a message is kept; None: for ever.
    """

    def __init__(self, database: Database, clock: Clock, keep: Microseconds | None) -> None:
        self._database = database
        self._clock = clock
        self._keep = keep
        self._sent = trio.Event()

    def notify(self) -> None:
        """Look for old messages again: a message was sent."""
        self._sent.set()

    async def run(self) -> None:
        """Delete old messages until cancelled. Return at once if all are kept."""
        keep = self._keep
        if keep is None:
            return
        begun = self._clock.now()
        while True:
            self._sent = trio.Event()
            oldest = await retry_while_away(self._database, self._database.read, oldest_message)
            if oldest is None:
                with trio.CancelScope() as scope:
                    if not self._database.is_exclusive:
                        scope.deadline = trio.current_time() + _LOOK_EVERY
                    await self._sent.wait()
                continue
            # Many messages at a time, and not in all processes at once. Nor as soon as a worker starts: instances that
            # had no worker get their messages first.
            due = max(oldest + keep, begun) + round(keep * random.uniform(0.01, 0.05))
            await self._clock.sleep_until(due)
            await self._delete(self._clock.now() - keep)

    async def _delete(self, before: Microseconds) -> None:
        for delete in (delete_old_messages, delete_idle_channels):
            while await retry_while_away(self._database, self._database.run, delete, before, _AT_ONCE) == _AT_ONCE:
                await trio.lowlevel.checkpoint()
