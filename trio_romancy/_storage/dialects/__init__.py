"""The dialects of the databases: one interface, one module per database, chosen here by name and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

from sqlalchemy import Connection, Engine

from ...clock import Microseconds
from . import mysql, postgresql, sqlite
from .dialect import Dialect, ServerDialect
from .sql import Rows, UpdateMany

_SERVERS: dict[str, ServerDialect] = {"mysql": mysql, "mariadb": mysql, "postgresql": postgresql}
_ALL: dict[str, Dialect] = {"sqlite": sqlite, **_SERVERS}


def dialect_of(bound: Connection | Engine) -> Dialect:
    """Return what is specific to the database of a connection or an engine."""
    return _ALL[bound.dialect.name]


def server_dialect_of(bound: Connection | Engine) -> ServerDialect:
    """Return what is specific to the database server of a connection or an engine."""
    return _SERVERS[bound.dialect.name]


# -- as plain functions over a connection ------------------------------------------------------------------------------


def describe(connection: Connection) -> str:
    """Return the name and the version of the database."""
    version = ".".join(map(str, connection.dialect.server_version_info or ()))
    return f"{dialect_of(connection).product_name(connection)} {version}"


def backend_name(connection: Connection) -> str:
    """Return SQLAlchemy's name of the database, which is "mysql" for MariaDB, too."""
    return "mysql" if dialect_of(connection) is mysql else connection.dialect.name


def server_time(connection: Connection) -> Microseconds | None:
    """See :meth:`.Dialect.server_time`."""
    return dialect_of(connection).server_time(connection)


def file_name(connection: Connection) -> str | None:
    """See :meth:`.Dialect.file_name`."""
    return dialect_of(connection).file_name(connection)


def use_schema(connection: Connection, schema: str) -> AbstractContextManager[None]:
    """See :meth:`.ServerDialect.use_schema`."""
    return server_dialect_of(connection).use_schema(connection, schema)


def misses_commits(connection: Connection) -> bool:
    """See :meth:`.Dialect.misses_commits`."""
    return dialect_of(connection).misses_commits(connection)


def unsafe_settings(connection: Connection) -> list[str]:
    """See :meth:`.Dialect.unsafe_settings`."""
    return dialect_of(connection).unsafe_settings(connection)


def loses_by_fail_over(connection: Connection) -> str | None:
    """See :meth:`.Dialect.loses_by_fail_over`."""
    return dialect_of(connection).loses_by_fail_over(connection)


def payload_problem(connection: Connection, largest: int) -> str | None:
    """See :meth:`.Dialect.payload_problem`."""
    return dialect_of(connection).payload_problem(connection, largest)


def notify_workers(connection: Connection, owners: Iterable[str | None] = (None,)) -> None:
    """See :meth:`.Dialect.notify_workers`."""
    dialect_of(connection).notify_workers(connection, owners)


def update_many(connection: Connection, statement: UpdateMany, rows: Rows) -> int | None:
    """See :meth:`.Dialect.update_many`."""
    return dialect_of(connection).update_many(connection, statement, rows)


def create_start_routine(connection: Connection) -> None:
    """See :meth:`.Dialect.create_start_routine`."""
    dialect_of(connection).create_start_routine(connection)


def ddl_commits(connection: Connection) -> bool:
    """See :attr:`.Dialect.ddl_commits`."""
    return dialect_of(connection).ddl_commits


def has_loose_index_scans(connection: Connection) -> bool:
    """See :attr:`.Dialect.has_loose_index_scans`."""
    return dialect_of(connection).has_loose_index_scans
