"""What is due is found by an index, beside any number of instances that sleep, have ended, or belong to others."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, event

from trio_romancy import App
from trio_romancy._storage.sql.claims import claim_due
from trio_romancy._storage.sql.instances import insert_instances, new_row
from trio_romancy._storage.sql.wake_ups import next_wake
from trio_romancy.clock import at_once

from ..support.databases import KINDS
from ..support.probe import probe

pytestmark = pytest.mark.real_clock


def plans(connection: Connection, fn: Callable[..., object], *args: Any, **options: Any) -> list[str]:
    """How the database carries out each query of a function."""
    queries: list[tuple[str, Any]] = []

    @event.listens_for(connection, "before_cursor_execute")
    def executing(_: object, cursor: object, statement: str, parameters: Any, *__: object) -> None:
        queries.append((statement, parameters))

    fn(connection, *args, **options)
    event.remove(connection, "before_cursor_execute", executing)
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    read = [(statement, given) for statement, given in queries if statement.startswith("SELECT")]
    return ["\n".join(map(str, connection.exec_driver_sql(f"{explain} {query}", given))) for query, given in read]


def fill(connection: Connection) -> None:
    """Store sleepers of this worker and of others, instances that have ended, and a few that are due."""
    rows = [new_row(f"{n:04}", f"w{n % 4}", "{}", 1, owner=None) for n in range(4_000)]
    wakes = [None if n % 8 < 4 else at_once(n) if n < 20 else 10_000 + n for n in range(4_000)]
    insert_instances(connection, [row | {"wake_at": wake} for row, wake in zip(rows, wakes, strict=True)])


@pytest.mark.parametrize("kind", KINDS, indirect=True)
async def test_due_instances_are_read_from_the_index_of_their_workflow(database: str, kind: str) -> None:
    async with App(database, worker=False) as app:
        inside = probe(app).database
        await inside.run(fill)
        await inside.run(lambda c: c.exec_driver_sql("ANALYZE" + " TABLE romancy_instances" * (kind == "mariadb")))
        wakes = await inside.read(plans, next_wake, "me", ["w0", "w1"], suspects=True)
        claims = [
            plan
            for limit in (1, 100)
            for plan in await inside.run(plans, claim_due, "me", 5_000, ["w0", "w1"], limit, suspects=True)
        ]
        for plan in wakes + claims:
            # Of those that this worker owns already, few at any time, SQLite may read all.
            assert re.search("ix_romancy_instances_(due|owner)", plan)
            assert "SCAN romancy_instances" not in plan
            assert "Seq Scan on romancy_instances" not in plan
        if kind == "mariadb":
            assert "Using index for group-by" in wakes[0]
