"""A batch of the journal in one statement: fence, new instances, ends of workflow functions and entries.

On PostgreSQL a statement can write several tables, and is a transaction of its own. So the most frequent kind of batch
takes one round trip instead of up to eight. Each part depends on the fence: if that finds no row, nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ARRAY, ColumnElement, Connection, any_, bindparam, exists, func, insert, literal, select

from ..._data.codec import dumps
from ...clock import Microseconds
from ..dialects.postgresql import json_rows
from ..sql.instances import CLOSING, cancel_requests, closing
from ..sql.messages import LAST_MESSAGE
from ..sql.rows import ChildRow, EndRow, EntryRow, InstanceRow, SuccessorRow, fetch_first
from ..sql.tables import history, instances
from ..sql.workers import FENCE_BATCH, Lease, check_lease, fence_values

_fence = FENCE_BATCH.returning(literal(1).label("held")).cte("fence")
_is_held = exists(select(_fence.c.held))

_names = InstanceRow.__annotations__ | ChildRow.__annotations__ | SuccessorRow.__annotations__
_given = [instances.c[name] for name in _names if name != "started_after"]
_new = json_rows("starts", {column.name: column.type for column in _given})
_started = (
    insert(instances)
    .from_select(
        [*(column.name for column in _given), "started_after"],
        select(*_new.columns, func.coalesce(LAST_MESSAGE.scalar_subquery(), 0)).where(_is_held),
    )
    .returning(instances.c.started_after)
    .cte("started")
)

_ends = json_rows("ends", CLOSING | {column.name: column.type for column in history.columns})
_ended = bindparam("ended", type_=ARRAY(instances.c.instance_id.type))
_locked = (
    select(instances.c.instance_id)
    .where(instances.c.instance_id == any_(_ended), _is_held)
    # Rows are locked in the order of ids. The expression keeps PostgreSQL from walking through the whole index.
    .order_by(instances.c.instance_id + "")
    .with_for_update()
    .cte("locked")
)
_closed = (
    closing(lambda name: _ends.c[name])
    .where(instances.c.instance_id == any_(select(_locked.c.instance_id).scalar_subquery()))
    .returning(instances.c.instance_id)
    .cte("closed")
)
_last_entries = (
    insert(history)
    .from_select(
        [column.name for column in history.columns],
        select(*(_ends.c[column.name] for column in history.columns)).where(
            _ends.c.id.in_(select(_closed.c.instance_id))
        ),
    )
    .cte("last_entries")
)

_entries = json_rows("entries", {column.name: column.type for column in history.columns})
_entered = (
    insert(history)
    .from_select([column.name for column in history.columns], select(*_entries.columns).where(_is_held))
    .cte("entered")
)


def _count(rows: Any) -> ColumnElement[int]:
    return select(func.count()).select_from(rows).scalar_subquery()


_write = select(
    _count(_fence).label("held"),
    _count(_closed).label("closed"),
    func.coalesce(select(func.max(_started.c.started_after)).scalar_subquery(), 0).label("started_after"),
).add_cte(_last_entries, _entered)


class _Written(NamedTuple):
    held: int
    closed: int
    started_after: int


def write_at_once(
    connection: Connection,
    lease: Lease,
    expires_at: Microseconds,
    number: int,
    starts: Sequence[InstanceRow],
    ends: Sequence[EndRow],
    entries: Sequence[EntryRow],
) -> tuple[int, dict[str, str]]:
    """Write batch ``number``, unless it was committed before, in a transaction that consists of nothing else.

    Args:
      expires_at: when the prolonged lease expires.
      starts: new instances of this worker.
      ends: ends of workflow functions, each with its entry. An end is not written if a cancel request was accepted
        before.

    Returns the number of the last message before the new instances were started; and the accepted cancel requests, as
    JSON text, by instance id.

    Raises:
      LeaseLostError: if the lease was ended.
    """
    values = fence_values(lease, expires_at) | {
        "number": number,
        "starts": dumps(starts),
        "ends": dumps(ends),
        "ended": [row["id"] for row in ends],
        "entries": dumps(entries),
    }
    written = fetch_first(connection, _Written, _write, values)
    assert written is not None
    if not written.held:
        check_lease(connection, lease)  # the batch was committed before, and only the answer was lost
    elif written.closed == len(ends):
        return written.started_after, {}
    started_after = connection.execute(_started_after, {"id": starts[0]["instance_id"]}).scalar_one() if starts else 0
    return started_after, cancel_requests(connection, [row["id"] for row in ends])


_started_after = select(instances.c.started_after).where(instances.c.instance_id == bindparam("id"))
