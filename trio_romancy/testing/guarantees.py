"""Checks of the guarantees that a journal alone can show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from .._data.ids import short_id
from .._data.journal_format import ActivityCancelled, ActivityCompleted, ChildEnded, ChildStarted, from_data
from ..model import Entry, EntryKind, Instance, Status

_OUTCOMES = {kind for kind in EntryKind if kind.is_delivered} | {EntryKind.COMPENSATION_COMPLETED}
_END_OF = {
    Status.COMPLETED: EntryKind.WORKFLOW_COMPLETED,
    Status.FAILED: EntryKind.WORKFLOW_FAILED,
    Status.CANCELLED: EntryKind.WORKFLOW_CANCELLED,
    Status.RECURRED: EntryKind.WORKFLOW_RECURRED,
}


def broken_guarantees(instance: Instance, history: Sequence[Entry]) -> list[str]:
    """Return one sentence for each guarantee that the journal of an ended instance breaks."""
    return [
        f"instance {instance.instance_id!r}: {problem}"
        for check in (_has_ended, _is_recorded_once, _is_in_order, _is_compensated)
        for problem in check(instance, history)
    ]


def _has_ended(instance: Instance, history: Sequence[Entry]) -> list[str]:
    if instance.status not in _END_OF:
        return [f"has not ended, it is {instance.status}"]
    ends = [entry.kind for entry in history if entry.kind.ends_function]
    expected = [_END_OF[instance.status]]
    if any(entry.kind is EntryKind.ROLLBACK_REQUESTED for entry in history):
        expected = [EntryKind.WORKFLOW_COMPLETED]  # it is cancelled because its parent was rolled back
    if EntryKind.WORKFLOW_TERMINATED in ends:
        expected = [*ends[:-1], EntryKind.WORKFLOW_TERMINATED] if instance.status is Status.CANCELLED else []
    problems = [] if ends == expected else [f"is {instance.status}, and its journal ends with {ends}"]
    if instance.worker_id is not None:
        problems.append(f"has ended and is still owned by {instance.worker_id!r}")
    if instance.finished_at is None:
        problems.append("has ended and has no finished_at")
    return problems


def _is_recorded_once(instance: Instance, history: Sequence[Entry]) -> list[str]:
    outcomes = Counter(entry.operation_id for entry in history if entry.kind in _OUTCOMES)
    return [f"operation {id!r} has {count} outcomes" for id, count in outcomes.items() if count > 1]


def _is_in_order(instance: Instance, history: Sequence[Entry]) -> list[str]:
    problems = []
    for before, after in pairwise(history):
        if after.seq <= before.seq:
            problems.append(f"entry {after.seq} follows entry {before.seq}")
        if after.recorded_at < before.recorded_at:
            problems.append(f"entry {after.seq} was recorded before entry {before.seq}")
    end = next((entry.seq for entry in history if entry.kind.ends_function), None)
    late = [entry.seq for entry in history if end is not None and entry.seq > end and entry.kind.is_delivered]
    return problems + [f"entry {seq} was delivered to a workflow function that has ended" for seq in late]


def _is_compensated(instance: Instance, history: Sequence[Entry]) -> list[str]:
    to_undo: list[str] = []
    starts: dict[str, str] = {}
    for entry in history:
        payload = from_data(entry.kind, entry.payload)
        if isinstance(payload, ActivityCompleted | ActivityCancelled) and payload.compensation is not None:
            to_undo.append(short_id(f"{entry.operation_id}/compensation"))  # of an interrupted one, an operator decides
        elif isinstance(payload, ChildStarted) and payload.refused is None:
            starts[payload.child] = short_id(f"{entry.operation_id}/compensation")
            to_undo.append(starts[payload.child])
        elif isinstance(payload, ChildEnded):
            # A completed child is compensated in the order of its end. Any other has compensated itself.
            undo = starts.pop(payload.child, None)  # None: its end was recorded before
            if undo is not None:
                to_undo.remove(undo)
                if payload.must_be_undone:
                    to_undo.append(undo)
    expected = list(reversed(to_undo)) if instance.status in (Status.FAILED, Status.CANCELLED) else []
    kinds = (EntryKind.COMPENSATION_COMPLETED, EntryKind.COMPENSATION_FAILED)
    undone = [entry.operation_id for entry in history if entry.kind in kinds]
    resumed = any(entry.kind is EntryKind.RESUMED for entry in history)
    if any(entry.kind is EntryKind.WORKFLOW_TERMINATED and not entry.payload["compensates"] for entry in history):
        expected = expected[: len(undone)]  # the rest was left
    if undone == expected or (resumed and set(undone) == set(expected)):
        return []
    return [f"is {instance.status}: the compensations should be {expected}, and were {undone}"]
