"""Chains of instances, details, traces, and archived journals."""

from functools import partial
from typing import Any

import sqlalchemy as sa
from alembic.operations import Operations

from trio_romancy._storage.dialects import ddl_commits
from trio_romancy._storage.dialects.sql import ExactString, long_text

revision = "0004"
down_revision = "0003"

_name = partial(ExactString, 255)


def upgrade(op: Operations) -> None:
    # Where each step commits by itself, a process that died half way has left some of this.
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("romancy_instances")}
    columns: list[sa.Column[Any]] = [
        sa.Column("origin", _name(), comment="the first of the chain that it goes on with; NULL: it is the first"),
        sa.Column("details", long_text(), comment="what it says of itself"),
        sa.Column("trace", long_text(), comment="the W3C trace context that it was started in"),
    ]
    for column in columns:
        if column.name not in there:
            op.add_column("romancy_instances", column)
    op.create_table(
        "romancy_history_archive",
        sa.Column("instance_id", _name(), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("operation_id", _name(), nullable=False),
        sa.Column("kind", ExactString(32), nullable=False),
        sa.Column("payload", long_text()),
        sa.Column("recorded_at", sa.BigInteger, nullable=False),
        if_not_exists=ddl_commits(op.get_bind()),
        sqlite_with_rowid=False,
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mariadb_engine="InnoDB",
        mariadb_charset="utf8mb4",
    )
    _index(op, "created_at", ["created_at", "instance_id"])
    _index(op, "parent_id", ["parent_id"], partial_on="parent_id")
    _index(op, "origin", ["origin", "status"], partial_on="origin")


def _index(op: Operations, name: str, columns: list[str], *, partial_on: str | None = None) -> None:
    table, index = "romancy_instances", f"ix_romancy_instances_{name}"
    if index in {made["name"] for made in sa.inspect(op.get_bind()).get_indexes(table)}:
        return
    there = None if partial_on is None else sa.column(partial_on).is_not(None)
    op.create_index(index, table, columns, sqlite_where=there, postgresql_where=there)
