"""SQL that checks whether a database is fit for a worker, and counts what is stuck or overdue. It changes nothing."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, delete, false, func, insert, or_, select, update
from sqlalchemy.schema import CreateTable

from ...clock import Microseconds, at_once
from ...model import Status
from ..dialects import ddl_commits
from .outbox import DEAD
from .rows import fetch_all
from .tables import instances, metadata, outbox

TABLES = tuple(metadata.tables)
"""The names of all tables."""

RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")
"""Rights that a worker needs on each table."""


def use_right(connection: Connection, table_name: str, right: str) -> None:
    """Use a right on a table without changing a row. The database raises if the user does not have the right."""
    table = metadata.tables[table_name]
    first = next(iter(table.columns))
    none = false()
    statements = {
        "SELECT": select(first).where(none),
        "INSERT": insert(table).from_select(list(table.columns), select(table).where(none)),
        "UPDATE": update(table).where(none).values({first: first}),
        "DELETE": delete(table).where(none),
    }
    connection.execute(statements[right])


def use_right_to_create(connection: Connection, *, tables_exist: bool) -> bool:
    """Use the right to create tables. The database raises if the user does not have the right.

    The transaction must be rolled back. Returns False, and does nothing, if a rollback would leave a table behind.
    """
    if not tables_exist and ddl_commits(connection):
        return False
    # A user without the right is refused also if the table exists.
    connection.execute(CreateTable(instances, if_not_exists=True))
    return True


def has_instances(connection: Connection) -> bool:
    """Return whether there is any instance."""
    return connection.execute(select(instances.c.instance_id).limit(1)).first() is not None


class _Overdue(NamedTuple):
    workflow: str
    number: int


def overdue(connection: Connection, before: Microseconds) -> dict[str, int]:
    """Return how many instances without an owner have been due since before that time, by workflow."""
    was_due = or_(instances.c.wake_at <= at_once(before), instances.c.wake_at.between(0, before))
    is_due = instances.c.owner.is_(None), was_due
    found = select(instances.c.workflow, func.count().label("number")).where(*is_due).group_by(instances.c.workflow)
    return {row.workflow: row.number for row in fetch_all(connection, _Overdue, found)}


def stuck_instances(connection: Connection, limit: int) -> list[str]:
    """Return the ids of stuck instances, the newest first."""
    found = select(instances.c.instance_id).where(instances.c.status == Status.STUCK)
    return list(connection.execute(found.order_by(instances.c.created_at.desc()).limit(limit)).scalars())


def dead_events(connection: Connection, most: int) -> tuple[int, list[DeadEvent]]:
    """Return how many events of the outbox are not tried again, and the first of them."""
    number = connection.execute(select(func.count()).where(outbox.c.status.in_(DEAD))).scalar_one()
    if not number:
        return 0, []
    found = select(outbox.c.event_id, outbox.c.type, outbox.c.status).where(outbox.c.status.in_(DEAD))
    order = (outbox.c.created_at, outbox.c.instance_id, outbox.c.seq, outbox.c.number)
    return number, [*fetch_all(connection, DeadEvent, found.order_by(*order).limit(most))]


class DeadEvent(NamedTuple):
    """An event that is not tried again."""

    event_id: str
    type: str
    status: str
