"""SQL about deadlines of instances: one that has passed becomes an ordinary request to cancel."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen
from sqlalchemy import Connection, bindparam, func, select, update

from ..._data.readable import readable_time
from ...clock import Microseconds
from .steering import request_cancel
from .tables import instances

_AT_ONCE = 100
"""Most instances to act on in one transaction."""

_next = select(func.min(instances.c.deadline)).where(instances.c.deadline.is_not(None))
_passed = (
    select(instances.c.instance_id, instances.c.deadline)
    .where(instances.c.deadline <= bindparam("now_"))
    .order_by(instances.c.deadline)
    .limit(_AT_ONCE)
    .with_for_update(skip_locked=True)
)
_settle = update(instances).where(instances.c.instance_id == bindparam("id")).values(deadline=None)


def next_deadline(connection: Connection) -> Microseconds | None:
    """Return the next deadline of an instance, whether that has ended or not; None if no instance has one."""
    found = connection.execute(_next).scalar()
    return found if isinstance(found, int) else None  # SQLite sorts a damaged one after all others


@frozen
class Settled:
    """Deadlines that have passed, and have been acted on."""

    count: int
    cancelled: Sequence[str]
    """Ids of the instances that will end as cancelled."""


def settle_deadlines(connection: Connection, now: Microseconds) -> Settled:
    """Cancel instances whose deadline has passed, unless their function has ended. Of a chain that is the last one.

    In the same transaction they lose their deadline, so that each counts once.
    """
    passed = sorted((row.instance_id, row.deadline) for row in connection.execute(_passed, {"now_": now}))
    cancelled = []
    for instance_id, deadline in passed:
        connection.execute(_settle, {"id": instance_id})
        reason = f"its deadline, {readable_time(deadline)[0].isoformat()}, has passed"
        answer = request_cancel(connection, instance_id, reason, now)
        if answer is not None and answer.accepted:
            cancelled.append(instance_id)
    return Settled(len(passed), cancelled)
