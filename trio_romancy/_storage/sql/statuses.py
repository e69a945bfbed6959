"""Which status of an instance may follow which: one table, for the runtime and for SQL."""

from __future__ import annotations

from sqlalchemy import ColumnElement

from ...model import Status
from .tables import instances

NEXT: dict[Status, tuple[Status, ...]] = {
    Status.PENDING: (Status.RUNNING, Status.COMPENSATING, Status.CANCELLED, Status.STUCK),
    Status.RUNNING: (
        Status.PENDING,  # released, or left to workers with other code
        Status.WAITING,
        Status.COMPENSATING,
        Status.COMPLETED,
        Status.FAILED,
        Status.CANCELLED,  # app.terminate, as for the other statuses
        Status.RECURRED,
        Status.STUCK,
    ),
    Status.WAITING: (
        Status.PENDING,
        Status.RUNNING,
        Status.COMPENSATING,
        Status.COMPLETED,
        Status.FAILED,
        Status.CANCELLED,
        Status.RECURRED,
        Status.STUCK,
    ),
    Status.COMPENSATING: (Status.FAILED, Status.CANCELLED, Status.STUCK),
    Status.COMPLETED: (Status.COMPENSATING,),  # a child whose parent is rolled back
    Status.FAILED: (Status.RUNNING, Status.COMPENSATING),  # app.retry, and app.resume
    Status.CANCELLED: (Status.RUNNING, Status.COMPENSATING),  # app.retry of its parent, and app.resume
    Status.RECURRED: (),
    # A worker with other code, app.resume, and app.terminate.
    Status.STUCK: (Status.PENDING, Status.RUNNING, Status.COMPENSATING, Status.CANCELLED),
}
"""The statuses that may follow each status. Each may also stay as it is."""


FINAL = tuple(status for status in Status if status.is_final)
"""The statuses of instances that have ended."""
UNENDED = tuple(status for status in Status if not status.is_final)
"""All other statuses."""


class IllegalStatusError(RuntimeError):
    """Raised if a status cannot follow the present status of an instance. A bug in the runtime."""


def check(before: Status, after: Status) -> None:
    """Raise :exc:`IllegalStatusError` unless ``after`` may follow ``before``, or is the same."""
    if after is not before and after not in NEXT[before]:
        raise IllegalStatusError(f"an instance that is {before} cannot become {after}")


def may_become(after: Status) -> ColumnElement[bool]:
    """Return the condition that the status of an instance is ``after``, or one that it may follow."""
    return instances.c.status.in_([before for before in Status if before is after or after in NEXT[before]])


def claimed(status: Status) -> Status:
    """Return the status of an instance that a worker has claimed."""
    return Status.COMPENSATING if status is Status.COMPENSATING else Status.RUNNING


def read_status(stored: str) -> Status:
    """Return a stored status. One that is damaged reads as ``stuck``, which does not equal what is stored."""
    try:
        return Status(stored)
    except ValueError:
        return Status.STUCK
