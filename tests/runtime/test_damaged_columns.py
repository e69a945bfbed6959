"""Whatever a column of a row holds, only the instance of that row is harmed, and its worker goes on."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa
import trio
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from trio_romancy import App, WorkflowContext, activity, compensation, workflow
from trio_romancy._storage.sql.tables import history, instances, messages, waits

from ..support.probe import probe

DAMAGES = {
    "text": "'noon'",
    "bytes": "x'ff00'",
    "bytes as text": "CAST(x'ff00' AS TEXT)",
    "negative": "-5",
    "huge": str(2**62),
    "a fraction": "1.5",
    "null": "NULL",
}
COLUMNS = [
    (table, column.name)
    for table in (history, instances, messages, waits)
    for column in table.columns
    if not column.primary_key
]


@compensation(name="damaged_undo")
async def undo(number: int) -> None: ...


@activity(name="damaged_step", compensation=undo)
async def step(number: int) -> int:
    return number


@workflow(name="damaged_victim")
async def victim(ctx: WorkflowContext) -> str:
    await step(1)
    with ctx.move_on_after(1_000_000):
        await ctx.wait_event("never")
    return str((await ctx.wait_event("go")).data)


@workflow(name="damaged_innocent")
async def innocent(ctx: WorkflowContext) -> str:
    await step(2)
    return str((await ctx.wait_event("go")).data)


def damage(connection: Connection, table: sa.Table, column: str) -> int:
    done = 0
    for what, value in DAMAGES.items():
        by = table.c.addressee if table is messages else table.c.instance_id
        damaged = sa.update(table).where(by == what).values({column: sa.literal_column(value)})
        try:
            done += connection.execute(damaged).rowcount
        except IntegrityError:  # NOT NULL
            assert value == "NULL"
    return done


@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=[f"{table.name}.{column}" for table, column in COLUMNS])
async def test_a_damaged_column_harms_its_own_instance_at_most(
    table: sa.Table, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with App(":memory:", idle_timeout=1) as app:
        for what in DAMAGES:
            await app.start(victim.options(id=what))
        others = [await app.start(innocent) for _ in range(3)]
        await trio.sleep(100)
        for what in DAMAGES:
            await app.send_event("never", 1, to=what)
        await trio.sleep(100)
        assert await probe(app).write(damage, table, column)
        await app.send_event("go", "now")
        for other in others:
            assert await other.result(timeout=1000) == "now"
        await trio.sleep(100)
        await app.list_instances()
        for what in DAMAGES:
            await app.history(what)
        await (await app.start(innocent)).cancel()
        late = await app.start(innocent)
        await app.send_event("go", "late")
        assert await late.result(timeout=1000) == "late"
    said = {record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR}
    assert not [line for line in said if "refuses" in line or "failed" in line]
