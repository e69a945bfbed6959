"""Records the end of an instance: of its workflow function, of a rollback, or by parking it."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import trio
from attrs import evolve

from ..._data.end_request import EndRequest
from ..._data.failure import Failure, describe
from ..._data.journal_format import (
    NOTHING,
    CancelRequested,
    RollbackRequested,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowRecurred,
    WorkflowTerminated,
    from_text,
)
from ..._data.large import encoded
from ..._data.log_fields import cause_text, log_with_traceback, visible
from ..._definitions.values import Workflow
from ..._storage.sql import incompatible
from ..._storage.sql.entries import JournalEntry
from ..._storage.sql.termination import TERMINATED
from ...errors import InvalidDataError, NonDeterminismError
from ...model import EntryKind, ErrorInfo, Status
from ..run import cancellation
from ..run.exits import Ended, Exit, LeftToOthers, Recurred, RunGone
from ..run.phase import CLOSING
from ..run.run import InstanceRun
from .recur import Recur, next_of_chain

_logger = logging.getLogger("trio_romancy.workflow")


async def end_function(
    run: InstanceRun, workflow: Workflow[..., Any], value: Any, failure: Failure | None
) -> JournalEntry | Exit:
    """Record how the workflow function ended. Returns the entry if a rollback comes next."""
    run.enter(CLOSING)
    run.idle_since = None
    if run.rejection is not None:
        if run.cancellation is None and run.claim.cancel_requested is None:
            return await _park(run, run.rejection)
        if run.cancel_reason is None:
            run.cancel_reason = EndRequest.from_text(run.claim.cancel_requested or "null").reason
    if run.cancel_reason is None and not cancellation.is_recorded(run):
        return await _close(run, workflow, value, failure)
    return _cancel(run)


async def refuse_rollback(run: InstanceRun) -> Exit:
    """Park an instance whose rollback must not go on, because its compensations may take the process down."""
    run.enter(CLOSING)
    assert run.rejection is not None
    return await _park(run, run.rejection)


async def leave_rollback(run: InstanceRun, cause: Exception) -> Exit:
    """Leave a rollback to other workers, or park the instance: the code here cannot do it."""
    return await _park(run, cause, in_rollback=True)


async def end_rollback(run: InstanceRun, function_end: JournalEntry) -> Exit:
    """Record the end of the rollback."""
    end = function_end.payload
    if isinstance(end, WorkflowFailed):
        status, error = Status.FAILED, end.to_info()
    elif isinstance(end, WorkflowTerminated):
        status, error = Status.CANCELLED, ErrorInfo(TERMINATED, end.reason or "")
    else:
        assert isinstance(end, WorkflowCancelled | RollbackRequested)
        status, error = Status.CANCELLED, ErrorInfo("trio_romancy.WorkflowCancelledError", end.reason or "")
    error = evolve(error, uncompensated=run.saga.uncompensated)
    batch = run.journal.append_update(run.writer.status_row(status, error=error))
    if (origin := run.claim.child_of_chain) is not None:
        run.journal.append_child_end(run.instance_id, origin)
    await run.env.journal.durable(batch)
    return Ended(status, None, error)


async def _close(
    run: InstanceRun, workflow: Workflow[..., Any], value: Any, failure: Failure | None
) -> JournalEntry | Exit:
    """Record how the function ended, unless a cancel request was accepted first."""
    kind, payload, output, error = EntryKind.WORKFLOW_COMPLETED, NOTHING, None, None
    status, successor, next_claim, first = Status.COMPLETED, None, None, None
    if isinstance(value, Recur):
        successor, next_claim, first = next_of_chain(run, value)
        kind, status = EntryKind.WORKFLOW_RECURRED, Status.RECURRED
        payload = WorkflowRecurred(next_claim.instance_id).to_text()
    elif failure is None:
        try:
            output, _ = await encoded(value, partial(workflow.codec.encode, value))
            if len(output) > run.env.settings.max_payload:
                raise run.too_large(output, "the result of the workflow")
        except (KeyboardInterrupt, GeneratorExit, trio.Cancelled):
            raise
        except InvalidDataError as problem:
            sentence = f"instance {run.instance_id!r}: the result of workflow {workflow.name!r} cannot be stored"
            failure = describe(InvalidDataError(sentence, problem.problems))
        except BaseException as problem:
            failure = describe(problem)
    if failure is not None:
        output = None
        kind, payload, error = EntryKind.WORKFLOW_FAILED, failure.to_text(), failure.to_info()
        status = Status.FAILED if run.saga.is_empty else Status.COMPENSATING
    entry = run.writer.next_row("", kind, payload)
    journal = run.journal
    row = run.writer.closing_row(status, entry["recorded_at"], output=output, error=error)
    has_waits = run.used_intake is not None or not run.is_new
    origin = run.claim.child_of_chain if status.is_final and successor is None else None
    refused_for = await journal.close(row, entry, has_waits=has_waits, origin=origin, successor=successor)
    if refused_for is not None:
        run.writer.take_back()
        request = EndRequest.from_text(refused_for)
        if request.terminates:
            raise RunGone  # the supervisor learns of the request, too, and terminates the instance
        run.cancel_reason = request.reason
        run.writer.append("cancel", EntryKind.CANCEL_REQUESTED, CancelRequested(run.cancel_reason, []).to_text())
        return _cancel(run)
    run.writer.status = status
    if failure is not None:
        _log_failure(run, failure)
    if not status.is_final:
        return JournalEntry(entry["seq"], "", kind, from_text(kind, payload), entry["recorded_at"])
    ended = Ended(status, output, error)
    if successor is None or next_claim is None or first is None:
        return ended
    return Recurred(ended, next_claim, first, is_mine=successor.row["owner"] is not None)


def _cancel(run: InstanceRun) -> JournalEntry:
    """Record that the workflow function was cancelled."""
    entry = run.writer.append("", EntryKind.WORKFLOW_CANCELLED, WorkflowCancelled(run.cancel_reason).to_text())
    run.journal.append_end(run.instance_id)
    run.writer.set_status(Status.COMPENSATING)
    message, reason = "instance %s: workflow %s was cancelled%s", run.cancel_reason
    because = "" if reason is None else f": {visible(reason)}"
    _logger.info(message, visible(run.instance_id), visible(run.workflow_name), because, extra=run.about())
    return entry


def _log_failure(run: InstanceRun, failure: Failure) -> None:
    """Log that the workflow function has failed, durably. A replay does not log it again."""
    then = "" if run.saga.is_empty else "; what it completed is compensated now"
    log_with_traceback(
        _logger,
        logging.WARNING,
        "instance %s: workflow %s failed: %s%s",
        run.instance_id,
        run.workflow_name,
        cause_text(failure.error_type, failure.message),
        then,
        traceback=failure.traceback,
        extra=run.about(),
    )


async def _park(run: InstanceRun, cause: Exception, *, in_rollback: bool = False) -> Exit:
    """Record that the instance is stuck, or leave it to other workers if the code here may be the cause."""
    error = describe(cause).to_info()
    journal = run.journal
    # Other code finds the same row, and not the same status: to leave the instance is to write another one.
    if isinstance(cause, NonDeterminismError | InvalidDataError) and run.claim.problem is None:
        me, now = journal.lease.worker_id, run.env.clock.now()
        status = await journal.call(
            incompatible.leave_to_others, me, run.instance_id, error, now, in_rollback=in_rollback
        )
        if status is not Status.STUCK:
            return LeftToOthers(error)
    else:
        row = run.writer.status_row(Status.STUCK, error=error)
        row["owner_"] = None
        await journal.durable(journal.append_update(row))
    return Ended(Status.STUCK, None, error)
