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

    @property
    def is_final(self) -> bool:
        """Whether the instance has ended (``stuck`` has not)."""
        return self in _FINAL


_FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.RECURRED})


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
    CANCEL_REQUESTED = "cancel_requested"
    WORKFLOW_COMPLETED = "workflow_completed"
    WORKFLOW_FAILED = "workflow_failed"
    """The workflow function failed; compensation begins here."""
    WORKFLOW_CANCELLED = "workflow_cancelled"
    """The workflow function has unwound after a cancel request; compensation begins here."""
    COMPENSATION_COMPLETED = "compensation_completed"
    COMPENSATION_FAILED = "compensation_failed"
    RESUMED = "resumed"
    """Somebody resumed the instance: failed compensations before this entry are tried again."""

    @property
    def is_delivered(self) -> bool:
        """Whether the entry tells workflow code something, so that its place in the order counts."""
        return self in _DELIVERED

    @property
    def ends_function(self) -> bool:
        """Whether the workflow function has ended with this entry."""
        return self in _ENDS_FUNCTION


_DELIVERED = frozenset(
    {
        Kind.ACTIVITY_COMPLETED,
        Kind.ACTIVITY_FAILED,
        Kind.ACTIVITY_CANCELLED,
        Kind.TIMER_FIRED,
        Kind.TIMEOUT_FIRED,
        Kind.CANCEL_REQUESTED,
    }
)
_ENDS_FUNCTION = frozenset({Kind.WORKFLOW_COMPLETED, Kind.WORKFLOW_FAILED, Kind.WORKFLOW_CANCELLED})


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
    continued_from: str | None
