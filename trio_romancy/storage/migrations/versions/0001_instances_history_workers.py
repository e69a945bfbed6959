"""Instances, their journals, and the workers that run them."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

_options: dict[str, Any] = {
    "sqlite_with_rowid": False,
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}


def _name(length: int = 255) -> sa.types.TypeEngine[str]:
    exact = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return sa.String(length).with_variant(exact, "mysql", "mariadb")


def _json() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "romancy_instances",
        sa.Column("instance_id", _name(), primary_key=True),
        sa.Column("workflow", _name(), nullable=False),
        sa.Column("status", _name(16), nullable=False),
        sa.Column("input", _json(), nullable=False),
        sa.Column("output", _json()),
        sa.Column("error", _json()),
        sa.Column("owner", _name(), comment="the worker that may write its journal"),
        sa.Column("wake_at", sa.BigInteger, comment="from when it wants a worker's attention; NULL: not at all"),
        sa.Column("cancel_requested", _json(), comment="the reason of an accepted cancel request; NULL: none"),
        sa.Column("recoveries", sa.Integer, nullable=False, comment="deaths of its worker since it last made progress"),
        sa.Column("parent_id", _name()),
        sa.Column("continued_from", _name()),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        **_options,
    )
    for column in ("wake_at", "owner"):
        there = sa.column(column).is_not(None)
        op.create_index(
            f"ix_romancy_instances_{column}",
            "romancy_instances",
            [column],
            sqlite_where=there,
            postgresql_where=there,
        )
    op.create_table(
        "romancy_history",
        sa.Column("instance_id", _name(), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("operation_id", _name(), nullable=False),
        sa.Column("kind", _name(32), nullable=False),
        sa.Column("payload", _json()),
        sa.Column("recorded_at", sa.BigInteger, nullable=False),
        **_options,
    )
    op.create_table(
        "romancy_workers",
        sa.Column("worker_id", _name(), primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False, comment="grows each time the lease changes hands"),
        sa.Column("batch", sa.BigInteger, nullable=False, comment="the last batch of this epoch that was committed"),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("joined_at", sa.BigInteger, nullable=False),
        sa.Column("process", _json(), nullable=False, comment="host, process id and start of the worker's process"),
        **_options,
    )
