"""How long a worker has been in touch with its database without a break."""

from __future__ import annotations

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
        self._since: Microseconds = 0
        self._last: Microseconds = 0
        self._is_broken = True

    def renewed(self) -> None:
        """Tell that the worker has renewed its lease."""
        now = self._clock.steady()
        if self._is_broken or now - self._last > self._longest:
            self._since, self._is_broken = now, False
        self._last = now

    def broken(self) -> None:
        """Tell that the database did not answer, or with an error."""
        self._is_broken = True

    def since_renewal(self) -> Microseconds:
        """Return the time since the last renewal, in microseconds."""
        return self._clock.steady() - self._last

    def duration(self) -> Microseconds:
        """Return how long contact has lasted, in microseconds; 0 without contact."""
        if self._is_broken or self.since_renewal() > self._longest:
            return 0
        return self._clock.steady() - self._since
