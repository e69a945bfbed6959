"""A damaged row of a worker stops no other: it is named, its lease ends, and its instances are taken over."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from trio_romancy import App, WorkflowContext, workflow
from trio_romancy._storage.sql.tables import instances, workers
from trio_romancy.cli.checks import Verdict, examine

from ..support.databases import SHARED_KINDS
from ..support.probe import probe

DAMAGES = {
    "no JSON": "{{{",
    "a list": "[1]",
    "other fields": '{"host":"here"}',
    "fields of other types": '{"host":["here"],"pid":"1","started":1,"token":null}',
    "deep JSON": "[" * 10_000,
    "nothing": "",
}


@workflow(name="bad_worker_waits")
async def waits(ctx: WorkflowContext) -> str:
    return str((await ctx.wait_event("go")).data)


def damage(connection: Connection, now: int, text: str, owned: str) -> None:
    row = {
        "worker_id": "damaged",
        "epoch": 1,
        "batch": 0,
        "expires_at": now + 1_000_000,
        "joined_at": now,
        "process": text,
        "version": None,
    }
    connection.execute(sa.insert(workers).values(row))
    owned_by = sa.update(instances).where(instances.c.instance_id == owned)
    assert connection.execute(owned_by.values(owner="damaged", status="running", wake_at=None)).rowcount


@pytest.mark.real_clock
@pytest.mark.parametrize("what", DAMAGES)
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_the_lease_of_a_worker_whose_row_is_damaged_ends_and_its_instances_go_on(
    database: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with App(database, worker=False) as app:
        handle = await app.start(waits)
        await probe(app).write(damage, probe(app).clock.now(), DAMAGES[what], handle.instance_id)
        findings = await examine(database)
        assert "damaged row: damaged" in [one.found for one in findings if one.verdict is Verdict.PROBLEM]
        assert [one.worker_id for one in await app.list_workers()] == ["damaged"]
    async with App(database, lease=1, shutdown_timeout=1) as app:
        await app.send_event("go", "on")
        assert await app.handle(handle.instance_id).result(timeout=30) == "on"
        assert [one.worker_id for one in await app.list_workers()] == [app.worker_id]
    errors: list[Any] = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "the row of worker damaged cannot be read" in errors[0]


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_a_worker_whose_own_row_is_damaged_keeps_its_lease(database: str) -> None:
    def spoil(connection: Connection) -> None:
        assert connection.execute(sa.update(workers).values(process="{{{")).rowcount == 1

    async with App(database, worker_id="one", lease=1, shutdown_timeout=1) as app:
        handle = await app.start(waits)
        await probe(app).write(spoil)
        async with App(database, worker_id="two", lease=1, shutdown_timeout=1):
            await app.send_event("go", "on")
            assert await handle.result(timeout=30) == "on"


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_an_instance_whose_wake_up_is_damaged_is_woken_and_named(
    database: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def spoil(connection: Connection) -> None:
        damaged = "'tomorrow'" if kind == "sqlite" else "9000000000000000000"
        connection.exec_driver_sql(f"UPDATE romancy_instances SET wake_at = {damaged} WHERE instance_id = 'spoilt'")

    async with App(database, worker=False) as app:
        handle = await app.start(waits.options(id="spoilt"))
        await app.send_event("go", "on")
        await probe(app).write(spoil)
    async with App(database, lease=1, shutdown_timeout=1) as app:
        assert await app.handle(handle.instance_id).result(timeout=30) == "on"
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["the row of instance spoilt is damaged: its wake_at is no time; it is due now"]
