"""The tables.

Times are BIGINT microseconds since the epoch in UTC, so that no database's timestamp type and no session's time
zone can shift them. Text is compared byte by byte. The migrations in ``migrations/`` make exactly these tables.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, Table

from ..dialects.sql import ExactString, long_text

REVISION = "0008"
"""The migration that creates exactly these tables."""

metadata = MetaData()


def _name(length: int = 255) -> ExactString:
    """Return the type of ids and names."""
    return ExactString(length)


_json = long_text
"""JSON as ASCII text, stored as it is written."""

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
    Column(
        "started_after",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="the last message that was sent before it was started",
    ),
    Column("origin", _name(), comment="the first of the chain that it goes on with; NULL: it is the first"),
    Column("details", _json(), comment="what it says of itself"),
    Column("trace", _json(), comment="the W3C trace context that it was started in"),
    Column("has_begun", Boolean, comment="whether an attempt has begun since; NULL: that is not recorded"),
    Column("waits_for", _json(), comment="operations in flight when its status was stored last, for people"),
    **_options,
)

# Most instances have ended. If the database has partial indexes, these two do not hold them.
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

Index("ix_romancy_instances_created_at", instances.c.created_at, instances.c.instance_id)
Index(
    "ix_romancy_instances_parent_id",
    instances.c.parent_id,
    sqlite_where=instances.c.parent_id.is_not(None),
    postgresql_where=instances.c.parent_id.is_not(None),
)
Index(
    "ix_romancy_instances_origin",
    instances.c.origin,
    instances.c.status,  # to find the last of a chain, however long the chain is
    sqlite_where=instances.c.origin.is_not(None),
    postgresql_where=instances.c.origin.is_not(None),
)


def _journal(name: str) -> Table:
    # A foreign key would lock the instance's row with every entry, although only the instance's owner writes both.
    return Table(
        name,
        metadata,
        Column("instance_id", _name(), primary_key=True),
        Column("seq", Integer, primary_key=True, autoincrement=False),
        Column("operation_id", _name(), nullable=False),
        Column("kind", _name(32), nullable=False),
        Column("payload", _json()),
        Column("recorded_at", BigInteger, nullable=False),
        **_options,
    )


history = _journal("romancy_history")
# Journals of instances that recurred. Workers never read them.
history_archive = _journal("romancy_history_archive")

workers = Table(
    "romancy_workers",
    metadata,
    Column("worker_id", _name(), primary_key=True),
    Column("epoch", BigInteger, nullable=False, comment="grows each time the lease changes hands"),
    Column("batch", BigInteger, nullable=False, comment="the last batch of this epoch that was committed"),
    Column("expires_at", BigInteger, nullable=False),
    Column("joined_at", BigInteger, nullable=False),
    Column("process", _json(), nullable=False, comment="host, process id and start of the worker's process"),
    Column("version", _name(), comment="of the code of its workflows"),
    Column("clock", BigInteger, comment="its time minus that of a clock of the machine that cannot be set"),
    **_options,
)

incompatible = Table(
    "romancy_misfits",
    metadata,
    Column("instance_id", _name(), primary_key=True),
    Column("version", _name(), primary_key=True, comment="of the code that its journal does not fit"),
    Column("error", _json(), nullable=False),
    Column("found_at", BigInteger, nullable=False),
    **_options,
)

# A transaction that sends to a channel, or begins to wait on it, writes the channel's row first. So these transactions
# come one after the other, and each sees what the one before has done: a message and a wait cannot miss each other.
channels = Table(
    "romancy_channels",
    metadata,
    Column("channel", _name(), primary_key=True),
    Column("last", BigInteger, nullable=False, comment="of the channel '': the last message on any"),
    Column("mode", _name(16), comment="what its first subscriber made of it; NULL: it has had none"),
    Column("touched_at", BigInteger, nullable=False),
    **_options,
)

messages = Table(
    "romancy_messages",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False, comment="messages are committed in this order"),
    Column("channel", _name(), nullable=False, comment="of an event: its type"),
    Column("addressee", _name(), nullable=False, comment="the one instance that it is for; '': none in particular"),
    Column("subject", _name()),
    Column("source", _name(), comment="of an event"),
    Column("event_id", _name()),
    Column("event_time", BigInteger),
    Column("sender", _name(), comment="the instance that has sent it"),
    Column("data", _json(), nullable=False),
    Column("metadata", _json()),
    Column("sent_at", BigInteger, nullable=False),
    Column("taken_by", _name(), comment="the instance that has it, where only one gets it"),
    **_options,
)
Index("ix_romancy_messages_channel", messages.c.channel, messages.c.addressee, messages.c.seq)
Index(
    "ix_romancy_messages_subject",
    messages.c.subject,
    messages.c.channel,
    messages.c.seq,
    sqlite_where=messages.c.subject.is_not(None),
    postgresql_where=messages.c.subject.is_not(None),
)
Index("ix_romancy_messages_event", messages.c.event_id, messages.c.source, unique=True)
Index("ix_romancy_messages_taken_by", messages.c.channel, messages.c.taken_by, messages.c.seq)

waits = Table(
    "romancy_waits",
    metadata,
    Column("instance_id", _name(), primary_key=True),
    Column("operation_id", _name(), primary_key=True),
    Column("channel", _name(), nullable=False),
    Column("subject", _name(), comment="NULL: any"),
    Column("after", BigInteger, nullable=False, comment="messages up to this one are not for it"),
    Column("mode", _name(16), comment="of the subscription; NULL: it waits for an event"),
    Column("is_open", Boolean, nullable=False, comment="false: a subscription that nothing waits on now"),
    **_options,
)
Index("ix_romancy_waits_channel", waits.c.channel, waits.c.subject)

outbox = Table(
    "romancy_outbox",
    metadata,
    Column("instance_id", _name(), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False, comment="the journal entry that it was sent with"),
    Column("number", Integer, primary_key=True, autoincrement=False, comment="its place among those of that entry"),
    Column("event_id", _name(), nullable=False),
    Column("source", _name(), nullable=False),
    Column("type", _name(), nullable=False),
    Column("subject", _name()),
    Column("time", BigInteger, nullable=False),
    Column("data", _json(), nullable=False),
    Column("status", _name(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", BigInteger, comment="when to send it; NULL: not any more"),
    Column("claimed_by", _name(), comment="the worker that is sending it"),
    Column("claimed_until", BigInteger, comment="when another may"),
    Column("error", _json()),
    Column("created_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    **_options,
)
Index(
    "ix_romancy_outbox_due_at",
    outbox.c.due_at,
    sqlite_where=outbox.c.due_at.is_not(None),
    postgresql_where=outbox.c.due_at.is_not(None),
)
