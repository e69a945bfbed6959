"""Ordered compensation.

It works from the journal alone: what undoes an activity, and with which arguments, is recorded with the activity's
outcome. So a rollback goes on after a crash without running the workflow function again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import trio
from attrs import frozen

from ..._data.codec import dumps
from ..._data.failure import describe
from ..._data.ids import short_id
from ..._definitions.registry import registry
from ..._definitions.values import Activity, Compensation
from ..._storage.sql.children import end_roll_back, roll_back, roll_back_again
from ..._storage.sql.instances import JournalEntry
from ...errors import InvalidDataError, RomancyError
from ...model import Kind, Status
from ..run.journal_cursor import Operation
from .attempts import Dropped, Result

if TYPE_CHECKING:
    from ..actor.actor import Actor

_logger = logging.getLogger("trio_romancy.saga")

_COMPENSATION = frozenset({Kind.COMPENSATION_COMPLETED, Kind.COMPENSATION_FAILED})


@frozen
class ChildUndo:
    """How to undo what a child has done: it rolls itself back, in its place among the rest."""

    activity_id: str
    """The operation that started it."""
    child: str
    """The origin of its chain."""

    @property
    def operation_id(self) -> str:
        """The id of the rollback as an operation of its own."""
        return short_id(f"{self.activity_id}/compensation")


@frozen
class Undo:
    """How to compensate one completed activity."""

    activity_id: str
    name: str
    """Of the compensation."""
    arguments: Mapping[str, Any]
    """Plain JSON data."""

    @property
    def operation_id(self) -> str:
        """The id of the compensation as an operation of its own."""
        return short_id(f"{self.activity_id}/compensation")


class Saga:
    """What an instance would have to undo, and what it has undone."""

    def __init__(self, records: Sequence[JournalEntry]) -> None:
        self.function_end: JournalEntry | None = None
        """The entry with which the workflow function ended."""
        self.rollback: JournalEntry | None = None
        """The entry with which the parent has asked to undo what had completed."""
        self._undos: list[Undo | ChildUndo] | None = None
        self._children: dict[str, bool] | None = None
        """Whether a child has ended, as far as it was awaited."""
        self._done: tuple[str, ...] = ()
        self._failed: tuple[str, ...] = ()
        self._counts_from = 0
        """Failed attempts of compensations before this entry do not count: somebody resumed the instance then."""
        for record in records:
            if record.kind is Kind.ACTIVITY_COMPLETED:
                self.completed(record.operation_id, record.payload)
            elif record.kind is Kind.CHILD_STARTED:
                self.child_started(record.operation_id, record.payload)
            elif record.kind is Kind.CHILD_ENDED:
                self.child_ended(record.payload)
            elif record.kind.ends_function:
                self.function_end = record
            elif record.kind is Kind.ROLLBACK_REQUESTED:
                self.rollback = record
            elif record.kind is Kind.COMPENSATION_COMPLETED:
                self._done += (record.operation_id,)
            elif record.kind is Kind.COMPENSATION_FAILED:
                self._failed += (record.operation_id,)
            elif record.kind is Kind.RESUMED:
                self._failed = ()
                self._counts_from = record.seq

    def completed(self, activity_id: str, payload: Mapping[str, Any]) -> None:
        """An activity has completed, with this payload in the journal."""
        compensation = payload.get("compensation")
        if compensation is not None:
            arguments = dict(compensation["arguments"])
            if compensation["takes_result"]:
                arguments["result"] = payload["result"]
            self._undos = self._undos or []
            self._undos.append(Undo(activity_id, compensation["name"], arguments))

    def child_started(self, operation_id: str, payload: Mapping[str, Any]) -> None:
        """A child was started, says the first run and each replay. Until it ends, its place is that of its start."""
        child = payload["child"]
        if payload.get("refused") is None and child not in (self._children or ()):
            self._children = (self._children or {}) | {child: False}
            self._undos = self._undos or []
            self._undos.append(ChildUndo(operation_id, child))

    def child_ended(self, payload: Mapping[str, Any]) -> None:
        """A child has ended. One that has completed is undone in the place of its end; another has undone itself."""
        child = payload["child"]
        if self._undos is None or self._children is None or self._children[child]:
            return
        self._children[child] = True
        undo = next(undo for undo in self._undos if isinstance(undo, ChildUndo) and undo.child == child)
        self._undos.remove(undo)
        if payload["status"] == Status.COMPLETED or payload["error"]["uncompensated"]:
            self._undos.append(undo)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing that could be undone."""
        return not self._undos

    @property
    def uncompensated(self) -> list[str]:
        """Activities whose compensation failed for good."""
        return [undo.activity_id for undo in self._undos or () if undo.operation_id in self._failed]

    async def compensate(self, actor: Actor) -> None:
        """Undo what has completed, the last first. One that fails for good is recorded, and the others still run."""
        ended = {*self._done, *self._failed}
        left = [undo for undo in reversed(self._undos or ()) if undo.operation_id not in ended]
        if children := [undo.child for undo in left if isinstance(undo, ChildUndo)]:
            # At once, though they are waited for in order: what shall be undone need not go on.
            actor.journal.append_end_of_children(actor.instance_id, children, _reason(actor))
        for undo in reversed(self._undos or ()):
            actor.replay.forget_failures(undo.operation_id, self._counts_from)
            if undo.operation_id not in ended:
                if isinstance(undo, ChildUndo):
                    kind = await _roll_back(actor, undo, is_resumed=self._counts_from > 0)
                else:
                    kind = await _compensate(actor, undo)
                if kind is Kind.COMPENSATION_COMPLETED:
                    self._done += (undo.operation_id,)
                else:
                    self._failed += (undo.operation_id,)


async def _compensate(actor: Actor, undo: Undo) -> Kind:
    operation = Operation(undo.operation_id, "compensation", _COMPENSATION, task=trio.lowlevel.current_task())
    actor.replay.add(operation)
    try:
        with trio.CancelScope(shield=True) as operation.scope:
            try:
                compensation, arguments = _bound(actor, undo)
            except RomancyError as error:
                failed = describe(error, verdict="terminal").as_payload()
                result = Result(Kind.COMPENSATION_FAILED, failed)
                if actor.watch is not None:
                    actor.watch.attempts(operation.id, undo.name, is_compensation=True)
                actor.append(operation.id, result.kind, result.payload)
            else:
                result = await actor.carry_out(operation, compensation, (), arguments, "")
            if result.kind is Kind.COMPENSATION_FAILED:
                _logger.error(
                    "%s of %s failed for good", operation.id, actor.instance_id, extra=actor.about(operation.id)
                )
            return result.kind
    finally:
        actor.end(operation)
    raise Dropped  # nobody else cancels the scope


async def _roll_back(actor: Actor, undo: ChildUndo, *, is_resumed: bool) -> Kind:
    """Have a child roll itself back, and wait until it has, on whichever worker."""
    task = trio.lowlevel.current_task()
    operation = Operation(undo.operation_id, "compensation", _COMPENSATION, task=task, waits=True)
    me, journal = actor.instance_id, actor.journal
    if actor.watch is not None:
        actor.watch.attempts(operation.id, undo.child, is_compensation=True)
    actor.replay.add(operation)
    try:
        with trio.CancelScope(shield=True) as operation.scope:
            if actor.is_draining:
                await actor.stop_here()
            if is_resumed:
                await journal.call(roll_back_again, undo.child, actor.clock.now())
            while True:
                stirred = actor.stirred()  # from before the question, so that nothing falls between it and the answer
                now = actor.clock.now()
                ended = await journal.call(roll_back, me, operation.id, undo.child, _reason(actor), now)
                if ended is not None:
                    break
                actor.home.released(actor)  # the child may be due
                await actor.rest_until(stirred)
            status, uncompensated = ended
            await journal.call(end_roll_back, me, operation.id)
            if uncompensated:
                error = RomancyError(
                    f"child {undo.child!r} is {status}, and could not compensate {', '.join(uncompensated)}; mend the "
                    f"cause, then resume instance {me!r}"
                )
                kind, payload = Kind.COMPENSATION_FAILED, describe(error, verdict="terminal").as_payload()
                _logger.error("%s of %s failed for good", operation.id, me, extra=actor.about(operation.id))
            else:
                kind, payload = Kind.COMPENSATION_COMPLETED, "{}"
            actor.append(operation.id, kind, payload)
            return kind
    finally:
        actor.end(operation)
    raise Dropped  # nobody else cancels the scope


def _reason(actor: Actor) -> str:
    return f"its parent, instance {actor.instance_id!r}, is rolled back"


def _bound(actor: Actor, undo: Undo) -> tuple[Compensation[..., Any], dict[str, Any]]:
    """The compensation and its arguments."""
    compensation = registry.find_compensation(undo.name)
    if compensation is None:
        raise RomancyError(
            f"instance {actor.instance_id!r}: there is no compensation named {undo.name!r} in this process, which "
            f"{undo.activity_id!r} needs; deploy code that defines it, then resume the instance"
        )
    missing = [name for name in compensation.codecs if name not in undo.arguments]
    if missing:
        raise RomancyError(
            f"instance {actor.instance_id!r}: compensation {undo.name!r} takes {missing[0]!r} now, which was not "
            f"recorded with {undo.activity_id!r}; deploy code that takes what was, then resume the instance"
        )
    return compensation, {name: codec.decode(undo.arguments[name]) for name, codec in compensation.codecs.items()}


def undo_text(activity: Activity[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """How to undo this call of an activity, as the JSON text that goes behind the result in its payload.

    Raises:
      InvalidDataError: if an argument that the compensation needs cannot be stored.
    """
    compensation = activity.compensation
    if compensation is None:
        return "}"
    bound = activity.signature.bind(*args, **kwargs)
    bound.apply_defaults()
    texts = []
    for name, codec in compensation.codecs.items():
        if name == "result" and name not in activity.signature.parameters:
            continue
        try:
            texts.append(f"{dumps(name)}:{codec.encode(bound.arguments[name])[0]}")
        except InvalidDataError as error:
            what = f"argument {name!r} of activity {activity.name!r}, which its compensation needs,"
            raise InvalidDataError(f"{what} cannot be stored", error.problems) from None
    takes_result = "result" in compensation.codecs and "result" not in activity.signature.parameters
    return (
        f',"compensation":{{"name":{dumps(compensation.name)},"takes_result":{dumps(takes_result)},'
        f'"arguments":{{{",".join(texts)}}}}}}}'
    )
