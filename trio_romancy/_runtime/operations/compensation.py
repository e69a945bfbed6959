"""Undoes completed activities and children, the last first.

A rollback needs only the journal: the compensation of an activity and its arguments are recorded with the activity's
outcome. After a crash a rollback continues without running the workflow function again.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

import trio

from ..._data.failure import Failure, describe
from ..._data.journal_format import CompensationCompleted, PlannedCompensation, from_text
from ..._data.log_fields import cause_text, log_with_traceback, visible
from ..._definitions.registry import registry
from ..._definitions.values import Activity, Compensation
from ..._storage.sql.children import end_roll_back, roll_back, roll_back_again
from ...errors import DataProblem, InvalidDataError, NonDeterminismError, RomancyError
from ...model import EntryKind, Status
from ..run.exits import RunGone
from ..run.operation import Operation
from ..run.run import InstanceRun
from ..run.saga import ChildUndo, Undo, to_undo
from .attempts import Attempts

_logger = logging.getLogger("trio_romancy.saga")

_COMPENSATION = frozenset({EntryKind.COMPENSATION_COMPLETED, EntryKind.COMPENSATION_FAILED})


async def compensate(run: InstanceRun) -> None:
    """Undo all that has completed, the last first. If a compensation fails for good, the others still run.

    Raises:
      InvalidDataError: if the code cannot read the recorded arguments of a compensation. That is found before the first
        one runs.
      NonDeterminismError: if it does not define a compensation that is needed, or needs an argument that was not
        recorded. That is found before the first one runs, too.
    """
    _check_code(run)
    if left := run.env.threads.used_by_instance(run.instance_id):
        message = "instance %s is rolled back beside threads of it that go on, and cannot be stopped: %s"
        _logger.warning(message, visible(run.instance_id), visible(", ".join(left)), extra=run.about())
    saga = run.saga
    undos = saga.undos
    if children := [undo.child for undo in undos if isinstance(undo, ChildUndo) and not saga.is_settled(undo)]:
        # All children at once, though each is awaited in its order: a child that will be undone need not continue.
        run.journal.append_end_of_children(run.instance_id, children, _reason(run))
    for undo in undos:
        run.cursor.forget_failures(undo.operation_id, saga.counts_from)
        if not saga.is_settled(undo):
            kind = await (_roll_back_child(run, undo) if isinstance(undo, ChildUndo) else _compensate(run, undo))
            saga.settle(undo, kind)


def _check_code(run: InstanceRun) -> None:
    for undo in run.saga.undos:
        if isinstance(undo, Undo) and not run.saga.is_settled(undo) and _refusal(run, undo) is None:
            _bound(run, undo)


def _refusal(run: InstanceRun, undo: Undo) -> RomancyError | None:
    """Return why the compensation of an interrupted activity is not run; None if it is, as all others are."""
    if run.saga.needs_decision(undo):
        return RomancyError(
            f"instance {run.instance_id!r}: activity {undo.activity_id!r} was interrupted after the cancellation was "
            f"requested, so it is not known whether there is anything to undo; find out, and resume the instance to "
            f"run compensation {undo.name!r}"
        )
    compensation = registry.find_compensation(undo.name) if undo.is_in_doubt else None
    if compensation is not None and "result" in compensation.codecs and "result" not in undo.arguments:
        return RomancyError(
            f"instance {run.instance_id!r}: compensation {undo.name!r} takes the result of {undo.activity_id!r}, which "
            f"was interrupted and has none; undo by hand what it may have done"
        )
    return None


async def _compensate(run: InstanceRun, undo: Undo) -> EntryKind:
    """Run one compensation, and record its outcome."""
    operation = Operation(undo.operation_id, "compensation", _COMPENSATION, task=trio.lowlevel.current_task())
    run.in_flight.add(operation)
    try:
        with trio.CancelScope(shield=True) as operation.scope:
            if (error := _refusal(run, undo)) is not None:
                kind, payload = EntryKind.COMPENSATION_FAILED, describe(error, verdict="terminal").to_text()
                if run.events is not None:
                    run.events.attempts(operation.id, undo.name, is_compensation=True)
                run.writer.append(operation.id, kind, payload)
            else:
                compensation, arguments = _bound(run, undo)
                result = await Attempts(run, operation, compensation, (), arguments, None).carry_out()
                kind, payload = result.kind, result.payload
            if kind is EntryKind.COMPENSATION_FAILED:
                _log_failure(run, operation.id, payload)
            return kind
    finally:
        run.end(operation)
    raise RunGone  # nothing else cancels the scope


async def _roll_back_child(run: InstanceRun, undo: ChildUndo) -> EntryKind:
    """Have a child roll itself back, and wait until it has, on any worker."""
    task = trio.lowlevel.current_task()
    operation = Operation(undo.operation_id, "compensation", _COMPENSATION, task=task, waits=True)
    me, clock = run.instance_id, run.env.clock
    if run.events is not None:
        run.events.attempts(operation.id, undo.child, is_compensation=True)
    run.in_flight.add(operation)
    try:
        with trio.CancelScope(shield=True) as operation.scope:
            if run.env.host.is_draining:
                await run.stop_here()
            if run.saga.counts_from:
                await run.journal.call(roll_back_again, undo.child, clock.now())
            while True:
                changed = run.changed()  # taken before the query, so that no change falls in between
                ended = await run.journal.call(
                    roll_back, me, operation.id, undo.child, _reason(run), clock.now(), to_undo
                )
                if ended is not None:
                    break
                run.env.host.something_is_due()  # the child may be due
                await run.rest_until(changed)
            status, uncompensated = ended
            await run.journal.call(end_roll_back, me, operation.id)
            if uncompensated:
                error = RomancyError(
                    f"child {undo.child!r} is {status}, and could not compensate {', '.join(uncompensated)}; fix the "
                    f"cause, then resume instance {me!r}"
                )
                kind, payload = EntryKind.COMPENSATION_FAILED, describe(error, verdict="terminal").to_text()
            else:
                kind = EntryKind.COMPENSATION_COMPLETED
                payload = CompensationCompleted(had_nothing=status is Status.COMPLETED).to_text()
            run.writer.append(operation.id, kind, payload)
            if uncompensated:
                _log_failure(run, operation.id, payload)
            return kind
    finally:
        run.end(operation)
    raise RunGone  # nothing else cancels the scope


def _log_failure(run: InstanceRun, id: str, payload: str) -> None:
    """Log that a compensation has failed for good, or a child could not be rolled back."""
    failure = from_text(EntryKind.COMPENSATION_FAILED, payload)
    assert isinstance(failure, Failure)
    cause = cause_text(failure.error_type, failure.message)
    log_with_traceback(
        _logger,
        logging.ERROR,
        "%s of %s failed for good: %s; fix the cause, then resume the instance",
        id,
        run.instance_id,
        cause,
        traceback=failure.traceback,
        extra=run.about(id),
    )


def _reason(run: InstanceRun) -> str:
    return f"its parent, instance {run.instance_id!r}, is rolled back"


def _bound(run: InstanceRun, undo: Undo) -> tuple[Compensation[..., Any], dict[str, Any]]:
    """Return the compensation and its arguments.

    Raises:
      InvalidDataError: if the code cannot read the arguments.
      NonDeterminismError: if it does not define the compensation, or needs an argument that was not recorded.
    """
    compensation = registry.find_compensation(undo.name)
    if compensation is None:
        raise NonDeterminismError(
            f"instance {run.instance_id!r}: {undo.activity_id!r} is undone by compensation {undo.name!r}, which is not "
            f"defined in this process; if it has a new name, keep the old one: @compensation(name={undo.name!r}); "
            f"deploy code that defines it, then resume the instance"
        )
    arguments = _arguments(undo, compensation)
    parameters = inspect.signature(compensation.function).parameters
    missing = [
        name for name in parameters if name not in arguments and parameters[name].default is inspect.Parameter.empty
    ]
    if missing:
        raise NonDeterminismError(
            f"instance {run.instance_id!r}: compensation {undo.name!r} takes {missing[0]!r} now, which was not "
            f"recorded with {undo.activity_id!r}; give it a default, or deploy code that takes what was, then resume "
            f"the instance"
        )
    return compensation, arguments


def _arguments(undo: Undo, compensation: Compensation[..., Any]) -> dict[str, Any]:
    """Return the recorded arguments that the compensation takes now.

    Raises:
      InvalidDataError: if one does not fit the type that the code has for it.
    """
    arguments = {}
    for name, codec in compensation.codecs.items():
        if name in undo.arguments:
            try:
                arguments[name] = codec.decode_stored(undo.arguments[name])
            except InvalidDataError as error:
                problems = [DataProblem(f"$.{name}{one.path[1:]}", one.message) for one in error.problems]
                what = (
                    f"the recorded arguments of compensation {undo.name!r} of {undo.activity_id!r} do not fit the code"
                )
                raise InvalidDataError(what, problems) from None
    return arguments


def undo_text(
    activity: Activity[..., Any], compensation: Compensation[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    """Return how to compensate this call of an activity, as JSON text.

    Raises:
      InvalidDataError: if an argument that the compensation needs cannot be stored.
    """
    bound = activity.signature.bind(*args, **kwargs)
    bound.apply_defaults()
    texts = {}
    for name, codec in compensation.codecs.items():
        if name == "result" and name not in activity.signature.parameters:
            continue
        try:
            texts[name] = codec.encode(bound.arguments[name])[0]
        except InvalidDataError as error:
            what = f"argument {name!r} of activity {activity.name!r}, which its compensation needs,"
            raise InvalidDataError(f"{what} cannot be stored", error.problems) from None
    takes_result = "result" in compensation.codecs and "result" not in activity.signature.parameters
    return PlannedCompensation.text(compensation.name, texts, takes_result=takes_result)
