"""SQL that tells when instances become due, at the same cost beside any number of those that become due later.

The index of what is due has the instances of each workflow apart, so the first of each is looked up, and no other is
read: none that sleeps longer, none of a workflow that this worker does not have, and none that is held back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Boolean, Connection, and_, bindparam, func, or_, select, update

from ..._data.codec import dumps
from ...clock import Microseconds, at_once
from ..dialects import has_loose_index_scans
from ..dialects.sql import text_rows
from .incompatible import MAY_RUN
from .rows import fetch_all
from .tables import instances

IS_MINE, IS_FREE = instances.c.owner == bindparam("me"), instances.c.owner.is_(None)
IS_CALM = instances.c.recoveries <= 1
"""Whether the instance has not outlived more than one death of its worker."""
NOT_HELD = instances.c.held == 0

_will_wake = and_(NOT_HELD, instances.c.wake_at.is_not(None))
_earliest = (
    select(instances.c.wake_at)
    .where(_will_wake, or_(IS_FREE, IS_MINE), MAY_RUN, or_(bindparam("suspects", type_=Boolean()), IS_CALM, IS_MINE))
    .order_by(instances.c.wake_at)
    .limit(1)
)
_earliest_of_one = _earliest.where(instances.c.workflow == bindparam("workflow"))
_names = text_rows("workflows")
_earliest_of_each = select(
    _names.c.value.label("workflow"),
    _earliest.where(instances.c.workflow == _names.c.value).correlate(_names).scalar_subquery().label("wake_at"),
)
# Beside those that this worker can claim, this counts those of other workers.
_bounds = (
    select(instances.c.workflow, func.min(instances.c.wake_at).label("wake_at"))
    .where(_will_wake)
    .group_by(instances.c.workflow)
)

_NEVER: Microseconds = 2**60
"""A time after which no instance ever becomes due. SQLite sorts a damaged one, such as text, after it."""
_MOST_DAMAGED = 100
_is_damaged = instances.c.wake_at > _NEVER
_damaged = (
    select(instances.c.instance_id)
    .where(instances.c.workflow.in_(bindparam("workflows", expanding=True)), NOT_HELD, _is_damaged)
    .limit(_MOST_DAMAGED)
)


class WakeUp(NamedTuple):
    """The first time at which an instance of a workflow becomes due."""

    workflow: str
    wake_at: Microseconds


def next_wakes(connection: Connection, me: str, workflows: Sequence[str], *, suspects: bool) -> list[WakeUp]:
    """Return when the first instance of each workflow becomes due that the worker ``me`` can claim, the earliest first.

    Where the database finds the first of each group at no cost, but not under further conditions, a time may be too
    early: that of an instance which another worker owns.
    """
    if has_loose_index_scans(connection):
        known = set(workflows)
        found = [row for row in fetch_all(connection, WakeUp, _bounds) if row.workflow in known]
    else:
        values = {"me": me, "suspects": suspects, "workflows": dumps(list(workflows))}
        found = [row for row in fetch_all(connection, WakeUp, _earliest_of_each, values) if row.wake_at is not None]
    # SQLite sorts a damaged one after all others.
    return sorted((row for row in found if isinstance(row.wake_at, int)), key=lambda row: row.wake_at)


def next_wake(connection: Connection, me: str, workflows: Sequence[str], *, suspects: bool) -> Microseconds | None:
    """Return the time from which a claim finds an instance; None if none becomes due by itself."""
    wakes = next_wakes(connection, me, workflows, suspects=suspects)
    if not has_loose_index_scans(connection):
        return wakes[0].wake_at if wakes else None
    first: Microseconds | None = None
    for workflow, wake_at in wakes:
        if first is not None and first <= wake_at:
            break
        values = {"me": me, "suspects": suspects, "workflow": workflow}
        found = connection.execute(_earliest_of_one, values).scalar()
        first = found if first is None or (found is not None and found < first) else first
    return first


def never_wake(connection: Connection, workflows: Sequence[str]) -> list[str]:
    """Return ids of instances that would never become due, because their ``wake_at`` is damaged. There may be more."""
    return list(connection.execute(_damaged, {"workflows": workflows}).scalars())


def wake_damaged(connection: Connection, instance_ids: Sequence[str], now: Microseconds) -> None:
    """Make these instances due: what they waited for, if anything, is in their journals."""
    waking = update(instances).where(instances.c.instance_id.in_(instance_ids), _is_damaged)
    connection.execute(waking.values(wake_at=at_once(now), updated_at=now))
