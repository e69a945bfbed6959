"""The tables: made once however many start at once, exactly those of the schema, and never those of another version."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, select, text

from trio_romancy import App, SchemaError, WorkflowContext, workflow
from trio_romancy.storage import migrations, schema
from trio_romancy.storage.database import open_database

OURS = {"romancy_instances", "romancy_history", "romancy_workers", migrations.VERSION_TABLE}


@workflow
async def migrations_workflow(ctx: WorkflowContext) -> int:
    return 1


@pytest.fixture
def empty() -> Iterator[Connection]:
    """A connection to a new database."""
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def revision(connection: Connection) -> str:
    return str(connection.execute(text(f"SELECT version_num FROM {migrations.VERSION_TABLE}")).scalar_one())


def set_revision(connection: Connection, revision: str) -> None:
    connection.execute(text(f"UPDATE {migrations.VERSION_TABLE} SET version_num = :revision"), {"revision": revision})


def definitions(connection: Connection) -> dict[str, str]:
    """How each table and index of ours is defined, in one form."""
    found = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")).all()
    return {name: re.sub(r"[\s\"]+", " ", sql).strip() for name, sql in found if name != migrations.VERSION_TABLE}


# -- what they make ----------------------------------------------------------------------------------------------------


def test_a_new_database_gets_all_tables_at_the_newest_revision(empty: Connection) -> None:
    migrations.migrate(empty)
    assert tables(empty) == OURS
    assert revision(empty) == schema.REVISION
    migrations.check(empty)


def test_the_migrations_make_exactly_what_the_schema_says(empty: Connection) -> None:
    migrations.migrate(empty)
    options = {"version_table": migrations.VERSION_TABLE, "compare_type": True, "compare_server_default": True}
    context = MigrationContext.configure(empty, opts=options)
    assert compare_metadata(context, schema.metadata) == []


def test_the_migrations_make_the_same_indexes_and_table_options_as_the_schema(empty: Connection) -> None:
    """Which a comparison of metadata does not see: partial indexes, tables without row ids."""
    migrations.migrate(empty)
    made = definitions(empty)
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        schema.metadata.create_all(connection)
        wanted = definitions(connection)
    engine.dispose()
    assert sorted(made) == sorted(wanted)
    for name, sql in wanted.items():
        if sql.startswith("CREATE TABLE"):
            assert made[name].endswith("WITHOUT ROWID") == sql.endswith("WITHOUT ROWID"), name
        else:
            assert made[name] == sql


def test_the_revision_of_the_schema_is_that_of_the_last_migration() -> None:
    folder = Path(migrations.__file__).parent
    assert ScriptDirectory(str(folder)).get_heads() == [schema.REVISION]


def test_revisions_sort_in_the_order_in_which_they_are_taken() -> None:
    folder = Path(migrations.__file__).parent
    oldest_first = [script.revision for script in reversed(list(ScriptDirectory(str(folder)).walk_revisions()))]
    assert oldest_first == sorted(oldest_first)


def test_a_database_that_is_up_to_date_is_left_as_it_is(empty: Connection) -> None:
    migrations.migrate(empty)
    empty.execute(text("INSERT INTO romancy_workers VALUES ('me', 1, 2, 3, 4, '{}')"))
    before = definitions(empty)
    migrations.migrate(empty)
    assert definitions(empty) == before
    assert empty.execute(select(schema.workers.c.epoch)).scalars().all() == [1]


# -- without migrating -------------------------------------------------------------------------------------------------


def test_a_database_without_our_tables_does_not_pass_the_check(empty: Connection) -> None:
    with pytest.raises(SchemaError, match="no tables of trio_romancy; start one app with auto_migrate=True"):
        migrations.check(empty)
    assert tables(empty) == set()


def test_a_database_with_older_tables_does_not_pass_the_check(empty: Connection) -> None:
    migrations.migrate(empty)
    set_revision(empty, "0000")
    with pytest.raises(
        SchemaError, match=f"revision 0000, this version works with {schema.REVISION}; start one app with auto"
    ):
        migrations.check(empty)


@pytest.mark.parametrize("prepare", [migrations.check, migrations.migrate], ids=["check", "migrate"])
def test_tables_of_a_newer_version_are_refused_and_unharmed(empty: Connection, prepare: object) -> None:
    migrations.migrate(empty)
    set_revision(empty, "9999")
    before = definitions(empty)
    with pytest.raises(
        SchemaError, match=f"revision 9999 .* knows up to {schema.REVISION}: a newer version has migrated it"
    ):
        prepare(empty)  # type: ignore[operator]
    assert definitions(empty) == before
    assert revision(empty) == "9999"


# -- by an app ---------------------------------------------------------------------------------------------------------


def refused(error: BaseException) -> str:
    """The text of the one error in a group of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    assert isinstance(error, SchemaError)
    return str(error)


@pytest.mark.real_clock
async def test_an_app_without_auto_migrate_makes_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    with pytest.raises((SchemaError, ExceptionGroup)) as caught:
        async with App(str(path), auto_migrate=False):
            pass
    assert "start one app with auto_migrate=True" in refused(caught.value)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []


@pytest.mark.real_clock
async def test_an_app_without_auto_migrate_works_on_the_right_tables(tmp_path: Path) -> None:
    path = str(tmp_path / "orders.db")
    async with open_database(path) as database:
        await database.run(migrations.migrate)
    async with App(path, auto_migrate=False) as app:
        assert await (await app.start(migrations_workflow)).result() == 1


@pytest.mark.real_clock
@pytest.mark.parametrize("auto_migrate", [True, False])
async def test_an_app_refuses_the_tables_of_a_newer_version(tmp_path: Path, auto_migrate: bool) -> None:
    path = str(tmp_path / "orders.db")
    async with open_database(path) as database:
        await database.run(migrations.migrate)
        await database.run(set_revision, "9999")
    with pytest.raises((SchemaError, ExceptionGroup)) as caught:
        async with App(path, auto_migrate=auto_migrate):
            pass
    assert "install that version here as well" in refused(caught.value)


@pytest.mark.real_clock
async def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = str(tmp_path / "orders.db")
    async with open_database(path) as database:
        await database.run(lambda connection: connection.execute(text("CREATE TABLE romancy_workers (mine TEXT)")))
        with pytest.raises(Exception, match="romancy_workers"):
            await database.run(migrations.migrate)
        assert await database.read(tables) == {"romancy_workers"}


# -- many at once ------------------------------------------------------------------------------------------------------

STARTER = """
import sys, trio
from trio_romancy import App
import alembic.command, alembic.config  # so that all of them are as quick

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    async with App(sys.argv[1], worker_id=sys.argv[2]):
        print("open", flush=True)
        sys.stdin.readline()

trio.run(main)
"""


def read_line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def write_line(stream: IO[str] | None) -> None:
    assert stream is not None
    stream.write("\n")
    stream.flush()


def test_many_processes_that_open_a_new_file_at_once_all_find_the_same_tables(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", STARTER, str(path), f"worker-{number}"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(5)
        ]
        assert [read_line(process.stdout) for process in processes] == ["ready\n"] * 5
        for process in processes:
            write_line(process.stdin)
        opened = [read_line(process.stdout) for process in processes]
        if opened == ["open\n"] * 5:
            with closing(sqlite3.connect(path)) as connection:
                found = connection.execute("SELECT worker_id FROM romancy_workers ORDER BY 1").fetchall()
                assert found == [(f"worker-{number}",) for number in range(5)]
        complaints = [process.communicate("\n", timeout=20)[1] for process in processes]
        assert (opened, complaints) == (["open\n"] * 5, [""] * 5)
        assert [process.returncode for process in processes] == [0] * 5
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        migrations.check(connection)
        assert connection.execute(select(schema.workers)).all() == []
    engine.dispose()
