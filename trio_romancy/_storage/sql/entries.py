"""SQL about journals: writing entries, and loading them for replay and for users."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Executable, Table, bindparam, func, insert, select

from ..._data.journal_format import Payload, read
from ..._data.readable import readable, readable_time
from ..._tasks.fast_frozen import frozen
from ...clock import LATEST, Microseconds
from ...errors import DataProblem, InvalidDataError
from ...model import Entry, EntryKind
from ..dialects.execute_many import execute_many
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
    execute_many(connection, _insert_entry, rows)


def append_entry(connection: Connection, instance_id: str, payload: Payload, now: Microseconds) -> None:
    """Store the next entry of an instance that has no owner, so that no actor numbers entries at the same time."""
    last = connection.execute(_last_seq, {"id": instance_id}).scalar()
    insert_entries(connection, [entry_row(instance_id, JournalEntry((last or 0) + 1, "", payload.KIND, payload, now))])


# -- reading -----------------------------------------------------------------------------------------------------------

BEGINNING = -(2**31)
"""A number before that of every entry, also of a damaged one."""
_PAGE_ENTRIES = 2_000
_PAGE_BYTES = 1_000_000
"""The most entries, and bytes of their payloads, that one statement loads, unless a single entry is larger: the answer
to a statement must come in time, also over a slow link."""


@frozen
class RowPage:
    """A part of a journal that one statement has loaded."""

    rows: Sequence[StoredEntry]
    """Rows in order, as :func:`read_entries` reads them."""
    size: int
    """Bytes of their payloads."""
    is_last: bool
    """Whether the journal has no more rows."""

    @property
    def end(self) -> int:
        """Number of the last entry of a page that is not the last one."""
        return self.rows[-1].seq


class _Size(NamedTuple):
    seq: int
    bytes: int | None


def _size_query(table: Table) -> Executable:
    return (
        select(table.c.seq, func.length(table.c.payload).label("bytes"))
        .where(table.c.instance_id == bindparam("id"), table.c.seq > bindparam("after"))
        .order_by(table.c.seq)
        .limit(bindparam("most", type_=BigInteger()))
    )


def _row_query(table: Table) -> Executable:
    return (
        select(table)
        .where(table.c.instance_id == bindparam("id"), table.c.seq.between(bindparam("first"), bindparam("last")))
        .order_by(table.c.seq)
    )


_journal, _sizes = _row_query(history), _size_query(history)
_archived_journal, _archived_sizes = _row_query(history_archive), _size_query(history_archive)
_journals = (
    select(history)
    .where(history.c.instance_id.in_(bindparam("ids", expanding=True)))
    .order_by(history.c.instance_id, history.c.seq)
)


def load_page(connection: Connection, instance_id: str, after: int = BEGINNING, most: int | None = None) -> RowPage:
    """Load the next page of a journal.

    Args:
      after: the :attr:`RowPage.end` of the page before.
      most: most entries on the page; None: as many as one statement may load.
    """
    return _load_page(connection, _sizes, _journal, instance_id, after, most)


def load_history_page(
    connection: Connection, instance_id: str, after: int = BEGINNING, most: int | None = None
) -> RowPage:
    """Load a page as :func:`load_page` does, also from the archive if the instance recurred."""
    page = load_page(connection, instance_id, after, most)
    if page.rows:
        return page
    return _load_page(connection, _archived_sizes, _archived_journal, instance_id, after, most)


def _load_page(
    connection: Connection,
    size_query: Executable,
    row_query: Executable,
    instance_id: str,
    after: int,
    most: int | None,
) -> RowPage:
    most = _PAGE_ENTRIES if most is None else min(most, _PAGE_ENTRIES)
    values: dict[str, Any] = {"id": instance_id, "after": after, "most": most + 1}
    sizes = fetch_all(connection, _Size, size_query, values)
    taken = size = 0
    for one in sizes[:most]:
        more = int(one.bytes or 0)
        if taken and size + more > _PAGE_BYTES:
            break
        taken, size = taken + 1, size + more
    if not taken:
        return RowPage((), 0, is_last=True)
    values = {"id": instance_id, "first": sizes[0].seq, "last": sizes[taken - 1].seq}
    return RowPage(fetch_all(connection, StoredEntry, row_query, values), size, taken == len(sizes))


def load_entries(connection: Connection, instance_id: str) -> list[JournalEntry]:
    """Load the journal of an instance, in order, by as many statements as that takes.

    Raises:
      InvalidDataError: if an entry cannot be read.
    """
    return [entry for page in _pages(load_page, connection, instance_id) for entry in read_entries(page.rows)]


def load_history(connection: Connection, instance_id: str) -> list[Entry]:
    """Load the journal of an instance like :func:`load_entries`, as :func:`read_history` reads it."""
    pages = _pages(load_history_page, connection, instance_id)
    return [entry for page in pages for entry in read_history(page.rows)]


def _pages(load: Callable[..., RowPage], connection: Connection, instance_id: str) -> Iterator[RowPage]:
    page = load(connection, instance_id, BEGINNING)
    yield page
    while not page.is_last:
        page = load(connection, instance_id, page.end)
        yield page


def load_journals(connection: Connection, instance_ids: Sequence[str]) -> dict[str, list[StoredEntry]]:
    """Load the whole journals of several instances, which must be small. An instance without entries is missing."""
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


def read_history(rows: Iterable[StoredEntry]) -> list[Entry]:
    """Return the entries that rows of one journal hold, as users see them, also those that cannot be read."""
    return [_to_public(row) for row in rows]


def has_entry(connection: Connection, instance_id: str, seq: int) -> bool:
    """Return whether the instance has an entry of that number."""
    found = select(history.c.seq).where(history.c.instance_id == instance_id, history.c.seq == seq)
    return connection.execute(found).first() is not None


def _to_entry(row: StoredEntry) -> JournalEntry:
    instance_id, seq, operation_id, name, text, recorded_at = row
    try:
        kind, payload = read(name, text)
        if type(recorded_at) is not int or recorded_at > LATEST or type(operation_id) is not str:
            raise InvalidDataError("", [_damaged(operation_id, recorded_at)])
    except InvalidDataError as error:
        what = f"instance {instance_id!r}: entry {seq} of its journal, {operation_id or name!r}, cannot be read"
        raise InvalidDataError(what, error.problems) from None
    return JournalEntry(seq, operation_id, kind, payload, recorded_at)


def _to_public(row: StoredEntry) -> Entry:
    instance_id, seq, operation_id, name, text, recorded_at = row
    payload, _ = readable(text)
    return Entry(instance_id, seq, operation_id, _public_kind(name), payload, readable_time(recorded_at)[0])


def _damaged(operation_id: object, recorded_at: object) -> DataProblem:
    if type(operation_id) is not str:
        return DataProblem("$.operation_id", f"{operation_id!r} is no text")
    return DataProblem("$.recorded_at", f"{recorded_at!r} is no time")


def _public_kind(name: str) -> EntryKind:
    """Return the kind with a name, also if only another version knows that kind: then no member, but like one."""
    try:
        return EntryKind(name)
    except ValueError:
        kind = str.__new__(EntryKind, name)
        kind._name_, kind._value_ = "UNKNOWN", name
        kind.is_delivered = kind.ends_function = False
        return kind
