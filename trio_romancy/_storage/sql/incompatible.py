"""SQL about instances whose journals do not fit the code of some workers, while other workers may still run them.

During a rolling deploy two versions of the code share the database. An instance that does not fit the one version is
left to the other. It is stuck only if no live worker has a version that was not tried.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, Update, and_, bindparam, delete, exists, or_, select, update

from ..._data.journal_format import error_text
from ...clock import Microseconds, at_once
from ...model import ErrorInfo, Status
from ..dialects import notify_workers
from ..dialects.sql import insert_if_absent
from .instances import to_error
from .rows import IncompatibleRow, fetch_all
from .statuses import FINAL, may_become
from .tables import incompatible, instances, workers


@frozen
class Parked:
    """An instance that has become stuck."""

    instance_id: str
    workflow: str
    created_at: Microseconds
    trace: str | None
    """JSON text of the trace context that the instance was started in."""
    error: ErrorInfo
    """The reason why the last worker that tried could not run the instance."""


_known = select(incompatible.c.version).join(workers, workers.c.version == incompatible.c.version)
_known = _known.where(incompatible.c.instance_id == instances.c.instance_id, workers.c.worker_id == bindparam("me"))
MAY_RUN = or_(instances.c.cancel_requested.is_not(None), ~_known.exists())
"""Whether the worker ``me`` may run an instance: its code is not known to be incompatible, or only has to roll back."""


def leave_to_others(
    connection: Connection, me: str, instance_id: str, error: ErrorInfo, now: Microseconds, *, in_rollback: bool = False
) -> Status:
    """Release an instance that does not fit the code of the worker ``me``.

    Args:
      in_rollback: whether the instance is being rolled back. A cancel request has been recorded then, and must not
        bring the instance back to this worker.

    Returns the new status: pending or compensating, so that other workers can run the instance, or stuck.
    """
    released = Status.COMPENSATING if in_rollback else Status.PENDING
    version = connection.execute(select(workers.c.version).where(workers.c.worker_id == me)).scalar() or ""
    row: IncompatibleRow = {
        "instance_id": instance_id,
        "version": version,
        "error": error_text(error),
        "found_at": now,
    }
    connection.execute(insert_if_absent(incompatible), row)
    free: dict[str, Any] = {"status": released, "owner": None, "recoveries": 0, "updated_at": now}
    free["wake_at"] = at_once(now)
    if in_rollback:
        free["cancel_requested"] = None
    freeing = update(instances).where(instances.c.instance_id == instance_id, may_become(released))
    connection.execute(freeing.values(free))
    if _park(connection, now, instances.c.instance_id == instance_id):
        return Status.STUCK
    notify_workers(connection)
    return released


def has_any(connection: Connection) -> bool:
    """Return whether :func:`sweep` may have something to do."""
    return connection.execute(select(incompatible.c.instance_id).limit(1)).first() is not None


def sweep(connection: Connection, now: Microseconds) -> list[Parked]:
    """Mark instances as stuck that no live worker can run. Returns those.

    Those are made due again that were marked while a worker arrived that has not tried them: neither saw the other.
    """
    final = select(instances.c.instance_id).where(instances.c.status.in_(FINAL))
    connection.execute(delete(incompatible).where(incompatible.c.instance_id.in_(final)))
    if connection.execute(_make_due(now).where(_is_untried)).rowcount:
        notify_workers(connection)
    return _park(connection, now)


_may_be_parked = and_(
    instances.c.owner.is_(None),
    or_(
        instances.c.status == Status.PENDING,
        # Any worker may roll back an instance that was cancelled, unless that is what does not fit.
        and_(instances.c.status == Status.COMPENSATING, instances.c.cancel_requested.is_(None)),
    ),
)


class _Hopeless(NamedTuple):
    instance_id: str
    workflow: str
    created_at: Microseconds
    trace: str | None
    error: str


_tried = incompatible.alias("tried")
_is_tried = select(_tried.c.version).where(
    _tried.c.instance_id == instances.c.instance_id, _tried.c.version == workers.c.version
)
_is_untried = select(workers.c.worker_id).where(~_is_tried.exists()).exists()
"""Whether there is a live worker whose code is not known to be incompatible with the instance."""


def _park(connection: Connection, now: Microseconds, *which: ColumnElement[bool]) -> list[Parked]:
    hopeless = (
        select(
            instances.c.instance_id,
            instances.c.workflow,
            instances.c.created_at,
            instances.c.trace,
            incompatible.c.error,
        )
        .join(incompatible, incompatible.c.instance_id == instances.c.instance_id)
        .where(_may_be_parked, ~_is_untried, *which)
        .order_by(incompatible.c.found_at)
    )
    parked = []
    last_errors = {row.instance_id: row for row in fetch_all(connection, _Hopeless, hopeless)}
    for row in last_errors.values():
        stuck = {"status": Status.STUCK, "wake_at": None, "error": row.error, "updated_at": now}
        parking = update(instances).where(instances.c.instance_id == row.instance_id, _may_be_parked, ~_is_untried)
        if connection.execute(parking.values(stuck)).rowcount:
            parked.append(Parked(row.instance_id, row.workflow, row.created_at, row.trace, to_error(row.error)))
    return parked


def revive(connection: Connection, version: str, now: Microseconds) -> None:
    """Make stuck instances due that a worker with this version may be able to run."""
    tried = exists().where(incompatible.c.instance_id == instances.c.instance_id, incompatible.c.version == version)
    connection.execute(_make_due(now).where(~tried))


def _make_due(now: Microseconds) -> Update:
    """Return an update that makes instances due that are stuck as incompatible, and for no other reason."""
    reasons = select(incompatible.c.instance_id).where(
        incompatible.c.instance_id == instances.c.instance_id, incompatible.c.error == instances.c.error
    )
    due = {"status": Status.PENDING, "wake_at": at_once(now), "error": None, "updated_at": now}
    return update(instances).where(instances.c.status == Status.STUCK, reasons.exists()).values(due)
