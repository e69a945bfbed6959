"""A statement for many rows stores what SQLAlchemy itself would store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Boolean, Connection, Row, bindparam, delete, insert, select, update

from trio_romancy._storage.dialects.execute_many import execute_many
from trio_romancy._storage.sql.tables import instances
from trio_romancy.model import Status

FILL = {"workflow": "w", "input": '"100 % :me ? $1"', "recoveries": 0, "created_at": 1, "updated_at": 1}
NEW = [
    FILL | {"instance_id": "ä '\\", "has_begun": True, "status": Status.RUNNING, "owner": None},
    FILL | {"instance_id": "b", "has_begun": None, "status": "failed", "owner": "me"},
]

_insert = insert(instances)
_change = (
    update(instances)
    .where(instances.c.instance_id == bindparam("id"))
    .values(
        owner=bindparam("both"),
        origin=bindparam("both"),
        has_begun=bindparam("begun", type_=Boolean()),
        recoveries=7,
        trace=None,
    )
)


def stored(connection: Connection) -> Sequence[Row[Any]]:
    return connection.execute(select(instances).order_by(instances.c.instance_id)).all()


@pytest.mark.parametrize("count", [1, 2])
def test_rows_are_stored_as_by_sqlalchemy(connection: Connection, count: int) -> None:
    connection.execute(_insert, NEW[:count])
    expected = stored(connection)
    connection.execute(delete(instances))
    execute_many(connection, _insert, NEW[:count])
    assert stored(connection) == expected
    assert len(expected) == count


@pytest.mark.parametrize("count", [1, 2])
def test_each_row_is_changed_as_by_sqlalchemy(connection: Connection, count: int) -> None:
    connection.execute(_insert, NEW)
    changes = [{"id": row["instance_id"], "both": f"o{n}", "begun": n == 0} for n, row in enumerate(NEW)][:count]
    matched = execute_many(connection, _change, changes).rowcount
    changed = stored(connection)
    connection.execute(delete(instances))
    connection.execute(_insert, NEW)
    connection.execute(_change, changes)
    assert stored(connection) == changed
    assert sum(row.recoveries for row in changed) == 7 * count
    assert matched in (count, -1)  # asyncpg does not say how many
