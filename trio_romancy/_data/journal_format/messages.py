"""Entries of events, messages and subscriptions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self, final

from ..._tasks.fast_frozen import frozen
from ...clock import Microseconds
from ...errors import DataProblem
from ...model import ChannelMode, EntryKind
from ..codec import dumps
from .plain import Plain

_modes = {mode.value: mode for mode in ChannelMode}


@final
@frozen
class EventAttributes:
    """The attributes that CloudEvents identifies an event by."""

    id: str
    source: str
    subject: str | None
    time: Microseconds | None
    """Time of the event, in microseconds since the epoch; None if the sender named no time."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the attributes that this plain JSON data stands for."""
        return cls(data["id"], data["source"], data["subject"], data["time"])

    def to_text(self) -> str:
        """Return the JSON text of the attributes."""
        return dumps({"id": self.id, "source": self.source, "subject": self.subject, "time": self.time})


def received_text(
    seq: int, sent_at: Microseconds, sender: str | None, event: EventAttributes | None, metadata: str | None, data: str
) -> str:
    """Return the payload of a received event or message. The two JSON texts are copied, not parsed.

    Args:
      seq: number of the message.
      event: attributes of the event; None for a message of a channel.
      metadata: metadata as JSON text; None without metadata.
      data: data as JSON text.
    """
    named = "" if event is None else f'"event":{event.to_text()},'
    return (
        f'{{"seq":{seq},"sent_at":{sent_at},"sender":{dumps(sender)},{named}'
        f'"metadata":{"null" if metadata is None else metadata},"data":{data}}}'
    )


def receipt_text(payload: str, channel: str, problems: Sequence[DataProblem]) -> str:
    """Return the payload of a received event or message, and what the wait that has got it makes of it.

    Args:
      payload: JSON text made by :func:`received_text`.
      channel: channel, or type of events, that the wait is for.
      problems: why the data do not fit the type that the wait asks for.
    """
    listed = dumps([{"path": one.path, "message": one.message} for one in problems])
    return f'{payload[:-1]},"channel":{dumps(channel)},"problems":{listed}}}'


def _with_receipt(payload: str, channel: str | None, problems: Sequence[DataProblem] | None) -> str:
    return payload if channel is None or problems is None else receipt_text(payload, channel, problems)


def _receipt_of(data: Any) -> tuple[str | None, Sequence[DataProblem] | None]:
    """Return channel and problems; None for both in an entry from before they were recorded."""
    if "problems" not in data:
        return None, None
    return data["channel"], [DataProblem(one["path"], one["message"]) for one in data["problems"]]


@final
@frozen
class EventReceived:
    """A wait for an event has received one."""

    KIND: ClassVar[EntryKind] = EntryKind.EVENT_RECEIVED

    seq: int
    """Number of the event among all messages of the database."""
    sent_at: Microseconds
    """Time at which it was accepted, in microseconds since the epoch."""
    sender: str | None
    """Id of the instance that sent it; null if no workflow sent it."""
    event: EventAttributes
    """Attributes of the event: an object of ``id``, ``source``, ``subject`` and ``time``."""
    metadata: dict[str, Any] | None
    """Metadata that were sent with the data, as plain JSON data."""
    data: Any
    """The data, as plain JSON data."""
    channel: str | None = None
    """Channel, or type of events, that the wait was for; None if that was not recorded."""
    problems: Sequence[DataProblem] | None = None
    """Reasons why the data did not fit the ``data_type`` of the wait; None if that was not recorded."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry that this plain JSON data stands for."""
        event = EventAttributes.from_data(data["event"])
        receipt = _receipt_of(data)
        return cls(data["seq"], data["sent_at"], data["sender"], event, data["metadata"], data["data"], *receipt)

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        metadata = dumps(self.metadata)
        text = received_text(self.seq, self.sent_at, self.sender, self.event, metadata, dumps(self.data))
        return _with_receipt(text, self.channel, self.problems)


@final
@frozen
class MessageReceived:
    """A wait for a message of a channel has received one. An event is a message of the channel named as its type."""

    KIND: ClassVar[EntryKind] = EntryKind.MESSAGE_RECEIVED

    seq: int
    """Number of the message among all messages of the database."""
    sent_at: Microseconds
    """Time at which it was accepted, in microseconds since the epoch."""
    sender: str | None
    """Id of the instance that sent it; null if no workflow sent it."""
    event: EventAttributes | None
    """Attributes of the event: an object of ``id``, ``source``, ``subject`` and ``time``. Missing for a message."""
    metadata: dict[str, Any] | None
    """Metadata that were sent with the data, as plain JSON data."""
    data: Any
    """The data, as plain JSON data."""
    channel: str | None = None
    """Channel, or type of events, that the wait was for; None if that was not recorded."""
    problems: Sequence[DataProblem] | None = None
    """Reasons why the data did not fit the ``data_type`` of the wait; None if that was not recorded."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry that this plain JSON data stands for."""
        event = data.get("event")
        if event is not None:
            event = EventAttributes.from_data(event)
        receipt = _receipt_of(data)
        return cls(data["seq"], data["sent_at"], data["sender"], event, data["metadata"], data["data"], *receipt)

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        metadata = dumps(self.metadata)
        text = received_text(self.seq, self.sent_at, self.sender, self.event, metadata, dumps(self.data))
        return _with_receipt(text, self.channel, self.problems)


@final
@frozen
class WaitTimedOut(Plain):
    """A wait for an event or a message has timed out."""

    KIND: ClassVar[EntryKind] = EntryKind.WAIT_TIMED_OUT


@final
@frozen
class Published:
    """A message was sent, in the same transaction."""

    KIND: ClassVar[EntryKind] = EntryKind.PUBLISHED

    channel: str
    """Channel that the message was sent to."""
    to: str | None
    """Id of the instance that receives the message; null: the channel's subscribers do."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry that this plain JSON data stands for."""
        return cls(data["channel"], data["to"])

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        return dumps({"channel": self.channel, "to": self.to})


@final
@frozen
class Subscribed:
    """The instance subscribed to a channel, or was refused because the channel has another mode."""

    KIND: ClassVar[EntryKind] = EntryKind.SUBSCRIBED

    channel: str
    """Channel of the subscription."""
    mode: ChannelMode
    """Mode of the channel. If it is not the one that the workflow asked for, there is no subscription."""
    after: int
    """Number of the last message before the subscription."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry that this plain JSON data stands for."""
        return cls(data["channel"], _modes[data["mode"]], data["after"])

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        return dumps({"channel": self.channel, "mode": self.mode, "after": self.after})


@final
@frozen
class Unsubscribed:
    """The instance ended a subscription."""

    KIND: ClassVar[EntryKind] = EntryKind.UNSUBSCRIBED

    channel: str
    """Channel of the subscription."""

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Return the entry that this plain JSON data stands for."""
        return cls(data["channel"])

    def to_text(self) -> str:
        """Return the payload as it is stored: JSON text."""
        return dumps({"channel": self.channel})
