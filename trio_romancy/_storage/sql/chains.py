"""SQL about chains: instances that recurred, each of which was continued by the next.

A chain goes by the id of its first instance, the origin. Messages to any instance of a chain are addressed to the
origin, so that the one that runs now gets what was sent to those before it. Only the last has not recurred.
"""

from __future__ import annotations

from attrs import frozen
from sqlalchemy import (
    ColumnElement,
    Connection,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
)
from sqlalchemy.exc import IntegrityError

from ..._data.journal_format import CarryOver
from ...errors import InstanceExistsError
from ...model import Status
from .rows import OpenEntryRow, StoredInstance, SuccessorRow, fetch_first
from .tables import history, history_archive, instances, messages

_entries = [column.name for column in history.columns]
_archive = insert(history_archive).from_select(
    _entries, select(*history.columns).where(history.c.instance_id == bindparam("ended"))
)
LASTS = [status for status in Status if status is not Status.RECURRED]
"""Statuses that only the last of a chain can have. As a list, so that a query reads one range of the index for each."""
_forget = delete(history).where(history.c.instance_id == bindparam("ended"))


@frozen
class Successor:
    """The instance that continues a chain."""

    row: SuccessorRow
    entry: OpenEntryRow
    """The first entry of the instance's journal, without payload."""
    carry_over: CarryOver
    """The payload of the entry."""


def continue_chain(connection: Connection, ended: str, successor: Successor) -> None:
    """Archive the journal of an instance that has recurred, and store the next instance with its first entry.

    The transaction must have called :func:`.serialize_writers` for the origin, so that every other transaction that
    needs the last of the chain comes before or after.
    """
    origin = successor.row["origin"]
    connection.execute(_archive, {"ended": ended})
    connection.execute(_forget, {"ended": ended})
    try:
        connection.execute(insert(instances), [successor.row])
    except IntegrityError as error:
        raise InstanceExistsError(successor.row["instance_id"], f"no place in the chain of {origin!r}") from error
    carry_over = successor.carry_over
    if carry_over.is_heavy:
        carry_over = carry_over.since(oldest_message(connection))
    connection.execute(insert(history), [{**successor.entry, "payload": carry_over.to_text()}])


def is_of(chain: ColumnElement[str] | str) -> ColumnElement[bool]:
    """Return the condition that an instance belongs to the chain with that origin."""
    return or_(instances.c.instance_id == chain, instances.c.origin == chain)


def last_of(connection: Connection, instance_id: str) -> str | None:
    """Return the id of the last instance of the chain that an instance belongs to; None without such a chain."""
    origin = connection.execute(select(instances.c.origin).where(instances.c.instance_id == instance_id)).scalar()
    last = end_of(connection, origin or instance_id)
    return None if last is None else last.instance_id


def end_of(connection: Connection, origin: str) -> StoredInstance | None:
    """Return the last instance of a chain, whether it has ended or not; None without such a chain."""
    return fetch_first(connection, StoredInstance, _last, {"origin_": origin})


_last = select(instances).where(is_of(bindparam("origin_")), instances.c.status.in_(LASTS))


def oldest_message(connection: Connection) -> int:
    """Return the smallest number of a message that is still kept."""
    oldest: int | None = connection.execute(select(func.min(messages.c.seq))).scalar()
    return oldest or 0
