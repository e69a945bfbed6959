"""The durable steps of channels: subscribing, receiving, publishing."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from ..._data.codec import Codec
from ..._data.journal_format import NOTHING, MessageReceived, Published, Subscribed, Unsubscribed
from ..._storage.journal.effects import Effects
from ..._storage.outgoing import check_names, message_row
from ..._storage.sql.entries import JournalEntry, insert_entries
from ..._storage.sql.messages import Outgoing, lock_channels
from ..._storage.sql.messages import subscribe as store_subscription
from ..._storage.sql.rows import EntryRow
from ...clock import Microseconds, to_datetime
from ...errors import ChannelModeConflictError, InvalidDataError, MessageTimeoutError, RomancyError
from ...model import ChannelMode, EntryKind, Message
from ..run.exits import RunGone
from ..run.mailbox import PendingOutcome
from ..run.message_table import MessageFilter
from ..run.operation import Operation
from ..run.run import InstanceRun
from .events import next_wait, take_message
from .step import in_turn, new_operation, step

_MESSAGE = frozenset({EntryKind.MESSAGE_RECEIVED, EntryKind.WAIT_TIMED_OUT})
_PUBLISHED = frozenset({EntryKind.PUBLISHED})
_SUBSCRIBED = frozenset({EntryKind.SUBSCRIBED})
_UNSUBSCRIBED = frozenset({EntryKind.UNSUBSCRIBED})


async def subscribe(run: InstanceRun, channel: str, mode: ChannelMode, id: str | None) -> None:
    """Subscribe to a channel."""
    check_names("a channel cannot be subscribed to", channel=channel)
    known = run.intake.table.subscriptions.get(channel)
    if known is not None:
        if known.mode is not mode:
            raise ChannelModeConflictError(run.instance_id, channel, mode, known.mode)
        return

    async def record() -> JournalEntry:
        row = run.writer.next_row(operation.id, EntryKind.SUBSCRIBED, NOTHING)
        subscribed = await run.journal.call_on(channel, _subscribe, channel, mode, row, run.env.clock.now())
        return JournalEntry(row["seq"], operation.id, EntryKind.SUBSCRIBED, subscribed, row["recorded_at"])

    operation = new_operation(run, "subscribe", id, "subscribe", _SUBSCRIBED)
    pending = PendingOutcome(operation, EntryKind.SUBSCRIBED, NOTHING, record=record)
    subscribed = (await step(run, operation, lambda _: in_turn(run, pending))).payload
    assert isinstance(subscribed, Subscribed)
    _check_channel(run, operation, subscribed.channel, channel)
    if subscribed.mode is not mode:
        raise ChannelModeConflictError(run.instance_id, channel, mode, subscribed.mode)
    run.intake.table.subscribe(channel, operation.id, mode, subscribed.after)


def _subscribe(connection: Connection, channel: str, mode: ChannelMode, row: EntryRow, now: Microseconds) -> Subscribed:
    """Store a subscription with its entry. Returns the payload of the entry."""
    lock_channels(connection, [channel], now)
    held, after = store_subscription(connection, row["instance_id"], row["operation_id"], channel, mode)
    subscribed = Subscribed(channel, held, after)
    insert_entries(connection, [{**row, "payload": subscribed.to_text()}])
    return subscribed


async def unsubscribe(run: InstanceRun, channel: str, id: str | None) -> None:
    """End a subscription."""
    known = run.intake.table.unsubscribe(channel)
    if known is None:
        raise RomancyError(
            f"instance {run.instance_id!r} has not subscribed to channel {channel!r}, or has unsubscribed already; "
            f"call ctx.unsubscribe once, after `await ctx.subscribe({channel!r})`"
        )
    operation = new_operation(run, "unsubscribe", id, "unsubscribe", _UNSUBSCRIBED)
    pending = PendingOutcome(operation, EntryKind.UNSUBSCRIBED, Unsubscribed(channel).to_text())
    pending.effects = Effects(closed=[(run.instance_id, known.operation_id)])
    unsubscribed = (await step(run, operation, lambda _: in_turn(run, pending))).payload
    assert isinstance(unsubscribed, Unsubscribed)
    _check_channel(run, operation, unsubscribed.channel, channel)


async def receive(
    run: InstanceRun,
    channel: str,
    codec: Codec[Any],
    timeout: Microseconds | None,
    id: str | None,
    skip_invalid: bool,
) -> Message[Any]:
    """Receive the next message from a channel that the instance has subscribed to."""
    subscription = run.intake.table.subscriptions.get(channel)
    if subscription is None:
        raise RomancyError(
            f"instance {run.instance_id!r} has not subscribed to channel {channel!r}: "
            f"call `await ctx.subscribe({channel!r})` before ctx.receive"
        )
    end = None if timeout is None else run.cursor.now + timeout
    number, next_id = 1, id
    while True:
        operation = new_operation(run, "receive", next_id, "receive", _MESSAGE)
        try:
            got, data = await take_message(run, operation, MessageFilter(channel, None, subscription), codec, timeout)
            break
        except InvalidDataError:
            if not skip_invalid:
                raise
        number += 1
        next_id, timeout = next_wait(run, id, number, end)
    if got is None:
        raise MessageTimeoutError(run.instance_id, operation.id, channel)
    assert isinstance(got, MessageReceived)
    event, sender = got.event, got.sender
    metadata = {} if got.metadata is None else got.metadata
    if event is not None:
        sender = event.source
        metadata = metadata | {"id": event.id, "source": sender, "type": channel, "subject": event.subject}
    return Message(channel, data, metadata, sender, to_datetime(got.sent_at))


async def publish(
    run: InstanceRun, name: str, channel: str, data: object, metadata: Any, addressee: str | None, id: str | None
) -> None:
    """Send a message, in one transaction with its entry.

    Args:
      name: ``publish``, or ``send_to`` if there is an addressee.
    """
    row = message_row(
        channel,
        data,
        metadata=metadata,
        to=addressee,
        now=run.env.clock.now(),
        max_payload=run.env.settings.max_payload,
        sender=run.instance_id,
    )
    operation = new_operation(run, name, id, name, _PUBLISHED)
    pending = PendingOutcome(operation, EntryKind.PUBLISHED, Published(channel, addressee).to_text())
    pending.effects = Effects(outgoing=[Outgoing(row)])
    published = (await step(run, operation, lambda _: in_turn(run, pending))).payload
    assert isinstance(published, Published)
    _check_channel(run, operation, published.channel, channel)
    if addressee != published.to:
        _check_channel(run, operation, f"{channel} to {published.to}", f"{channel} to {addressee}")


def _check_channel(run: InstanceRun, operation: Operation, recorded: str, asked: str) -> None:
    """Stop the run if the journal has the operation for another channel.

    Raises:
      RunGone: if it has.
    """
    if recorded != asked:
        run.reject_code(run.cursor.other_channel(operation.id, recorded, asked))
        raise RunGone
