"""PgBouncer in transaction mode gives each transaction another session: all works, and nothing is left behind."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import sqlalchemy as sa
import trio
from psycopg.rows import tuple_row
from trio_asyncio import aio_as_trio

from trio_romancy import App, RetryPolicy, WorkflowContext, activity, current_activity, workflow
from trio_romancy._storage.open import open_database
from trio_romancy.cli.checks import Verdict, examine
from trio_romancy.errors import DatabaseError

from ..support.callers import Asyncpg, Psycopg
from ..support.databases import Databases, opened
from ..support.pgbouncer import open_pgbouncer
from ..support.servers import execute

pytestmark = [
    pytest.mark.real_clock,
    pytest.mark.time_limit(120),
    pytest.mark.parametrize("kind", ["postgresql"], indirect=True),
]

SESSIONS = 6
LEFT_BEHIND = """SELECT (SELECT string_agg(name || '=' || setting, ' ') FROM pg_settings WHERE source = 'session'
    AND name NOT IN ('client_encoding', 'DateStyle', 'TimeZone', 'application_name', 'standard_conforming_strings')),
    (SELECT string_agg(name, ' ') FROM pg_prepared_statements),
    (SELECT string_agg(c, ' ') FROM pg_listening_channels() c),
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())"""


@pytest.fixture
def pooled(database: str, databases: Databases) -> Iterator[str]:
    """The URL of an empty database, through a pooler of its own."""
    with ExitStack() as exits:
        yield opened({}, "pgbouncer", lambda: exits.enter_context(open_pgbouncer(database, sessions=SESSIONS)))


@activity(name="pooled_step", retry=RetryPolicy.fixed(3, 0.01))
async def step(number: int) -> int:
    session = current_activity().session
    await session.execute(sa.text("INSERT INTO steps VALUES (:number)"), {"number": number})
    zone: str = await session.scalar(sa.text("SHOW TimeZone"))
    assert zone == "UTC"
    return number + 1


@workflow(name="pooled_flow")
async def flow(ctx: WorkflowContext, number: int) -> int:
    number = await step(number)
    await ctx.sleep(0.05)
    event = await ctx.wait_event("go", timeout=30)
    return await step(number) + int(event.data)


async def left_behind(pooled: str) -> set[tuple[Any, ...]]:
    """Return what other programs of the pool find in its sessions, all of which are asked at once."""
    found: set[tuple[Any, ...]] = set()
    everyone_is_there, number = trio.Event(), 0

    async def ask() -> None:
        nonlocal number
        connection = Psycopg()
        await connection.open(pooled, autocommit=False)
        connection.connection.prepare_threshold = None

        def fetch() -> tuple[Any, ...]:
            with connection.connection.cursor(row_factory=tuple_row) as cursor:
                row: tuple[Any, ...] = cursor.execute(LEFT_BEHIND).fetchone()
                return row

        found.add(await trio.to_thread.run_sync(fetch))
        number += 1
        if number == SESSIONS:
            everyone_is_there.set()
        with trio.move_on_after(5):
            await everyone_is_there.wait()
        await connection.close()

    async with trio.open_nursery() as nursery:
        for _ in range(SESSIONS):
            nursery.start_soon(ask)
    return found


async def test_two_apps_work_through_it_and_leave_nothing_behind(
    pooled: str, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    execute(database, "CREATE TABLE steps (number INT)")
    async with App(pooled, shutdown_timeout=5) as one, App(pooled, shutdown_timeout=5) as two:
        handles = [await app.start(flow, number) for number in range(10) for app in (one, two)]
        async with two.transaction() as tx:
            await tx.execute(sa.text("INSERT INTO steps VALUES (-1)"))
            handles.append(await tx.start(flow, -1))
        assert await left_behind(pooled) == {(None, None, None, 0)}
        await one.send_event("go", 100)
        with trio.fail_after(60):
            assert sorted([await handle.result() for handle in handles]) == sorted(
                [number + 102 for number in range(10)] * 2 + [101]
            )
        assert await left_behind(pooled) == {(None, None, None, 0)}
    assert await left_behind(pooled) == {(None, None, None, 0)}
    assert execute(database, "SELECT count(*) FROM steps") == [(43,)]
    assert not caplog.records


async def test_workers_are_notified_by_the_direct_url(pooled: str, database: str) -> None:
    async with open_database(pooled) as opened_database:
        await opened_database.read(lambda connection: connection.execute(sa.text("SELECT 1")))
        assert opened_database.is_pooled
        assert not opened_database.can_listen
    heard = trio.Event()
    async with open_database(pooled, direct_url=database) as opened_database, trio.open_nursery() as nursery:
        await opened_database.read(lambda connection: connection.execute(sa.text("SELECT 1")))
        assert opened_database.can_listen

        def on_notify(owner: str) -> None:
            if owner == "worker":
                heard.set()

        nursery.start_soon(opened_database.listen, on_notify)
        with trio.fail_after(20):
            while not heard.is_set():
                execute(database, "SELECT pg_notify('trio_romancy', 'worker')")
                with trio.move_on_after(0.1):
                    await heard.wait()
        nursery.cancel_scope.cancel()
    async with open_database(database) as opened_database:
        await opened_database.read(lambda connection: connection.execute(sa.text("SELECT 1")))
        assert not opened_database.is_pooled
        assert opened_database.can_listen


async def test_an_index_needs_the_direct_url(pooled: str, database: str) -> None:
    async with App(pooled, worker=False) as app:
        with pytest.raises(DatabaseError, match=r"behind a pooler of connections, .* give the app a direct_url"):
            await app.index_input("number")
    async with App(pooled, worker=False, direct_url=database) as app:
        assert await app.index_input("number")
    assert await left_behind(pooled) == {(None, None, None, 0)}


async def test_a_direct_url_that_leads_to_the_pooler_is_refused(pooled: str, kind: str) -> None:
    async with App(pooled, worker=False, direct_url=pooled) as app:
        with pytest.raises(DatabaseError, match="the direct_url, leads to a pooler of connections as well"):
            await app.index_input("number")
    with pytest.raises(DatabaseError, match="direct_url is for PostgreSQL"):
        async with App("file.db", direct_url=pooled):
            pass


async def test_callers_start_through_it(pooled: str) -> None:
    async with App(pooled, worker=False) as app:
        import asyncpg

        connection = await aio_as_trio(asyncpg.connect)(pooled, statement_cache_size=0)
        caller = Asyncpg()
        caller.connection, caller._begins, caller._transaction = connection, True, None
        await caller.execute("SELECT 1")
        handle = await app.start_in(connection, flow, 1)
        await caller.commit()
        await caller.close()
        assert await app.get_instance(handle.instance_id) is not None
        assert await left_behind(pooled) == {(None, None, None, 0)}


async def test_doctor_says_so(pooled: str, database: str) -> None:
    found = {finding.check: finding for finding in await examine(pooled)}
    assert found["pooler"].verdict is Verdict.NOTE
    assert "workers poll" in found["pooler"].found
    assert "pooler" not in {finding.check for finding in await examine(database)}
