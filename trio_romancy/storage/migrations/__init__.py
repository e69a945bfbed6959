"""Brings the tables of a database to what :mod:`..schema` says, with alembic."""

from __future__ import annotations

from sqlalchemy import Column, Connection, MetaData, String, Table, inspect, select

from ...errors import SchemaError
from ..dialects import only_migrator
from ..schema import REVISION

VERSION_TABLE = "romancy_alembic_version"
"""Its own, so that it does not meet the user's alembic in the same database."""

_version = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32)))


def migrate(connection: Connection) -> None:
    """Bring the tables up to date. Whoever comes second, of many that start at once, finds nothing to do.

    Raises:
      SchemaError: if they were made by a newer version of trio_romancy.
    """
    if _revision(connection) == REVISION:
        return
    with only_migrator(connection):
        if _revision(connection) != REVISION:
            _upgrade(connection)


def _upgrade(connection: Connection) -> None:
    # Imported late: alembic takes longer to import than all the rest, and is not needed once the tables are there.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "trio_romancy.storage:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise _too_new(_revision(connection)) from error


def check(connection: Connection) -> None:
    """Raise :class:`SchemaError` unless the tables are those that this version works with."""
    found = _revision(connection)
    if found is None:
        raise SchemaError(
            "the database has no tables of trio_romancy; start one app with auto_migrate=True to make them"
        )
    if found < REVISION:
        raise SchemaError(
            f"the tables of trio_romancy in the database have revision {found}, this version works with {REVISION}; "
            f"start one app with auto_migrate=True to bring them up to date"
        )
    if found > REVISION:
        raise _too_new(found)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    revision: str | None = connection.execute(select(_version.c.version_num)).scalar()
    return revision


def _too_new(found: str | None) -> SchemaError:
    return SchemaError(
        f"the database has revision {found} of the tables of trio_romancy, and this version knows up to {REVISION}: "
        f"a newer version has migrated it; install that version here as well"
    )
