"""SQL that rewinds a failed instance, so that it runs again from its first failed operation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, select, update

from ..._data.end_request import EndRequest
from ..._data.ids import compensation_id
from ..._data.journal_format import (
    ActivityFailed,
    CancelRequested,
    ChildEnded,
    ChildStarted,
    CompensationCompleted,
    Kept,
    Retried,
)
from ...clock import Microseconds, at_once
from ...errors import RomancyError
from ...model import EntryKind, Status
from ..dialects import notify_workers
from .chains import end_of, last_of
from .entries import JournalEntry, entry_row, insert_entries, load_entries
from .rows import fetch_first
from .statuses import FINAL, may_become
from .tables import history, incompatible, instances

_KEPT = frozenset(
    {
        EntryKind.ACTIVITY_COMPLETED,
        EntryKind.TIMER_FIRED,
        EntryKind.EVENT_RECEIVED,
        EntryKind.MESSAGE_RECEIVED,
        EntryKind.PUBLISHED,
        EntryKind.SUBSCRIBED,
        EntryKind.UNSUBSCRIBED,
        EntryKind.CHILD_STARTED,
        EntryKind.CHILD_ENDED,
    }
)
"""Outcomes that stay, and count when the workflow calls the operation again."""

_FAILURE = frozenset({EntryKind.WORKFLOW_FAILED, EntryKind.WORKFLOW_CANCELLED, EntryKind.COMPENSATION_COMPLETED})
"""Entries of a failure that are not delivered. A compensation among them is that of a child that lost nothing by it."""


def rewind(connection: Connection, instance_id: str, now: Microseconds) -> bool | None:
    """Remove the failure from the journal of a failed instance, so that it runs again from its first failed operation.

    What had succeeded before is replayed. What succeeded after that, in another task or because the workflow went on
    another way, is kept for when the workflow calls the operation again. Of a chain, the last instance is rewound.
    Children that have failed are rewound as well, and those that the instance has cancelled as it failed.

    Returns whether the instance had failed; None if there is no such instance.

    Raises:
      RomancyError: if something was compensated, so that it cannot be kept; or if the instance is a child whose parent
        has not ended, because the parent may know of the failure, and would not undo what the child does from now on.
    """
    instance_id = last_of(connection, instance_id) or instance_id
    parent = instances.alias("parent")
    found = (
        select(parent.c.instance_id)
        .join(instances, instances.c.parent_id == parent.c.instance_id)
        .where(instances.c.instance_id == instance_id, instances.c.status == Status.FAILED)
        .where(parent.c.status.not_in(FINAL))
    )
    if (parent_id := connection.execute(found).scalar()) is not None:
        raise RomancyError(
            f"instance {instance_id!r} cannot be retried by itself, because it is a child of instance {parent_id!r}, "
            f"which has not ended; if that fails, retry it, and its child with it"
        )
    return _rewind(connection, instance_id, now)


def _rewind(connection: Connection, instance_id: str, now: Microseconds, *, with_parent: bool = False) -> bool | None:
    found = select(instances.c.status, instances.c.cancel_requested).where(instances.c.instance_id == instance_id)
    row = fetch_first(connection, _Rewound, found.with_for_update())
    if row is None:
        return None
    if row.status != Status.FAILED and not (with_parent and _was_cancelled_by_parent(row)):
        return False
    entries = load_entries(connection, instance_id)
    if undone := _undone(entries):
        raise RomancyError(
            f"instance {instance_id!r} cannot be retried, because something of it was compensated: "
            f"{', '.join(undone)}; start a new instance"
        )
    _take_back(connection, instance_id, entries, now)
    last = entries[-1].seq if entries else 0
    insert_entries(connection, [entry_row(instance_id, JournalEntry(last + 1, "", EntryKind.RETRIED, Retried(), now))])
    values = {
        "status": Status.RUNNING,
        "error": None,
        "cancel_requested": None,
        "wake_at": at_once(now),
        "recoveries": 0,
        "updated_at": now,
        "finished_at": None,
    }
    connection.execute(
        update(instances).where(instances.c.instance_id == instance_id, may_become(Status.RUNNING)).values(**values)
    )
    connection.execute(delete(incompatible).where(incompatible.c.instance_id == instance_id))
    notify_workers(connection)
    return True


class _Rewound(NamedTuple):
    status: str
    cancel_requested: str | None


def _was_cancelled_by_parent(row: _Rewound) -> bool:
    if row.status != Status.CANCELLED or row.cancel_requested is None:
        return False
    return EndRequest.from_text(row.cancel_requested).by_parent


def _undone(entries: Sequence[JournalEntry]) -> list[str]:
    """Return the compensations in a journal. A child's own journal shows what of the child was compensated."""
    children = {compensation_id(entry.operation_id) for entry in entries if entry.kind is EntryKind.CHILD_STARTED}
    return [
        entry.operation_id or "all of it, by its parent"
        for entry in entries
        if entry.kind in (EntryKind.COMPENSATION_FAILED, EntryKind.ROLLBACK_REQUESTED)
        or (entry.kind is EntryKind.COMPENSATION_COMPLETED and entry.operation_id not in children)
    ]


def _take_back(connection: Connection, instance_id: str, entries: Sequence[JournalEntry], now: Microseconds) -> None:
    timed_out = _timed_out(entries)
    first = next((entry for entry in entries if _has_failed(entry, timed_out)), None)
    failed = {entry.operation_id for entry in entries if entry.kind is EntryKind.ACTIVITY_FAILED}
    forgotten: list[int] = []
    kept: list[JournalEntry] = []
    for entry in entries:
        is_attempt = entry.kind is EntryKind.ATTEMPT_FAILED and entry.operation_id in failed
        counts = first is not None and entry.seq >= first.seq and entry.kind.is_delivered
        if counts and entry.kind in _KEPT and not _has_failed(entry, timed_out):
            kept.append(entry)
        elif counts or is_attempt or entry.kind in _FAILURE:
            forgotten.append(entry.seq)
    for child in _started(entries):
        if child not in timed_out:
            _rewind_child(connection, instance_id, child, entries, now)
    if forgotten:
        connection.execute(_forget, [{"instance": instance_id, "number": seq} for seq in forgotten])
    if kept:
        connection.execute(_keep, [_as_kept(instance_id, entry) for entry in kept])


def _has_failed(entry: JournalEntry, timed_out: Collection[str]) -> bool:
    payload = entry.payload
    if isinstance(payload, ChildEnded):
        return payload.status is not Status.COMPLETED and payload.child not in timed_out
    if isinstance(payload, ChildStarted):
        return payload.refused is not None
    return isinstance(payload, ActivityFailed | CancelRequested)


def _timed_out(entries: Sequence[JournalEntry]) -> set[str]:
    """Return the children that were cancelled because the block that awaited them timed out: that is their outcome."""
    running: set[str] = set()
    late: set[str] = set()
    timed_out: set[str] = set()
    for entry in entries:
        payload = entry.payload
        if isinstance(payload, ChildStarted):
            running.add(payload.child)
        elif entry.kind is EntryKind.TIMEOUT_FIRED:
            late |= running
        elif isinstance(payload, ChildEnded):
            running.discard(payload.child)
            if payload.status is Status.CANCELLED and payload.child in late:
                timed_out.add(payload.child)
    return timed_out


def _started(entries: Sequence[JournalEntry]) -> list[str]:
    """Return the origins of the children that were started."""
    payloads = [entry.payload.payload if isinstance(entry.payload, Kept) else entry.payload for entry in entries]
    return [one.child for one in payloads if isinstance(one, ChildStarted) and one.refused is None]


def _rewind_child(
    connection: Connection, instance_id: str, origin: str, entries: Sequence[JournalEntry], now: Microseconds
) -> None:
    """Rewind a child that failed or was cancelled with its parent. One that completed, or runs again, stays as it is.

    Raises:
      RomancyError: if the child was undone, or cancelled by others, so that the parent cannot go on with it.
    """
    child = end_of(connection, origin)
    if child is None and _keeps(entries, origin):
        return
    if child is not None and _rewind(connection, child.instance_id, now, with_parent=True):
        return
    if child is None or child.status == Status.CANCELLED:
        status = "purged" if child is None else child.status
        raise RomancyError(
            f"instance {instance_id!r} cannot be retried, because its child {origin!r} is {status} and cannot be "
            f"retried; start a new instance"
        )


def _keeps(entries: Sequence[JournalEntry], origin: str) -> bool:
    """Return whether the result of a child is recorded, and the rollback of its parent has left the child as it is."""
    ends = [entry.payload for entry in entries if isinstance(entry.payload, ChildEnded)]
    started = [entry for entry in entries if isinstance(entry.payload, ChildStarted) and entry.payload.child == origin]
    undone = {
        entry.operation_id
        for entry in entries
        if isinstance(entry.payload, CompensationCompleted) and not entry.payload.had_nothing
    }
    has_completed = any(end.child == origin and end.status is Status.COMPLETED for end in ends)
    return has_completed and all(compensation_id(entry.operation_id) not in undone for entry in started)


_entry = (history.c.instance_id == bindparam("instance"), history.c.seq == bindparam("number"))
_forget = delete(history).where(*_entry)
_keep = update(history).where(*_entry).values(kind=EntryKind.KEPT, payload=bindparam("outcome"))


def _as_kept(instance_id: str, entry: JournalEntry) -> dict[str, Any]:
    outcome = Kept.text(entry.kind, entry.payload.to_text())
    return {"instance": instance_id, "number": entry.seq, "outcome": outcome}
