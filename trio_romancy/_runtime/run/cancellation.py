"""A cancel request as an operation of the instance: recorded and told in its turn, like every other."""

from __future__ import annotations

from ..._data.journal_format import CancelRequested
from ..._storage.sql.entries import JournalEntry
from ...model import Kind
from .mailbox import PendingOutcome
from .operation import Operation
from .run import InstanceRun

_CANCEL = frozenset({Kind.CANCEL_REQUESTED})


def request_cancel(run: InstanceRun, reason: str) -> None:
    """Tell the workflow that its cancellation was requested. Only the first request counts.

    Args:
      reason: JSON text.
    """
    if run.cancellation is not None or not run.runs_function:
        return

    def deliver(entry: JournalEntry) -> None:
        requested = entry.payload
        assert isinstance(requested, CancelRequested)
        run.cancel_reason = requested.reason
        for operation in run.in_flight.by_id.values():
            if operation.scope is not None and operation.id not in requested.running:
                operation.scope.cancel()  # it has never begun, so it need not go on to an outcome
        run.function_scope.request_cancel()

    run.cancellation = Operation("cancel", "cancellation", _CANCEL, deliver)
    run.in_flight.add(run.cancellation)
    run.open_mailbox()
    if not run.cursor.was_cancelled:
        run.post(PendingOutcome(run.cancellation, Kind.CANCEL_REQUESTED, reason))


def is_recorded(run: InstanceRun) -> bool:
    """Whether a cancel request is in the journal, as far as the workflow was told."""
    return run.cancellation is not None and run.cancellation.outcome is not None
