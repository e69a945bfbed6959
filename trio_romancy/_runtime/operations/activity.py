"""The durable steps that workflow code asks for: activities, sleeps, timeouts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio
from attrs import evolve

from ..._data.codec import dumps, loads
from ..._data.failure import Failure
from ..._definitions.values import Activity
from ..._storage.sql.instances import JournalEntry
from ...clock import Microseconds
from ...errors import InvalidDataError
from ...model import Kind
from ..run.journal_cursor import Operation
from ..run.mailbox import PendingOutcome
from .attempts import Dropped, attempt
from .compensation import undo_text

if TYPE_CHECKING:
    from ..actor.actor import Actor

_ACTIVITY = frozenset({Kind.ACTIVITY_COMPLETED, Kind.ACTIVITY_FAILED, Kind.ACTIVITY_CANCELLED})
_TIMER = frozenset({Kind.TIMER_FIRED})
_TIMEOUT = frozenset({Kind.TIMEOUT_FIRED})

_BREATHER = 100
"""After so many operations, a workflow that is alone with its journal makes a checkpoint."""


async def call_activity(
    actor: Actor, activity: Activity[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run an activity durably: return or raise what is recorded, or carry it out and record it.

    It is a cancellation point before it begins. Then it is shielded, up to its outcome.
    """
    task = trio.lowlevel.current_task()
    actor.refuse_if_dropped()
    id = actor.replay.new_id(task, activity.name, activity.id)
    await trio.lowlevel.checkpoint_if_cancelled()
    record = None if actor.replay.is_live else await recorded(actor, task, id, _ACTIVITY)
    if record is None and actor.replay.kept:
        record = await kept(actor, task, id, "activity", _ACTIVITY)
        if record is not None:
            actor.saga.completed(id, record.payload)
    if record is not None:
        return await _hear(actor, activity, id, record.kind, record.payload)
    suffix = "}" if activity.compensation is None else undo_text(activity, args, kwargs)
    operation = Operation(id, "activity", _ACTIVITY, None, task)
    result = None
    if actor.is_undisturbed(task):
        # Nobody but the actor can cancel here: no need for a real scope, it holds its cancellation back itself.
        operation.scope = actor
        actor.is_shielded = True
        actor.replay.in_flight[id] = operation
        try:
            result = await attempt(actor, operation, activity, args, kwargs, suffix)
            if not actor.record(operation, result):
                result = await actor.carry_out(operation, activity, args, kwargs, suffix, result)
        finally:
            actor.end(operation)
            actor.shield = False
    else:
        actor.replay.add(operation)
        try:
            with trio.CancelScope(shield=True) as operation.scope:
                if not actor.replay.is_live:
                    actor.deliver()
                    record = await operation.news()
                if record is None:
                    result = await actor.carry_out(operation, activity, args, kwargs, suffix)
        finally:
            actor.end(operation)
    if record is not None:
        return await _hear(actor, activity, id, record.kind, record.payload)
    if result is None:
        await trio.lowlevel.checkpoint_if_cancelled()  # it had never begun when a cancel request came
        raise Dropped
    if result.kind is not activity.completed_kind:
        return await _hear(actor, activity, id, result.kind, loads(result.payload))
    if activity.compensation is not None:
        actor.saga.completed(id, loads(result.payload))
    return result.value


async def _hear(actor: Actor, activity: Activity[..., Any], id: str, kind: Kind, payload: Any) -> Any:
    """Return or raise what an activity's entry says."""
    if kind is Kind.ACTIVITY_COMPLETED:
        try:
            return activity.codec.decode(payload["result"])
        except InvalidDataError as error:
            actor.give_up(InvalidDataError(f"the recorded result of {id!r} does not fit the code", error.problems))
            raise Dropped from None
    if kind is Kind.ACTIVITY_FAILED:
        raise Failure.from_payload(payload).to_error(id)
    await trio.lowlevel.checkpoint_if_cancelled()
    actor.give_up(actor.replay.mismatch_of(id, "was torn down by a cancellation", "does not cancel it"))
    raise Dropped


async def sleep_until(actor: Actor, when: Microseconds, id: str | None) -> None:
    """Sleep until that time, across restarts."""
    task = trio.lowlevel.current_task()
    id = new_id(actor, task, "sleep", id)
    await trio.lowlevel.checkpoint_if_cancelled()
    record = None if actor.replay.is_live else await recorded(actor, task, id, _TIMER)
    if record is None and actor.replay.kept:
        record = await kept(actor, task, id, "sleep", _TIMER)
    if record is None:
        operation = Operation(id, "sleep", _TIMER, None, task, waits=True, wake_at=when)
        actor.replay.add(operation)
        try:
            actor.deliver().post_at(when, PendingOutcome(operation, Kind.TIMER_FIRED, "null"))
            while await operation.news() is None:
                pass
        finally:
            actor.end(operation)


@contextmanager
def open_timeout(actor: Actor, duration: Microseconds, id: str | None, *, fail: bool) -> Iterator[trio.CancelScope]:
    """A cancel scope whose deadline is an entry."""
    id = new_id(actor, trio.lowlevel.current_task(), "timeout", id)
    when = actor.replay.now + duration
    with trio.CancelScope() as scope:
        operation = Operation(id, "timeout", _TIMEOUT, lambda _: scope.cancel(), wake_at=when)
        actor.replay.add(operation)
        actor.deliver().post_at(when, PendingOutcome(operation, Kind.TIMEOUT_FIRED, "null"))
        try:
            yield scope
        finally:
            actor.end(operation)
    if fail and scope.cancelled_caught:
        raise trio.TooSlowError


def new_id(actor: Actor, task: trio.lowlevel.Task, name: str, id: str | None) -> str:
    """An operation begins: its id."""
    actor.refuse_if_dropped()
    return actor.replay.new_id(task, name, id)


async def recorded(actor: Actor, task: trio.lowlevel.Task, id: str, kinds: frozenset[Kind]) -> JournalEntry | None:
    """The outcome of the operation, if the journal says it next and nobody else wants a turn."""
    replay = actor.replay
    if not actor.has_turn(task):
        return None
    record = replay.take(id, kinds)
    if record is None:
        if replay.next_record() is None and not actor.is_being_cancelled:
            if (misfit := replay.unknown_change()) is not None:
                actor.give_up(misfit)
                raise Dropped
            replay.go_live()
    elif replay.taken % _BREATHER == 0:
        await trio.lowlevel.cancel_shielded_checkpoint()
    return record


async def kept(
    actor: Actor, task: trio.lowlevel.Task, id: str, what: str, kinds: frozenset[Kind]
) -> JournalEntry | None:
    """The outcome that the operation had before the instance was retried, recorded anew in its turn."""
    outcome = actor.replay.take_kept(id, kinds)
    if outcome is None:
        return None
    operation = Operation(id, what, kinds, None, task)
    return evolve(outcome, payload=await perform(actor, operation, _anew(actor, operation, outcome)))


def _anew(actor: Actor, operation: Operation, outcome: JournalEntry) -> PendingOutcome:
    """Records a kept outcome. What it says has happened before, so nobody else is told of it."""
    payload = dumps(outcome.payload)

    async def record() -> JournalEntry:
        return actor.append(operation.id, outcome.kind, payload, is_news=False)

    return PendingOutcome(operation, outcome.kind, payload, via=record)


async def perform(actor: Actor, operation: Operation, letter: PendingOutcome) -> Any:
    """Have a letter recorded in its turn, or hear what was recorded. Returns what the entry says."""
    assert operation.task is not None
    await trio.lowlevel.checkpoint_if_cancelled()
    if actor.replay.kept and (outcome := actor.replay.take_kept(operation.id, operation.kinds)) is not None:
        letter = _anew(actor, operation, outcome)
    if not actor.replay.is_live:
        record = await recorded(actor, operation.task, operation.id, operation.kinds)
        if record is not None:
            return record.payload
    record = None
    actor.replay.add(operation)
    try:
        with trio.CancelScope(shield=True) as operation.scope:
            if not actor.replay.is_live:
                actor.deliver()
                record = await operation.news()
            if record is None:
                actor.deliver().post(letter)
                record = await operation.news()
    finally:
        actor.end(operation)
    if record is None:
        await trio.lowlevel.checkpoint_if_cancelled()  # it had not begun when a cancel request came
        raise Dropped
    return record.payload
