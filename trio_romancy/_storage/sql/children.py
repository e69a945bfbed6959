"""SQL about children: instances that others have started.

A child goes by the origin of its chain. Every transaction that ends a child, continues its chain, or asks for its
cancellation writes the origin's row, and so does one in which a parent begins to wait for the child. So these
transactions come one after the other, and each sees what the one before has done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from sqlalchemy import Connection, delete, select, update

from ..._data.end_request import EndRequest
from ..._data.journal_format import ChildStarted, RollbackRequested
from ..._data.start_times import StartTimes
from ...clock import Microseconds, at_once
from ...errors import InstanceExistsError
from ...model import Status
from ..dialects import notify_workers
from ..dialects.sql import insert_if_absent
from . import messages
from .chains import end_of, is_of
from .entries import JournalEntry, append_entry, insert_entries, load_entries
from .instances import conflict_with, insert_instances_if_absent, new_row, to_error
from .lock_order import serialize_writers
from .rows import ChildRow, EntryRow, StoredInstance, StoredWait, fetch_all
from .statuses import may_become, read_status
from .steering import may_be_cancelled, resume
from .tables import instances, waits
from .waits import ChildMode, MatchResult, Wait, match_results, open_waits_of_all, to_wait, wake

ToUndo = Callable[[Sequence[JournalEntry]], Sequence[tuple[str, str | None]]]
"""Returns what a journal has to undo: ids of operations, each with the origin of the child if it started one."""


def child_row(
    instance_id: str,
    workflow: str,
    input_text: str,
    now: Microseconds,
    *,
    parent_id: str,
    trace: str | None,
    times: StartTimes | None = None,
) -> ChildRow:
    """Return the row of a new child, which any worker may claim.

    Args:
      trace: the parent's.
    """
    row = new_row(instance_id, workflow, input_text, now, owner=None, trace=trace, times=times)
    return {**row, "parent_id": parent_id}


def start_children(connection: Connection, rows: Sequence[ChildRow]) -> None:
    """Store new children, unless they are stored already. Their ids are made from their parents'.

    Raises:
      InstanceExistsError: if an instance that is no such child has the id.
    """
    started_after = messages.last_message(connection)
    new: list[ChildRow] = [{**row, "started_after": started_after} for row in rows]
    timed = [row for row in new if "deadline" in row]  # rows of one statement have the same columns
    plain = [row for row in new if "deadline" not in row] if timed else new
    holders = insert_instances_if_absent(connection, plain) if plain else {}
    if timed:
        holders |= insert_instances_if_absent(connection, timed)
    for row in rows:
        if holders[row["instance_id"]].parent_id != row["parent_id"]:
            raise InstanceExistsError(row["instance_id"], "another parent, or none")
    notify_workers(connection)


def start_named_child(connection: Connection, row: ChildRow, entry: EntryRow, started: ChildStarted) -> ChildStarted:
    """Store a child under an id that the user has chosen, and record whether the id was free.

    Args:
      started: the payload of the entry, without the reason of a refusal.

    Returns the payload of the entry.
    """
    new: ChildRow = {**row, "started_after": messages.last_message(connection)}
    holder = insert_instances_if_absent(connection, [new])[row["instance_id"]]
    refused = None
    if (conflict := conflict_with(row, holder)) is not None:
        refused = conflict.difference
    elif holder.parent_id != row["parent_id"]:
        refused = "another parent, or none"
    payload = ChildStarted.named(started.child, started.workflow, refused, started.arguments)
    insert_entries(connection, [{**entry, "payload": payload.to_text()}])
    notify_workers(connection)
    return payload


def wake_parents(
    connection: Connection, ended: Mapping[str, str], now: Microseconds, me: str | None
) -> tuple[list[MatchResult], bool]:
    """Wake the parents that wait for children which have ended in this transaction.

    The transaction must have called :func:`.serialize_writers` for the origins before it wrote the children's rows, as
    :func:`request_cancels` does.

    Args:
      ended: the origins of the children's chains, by the children's instance ids.
      me: the worker whose own instances are not woken through the database: see :func:`.messages.send`.

    Returns the results for waits of the worker's own instances, and whether other instances were woken.
    """
    mine: list[Wait] = []
    others: dict[str, str | None] = {}
    query = open_waits_of_all.where(waits.c.channel.in_(sorted(set(ended.values()))), waits.c.mode == ChildMode.CHILD)
    for row in fetch_all(connection, StoredWait, query):
        if me is not None and row.owner == me:
            mine.append(to_wait(row))
        else:
            others[row.instance_id] = row.owner
    wake(connection, others, now, others.values())
    return match_results(connection, mine, now), bool(others)


def request_cancels(connection: Connection, origins: Iterable[str], reason: str, now: Microseconds) -> None:
    """Ask for the cancellation of children that have not ended: of the last instance of each chain."""
    ids = sorted(origins)
    request = EndRequest(reason, now, by_parent=True).to_text()
    serialize_writers(connection, ids, now)
    for origin in ids:
        connection.execute(
            update(instances)
            .where(is_of(origin), may_be_cancelled)
            .values(cancel_requested=request, wake_at=at_once(now), updated_at=now)
        )
    owners = connection.execute(select(instances.c.owner).where(instances.c.instance_id.in_(ids))).scalars()
    notify_workers(connection, [None, *owners])


def roll_back(
    connection: Connection,
    parent_id: str,
    operation_id: str,
    origin: str,
    reason: str,
    now: Microseconds,
    to_undo: ToUndo,
) -> tuple[Status, list[str]] | None:
    """Have a child undo what it did, as a part of its parent's rollback. Harmless to repeat.

    A child that runs is cancelled. A child that has completed compensates what it completed. If there is nothing to
    undo, neither of its own nor of its children, it stays completed.

    Args:
      operation_id: the parent's operation that waits until the child has ended.
      origin: the origin of the child's chain.

    Returns how the child has ended, and which of its activities could not be compensated. Returns None if the child
    has not ended; the parent is woken when it has.
    """
    serialize_writers(connection, [origin], now)
    child = end_of(connection, origin)
    if child is None:
        return Status.CANCELLED, []  # the child was purged
    status = read_status(child.status)
    uncompensated = _uncompensated(child)
    if status is Status.COMPLETED:
        if not has_something_to_undo(connection, child.instance_id, to_undo):
            return status, []
        _undo(connection, child.instance_id, reason, now)
    elif status in (Status.FAILED, Status.CANCELLED):
        return status, uncompensated
    else:
        request_cancels(connection, [origin], reason, now)
    wait = Wait(parent_id, operation_id, origin, None, ChildMode.CHILD, 0)
    connection.execute(insert_if_absent(waits), wait.row)
    return None


def has_something_to_undo(connection: Connection, instance_id: str, to_undo: ToUndo) -> bool:
    """Return whether a rollback of an instance that has completed would change anything, or has to wait."""
    return any(
        child is None or must_be_undone(connection, child, to_undo)
        for _, child in to_undo(load_entries(connection, instance_id))
    )


def must_be_undone(connection: Connection, origin: str, to_undo: ToUndo) -> bool:
    """Return whether the rollback of a parent would change anything about a child, or has to wait for it."""
    child = end_of(connection, origin)
    if child is None:
        return False
    if child.status == Status.COMPLETED:
        return has_something_to_undo(connection, child.instance_id, to_undo)
    return not read_status(child.status).is_final or bool(_uncompensated(child))


def _uncompensated(child: StoredInstance) -> list[str]:
    return [] if child.error is None else to_error(child.error).uncompensated


def roll_back_again(connection: Connection, origin: str, now: Microseconds) -> None:
    """Try the child's failed compensations again, because the parent was resumed."""
    child = end_of(connection, origin)
    if child is not None:
        resume(connection, child.instance_id, now)


def end_roll_back(connection: Connection, parent_id: str, operation_id: str) -> None:
    """Remove the wait that :func:`roll_back` has stored."""
    connection.execute(delete(waits).where(waits.c.instance_id == parent_id, waits.c.operation_id == operation_id))


def _undo(connection: Connection, child_id: str, reason: str, now: Microseconds) -> None:
    """Make a completed child compensate what it did. It has no owner, so this transaction may write its journal."""
    connection.execute(
        update(instances)
        .where(instances.c.instance_id == child_id, may_become(Status.COMPENSATING))
        .values(
            status=Status.COMPENSATING,
            cancel_requested=EndRequest(reason, now, by_parent=True).to_text(),
            wake_at=at_once(now),
            recoveries=0,
            updated_at=now,
            finished_at=None,
        )
    )
    append_entry(connection, child_id, RollbackRequested(reason), now)
    notify_workers(connection)
