"""Messages, waits for messages, and the outbox."""

from functools import partial
from typing import Any

import sqlalchemy as sa
from alembic.operations import Operations

from trio_romancy._storage.dialects import ddl_commits
from trio_romancy._storage.dialects.sql import ExactString, long_text

revision = "0002"
down_revision = "0001"

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
    inspector = sa.inspect(op.get_bind())
    if "started_after" not in {column["name"] for column in inspector.get_columns("romancy_instances")}:
        comment = "the last message that was sent before it was started"
        column = sa.Column("started_after", sa.BigInteger, nullable=False, server_default="0", comment=comment)
        op.add_column("romancy_instances", column)
    op.create_table(
        "romancy_channels",
        sa.Column("channel", _name(), primary_key=True),
        sa.Column("last", sa.BigInteger, nullable=False, comment="of the channel '': the last message on any"),
        sa.Column("mode", ExactString(16), comment="what its first subscriber made of it; NULL: it has had none"),
        sa.Column("touched_at", sa.BigInteger, nullable=False),
        if_not_exists=may_exist,
        **_options,
    )
    op.create_table(
        "romancy_messages",
        sa.Column(
            "seq",
            sa.BigInteger,
            primary_key=True,
            autoincrement=False,
            comment="messages are committed in this order",
        ),
        sa.Column("channel", _name(), nullable=False, comment="of an event: its type"),
        sa.Column(
            "addressee", _name(), nullable=False, comment="the one instance that it is for; '': none in particular"
        ),
        sa.Column("subject", _name()),
        sa.Column("source", _name(), comment="of an event"),
        sa.Column("event_id", _name()),
        sa.Column("event_time", sa.BigInteger),
        sa.Column("sender", _name(), comment="the instance that has sent it"),
        sa.Column("data", long_text(), nullable=False),
        sa.Column("metadata", long_text()),
        sa.Column("sent_at", sa.BigInteger, nullable=False),
        sa.Column("taken_by", _name(), comment="the instance that has it, where only one gets it"),
        if_not_exists=may_exist,
        **_options,
    )
    op.create_table(
        "romancy_waits",
        sa.Column("instance_id", _name(), primary_key=True),
        sa.Column("operation_id", _name(), primary_key=True),
        sa.Column("channel", _name(), nullable=False),
        sa.Column("subject", _name(), comment="NULL: any"),
        sa.Column("after", sa.BigInteger, nullable=False, comment="messages up to this one are not for it"),
        sa.Column("mode", ExactString(16), comment="of the subscription; NULL: it waits for an event"),
        sa.Column("is_open", sa.Boolean, nullable=False, comment="false: a subscription that nothing waits on now"),
        if_not_exists=may_exist,
        **_options,
    )
    op.create_table(
        "romancy_outbox",
        sa.Column("instance_id", _name(), primary_key=True),
        sa.Column(
            "seq",
            sa.Integer,
            primary_key=True,
            autoincrement=False,
            comment="the journal entry that it was sent with",
        ),
        sa.Column(
            "number",
            sa.Integer,
            primary_key=True,
            autoincrement=False,
            comment="its place among those of that entry",
        ),
        sa.Column("event_id", _name(), nullable=False),
        sa.Column("source", _name(), nullable=False),
        sa.Column("type", _name(), nullable=False),
        sa.Column("subject", _name()),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("data", long_text(), nullable=False),
        sa.Column("status", ExactString(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", sa.BigInteger, comment="when to send it; NULL: not any more"),
        sa.Column("claimed_by", _name(), comment="the worker that is sending it"),
        sa.Column("claimed_until", sa.BigInteger, comment="when another may"),
        sa.Column("error", long_text()),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        if_not_exists=may_exist,
        **_options,
    )
    _index(op, "messages", "channel", ["channel", "addressee", "seq"])
    _index(op, "messages", "subject", ["subject", "channel", "seq"], partial_on="subject")
    _index(op, "messages", "event", ["event_id", "source"], unique=True)
    _index(op, "messages", "taken_by", ["channel", "taken_by", "seq"])
    _index(op, "waits", "channel", ["channel", "subject"])
    _index(op, "outbox", "due_at", ["due_at"], partial_on="due_at")


def _index(
    op: Operations,
    table: str,
    name: str,
    columns: list[str],
    *,
    unique: bool = False,
    partial_on: str | None = None,
) -> None:
    table, index = f"romancy_{table}", f"ix_romancy_{table}_{name}"
    if index in {made["name"] for made in sa.inspect(op.get_bind()).get_indexes(table)}:
        return
    there = None if partial_on is None else sa.column(partial_on).is_not(None)
    op.create_index(index, table, columns, unique=unique, sqlite_where=there, postgresql_where=there)
