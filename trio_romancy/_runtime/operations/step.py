"""The skeleton of an operation: its id, then its recorded outcome, or the way to a new outcome."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NoReturn

import trio

from ..._data.journal_format import ActivityCompleted
from ..._storage.sql.entries import JournalEntry
from ..._tasks.trio_internals import has_deadline_within
from ...model import EntryKind
from ..run.exits import RunGone
from ..run.mailbox import PendingOutcome
from ..run.operation import Operation
from ..run.phase import LIVE, REPLAYING
from ..run.run import InstanceRun

_BREATHER = 100
"""Number of recorded outcomes after which a workflow of one task makes a checkpoint."""

CarryOut = Callable[[Operation], Awaitable[JournalEntry | None]]
"""Carries out an operation in flight, up to its outcome. Returns None if it never began, or its run is gone."""


def new_id(run: InstanceRun, task: trio.lowlevel.Task, name: str, id: str | None, what: str) -> str:
    """Return the id of an operation that the current task begins.

    Args:
      name: what automatic ids are counted by.
      id: the explicit id; None: an automatic one.
      what: name of what the code asks for, for messages to the user.

    Raises:
      OperationIdError: if it can have no automatic id here, or the id has been used.
      NonDeterminismError: if one of trio's own deadlines could cancel it. The instance is parked.
      RunGone: if the run is gone.
    """
    run.refuse_if_gone()
    id = run.ids.new_id(task, name, id, what)
    scope = run.function_scope.scope
    if scope is not None and has_deadline_within(scope, task):
        raise run.forbid(
            f"{what} {id!r} is inside a trio scope with a deadline, such as trio.move_on_after or trio.fail_after, "
            f"which begins again on each replay; use ctx.move_on_after or ctx.fail_after"
        )
    return id


def new_operation(run: InstanceRun, name: str, id: str | None, what: str, kinds: frozenset[EntryKind]) -> Operation:
    """Begin an operation of the current task. Arguments and errors are those of :func:`new_id`."""
    task = trio.lowlevel.current_task()
    return Operation(new_id(run, task, name, id, what), what, kinds, None, task)


async def refused() -> NoReturn:
    """Raise :exc:`RunGone`, in a step of its own that counts as one of a cancelled task."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await trio.lowlevel.cancel_shielded_checkpoint()
    raise RunGone


async def step(run: InstanceRun, operation: Operation, carry_out: CarryOut) -> JournalEntry:
    """Return the recorded outcome of an operation, or carry it out.

    It is a cancellation point before the operation begins.
    """
    assert operation.task is not None
    await trio.lowlevel.checkpoint_if_cancelled()
    outcome = None
    if run.has_outcomes:
        outcome = await recorded(run, operation.task, operation.id, operation.what, operation.kinds)
    if outcome is None:
        run.in_flight.add(operation)
        try:
            outcome = await carry_out(operation)
        finally:
            run.end(operation)
        if outcome is None:
            await trio.lowlevel.checkpoint_if_cancelled()  # a cancel request came before the operation began
            raise RunGone
    return outcome


async def recorded(
    run: InstanceRun, task: trio.lowlevel.Task, id: str, what: str, kinds: frozenset[EntryKind]
) -> JournalEntry | None:
    """Return the outcome of an operation that begins in this task, if it has one already.

    The outcome is in the journal; or it is from before ``app.retry``, and is recorded again, in its turn. None means
    that the operation has to be carried out.
    """
    cursor = run.cursor
    if run.phase is not LIVE:
        has_turn = run.has_turn(task)
        if has_turn and (outcome := cursor.take(id, kinds)) is not None:
            if cursor.taken % _BREATHER == 0:
                await trio.lowlevel.cancel_shielded_checkpoint()
            return outcome
        cursor.asks_for(id)
        if has_turn and run.phase is REPLAYING and cursor.next_entry() is None and run.cancellation is None:
            if (unasked := cursor.unasked_change()) is not None:
                run.reject_code(unasked)
                raise RunGone
            run.go_live()
    if cursor.kept and (outcome := cursor.take_kept(id, kinds)) is not None:
        return await _record_again(run, Operation(id, what, kinds, None, task), outcome)
    return None


async def _record_again(run: InstanceRun, operation: Operation, outcome: JournalEntry) -> JournalEntry:
    """Record an outcome from before a retry in its turn. Hooks are not told again."""
    payload = outcome.payload.to_text()

    async def record() -> JournalEntry:
        return run.writer.append(operation.id, outcome.kind, payload, is_news=False)

    pending = PendingOutcome(operation, outcome.kind, payload, record=record)
    entry = await step(run, operation, lambda _: in_turn(run, pending))
    if isinstance(entry.payload, ActivityCompleted):
        run.saga.activity_completed(operation.id, entry.payload)
    return entry


async def in_turn(run: InstanceRun, pending: PendingOutcome) -> JournalEntry | None:
    """Have an outcome recorded in its turn, or return what the journal says instead. Cancellation waits for that."""
    operation, outcome = pending.operation, None
    with trio.CancelScope(shield=True) as operation.scope:
        if not run.is_live:
            outcome = await replayed_in_turn(run, operation)
        if outcome is None:
            run.post(pending)
            outcome = await operation.wait()
    return outcome


async def replayed_in_turn(run: InstanceRun, operation: Operation) -> JournalEntry | None:
    """Wait until the journal tells the outcome of an operation in flight; None once the journal is used up."""
    run.open_mailbox()
    return await operation.wait()
