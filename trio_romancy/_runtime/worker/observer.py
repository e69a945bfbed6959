"""Decides which leases of other workers have ended, from what this worker has seen of them itself."""

from __future__ import annotations

from collections.abc import Sequence

from ..._storage.sql.workers import OtherLease
from ...clock import Clock, Microseconds
from .contact import Contact
from .heartbeat import PATIENCE


class Observer:
    """Watches the leases of other workers.

    A lease ends at once if the process of its worker has ended. Otherwise it ends if it has expired, was not renewed
    while this worker watched, and this worker has been in contact with the database for a whole lease time. A worker
    whose process is seen to run may be silent for :data:`.heartbeat.PATIENCE` lease times: it may be busy, or cut off.

    Args:
      lease_time: lease time of this worker, and as far as is known of the others.
    """

    def __init__(self, clock: Clock, contact: Contact, lease_time: Microseconds) -> None:
        self._clock = clock
        self._contact = contact
        self._lease_time = lease_time
        self._seen: dict[tuple[str, int], tuple[Microseconds, Microseconds]] = {}
        """When each lease would expire, as it was read last, and when it was first read so, on the steady clock."""

    def ended(self, others: Sequence[OtherLease]) -> list[OtherLease]:
        """Return the leases to end.

        Args:
          others: the leases of all other workers, as they were just read.
        """
        before, self._seen, now = self._seen, {}, self._clock.steady()
        for one in others:
            expires_at, since = before.get(key := (one.worker_id, one.epoch), (None, now))
            self._seen[key] = one.expires_at, since if expires_at == one.expires_at else now
        return [one for one in others if one.is_dead or self.left(one) <= 0]

    def may_end(self) -> bool:
        """Return whether this worker has been in contact with the database for a whole lease time."""
        return self._contact.duration() >= self._lease_time

    def left(self, one: OtherLease) -> Microseconds:
        """Return the time until the lease ends if its worker stays silent and this one does not, in microseconds."""
        _, silent_since = self._seen[one.worker_id, one.epoch]
        patience = (PATIENCE - 1) * self._lease_time if one.is_seen_to_live else 0
        return max(
            one.expires_at - one.ahead + patience - self._clock.now(),
            # A live worker renews its lease more often.
            self._lease_time // 2 - (self._clock.steady() - silent_since),
            self._lease_time - self._contact.duration(),
        )
