"""Apps side by side in one database of PostgreSQL, each with a schema of its own."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
import trio

from trio_romancy import App, WorkflowContext, activity, current_activity, workflow
from trio_romancy._storage.open import open_database
from trio_romancy.errors import DatabaseError, InstanceExistsError, SchemaError

from ..support.callers import arguments
from ..support.databases import query
from ..support.servers import execute

pytestmark = [pytest.mark.real_clock, pytest.mark.time_limit(120)]
on_postgresql = pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
STRANGE = 'It\'s "strange"'


@activity(name="schema_count")
async def count(table: str) -> int:
    found: int = await current_activity().session.scalar(sa.text(f"SELECT count(*) FROM {table}"))
    return found


@workflow(name="schema_counting")
async def counting(ctx: WorkflowContext, table: str) -> int:
    event = await ctx.wait_event("go", timeout=60)
    return await count(table) + int(event.data)


async def ids(app: App) -> set[str]:
    return {instance.instance_id for instance in (await app.list_instances()).instances}


@on_postgresql
async def test_apps_in_several_schemas_do_not_see_each_other(database: str) -> None:
    execute(database, "CREATE TABLE shared_things (id INT)", "INSERT INTO shared_things VALUES (1)")
    async with (
        App(database) as usual,
        App(database, schema="one") as one,
        App(database, schema=STRANGE) as strange,
    ):
        apps = usual, one, strange
        handles = [await app.start(counting.options(id="same"), "shared_things") for app in apps]
        await one.start(counting.options(id="mine"), "romancy_instances")
        for number, app in enumerate(apps):
            sent = await app.send_event("go", number * 10)
            assert sent.waiting <= 2
        with trio.fail_after(60):
            assert [await handle.result() for handle in handles] == [1, 11, 21]
            assert await one.handle("mine").result() == 12
        assert [await ids(app) for app in apps] == [{"same"}, {"same", "mine"}, {"same"}]
        assert await one.index_input("table")
    tables = "SELECT schemaname, count(*) FROM pg_tables WHERE tablename LIKE 'romancy%' GROUP BY 1 ORDER BY 1"
    counts = dict(await trio.to_thread.run_sync(query, database, tables))
    assert counts.keys() == {"public", "one", STRANGE}
    assert len({*counts.values()}) == 1
    execute(database, "DROP SCHEMA one CASCADE", f'DROP SCHEMA "{STRANGE.replace(chr(34), chr(34) * 2)}" CASCADE')


class Heard:
    """Counts notifications."""

    def __init__(self) -> None:
        self.count = 0
        self.first, self.second = trio.Event(), trio.Event()

    def __call__(self, owner: str) -> None:
        self.count += 1
        (self.first if self.count == 1 else self.second).set()


@on_postgresql
async def test_only_the_workers_of_the_schema_are_notified(database: str) -> None:
    usual_heard, one_heard = Heard(), Heard()
    async with (
        App(database, worker=False) as usual_app,
        App(database, schema="one", worker=False) as app,
        open_database(database) as usual,
        open_database(database, schema="one") as one,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(usual.listen, usual_heard)
        nursery.start_soon(one.listen, one_heard)
        with trio.fail_after(60):
            await usual_heard.first.wait()  # says that something may have been missed
            await one_heard.first.wait()
            await app.start(counting, "x")
            await one_heard.second.wait()
            assert not usual_heard.second.is_set()
            await usual_app.start(counting, "x")
            await usual_heard.second.wait()
        assert (usual_heard.count, one_heard.count) == (2, 2)
        nursery.cancel_scope.cancel()
    execute(database, "DROP SCHEMA one CASCADE")


@on_postgresql
async def test_callers_start_in_the_schema_and_keep_their_own_names(database: str) -> None:
    async with App(database, schema="one", worker=False) as app, App(database, worker=False) as usual:
        with psycopg.connect(**arguments(database, "dbname")) as connection:

            def path() -> Any:
                return connection.execute("SELECT current_setting('search_path')").fetchone()

            before = path()
            await app.start_in(connection, counting.options(id="taken"), "a")
            assert path() == before
            with pytest.raises(InstanceExistsError):
                await app.start_in(connection, counting.options(id="taken"), "b")
            assert path() == before
            connection.execute("SELECT one.romancy_start('schema_counting', '{\"table\": \"a\"}', 'by sql')")
            with pytest.raises(SchemaError, match="schema 'two' of the database has no tables of trio_romancy"):
                await App(database, schema="two").start_in(connection, counting, "a")
            assert path() == before
        assert await ids(app) == {"taken", "by sql"}
        assert await ids(usual) == set()
    execute(database, "DROP SCHEMA one CASCADE")


@on_postgresql
async def test_a_schema_without_tables_is_not_taken_for_the_usual_one(database: str) -> None:
    async with App(database, worker=False):
        pass
    with pytest.raises(SchemaError, match="schema 'absent' of the database has no tables of trio_romancy"):
        async with App(database, schema="absent", auto_migrate=False):
            pass


@pytest.mark.parametrize("kind", ["file", "mariadb"], indirect=True)
async def test_other_databases_have_no_schemas(database: str) -> None:
    with pytest.raises(DatabaseError, match="a schema is for PostgreSQL; elsewhere give each app its own database"):
        async with App(database, schema="one"):
            pass
