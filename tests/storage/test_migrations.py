"""Migrations make exactly the tables of the schema, once, and leave those of another version alone."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import IO

import pytest
import trio
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, inspect, select, text
from trio_asyncio import open_loop

from trio_romancy import App, SchemaError, WorkflowContext, workflow
from trio_romancy._storage import migrations
from trio_romancy._storage.drivers import connections
from trio_romancy._storage.open import open_database
from trio_romancy._storage.sql import tables as schema

from ..support.databases import SHARED_KINDS, Databases, query
from ..support.probe import probe
from ..support.servers import PRODUCTS

pytestmark = pytest.mark.long

OURS = {table.name for table in schema.metadata.sorted_tables} | {migrations.VERSION_TABLE}


@workflow
async def migrations_workflow(ctx: WorkflowContext) -> int:
    return 1


@pytest.fixture(autouse=True)
def no_definitions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the statements that an earlier migration of SQLite has left."""
    monkeypatch.setattr(migrations, "_definitions", [])


@pytest.fixture
def new(kind: str, databases: Databases, tmp_path: Path) -> str:
    """Return the URL of an empty database."""
    return str(tmp_path / "romancy.db") if kind == "file" else databases.new(kind)


def tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def revision(connection: Connection) -> str:
    return str(connection.execute(text(f"SELECT version_num FROM {migrations.VERSION_TABLE}")).scalar_one())


def set_revision(connection: Connection, revision: str) -> None:
    connection.execute(text(f"UPDATE {migrations.VERSION_TABLE} SET version_num = :revision"), {"revision": revision})


DEFINITIONS = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL",
    "postgresql": (
        "SELECT table_name || '.' || column_name, "
        "concat_ws(' ', data_type, character_maximum_length, collation_name, is_nullable, column_default) "
        "FROM information_schema.columns WHERE table_schema = current_schema() UNION ALL "
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()"
    ),
}


def definitions(connection: Connection) -> dict[str, str]:
    """Return the definitions of all tables and indexes, normalised."""
    if connection.dialect.name in DEFINITIONS:
        found = {row[0]: row[1] for row in connection.execute(text(DEFINITIONS[connection.dialect.name]))}
    else:
        found = {name: connection.execute(text(f"SHOW CREATE TABLE {name}")).one()[1] for name in tables(connection)}
    ours = {name: sql for name, sql in found.items() if not name.startswith(migrations.VERSION_TABLE)}
    return {name: re.sub(r"[\s\"]+", " ", sql).strip() for name, sql in ours.items()}


def compare(connection: Connection) -> list[object]:
    """Return how the tables differ from the schema, as far as alembic sees."""
    options = {"version_table": migrations.VERSION_TABLE, "compare_type": True, "compare_server_default": True}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), schema.metadata))


# -- what they make ----------------------------------------------------------------------------------------------------


def test_a_new_database_gets_all_tables_at_the_newest_revision(empty: Connection) -> None:
    migrations.migrate(empty)
    assert tables(empty) == OURS
    assert revision(empty) == schema.REVISION
    migrations.check(empty)


def test_the_migrations_make_exactly_what_the_schema_says(empty: Connection) -> None:
    migrations.migrate(empty)
    assert compare(empty) == []


def test_the_migrations_make_the_same_indexes_and_table_options_as_the_schema(empty: Connection) -> None:
    """Metadata does not show collations, partial indexes and tables without row ids."""
    migrations.migrate(empty)
    made = definitions(empty)
    schema.metadata.drop_all(empty)
    schema.metadata.create_all(empty)
    wanted = definitions(empty)
    if empty.dialect.name == "sqlite":  # alembic and SQLAlchemy lay out the same table differently
        made, wanted = (
            {name: sql[-13:] if sql.startswith("CREATE TABLE") else sql for name, sql in found.items()}
            for found in (made, wanted)
        )
    # In whichever order MariaDB shows the indexes of a table.
    parts = [{name: sorted(re.split(r", | \)", sql)) for name, sql in found.items()} for found in (made, wanted)]
    assert parts[0] == parts[1]


def test_the_revision_of_the_schema_is_that_of_the_last_migration() -> None:
    folder = Path(migrations.__file__).parent
    assert ScriptDirectory(str(folder)).get_heads() == [schema.REVISION]


def test_revisions_sort_in_the_order_in_which_they_are_taken() -> None:
    folder = Path(migrations.__file__).parent
    oldest_first = [script.revision for script in reversed(list(ScriptDirectory(str(folder)).walk_revisions()))]
    assert oldest_first == sorted(oldest_first)


def test_a_database_that_is_up_to_date_is_left_as_it_is(empty: Connection) -> None:
    migrations.migrate(empty)
    empty.execute(text("INSERT INTO romancy_workers VALUES ('me', 1, 2, 3, 4, '{}', NULL, NULL)"))
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
    """Return the text of the only error in a group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    assert isinstance(error, SchemaError)
    return str(error)


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_an_app_without_auto_migrate_makes_no_tables(new: str) -> None:
    with pytest.raises((SchemaError, ExceptionGroup)) as caught:
        async with App(new, auto_migrate=False):
            pass
    assert "start one app with auto_migrate=True" in refused(caught.value)
    async with open_loop(), open_database(new) as database:
        assert await database.read(tables) == set()


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_an_app_without_auto_migrate_works_on_the_right_tables(new: str) -> None:
    async with open_loop(), open_database(new) as database:
        await database.run(migrations.migrate)
    async with App(new, auto_migrate=False) as app:
        assert await (await app.start(migrations_workflow)).result() == 1


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
@pytest.mark.parametrize("auto_migrate", [True, False])
async def test_an_app_refuses_the_tables_of_a_newer_version(new: str, auto_migrate: bool) -> None:
    async with open_loop(), open_database(new) as database:
        await database.run(migrations.migrate)
        await database.run(set_revision, "9999")
    with pytest.raises((SchemaError, ExceptionGroup)) as caught:
        async with App(new, auto_migrate=auto_migrate):
            pass
    assert "install that version here as well" in refused(caught.value)


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", ["file", "postgresql"], indirect=True)  # MariaDB commits each table by itself
async def test_a_migration_that_fails_leaves_nothing_behind(new: str) -> None:
    async with open_loop(), open_database(new) as database:
        await database.run(lambda connection: connection.execute(text("CREATE TABLE romancy_workers (mine TEXT)")))
        with pytest.raises(Exception, match="romancy_workers"):
            await database.run(migrations.migrate)
        assert await database.read(tables) == {"romancy_workers"}


class DiedError(Exception):
    pass


def die_after(statements: int, connection: Connection) -> None:
    """Migrate, and raise after a number of statements that change something."""
    done = 0

    @event.listens_for(connection, "before_cursor_execute")
    def executing(connection: object, cursor: object, statement: str, *_: object) -> None:
        nonlocal done
        if statement.strip().startswith(("CREATE", "INSERT", "UPDATE", "ALTER")):
            done += 1
            if done > statements:
                raise DiedError

    migrations.migrate(connection)


@pytest.mark.real_clock
@pytest.mark.parametrize("statements", range(7))
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_a_migration_that_was_interrupted_is_completed_by_the_next_start(new: str, statements: int) -> None:
    async with open_loop(), open_database(new) as database:
        with pytest.raises(DiedError):
            await database.run(partial(die_after, statements))
    async with App(new) as app:
        assert await (await app.start(migrations_workflow)).result() == 1
        database = probe(app).database
        await database.read(migrations.check)
        assert await database.read(tables) == OURS
        assert await database.read(compare) == []


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


@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
def test_many_processes_that_open_a_new_database_at_once_all_find_the_same_tables(new: str) -> None:
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", STARTER, new, f"worker-{number}"],
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
            workers = query(new, "SELECT worker_id FROM romancy_workers ORDER BY 1")
            assert workers == [(f"worker-{number}",) for number in range(5)]
        complaints = [process.communicate("\n", timeout=60)[1] for process in processes]
        assert (opened, complaints) == (["open\n"] * 5, [""] * 5)
        assert [process.returncode for process in processes] == [0] * 5
    assert query(new, f"SELECT version_num FROM {migrations.VERSION_TABLE}") == [(schema.REVISION,)]
    assert query(new, "SELECT worker_id FROM romancy_workers") == []


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_many_apps_of_one_process_that_open_a_new_database_at_once_all_work(new: str) -> None:
    async def run(number: int) -> None:
        async with App(new, worker_id=f"worker-{number}") as app:
            assert await (await app.start(migrations_workflow)).result(timeout=60) == 1

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(run, number)


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", ["file"], indirect=True)
async def test_a_new_file_that_another_connection_writes_to_is_waited_for(new: str) -> None:
    """SQLite itself does not wait here: it refuses at once to change the journal mode under a writer."""
    with closing(sqlite3.connect(new, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, new)
            await trio.sleep(0.2)
            other.execute("COMMIT")


async def use(database: str) -> None:
    async with App(database) as app:
        assert await (await app.start(migrations_workflow)).result(timeout=60) == 1


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_apps_of_one_process_that_each_open_a_new_database_of_their_own_do_not_meet(
    kind: str, databases: Databases, tmp_path: Path
) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(use, str(tmp_path / f"{number}.db") if kind == "file" else databases.new(kind))


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", PRODUCTS, indirect=True)
async def test_a_migration_of_large_tables_may_take_longer_than_any_other_transaction(
    kind: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = migrations._upgrade

    def upgrade_slowly(connection: Connection, found: str | None) -> None:
        connection.execute(text("SELECT pg_sleep(2)" if kind == "postgresql" else "SELECT SLEEP(2)"))
        upgrade(connection, found)

    monkeypatch.setattr(migrations, "_upgrade", upgrade_slowly)
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT", 1.0)
    async with App(new, worker=False, start_timeout=5) as app:
        assert (await app.list_instances()).instances == []


@pytest.mark.real_clock
async def test_the_second_new_sqlite_database_is_what_the_migrations_made_of_the_first(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("first.db", "second.db", "third.db")]
    with closing(sqlite3.connect(paths[1])) as users, users:
        users.execute("CREATE TABLE orders (id)")
    with closing(sqlite3.connect(paths[2])) as users, users:
        users.execute("CREATE TABLE romancy_by_hand (id)")  # ours by its name: nothing is taken for granted then
    found = []
    for path in paths:
        async with open_loop(), open_database(path) as database:
            await database.run_long(migrations.migrate)
            assert await database.read(revision) == schema.REVISION
            found.append(await database.read(definitions))
            if path == paths[0]:
                assert migrations._definitions
    assert found[0] == {name: sql for name, sql in found[1].items() if name != "orders"}
    assert found[0] == {name: sql for name, sql in found[2].items() if name != "romancy_by_hand"}


LOGGING = """
import logging, sys, trio
from trio_romancy import App

async def main():
    async with App(sys.argv[1]):
        pass

logging.basicConfig(level=logging.DEBUG)
trio.run(main)
logging.getLogger("alembic.runtime.migration").info("a migration of the program's own")
"""


def test_the_first_start_logs_no_lines_of_alembic(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOGGING, str(tmp_path / "a.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert [line for line in done.stderr.splitlines() if "alembic" in line] == [
        "INFO:alembic.runtime.migration:a migration of the program's own"
    ]
