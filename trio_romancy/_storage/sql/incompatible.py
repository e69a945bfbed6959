"""SQL about instances whose journals do not fit the code of some workers, while others may still run them.

During a rolling deploy two versions of the code share the database. What does not fit the one is left to the other; it
is stuck only when no live worker has a version that has not been tried.
"""

from __future__ import annotations

from typing import NamedTuple

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, bindparam, delete, exists, or_, select, update

from ..._data.codec import loads
from ...clock import Microseconds
from ...model import ErrorInfo, Status
from ..dialects import notify_workers
from ..dialects.sql import insert_if_absent
from .instances import error_text
from .rows import IncompatibleRow, fetch_all
from .tables import incompatible, instances, workers


@frozen
class Parked:
    """An instance that is stuck now."""

    instance_id: str
    workflow: str
    created_at: Microseconds
    trace: str | None
    """JSON text of the trace context that it was started in; None: none."""
    error: ErrorInfo
    """Why the last of those who tried could not run it."""


_known = select(incompatible.c.version).join(workers, workers.c.version == incompatible.c.version)
_known = _known.where(incompatible.c.instance_id == instances.c.instance_id, workers.c.worker_id == bindparam("me"))
MAY_RUN = or_(instances.c.cancel_requested.is_not(None), ~_known.exists())
"""Whether the worker ``me`` may run an instance: not one that is known to be a misfit, unless to roll it back."""


def give_up(connection: Connection, me: str, instance_id: str, error: ErrorInfo, now: Microseconds) -> Status:
    """Give back an instance that does not fit the code of this worker. Returns what it is now.

    It is pending, for other workers, or stuck.
    """
    version = connection.execute(select(workers.c.version).where(workers.c.worker_id == me)).scalar() or ""
    row: IncompatibleRow = {
        "instance_id": instance_id,
        "version": version,
        "error": error_text(error),
        "found_at": now,
    }
    connection.execute(insert_if_absent(incompatible), row)
    free = {"status": Status.PENDING, "owner": None, "wake_at": now, "recoveries": 0, "updated_at": now}
    connection.execute(update(instances).where(instances.c.instance_id == instance_id).values(free))
    if _park(connection, now, instances.c.instance_id == instance_id):
        return Status.STUCK
    notify_workers(connection)
    return Status.PENDING


def has_any(connection: Connection) -> bool:
    """Whether there is something for :func:`sweep`."""
    return connection.execute(select(incompatible.c.instance_id).limit(1)).first() is not None


def sweep(connection: Connection, now: Microseconds) -> list[Parked]:
    """Mark as stuck what fits no live worker any more."""
    final = select(instances.c.instance_id).where(instances.c.status.in_([s for s in Status if s.is_final]))
    connection.execute(delete(incompatible).where(incompatible.c.instance_id.in_(final)))
    return _park(connection, now)


class _Hopeless(NamedTuple):
    instance_id: str
    workflow: str
    created_at: Microseconds
    trace: str | None
    error: str


def _park(connection: Connection, now: Microseconds, *which: ColumnElement[bool]) -> list[Parked]:
    untried = select(workers.c.worker_id).where(
        ~select(_tried.c.version)
        .where(_tried.c.instance_id == instances.c.instance_id, _tried.c.version == workers.c.version)
        .exists()
    )
    hopeless = (
        select(
            instances.c.instance_id,
            instances.c.workflow,
            instances.c.created_at,
            instances.c.trace,
            incompatible.c.error,
        )
        .join(incompatible, incompatible.c.instance_id == instances.c.instance_id)
        .where(instances.c.owner.is_(None), instances.c.status == Status.PENDING, ~untried.exists(), *which)
        .order_by(incompatible.c.found_at)
    )
    parked = []
    last_errors = {row.instance_id: row for row in fetch_all(connection, _Hopeless, hopeless)}
    for row in last_errors.values():
        stuck = {"status": Status.STUCK, "wake_at": None, "error": row.error, "updated_at": now}
        still = instances.c.instance_id == row.instance_id, instances.c.owner.is_(None)
        parking = update(instances).where(*still, instances.c.status == Status.PENDING).values(stuck)
        if connection.execute(parking).rowcount:
            parked.append(
                Parked(row.instance_id, row.workflow, row.created_at, row.trace, ErrorInfo(**loads(row.error)))
            )
    return parked


_tried = incompatible.alias("tried")


def revive(connection: Connection, version: str, now: Microseconds) -> None:
    """A worker with this version has come: what is stuck because it fitted none before may fit this one."""
    tried = exists().where(incompatible.c.instance_id == instances.c.instance_id, incompatible.c.version == version)
    known = select(incompatible.c.instance_id).distinct()
    connection.execute(
        update(instances)
        .where(instances.c.instance_id.in_(known), instances.c.status == Status.STUCK, ~tried)
        .values(status=Status.PENDING, wake_at=now, error=None, updated_at=now)
    )
