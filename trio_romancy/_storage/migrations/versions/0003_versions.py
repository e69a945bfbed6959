"""Versions of workflow code, and the journals that do not fit a version."""

from functools import partial

import sqlalchemy as sa
from alembic.operations import Operations

from trio_romancy._storage.dialects import ddl_commits
from trio_romancy._storage.dialects.sql import ExactString, long_text

revision = "0003"
down_revision = "0002"

_name = partial(ExactString, 255)


def upgrade(op: Operations) -> None:
    # Where each step commits by itself, a process that died half way has left some of this.
    may_exist = ddl_commits(op.get_bind())
    if "version" not in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("romancy_workers")}:
        op.add_column("romancy_workers", sa.Column("version", _name(), comment="of the code of its workflows"))
    op.create_table(
        "romancy_misfits",
        sa.Column("instance_id", _name(), primary_key=True),
        sa.Column("version", _name(), primary_key=True, comment="of the code that its journal does not fit"),
        sa.Column("error", long_text(), nullable=False),
        sa.Column("found_at", sa.BigInteger, nullable=False),
        if_not_exists=may_exist,
        sqlite_with_rowid=False,
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mariadb_engine="InnoDB",
        mariadb_charset="utf8mb4",
    )
