"""Implements the dialect for PostgreSQL, with notifications between workers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    TableValuedAlias,
    Text,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateSchema
from sqlalchemy.types import TypeEngine
from sqlalchemy.util import await_only

from ..._data.conditions import Path
from ...clock import Microseconds
from ...errors import RomancyError
from . import limits, start_routine
from .dbapi import driver_connection, execute
from .execute_many import execute_many
from .input_keys import KEY, index_name, plain_key, plain_sql
from .sql import Contains, ExactString, Rows, TextRows, UpdateMany

# -- constructs --------------------------------------------------------------------------------------------------------


@compiles(ExactString, "postgresql")
def _(type_: ExactString, compiler: Any, **options: Any) -> str:
    return f'VARCHAR({type_.length}) COLLATE "C"'


@compiles(Contains, "postgresql")
def _(element: Contains, compiler: Any, **options: Any) -> str:
    return f"STRPOS({compiler.process(element.clauses, **options)}) > 0"


@compiles(TextRows, "postgresql")
def _(element: TextRows, compiler: Any, **options: Any) -> str:
    return f"json_array_elements_text(CAST({compiler.process(element.clauses, **options)} AS JSON))"


def json_rows(parameter: str, types: Mapping[str, TypeEngine[Any]]) -> TableValuedAlias:
    """Return the rows of a JSON array of objects, given as text, as a table.

    Args:
      parameter: name of the parameter with the text, and of the table.
      types: types of the columns, by name.
    """
    columns = [column(name, type_) for name, type_ in types.items()]
    function = func.json_to_recordset(cast(bindparam(parameter, type_=Text), JSON))
    return function.table_valued(*columns).render_derived(name=parameter, with_types=True)


# -- the database ------------------------------------------------------------------------------------------------------

_now = text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)")


def product_name(connection: Connection) -> str:
    return "PostgreSQL"


def server_time(connection: Connection) -> Microseconds | None:
    return int(connection.execute(_now).scalar_one())


def file_name(connection: Connection) -> str | None:
    return None


def unsafe_settings(connection: Connection) -> list[str]:
    def setting(name: str) -> object:
        return connection.execute(text(f"SHOW {name}")).scalar_one()

    wanted = [f"{name} = on" for name in ("fsync", "full_page_writes") if setting(name) != "on"]
    if setting("synchronous_commit") == "off":
        wanted.append("synchronous_commit = on")
    return wanted


_has_standby = text("SELECT EXISTS (SELECT 1 FROM pg_stat_replication)")


def loses_by_fail_over(connection: Connection) -> str | None:
    is_awaited = connection.execute(text("SHOW synchronous_standby_names")).scalar_one()
    if is_awaited or not connection.execute(_has_standby).scalar_one():
        return None
    return "synchronous_standby_names"


def payload_problem(connection: Connection, largest: int) -> str | None:
    return None  # it takes any value up to a gigabyte


# -- statements --------------------------------------------------------------------------------------------------------

has_free_autocommit = True
writes_tables_together = True


def update_many(connection: Connection, statement: UpdateMany, rows: Rows) -> int | None:
    # asyncpg sends all rows in one round trip, and does not say how many were matched.
    matched = execute_many(connection, statement.one, rows).rowcount
    return None if matched < 0 else matched


_BY_KEYS = {
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "enable_seqscan": "off",
    "enable_mergejoin": "off",
}


def plan_once(connection: Connection, *, is_local: bool = False) -> None:
    # Planning takes as long as the work itself. A plan that PostgreSQL chooses by itself may read the whole of a table
    # that is still empty, and goes on doing so for a minute, however many rows come meanwhile.
    connection.execute(select(*(func.set_config(name, value, is_local) for name, value in _BY_KEYS.items())))


# -- notifications -----------------------------------------------------------------------------------------------------

has_notifications = True

_CHANNEL = (
    "CASE current_schema() WHEN 'public' THEN 'trio_romancy' ELSE left('trio_romancy_' || current_schema(), 63) END"
)
"""SQL for the name of the channel: apps of other schemas in the same database have others."""
_notify = text(f"SELECT pg_notify({_CHANNEL}, :owner)")


def notify_workers(connection: Connection, owners: Iterable[str | None]) -> None:
    for owner in set(owners):
        connection.execute(_notify, {"owner": owner or ""})


async def listen(connection: Any, on_notify: Callable[[str], None], on_lost: Callable[[], None]) -> None:
    channel = await connection.fetchval(f"SELECT {_CHANNEL}")
    await connection.add_listener(channel, lambda *notification: on_notify(notification[-1]))
    connection.add_termination_listener(lambda *_: on_lost())


# -- migrations --------------------------------------------------------------------------------------------------------

ddl_commits = False
has_loose_index_scans = False

_migration_lock = text("SELECT pg_advisory_xact_lock(hashtext('trio_romancy migration'))")


# Without a schema, the table is the one that a statement finds.
_has_table = text(
    "SELECT to_regclass(coalesce(quote_ident(CAST(:schema AS TEXT)) || '.', '') || quote_ident(CAST(:name AS TEXT))) "
    "IS NOT NULL"
)


def has_table(connection: Connection, name: str, schema: str | None = None) -> bool:
    return bool(connection.execute(_has_table, {"name": name, "schema": schema}).scalar_one())


_path = text("SELECT current_setting('search_path')")
_set_path = text("SELECT set_config('search_path', :path, true)")


def search_path(schema: str) -> str:
    """Return the setting with which names mean tables of a schema, and otherwise those of the usual one."""
    quoted = schema.replace('"', '""')
    return f'"{quoted}", public'


@contextmanager
def use_schema(connection: Connection, schema: str) -> Iterator[None]:
    before: str = connection.execute(_path).scalar_one()
    connection.execute(_set_path, {"path": search_path(schema)})
    try:
        yield
    except RomancyError:
        connection.execute(_set_path, {"path": before})
        raise  # after an error of the database, the rollback restores the setting
    connection.execute(_set_path, {"path": before})


def make_schema(connection: Connection, schema: str) -> None:
    if not connection.execute(_has_schema, {"schema": schema}).scalar_one():
        connection.execute(CreateSchema(schema, if_not_exists=True))
    # Only this one: the tables of another app in the usual schema are not those to migrate.
    quoted = schema.replace('"', '""')
    connection.execute(_set_path, {"path": f'"{quoted}"'})


_has_schema = text("SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = :schema)")


def table_definitions(connection: Connection, prefix: str) -> list[str] | None:
    return None


@contextmanager
def migration_lock(connection: Connection) -> Iterator[None]:
    connection.execute(_migration_lock)
    yield


def create_start_routine(connection: Connection) -> None:
    statement = start_routine.POSTGRESQL.format(at_once=start_routine.AT_ONCE, channel=_CHANNEL)
    connection.exec_driver_sql(statement)


# -- connections -------------------------------------------------------------------------------------------------------


def _settings() -> dict[str, str]:
    return {
        "TimeZone": "UTC",
        "lock_timeout": f"{limits.LOCK_TIMEOUT}s",
        "idle_in_transaction_session_timeout": f"{limits.IDLE_TIMEOUT}s",
    }


_OF_SESSION = {
    "default_transaction_isolation": "read committed",  # for statements that are transactions of their own
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}


def set_up_connection(connection: Any, schema: str | None = None) -> None:
    settings = _settings() | _OF_SESSION
    if schema is not None:
        settings["search_path"] = search_path(schema).replace("'", "''")
    calls = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())
    execute(connection, f"SELECT {calls}")


def set_up_behind_pooler(connection: Any) -> None:
    # When asyncpg meets a type that it does not know, it turns jit off in the session, and then on again. It has no
    # option for that: https://github.com/MagicStack/asyncpg/blob/master/asyncpg/connection.py (_introspect_types)
    raw = driver_connection(connection)
    raw._server_caps = raw._server_caps._replace(jit=False)


def set_up_transaction(connection: Connection, schema: str | None) -> None:
    settings = _settings() | {"jit": "off"}  # which takes longer than any of the statements
    if schema is not None:
        settings["search_path"] = search_path(schema)
    connection.execute(select(*(func.set_config(name, value, True) for name, value in settings.items())))


options_behind_pooler: Mapping[str, Any] = {
    # In a session of others, a statement with a name would be left behind, or meet one of the same name.
    "prepared_statement_name_func": str,
    "prepared_statement_cache_size": 0,
    "statement_cache_size": 0,
}


def is_behind_pooler(connection: Any) -> bool:
    # A pooler gives its clients numbers of its own. In a transaction, all goes to one session.
    raw = driver_connection(connection)

    async def pid() -> int:
        async with raw.transaction():
            statement = await raw.prepare("SELECT pg_backend_pid()", name="")
            return int(await statement.fetchval())

    return bool(await_only(pid()) != raw.get_server_pid())


_set_idle_timeout = text("SELECT set_config('idle_in_transaction_session_timeout', :value, true)")
"""Sets the limit for the current transaction only."""


def allow_idleness(connection: Connection) -> None:
    connection.execute(_set_idle_timeout, {"value": "0s"})


def limit_idleness(connection: Connection) -> None:
    connection.execute(_set_idle_timeout, {"value": f"{limits.IDLE_TIMEOUT}s"})


def misses_commits(connection: Connection) -> bool:
    return False  # a transaction with an older view gets an error when it writes what another has changed


def is_in_transaction(connection: Connection) -> bool:
    in_transaction: bool = driver_connection(connection.connection.dbapi_connection).is_in_transaction()
    return in_transaction


def restore_idleness(connection: Connection) -> None:
    pass  # the limit was lifted for one transaction


def connection_id(connection: Any) -> int:
    return int(driver_connection(connection).get_server_pid())


_uptime = text("SELECT extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())")
_end_own = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE pid = :id AND usename = current_user AND datname = current_database()"
)


def end_connection(connection: Connection, id: int, age: float) -> None:
    if connection.execute(_uptime).scalar_one() >= age:
        connection.execute(_end_own, {"id": id})


# -- the index over a path of the inputs -------------------------------------------------------------------------------


def literal(ascii_text: str) -> str:
    digits = ascii_text.encode("ascii").hex()
    # Of ASCII text, ENCODE(..., 'escape') changes only backslashes, which it doubles.
    return f"REPLACE(ENCODE(DECODE('{digits}', 'hex'), 'escape'), CHR(92) || CHR(92), CHR(92))"


def key_sql(document: str, path: Path) -> str:
    keys = ", ".join(literal(plain_key(key)) for key in path)
    value = f"CAST({plain_sql(document, literal)} AS JSONB) #> CAST(ARRAY[{keys}] AS TEXT[])"
    return f"LEFT(CAST({value} AS TEXT), {KEY.length})"


def indexed_key(path: Path) -> ColumnElement[str]:
    return literal_column(key_sql("input", path), KEY)


_complete = text(
    "SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid "
    "WHERE indrelid = to_regclass('romancy_instances') AND indisvalid AND relname IN :names"
).bindparams(bindparam("names", expanding=True))

_try_index_lock = text("SELECT pg_try_advisory_lock(hashtext('trio_romancy index'))")


def existing_indexes(connection: Connection, names: Collection[str]) -> set[str]:
    return set(connection.execute(_complete, {"names": list(names)}).scalars())


def create_input_index(connection: Connection, path: Path) -> bool:
    # A process that creates an index waits for all transactions, so no transaction may wait here for its lock.
    if not connection.execute(_try_index_lock).scalar():
        return False  # the lock is held until the other connection is closed
    name = index_name(path)
    if existing_indexes(connection, [name]):
        return True
    connection.exec_driver_sql("SELECT set_config('search_path', quote_ident(current_schema()), false)")
    connection.exec_driver_sql("SET lock_timeout = 0")  # no other connection has to wait meanwhile
    connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")  # left by a process that died
    columns = f"({key_sql('input', path)}), created_at, instance_id"
    connection.exec_driver_sql(f"CREATE INDEX CONCURRENTLY {name} ON romancy_instances ({columns})")
    return True
