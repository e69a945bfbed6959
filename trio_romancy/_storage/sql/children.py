"""SQL about children: instances that others have started.

A child goes by the origin of its chain. Who ends it, goes on with it, or asks for its end writes the origin's row, and
so does a parent that begins to wait for it: whoever comes second sees what the first has done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, delete, select, update

from ..._data.codec import dumps, loads
from ..._data.journal_format import ChildStarted, RollbackRequested
from ...clock import Microseconds
from ...errors import InstanceExistsError
from ...model import Status
from ..dialects import notify_workers
from ..dialects.sql import insert_if_absent
from . import messages
from .chains import end_of, is_of
from .entries import append_entry, insert_entries
from .instances import conflict_with, insert_instances_if_absent, new_row
from .lock_order import serialize_writers
from .rows import ChildRow, EntryRow, StoredWait, fetch_all
from .steering import CANCELLABLE, resume
from .tables import instances, waits
from .waits import FamilyMode, MatchResult, Wait, match_results, open_waits_of_all, to_wait, wake


def child_row(
    instance_id: str, workflow: str, input_text: str, now: Microseconds, *, parent_id: str, trace: str | None
) -> ChildRow:
    """A new child: any worker may take it up.

    Args:
      trace: its parent's.
    """
    row = new_row(instance_id, workflow, input_text, now, owner=None, trace=trace)
    return {**row, "parent_id": parent_id}


def start_children(connection: Connection, rows: Sequence[ChildRow]) -> None:
    """Store new children, unless they are stored already. Their ids are made of their parent's.

    Raises:
      InstanceExistsError: if somebody has given an instance of his own such an id.
    """
    started_after = messages.last_message(connection)
    new: list[ChildRow] = [{**row, "started_after": started_after} for row in rows]
    holders = insert_instances_if_absent(connection, new)
    for row in rows:
        if holders[row["instance_id"]].parent_id != row["parent_id"]:
            raise InstanceExistsError(row["instance_id"], "another parent, or none")
    notify_workers(connection)


def start_named_child(connection: Connection, row: ChildRow, entry: EntryRow, started: ChildStarted) -> ChildStarted:
    """Store a child under an id of the user's own, and record what became of that: it may be taken.

    Args:
      started: what the entry says, without why the child was refused.

    Returns what the entry says.
    """
    new: ChildRow = {**row, "started_after": messages.last_message(connection)}
    holder = insert_instances_if_absent(connection, [new])[row["instance_id"]]
    refused = None
    if (conflict := conflict_with(row, holder)) is not None:
        refused = conflict.difference
    elif holder.parent_id != row["parent_id"]:
        refused = "another parent, or none"
    payload = ChildStarted.named(started.child, started.workflow, refused)
    insert_entries(connection, [{**entry, "payload": payload.to_text()}])
    notify_workers(connection)
    return payload


def wake_parents(
    connection: Connection, ended: Mapping[str, str], now: Microseconds, me: str | None
) -> tuple[list[MatchResult], bool]:
    """Wake the parents of children that have ended in this transaction, if they wait for that.

    The origins must have been touched before the rows of the children themselves, as whoever asks for an end does.

    Args:
      ended: the origin of each child's chain, by its instance id.
      me: as of :func:`.messages.send`.

    Returns what there is now for the waits of the worker's own instances, and whether others were woken.
    """
    mine: list[Wait] = []
    others: dict[str, str | None] = {}
    query = open_waits_of_all.where(waits.c.channel.in_(sorted(set(ended.values()))), waits.c.mode == FamilyMode.CHILD)
    for row in fetch_all(connection, StoredWait, query):
        if me is not None and row.owner == me:
            mine.append(to_wait(row))
        else:
            others[row.instance_id] = row.owner
    wake(connection, others, now, others.values())
    return match_results(connection, mine, now), bool(others)


def request_cancels(connection: Connection, origins: Iterable[str], reason: str, now: Microseconds) -> None:
    """Ask for the cancellation of children that have not ended, whoever goes on with them now."""
    ids = sorted(origins)
    serialize_writers(connection, ids, now)
    for origin in ids:
        connection.execute(
            update(instances)
            .where(is_of(origin), instances.c.cancel_requested.is_(None), instances.c.status.in_(CANCELLABLE))
            .values(cancel_requested=dumps(reason), wake_at=now, updated_at=now)
        )
    owners = connection.execute(select(instances.c.owner).where(instances.c.instance_id.in_(ids))).scalars()
    notify_workers(connection, [None, *owners])


def roll_back(
    connection: Connection, parent_id: str, operation_id: str, origin: str, reason: str, now: Microseconds
) -> tuple[Status, list[str]] | None:
    """Have a child undo what it did, as a part of its parent's rollback. Harmless to repeat.

    One that runs is cancelled; one that has completed compensates what it completed. One whose compensations failed for
    good tries them again, if ``operation_id`` is tried again.

    Returns how the child has ended, and which of its activities could not be compensated. None: not yet; then the
    parent is woken when it has.
    """
    serialize_writers(connection, [origin], now)
    child = end_of(connection, origin)
    if child is None:
        return Status.CANCELLED, []  # it was purged
    status = Status(child.status)
    uncompensated: list[str] = [] if child.error is None else loads(child.error).get("uncompensated") or []
    if status is Status.COMPLETED:
        _undo(connection, child.instance_id, reason, now)
    elif status in (Status.FAILED, Status.CANCELLED):
        return status, uncompensated
    else:
        request_cancels(connection, [origin], reason, now)
    wait = Wait(parent_id, operation_id, origin, None, FamilyMode.CHILD, 0)
    connection.execute(insert_if_absent(waits), wait.row)
    return None


def roll_back_again(connection: Connection, origin: str, now: Microseconds) -> None:
    """Somebody has resumed the parent: the child's compensations that failed for good are tried again."""
    child = end_of(connection, origin)
    if child is not None:
        resume(connection, child.instance_id, now)


def end_roll_back(connection: Connection, parent_id: str, operation_id: str) -> None:
    """The parent does not wait any more."""
    connection.execute(delete(waits).where(waits.c.instance_id == parent_id, waits.c.operation_id == operation_id))


def _undo(connection: Connection, child_id: str, reason: str, now: Microseconds) -> None:
    """Set a completed child going again, to compensate. Nobody owns it, so its journal is ours to write."""
    connection.execute(
        update(instances)
        .where(instances.c.instance_id == child_id)
        .values(
            status=Status.COMPENSATING,
            cancel_requested=dumps(reason),
            wake_at=now,
            recoveries=0,
            updated_at=now,
            finished_at=None,
        )
    )
    append_entry(connection, child_id, RollbackRequested(reason), now)
    notify_workers(connection)
