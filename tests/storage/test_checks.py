"""What a database allows, and what is left lying in it."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, insert, select

from trio_romancy._storage.sql import instances as instance_sql
from trio_romancy._storage.sql import tables
from trio_romancy._storage.sql.checks import (
    RIGHTS,
    TABLES,
    dead_events,
    has_instances,
    overdue,
    stuck_instances,
    use_right,
    use_right_to_create,
)
from trio_romancy._storage.sql.purge import remove_instances
from trio_romancy.clock import at_once


def store(connection: Connection, instance_id: str, workflow: str = "w", **values: object) -> None:
    row = instance_sql.new_row(instance_id, workflow, "{}", 100, owner=None)
    connection.execute(insert(tables.instances).values(**row | values))


def test_rights_are_used_without_a_trace(connection: Connection) -> None:
    store(connection, "there")
    before = connection.execute(select(tables.instances)).all()
    for table in TABLES:
        for right in RIGHTS:
            use_right(connection, table, right)
    assert use_right_to_create(connection, tables_exist=True)
    assert connection.execute(select(tables.instances)).all() == before


def test_overdue_are_those_without_a_worker_that_were_due_before(connection: Connection) -> None:
    assert not has_instances(connection)
    store(connection, "a", wake_at=5)
    store(connection, "b", wake_at=4)
    store(connection, "c", "other", wake_at=1)
    store(connection, "later", wake_at=6)
    store(connection, "owned", owner="me", wake_at=1)
    store(connection, "never", wake_at=None)
    store(connection, "at once", wake_at=at_once(5))
    store(connection, "just now", wake_at=at_once(6))
    assert overdue(connection, 5) == {"w": 3, "other": 1}
    assert has_instances(connection)


def test_stuck_instances_are_told_the_newest_first(connection: Connection) -> None:
    for number, name in enumerate(("old", "middle", "new")):
        store(connection, name, status="stuck", created_at=number)
    store(connection, "fine")
    assert stuck_instances(connection, 2) == ["new", "middle"]


@pytest.mark.parametrize(("status", "number"), [("failed", 1), ("invalid", 1), ("expired", 1), ("pending", 0)])
def test_dead_events_are_those_that_nobody_tries(connection: Connection, status: str, number: int) -> None:
    names = ("instance_id", "event_id", "source", "type")
    values = {"seq": 1, "number": 0, "time": 1, "data": "1", "attempts": 1, "created_at": 1, "status": status}
    connection.execute(insert(tables.outbox).values(**dict.fromkeys(names, "x"), **values))
    assert dead_events(connection, 10) == (number, [("x", "x", status)] * number)


def test_what_is_removed_is_removed_with_all_it_has_and_nothing_else(connection: Connection) -> None:
    for name, workflow, created_at in (("a", "mine", 10), ("b", "mine", 11), ("old", "mine", 9), ("c", "other", 12)):
        store(connection, name, workflow, created_at=created_at)
        entry = {"instance_id": name, "seq": 1, "operation_id": "", "kind": "k", "recorded_at": 1}
        connection.execute(insert(tables.history).values(entry))
    assert remove_instances(connection, "mine", 10, limit=1) == 1
    assert remove_instances(connection, "mine", 10, limit=5) == 1
    assert remove_instances(connection, "mine", 10, limit=5) == 0
    for table in (tables.instances, tables.history):
        assert set(connection.execute(select(table.c.instance_id)).scalars()) == {"old", "c"}
