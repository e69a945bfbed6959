"""The tables.

Times are BIGINT microseconds since the epoch in UTC, so that no database's timestamp type and no session's time
zone can shift them. Text is compared byte by byte. The migrations in ``migrations/`` make exactly these tables.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Table

from .dialects import ExactString, long_text

REVISION = "0001"
"""The migration that brings a database to what this module says."""

metadata = MetaData()


def _name(length: int = 255) -> ExactString:
    """Ids and names."""
    return ExactString(length)


_json = long_text
"""JSON as ASCII text, kept as it is written."""

_options: dict[str, Any] = {
    "sqlite_with_rowid": False,
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}

instances = Table(
    "romancy_instances",
    metadata,
    Column("instance_id", _name(), primary_key=True),
    Column("workflow", _name(), nullable=False),
    Column("status", _name(16), nullable=False),
    Column("input", _json(), nullable=False),
    Column("output", _json()),
    Column("error", _json()),
    Column("owner", _name(), comment="the worker that may write its journal"),
    Column("wake_at", BigInteger, comment="from when it wants a worker's attention; NULL: not at all"),
    Column("cancel_requested", _json(), comment="the reason of an accepted cancel request; NULL: none"),
    Column("recoveries", Integer, nullable=False, comment="deaths of its worker since it last made progress"),
    Column("parent_id", _name()),
    Column("continued_from", _name()),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    **_options,
)

# Most instances have ended: neither index holds them, where the database has partial indexes.
Index(
    "ix_romancy_instances_wake_at",
    instances.c.wake_at,
    sqlite_where=instances.c.wake_at.is_not(None),
    postgresql_where=instances.c.wake_at.is_not(None),
)
Index(
    "ix_romancy_instances_owner",
    instances.c.owner,
    sqlite_where=instances.c.owner.is_not(None),
    postgresql_where=instances.c.owner.is_not(None),
)

# No foreign key: it would lock the instance's row with every entry, and only the owner of an instance writes both.
history = Table(
    "romancy_history",
    metadata,
    Column("instance_id", _name(), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("operation_id", _name(), nullable=False),
    Column("kind", _name(32), nullable=False),
    Column("payload", _json()),
    Column("recorded_at", BigInteger, nullable=False),
    **_options,
)

workers = Table(
    "romancy_workers",
    metadata,
    Column("worker_id", _name(), primary_key=True),
    Column("epoch", BigInteger, nullable=False, comment="grows each time the lease changes hands"),
    Column("batch", BigInteger, nullable=False, comment="the last batch of this epoch that was committed"),
    Column("expires_at", BigInteger, nullable=False),
    Column("joined_at", BigInteger, nullable=False),
    Column("process", _json(), nullable=False, comment="host, process id and start of the worker's process"),
    **_options,
)
