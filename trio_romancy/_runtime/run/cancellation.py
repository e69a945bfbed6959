"""A cancel request as an operation of the instance: recorded and told in its turn, like every other."""

from __future__ import annotations

from enum import Enum

from ..._data.codec import dumps
from ..._data.end_request import EndRequest
from ..._data.failure import Failure
from ..._data.journal_format import CancelRequested
from ..._storage.sql.entries import JournalEntry
from ...clock import Microseconds
from ...model import EntryKind, Status
from .mailbox import PendingOutcome
from .operation import Operation
from .run import InstanceRun

_CANCEL = frozenset({EntryKind.CANCEL_REQUESTED})


def request_cancel(run: InstanceRun, request: str) -> None:
    """Tell the workflow that its cancellation was requested. Only the first request counts.

    Args:
      request: the request as it is stored: JSON text.
    """
    if run.cancellation is not None or not run.runs_function:
        return

    def deliver(entry: JournalEntry) -> None:
        requested = entry.payload
        assert isinstance(requested, CancelRequested)
        run.cancel_reason = requested.reason
        running = set(requested.running)
        for operation in run.in_flight.by_id.values():
            if operation.scope is not None and operation.id not in running:
                operation.scope.cancel()  # it has never begun, so it need not go on to an outcome
        run.function_scope.request_cancel()

    run.cancellation = Operation("cancel", "cancellation", _CANCEL, deliver)
    run.in_flight.add(run.cancellation)
    run.open_mailbox()
    if not run.cursor.was_cancelled:
        reason = dumps(EndRequest.from_text(request).reason)
        run.post(PendingOutcome(run.cancellation, EntryKind.CANCEL_REQUESTED, reason))


def is_recorded(run: InstanceRun) -> bool:
    """Whether a cancel request is in the journal, as far as the workflow was told."""
    return run.cancellation is not None and run.cancellation.outcome is not None


class Progress(Enum):
    """How far an activity had come that has no outcome in the journal, when a cancel request was accepted."""

    MAY_BEGIN = "may begin"
    """It is not to be cancelled: nothing was requested, or the activity began after the request, within a shield."""
    NOT_BEGUN = "not begun"
    """No attempt had begun."""
    INTERRUPTED = "interrupted"
    """An attempt may have begun in an earlier run. It is not made again."""


def progress_of(run: InstanceRun, operation: Operation, next_due: Microseconds | None) -> Progress:
    """Return how far an activity has come that the journal has no outcome of.

    Args:
      next_due: time at which the next attempt was due, if one has failed.
    """
    request = None if run.cancellation is None else run.cancellation.outcome
    if request is None:
        return Progress.MAY_BEGIN
    assert isinstance(request.payload, CancelRequested)
    if operation.id not in request.payload.running:
        return Progress.MAY_BEGIN
    was_released = run.claim.status in (Status.PENDING, Status.WAITING)  # no attempt runs in these
    if failures := run.cursor.failures_of(operation.id):
        last = failures[-1].payload
        waited = was_released or (next_due is not None and next_due > request.recorded_at)
        waited = waited or (
            isinstance(last, Failure) and bool(last.verdict)
        )  # for its thread, with no attempt to follow
        return Progress.MAY_BEGIN if waited else Progress.INTERRUPTED  # the first ends with its last failure
    return Progress.NOT_BEGUN if was_released else Progress.INTERRUPTED
