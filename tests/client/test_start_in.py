"""Starts, events and cancellations in the caller's own transaction: what is rolled back never was."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pymysql
import pytest
import trio
import trio_asyncio

from trio_romancy import App, Limits, Status, WorkflowContext, workflow
from trio_romancy.errors import (
    DatabaseError,
    InstanceExistsError,
    InstanceNotFoundError,
    InvalidInputError,
    PayloadTooLargeError,
    RomancyError,
    SchemaError,
)

from ..support.callers import LIBRARIES, Caller, Psycopg, PyMySQL, arguments
from ..support.databases import SHARED_KINDS, Databases, query

pytestmark = [pytest.mark.real_clock, pytest.mark.time_limit(60)]

ALL = [
    pytest.param(kind, library, id=f"{kind}-{library.__name__}")
    for kind, libraries in LIBRARIES.items()
    for library in libraries
]
on_all = pytest.mark.parametrize(("kind", "library"), ALL, indirect=["kind"])
on_shared = pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)


@workflow(name="joined_doubling")
async def doubling(ctx: WorkflowContext, number: int) -> int:
    return 2 * number


@workflow(name="joined_waiting")
async def waiting(ctx: WorkflowContext) -> Any:
    return (await ctx.wait_event("paid")).data


@asynccontextmanager
async def opened(library: type[Caller], url: str, *, autocommit: bool = False) -> AsyncIterator[Caller]:
    async with trio_asyncio.open_loop():
        caller = library()
        await caller.open(url, autocommit=autocommit)
        try:
            yield caller
        finally:
            with trio.CancelScope(shield=True):
                await caller.close()


async def make_table(url: str) -> None:
    await trio.to_thread.run_sync(query, url, "CREATE TABLE orders (id INT)")


async def orders(url: str) -> list[int]:
    rows = await trio.to_thread.run_sync(query, url, "SELECT id FROM orders ORDER BY id")
    return [id for (id,) in rows]


@on_all
async def test_what_the_caller_commits_is_started_and_not_before(library: type[Caller], database: str) -> None:
    async with App(database, idle_timeout=0) as app, opened(library, database) as caller:
        await make_table(database)
        await caller.execute("INSERT INTO orders VALUES (1)")
        handle = await app.start_in(caller.connection, doubling, 21)
        assert await app.get_instance(handle.instance_id) is None
        await caller.commit()
        with trio.fail_after(20):
            assert await handle.result() == 42
        assert await orders(database) == [1]


@on_all
async def test_what_the_caller_rolls_back_was_never_started(library: type[Caller], database: str) -> None:
    async with App(database, worker=False) as app, opened(library, database) as caller:
        await make_table(database)
        await caller.execute("INSERT INTO orders VALUES (1)")
        handle = await app.start_in(caller.connection, doubling, 21)
        await caller.roll_back()
        assert await app.get_instance(handle.instance_id) is None
        assert await orders(database) == []


@on_all
async def test_a_savepoint_undoes_the_starts_in_it_and_no_others(library: type[Caller], database: str) -> None:
    async with App(database, worker=False) as app, opened(library, database) as caller:
        await make_table(database)
        await caller.execute("INSERT INTO orders VALUES (1)")
        kept = await app.start_in(caller.connection, doubling, 1)
        await caller.savepoint()
        await caller.execute("INSERT INTO orders VALUES (2)")
        undone = await app.start_in(caller.connection, doubling, 2)
        await caller.roll_back_to_savepoint()
        later = await app.start_in(caller.connection, doubling, 3)
        await caller.commit()
        found = {instance.instance_id for instance in (await app.list_instances()).instances}
        assert found == {kept.instance_id, later.instance_id}
        assert undone.instance_id not in found
        assert await orders(database) == [1]


@on_all
async def test_a_connection_that_commits_each_statement_by_itself_is_refused(
    library: type[Caller], database: str
) -> None:
    async with App(database, worker=False) as app, opened(library, database, autocommit=True) as caller:
        await make_table(database)
        await caller.execute("INSERT INTO orders VALUES (1)")
        with pytest.raises(RomancyError, match="commits each statement by itself, so there is no transaction to join"):
            await app.start_in(caller.connection, doubling, 1)
        with pytest.raises(RomancyError, match="commits each statement by itself"):
            await app.send_event_in(caller.connection, "paid")
        assert (await app.list_instances()).instances == []


@on_all
async def test_an_event_and_a_cancellation_come_with_the_commit(library: type[Caller], database: str) -> None:
    async with App(database) as app, opened(library, database) as caller:
        await make_table(database)
        paid, cancelled, neither = [await app.start(waiting) for _ in range(3)]
        await caller.execute("INSERT INTO orders VALUES (1)")
        await app.send_event_in(caller.connection, "paid", 1)
        await app.cancel_in(caller.connection, cancelled.instance_id)
        await caller.roll_back()
        await caller.execute("INSERT INTO orders VALUES (2)")
        sent = await app.send_event_in(caller.connection, "paid", 2, to=paid.instance_id, id="one")
        assert not sent.is_duplicate
        assert (await app.send_event_in(caller.connection, "paid", 2, to=paid.instance_id, id="one")).is_duplicate
        assert await app.cancel_in(caller.connection, cancelled.instance_id, "no more")
        await caller.commit()
        with trio.fail_after(20):
            assert await paid.result() == 2
            with pytest.raises(RomancyError, match="no more"):
                await cancelled.result()
        instance = await app.get_instance(neither.instance_id)
        assert instance is not None
        assert not instance.status.is_final
        assert await orders(database) == [2]


@on_all
async def test_a_refusal_leaves_the_transaction_as_it_was(library: type[Caller], database: str) -> None:
    async with App(database, worker=False, limits=Limits(max_payload=100)) as app, opened(library, database) as caller:
        await make_table(database)
        await app.start(doubling.options(id="taken"), 1)
        await caller.execute("INSERT INTO orders VALUES (1)")
        same = await app.start_in(caller.connection, doubling.options(id="taken"), 1)
        assert same.instance_id == "taken"
        with pytest.raises(InstanceExistsError, match="another input"):
            await app.start_in(caller.connection, doubling.options(id="taken"), 2)
        with pytest.raises(InvalidInputError):
            await app.start_in(caller.connection, "joined_doubling", {"number": "two"})
        with pytest.raises(PayloadTooLargeError):
            await app.start_in(caller.connection, "joined_doubling", {"number": 10**200})
        with pytest.raises(InstanceNotFoundError):
            await app.cancel_in(caller.connection, "missing")
        with pytest.raises(InstanceNotFoundError):
            await app.send_event_in(caller.connection, "paid", to="missing")
        by_name = await app.start_in(caller.connection, "joined_doubling", {"number": 2}, id="by name")
        await caller.commit()
        assert await app.get_instance(by_name.instance_id) is not None
        assert await orders(database) == [1]


@on_all
async def test_an_app_that_is_not_open_can_start_too(library: type[Caller], database: str) -> None:
    async with App(database, worker=False) as app:
        await make_table(database)
        async with opened(library, database) as caller:
            await caller.execute("INSERT INTO orders VALUES (1)")
            handle = await App(database).start_in(caller.connection, doubling, 21)
            await caller.commit()
        instance = await app.get_instance(handle.instance_id)
        assert instance is not None
        assert instance.status is Status.PENDING


@on_shared
async def test_another_kind_of_database_is_refused(database: str, databases: Databases, tmp_path: Path) -> None:
    app = App("postgresql://user@host/name" if "postgresql" not in database else "mysql://user@host/name")
    library = LIBRARIES["file" if "://" not in database else "mariadb" if "mysql" in database else "postgresql"][0]
    async with opened(library, database) as caller:
        with pytest.raises(DatabaseError, match=r"is to a database of \w+, and that of the app is"):
            await app.start_in(caller.connection, doubling, 1)


@on_all
async def test_a_database_without_tables_is_refused_and_the_transaction_goes_on(
    library: type[Caller], kind: str, databases: Databases, tmp_path: Path
) -> None:
    url = str(tmp_path / "empty.db") if kind == "file" else databases.new(kind)
    async with opened(library, url) as caller:
        await caller.execute("CREATE TABLE orders (id INT)")
        with pytest.raises(SchemaError, match="has no tables of trio_romancy"):
            await App(url).start_in(caller.connection, doubling, 1)
        await caller.execute("INSERT INTO orders VALUES (1)")
        await caller.commit()
    assert await orders(url) == [1]


async def test_another_file_is_refused(tmp_path: Path) -> None:
    one, two = str(tmp_path / "one.db"), str(tmp_path / "two.db")
    async with App(one, worker=False), App(two, worker=False) as app:
        with (
            closing(sqlite3.connect(one)) as connection,
            pytest.raises(DatabaseError, match=r"is to the file .*one\.db, and that of the app is .*two\.db"),
        ):
            await app.start_in(connection, doubling, 1)
    async with App(":memory:", worker=False) as app:
        with closing(sqlite3.connect(":memory:")) as connection, pytest.raises(DatabaseError, match="in memory"):
            await app.start_in(connection, doubling, 1)


async def test_what_is_no_connection_is_refused() -> None:
    app = App(":memory:")
    with pytest.raises(TypeError, match=r"expected a connection or a session of SQLAlchemy, .*, got builtins\.str"):
        await app.start_in("sqlite://", doubling, 1)
    import sqlalchemy as sa

    with pytest.raises(TypeError, match="which makes connections: pass the one that you have begun"):
        await app.start_in(sa.create_engine("sqlite://"), doubling, 1)


async def test_a_connection_for_asyncio_needs_its_loop(database: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine("sqlite+aiosqlite://")
    with pytest.raises(RomancyError, match="is for asyncio; call this in the asyncio loop that it was made in"):
        await App(database).start_in(engine.connect(), doubling, 1)


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_psycopg_in_pipeline_mode_is_refused_and_the_transaction_goes_on(database: str) -> None:
    async with App(database) as app, opened(Psycopg, database) as caller:
        with caller.connection.pipeline(), pytest.raises(RomancyError, match=r"outside of `with connection\.pipeline"):
            await app.start_in(caller.connection, doubling, 1)
        handle = await app.start_in(caller.connection, doubling, 1)
        await caller.commit()
        assert await handle.result() == 2


def under_repeatable_read(url: str) -> Any:
    connection = pymysql.connect(**arguments(url, "database"))
    connection.cursor().execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    connection.cursor().execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
    return connection


@pytest.mark.parametrize("kind", ["mariadb"], indirect=True)
async def test_under_repeatable_read_instances_are_started_and_events_are_refused(database: str) -> None:
    async with App(database, worker=False) as app:
        with closing(under_repeatable_read(database)) as connection:
            await app.start(doubling.options(id="taken"), 1)  # the connection does not see it
            await app.start_in(connection, doubling.options(id="taken"), 1)
            with pytest.raises(InstanceExistsError):
                await app.start_in(connection, doubling.options(id="taken"), 2)
            handle = await app.start_in(connection, doubling, 1)
            with pytest.raises(RomancyError, match="set the isolation level of the connection to READ COMMITTED"):
                await app.send_event_in(connection, "paid")
            with pytest.raises(RomancyError, match="set the isolation level of the connection to READ COMMITTED"):
                await app.cancel_in(connection, handle.instance_id)
            connection.commit()
        assert await app.get_instance(handle.instance_id) is not None


@pytest.mark.parametrize("kind", ["mariadb"], indirect=True)
async def test_a_transaction_that_was_begun_by_hand_counts(database: str) -> None:
    async with App(database, worker=False) as app:
        caller = PyMySQL()
        await caller.open(database, autocommit=True)
        with closing(caller.connection):
            caller.connection.begin()
            await app.start_in(caller.connection, doubling, 1)
            caller.connection.rollback()
        assert (await app.list_instances()).instances == []


@pytest.mark.parametrize(("kind", "library"), [("postgresql", LIBRARIES["postgresql"][0])], indirect=["kind"])
async def test_errors_are_those_of_the_callers_library(library: type[Caller], database: str) -> None:
    import psycopg

    async with App(database, worker=False) as app, opened(library, database) as caller:
        await caller.execute("SET TRANSACTION READ ONLY")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as caught:
            await app.start_in(caller.connection, doubling, 1)
        assert not re.search("sqlalchemy", str(caught.value))
