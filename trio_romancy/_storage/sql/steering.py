"""SQL that steers instances by hand: cancel requests, and resuming what is stuck."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, and_, bindparam, delete, exists, or_, select, update

from ..._data.end_request import EndRequest
from ..._data.journal_format import Resumed
from ..._tasks.fast_frozen import frozen
from ...clock import Microseconds, at_once
from ...model import EntryKind, Status
from ..dialects import notify_workers
from .chains import last_of
from .entries import append_entry
from .instances import to_error
from .rows import fetch_first
from .statuses import may_become, read_status
from .tables import history, incompatible, instances

CANCELLABLE = (Status.PENDING, Status.RUNNING, Status.WAITING, Status.STUCK)
"""Statuses in which a cancel request is accepted."""


@frozen
class Cancelled:
    """The answer to a cancel request."""

    accepted: bool
    """Whether the instance will end as cancelled because of this request or an earlier one."""
    status: Status


class _Cancellable(NamedTuple):
    status: str
    cancel_requested: str | None
    owner: str | None


_cancellable = select(instances.c.status, instances.c.cancel_requested, instances.c.owner).where(
    instances.c.instance_id == bindparam("id")
)


def request_cancel(connection: Connection, instance_id: str, reason: str | None, now: Microseconds) -> Cancelled | None:
    """Accept a cancel request, unless the workflow function has ended. Returns None if there is no such instance.

    If the instance has recurred, the request is for the last of its chain. An instance that is stuck in its rollback
    continues the rollback.
    """
    while True:
        accepted = connection.execute(
            update(instances)
            .where(instances.c.instance_id == instance_id, may_be_cancelled)
            .values(cancel_requested=EndRequest(reason, now).to_text(), wake_at=at_once(now), updated_at=now)
        ).rowcount
        row = fetch_first(connection, _Cancellable, _cancellable, {"id": instance_id})
        if row is None:
            return None
        status = read_status(row.status)
        if status is Status.RECURRED and (last := last_of(connection, instance_id)) is not None:
            instance_id = last
            continue
        if accepted:
            notify_workers(connection, [row.owner])
        elif status in (Status.STUCK, Status.COMPENSATING):
            end = connection.execute(_ends, {"id": instance_id}).scalar()
            if status is Status.STUCK and end is not None:
                resume(connection, instance_id, now)
            if end is not None:
                return Cancelled(end != EntryKind.WORKFLOW_FAILED, status)
        return Cancelled(bool(accepted) or row.cancel_requested is not None, status)


_ended = [kind for kind in EntryKind if kind.ends_function]
_ends = (
    select(history.c.kind)
    .where(history.c.instance_id == bindparam("id"), history.c.kind.in_([*_ended, EntryKind.ROLLBACK_REQUESTED]))
    .order_by(history.c.seq.desc())
    .limit(1)
)
_is_rolled_back = exists().where(history.c.instance_id == instances.c.instance_id, history.c.kind.in_(_ended))
may_be_cancelled = and_(
    instances.c.cancel_requested.is_(None),
    instances.c.status.in_(CANCELLABLE),
    or_(instances.c.status != Status.STUCK, ~_is_rolled_back),
)
"""Whether a cancel request would be accepted: the workflow function has not ended, and there is no request before."""


class _Resumable(NamedTuple):
    status: str
    error: str | None


_resumable = (
    select(instances.c.status, instances.c.error).where(instances.c.instance_id == bindparam("id")).with_for_update()
)


def resume(connection: Connection, instance_id: str, now: Microseconds) -> bool | None:
    """Make an instance due that is stuck, or that ended with failed compensations. Of a chain that is the last.

    Returns whether the instance was one of these; None if there is no such instance.
    """
    instance_id = last_of(connection, instance_id) or instance_id
    row = fetch_first(connection, _Resumable, _resumable, {"id": instance_id})
    if row is None:
        return None
    status = read_status(row.status)
    error = None if row.error is None else to_error(row.error)
    uncompensated = error is not None and error.uncompensated
    if status is not Status.STUCK and not (status in (Status.FAILED, Status.CANCELLED) and uncompensated):
        return False
    ended = connection.execute(_ends, {"id": instance_id}).first() is not None
    resumed = Status.COMPENSATING if ended else Status.RUNNING
    values = {
        "status": resumed,
        "error": None if status is Status.STUCK and not ended else row.error,
        "wake_at": at_once(now),
        "recoveries": 0,
        "updated_at": now,
        "finished_at": None,
    }
    resuming = update(instances).where(instances.c.instance_id == instance_id, may_become(resumed))
    connection.execute(resuming.values(**values))
    # The code may have been fixed without a new version.
    connection.execute(delete(incompatible).where(incompatible.c.instance_id == instance_id))
    notify_workers(connection)
    append_entry(connection, instance_id, Resumed(), now)
    return True
