"""The context of a running activity: :class:`ActivityContext`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field

from .._data.ids import short_id
from .._storage.database import Database
from .._storage.journal.effects import Effects
from .._storage.outgoing import DEFAULT_SOURCE, event_row, message_row
from .._storage.session import Session
from .._storage.sql.messages import Outgoing
from .._storage.sql.outbox import new_row
from ..clock import Clock


@define(eq=False)
class ActivityContext:
    """Context of an activity (or a compensation) that runs for a workflow. Get it by :func:`current_activity`."""

    instance_id: str
    """Instance that the activity runs for."""
    activity_id: str
    """Operation id of the activity, such as ``"process_payment:1"``."""
    attempt: int
    """Number of this attempt, from 1."""
    workflow: str
    """Name of the workflow of that instance."""
    _database: Database = field(repr=False)
    _clock: Clock = field(repr=False)
    _max_payload: int = field(repr=False)
    effects: Effects | None = field(default=None, init=False, repr=False)
    """Messages and events that are sent if the attempt succeeds; None without any."""
    used_session: Session | None = field(default=None, init=False, repr=False)
    """The session; None: this attempt has not used :attr:`session`."""

    @property
    def idempotency_key(self) -> str:
        """A key that is the same in all attempts and after restarts, and different for every other operation.

        Pass it to outside services, so that they recognise an attempt that is repeated after a crash.
        """
        return f"{self.instance_id}:{self.activity_id}"

    @property
    def session(self) -> Session:
        """A transaction in the database of the app, which begins with the first statement.

        It commits together with the activity's journal entry: its changes are made exactly once. It is rolled back if
        the attempt fails.
        """
        if self.used_session is None:
            self.used_session = Session(self._database)
        return self.used_session

    def publish(
        self, channel: str, data: Any, *, metadata: Mapping[str, Any] | None = None, to: str | None = None
    ) -> None:
        """Publish a message to a channel, exactly once, if and only if this attempt succeeds.

        The transaction that records the activity's outcome stores it. Plain ``def`` activities can call this, too.

        Args:
          channel: name of the channel.
          data: plain JSON data, or a value of a type that can be stored.
          metadata: plain JSON data that accompany it.
          to: id of the one instance that receives it; None: the subscribers.

        Raises:
          InvalidInputError: naming everything that is wrong with the message.
          PayloadTooLargeError: if the message is larger than the app's ``max_payload``.
        """
        row = message_row(
            channel,
            data,
            metadata=metadata,
            to=to,
            now=self._clock.now(),
            max_payload=self._max_payload,
            sender=self.instance_id,
        )
        self._use_effects().outgoing.append(Outgoing(row))

    def send_event(
        self,
        type: str,
        data: Any,
        *,
        source: str = DEFAULT_SOURCE,
        subject: str | None = None,
        id: str | None = None,
    ) -> str:
        """Send an event to the broker if and only if this attempt succeeds: the transactional outbox.

        The transaction that records the activity's outcome stores it. From there it is posted to the app's
        ``broker_url``: at least once, under the same id each time, in order with the other events of the instance.
        Plain ``def`` activities can call this, too.

        Args:
          type: type of the event.
          data: plain JSON data, or a value of a type that can be stored.
          source: source of the event.
          subject: subject of the event.
          id: id of the event, by default made of the instance, the activity, and a number.

        Returns:
          The id of the event.

        Raises:
          InvalidInputError: naming everything that is wrong with the event.
          PayloadTooLargeError: if the event is larger than the app's ``max_payload``.
        """
        effects, now = self._use_effects(), self._clock.now()
        if id is None:
            id = short_id(f"{self.idempotency_key}:{len(effects.outbox) + 1}")
        event = event_row(
            type,
            data,
            source=source,
            id=id,
            subject=subject,
            to=None,
            time=None,
            metadata=None,
            now=now,
            max_payload=self._max_payload,
        )
        row = new_row(
            instance_id=self.instance_id,
            seq=0,
            number=0,
            event_id=id,
            source=source,
            type=type,
            subject=subject,
            time=now,
            data_text=event["data"],
            now=now,
        )
        effects.outbox.append(row)
        return id

    def _use_effects(self) -> Effects:
        if self.effects is None:
            self.effects = Effects()
        return self.effects
