"""What the database says when all is over, read by plain SQL: the library may be wrong about it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from attrs import define, field, frozen

from trio_romancy import EntryKind, Status


@frozen
class InstanceRow:
    instance_id: str
    status: Status
    output: Any = None
    error: Any = None
    owner: str | None = None
    created_at: int = 0
    """Microseconds since the epoch."""


@frozen
class EntryRow:
    instance_id: str
    seq: int
    operation_id: str
    kind: EntryKind
    payload: Any = None
    recorded_at: int = 0
    """Microseconds since the epoch."""


@frozen
class MessageRow:
    seq: int
    channel: str
    event_id: str | None = None
    source: str | None = None
    taken_by: str | None = None
    data: Any = None


@frozen
class Booking:
    """One row of the suite's ledger."""

    instance_id: str
    operation_id: str
    account: int
    amount: int


@frozen
class Write:
    """How an entry came into the journal."""

    instance_id: str
    seq: int
    writer: str
    leases: int
    owner: str | None
    """Of the instance, in the transaction that wrote it."""


@define
class Evidence:
    instances: list[InstanceRow] = field(factory=list)
    entries: list[EntryRow] = field(factory=list)
    """By instance and sequence number."""
    messages: list[MessageRow] = field(factory=list)
    bookings: list[Booking] = field(factory=list)
    balances: dict[int, int] = field(factory=dict)
    unreadable: list[tuple[str, int]] = field(factory=list)
    """Instance ids and sequence numbers of entries that an outsider has damaged. They are not among the entries."""
    outbox: list[tuple[str, str, str]] = field(factory=list)
    """Instance id, event id and status of each event for the broker."""
    waiting: list[tuple[str, str]] = field(factory=list)
    """Instance and operation ids of what the database believes to be waited for."""
    writes: list[Write] | None = None
    """None: nobody has watched."""


def read_evidence(rows: Callable[[str], Sequence[tuple[Any, ...]]], *, watched: bool) -> Evidence:
    """Read all of it. ``rows`` runs a query."""
    found = rows("SELECT instance_id, status, output, error, owner, created_at FROM romancy_instances")
    journal = rows(
        "SELECT instance_id, seq, operation_id, kind, payload, recorded_at FROM romancy_history "
        "ORDER BY instance_id, seq"
    )
    messages = rows("SELECT seq, channel, event_id, source, taken_by, data FROM romancy_messages ORDER BY seq")
    bookings = rows("SELECT instance_id, operation_id, account, amount FROM chaos_ledger")
    writes = rows("SELECT instance_id, seq, writer, leases, owner FROM chaos_writes") if watched else None
    instances = [
        InstanceRow(id, _status(s), _loads(out), _loads(err), owner, at) for id, s, out, err, owner, at in found
    ]
    entries, unreadable = [], []
    for id, seq, operation_id, kind, payload, at in journal:
        try:
            entries.append(EntryRow(id, seq, operation_id, EntryKind(kind), _loads(payload), at))
        except ValueError:
            unreadable.append((id, seq))
    return Evidence(
        instances,
        entries,
        [MessageRow(seq, name, id, of, by, _loads(data)) for seq, name, id, of, by, data in messages],
        [Booking(*row) for row in bookings],
        {row[0]: row[1] for row in rows("SELECT id, balance FROM chaos_accounts")},
        unreadable,
        [(row[0], row[1], row[2]) for row in rows("SELECT instance_id, event_id, status FROM romancy_outbox")],
        [(row[0], row[1]) for row in rows("SELECT instance_id, operation_id FROM romancy_waits")],
        None if writes is None else [Write(*row) for row in writes],
    )


def told(evidence: Evidence) -> str:
    """All journals, to find out why something went wrong."""
    writers = {(write.instance_id, write.seq): write.writer for write in evidence.writes or ()}
    rows = {row.instance_id: row for row in evidence.instances}
    lines = []
    for entry in evidence.entries:
        if (row := rows.pop(entry.instance_id, None)) is not None:
            lines.append(f"{row.instance_id} is {row.status}, created at {_time(row.created_at)}: {row.error}")
        writer = writers.get((entry.instance_id, entry.seq), "")
        what = f"{entry.operation_id} {entry.kind} {json.dumps(entry.payload)[:200]}"
        lines.append(f"  {entry.seq:4} {_time(entry.recorded_at)} {writer:9} {what}")
    lines += [f"{row.instance_id} is {row.status}, and has no journal" for row in rows.values()]
    return "\n".join(lines)


def _time(microseconds: int) -> str:
    return f"{datetime.fromtimestamp(microseconds / 1e6):%H:%M:%S.%f}"


def _status(text: str) -> Status:
    """Return a status; that of an instance that has not ended if an outsider has damaged it."""
    return Status(text) if text in list(Status) else Status.PENDING


def _loads(text: str | None) -> Any:
    return None if text is None else json.loads(text)
