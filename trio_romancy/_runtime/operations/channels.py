"""The durable steps that have to do with events and messages: waiting for them, subscribing, publishing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from sqlalchemy import Connection

from ..._data.codec import Codec, dumps, loads
from ..._storage.journal.effects import Effects
from ..._storage.outgoing import check_names, message_row
from ..._storage.sql.instances import JournalEntry, insert_entries
from ..._storage.sql.messages import Outgoing, lock_channels
from ..._storage.sql.messages import subscribe as subscribe_to
from ..._storage.sql.rows import EntryRow
from ...clock import Microseconds, to_datetime
from ...errors import ChannelModeConflictError, EventTimeoutError, InvalidDataError, MessageTimeoutError, RomancyError
from ...model import ChannelMode, Kind, Message, ReceivedEvent
from ..run.journal_cursor import Operation
from ..run.mailbox import PendingOutcome
from ..run.message_table import MessageFilter
from .activity import kept, new_id, perform, recorded

if TYPE_CHECKING:
    from ..actor.actor import Actor

_EVENT = frozenset({Kind.EVENT_RECEIVED, Kind.WAIT_TIMED_OUT})
_MESSAGE = frozenset({Kind.MESSAGE_RECEIVED, Kind.WAIT_TIMED_OUT})
_PUBLISHED = frozenset({Kind.PUBLISHED})
_SUBSCRIBED = frozenset({Kind.SUBSCRIBED})
_UNSUBSCRIBED = frozenset({Kind.UNSUBSCRIBED})


async def wait_event(
    actor: Actor, type: str, subject: str | None, codec: Codec[Any], timeout: Microseconds | None, id: str | None
) -> ReceivedEvent:
    """Wait for the next event of that type that the instance has not seen."""
    check_names("an event cannot be waited for", type=type, **({} if subject is None else {"subject": subject}))
    id, record = await _receive(actor, "wait_event", MessageFilter(type, subject), _EVENT, timeout, id)
    if record.kind is Kind.WAIT_TIMED_OUT:
        raise EventTimeoutError(actor.instance_id, id, type, subject)
    got = record.payload
    event = got["event"]
    happened = got["sent_at"] if event["time"] is None else event["time"]
    data = _decoded(actor, id, codec, got["data"], f"event {event['id']!r} of {event['source']!r}")
    return ReceivedEvent(event["id"], event["source"], type, event["subject"], to_datetime(happened), data)


async def receive(
    actor: Actor, channel: str, codec: Codec[Any], timeout: Microseconds | None, id: str | None
) -> Message:
    """Receive the next message from a channel that the instance has subscribed to."""
    subscription = actor.waits.subscriptions.get(channel)
    if subscription is None:
        raise RomancyError(
            f"instance {actor.instance_id!r} has not subscribed to channel {channel!r}: "
            f"call `await ctx.subscribe({channel!r})` before ctx.receive"
        )
    id, record = await _receive(actor, "receive", MessageFilter(channel, None, subscription), _MESSAGE, timeout, id)
    if record.kind is Kind.WAIT_TIMED_OUT:
        raise MessageTimeoutError(actor.instance_id, id, channel)
    got = record.payload
    event, sender = got.get("event"), got["sender"]
    metadata = {} if got["metadata"] is None else got["metadata"]
    if event is not None:
        sender = event["source"]
        metadata = metadata | {"id": event["id"], "source": sender, "type": channel, "subject": event["subject"]}
    data = _decoded(actor, id, codec, got["data"], f"a message on channel {channel!r}")
    return Message(channel, data, metadata, sender, to_datetime(got["sent_at"]))


def _decoded(actor: Actor, id: str, codec: Codec[Any], data: Any, what: str) -> Any:
    try:
        return codec.decode(data)
    except InvalidDataError as error:
        where = f"instance {actor.instance_id!r}, {id!r}: the data of {what} are not of the data_type"
        raise InvalidDataError(where, error.problems) from None


async def _receive(
    actor: Actor, name: str, filter: MessageFilter, kinds: frozenset[Kind], timeout: Microseconds | None, id: str | None
) -> tuple[str, JournalEntry]:
    task = trio.lowlevel.current_task()
    id = new_id(actor, task, name, id)
    await trio.lowlevel.checkpoint_if_cancelled()
    record = None if actor.replay.is_live else await recorded(actor, task, id, kinds)
    if record is None and actor.replay.kept:
        record = await kept(actor, task, id, name, kinds)
    if record is None:
        when = None if timeout is None else actor.replay.now + timeout
        operation = Operation(id, name, kinds, None, task, wake_at=when)
        actor.replay.add(operation)
        wait = None
        try:
            actor.deliver()
            if when is not None:
                actor.deliver().post_at(when, PendingOutcome(operation, Kind.WAIT_TIMED_OUT, "null"))
            while record is None:
                if actor.replay.is_live and wait is None:
                    wait = actor.waits.open(operation, filter)
                record = await operation.news()
        finally:
            if wait is not None:
                actor.waits.close(wait)
            actor.end(operation)
    if record.kind is not Kind.WAIT_TIMED_OUT:
        actor.waits.consume(filter, record.payload["seq"])
    return id, record


async def subscribe(actor: Actor, channel: str, mode: ChannelMode, id: str | None) -> None:
    """Subscribe to a channel."""
    check_names("a channel cannot be subscribed to", channel=channel)
    known = actor.waits.subscriptions.get(channel)
    if known is not None:
        if known.mode is not mode:
            raise ChannelModeConflictError(actor.instance_id, channel, mode, known.mode)
        return

    async def record() -> JournalEntry:
        entry = actor.entry(operation.id, Kind.SUBSCRIBED, "null")
        await actor.journal.call_on(channel, _store_subscription, channel, mode, entry, actor.clock.now())
        return JournalEntry(entry["seq"], operation.id, Kind.SUBSCRIBED, loads(entry["payload"]), entry["recorded_at"])

    task = trio.lowlevel.current_task()
    operation = Operation(new_id(actor, task, "subscribe", id), "subscribe", _SUBSCRIBED, None, task)
    payload = await perform(actor, operation, PendingOutcome(operation, Kind.SUBSCRIBED, "null", via=record))
    held = ChannelMode(payload["mode"])
    if held is not mode:
        raise ChannelModeConflictError(actor.instance_id, channel, mode, held)
    actor.waits.subscribe(channel, operation.id, mode, payload["after"])


def _store_subscription(
    connection: Connection, channel: str, mode: ChannelMode, entry: EntryRow, now: Microseconds
) -> None:
    lock_channels(connection, [channel], now)
    held, after = subscribe_to(connection, entry["instance_id"], entry["operation_id"], channel, mode)
    entry["payload"] = dumps({"channel": channel, "mode": held, "after": after})
    insert_entries(connection, [entry])


async def unsubscribe(actor: Actor, channel: str, id: str | None) -> None:
    """End a subscription."""
    known = actor.waits.unsubscribe(channel)
    if known is None:
        raise RomancyError(f"instance {actor.instance_id!r} has not subscribed to channel {channel!r}")
    task = trio.lowlevel.current_task()
    operation = Operation(new_id(actor, task, "unsubscribe", id), "unsubscribe", _UNSUBSCRIBED, None, task)
    letter = PendingOutcome(operation, Kind.UNSUBSCRIBED, dumps({"channel": channel}))
    letter.effects = Effects(closed=[(actor.instance_id, known.operation_id)])
    await perform(actor, operation, letter)


async def publish(
    actor: Actor, name: str, channel: str, data: object, metadata: Any, addressee: str | None, id: str | None
) -> None:
    """Send a message, together with the entry that says so."""
    row = message_row(
        channel,
        data,
        metadata=metadata,
        to=addressee,
        now=actor.clock.now(),
        max_payload=actor.settings.max_payload,
        sender=actor.instance_id,
    )
    task = trio.lowlevel.current_task()
    operation = Operation(new_id(actor, task, name, id), name, _PUBLISHED, None, task)
    letter = PendingOutcome(operation, Kind.PUBLISHED, dumps({"channel": channel, "to": addressee}))
    letter.effects = Effects(outgoing=[Outgoing(row)])
    await perform(actor, operation, letter)
