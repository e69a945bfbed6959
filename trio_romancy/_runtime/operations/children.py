"""The durable steps of children: starting them, and awaiting their end."""

from __future__ import annotations

from typing import Any

import trio

from ..._context.child import ChildHandle, ParentRun
from ..._data.ids import short_id
from ..._data.journal_format import NOTHING, ChildEnded, ChildStarted
from ..._definitions.values import Workflow
from ..._storage.journal.effects import Effects
from ..._storage.sql.children import child_row, start_named_child
from ..._storage.sql.entries import JournalEntry
from ..._storage.sql.waits import ChildMode
from ...errors import ChildWorkflowError, InstanceExistsError, InvalidDataError, PayloadTooLargeError
from ...model import EntryKind, Status
from ..run.exits import RunGone
from ..run.mailbox import PendingOutcome
from ..run.message_table import LocalWait, MessageFilter, Subscription
from ..run.operation import Operation
from ..run.run import InstanceRun
from .arguments import check_arguments, digests_of
from .step import in_turn, new_operation, step

_STARTED = frozenset({EntryKind.CHILD_STARTED})
_ENDED = frozenset({EntryKind.CHILD_ENDED})
_THE_END = "the end of a child"


async def start(
    run: InstanceRun, parent: ParentRun, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ChildHandle[Any]:
    """Start a child. The child is stored together with the entry, for any worker to claim.

    An explicit id is the id of both the operation and the child.

    Args:
      parent: run through which the handle awaits the child.
    """
    text, _ = workflow.input.encode(args, kwargs)
    operation = new_operation(run, workflow.name, workflow.id, "child", _STARTED)
    if len(text) > run.env.settings.max_payload:
        raise PayloadTooLargeError(
            f"instance {run.instance_id!r}, {operation.id!r}: the input of the child is {len(text)} bytes of JSON, "
            f"and max_payload is {run.env.settings.max_payload}; store it elsewhere and pass a reference"
        )
    child_id = workflow.id or short_id(f"{run.instance_id}/{operation.id}")
    now, trace = run.env.clock.now(), run.claim.trace
    row = child_row(child_id, workflow.name, text, now, parent_id=run.instance_id, trace=trace, times=workflow.times)
    digests = None
    if run.env.settings.check_arguments:
        digests = digests_of(run, operation.id, workflow.signature, args, kwargs, has_run=False)
    started = ChildStarted(child_id, workflow.name, arguments=digests)

    async def record_named() -> JournalEntry:
        entry = run.writer.next_row(operation.id, EntryKind.CHILD_STARTED, NOTHING)
        payload = await run.journal.call(start_named_child, row, entry, started)
        run.env.host.something_is_due(has_deadline=workflow.times is not None)
        return JournalEntry(entry["seq"], operation.id, EntryKind.CHILD_STARTED, payload, entry["recorded_at"])

    pending = PendingOutcome(operation, EntryKind.CHILD_STARTED, started.to_text())
    if workflow.id is None:
        pending.effects = Effects(children=[row])
    else:
        pending.record = record_named
    entry = await step(run, operation, lambda _: in_turn(run, pending))
    recorded = entry.payload
    assert isinstance(recorded, ChildStarted)
    if digests is not None:
        check_arguments(run, operation.id, entry, recorded.arguments, digests)
    if recorded.refused is not None:
        raise InstanceExistsError(child_id, recorded.refused)
    run.saga.child_started(operation.id, recorded)
    return ChildHandle(recorded.child, operation.id, parent, workflow)


async def result(run: InstanceRun, child: ChildHandle[Any], id: str, *, owns: bool) -> Any:
    """Wait for the end of a child, and return its result.

    Args:
      owns: whether a cancellation also cancels the child. The end of the child is awaited first then.
    """
    operation = new_operation(run, "result", id, _THE_END, _ENDED)
    operation.about = child.child_id
    ended = (await step(run, operation, lambda _: _await_end(run, operation, child.child_id, owns=owns))).payload
    assert isinstance(ended, ChildEnded)
    run.saga.child_ended(ended)
    if owns and ended.status is Status.CANCELLED:
        await trio.lowlevel.checkpoint_if_cancelled()  # which is why the child was
    return _return_or_raise(run, child, operation.id, ended)


async def start_and_await(
    run: InstanceRun, parent: ParentRun, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Start a child, and return its result. A cancellation also cancels the child."""
    child = await start(run, parent, workflow, args, kwargs)
    return await result(run, child, short_id(f"{child.operation_id}/result"), owns=True)


async def _await_end(run: InstanceRun, operation: Operation, child_id: str, *, owns: bool) -> JournalEntry | None:
    filter = MessageFilter(child_id, None, Subscription("", ChildMode.CHILD, 0))
    opened: LocalWait | None = None
    must_end = False

    async def outcome() -> JournalEntry:
        nonlocal opened, must_end
        outcome = operation.outcome
        while outcome is None:
            if run.is_live:
                if must_end:
                    reason = f"instance {run.instance_id!r}, which awaited it, was cancelled"
                    run.journal.append_end_of_children(run.instance_id, [child_id], reason)
                    must_end = False
                if opened is None:
                    opened = run.intake.open(operation, filter)
            outcome = await operation.wait()
        return outcome

    run.open_mailbox()
    try:
        try:
            return await outcome()
        except trio.Cancelled:
            if not owns or run.is_gone or run.rejection is not None:
                raise
            # Like an activity: it goes on to its outcome, which a replay finds at the same place.
            must_end = True
            with trio.CancelScope(shield=True) as operation.scope:
                return await outcome()
            raise  # the run is gone: the scope was cancelled
    finally:
        if opened is not None:
            run.intake.close(opened)


def _return_or_raise(run: InstanceRun, child: ChildHandle[Any], id: str, ended: ChildEnded) -> Any:
    """Return or raise the outcome that the entry of a child's end holds."""
    if ended.status is Status.COMPLETED:
        try:
            return child.workflow.codec.decode_stored(ended.output)
        except InvalidDataError as error:
            run.reject_code(InvalidDataError(f"the recorded result {id!r} does not fit the code", error.problems))
            raise RunGone from None
    cause = ended.error
    assert cause is not None
    raise ChildWorkflowError(
        id,
        child.child_id,
        ended.workflow,
        ended.status.value,
        cause.error_type,
        cause.message,
        cause.traceback,
        cause.uncompensated,
        cause.error_types,
        cause.details,
    )
