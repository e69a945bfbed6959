"""SQL about journals: writing entries, and loading them for replay and for users."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, bindparam, func, insert, select

from ..._data.journal_format import Payload, read
from ..._data.readable import readable
from ..._tasks.fast_frozen import frozen
from ...clock import Microseconds, to_datetime
from ...errors import InvalidDataError
from ...model import Entry, EntryKind
from .rows import EntryRow, StoredEntry, fetch_all, fetch_by_ids
from .tables import history, history_archive


@frozen
class JournalEntry:
    """One entry of a journal, as it is stored."""

    seq: int
    operation_id: str
    kind: EntryKind
    payload: Payload
    recorded_at: Microseconds


# -- writing -----------------------------------------------------------------------------------------------------------

_insert_entry = insert(history)
_last_seq = select(func.max(history.c.seq)).where(history.c.instance_id == bindparam("id"))


def entry_row(instance_id: str, entry: JournalEntry) -> EntryRow:
    """Return the row of an entry."""
    return {
        "instance_id": instance_id,
        "seq": entry.seq,
        "operation_id": entry.operation_id,
        "kind": entry.kind,
        "payload": entry.payload.to_text(),
        "recorded_at": entry.recorded_at,
    }


def insert_entries(connection: Connection, rows: Sequence[EntryRow]) -> None:
    """Store journal entries. The database raises if a key is taken: an instance has one writer."""
    connection.execute(_insert_entry, rows)


def append_entry(connection: Connection, instance_id: str, payload: Payload, now: Microseconds) -> None:
    """Store the next entry of an instance that has no owner, so that no actor numbers entries at the same time."""
    last = connection.execute(_last_seq, {"id": instance_id}).scalar()
    insert_entries(connection, [entry_row(instance_id, JournalEntry((last or 0) + 1, "", payload.KIND, payload, now))])


# -- reading -----------------------------------------------------------------------------------------------------------

_journal = select(history).where(history.c.instance_id == bindparam("id")).order_by(history.c.seq)
_journals = (
    select(history)
    .where(history.c.instance_id.in_(bindparam("ids", expanding=True)))
    .order_by(history.c.instance_id, history.c.seq)
)


def load_entries(connection: Connection, instance_id: str) -> list[JournalEntry]:
    """Load the journal of an instance, in order.

    Raises:
      InvalidDataError: if an entry cannot be read.
    """
    return read_entries(load_rows(connection, instance_id))


def load_rows(connection: Connection, instance_id: str) -> list[StoredEntry]:
    """Load the journal of an instance, in order, as :func:`read_entries` reads it."""
    return list(fetch_all(connection, StoredEntry, _journal, {"id": instance_id}))


def load_journals(connection: Connection, instance_ids: Sequence[str]) -> dict[str, list[StoredEntry]]:
    """Load the journals of several instances, each like :func:`load_rows`. An instance without entries is missing."""
    journals: dict[str, list[StoredEntry]] = {}
    for row in fetch_by_ids(connection, StoredEntry, _journals, instance_ids):
        journals.setdefault(row.instance_id, []).append(row)
    return journals


def read_entries(rows: Iterable[StoredEntry]) -> list[JournalEntry]:
    """Return the entries that rows of one journal hold.

    Raises:
      InvalidDataError: naming the first row that cannot be read.
    """
    return [_to_entry(row) for row in rows]


def load_history(connection: Connection, instance_id: str, after: int = 0, most: int | None = None) -> list[Entry]:
    """Load the journal of an instance as users see it, in order, also from the archive if the instance recurred.

    Args:
      after: number of the entry after which to begin.
      most: most entries to load; None: all.
    """
    for table in (history, history_archive):
        found = select(table).where(table.c.instance_id == instance_id, table.c.seq > after).order_by(table.c.seq)
        if rows := fetch_all(connection, StoredEntry, found if most is None else found.limit(most)):
            return [_to_public(row) for row in rows]
    return []


def has_entry(connection: Connection, instance_id: str, seq: int) -> bool:
    """Return whether the instance has an entry of that number."""
    found = select(history.c.seq).where(history.c.instance_id == instance_id, history.c.seq == seq)
    return connection.execute(found).first() is not None


def _to_entry(row: StoredEntry) -> JournalEntry:
    instance_id, seq, operation_id, name, text, recorded_at = row
    try:
        kind, payload = read(name, text)
    except InvalidDataError as error:
        what = f"instance {instance_id!r}: entry {seq} of its journal, {operation_id or name!r}, cannot be read"
        raise InvalidDataError(what, error.problems) from None
    return JournalEntry(seq, operation_id, kind, payload, recorded_at)


def _to_public(row: StoredEntry) -> Entry:
    instance_id, seq, operation_id, name, text, recorded_at = row
    payload, _ = readable(text)
    return Entry(instance_id, seq, operation_id, _public_kind(name), payload, to_datetime(recorded_at))


def _public_kind(name: str) -> EntryKind:
    """Return the kind with a name, also if only another version knows that kind: then no member, but like one."""
    try:
        return EntryKind(name)
    except ValueError:
        kind = str.__new__(EntryKind, name)
        kind._name_, kind._value_ = "UNKNOWN", name
        kind.is_delivered = kind.ends_function = False
        return kind
