"""How long a worker has been in touch with its database without a break."""

from __future__ import annotations

import math

from ...clock import Clock, Microseconds


class Contact:
    """A worker's contact with its database: whether its own lease was renewed in time again and again.

    A worker that was cut off cannot tell a dead worker from one that was cut off as well.

    Args:
      lease_time: time for which the worker renews its lease.
    """

    def __init__(self, clock: Clock, lease_time: Microseconds) -> None:
        self._clock = clock
        self._longest = lease_time * 2 // 3
        """Longest time between two renewals. A worker renews its lease every third of the lease time."""
        self._since = self._last = -math.inf

    def renewed(self) -> None:
        """Tell that the worker has renewed its lease."""
        now = self._clock.now()
        if now - self._last > self._longest:
            self._since = now
        self._last = now

    def broken(self) -> None:
        """Tell that the database did not answer, or with an error."""
        self._last = -math.inf

    def since(self) -> float:
        """Return the time from which on there has been contact; infinite without contact."""
        if self._clock.now() - self._last > self._longest:
            return math.inf
        return self._since
