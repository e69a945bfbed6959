"""SQL about limits: storing what code and operators say, and listing them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

from sqlalchemy import Connection, and_, bindparam, false, func, or_, select, update

from ...clock import Microseconds
from ..dialects.sql import insert_if_absent
from .permits import KeyStates, StoredLimit
from .rows import fetch_all, fetch_first
from .tables import limit_keys, limit_waits, limits

_KEYS = 100
"""The most keys whose attempts are called in one transaction."""


class LimitValues(TypedDict):
    """What a limit allows."""

    concurrent: int | None
    rate: int | None
    period: Microseconds | None
    burst: int | None


class LimitUse(NamedTuple):
    """A limit, how much of it is taken, and how many attempts wait for it."""

    limit: StoredLimit
    taken: int
    waiting: int
    oldest: Microseconds | None
    """Since when the first of those attempts waits."""


_stored = select(limits).where(limits.c.name == bindparam("name_"))
_locked = _stored.with_for_update()
_insert_if_absent = insert_if_absent(limits)
_of_code = update(limits).where(limits.c.name == bindparam("name_"), limits.c.is_set == false())
_of_operator = update(limits).where(limits.c.name == bindparam("name_"))
_waited_for = (
    select(limit_waits.c.limit_key)
    .where(limit_waits.c.name == bindparam("name_"), limit_waits.c.limit_key > bindparam("after"))
    .distinct()
    .order_by(limit_waits.c.limit_key)
    .limit(_KEYS)
)
_without_key = select(limit_waits.c.limit_key).where(
    limit_waits.c.name == bindparam("name_"), limit_waits.c.limit_key == ""
)


def store_limit(connection: Connection, name: str, values: LimitValues, now: Microseconds) -> None:
    """Store what the code says about a limit, unless an operator has set the limit."""
    row = fetch_first(connection, StoredLimit, _stored, {"name_": name})
    if row is None:
        connection.execute(_insert_if_absent, {"name": name, **values, "is_set": False, "updated_at": now})
    elif not row.is_set and values != _values_of(row):
        connection.execute(_of_code.values(**values, updated_at=now), {"name_": name})


def _values_of(row: StoredLimit) -> LimitValues:
    return {"concurrent": row.concurrent, "rate": row.rate, "period": row.period, "burst": row.burst}


def set_limit(connection: Connection, name: str, changes: dict[str, Any], now: Microseconds) -> bool:
    """Change a limit, from now on in all workers. Returns False, and does nothing, if there is no such limit.

    Attempts that may begin now are called by :func:`call_waiting`.
    """
    if fetch_first(connection, StoredLimit, _locked, {"name_": name}) is None:
        return False
    connection.execute(_of_operator.values(**changes, is_set=True, updated_at=now), {"name_": name})
    return True


def call_waiting(connection: Connection, name: str, after: str | None, now: Microseconds) -> str | None:
    """Call the attempts that wait for a limit and fit now, of the next keys.

    Args:
      after: the last key of the call before; None at the first call.

    Returns the last key; None if no other follows.
    """
    values = {"name_": name, "after": after or ""}
    keys = list(connection.execute(_waited_for, values).scalars())
    last = keys[-1] if len(keys) == _KEYS else None
    if after is None and connection.execute(_without_key.limit(1), {"name_": name}).first() is not None:
        keys.append("")
    if keys:
        states = KeyStates(connection, [(name, key) for key in keys], now)
        states.touch_all()
        states.finish()
    return last


class _Taken(NamedTuple):
    name: str
    taken: int


class _Waiting(NamedTuple):
    name: str
    waiting: int
    oldest: Microseconds


def list_limits(connection: Connection) -> Sequence[LimitUse]:
    """Return all limits in the order of their names."""
    rows = fetch_all(connection, StoredLimit, select(limits).order_by(limits.c.name))
    total = select(limit_keys.c.name, func.sum(limit_keys.c.taken).label("taken")).group_by(limit_keys.c.name)
    taken = {row.name: int(row.taken) for row in fetch_all(connection, _Taken, total)}
    count = select(limit_waits.c.name, func.count().label("waiting"), func.min(limit_waits.c.since).label("oldest"))
    waiting = {row.name: row for row in fetch_all(connection, _Waiting, count.group_by(limit_waits.c.name))}
    return [
        LimitUse(
            row,
            taken.get(row.name, 0),
            waiting[row.name].waiting if row.name in waiting else 0,
            waiting[row.name].oldest if row.name in waiting else None,
        )
        for row in rows
    ]


class _Place(NamedTuple):
    operation_id: str
    name: str
    limit_key: str
    since: Microseconds


def places(connection: Connection, instance_id: str) -> dict[str, int]:
    """Return how many attempts of the same limit and key wait as long or longer, by the ids of operations that wait."""
    mine = select(*(limit_waits.c[name] for name in _Place._fields)).where(limit_waits.c.instance_id == instance_id)
    found = {}
    for row in fetch_all(connection, _Place, mine):
        is_ahead = or_(
            limit_waits.c.since < row.since,
            and_(limit_waits.c.since == row.since, limit_waits.c.instance_id <= instance_id),
        )
        ahead = select(func.count()).where(
            limit_waits.c.name == row.name, limit_waits.c.limit_key == row.limit_key, is_ahead
        )
        found[row.operation_id] = connection.execute(ahead).scalar_one()
    return found
