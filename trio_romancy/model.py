"""Value types: what the database holds, as Python sees it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from attrs import field, frozen


class Status(StrEnum):
    """Where an instance stands."""

    PENDING = "pending"
    """Stored, and not yet taken up by a worker."""
    RUNNING = "running"
    """A worker runs it, or takes it up next."""
    WAITING = "waiting"
    """Every operation in flight waits for a time or a message."""
    COMPENSATING = "compensating"
    """It failed or was cancelled, and its completed activities are being compensated."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RECURRED = "recurred"
    """It ended by starting its successor."""
    STUCK = "stuck"
    """Parked, unharmed, until the cause is mended and the instance resumed."""

    # Kept with each member: to ask a set would hash it in Python, several times for each workflow.
    is_final: bool
    """Whether the instance has ended (``stuck`` has not)."""


for _status in Status:
    _status.is_final = _status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.RECURRED)


class Kind(StrEnum):
    """What a journal entry records."""

    ACTIVITY_COMPLETED = "activity_completed"
    ACTIVITY_FAILED = "activity_failed"
    ACTIVITY_CANCELLED = "activity_cancelled"
    """A cancellable activity was torn down."""
    ATTEMPT_FAILED = "attempt_failed"
    """One failed attempt of an activity or a compensation that is tried again."""
    TIMER_FIRED = "timer_fired"
    TIMEOUT_FIRED = "timeout_fired"
    """The deadline of a durable cancel scope passed."""
    EVENT_RECEIVED = "event_received"
    MESSAGE_RECEIVED = "message_received"
    WAIT_TIMED_OUT = "wait_timed_out"
    """No event or message came in time."""
    PUBLISHED = "published"
    SUBSCRIBED = "subscribed"
    """Or refused, because the channel has another mode."""
    UNSUBSCRIBED = "unsubscribed"
    CHILD_STARTED = "child_started"
    """Or refused, because its id is taken."""
    CHILD_ENDED = "child_ended"
    """The end of a child that was awaited."""
    CANCEL_REQUESTED = "cancel_requested"
    WORKFLOW_COMPLETED = "workflow_completed"
    WORKFLOW_FAILED = "workflow_failed"
    """The workflow function failed; compensation begins here."""
    WORKFLOW_CANCELLED = "workflow_cancelled"
    """The workflow function has unwound after a cancel request; compensation begins here."""
    WORKFLOW_RECURRED = "workflow_recurred"
    """The workflow function has asked to go on as a new instance."""
    CONTINUED = "continued"
    """The first entry of that instance: what it takes along from the one before."""
    ROLLBACK_REQUESTED = "rollback_requested"
    """The parent is rolled back, and this instance, which has completed, with it."""
    COMPENSATION_COMPLETED = "compensation_completed"
    COMPENSATION_FAILED = "compensation_failed"
    PATCHED = "patched"
    """Workflow code was told to go the way of a change, whose id, with its branch, is in place of the operation id."""
    RETRIED = "retried"
    """Somebody had the failed instance start again from its first failed operation."""
    KEPT = "kept"
    """An outcome from after that operation, which counts again when the workflow asks for it."""
    RESUMED = "resumed"
    """Somebody resumed the instance: failed compensations before this entry are tried again."""

    # Kept with each member, as :attr:`Status.is_final` is: a replay asks for every entry.
    is_delivered: bool
    """Whether the entry tells workflow code something, so that its place in the order counts."""
    ends_function: bool
    """Whether the workflow function has ended with this entry."""


_DELIVERED = frozenset(
    {
        Kind.ACTIVITY_COMPLETED,
        Kind.ACTIVITY_FAILED,
        Kind.ACTIVITY_CANCELLED,
        Kind.TIMER_FIRED,
        Kind.TIMEOUT_FIRED,
        Kind.EVENT_RECEIVED,
        Kind.MESSAGE_RECEIVED,
        Kind.WAIT_TIMED_OUT,
        Kind.PUBLISHED,
        Kind.SUBSCRIBED,
        Kind.UNSUBSCRIBED,
        Kind.CHILD_STARTED,
        Kind.CHILD_ENDED,
        Kind.CANCEL_REQUESTED,
    }
)
_ENDS_FUNCTION = frozenset(
    {Kind.WORKFLOW_COMPLETED, Kind.WORKFLOW_FAILED, Kind.WORKFLOW_CANCELLED, Kind.WORKFLOW_RECURRED}
)

for _kind in Kind:
    _kind.is_delivered = _kind in _DELIVERED
    _kind.ends_function = _kind in _ENDS_FUNCTION


@frozen
class Entry:
    """One row of an instance's journal."""

    instance_id: str
    seq: int
    """The place in the journal. Grows; a number can be missing after a crash."""
    operation_id: str
    kind: Kind
    payload: Any
    """What was recorded, as plain JSON data. Its form depends on the kind."""
    recorded_at: datetime
    """When, in UTC."""


@frozen
class ErrorInfo:
    """Why an instance failed, was cancelled, or is stuck."""

    error_type: str
    """The qualified name of the exception's class."""
    message: str
    traceback: str = ""
    uncompensated: list[str] = field(factory=list)
    """Operation ids of activities whose compensation failed for good."""


@frozen
class Instance:
    """One execution of a workflow, as the database shows it."""

    instance_id: str
    workflow: str
    status: Status
    input: dict[str, Any]
    """The input as plain JSON data."""
    output: Any
    """The result as plain JSON data, None until it completed."""
    error: ErrorInfo | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    worker_id: str | None
    """The worker that runs it now."""
    parent_id: str | None
    """The instance that started it as a child."""
    continued_from: str | None
    """The instance that recurred, and started it to go on."""
    details: Any = None
    """What it last said of itself with ``ctx.set_details``, as plain JSON data."""


@frozen
class Page:
    """A part of a list of instances."""

    instances: list[Instance]
    next_page_token: str | None
    """What gives the next page; None: this is the last."""


@frozen
class WorkerInfo:
    """A worker that has a lease, as the database shows it."""

    worker_id: str
    host: str
    """The name of its machine."""
    pid: int
    """The id of its process there."""
    version: str | None
    """The code version of its workflows."""
    joined_at: datetime
    expires_at: datetime
    """When its lease ends, if it does not prolong it. In UTC."""
    is_alive: bool
    """False if its lease has expired, or its process is seen to have ended."""
    owned: int
    """How many instances it runs, those that wait in its memory among them."""


@frozen
class ReceivedEvent:
    """An event that a workflow waited for, in the words of CloudEvents."""

    id: str
    source: str
    type: str
    subject: str | None
    time: datetime
    """When it happened, if whoever sent it said so; else when it was accepted. In UTC."""
    data: Any
    """Of the type that ``wait_event`` was told, or plain JSON data."""


@frozen
class Message:
    """A message from a channel."""

    channel: str
    data: Any
    """Of the type that ``receive`` was told, or plain JSON data."""
    metadata: dict[str, Any]
    """What was given with it; of an event, its attributes."""
    sender: str | None
    """The instance that sent it, or the source of an event; None if it came from outside of any workflow."""
    sent_at: datetime
    """When it was accepted, in UTC."""


class ChannelMode(StrEnum):
    """Who gets a message from a channel. Fixed by the first subscriber of the channel."""

    BROADCAST = "broadcast"
    """Every subscriber, from its subscription on."""
    COMPETING = "competing"
    """Exactly one of the subscribers; also what was published before anybody had subscribed."""
    DIRECT = "direct"
    """The instance that it is sent to."""


@frozen
class Sent:
    """What became of an event or message. It is durable."""

    id: str
    """Of the event."""
    is_duplicate: bool
    """Whether an event of this source and id had been accepted before, so that this one was dropped."""
    waiting: int
    """How many instances waited for it at that moment. Others may come to wait for it later."""


class OutboxStatus(StrEnum):
    """Where an event in the outbox stands."""

    PENDING = "pending"
    """It is sent as soon as it can be."""
    SENT = "sent"
    FAILED = "failed"
    """The broker was tried too often, without success."""
    INVALID = "invalid"
    """The broker has refused it: trying again would be pointless."""
    EXPIRED = "expired"
    """It became too old before it could be sent."""


@frozen
class OutboxEvent:
    """An event that an activity sent, on its way to the broker."""

    event_id: str
    instance_id: str
    source: str
    type: str
    subject: str | None
    time: datetime
    data: Any
    """Plain JSON data."""
    status: OutboxStatus
    attempts: int
    """How often it was tried to send it."""
    error: str | None
    """Why the last attempt failed."""
    created_at: datetime
    due_at: datetime | None
    """When it is sent next; None: not any more."""
    finished_at: datetime | None
