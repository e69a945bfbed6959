"""Renews the lease of a worker from a thread, so that code which holds the event loop does not cost the lease."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import trio

from ..._storage.database import Database, ThreadConnection
from ..._storage.dialects.errors import is_cut_off, is_transient
from ..._storage.outages import retry_while_away
from ..._storage.sql.workers import Lease, beat
from ...clock import Clock, Microseconds
from .contact import Contact

_logger = logging.getLogger("trio_romancy.worker")

PATIENCE = 6
"""Lease times for which the lease is renewed although the event loop does nothing.

After that its instances are better off with other workers. The fence protects what the worker writes when it goes on.
"""
_STOP_WITHIN = 0.5
"""Seconds in which the thread must end. One that waits for a server that is gone ends by itself, later."""
_RESIGNED: Microseconds = 0
"""Expiry of a lease that its worker no longer renews, because its event loop stands still."""


class Heartbeat:
    """Renews the lease of one worker every third of the lease time, as far as no batch of the journal has.

    Under a virtual clock it does so in trio, because a thread has no virtual time.

    Args:
      lease_time: how far the lease is prolonged each time.
      contact: told of each renewal.
    """

    def __init__(self, database: Database, clock: Clock, lease_time: Microseconds, contact: Contact) -> None:
        self._database = database
        self._clock = clock
        self._lease_time = lease_time
        self._interval = lease_time // 3
        self._contact = contact
        self._loop_ran_at = time.monotonic()
        """When :meth:`watch_loop` ran last."""

    async def run(self, lease: Lease) -> None:
        """Renew the lease until cancelled. Returns at once if no other process can reach the database.

        Raises:
          LeaseLostError: if the lease was ended.
        """
        if self._database.is_exclusive:
            return
        if self._clock.is_virtual:
            await self._run_here(lease)
        else:
            await self._run_in_thread(lease)

    async def _run_here(self, lease: Lease) -> None:
        while True:
            await trio.sleep(max(self._interval - self._contact.since_renewal(), 0) / 1_000_000)
            await retry_while_away(self._database, self._beat_here, lease)
            self._contact.renewed()

    async def _beat_here(self, lease: Lease) -> None:
        await self._database.run(beat, lease, self._clock.now() + self._lease_time)

    async def _run_in_thread(self, lease: Lease) -> None:
        connection = self._database.thread_connection()
        thread = _Thread(connection, lease, self._clock, self._lease_time, self._contact, self._loop_is_blocked_for)
        limiter = trio.CapacityLimiter(1)  # of its own: activities may use up trio's default limiter
        token = trio.lowlevel.current_trio_token()
        try:
            await trio.to_thread.run_sync(thread.run, token, abandon_on_cancel=True, limiter=limiter)
        finally:
            thread.stop.set()
            with trio.move_on_after(_STOP_WITHIN, shield=True):
                await thread.ended.wait()

    async def watch_loop(self) -> None:
        """Note again and again that the event loop runs, until cancelled. Returns at once if there is no thread."""
        while not (self._database.is_exclusive or self._clock.is_virtual):
            self._loop_ran_at = time.monotonic()
            await trio.sleep(self._interval / 1_000_000)

    def _loop_is_blocked_for(self) -> float:
        return time.monotonic() - self._loop_ran_at


class _Thread:
    """What the thread does: it uses nothing of trio."""

    def __init__(
        self,
        connection: ThreadConnection,
        lease: Lease,
        clock: Clock,
        lease_time: Microseconds,
        contact: Contact,
        loop_is_blocked_for: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._lease = lease
        self._clock = clock
        self._lease_time = lease_time
        self._contact = contact
        self._has_resigned = False
        self._failures = 0
        self._loop_is_blocked_for = loop_is_blocked_for
        self.stop = threading.Event()
        self.ended = trio.Event()

    def run(self, token: trio.lowlevel.TrioToken) -> None:
        try:
            while not self.stop.wait(self._pause()):
                self._beat()
        finally:
            with suppress(Exception):
                self._connection.close()
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self.ended.set)

    def _pause(self) -> float:
        """Return the seconds until the next renewal is due."""
        interval = self._lease_time / 3_000_000
        if self._failures:
            return min(0.02 * 2.0 ** min(self._failures, 10), 1.0, interval)
        if self._has_resigned:
            return interval
        return max(interval - self._contact.since_renewal() / 1_000_000, 0.0)

    def _beat(self) -> None:
        blocked = self._loop_is_blocked_for()
        is_blocked = blocked > PATIENCE * self._lease_time / 1_000_000
        if self._has_resigned and is_blocked:
            return
        expires_at = _RESIGNED if is_blocked else self._clock.now() + self._lease_time
        try:
            is_renewed = self._connection.run(beat, self._lease, expires_at)
        except Exception as error:
            if not (is_transient(error) or is_cut_off(error)):
                raise
            self._failures += 1  # others log an outage
            return
        self._failures = 0
        self._has_resigned = is_blocked
        if is_blocked:
            message = "worker %s: its event loop has stood still for %.0f s; its lease is not renewed any more"
            _logger.error(message, self._lease.worker_id, blocked)
        elif is_renewed:
            self._contact.renewed()
        else:
            self.stop.wait(self._lease_time / 30_000_000)  # a batch is being written, which renews it
