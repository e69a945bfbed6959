"""Limits and queues, what holds an instance back, and the indexes of what is due and of what is listed."""

from functools import partial
from typing import Any

import sqlalchemy as sa
from alembic.operations import Operations

from trio_romancy._storage.dialects import ddl_commits
from trio_romancy._storage.dialects.sql import ExactString, long_text

revision = "0009"
down_revision = "0008"

_options: dict[str, Any] = {
    "sqlite_with_rowid": False,
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}

_name = partial(ExactString, 255)
_short = partial(ExactString, 100)


def upgrade(op: Operations) -> None:
    _extend_instances(op)
    _create_limits(op)
    _create_queues(op)
    _create_schedules(op)


def _extend_instances(op: Operations) -> None:
    # Where each step commits by itself, a process that died half way has left some of this.
    inspector = sa.inspect(op.get_bind())
    there = {column["name"] for column in inspector.get_columns("romancy_instances")}
    held = "what keeps workers from claiming it"
    columns: list[sa.Column[Any]] = [
        sa.Column("held", sa.SmallInteger, nullable=False, server_default="0", comment=held),
        sa.Column("queue", _short(), comment="NULL: none"),
        sa.Column("queue_key", _name(), comment="what it shares its queue's limits for each key with"),
        sa.Column("priority", sa.Integer, comment="in its queue, the highest first; NULL: 0"),
        sa.Column("weight", sa.Integer, comment="share of its key in its queue, in thousandths; NULL: 1000"),
        sa.Column("not_before", sa.BigInteger, comment="when it may begin to run; NULL: at once"),
        sa.Column("deadline", sa.BigInteger, comment="when it is cancelled if it has not ended"),
        sa.Column("paused_until", sa.BigInteger, comment="NULL: it is not paused"),
        sa.Column("pause_reason", long_text()),
        sa.Column("keep_until", sa.BigInteger, comment="when its data may be deleted; NULL: as the app says"),
        sa.Column("version", _name(), comment="of the code that it is to run with; NULL: any"),
    ]
    for column in columns:
        if column.name not in there:
            op.add_column("romancy_instances", column)
    is_listed = sa.column("status").not_in(["running", "completed"])
    _index(op, "instances", "due", ["workflow", "held", "wake_at"], where=sa.column("wake_at").is_not(None))
    _index(op, "instances", "status", ["status", "created_at", "instance_id"], where=is_listed)
    _index(op, "instances", "deadline", ["deadline"], where=sa.column("deadline").is_not(None))
    old = "ix_romancy_instances_wake_at"
    if old in {index["name"] for index in inspector.get_indexes("romancy_instances")}:
        op.drop_index(old, "romancy_instances")


def _create_limits(op: Operations) -> None:
    may_exist = ddl_commits(op.get_bind())
    is_set = "whether an operator has set it: code no longer does"
    op.create_table(
        "romancy_limits",
        sa.Column("name", _short(), primary_key=True),
        sa.Column("concurrent", sa.BigInteger, comment="most permits of each key at the same time; NULL: any number"),
        sa.Column("rate", sa.BigInteger, comment="permits of each key in each period; NULL: any number"),
        sa.Column("period", sa.BigInteger, comment="in microseconds"),
        sa.Column("burst", sa.BigInteger, comment="permits that may be taken at once after a rest; NULL: 1"),
        sa.Column("is_set", sa.Boolean, nullable=False, comment=is_set),
        sa.Column("paused_until", sa.BigInteger, comment="NULL: it is not paused"),
        sa.Column("pause_reason", long_text()),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        if_not_exists=may_exist,
        **_options,
    )
    op.create_table(
        "romancy_limit_keys",
        sa.Column("name", _short(), primary_key=True),
        sa.Column("limit_key", _name(), primary_key=True, comment="'': of a limit without keys"),
        sa.Column("taken", sa.BigInteger, nullable=False, comment="sum of the costs of its permits"),
        sa.Column("next_at", sa.BigInteger, nullable=False, comment="when the rate allows the next permit (GCRA)"),
        if_not_exists=may_exist,
        **_options,
    )
    op.create_table(
        "romancy_permits",
        sa.Column("instance_id", _name(), primary_key=True),
        sa.Column("operation_id", _name(), primary_key=True),
        sa.Column("name", _short(), primary_key=True),
        sa.Column("limit_key", _name(), nullable=False),
        sa.Column("cost", sa.BigInteger, nullable=False),
        sa.Column("worker_id", _name(), nullable=False, comment="the worker whose attempt holds it"),
        sa.Column("taken_at", sa.BigInteger, nullable=False),
        if_not_exists=may_exist,
        **_options,
    )
    passed = "whether it has not come: others go first"
    op.create_table(
        "romancy_limit_waits",
        sa.Column("instance_id", _name(), primary_key=True),
        sa.Column("operation_id", _name(), primary_key=True),
        sa.Column("name", _short(), nullable=False, comment="the limit that holds the attempt back"),
        sa.Column("limit_key", _name(), nullable=False),
        sa.Column("cost", sa.BigInteger, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False, comment="the attempts get permits in this order"),
        sa.Column("called_at", sa.BigInteger, comment="when it was told to ask again; NULL: it has not been told"),
        sa.Column("is_passed", sa.Boolean, nullable=False, comment=passed),
        if_not_exists=may_exist,
        **_options,
    )
    _index(op, "permits", "worker_id", ["worker_id"])
    _index(op, "permits", "name", ["name", "limit_key"])
    _index(op, "limit_waits", "name", ["name", "limit_key", "is_passed", "since"])
    _index(op, "limit_waits", "called_at", ["called_at"], where=sa.column("called_at").is_not(None))


def _create_queues(op: Operations) -> None:
    may_exist = ddl_commits(op.get_bind())
    is_set = "whether an operator has set it: code no longer does"
    op.create_table(
        "romancy_queues",
        sa.Column("name", _short(), primary_key=True),
        sa.Column("concurrent", sa.BigInteger, comment="most instances that run at the same time; NULL: any number"),
        sa.Column("per_worker", sa.BigInteger, comment="of them, at each worker"),
        sa.Column("per_key", sa.BigInteger, comment="of them, with the same key"),
        sa.Column("is_set", sa.Boolean, nullable=False, comment=is_set),
        sa.Column("paused_until", sa.BigInteger, comment="NULL: it is not paused"),
        sa.Column("pause_reason", long_text()),
        sa.Column("running", sa.BigInteger, nullable=False, comment="instances that have left it and have not ended"),
        sa.Column("vtime", sa.BigInteger, nullable=False, comment="of the last instance that has left it"),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        if_not_exists=may_exist,
        **_options,
    )
    op.create_table(
        "romancy_queue_keys",
        sa.Column("queue", _short(), primary_key=True),
        sa.Column("queue_key", _name(), primary_key=True),
        sa.Column(
            "taken", sa.BigInteger, nullable=False, comment="instances that run, or wait for nothing but the queue"
        ),
        sa.Column("vtime", sa.BigInteger, nullable=False, comment="of the last instance that has come"),
        if_not_exists=may_exist,
        **_options,
    )
    place = "0: it waits for its key; 1: for the queue; 2: it runs"
    vtime = "its order among those of one priority (fair queueing)"
    op.create_table(
        "romancy_queued",
        sa.Column("instance_id", _name(), primary_key=True),
        sa.Column("queue", _short(), nullable=False),
        sa.Column("queue_key", _name(), nullable=False, comment="'': none"),
        sa.Column("place", sa.SmallInteger, nullable=False, comment=place),
        sa.Column("tier", sa.Integer, nullable=False, comment="the negative of its priority"),
        sa.Column("vtime", sa.BigInteger, nullable=False, comment=vtime),
        sa.Column("since", sa.BigInteger, nullable=False),
        if_not_exists=may_exist,
        **_options,
    )
    _index(op, "queued", "queue", ["queue", "place", "tier", "vtime"])
    _index(op, "queued", "queue_key", ["queue", "queue_key", "place", "tier", "vtime"])


def _create_schedules(op: Operations) -> None:
    may_exist = ddl_commits(op.get_bind())
    op.create_table(
        "romancy_schedules",
        sa.Column("name", _name(), primary_key=True),
        sa.Column("workflow", _name(), nullable=False),
        sa.Column("input", long_text(), nullable=False),
        sa.Column("rules", long_text(), nullable=False, comment="when it is due, and what happens then"),
        sa.Column("is_declared", sa.Boolean, nullable=False, comment="whether an app declares it"),
        sa.Column("next_at", sa.BigInteger, comment="the next occurrence; NULL: no other follows"),
        sa.Column("fires_at", sa.BigInteger, comment="when that fires; NULL: it does not, or the schedule is paused"),
        sa.Column("last_at", sa.BigInteger, comment="the last occurrence that has started"),
        sa.Column("paused", long_text(), comment="the reason of the pause"),
        sa.Column("paused_at", sa.BigInteger, comment="NULL: it is not paused"),
        sa.Column("pause_kind", ExactString(16)),
        sa.Column("revision", sa.BigInteger, nullable=False, comment="grows with each change"),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        if_not_exists=may_exist,
        **_options,
    )
    op.create_table(
        "romancy_occurrences",
        sa.Column("schedule", _name(), primary_key=True),
        sa.Column("due_at", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("state", ExactString(16), nullable=False),
        sa.Column("instance_id", _name(), comment="of one that has started"),
        sa.Column("reason", ExactString(16), comment="of one that was skipped"),
        sa.Column("until", sa.BigInteger, comment="end of the time whose occurrences were skipped; NULL: it is one"),
        sa.Column("recorded_at", sa.BigInteger, nullable=False),
        if_not_exists=may_exist,
        **_options,
    )
    _index(op, "schedules", "fires_at", ["fires_at"], where=sa.column("fires_at").is_not(None))
    _index(op, "occurrences", "state", ["state", "schedule", "due_at"])


def _index(
    op: Operations, table: str, name: str, columns: list[str], *, where: sa.ColumnElement[bool] | None = None
) -> None:
    table, index = f"romancy_{table}", f"ix_romancy_{table}_{name}"
    if index not in {made["name"] for made in sa.inspect(op.get_bind()).get_indexes(table)}:
        op.create_index(index, table, columns, sqlite_where=where, postgresql_where=where)
