"""The end of an instance: how its workflow function ended, the end of a rollback, or that it is parked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import evolve

from ..._data.codec import dumps, loads
from ..._data.failure import Failure, describe
from ..._storage.sql import incompatible
from ..._storage.sql.instances import JournalEntry, closing_row
from ...errors import InvalidDataError, NonDeterminismError, PayloadTooLargeError
from ...model import ErrorInfo, Kind, Status
from .recur import Recur, end_text, succeed

if TYPE_CHECKING:
    from .actor import Actor

# What every workflow asks for: to find a member of an enum takes ten times as long as a global (Python 3.11).
_COMPLETED = Status.COMPLETED
_WORKFLOW_COMPLETED = Kind.WORKFLOW_COMPLETED


async def end_function(actor: Actor, value: Any, failure: Failure | None) -> JournalEntry | None:
    """Record how the function ended. Returns the entry if a rollback comes next."""
    actor.is_ending = True
    actor.idle_since = None
    if actor.cannot_run is not None:
        if not actor.was_told_to_cancel and actor.claim.cancel_requested is None:
            await _park(actor, actor.cannot_run)
            return None
        if actor.cancel_reason is None:
            actor.cancel_reason = loads(actor.claim.cancel_requested or "null")
    if actor.cancel_reason is None and not actor.was_recorded_as_cancelled:
        return await _close(actor, value, failure)
    return _cancel(actor)


async def finish(actor: Actor, function_end: JournalEntry) -> None:
    """Record the end of the rollback."""
    if function_end.kind is Kind.WORKFLOW_FAILED:
        status, error = Status.FAILED, _info(Failure.from_payload(function_end.payload))
    else:
        reason = function_end.payload["reason"]
        status, error = Status.CANCELLED, ErrorInfo("trio_romancy.WorkflowCancelledError", reason or "")
    error = evolve(error, uncompensated=actor.saga.uncompensated)
    batch = actor.journal.append_update(actor.status_row(status, error=error))
    if (origin := actor.claim.child_of_chain) is not None:
        actor.journal.append_child_end(actor.instance_id, origin)
    await actor.journal.durable(batch)
    actor.home.ended(actor, status, None, error)


async def _close(actor: Actor, value: Any, failure: Failure | None) -> JournalEntry | None:
    """Record how the function ended, unless a cancel request was accepted first."""
    kind, payload, output, error = _WORKFLOW_COMPLETED, "null", None, None
    status, successor, next_claim, first = _COMPLETED, None, None, None
    if isinstance(value, Recur):
        successor, next_claim, first = succeed(actor, value)
        kind, payload, status = Kind.WORKFLOW_RECURRED, end_text(next_claim), Status.RECURRED
    elif failure is None:
        try:
            output, _ = actor.workflow.codec.encode(value)
            if len(output) > actor.settings.max_payload:
                raise actor.too_large(output, "the result of the workflow")
        except (InvalidDataError, PayloadTooLargeError) as problem:
            failure = describe(problem)
    if failure is not None:
        output = None
        kind, payload, error = Kind.WORKFLOW_FAILED, failure.as_payload(), _info(failure)
        status = Status.FAILED if actor.saga.is_empty else Status.COMPENSATING
    entry = actor.entry("", kind, payload)
    owner = None if status.is_final else actor.journal.lease.worker_id
    row = closing_row(actor.instance_id, status, entry["recorded_at"], owner=owner, output=output, error=error)
    if actor.used_waits is not None or not actor.is_new:
        actor.journal.append_end(actor.instance_id)
    origin = actor.claim.child_of_chain if status.is_final and successor is None else None
    refused_for = await actor.journal.close(row, entry, origin=origin, successor=successor)
    if refused_for is not None:
        actor.take_back()
        actor.cancel_reason = loads(refused_for)
        actor.append("cancel", Kind.CANCEL_REQUESTED, dumps({"reason": actor.cancel_reason, "running": []}))
        return _cancel(actor)
    if status.is_final:
        if successor is not None and next_claim is not None and first is not None:
            if successor.row["owner"] is None:
                actor.home.released(actor)
            else:
                actor.home.goes_on(next_claim, first)
        actor.home.ended(actor, status, output, error)
        return None
    return JournalEntry(entry["seq"], "", kind, loads(payload), entry["recorded_at"])


def _cancel(actor: Actor) -> JournalEntry:
    record = actor.append("", Kind.WORKFLOW_CANCELLED, dumps({"reason": actor.cancel_reason}))
    actor.journal.append_end(actor.instance_id)
    actor.set_status(Status.COMPENSATING)
    return record


async def _park(actor: Actor, cause: Exception) -> None:
    error = _info(describe(cause))
    if isinstance(cause, NonDeterminismError | InvalidDataError):
        me, now = actor.journal.lease.worker_id, actor.clock.now()
        if await actor.journal.call(incompatible.give_up, me, actor.instance_id, error, now) is Status.STUCK:
            actor.home.ended(actor, Status.STUCK, None, error)
        else:
            actor.home.left_to_others(actor, error)
        return
    batch = actor.journal.append_update(actor.status_row(Status.STUCK, error=error) | {"owner_": None})
    await actor.journal.durable(batch)
    actor.home.ended(actor, Status.STUCK, None, error)


def _info(failure: Failure) -> ErrorInfo:
    return ErrorInfo(failure.error_type, failure.message, failure.traceback)
