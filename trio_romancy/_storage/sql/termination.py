"""SQL that terminates instances: they end at once, whatever their code does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from attrs import evolve, frozen
from sqlalchemy import Connection, Update, bindparam, delete, select, update

from ..._data.end_request import EndRequest
from ..._data.journal_format import WorkflowTerminated, error_text
from ...clock import Microseconds, at_once
from ...errors import InvalidDataError, WorkflowTerminatedError
from ...model import ErrorInfo, Status
from ..dialects import notify_workers
from .chains import is_of, last_of
from .children import ToUndo, must_be_undone, wake_parents
from .entries import append_entry, load_entries
from .instances import to_error
from .lock_order import serialize_writers
from .rows import fetch_first
from .statuses import UNENDED, may_become, read_status
from .tables import incompatible, instances
from .waits import forget_waits
from .workers import end_lease_of_dead

TERMINATED = f"trio_romancy.{WorkflowTerminatedError.__name__}"
"""The type of the error of a terminated instance."""


@frozen
class Termination:
    """A termination that was carried out."""

    instance_id: str
    workflow: str
    created_at: Microseconds
    trace: str | None
    """JSON text of the trace context that the instance was started in."""
    status: Status
    """Status of the instance now: cancelled, or compensating."""
    error: ErrorInfo


@frozen
class Terminated:
    """The answer to a request to terminate an instance."""

    accepted: bool
    """Whether the instance ends because of this request, or was terminated before."""
    done: Termination | None = None
    """The termination, if no worker had to take part."""


class _Row(NamedTuple):
    instance_id: str
    workflow: str
    status: str
    owner: str | None
    error: str | None
    cancel_requested: str | None
    parent_id: str | None
    origin: str | None
    created_at: Microseconds
    trace: str | None


_columns = [instances.c[name] for name in _Row._fields]
_row = select(*_columns).where(instances.c.instance_id == bindparam("id")).with_for_update()


def request_termination(
    connection: Connection, instance_id: str, request: EndRequest, now: Microseconds, to_undo: ToUndo
) -> Terminated | None:
    """Have an instance terminated. Returns None if there is no such instance.

    An instance that no worker owns is terminated at once, also if its worker is seen to be dead. Otherwise its worker
    does that, or the next one that claims the instance. If the instance has recurred, the request is for the last of
    its chain.
    """
    row = fetch_first(connection, _Row, _row, {"id": instance_id})
    while row is not None and row.status == Status.RECURRED and (last := last_of(connection, instance_id)) is not None:
        instance_id = last
        row = fetch_first(connection, _Row, _row, {"id": instance_id})
    if row is None:
        return None
    status = read_status(row.status)
    if status.is_final:
        was_terminated = row.error is not None and to_error(row.error).error_type == TERMINATED
        return Terminated(was_terminated and status is Status.CANCELLED)
    connection.execute(_requesting(request, now).where(instances.c.instance_id == instance_id))
    if row.owner is None or end_lease_of_dead(connection, row.owner, now):
        return Terminated(True, terminate(connection, instance_id, now, to_undo))
    notify_workers(connection, [row.owner])
    return Terminated(True)


def terminate(
    connection: Connection, instance_id: str, now: Microseconds, to_undo: ToUndo, running: Sequence[str] = ()
) -> Termination | None:
    """Terminate an instance, as was requested. No run of the instance may be able to write to its journal any more.

    Args:
      running: ids of the operations whose code was abandoned, as far as they are known.

    Returns None if the instance has ended, or the termination was carried out before.
    """
    row = fetch_first(connection, _Row, _row, {"id": instance_id})
    if row is None or read_status(row.status).is_final or row.cancel_requested is None:
        return None
    request = EndRequest.from_text(row.cancel_requested)
    if not request.terminates:
        return None
    origin = row.origin or row.instance_id
    serialize_writers(connection, [origin], now)
    undos = _undos(connection, instance_id, to_undo)
    append_entry(connection, instance_id, WorkflowTerminated(request.reason, request.compensates, running), now)
    forget_waits(connection, {instance_id})
    connection.execute(delete(incompatible).where(incompatible.c.instance_id == instance_id))
    values = {
        "owner": None,
        "cancel_requested": evolve(request, terminates=False, compensates=False).to_text(),
        "recoveries": 0,
        "updated_at": now,
    }
    if request.compensates and undos:
        status, error = Status.COMPENSATING, ErrorInfo(TERMINATED, request.reason or "")
        values |= {"status": status, "wake_at": at_once(now), "error": error_text(error)}
    else:
        left = [id for id, child in undos if child is None or must_be_undone(connection, child, to_undo)]
        status, error = Status.CANCELLED, ErrorInfo(TERMINATED, request.reason or "", uncompensated=left)
        values |= {"status": status, "wake_at": None, "error": error_text(error), "finished_at": now}
    connection.execute(
        update(instances).where(instances.c.instance_id == instance_id, may_become(status)).values(**values)
    )
    if status is Status.CANCELLED:
        reason = f"its parent, instance {instance_id!r}, was terminated"
        _terminate_children(connection, [child for _, child in undos if child is not None], reason, now)
        if row.parent_id is not None:
            wake_parents(connection, {instance_id: origin}, now, None)
    notify_workers(connection)
    return Termination(instance_id, row.workflow, row.created_at, row.trace, status, error)


def _undos(connection: Connection, instance_id: str, to_undo: ToUndo) -> Sequence[tuple[str, str | None]]:
    try:
        return to_undo(load_entries(connection, instance_id))
    except InvalidDataError:
        return []  # the journal is broken, which must not keep the instance from being ended


def _requesting(request: EndRequest, now: Microseconds) -> Update:
    return update(instances).values(cancel_requested=request.to_text(), wake_at=at_once(now), updated_at=now)


def _terminate_children(connection: Connection, origins: Iterable[str], reason: str, now: Microseconds) -> None:
    """Have children terminated that have not ended: the last instance of each chain, when a worker claims it."""
    ids = sorted(origins)
    serialize_writers(connection, ids, now)
    requesting = _requesting(EndRequest(reason, now, by_parent=True, terminates=True), now)
    owners: set[str | None] = set()
    for origin in ids:
        unended = is_of(origin), instances.c.status.in_(UNENDED)
        connection.execute(requesting.where(*unended))
        owners.update(connection.execute(select(instances.c.owner).where(*unended)).scalars())
    notify_workers(connection, owners)
