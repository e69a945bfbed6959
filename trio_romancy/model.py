"""Value types: what the database holds, as users of the package see it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, TypeVar, overload

from attrs import field, frozen

T = TypeVar("T")


class Status(StrEnum):
    """Status of an instance."""

    PENDING = "pending"
    """Stored, and not yet claimed by a worker."""
    RUNNING = "running"
    """A worker runs it, or claims it next."""
    WAITING = "waiting"
    """Every operation in flight waits for a time or a message."""
    COMPENSATING = "compensating"
    """Its workflow failed or was cancelled, and completed activities are being compensated."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RECURRED = "recurred"
    """Ended by starting its successor."""
    STUCK = "stuck"
    """Parked until the cause is fixed and the instance is resumed. Nothing is lost."""

    # An attribute of each member: a look into a set would hash the member in Python, several times for each workflow.
    is_final: bool
    """Whether the instance has ended. A ``stuck`` one has not."""


for _status in Status:
    _status.is_final = _status in (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.RECURRED)


class EntryKind(StrEnum):
    """Kind of a journal entry."""

    ACTIVITY_COMPLETED = "activity_completed"
    ACTIVITY_FAILED = "activity_failed"
    ACTIVITY_CANCELLED = "activity_cancelled"
    """A cancellable activity was torn down."""
    ATTEMPT_FAILED = "attempt_failed"
    """An attempt of an activity or a compensation failed, and another one follows."""
    TIMER_FIRED = "timer_fired"
    TIMEOUT_FIRED = "timeout_fired"
    """The deadline of a durable cancel scope passed."""
    EVENT_RECEIVED = "event_received"
    MESSAGE_RECEIVED = "message_received"
    WAIT_TIMED_OUT = "wait_timed_out"
    """No event or message arrived in time."""
    PUBLISHED = "published"
    SUBSCRIBED = "subscribed"
    """A subscription began, or was refused because the channel has another mode."""
    UNSUBSCRIBED = "unsubscribed"
    CHILD_STARTED = "child_started"
    """A child was started, or refused because its id is taken."""
    CHILD_ENDED = "child_ended"
    """A child that the parent awaits has ended."""
    CANCEL_REQUESTED = "cancel_requested"
    WORKFLOW_COMPLETED = "workflow_completed"
    WORKFLOW_FAILED = "workflow_failed"
    """The workflow function failed; compensation begins here."""
    WORKFLOW_CANCELLED = "workflow_cancelled"
    """The workflow function has unwound after a cancel request; compensation begins here."""
    WORKFLOW_TERMINATED = "workflow_terminated"
    """``app.terminate`` ended the instance, or began its compensation."""
    WORKFLOW_RECURRED = "workflow_recurred"
    """The workflow function called ``ctx.recur``."""
    CONTINUED = "continued"
    """First entry of an instance that another one recurred as: what it inherits from that one."""
    ROLLBACK_REQUESTED = "rollback_requested"
    """The parent is rolled back, and with it this instance, which has completed."""
    COMPENSATION_COMPLETED = "compensation_completed"
    COMPENSATION_FAILED = "compensation_failed"
    PATCHED = "patched"
    """``ctx.patched`` returned True. The operation id is the id of the change, with its branch."""
    RETRIED = "retried"
    """``app.retry`` made the failed instance start again from its first failed operation."""
    KEPT = "kept"
    """An outcome from after that operation, which counts again when the workflow calls the operation again."""
    RESUMED = "resumed"
    """``app.resume`` resumed the instance: failed compensations before this entry are tried again."""

    # Attributes of each member, as :attr:`Status.is_final` is: a replay reads them for every entry.
    is_delivered: bool
    """Whether the entry is delivered to workflow code, so that its place in the order counts."""
    ends_function: bool
    """Whether the workflow function has ended with this entry."""


_DELIVERED = frozenset(
    {
        EntryKind.ACTIVITY_COMPLETED,
        EntryKind.ACTIVITY_FAILED,
        EntryKind.ACTIVITY_CANCELLED,
        EntryKind.TIMER_FIRED,
        EntryKind.TIMEOUT_FIRED,
        EntryKind.EVENT_RECEIVED,
        EntryKind.MESSAGE_RECEIVED,
        EntryKind.WAIT_TIMED_OUT,
        EntryKind.PUBLISHED,
        EntryKind.SUBSCRIBED,
        EntryKind.UNSUBSCRIBED,
        EntryKind.CHILD_STARTED,
        EntryKind.CHILD_ENDED,
        EntryKind.CANCEL_REQUESTED,
    }
)
_ENDS_FUNCTION = frozenset(
    {
        EntryKind.WORKFLOW_COMPLETED,
        EntryKind.WORKFLOW_FAILED,
        EntryKind.WORKFLOW_CANCELLED,
        EntryKind.WORKFLOW_TERMINATED,
        EntryKind.WORKFLOW_RECURRED,
    }
)

for _kind in EntryKind:
    _kind.is_delivered = _kind in _DELIVERED
    _kind.ends_function = _kind in _ENDS_FUNCTION


@frozen
class Entry:
    """One row of an instance's journal."""

    instance_id: str
    seq: int
    """Place in the journal. It grows; a number can be missing after a crash."""
    operation_id: str
    kind: EntryKind
    payload: Any
    """The recorded value as plain JSON data. Its form depends on the kind."""
    recorded_at: datetime
    """Time of the record, in UTC."""


@frozen
class ErrorInfo:
    """Why an instance failed, was cancelled, or is stuck."""

    error_type: str
    """Qualified name of the exception class."""
    message: str
    traceback: str = ""
    uncompensated: list[str] = field(factory=list)
    """Operation ids of activities whose compensation failed for good."""
    error_types: list[str] = field(factory=list)
    """Qualified names of the exception class and its bases, and of the exception that it stands for, if it does."""
    details: Any = None
    """Details of the :class:`~trio_romancy.TerminalError` that was the cause, as plain JSON data; None without any."""


@frozen
class CancelRequest:
    """An accepted request to cancel or terminate an instance that has not ended yet."""

    reason: str | None
    requested_at: datetime | None
    """Time of the request, in UTC; None: it was stored by a release that kept no time."""
    terminates: bool
    """Whether the instance is to be terminated."""
    waits_for: list[str]
    """Operation ids of what has to come to its outcome first, such as a running activity. Empty as long as no worker
    has told the workflow of the request."""


@frozen
class PendingOperation:
    """An operation that an instance waits for, or carries out now."""

    operation_id: str
    kind: str
    """``event``, ``message``, ``sleep``, ``timeout`` (of a block), ``child``, ``activity`` or ``compensation``."""
    name: str | None = None
    """Type of the event, channel of the message, id of the child, or name of the activity."""
    subject: str | None = None
    """Subject of the event; None: any."""
    due_at: datetime | None = None
    """End of the sleep, time limit of the wait, or time of the next attempt, in UTC; None: no time ends it."""
    attempt: int | None = None
    """Number of the attempt that runs, or comes next."""
    running_since: datetime | None = None
    """Start of the attempt, in UTC; None: none runs."""
    limit: str | None = None
    """Name of the limit that holds the attempt back; None: none does."""
    limit_key: str | None = None
    """Key of the limit; None: the limit has none."""
    limit_place: int | None = None
    """Place of the attempt among those that wait for the limit and key: the first is 1."""


@frozen
class Instance:
    """One execution of a workflow, as the database shows it."""

    instance_id: str
    workflow: str
    status: Status
    input: dict[str, Any]
    """Input as plain JSON data."""
    output: Any
    """Result as plain JSON data; None until the instance has completed."""
    error: ErrorInfo | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    worker_id: str | None
    """Worker that runs it now; None: no worker does."""
    parent_id: str | None
    """Instance that started it as a child; None: it is no child."""
    continued_from: str | None
    """Instance that recurred as this one; None: it is the first of its chain."""
    details: Any = None
    """Last value of ``set_details`` of its workflow or an activity, as plain JSON data; None once it has ended."""
    cancel_requested: CancelRequest | None = None
    """Accepted request to end the instance; None: nothing was requested, or the instance has ended."""
    waits_for: list[PendingOperation] = field(factory=list)
    """The first operations in flight, at most ten, as they were a second or two ago. Empty if the instance has
    ended, or has only just begun to wait or to run an activity."""
    last_details: Any = None
    """Value of :attr:`details` when the instance ended; None until then."""
    not_before: datetime | None = None
    """Time at which it begins to run, if it was started with a delay or for a time; None once it has ended."""
    deadline: datetime | None = None
    """Time at which it is cancelled if its function has not ended; None if it has no deadline, or that has passed."""


class Page(Sequence[T]):
    """One page of a list: a sequence of its rows, and the token of the next page. Every list has pages of this form."""

    __slots__ = ()

    next_page_token: str | None
    """Token of the next page; None: this is the last one."""

    @property
    def _rows(self) -> list[T]:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        return self._rows[index]


@frozen
class InstancePage(Page[Instance]):
    """One page of a list of instances."""

    instances: list[Instance]
    next_page_token: str | None
    """Token of the next page; None: this is the last one."""

    @property
    def _rows(self) -> list[Instance]:
        return self.instances


@frozen
class JournalPage(Page[Entry]):
    """A journal, or one page of it."""

    entries: list[Entry]
    next_page_token: str | None
    """Token of the next page; None: the journal ends here."""

    @property
    def _rows(self) -> list[Entry]:
        return self.entries


@frozen
class WorkerInfo:
    """A worker that has a lease, as the database shows it."""

    worker_id: str
    host: str
    """Name of its machine."""
    pid: int
    """Id of its process on that machine."""
    version: str | None
    """Code version of its workflows."""
    joined_at: datetime
    expires_at: datetime
    """End of its lease unless the worker renews it, in UTC."""
    is_alive: bool
    """False if its lease has expired, or its process is seen to have ended."""
    owned: int
    """Number of instances that it owns, including those that wait in its memory."""


@frozen
class LimitInfo:
    """A limit of activities, as the database holds it."""

    name: str
    concurrent: int | None
    """Most attempts of each key that run at the same time; None: any number."""
    rate: tuple[int, timedelta] | None
    """How many attempts of each key may begin in a period; None: any number."""
    burst: int
    """Attempts that may begin at once after a rest."""
    is_set: bool
    """Whether :meth:`App.set_limit` has set it, so that the code no longer does."""
    taken: int
    """What the attempts that run now count, of all keys."""
    waiting: int
    """Number of attempts that the limit holds back."""
    waiting_since: datetime | None
    """Since when the first of those waits, in UTC; None without any."""


@frozen
class ReceivedEvent(Generic[T]):
    """An event that a workflow has received. The attributes are those of CloudEvents."""

    id: str
    source: str
    type: str
    subject: str | None
    time: datetime
    """Time that the sender gave, or else the time at which the event was accepted. In UTC."""
    data: T
    """Value of the ``data_type`` of ``wait_event``, or plain JSON data."""


@frozen
class Message(Generic[T]):
    """A message from a channel."""

    channel: str
    data: T
    """Value of the ``data_type`` of ``receive``, or plain JSON data."""
    metadata: dict[str, Any]
    """Metadata that the sender gave; for an event, its attributes."""
    sender: str | None
    """Instance that sent it, or the source of an event; None: it came from outside of any workflow."""
    sent_at: datetime
    """Time at which it was accepted, in UTC."""


class ChannelMode(StrEnum):
    """Which subscribers get a message of a channel. The first subscriber of the channel fixes the mode."""

    BROADCAST = "broadcast"
    """Every subscriber gets what is published after its subscription."""
    COMPETING = "competing"
    """Exactly one subscriber gets each message, including messages from before the first subscription."""
    DIRECT = "direct"
    """The instance that a message is sent to gets it."""


@frozen
class SendResult:
    """Result of sending an event or a message, which is durable."""

    id: str
    """Id of the event or message."""
    is_duplicate: bool
    """Whether an event of this source and id had been accepted before, so that this one was not stored."""
    waiting: int
    """Number of instances that waited for it at that moment. Others may come to wait for it later."""


class OutboxStatus(StrEnum):
    """Status of an event in the outbox."""

    PENDING = "pending"
    """Sent as soon as possible."""
    SENT = "sent"
    FAILED = "failed"
    """The most attempts were made without success."""
    INVALID = "invalid"
    """The broker has refused it, so that no further attempt can succeed."""
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
    """Number of attempts to send it."""
    error: str | None
    """Reason for the failure of the last attempt."""
    created_at: datetime
    due_at: datetime | None
    """Time of the next attempt, in UTC; None: there is no further attempt."""
    finished_at: datetime | None


@frozen
class OutboxPage(Page[OutboxEvent]):
    """One page of a list of events in the outbox."""

    events: list[OutboxEvent]
    next_page_token: str | None
    """Token of the next page; None: this is the last one."""

    @property
    def _rows(self) -> list[OutboxEvent]:
        return self.events


class Overlap(StrEnum):
    """What a schedule does with an occurrence that is due while an earlier one has not ended."""

    SKIP = "skip"
    """The occurrence is skipped."""
    BUFFER_ONE = "buffer_one"
    """The occurrence starts when the earlier one has ended. Further ones are skipped meanwhile."""
    BUFFER_ALL = "buffer_all"
    """All occurrences start, one after the other. At most 1,000 wait; further ones are skipped."""
    CANCEL_OTHER = "cancel_other"
    """The earlier one is cancelled. The occurrence starts when that has ended, or is replaced by the next one."""
    ALLOW_ALL = "allow_all"
    """The occurrence starts beside the earlier one."""


class SkipReason(StrEnum):
    """Reason for which a schedule has skipped an occurrence."""

    OVERLAP = "overlap"
    """An earlier occurrence had not ended."""
    TOO_LATE = "too_late"
    """No worker fired the schedule within ``catch_up``."""
    ASKED = "asked"
    """An operator has asked for it, by :meth:`Schedules.skip`."""
    TAKEN = "taken"
    """Another instance has the id of the occurrence."""


@frozen
class SkippedOccurrence:
    """An occurrence of a schedule that was skipped, or several in a row."""

    schedule: str
    due_at: datetime
    """Time of the occurrence, or of the first one, in UTC."""
    until: datetime | None
    """End of the time whose occurrences were skipped; None: it was one occurrence."""
    reason: SkipReason
    skipped_at: datetime


@frozen
class ScheduleInfo:
    """A schedule as the database holds it."""

    name: str
    workflow: str
    input: Any
    """Input of the instances, as plain JSON data."""
    cron: str | None
    every: float | None
    """Interval in seconds, if there is no cron expression."""
    tz: str
    exclude: Sequence[str]
    overlap: Overlap
    catch_up: float | None
    """Seconds by which an occurrence may be late at most; None: any time."""
    jitter: float
    pause_on_failure: bool
    is_declared: bool
    """Whether an app declares it, by ``App(schedules=...)``."""
    next_at: datetime | None
    """The next occurrence, in UTC; None: no other follows, or the schedule is paused."""
    last_at: datetime | None
    """The last occurrence that has started, in UTC."""
    running: Sequence[str]
    """Ids of the instances that have not ended, as far as workers have noticed."""
    buffered: int
    """Number of occurrences that wait for those to end."""
    paused: str | None
    """Reason for which the schedule is paused; None: it is not."""
    paused_at: datetime | None
