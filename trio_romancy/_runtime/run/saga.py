"""The activities and children that a rollback must undo, and those that it has undone: read from the journal alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from ..._data.ids import compensation_id
from ..._data.journal_format import ActivityCancelled, ActivityCompleted, CancelRequested, ChildEnded, ChildStarted
from ..._storage.sql.entries import JournalEntry
from ...model import EntryKind


@frozen
class ChildUndo:
    """The rollback of one child, which rolls itself back when its turn comes."""

    activity_id: str
    """Id of the operation that started the child."""
    child: str
    """Origin of the child's chain."""

    @property
    def operation_id(self) -> str:
        """Id of the rollback as an operation of its own."""
        return compensation_id(self.activity_id)


@frozen
class Undo:
    """The planned compensation of one activity that has completed, or was interrupted."""

    activity_id: str
    name: str
    """Name of the compensation."""
    arguments: Mapping[str, Any]
    """Arguments of the compensation, as plain JSON data."""
    is_in_doubt: bool = False
    """Whether the activity was interrupted, so that it is not known whether there is anything to undo."""

    @property
    def operation_id(self) -> str:
        """Id of the compensation as an operation of its own."""
        return compensation_id(self.activity_id)


class Saga:
    """The completed activities and children of one instance that have to be undone if it fails or is cancelled."""

    __slots__ = ("_children", "_done", "_failed", "_resumed", "_undos", "counts_from", "function_end", "rollback")

    def __init__(self, entries: Sequence[JournalEntry]) -> None:
        self.function_end: JournalEntry | None = None
        """Entry with which the workflow function ended."""
        self.rollback: JournalEntry | None = None
        """Entry with which the parent has asked to undo what had completed."""
        self._undos: dict[str, Undo | ChildUndo] | None = None
        """Activities and children to undo by activity id, in the order of the journal; None without any."""
        self._children: dict[str, ChildUndo | None] | None = None
        """How to undo each child, by its id; None once it is known to have ended."""
        self._done: set[str] | None = None
        self._failed: set[str] | None = None
        self._resumed: set[str] | None = None
        """Compensations that had failed when an operator resumed the instance."""
        self.counts_from = 0
        """Number of the entry with which an operator resumed the instance. Failed attempts before it do not count."""
        for entry in entries:
            payload = entry.payload
            if isinstance(payload, ActivityCompleted):
                self.activity_completed(entry.operation_id, payload)
            elif isinstance(payload, ActivityCancelled):
                self.activity_cancelled(entry.operation_id, payload)
            elif isinstance(payload, ChildStarted):
                self.child_started(entry.operation_id, payload)
            elif isinstance(payload, ChildEnded):
                self.child_ended(payload)
            elif entry.kind.ends_function:
                self.function_end = entry
            elif entry.kind is EntryKind.ROLLBACK_REQUESTED:
                self.rollback = entry
            elif entry.kind is EntryKind.COMPENSATION_COMPLETED:
                self._done = _with(self._done, entry.operation_id)
            elif entry.kind is EntryKind.COMPENSATION_FAILED:
                self._failed = _with(self._failed, entry.operation_id)
            elif entry.kind is EntryKind.RESUMED:
                self._resumed = {*(self._resumed or ()), *(self._failed or ())}
                self._failed = None
                self.counts_from = entry.seq

    # -- what has to be undone -------------------------------------------------------------------------------------

    def activity_completed(self, activity_id: str, completed: ActivityCompleted) -> None:
        """Note that an activity has completed, as its entry says."""
        compensation = completed.compensation
        if compensation is not None:
            arguments = compensation.arguments_with(completed.result)
            self._add(Undo(activity_id, compensation.name, arguments))

    def activity_cancelled(self, activity_id: str, cancelled: ActivityCancelled) -> None:
        """Note that an activity was torn down, or interrupted, as its entry says."""
        if (compensation := cancelled.compensation) is not None:
            self._add(Undo(activity_id, compensation.name, compensation.arguments, is_in_doubt=True))

    def child_started(self, operation_id: str, started: ChildStarted) -> None:
        """Note that a child was started. Until it ends, its place is that of its start."""
        child = started.child
        if self._children is None:
            self._children = {}
        if started.refused is None and child not in self._children:
            self._children[child] = undo = ChildUndo(operation_id, child)
            self._add(undo)

    def child_ended(self, ended: ChildEnded) -> None:
        """Note that a child has ended. Only a completed child is undone, in the place of its end."""
        if self._undos is None or self._children is None:
            return
        undo, self._children[ended.child] = self._children[ended.child], None
        if undo is None:
            return
        del self._undos[undo.activity_id]
        if ended.must_be_undone:
            self._add(undo)

    def _add(self, undo: Undo | ChildUndo) -> None:
        if self._undos is None:
            self._undos = {}
        self._undos[undo.activity_id] = undo

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to undo."""
        return not self._undos

    # -- what was undone -------------------------------------------------------------------------------------------

    @property
    def undos(self) -> list[Undo | ChildUndo]:
        """Everything that has to be undone, or was, the last first."""
        return [*reversed([*(self._undos or {}).values()])]

    def is_undone(self, undo: Undo | ChildUndo) -> bool:
        """Whether an activity or child was undone."""
        return undo.operation_id in (self._done or ())

    def is_settled(self, undo: Undo | ChildUndo) -> bool:
        """Whether an activity or child was undone, or failed for good to be."""
        return undo.operation_id in (self._done or ()) or undo.operation_id in (self._failed or ())

    def needs_decision(self, undo: Undo) -> bool:
        """Whether an operator has to decide on the compensation of an interrupted activity, and has not yet."""
        return undo.is_in_doubt and undo.operation_id not in (self._resumed or ())

    def settle(self, undo: Undo | ChildUndo, kind: EntryKind) -> None:
        """Note how the compensation of an activity or child has ended."""
        if kind is EntryKind.COMPENSATION_COMPLETED:
            self._done = _with(self._done, undo.operation_id)
        else:
            self._failed = _with(self._failed, undo.operation_id)

    @property
    def uncompensated(self) -> list[str]:
        """Activities whose compensation failed for good."""
        failed = self._failed or ()
        return [undo.activity_id for undo in (self._undos or {}).values() if undo.operation_id in failed]


def to_undo(entries: Sequence[JournalEntry]) -> list[tuple[str, str | None]]:
    """Return what a journal still has to undo, the last first.

    Each is the id of the operation, with the origin of the child if the operation started one.
    """
    saga = Saga(entries)
    return [
        (undo.activity_id, undo.child if isinstance(undo, ChildUndo) else None)
        for undo in saga.undos
        if not saga.is_undone(undo)
    ]


def awaited_by_cancellation(entries: Sequence[JournalEntry]) -> list[str]:
    """Return what has to come to its outcome before an instance ends whose cancellation was requested.

    These are the operations that had begun when the workflow was told; in a rollback, the next compensation.
    """
    saga = Saga(entries)
    if saga.function_end is not None or saga.rollback is not None:
        return [undo.operation_id for undo in saga.undos if not saga.is_settled(undo)][:1]
    ended = {entry.operation_id for entry in entries if entry.kind.is_delivered}
    requests = [entry.payload for entry in entries if isinstance(entry.payload, CancelRequested)]
    return [id for request in requests for id in request.running if id not in ended]


def _with(ids: set[str] | None, id: str) -> set[str]:
    if ids is None:
        return {id}
    ids.add(id)
    return ids
