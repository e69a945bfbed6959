"""SQL about the outbox as activities fill it and as users see it: the events for the broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, insert, literal, or_, select, update

from ..._data.readable import readable, readable_due, readable_time
from ...clock import Microseconds, at_once
from ...model import OutboxEvent, OutboxStatus
from .rows import OutboxRow, StoredEvent, fetch_all
from .tables import outbox

DEAD = (OutboxStatus.FAILED, OutboxStatus.INVALID, OutboxStatus.EXPIRED)
"""Statuses of events that are not tried again, unless a user retries them."""


# -- writing -----------------------------------------------------------------------------------------------------------


def new_row(
    *,
    instance_id: str,
    seq: int,
    number: int,
    event_id: str,
    source: str,
    type: str,
    subject: str | None,
    time: Microseconds,
    data_text: str,
    now: Microseconds,
) -> OutboxRow:
    """Return the row of a new event that is due now."""
    return {
        "instance_id": instance_id,
        "seq": seq,
        "number": number,
        "event_id": event_id,
        "source": source,
        "type": type,
        "subject": subject,
        "time": time,
        "data": data_text,
        "status": OutboxStatus.PENDING,
        "attempts": 0,
        "due_at": at_once(now),
        "created_at": now,
    }


def insert_outbox(connection: Connection, rows: Sequence[OutboxRow]) -> None:
    """Store new events. The database raises if a key is taken: an instance has one writer."""
    if rows:
        connection.execute(insert(outbox), rows)


_release = (
    update(outbox)
    .where(
        outbox.c.instance_id == bindparam("instance"),
        outbox.c.seq == bindparam("seq_"),
        outbox.c.due_at > bindparam("now"),
        outbox.c.claimed_by.is_(None),
        outbox.c.attempts == 0,
    )
    .values(due_at=bindparam("now"))
)


def release_held_back(connection: Connection, events: Sequence[tuple[str, int]], now: Microseconds) -> None:
    """Make new events due that were stored with a later time.

    Args:
      events: instance ids, and the numbers of the entries that the events belong to.
    """
    connection.execute(_release, [{"instance": instance, "seq_": seq, "now": now} for instance, seq in events])


# -- what users see ----------------------------------------------------------------------------------------------------


def list_events(
    connection: Connection,
    *,
    status: OutboxStatus | None,
    instance_id: str | None,
    limit: int,
    after: Sequence[int | str] | None,
) -> list[tuple[OutboxEvent, OutboxPlace]]:
    """List events with their places, the oldest first, and the events of one instance in their order.

    Args:
      after: place of the event after which the list begins.
    """
    order = (outbox.c.created_at, outbox.c.instance_id, outbox.c.seq, outbox.c.number)
    found = select(outbox).order_by(*order).limit(limit)
    if status is not None:
        found = found.where(outbox.c.status == status)
    if instance_id is not None:
        found = found.where(outbox.c.instance_id == instance_id)
    if after is not None:
        found = found.where(_comes_after(order, after))
    rows = fetch_all(connection, StoredEvent, found)
    return [(_to_event(row), OutboxPlace(row.created_at, row.instance_id, row.seq, row.number)) for row in rows]


class OutboxPlace(NamedTuple):
    """Place of an event in the list of all events."""

    created_at: Microseconds
    instance_id: str
    seq: int
    number: int


def _comes_after(columns: Sequence[ColumnElement[Any]], values: Sequence[Any]) -> ColumnElement[bool]:
    """Return whether a row comes after those values. Some databases compare tuples slowly."""
    (column, *columns), (value, *values) = columns, values
    is_comes_after = column > literal(value, column.type)
    if not columns:
        return is_comes_after
    return or_(is_comes_after, and_(column == literal(value, column.type), _comes_after(columns, values)))


def _to_event(row: StoredEvent) -> OutboxEvent:
    """Return a row as users see it. What is damaged of it is named as its error."""
    data, bad_data = readable(row.data)
    error, bad_error = readable(row.error)
    time, bad_time = readable_time(row.time)
    created_at, bad_creation = readable_time(row.created_at)
    due_at, bad_due = (None, None) if row.due_at is None else readable_due(row.due_at)
    finished_at, bad_end = (None, None) if row.finished_at is None else readable_time(row.finished_at)
    status = OutboxStatus(row.status) if row.status in set(OutboxStatus) else OutboxStatus.INVALID
    problems = {
        "data": bad_data,
        "error": bad_error,
        "time": bad_time,
        "created_at": bad_creation,
        "due_at": bad_due,
        "finished_at": bad_end,
        "status": None if status == row.status else f"{row.status!r} is no status",
    }
    if named := [f"$.{name}: {why}" for name, why in problems.items() if why is not None]:
        error = f"its row cannot be read: {'; '.join(named)}"
    return OutboxEvent(
        event_id=row.event_id,
        instance_id=row.instance_id,
        source=row.source,
        type=row.type,
        subject=row.subject,
        time=time,
        data=data,
        status=status,
        attempts=row.attempts,
        error=error,
        created_at=created_at,
        due_at=due_at,
        finished_at=finished_at,
    )


_again = update(outbox).values(
    status=OutboxStatus.PENDING,
    attempts=0,
    due_at=bindparam("at_once"),
    error=None,
    created_at=bindparam("now"),  # the age of an event counts from here
    finished_at=None,
)


def retry(connection: Connection, event_id: str, now: Microseconds) -> bool:
    """Make an event due, as if it were new, if it is dead or waits for its next attempt.

    Returns whether there was such an event. One that was sent, or is being sent, stays as it is.
    """
    waiting = and_(outbox.c.status == OutboxStatus.PENDING, outbox.c.claimed_by.is_(None))
    again = _again.where(outbox.c.event_id == bindparam("id_"), or_(outbox.c.status.in_(DEAD), waiting))
    return bool(connection.execute(again, {"id_": event_id, "now": now, "at_once": at_once(now)}).rowcount)


def retry_all(connection: Connection, statuses: Sequence[OutboxStatus], now: Microseconds) -> int:
    """Make all dead events of these statuses due, as if they were new. Returns how many there were."""
    dead = [status for status in statuses if status in DEAD]
    return connection.execute(_again.where(outbox.c.status.in_(dead)), {"now": now, "at_once": at_once(now)}).rowcount


_delete = delete(outbox).where(
    outbox.c.instance_id == bindparam("instance"),
    outbox.c.seq == bindparam("seq_"),
    outbox.c.number == bindparam("number_"),
    outbox.c.finished_at < bindparam("before"),
)


def delete_finished(connection: Connection, statuses: Sequence[OutboxStatus], before: Microseconds, limit: int) -> int:
    """Delete up to ``limit`` events of these statuses that were finished before that time. Returns their number."""
    old = select(outbox.c.instance_id, outbox.c.seq, outbox.c.number).where(
        outbox.c.status.in_(statuses), outbox.c.finished_at < before
    )
    keys = connection.execute(old.limit(limit)).all()
    rows = [{"instance": key[0], "seq_": key[1], "number_": key[2], "before": before} for key in keys]
    if rows:
        connection.execute(_delete, rows)
    return len(rows)
