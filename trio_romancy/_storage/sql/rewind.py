"""SQL that rewinds a failed instance, so that it runs again from its first failed operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from ..._data.journal_format import ActivityFailed, ChildEnded, ChildStarted, Kept, Retried
from ...clock import Microseconds
from ...errors import RomancyError
from ...model import Kind, Status
from ..dialects import notify_workers
from .chains import last_of
from .entries import JournalEntry, entry_row, insert_entries, load_entries
from .statuses import may_become
from .tables import history, incompatible, instances

_KEPT = frozenset(
    {
        Kind.ACTIVITY_COMPLETED,
        Kind.TIMER_FIRED,
        Kind.EVENT_RECEIVED,
        Kind.MESSAGE_RECEIVED,
        Kind.PUBLISHED,
        Kind.SUBSCRIBED,
        Kind.UNSUBSCRIBED,
        Kind.CHILD_STARTED,
        Kind.CHILD_ENDED,
    }
)
"""Outcomes that stay, and count when the workflow calls the operation again."""

_UNDONE = frozenset({Kind.COMPENSATION_COMPLETED, Kind.COMPENSATION_FAILED, Kind.ROLLBACK_REQUESTED})


def rewind(connection: Connection, instance_id: str, now: Microseconds) -> bool | None:
    """Remove the failure from the journal of a failed instance, so that it runs again from its first failed operation.

    What had succeeded before is replayed. What succeeded after that, in another task or because the workflow went on
    another way, is kept for when the workflow calls the operation again. Of a chain, the last instance is rewound.

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
        .where(parent.c.status.not_in([status for status in Status if status.is_final]))
    )
    if (parent_id := connection.execute(found).scalar()) is not None:
        raise RomancyError(
            f"instance {instance_id!r} cannot be retried by itself, because it is a child of instance {parent_id!r}, "
            f"which has not ended; if that fails, retry it, and its child with it"
        )
    return _rewind(connection, instance_id, now)


def _rewind(connection: Connection, instance_id: str, now: Microseconds) -> bool | None:
    found = select(instances.c.status).where(instances.c.instance_id == instance_id).with_for_update()
    status = connection.execute(found).scalar()
    if status != Status.FAILED:
        return None if status is None else False
    entries = load_entries(connection, instance_id)
    if undone := [entry.operation_id or "all of it, by its parent" for entry in entries if entry.kind in _UNDONE]:
        raise RomancyError(
            f"instance {instance_id!r} cannot be retried, because something of it was compensated: "
            f"{', '.join(undone)}; start a new instance"
        )
    _take_back(connection, instance_id, entries, now)
    last = entries[-1].seq if entries else 0
    insert_entries(connection, [entry_row(instance_id, JournalEntry(last + 1, "", Kind.RETRIED, Retried(), now))])
    connection.execute(
        update(instances)
        .where(instances.c.instance_id == instance_id, may_become(Status.RUNNING))
        .values(status=Status.RUNNING, error=None, wake_at=now, recoveries=0, updated_at=now, finished_at=None)
    )
    connection.execute(delete(incompatible).where(incompatible.c.instance_id == instance_id))
    notify_workers(connection)
    return True


def _take_back(connection: Connection, instance_id: str, entries: Sequence[JournalEntry], now: Microseconds) -> None:
    first = next((entry for entry in entries if _has_failed(entry)), None)
    failed = {entry.operation_id for entry in entries if entry.kind is Kind.ACTIVITY_FAILED}
    forgotten: list[int] = []
    kept: list[JournalEntry] = []
    for entry in entries:
        is_attempt = entry.kind is Kind.ATTEMPT_FAILED and entry.operation_id in failed
        counts = first is not None and entry.seq >= first.seq and entry.kind.is_delivered
        if counts and entry.kind in _KEPT and not _has_failed(entry):
            kept.append(entry)
        elif counts or is_attempt or entry.kind is Kind.WORKFLOW_FAILED:
            forgotten.append(entry.seq)
            _rewind_child(connection, instance_id, entry, now)
    if forgotten:
        connection.execute(_forget, [{"instance": instance_id, "number": seq} for seq in forgotten])
    if kept:
        connection.execute(_keep, [_as_kept(instance_id, entry) for entry in kept])


def _has_failed(entry: JournalEntry) -> bool:
    payload = entry.payload
    if isinstance(payload, ChildEnded):
        return payload.status is not Status.COMPLETED
    if isinstance(payload, ChildStarted):
        return payload.refused is not None
    return isinstance(payload, ActivityFailed)


def _rewind_child(connection: Connection, instance_id: str, entry: JournalEntry, now: Microseconds) -> None:
    """Rewind a child whose failure made its parent fail, unless the child runs again, or has completed, by itself."""
    ended = entry.payload
    if not isinstance(ended, ChildEnded):
        return
    child = last_of(connection, ended.child)
    if child is not None and _rewind(connection, child, now):
        return
    found = connection.execute(select(instances.c.status).where(instances.c.instance_id == child)).scalar()
    if found is None or found in (Status.FAILED, Status.CANCELLED):
        raise RomancyError(
            f"instance {instance_id!r} cannot be retried, because its child {ended.child!r} is "
            f"{ended.status} and cannot be retried; start a new instance"
        )


_entry = (history.c.instance_id == bindparam("instance"), history.c.seq == bindparam("number"))
_forget = delete(history).where(*_entry)
_keep = update(history).where(*_entry).values(kind=Kind.KEPT, payload=bindparam("outcome"))


def _as_kept(instance_id: str, entry: JournalEntry) -> dict[str, Any]:
    outcome = Kept.text(entry.kind, entry.payload.to_text())
    return {"instance": instance_id, "number": entry.seq, "outcome": outcome}
