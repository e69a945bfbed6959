"""Calls an activity durably."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import trio

from ..._data.journal_format import ActivityCancelled, ActivityCompleted, ActivityFailed, Payload, from_text
from ..._data.log_fields import cause_text, log_with_traceback
from ..._definitions.values import Activity
from ..._storage.sql.entries import JournalEntry
from ...errors import InvalidDataError
from ...model import EntryKind
from ..run import cancellation
from ..run.cancellation import Progress
from ..run.exits import RunGone
from ..run.operation import Operation
from ..run.run import InstanceRun
from .arguments import check_arguments, digests_of
from .attempts import Attempts, Result
from .compensation import undo_text
from .step import new_id, recorded, refused, replayed_in_turn

_logger = logging.getLogger("trio_romancy.activity")

_ACTIVITY = frozenset({EntryKind.ACTIVITY_COMPLETED, EntryKind.ACTIVITY_FAILED, EntryKind.ACTIVITY_CANCELLED})


async def call_activity(
    run: InstanceRun, activity: Activity[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Return or raise the recorded outcome of an activity, or run the activity and record its outcome.

    This is a cancellation point before the activity begins. After that the activity is shielded, up to its outcome.
    """
    task = trio.lowlevel.current_task()
    if run.is_unwinding:
        await refused()
    is_undisturbed = run.is_undisturbed(task)
    if is_undisturbed:  # by no deadline either
        id = run.ids.new_id(task, activity.name, activity.id, "activity")
    else:
        id = new_id(run, task, activity.name, activity.id, "activity")
    await trio.lowlevel.checkpoint_if_cancelled()
    digests = None
    if run.env.settings.check_arguments:
        digests = digests_of(run, id, activity.signature, args, kwargs, has_run=False)
    outcome = None
    if not is_undisturbed or run.cursor.kept:
        outcome = await recorded(run, task, id, "activity", _ACTIVITY)
        if outcome is not None:
            return await _replayed(run, activity, id, outcome, digests)
        is_undisturbed = run.is_undisturbed(task)
    undo = None if activity.compensation is None else undo_text(activity, activity.compensation, args, kwargs)
    operation = Operation(id, "activity", _ACTIVITY, None, task)
    result: Result | None = None
    if is_undisturbed:
        # Only the actor can cancel here. Instead of a scope of its own, the activity uses the shield of the function.
        operation.scope = scope = run.function_scope
        scope.is_up = True
        run.in_flight.add(operation)
        attempts = Attempts(run, operation, activity, args, kwargs, undo, digests)
        try:
            result = await attempts.until_outcome()
            if not attempts.record_at_once(result):
                result = await attempts.record_in_turn(result)
        finally:
            run.end(operation)
            scope.shield = False
    else:
        run.in_flight.add(operation)
        try:
            with trio.CancelScope(shield=True) as operation.scope:
                if not run.is_live:
                    outcome = await replayed_in_turn(run, operation)
                if outcome is None:
                    attempts = Attempts(run, operation, activity, args, kwargs, undo, digests)
                    match cancellation.progress_of(run, operation, attempts.next_due):
                        case Progress.MAY_BEGIN:
                            result = await attempts.carry_out()
                        case Progress.INTERRUPTED:
                            result = await attempts.record_interruption()
                        case Progress.NOT_BEGUN:
                            pass  # and it will not, because its cancellation was accepted
        finally:
            run.end(operation)
    if outcome is not None:
        return await _replayed(run, activity, id, outcome, digests)
    if result is None:
        await trio.lowlevel.checkpoint_if_cancelled()  # a cancel request came before the activity began
        raise RunGone
    if result.kind is not activity.completed_kind:
        payload = from_text(result.kind, result.payload)
        if isinstance(payload, ActivityFailed):
            _log_failure(run, id, payload)
        elif isinstance(payload, ActivityCancelled):
            run.saga.activity_cancelled(id, payload)
        return await _return_or_raise(run, activity, id, payload)
    if activity.compensation is not None:
        completed = from_text(result.kind, result.payload)
        assert isinstance(completed, ActivityCompleted)
        run.saga.activity_completed(id, completed)
    return result.value


def _log_failure(run: InstanceRun, id: str, failure: ActivityFailed) -> None:
    """Log that an activity has failed for good. A replay does not log it again."""
    log_with_traceback(
        _logger,
        logging.INFO if failure.verdict == "gave_up" else logging.WARNING,
        "%s of %s: attempt %d failed, and no other follows: %s",
        id,
        run.instance_id,
        failure.attempts,
        cause_text(failure.error_type, failure.message),
        traceback=failure.traceback,
        extra=run.about(id),
    )


async def _replayed(
    run: InstanceRun,
    activity: Activity[..., Any],
    id: str,
    outcome: JournalEntry,
    digests: Mapping[str, str] | None,
) -> Any:
    """Return or raise the recorded outcome of an activity, which must have been called with the same arguments.

    Args:
      digests: digests of the arguments; None: they are not compared.
    """
    if digests is not None:
        check_arguments(run, id, outcome, getattr(outcome.payload, "arguments", None), digests)
    return await _return_or_raise(run, activity, id, outcome.payload)


async def _return_or_raise(run: InstanceRun, activity: Activity[..., Any], id: str, payload: Payload) -> Any:
    """Return or raise the outcome that an activity's entry holds."""
    if isinstance(payload, ActivityCompleted):
        return _decoded(run, activity, id, payload)
    if isinstance(payload, ActivityFailed):
        raise payload.to_error(id)
    await trio.lowlevel.checkpoint_if_cancelled()
    run.reject_code(run.cursor.contradiction(id, "was torn down by a cancellation", "does not cancel it"))
    raise RunGone


def _decoded(run: InstanceRun, activity: Activity[..., Any], id: str, completed: ActivityCompleted) -> Any:
    """Return the recorded result of an activity.

    Raises:
      RunGone: if the result does not fit the code, whose run has to stop then.
    """
    try:
        return activity.codec.decode_stored(completed.result)
    except InvalidDataError as error:
        run.reject_code(InvalidDataError(f"the recorded result of {id!r} does not fit the code", error.problems))
        raise RunGone from None
