"""``app.outbox``: the events that activities have sent, on their way to the broker."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from .._client.engine import Engine
from .._data.ids import is_id
from .._data.page_tokens import page_token as make_token
from .._data.page_tokens import read_page_token
from .._settings import check_numbers
from .._storage.sql import outbox
from ..model import OutboxPage, OutboxStatus


@define(eq=False)
class Outbox:
    """The outbox: events that activities have sent to the broker by :meth:`ActivityContext.send_event`.

    An event is in it if and only if its activity has committed. A worker with a ``broker_url`` posts it there: at least
    once, with the same id each time, and the events of one instance in the order in which they were sent. Several
    workers share that work. Without any ``broker_url`` the events wait.

    * An event that the broker takes (any 2xx) is ``sent``, and deleted a day later.
    * An event that the broker does not take now (408, 425, 429, 5xx, no answer, no connection) is tried again, with
      delays that double up to five minutes, and not before the time that a ``Retry-After`` names. Later events of the
      same instance wait for it, those of other instances do not.
    * An event that the broker refuses (any other answer) is ``invalid``; after the ``max_attempts`` of
      :class:`~trio_romancy.OutboxSettings` it is ``failed``; if it is older than their ``max_age`` it is ``expired``.
      Then no attempt follows, and no other event waits for it. It stays for thirty days, to be examined and retried.
    """

    _require_engine: Callable[[str], Engine] = field(repr=False)

    async def list(
        self,
        *,
        status: OutboxStatus | None = None,
        instance_id: str | None = None,
        limit: int = 100,
        page_token: str | None = None,
    ) -> OutboxPage:
        """Return one page of events as the database shows them now: the oldest first, those of one instance in order.

        Args:
          status: only events with this status.
          instance_id: only events of this instance.
          limit: most events on the page.
          page_token: token of the next page, from the page before. The other arguments must be the same.

        Raises:
          InvalidInputError: if the page token is not valid.
          ValueError: if the status does not exist, or the limit is not positive.
        """
        if status is not None:
            status = OutboxStatus(status)
        check_numbers(limit=limit)
        after = None if page_token is None else read_page_token(page_token, int, str, int, int, of="events")
        engine = self._require_engine("app.outbox.list")
        if instance_id is not None and not is_id(instance_id):
            return OutboxPage([], None)
        found = await engine.read(
            outbox.list_events, status=status, instance_id=instance_id, limit=limit + 1, after=after
        )
        events = [event for event, _ in found[:limit]]
        return OutboxPage(events, None if len(found) <= limit else make_token(*found[limit - 1][1]))

    async def retry(self, event_id: str) -> bool:
        """Send an event as if it were new: one that failed, expired or is invalid, or that waits for its next attempt.

        Its attempts and its age are counted from now on. If later events of its instance were sent meanwhile, it comes
        after them.

        Returns:
          Whether there was such an event. An event that was sent, or is being sent at this moment, is left alone.
        """
        engine = self._require_engine("app.outbox.retry")
        if not is_id(event_id):
            return False
        with engine.apart_from_session("retry an event"):
            retried = await engine.write(outbox.retry, event_id, engine.clock.now())
        engine.notify_relay()
        return retried

    async def retry_all(self, status: OutboxStatus | None = None) -> int:
        """Send all events that no attempt follows as if they were new: see :meth:`retry`.

        Args:
          status: only events that are ``failed``, ``invalid`` or ``expired``; None: all of these.

        Returns:
          The number of these events.

        Raises:
          ValueError: if the status is another one.
        """
        if status is not None and status not in outbox.DEAD:
            raise ValueError(f"an event is retried that is failed, invalid or expired, not {status!r}")
        engine = self._require_engine("app.outbox.retry_all")
        statuses = outbox.DEAD if status is None else (OutboxStatus(status),)
        with engine.apart_from_session("retry events"):
            retried = await engine.write(outbox.retry_all, statuses, engine.clock.now())
        engine.notify_relay()
        return retried
