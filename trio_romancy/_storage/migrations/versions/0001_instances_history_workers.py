"""Instances, their journals, and the workers that run them."""

from functools import partial
from typing import Any

import sqlalchemy as sa
from alembic.operations import Operations

from trio_romancy._storage.dialects import ddl_commits
from trio_romancy._storage.dialects.sql import ExactString, long_text

revision = "0001"
down_revision = None

_options: dict[str, Any] = {
    "sqlite_with_rowid": False,
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}

_name = partial(ExactString, 255)


def upgrade(op: Operations) -> None:
    # Where each step commits by itself, a process that died half way has left some of this.
    may_exist = ddl_commits(op.get_bind())
    op.create_table(
        "romancy_instances",
        sa.Column("instance_id", _name(), primary_key=True),
        sa.Column("workflow", _name(), nullable=False),
        sa.Column("status", ExactString(16), nullable=False),
        sa.Column("input", long_text(), nullable=False),
        sa.Column("output", long_text()),
        sa.Column("error", long_text()),
        sa.Column("owner", _name(), comment="the worker that may write its journal"),
        sa.Column("wake_at", sa.BigInteger, comment="from when it wants a worker's attention; NULL: not at all"),
        sa.Column("cancel_requested", long_text(), comment="the reason of an accepted cancel request; NULL: none"),
        sa.Column("recoveries", sa.Integer, nullable=False, comment="deaths of its worker since it last made progress"),
        sa.Column("parent_id", _name()),
        sa.Column("continued_from", _name()),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        if_not_exists=may_exist,
        **_options,
    )
    made = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes("romancy_instances")}
    for column in ("wake_at", "owner"):
        name, there = f"ix_romancy_instances_{column}", sa.column(column).is_not(None)
        if name not in made:
            op.create_index(name, "romancy_instances", [column], sqlite_where=there, postgresql_where=there)
    op.create_table(
        "romancy_history",
        sa.Column("instance_id", _name(), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("operation_id", _name(), nullable=False),
        sa.Column("kind", ExactString(32), nullable=False),
        sa.Column("payload", long_text()),
        sa.Column("recorded_at", sa.BigInteger, nullable=False),
        if_not_exists=may_exist,
        **_options,
    )
    op.create_table(
        "romancy_workers",
        sa.Column("worker_id", _name(), primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False, comment="grows each time the lease changes hands"),
        sa.Column("batch", sa.BigInteger, nullable=False, comment="the last batch of this epoch that was committed"),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("joined_at", sa.BigInteger, nullable=False),
        sa.Column("process", long_text(), nullable=False, comment="host, process id and start of the worker's process"),
        if_not_exists=may_exist,
        **_options,
    )
