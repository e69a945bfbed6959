"""Waits for events, and the part that all waits for messages share."""

from __future__ import annotations

from typing import Any

import trio

from ..._data.codec import Codec
from ..._data.journal_format import NOTHING, EventReceived, MessageReceived
from ..._storage.outgoing import check_names
from ..._storage.sql.entries import JournalEntry
from ...clock import Microseconds, to_datetime
from ...errors import EventTimeoutError, InvalidDataError
from ...model import Kind, ReceivedEvent
from ..run.mailbox import PendingOutcome
from ..run.message_table import LocalWait, MessageFilter
from ..run.operation import Operation
from ..run.run import InstanceRun
from .step import new_operation, recorded

_EVENT = frozenset({Kind.EVENT_RECEIVED, Kind.WAIT_TIMED_OUT})


async def wait_event(
    run: InstanceRun, type: str, subject: str | None, codec: Codec[Any], timeout: Microseconds | None, id: str | None
) -> ReceivedEvent:
    """Wait for the next event of that type that the instance has not received."""
    check_names("an event cannot be waited for", type=type, **({} if subject is None else {"subject": subject}))
    operation = new_operation(run, "wait_event", id, "wait_event", _EVENT)
    outcome = await take_message(run, operation, MessageFilter(type, subject), timeout)
    if outcome.kind is Kind.WAIT_TIMED_OUT:
        raise EventTimeoutError(run.instance_id, operation.id, type, subject)
    got = outcome.payload
    assert isinstance(got, EventReceived)
    event = got.event
    happened = got.sent_at if event.time is None else event.time
    data = decoded(run, operation.id, codec, got.data, f"event {event.id!r} of {event.source!r}")
    return ReceivedEvent(event.id, event.source, type, event.subject, to_datetime(happened), data)


async def take_message(
    run: InstanceRun, operation: Operation, filter: MessageFilter, timeout: Microseconds | None
) -> JournalEntry:
    """Wait for the next message that the filter lets through, or until the timeout.

    Args:
      timeout: microseconds since the last entry that the workflow was told; None: without end.
    """
    when = operation.wake_at = None if timeout is None else run.cursor.now + timeout
    assert operation.task is not None
    await trio.lowlevel.checkpoint_if_cancelled()
    outcome: JournalEntry | None = None
    if run.has_outcomes:
        outcome = await recorded(run, operation.task, operation.id, operation.what, operation.kinds)
    if outcome is None:
        run.in_flight.add(operation)  # as `step` does, without its frames, which each waiting instance would keep
        opened: LocalWait | None = None
        try:
            run.open_mailbox()
            if when is not None:
                run.post_at(when, PendingOutcome(operation, Kind.WAIT_TIMED_OUT, NOTHING))
            while outcome is None:
                if run.is_live and opened is None:
                    opened = run.intake.open(operation, filter)
                outcome = await operation.wait()
        finally:
            if opened is not None:
                run.intake.close(opened)
            run.end(operation)
    if isinstance(outcome.payload, EventReceived | MessageReceived):
        run.intake.consume(filter, outcome.payload.seq)
    return outcome


def decoded(run: InstanceRun, id: str, codec: Codec[Any], data: Any, what: str) -> Any:
    """Return received data as the type that the caller asks for.

    Raises:
      InvalidDataError: if they are not of that type.
    """
    try:
        return codec.decode(data)
    except InvalidDataError as error:
        where = f"instance {run.instance_id!r}, {id!r}: the data of {what} are not of the data_type"
        raise InvalidDataError(where, error.problems) from None
