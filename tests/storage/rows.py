"""Instances that wait, as rows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, insert, select

from trio_romancy import Status
from trio_romancy._storage.sql import instances as instance_sql
from trio_romancy._storage.sql import tables
from trio_romancy.clock import at_once

NOW = 1_000
DUE = at_once(NOW)
"""What is due at once, as from ``NOW``, has this wake-up time."""


def own(connection: Connection, *instance_ids: str, owner: str | None = None, **values: Any) -> None:
    """Store instances that wait."""
    for instance_id in instance_ids:
        row = instance_sql.new_row(instance_id, "w", "{}", 1, owner=owner)
        given = {"status": Status.WAITING, "wake_at": None} | values
        connection.execute(insert(tables.instances).values(**row | given))


def wake_times(connection: Connection) -> dict[str, int | None]:
    rows = connection.execute(select(tables.instances.c.instance_id, tables.instances.c.wake_at))
    return {row.instance_id: row.wake_at for row in rows}
