"""A batch of the journal as a transaction: fence, locks, and then each part in the order that other parts rely on."""

from __future__ import annotations

from operator import itemgetter

from sqlalchemy import Connection

from ...clock import Clock, Microseconds
from ..dialects import notify_workers
from ..sql.chains import continue_chain
from ..sql.entries import insert_entries
from ..sql.instances import (
    close_instances,
    conflict_with,
    insert_instances,
    insert_instances_if_absent,
    set_details,
    set_waits_for,
    update_instances,
)
from ..sql.lock_order import serialize_writers
from ..sql.messages import last_message
from ..sql.rows import EndRow, EntryRow
from ..sql.workers import Lease, fence_batch
from .batch import Batch
from .effects import Effects
from .single_statement import write_at_once

_by_id = itemgetter("id")


def take_number(connection: Connection, number: int, lease: Lease, clock: Clock, lease_time: Microseconds) -> bool:
    """Write nothing under the number of a batch, so that the batch can never be committed; False if it was.

    Raises:
      LeaseLostError: if the lease was ended.
    """
    return fence_batch(connection, lease, clock.now() + lease_time, number)


def write_plain_batch(
    connection: Connection, batch: Batch, number: int, lease: Lease, clock: Clock, lease_time: Microseconds
) -> None:
    """Write a plain batch by one statement. The arguments and errors are those of :func:`write_batch`."""
    ends: list[EndRow] = [{**closing.row, **closing.entry} for closing in batch.closings]
    started_after, requests = write_at_once(
        connection,
        lease,
        clock.now() + lease_time,
        number,
        [start.row for start in batch.starts],
        sorted(ends, key=_by_id),
        batch.entries,
    )
    for start in batch.starts:
        start.started_after = started_after
    for closing in batch.closings:
        closing.refused_for = requests.get(closing.row["id"])


def write_batch(
    connection: Connection, batch: Batch, number: int, lease: Lease, clock: Clock, lease_time: Microseconds
) -> None:
    """Write a batch, and set the results of its parts.

    Does nothing if batch ``number`` was committed before and only the answer was lost: the parts then hold the results
    of that transaction.

    Args:
      lease_time: how far to prolong the lease.

    Raises:
      LeaseLostError: if the lease was ended.
    """
    if not fence_batch(connection, lease, clock.now() + lease_time, number):
        return
    now = clock.now()  # the fence may have waited
    origins = batch.origins()
    if batch.effects is not None:
        batch.effects.lock(connection, now, origins)
    else:
        serialize_writers(connection, origins, now)
    if batch.starts or batch.named_starts:
        _write_starts(connection, batch)
    if batch.updates:
        # A closing of the same instance was appended after its updates. In the order of their ids, as others lock them.
        update_instances(connection, sorted(batch.updates, key=_by_id))
    entries = _write_closings(connection, batch) if batch.closings else batch.entries
    if entries:
        insert_entries(connection, entries)
    if batch.details:
        set_details(connection, batch.details)
    if batch.waits_for:
        set_waits_for(connection, batch.waits_for)
    for closing in batch.closings:
        if closing.successor is not None and closing.refused_for is None:
            continue_chain(connection, closing.row["id"], closing.successor)
    if batch.effects is not None:
        batch.effects.apply(connection, now, lease.worker_id)
    for call in batch.calls:
        call.result = call.fn(connection)
    if batch.is_for_others(now):
        notify_workers(connection)


def _write_starts(connection: Connection, batch: Batch) -> None:
    started_after = last_message(connection)
    for start in (*batch.starts, *batch.named_starts):
        start.started_after = started_after
    if batch.starts:
        insert_instances(connection, [{**start.row, "started_after": started_after} for start in batch.starts])
    if batch.named_starts:
        holders = insert_instances_if_absent(
            connection, [{**start.row, "started_after": started_after} for start in batch.named_starts]
        )
        for start in batch.named_starts:
            holder = holders[start.row["instance_id"]]
            start.failure = conflict_with(start.row, holder)
            start.is_ours = holder.owner == start.row["owner"] and holder.created_at == start.row["created_at"]


def _write_closings(connection: Connection, batch: Batch) -> list[EntryRow]:
    """Close instances. Returns all entries of the batch except those of refused closings."""
    requests = close_instances(connection, sorted((closing.row for closing in batch.closings), key=_by_id))
    for closing in batch.closings:
        closing.refused_for = requests.get(closing.row["id"])
    accepted = [closing for closing in batch.closings if closing.refused_for is None]
    for closing in accepted:
        if closing.origin is not None:
            batch.effects = batch.effects or Effects()
            batch.effects.ended_children[closing.row["id"]] = closing.origin
    return batch.entries + [closing.entry for closing in accepted]
