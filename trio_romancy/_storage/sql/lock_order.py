"""The order of transactions that meet in the same rows: ids in order, and writes that change nothing.

Every transaction locks channels first, then the counter of messages, then rows of instances, each by id in ascending
order. So no two transactions wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, case, update

from ...clock import Microseconds
from .rows import IN_LIST
from .tables import instances

WITH_ID = instances.c.instance_id.in_(bindparam("ids", expanding=True))
"""Whether an instance has one of the ``ids``."""

NOW = bindparam("now", type_=BigInteger())
"""The current time in microseconds since the epoch: a parameter."""

_before = instances.c.updated_at
LATER = case((_before < NOW, NOW), else_=_before + 1)
"""A new value for ``updated_at`` at :data:`NOW` that differs from the old one."""

_serialize_writers = update(instances).where(WITH_ID).values(updated_at=LATER)


def serialize_writers(connection: Connection, instance_ids: Collection[str], now: Microseconds) -> None:
    """Write the rows of instances without changing what they say, so that other writers come before or after.

    It is a write and not a locked read, so that a cluster which certifies writes only (Galera) sees it.
    """
    for some in chunks({*instance_ids}):
        connection.execute(_serialize_writers, {"ids": some, "now": now})


def chunks(values: Collection[str] | Collection[int]) -> Iterator[list[Any]]:
    """Yield the values in ascending order, in lists that fit into an IN list."""
    ordered = sorted(values)
    for start in range(0, len(ordered), IN_LIST):
        yield ordered[start : start + IN_LIST]
