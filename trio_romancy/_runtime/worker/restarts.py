"""Restarts of crashed actors, and the parking of instances whose actors crash again and again."""

from __future__ import annotations

import logging
import random
from collections import deque

import trio

from ..._data.failure import describe
from ..._data.log_fields import about, log_with_traceback
from ..._exceptions import traceback_of
from ..._storage.journal.journal import Journal
from ..._storage.sql.claims import Claim
from ..._storage.sql.instances import update_row
from ...clock import Clock, Microseconds
from ...model import Status
from ..run.exits import Ended

_logger = logging.getLogger("trio_romancy.supervisor")

_CRASHES = 5
"""Number of crashes within the window that park an instance."""
_WINDOW: Microseconds = 60_000_000
_FIRST_RESTART = 0.05
"""Seconds before the first restart. Each further restart within the window waits twice as long."""


class Crashes:
    """The last crashes of the actors of one instance, while it is in memory."""

    def __init__(self) -> None:
        self.last: Exception | None = None
        """Error of the last one."""
        self._times: deque[Microseconds] = deque(maxlen=_CRASHES)

    def add(self, error: Exception, now: Microseconds) -> None:
        """Count a crash."""
        self.last = error
        self._times.append(now)

    @property
    def are_too_many(self) -> bool:
        """Whether to park the instance."""
        return len(self._times) == _CRASHES and self._times[-1] - self._times[0] < _WINDOW

    def pause(self) -> float:
        """Return the seconds to wait before the next restart. They differ from instance to instance."""
        return _FIRST_RESTART * 2.0 ** (len(self._times) - 1) * random.uniform(0.5, 1.0)


class Restarts:
    """Restarts the crashed actors of one worker."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self.count = 0
        """Number of crashed actors that were restarted."""

    async def after(self, crashes: Crashes, claim: Claim) -> Ended | None:
        """Wait until a crashed actor may be restarted, or park its instance after too many crashes.

        Args:
          crashes: the crashes of its actors, the last one included.

        Returns:
          None if the actor is to be restarted through replay, otherwise the end of the parked instance.

        Raises:
          LeaseLostError: if the worker loses its lease meanwhile.
        """
        error = crashes.last
        assert error is not None
        if crashes.are_too_many:
            self._log("instance %s: its actor crashed too often, parking it", claim, error)
            return await self._park(claim, error)
        self._log("instance %s: its actor crashed, restarting it through replay", claim, error)
        self.count += 1
        await trio.sleep(crashes.pause())
        await self._journal.flush()  # what the crashed actor recorded is part of its journal
        return None

    def _log(self, message: str, claim: Claim, error: Exception) -> None:
        log_with_traceback(
            _logger,
            logging.ERROR,
            message,
            claim.instance_id,
            traceback=describe(error).traceback,
            extra=about(claim.instance_id, claim.workflow),
            exc_info=(type(error), error, traceback_of(error)),
        )

    async def _park(self, claim: Claim, cause: Exception) -> Ended:
        error = describe(cause).to_info()
        row = update_row(claim.instance_id, Status.STUCK, self._clock.now(), owner=None, error=error)
        await self._journal.durable(self._journal.append_update(row))
        return Ended(Status.STUCK, None, error)
