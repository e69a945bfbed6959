"""SQL that deletes instances: those that have ended, and those that a measurement has left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from attrs import frozen
from sqlalchemy import Column, Connection, delete, func, select

from ...clock import Microseconds
from ...model import Status
from .rows import fetch_all
from .search import Place, newer
from .statuses import FINAL
from .tables import history, history_archive, incompatible, instances, outbox, waits

OF_INSTANCES = (history, history_archive, waits, incompatible, instances)
"""Tables whose rows are deleted with an instance. What the instance sent stays."""
_MOST_ENTRIES = 20_000
"""The most journal entries to delete in one transaction, unless a single instance has more."""


@frozen
class Purged:
    """The deletions of one transaction."""

    deleted: int
    end: Place | None
    """The last instance that was considered; None if there are no more."""


def purge(
    connection: Connection, statuses: Sequence[Status], before: Microseconds, after: Place | None, among: int
) -> Purged:
    """Delete the next instances that had ended before that time, the oldest first, with their journals and waits.

    Messages and events that they sent stay. A child stays whose parent has not ended, because the parent may still need
    it. The first instance of a chain stays until the chain has ended, because the chain goes by its id.

    Args:
      statuses: final statuses.
      before: only instances that had finished before.
      after: where the call before has stopped.
      among: how many instances to consider.
    """
    # An instance ends after it was created, so no index over the finishing time is needed.
    following = select(instances.c.created_at, instances.c.instance_id).where(instances.c.created_at < before)
    if after is not None:
        following = following.where(newer(after))
    following = following.order_by(instances.c.created_at, instances.c.instance_id).limit(among)
    rows = fetch_all(connection, _Candidate, following)
    ended = _ended(connection, statuses, before, [row.instance_id for row in rows])
    entries = _entries(connection, ended)
    chosen: list[str] = []
    total = 0
    end = after
    for row in rows:
        if row.instance_id in ended:
            total += entries[row.instance_id]
            if chosen and total > _MOST_ENTRIES:
                break
            chosen.append(row.instance_id)
        end = (row.created_at, row.instance_id)
    else:
        end = end if len(rows) == among else None
    for table in OF_INSTANCES:
        connection.execute(delete(table).where(table.c.instance_id.in_(chosen)))
    return Purged(len(chosen), end)


class _Candidate(NamedTuple):
    created_at: Microseconds
    instance_id: str


class _Ended(NamedTuple):
    instance_id: str
    parent_id: str | None


def _ended(
    connection: Connection, statuses: Sequence[Status], before: Microseconds, instance_ids: Sequence[str]
) -> set[str]:
    """Return the ids that may be deleted, with their rows locked, so that they cannot be resumed meanwhile."""
    ended = (
        select(instances.c.instance_id, instances.c.parent_id)
        .where(
            instances.c.instance_id.in_(instance_ids),
            instances.c.status.in_(statuses),
            instances.c.finished_at < before,
        )
        .order_by(instances.c.instance_id)
        .with_for_update()
    )
    found = fetch_all(connection, _Ended, ended)
    needed_by = {row.parent_id for row in found if row.parent_id is not None}
    parents = _unfinished(connection, instances.c.instance_id, needed_by)
    chains = _unfinished(connection, instances.c.origin, {row.instance_id for row in found})
    return {row.instance_id for row in found if row.parent_id not in parents and row.instance_id not in chains}


def _unfinished(connection: Connection, column: Column[Any], values: Collection[str]) -> set[str]:
    """Return those of the values that the column has in an instance which has not ended."""
    found = select(column).distinct().where(column.in_(values), instances.c.status.not_in(FINAL))
    return set(connection.execute(found).scalars()) if values else set()


def _entries(connection: Connection, instance_ids: Collection[str]) -> Counter[str]:
    """Return how many journal entries each instance has."""
    entries: Counter[str] = Counter()
    for table in (history, history_archive):
        counts = select(table.c.instance_id, func.count()).where(table.c.instance_id.in_(instance_ids))
        for instance_id, count in connection.execute(counts.group_by(table.c.instance_id)):
            entries[instance_id] += count
    return entries


def remove_instances(connection: Connection, workflow: str, created_from: Microseconds, limit: int) -> int:
    """Remove instances of a workflow that were started then or later, as if they had never been.

    No worker may run them. Returns how many were removed: fewer than ``limit`` if there are no more.
    """
    found = select(instances.c.instance_id).where(
        instances.c.created_at >= created_from, instances.c.workflow == workflow
    )
    ids = list(connection.execute(found.limit(limit)).scalars())
    for table in (outbox, *OF_INSTANCES) if ids else ():
        connection.execute(delete(table).where(table.c.instance_id.in_(ids)))
    return len(ids)
