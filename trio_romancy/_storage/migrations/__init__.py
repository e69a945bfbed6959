"""Brings the tables of a database to the state that :mod:`..sql.tables` describes, with alembic."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, String, Table, insert, select
from sqlalchemy.exc import DBAPIError

from ...errors import SchemaError
from ..dialects import dialect_of, server_dialect_of
from ..dialects.errors import is_already_applied, migrated_elsewhere
from ..sql.tables import REVISION

VERSION_TABLE = "romancy_alembic_version"
"""Name of alembic's table. It differs from alembic's default, which the user may need in the same database."""

_PREFIX = "romancy_"
"""Start of the names of all tables."""

_definitions: list[str] = []
"""Statements that create all tables in a new SQLite database, kept once one has been migrated.

With them the next new database takes a hundredth of the time. A test suite opens thousands of them in memory.
"""

_version = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32)))


def is_current(connection: Connection, schema: str | None = None) -> bool:
    """Return whether the tables are those that this version works with."""
    return revision(connection, schema) == REVISION


def migrate(connection: Connection, schema: str | None = None) -> None:
    """Bring the tables up to date. Of many processes that start at once, one migrates and the others wait for it.

    Args:
      schema: the schema of PostgreSQL that the tables are in, which is created; None: the usual one.

    Raises:
      SchemaError: if a newer version of trio_romancy has migrated the tables.
      DatabaseAwayError: if another process is still migrating them after a while.
    """
    if is_current(connection, schema):
        return
    dialect = dialect_of(connection)
    with dialect.migration_lock(connection):
        if schema is not None:
            server_dialect_of(connection).make_schema(connection, schema)
        found = revision(connection, schema)
        if found is None and _definitions and dialect.table_definitions(connection, _PREFIX) == []:
            for statement in _definitions:
                connection.exec_driver_sql(statement)
            connection.execute(insert(_version).values(version_num=REVISION))
        elif found != REVISION:
            with _without_log_of_alembic():
                _upgrade(connection, found)
            if found is None:
                _definitions[:] = dialect.table_definitions(connection, _PREFIX) or _definitions


@contextmanager
def _without_log_of_alembic() -> Iterator[None]:
    """Keep what alembic logs in the block, below a warning, out of the log of a program that has not asked for it."""
    me = threading.get_ident()

    def is_kept(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.thread != me

    loggers = [logging.getLogger(f"alembic.runtime.{name}") for name in ("plugins", "migration")]
    for logger in loggers:
        logger.addFilter(is_kept)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_kept)


def _upgrade(connection: Connection, found: str | None) -> None:
    # Imported late: alembic takes longer to import than all else, and is not needed once the tables exist.
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    # Not through alembic's commands: their state belongs to the whole process, which may migrate other databases.
    scripts = ScriptDirectory(str(Path(__file__).parent))
    options = {"version_table": VERSION_TABLE, "fn": lambda revision, _: scripts._upgrade_revs("head", revision)}
    context = MigrationContext.configure(connection, opts=options)
    if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
        raise _too_new(found)
    try:
        # The caller holds a transaction open: where the database can do that, all steps commit together.
        context.run_migrations(op=Operations(context))
    except CommandError as error:
        raise migrated_elsewhere() from error  # the revision is not what it was
    except DBAPIError as error:
        raise (migrated_elsewhere() if is_already_applied(error) else error) from error


def check(connection: Connection, schema: str | None = None) -> None:
    """Check that the tables are those that this version works with.

    Raises:
      SchemaError: if they are not. The message says what to do.
    """
    found = revision(connection, schema)
    if found is None:
        where = "the database" if schema is None else f"schema {schema!r} of the database"
        raise SchemaError(
            f"{where} has no tables of trio_romancy; start one app with auto_migrate=True to create them, "
            "or run trio-romancy migrate"
        )
    if found < REVISION:
        raise SchemaError(
            f"the tables of trio_romancy in the database have revision {found}, this version works with {REVISION}; "
            f"start one app with auto_migrate=True to bring them up to date, or run trio-romancy migrate"
        )
    if found > REVISION:
        raise _too_new(found)


def revision(connection: Connection, schema: str | None = None) -> str | None:
    """Return the last migration that was applied to the tables. None if there are no tables."""
    if not dialect_of(connection).has_table(connection, VERSION_TABLE, schema):
        return None
    found: str | None = connection.execute(select(_version.c.version_num)).scalar()
    return found


def _too_new(found: str | None) -> SchemaError:
    return SchemaError(
        f"the database has revision {found} of the tables of trio_romancy, and this version knows up to {REVISION}: "
        f"a newer version has migrated it; install that version here as well"
    )
