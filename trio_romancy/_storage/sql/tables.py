"""The tables.

Times are BIGINT microseconds since the epoch in UTC, so that no database's timestamp type and no session's time
zone can shift them. Text is compared byte by byte. The migrations in ``migrations/`` make exactly these tables.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, SmallInteger, Table, literal

from ..dialects.sql import ExactString, long_text

REVISION = "0009"
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
    Column("held", SmallInteger, nullable=False, server_default="0", comment="what keeps workers from claiming it"),
    Column("queue", _name(100), comment="NULL: none"),
    Column("queue_key", _name(), comment="what it shares its queue's limits for each key with"),
    Column("priority", Integer, comment="in its queue, the highest first; NULL: 0"),
    Column("weight", Integer, comment="share of its key in its queue, in thousandths; NULL: 1000"),
    Column("not_before", BigInteger, comment="when it may begin to run; NULL: at once"),
    Column("deadline", BigInteger, comment="when it is cancelled if it has not ended"),
    Column("paused_until", BigInteger, comment="NULL: it is not paused"),
    Column("pause_reason", _json()),
    Column("keep_until", BigInteger, comment="when its data may be deleted; NULL: as the app says"),
    Column("version", _name(), comment="of the code that it is to run with; NULL: any"),
    **_options,
)

# Most instances have ended. If the database has partial indexes, these do not hold them.
Index(
    "ix_romancy_instances_due",  # beside any number of instances that other workers run, or that are held back
    instances.c.workflow,
    instances.c.held,
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

Index(
    "ix_romancy_instances_deadline",
    instances.c.deadline,
    sqlite_where=instances.c.deadline.is_not(None),
    postgresql_where=instances.c.deadline.is_not(None),
)

# An instance that its own worker starts and completes is never in this one, if the database has partial indexes.
IS_RARE = instances.c.status.not_in([literal(name, literal_execute=True) for name in ("running", "completed")])
"""The condition of the index of statuses. A query must have it as well, for SQLite to use the index."""
Index(
    "ix_romancy_instances_status",
    instances.c.status,
    instances.c.created_at,
    instances.c.instance_id,
    sqlite_where=IS_RARE,
    postgresql_where=IS_RARE,
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

# A limit is stored by the first app that defines it, and from then on is what is stored.
limits = Table(
    "romancy_limits",
    metadata,
    Column("name", _name(100), primary_key=True),
    Column("concurrent", BigInteger, comment="most permits of each key at the same time; NULL: any number"),
    Column("rate", BigInteger, comment="permits of each key in each period; NULL: any number"),
    Column("period", BigInteger, comment="in microseconds"),
    Column("burst", BigInteger, comment="permits that may be taken at once after a rest; NULL: 1"),
    Column("is_set", Boolean, nullable=False, comment="whether an operator has set it: code no longer does"),
    Column("paused_until", BigInteger, comment="NULL: it is not paused"),
    Column("pause_reason", _json()),
    Column("updated_at", BigInteger, nullable=False),
    **_options,
)

# A transaction that takes or frees permits, or that lets an attempt wait, locks the row of the key first.
limit_keys = Table(
    "romancy_limit_keys",
    metadata,
    Column("name", _name(100), primary_key=True),
    Column("limit_key", _name(), primary_key=True, comment="'': of a limit without keys"),
    Column("taken", BigInteger, nullable=False, comment="sum of the costs of its permits"),
    Column("next_at", BigInteger, nullable=False, comment="when the rate allows the next permit (GCRA)"),
    **_options,
)

permits = Table(
    "romancy_permits",
    metadata,
    Column("instance_id", _name(), primary_key=True),
    Column("operation_id", _name(), primary_key=True),
    Column("name", _name(100), primary_key=True),
    Column("limit_key", _name(), nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("worker_id", _name(), nullable=False, comment="the worker whose attempt holds it"),
    Column("taken_at", BigInteger, nullable=False),
    **_options,
)
Index("ix_romancy_permits_worker_id", permits.c.worker_id)
Index("ix_romancy_permits_name", permits.c.name, permits.c.limit_key)

limit_waits = Table(
    "romancy_limit_waits",
    metadata,
    Column("instance_id", _name(), primary_key=True),
    Column("operation_id", _name(), primary_key=True),
    Column("name", _name(100), nullable=False, comment="the limit that holds the attempt back"),
    Column("limit_key", _name(), nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("since", BigInteger, nullable=False, comment="the attempts get permits in this order"),
    Column("called_at", BigInteger, comment="when it was told to ask again; NULL: it has not been told"),
    Column("is_passed", Boolean, nullable=False, comment="whether it has not come: others go first"),
    **_options,
)
Index(
    "ix_romancy_limit_waits_name",
    limit_waits.c.name,
    limit_waits.c.limit_key,
    limit_waits.c.is_passed,
    limit_waits.c.since,
)
Index(
    "ix_romancy_limit_waits_called_at",
    limit_waits.c.called_at,
    sqlite_where=limit_waits.c.called_at.is_not(None),
    postgresql_where=limit_waits.c.called_at.is_not(None),
)

# As of a limit.
queues = Table(
    "romancy_queues",
    metadata,
    Column("name", _name(100), primary_key=True),
    Column("concurrent", BigInteger, comment="most instances that run at the same time; NULL: any number"),
    Column("per_worker", BigInteger, comment="of them, at each worker"),
    Column("per_key", BigInteger, comment="of them, with the same key"),
    Column("is_set", Boolean, nullable=False, comment="whether an operator has set it: code no longer does"),
    Column("paused_until", BigInteger, comment="NULL: it is not paused"),
    Column("pause_reason", _json()),
    Column("running", BigInteger, nullable=False, comment="instances that have left it and have not ended"),
    Column("vtime", BigInteger, nullable=False, comment="of the last instance that has left it"),
    Column("updated_at", BigInteger, nullable=False),
    **_options,
)

queue_keys = Table(
    "romancy_queue_keys",
    metadata,
    Column("queue", _name(100), primary_key=True),
    Column("queue_key", _name(), primary_key=True),
    Column("taken", BigInteger, nullable=False, comment="instances that run, or wait for nothing but the queue"),
    Column("vtime", BigInteger, nullable=False, comment="of the last instance that has come"),
    **_options,
)

# An instance has a row from its start to its end, and no row if it has no queue.
queued = Table(
    "romancy_queued",
    metadata,
    Column("instance_id", _name(), primary_key=True),
    Column("queue", _name(100), nullable=False),
    Column("queue_key", _name(), nullable=False, comment="'': none"),
    Column("place", SmallInteger, nullable=False, comment="0: it waits for its key; 1: for the queue; 2: it runs"),
    Column("tier", Integer, nullable=False, comment="the negative of its priority"),
    Column("vtime", BigInteger, nullable=False, comment="its order among those of one priority (fair queueing)"),
    Column("since", BigInteger, nullable=False),
    **_options,
)
Index("ix_romancy_queued_queue", queued.c.queue, queued.c.place, queued.c.tier, queued.c.vtime)
Index(
    "ix_romancy_queued_queue_key",
    queued.c.queue,
    queued.c.queue_key,
    queued.c.place,
    queued.c.tier,
    queued.c.vtime,
)

schedules = Table(
    "romancy_schedules",
    metadata,
    Column("name", _name(), primary_key=True),
    Column("workflow", _name(), nullable=False),
    Column("input", _json(), nullable=False),
    Column("rules", _json(), nullable=False, comment="when it is due, and what happens then"),
    Column("is_declared", Boolean, nullable=False, comment="whether an app declares it"),
    Column("next_at", BigInteger, comment="the next occurrence; NULL: no other follows"),
    Column("fires_at", BigInteger, comment="when that fires; NULL: it does not, or the schedule is paused"),
    Column("last_at", BigInteger, comment="the last occurrence that has started"),
    Column("paused", _json(), comment="the reason of the pause"),
    Column("paused_at", BigInteger, comment="NULL: it is not paused"),
    Column("pause_kind", _name(16)),
    Column("revision", BigInteger, nullable=False, comment="grows with each change"),
    Column("updated_at", BigInteger, nullable=False),
    **_options,
)
Index(
    "ix_romancy_schedules_fires_at",
    schedules.c.fires_at,
    sqlite_where=schedules.c.fires_at.is_not(None),
    postgresql_where=schedules.c.fires_at.is_not(None),
)

occurrences = Table(
    "romancy_occurrences",
    metadata,
    Column("schedule", _name(), primary_key=True),
    Column("due_at", BigInteger, primary_key=True, autoincrement=False),
    Column("state", _name(16), nullable=False),
    Column("instance_id", _name(), comment="of one that has started"),
    Column("reason", _name(16), comment="of one that was skipped"),
    Column("until", BigInteger, comment="end of the time whose occurrences were skipped; NULL: it is one"),
    Column("recorded_at", BigInteger, nullable=False),
    **_options,
)
Index("ix_romancy_occurrences_state", occurrences.c.state, occurrences.c.schedule, occurrences.c.due_at)
