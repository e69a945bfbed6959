"""The durable steps that have to do with children: starting them, awaiting their end, and rolling them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from ..._context.child import ChildHandle
from ..._data.codec import dumps
from ..._data.ids import short_id
from ..._definitions.values import Workflow
from ..._storage.journal.effects import Effects
from ..._storage.sql.children import child_row, start_named_child
from ..._storage.sql.instances import JournalEntry
from ..._storage.sql.waits import FamilyMode
from ...errors import ChildWorkflowError, InstanceExistsError, InvalidDataError, PayloadTooLargeError
from ...model import ErrorInfo, Kind, Status
from ..run.journal_cursor import Operation
from ..run.mailbox import PendingOutcome
from ..run.message_table import MessageFilter, Subscription
from .activity import kept, new_id, perform, recorded
from .attempts import Dropped

if TYPE_CHECKING:
    from ..actor.actor import Actor

_STARTED = frozenset({Kind.CHILD_STARTED})
_ENDED = frozenset({Kind.CHILD_ENDED})
_THE_END = "the end of a child"


async def start(
    actor: Actor, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ChildHandle[Any]:
    """Start a child. Once that is recorded the child is stored, for whichever worker takes it up.

    An id of the user's own is both the operation's and the child's.
    """
    text, _ = workflow.input.encode(args, kwargs)
    task = trio.lowlevel.current_task()
    operation_id = new_id(actor, task, workflow.name, workflow.id)
    if len(text) > actor.settings.max_payload:
        raise PayloadTooLargeError(
            f"instance {actor.instance_id!r}, {operation_id!r}: the input of the child is {len(text)} bytes of JSON, "
            f"and max_payload is {actor.settings.max_payload}; store it elsewhere and pass a reference"
        )
    child_id = workflow.id or short_id(f"{actor.instance_id}/{operation_id}")
    claim, now = actor.claim, actor.clock.now()
    row = child_row(child_id, workflow.name, text, now, parent_id=claim.instance_id, trace=claim.trace)
    started = {"child": child_id, "workflow": workflow.name}

    async def record_named() -> JournalEntry:
        entry = actor.entry(operation_id, Kind.CHILD_STARTED, "null")
        payload = await actor.journal.call(start_named_child, row, entry, started)
        actor.home.released(actor)  # it is due
        return JournalEntry(entry["seq"], operation_id, Kind.CHILD_STARTED, payload, entry["recorded_at"])

    operation = Operation(operation_id, "child", _STARTED, None, task)
    letter = PendingOutcome(operation, Kind.CHILD_STARTED, dumps(started))
    if workflow.id is None:
        letter.effects = Effects(children=[row])
    else:
        letter.via = record_named
    payload = await perform(actor, operation, letter)
    if payload.get("refused") is not None:
        raise InstanceExistsError(child_id, payload["refused"])
    actor.saga.child_started(operation_id, payload)
    return ChildHandle(payload["child"], operation_id, actor, workflow)


async def result(actor: Actor, child: ChildHandle[Any], id: str, *, owns: bool) -> Any:
    """Wait for the end of a child, and return what it returned.

    Args:
      owns: whether a cancellation cancels the child too, which is waited for then.
    """
    task = trio.lowlevel.current_task()
    id = new_id(actor, task, "result", id)
    await trio.lowlevel.checkpoint_if_cancelled()
    record = None if actor.replay.is_live else await recorded(actor, task, id, _ENDED)
    if record is None and actor.replay.kept:
        record = await kept(actor, task, id, _THE_END, _ENDED)
    if record is None:
        record = await _await_end(actor, child.child_id, id, task, owns=owns)
    actor.saga.child_ended(record.payload)
    if owns and record.payload["status"] == Status.CANCELLED:
        await trio.lowlevel.checkpoint_if_cancelled()  # which is why the child was
    return _outcome(actor, child, id, record.payload)


async def run(actor: Actor, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Start a child, and return what it returns. They end together."""
    child = await start(actor, workflow, args, kwargs)
    return await result(actor, child, short_id(f"{child.operation_id}/result"), owns=True)


async def _await_end(actor: Actor, child_id: str, id: str, task: trio.lowlevel.Task, *, owns: bool) -> JournalEntry:
    filter = MessageFilter(child_id, None, Subscription("", FamilyMode.CHILD, 0))
    operation = Operation(id, _THE_END, _ENDED, None, task)
    wait = None
    record = None
    must_end = False

    async def hear() -> JournalEntry:
        nonlocal wait, must_end
        record = operation.record
        while record is None:
            if actor.replay.is_live:
                if must_end:
                    reason = f"instance {actor.instance_id!r}, which awaited it, was cancelled"
                    actor.journal.append_end_of_children(actor.instance_id, [child_id], reason)
                    must_end = False
                if wait is None:
                    wait = actor.waits.open(operation, filter)
            record = await operation.news()
        return record

    actor.replay.add(operation)
    try:
        actor.deliver()
        try:
            record = await hear()
        except trio.Cancelled:
            if not owns or actor.is_dropped or actor.cannot_run is not None:
                raise
            # Like an activity: it goes on to its outcome, which a replay finds at the same place.
            must_end = True
            with trio.CancelScope(shield=True) as operation.scope:
                record = await hear()
            if record is None:
                raise
    finally:
        if wait is not None:
            actor.waits.close(wait)
        actor.end(operation)
    return record


def _outcome(actor: Actor, child: ChildHandle[Any], id: str, payload: Any) -> Any:
    if payload["status"] == Status.COMPLETED:
        try:
            return child.workflow.codec.decode(payload["output"])
        except InvalidDataError as misfit:
            actor.give_up(InvalidDataError(f"the recorded result {id!r} does not fit the code", misfit.problems))
            raise Dropped from None
    error = ErrorInfo(**payload["error"])
    raise ChildWorkflowError(
        id,
        child.child_id,
        payload["workflow"],
        payload["status"],
        error.error_type,
        error.message,
        error.traceback,
        error.uncompensated,
    )
