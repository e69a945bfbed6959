"""Implements the dialect for SQLite: a file, or a database in memory, with one writer."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, literal_column, text
from sqlalchemy.ext.compiler import compiles

from ..._data.conditions import Path
from ...clock import Microseconds
from .execute_many import execute_many
from .input_keys import KEY, first_key, index_name, plain_sql, readings
from .sql import Contains, ExactString, Rows, UpdateMany

# -- constructs --------------------------------------------------------------------------------------------------------


@compiles(ExactString, "sqlite")
def _(type_: ExactString, compiler: Any, **options: Any) -> str:
    return f"VARCHAR({type_.length})"  # SQLite compares bytes anyway


@compiles(Contains, "sqlite")
def _(element: Contains, compiler: Any, **options: Any) -> str:
    return f"INSTR({compiler.process(element.clauses, **options)}) > 0"  # LIKE ignores case


# -- the database ------------------------------------------------------------------------------------------------------


def product_name(connection: Connection) -> str:
    return "SQLite"


def server_time(connection: Connection) -> Microseconds | None:
    return None


_databases = text("PRAGMA database_list")


def file_name(connection: Connection) -> str | None:
    return next((file or "" for _, name, file in connection.execute(_databases) if name == "main"), "")


def unsafe_settings(connection: Connection) -> list[str]:
    is_safe = connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
    return [] if is_safe else ["journal_mode = wal"]


def loses_by_fail_over(connection: Connection) -> str | None:
    return None  # it has no standbys


def payload_problem(connection: Connection, largest: int) -> str | None:
    return None  # it takes any value up to a gigabyte


# -- statements --------------------------------------------------------------------------------------------------------


def update_many(connection: Connection, statement: UpdateMany, rows: Rows) -> int | None:
    matched = execute_many(connection, statement.one, rows).rowcount
    return None if matched < 0 else matched


def notify_workers(connection: Connection, owners: Iterable[str | None]) -> None:
    pass


def limit_idleness(connection: Connection) -> None:
    pass  # a process that is gone has no locks on the file


def misses_commits(connection: Connection) -> bool:
    return False  # a transaction with an older view cannot write


def is_in_transaction(connection: Connection) -> bool:
    in_transaction: bool = connection.connection.dbapi_connection.in_transaction  # type: ignore[union-attr]
    return in_transaction


# -- migrations --------------------------------------------------------------------------------------------------------

ddl_commits = False
has_loose_index_scans = False

_has_table = text("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name")


def has_table(connection: Connection, name: str, schema: str | None = None) -> bool:
    return connection.execute(_has_table, {"name": name}).first() is not None


_definitions = text("SELECT sql FROM sqlite_master WHERE substr(tbl_name, 1, :n) = :prefix AND sql IS NOT NULL")


def table_definitions(connection: Connection, prefix: str) -> list[str] | None:
    return list(connection.execute(_definitions, {"n": len(prefix), "prefix": prefix}).scalars())


def migration_lock(connection: Connection) -> AbstractContextManager[None]:
    return nullcontext()  # SQLite has one writer


def create_start_routine(connection: Connection) -> None:
    pass  # SQLite has no routines


# -- the index over a path of the inputs -------------------------------------------------------------------------------


def literal(ascii_text: str) -> str:
    return f"CAST(X'{ascii_text.encode('ascii').hex()}' AS TEXT)"


def key_sql(document: str, path: Path) -> str:
    document = plain_sql(document, literal)
    return first_key(document, [f"{document} -> {literal(reading)}" for reading in readings(path)], literal)


def indexed_key(path: Path) -> ColumnElement[str]:
    return literal_column(key_sql("input", path), KEY)


_complete = text("SELECT name FROM sqlite_master WHERE type = 'index' AND name IN :names").bindparams(
    bindparam("names", expanding=True)
)


def existing_indexes(connection: Connection, names: Collection[str]) -> set[str]:
    return set(connection.execute(_complete, {"names": list(names)}).scalars())


def create_input_index(connection: Connection, path: Path) -> bool:
    columns = f"{key_sql('input', path)}, created_at, instance_id"
    connection.exec_driver_sql(f"CREATE INDEX {index_name(path)} ON romancy_instances ({columns})")
    return True
