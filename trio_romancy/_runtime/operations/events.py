"""Waits for events, and the part that all waits for messages share."""

from __future__ import annotations

from typing import Any

import trio

from ..._data.codec import Codec
from ..._data.ids import short_id
from ..._data.journal_format import NOTHING, EventReceived, MessageReceived
from ..._storage.outgoing import check_names
from ..._storage.sql.entries import JournalEntry
from ...clock import Microseconds, to_datetime
from ...errors import EventTimeoutError, InvalidDataError
from ...model import EntryKind, ReceivedEvent
from ..run.exits import RunGone
from ..run.mailbox import PendingOutcome
from ..run.message_table import LocalWait, MessageFilter
from ..run.operation import Operation
from ..run.run import InstanceRun
from .step import new_operation, recorded

_EVENT = frozenset({EntryKind.EVENT_RECEIVED, EntryKind.WAIT_TIMED_OUT})


async def wait_event(
    run: InstanceRun,
    type: str,
    subject: str | None,
    codec: Codec[Any],
    timeout: Microseconds | None,
    id: str | None,
    skip_invalid: bool,
) -> ReceivedEvent[Any]:
    """Wait for the next event of that type that the instance has not received."""
    check_names("an event cannot be waited for", type=type, **({} if subject is None else {"subject": subject}))
    end = None if timeout is None else run.cursor.now + timeout
    number, next_id = 1, id
    while True:
        operation = new_operation(run, "wait_event", next_id, "wait_event", _EVENT)
        try:
            got, data = await take_message(run, operation, MessageFilter(type, subject), codec, timeout)
            break
        except InvalidDataError:
            if not skip_invalid:
                raise
        number += 1
        next_id, timeout = next_wait(run, id, number, end)
    if got is None:
        raise EventTimeoutError(run.instance_id, operation.id, type, subject)
    assert isinstance(got, EventReceived)
    event = got.event
    happened = got.sent_at if event.time is None else event.time
    return ReceivedEvent(event.id, event.source, type, event.subject, to_datetime(happened), data)


def next_wait(run: InstanceRun, id: str | None, number: int, end: Microseconds | None) -> tuple[str | None, int | None]:
    """Return the id and the timeout of the wait that follows one whose data did not fit.

    Args:
      id: operation id of the first wait; None: an automatic one.
      number: number of the next wait, from 2.
      end: time at which the first wait would have ended; None: never.
    """
    next_id = None if id is None else short_id(f"{id}:{number}")
    return next_id, None if end is None else max(end - run.cursor.now, 0)


async def take_message(
    run: InstanceRun, operation: Operation, filter: MessageFilter, codec: Codec[Any], timeout: Microseconds | None
) -> tuple[EventReceived | MessageReceived | None, Any]:
    """Wait for the next message that the filter lets through, or until the timeout.

    Args:
      timeout: microseconds since the last entry that the workflow was told; None: without end.

    Returns:
      The message and its decoded data; None and None after the timeout.

    Raises:
      InvalidDataError: if the data did not fit when the message was received.
      RunGone: if the code does not fit what is recorded, so that its run has to stop.
    """
    operation.about = filter
    when = operation.wake_at = None if timeout is None else run.cursor.now + timeout
    assert operation.task is not None
    await trio.lowlevel.checkpoint_if_cancelled()
    outcome: JournalEntry | None = None
    opened: LocalWait | None = None
    if run.has_outcomes:
        outcome = await recorded(run, operation.task, operation.id, operation.what, operation.kinds)
    if outcome is None:
        run.in_flight.add(operation)  # as `step` does, without its frames, which each waiting instance would keep
        try:
            run.open_mailbox()
            if when is not None:
                run.post_at(when, PendingOutcome(operation, EntryKind.WAIT_TIMED_OUT, NOTHING))
            while outcome is None:
                if run.is_live and opened is None:
                    opened = run.intake.open(operation, filter, codec)
                outcome = await operation.wait()
        finally:
            if opened is not None:
                run.intake.close(opened)
            run.end(operation)
    got = outcome.payload
    if not isinstance(got, EventReceived | MessageReceived):
        return None, None
    if got.channel is not None and got.channel != filter.channel:
        run.reject_code(run.cursor.other_channel(operation.id, got.channel, filter.channel))
        raise RunGone
    run.intake.consume(filter, got.seq)
    if opened is not None and not got.problems:
        return got, opened.data
    return got, _decoded(run, operation.id, filter.channel, codec, got)


def _decoded(run: InstanceRun, id: str, channel: str, codec: Codec[Any], got: EventReceived | MessageReceived) -> Any:
    """Return the data of a received event or message as the type that the workflow asks for."""
    event = got.event
    which = f"message {got.seq} on channel {channel!r}" if event is None else f"event {event.id!r} of {event.source!r}"
    problems = got.problems
    if not problems:
        try:
            return codec.decode_stored(got.data)
        except InvalidDataError as error:
            # An entry of an earlier version does not say whether the data did fit. If the journal goes on, the error
            # is raised, as a workflow that has read the data does not then ask for what follows, which is noticed.
            if problems is not None or run.cursor.next_entry() is None:
                what = f"the recorded data of {which}, received by {id!r}, do not fit the code"
                run.reject_code(InvalidDataError(what, error.problems))
                raise RunGone from None
            problems = error.problems
    where = f"instance {run.instance_id!r}, {id!r}: the data of {which} are not of the data_type"
    raise InvalidDataError(where, problems)
