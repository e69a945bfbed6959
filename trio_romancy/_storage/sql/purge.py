"""SQL that deletes instances which have ended."""

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
from .tables import history, history_archive, incompatible, instances, outbox, waits

OF_INSTANCES = (history, history_archive, waits, incompatible, instances)
"""What is theirs and goes with them. What they sent does not."""
_MOST_ENTRIES = 20_000
"""Journal entries that are deleted in one transaction, unless a single instance has more."""


@frozen
class Purged:
    """What became of some of the instances."""

    deleted: int
    end: Place | None
    """The last of those that were looked at; None: there are no more."""


def purge(
    connection: Connection, statuses: Sequence[Status], before: Microseconds, after: Place | None, among: int
) -> Purged:
    """Delete those of the next instances, the oldest first, that had ended before that time, with all that is theirs.

    What they sent is left alone: messages and the outbox. So is a child whose parent has not ended, and may still
    have to look at it; and the first instance of a chain that goes on, because the chain goes by its id.

    Args:
      statuses: which of those that ended. All are final.
      after: where the call before has stopped.
      among: how many to look at.
    """
    # Nothing ends before it was created, so there is no need for an index over the time of the end.
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
    """Those that may be deleted. Nobody can resume them until they are."""
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
    """Those of the values that instances have which have not ended."""
    final = [status for status in Status if status.is_final]
    found = select(column).distinct().where(column.in_(values), instances.c.status.not_in(final))
    return set(connection.execute(found).scalars()) if values else set()


def _entries(connection: Connection, instance_ids: Collection[str]) -> Counter[str]:
    """How many journal entries each has."""
    entries: Counter[str] = Counter()
    for table in (history, history_archive):
        counts = select(table.c.instance_id, func.count()).where(table.c.instance_id.in_(instance_ids))
        for instance_id, count in connection.execute(counts.group_by(table.c.instance_id)):
            entries[instance_id] += count
    return entries


def remove_instances(connection: Connection, workflow: str, created_from: Microseconds, limit: int) -> int:
    """Remove some instances of a workflow that were started then or later, with all they have. Nobody may run them.

    Returns how many: fewer than the limit, if those were all.
    """
    found = select(instances.c.instance_id).where(
        instances.c.created_at >= created_from, instances.c.workflow == workflow
    )
    ids = list(connection.execute(found.limit(limit)).scalars())
    for table in (outbox, *OF_INSTANCES) if ids else ():
        connection.execute(delete(table).where(table.c.instance_id.in_(ids)))
    return len(ids)
