"""Brings the tables of a database to what :mod:`..schema` says, with alembic."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, String, Table, insert, inspect, select
from sqlalchemy.exc import DBAPIError

from ...errors import SchemaError
from ..dialects import is_made_already, made_by, migrated_elsewhere, only_migrator
from ..sql.tables import REVISION

VERSION_TABLE = "romancy_alembic_version"
"""Its own, so that it does not meet the user's alembic in the same database."""

_PREFIX = "romancy_"
"""Of the names of all tables."""

_made: list[str] = []
"""What makes all tables in a new SQLite database, once one has been migrated: the next takes a hundredth of the time,
and a test suite opens thousands of them in memory."""

_version = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32)))


def is_current(connection: Connection) -> bool:
    """Whether the tables are those that this version works with."""
    return revision(connection) == REVISION


def migrate(connection: Connection) -> None:
    """Bring the tables up to date. Whoever comes second, of many that start at once, finds nothing to do.

    Raises:
      SchemaError: if they were made by a newer version of trio_romancy.
    """
    if is_current(connection):
        return
    with only_migrator(connection):
        found = revision(connection)
        if found is None and _made and made_by(connection, _PREFIX) == []:
            for statement in _made:
                connection.exec_driver_sql(statement)
            connection.execute(insert(_version).values(version_num=REVISION))
        elif found != REVISION:
            _upgrade(connection, found)
            if found is None:
                _made[:] = made_by(connection, _PREFIX) or _made


def _upgrade(connection: Connection, found: str | None) -> None:
    # Imported late: alembic takes longer to import than all the rest, and is not needed once the tables are there.
    from alembic.migration import MigrationContext
    from alembic.operations import Operations
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    # Not by alembic's commands: what they work on belongs to the whole process, which may have other databases.
    scripts = ScriptDirectory(str(Path(__file__).parent))
    options = {"version_table": VERSION_TABLE, "fn": lambda revision, _: scripts._upgrade_revs("head", revision)}
    context = MigrationContext.configure(connection, opts=options)
    if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
        raise _too_new(found)
    try:
        # The caller holds a transaction open: all steps commit together, where the database can do that.
        context.run_migrations(op=Operations(context))
    except CommandError as error:
        raise migrated_elsewhere() from error  # the revision is not what it was
    except DBAPIError as error:
        raise (migrated_elsewhere() if is_made_already(error) else error) from error


def check(connection: Connection) -> None:
    """Raise :class:`SchemaError` unless the tables are those that this version works with."""
    found = revision(connection)
    if found is None:
        raise SchemaError(
            "the database has no tables of trio_romancy; start one app with auto_migrate=True to make them, "
            "or run trio-romancy migrate"
        )
    if found < REVISION:
        raise SchemaError(
            f"the tables of trio_romancy in the database have revision {found}, this version works with {REVISION}; "
            f"start one app with auto_migrate=True to bring them up to date, or run trio-romancy migrate"
        )
    if found > REVISION:
        raise _too_new(found)


def revision(connection: Connection) -> str | None:
    """The migration that the tables were brought to; None if there are none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.execute(select(_version.c.version_num)).scalar()
    return found


def _too_new(found: str | None) -> SchemaError:
    return SchemaError(
        f"the database has revision {found} of the tables of trio_romancy, and this version knows up to {REVISION}: "
        f"a newer version has migrated it; install that version here as well"
    )
