"""What an activity knows of itself: :class:`ActivityContext`."""

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
    """What an activity (or a compensation) that runs for a workflow knows of itself."""

    instance_id: str
    """The instance that it runs for."""
    activity_id: str
    """Its operation id, such as ``"process_payment:1"``."""
    attempt: int
    """The number of this attempt, from 1."""
    workflow: str
    """The name of the workflow of that instance."""
    _database: Database = field(repr=False)
    _clock: Clock = field(repr=False)
    _max_payload: int = field(repr=False)
    effects: Effects | None = field(default=None, init=False, repr=False)
    """What is sent if the attempt succeeds."""
    used_session: Session | None = field(default=None, init=False, repr=False)
    """The session, if this attempt has asked for it."""

    @property
    def idempotency_key(self) -> str:
        """The same over all attempts and restarts, and different for every other operation of any instance.

        Give it to outside services, so that an attempt repeated after a crash is recognised.
        """
        return f"{self.instance_id}:{self.activity_id}"

    @property
    def session(self) -> Session:
        """A transaction in trio_romancy's own database, begun with the first statement.

        What is done through it commits together with the activity's journal entry: exactly once. It is rolled back
        if the attempt fails.
        """
        if self.used_session is None:
            self.used_session = Session(self._database)
        return self.used_session

    def publish(
        self, channel: str, data: Any, *, metadata: Mapping[str, Any] | None = None, to: str | None = None
    ) -> None:
        """Publish a message to a channel if, and only if, this attempt succeeds: exactly once.

        It is stored in the transaction that records the activity's outcome. Also for plain ``def`` activities.

        Args:
          to: the instance that it is for; None: every subscriber.

        Raises:
          InvalidInputError: naming everything that is wrong with it.
          PayloadTooLargeError: if it is larger than the app's ``max_payload``.
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
        """Send an event to the broker if, and only if, this attempt succeeds: the transactional outbox.

        It is stored in the transaction that records the activity's outcome, and posted to the app's ``broker_url``
        from there: at least once, under the same id each time, in order with the other events of the instance. Also
        for plain ``def`` activities.

        Args:
          id: of the event, by default made of the instance, the activity, and a number.

        Returns:
          The id of the event.

        Raises:
          InvalidInputError: naming everything that is wrong with it.
          PayloadTooLargeError: if it is larger than the app's ``max_payload``.
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
