"""The group-commit writer: one task that writes what all actors of a worker record.

Actors append and go on; the writer takes all that has gathered, commits it as one transaction, and wakes those who
wait for durability. There is no timer: a batch is what arrived while the one before it was committed.

A transaction starts with the fence (:func:`.workers.fence_batch`), so each batch is also a heartbeat, and nothing is
written once the lease is lost. The fence carries the batch's number: a batch whose commit got no answer is asked for
by that number and is written at most once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import trio
from attrs import define, field, frozen
from sqlalchemy import Connection

from ..clock import Clock, Microseconds
from ..errors import LeaseLostError
from . import instances
from .database import Database, Writer
from .patience import patiently
from .workers import Lease, fence_batch

P = ParamSpec("P")
R = TypeVar("R")

_logger = logging.getLogger("trio_romancy.journal")


@frozen
class JournalStatistics:
    """What the journal of a worker has done under its current lease."""

    batches: int
    """Transactions committed."""
    writes: int
    """Entries, starts and status changes in them."""
    largest_batch: int
    """The most writes in one transaction."""
    waiting: int
    """Writes that are not durable yet."""


@define(eq=False)
class _Start:
    """A new instance."""

    row: dict[str, Any]
    on_durable: Callable[[], None]
    is_ours: bool = True
    """False if the same instance was there before."""
    failure: Exception | None = None


@define(eq=False)
class _Closing:
    """The end of a workflow function, which only counts if no cancel request was accepted before."""

    row: dict[str, Any]
    entry: dict[str, Any]
    refused_for: str | None = None
    """JSON text of the reason of the cancel request that came first."""
    failure: Exception | None = None


@define(eq=False)
class _Call:
    fn: Callable[[Connection], Any]
    result: Any = None
    failure: Exception | None = None


@define(eq=False)
class Batch:
    """What goes into one transaction. Outside of this module it is only handed to :meth:`Journal.durable`."""

    starts: list[_Start] = field(factory=list)
    """New instances whose id is certainly new."""
    named_starts: list[_Start] = field(factory=list)
    """New instances whose id may be taken."""
    closings: list[_Closing] = field(factory=list)
    entries: list[dict[str, Any]] = field(factory=list)
    updates: list[dict[str, Any]] = field(factory=list)
    calls: list[_Call] = field(factory=list)
    size: int = 0
    durable: trio.Event = field(factory=trio.Event)
    lost: LeaseLostError | None = None
    """Set if the lease was lost before it was known to be committed."""

    def check(self, part: _Start | _Closing | _Call | None = None) -> None:
        """Raise what has gone wrong with the batch, or with this part of it."""
        if self.lost is not None:
            raise self.lost
        if part is not None and part.failure is not None:
            raise part.failure


class Journal:
    """The journal of one worker under one lease."""

    def __init__(self, database: Database, lease: Lease, clock: Clock, lease_time: Microseconds) -> None:
        self.lease = lease
        self.on_refused: Callable[[str, Exception], None] = lambda _, __: None
        """Told of an instance whose writes the database refuses."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called when nothing more will be recorded, before anything else can happen."""
        self._database = database
        self._writer: Writer | None = None
        self._clock = clock
        self._lease_time = lease_time
        self._gathering = Batch()
        self._arrived = trio.Event()
        self._number = 0
        self._batches = self._writes = self._largest = 0
        self._last_commit = clock.now()
        self._lost: LeaseLostError | None = None

    # -- appending: never waits, never fails for what is in the database -------------------------------------------

    def _next(self) -> Batch:
        if self._lost is not None:
            raise self._lost
        batch = self._gathering
        batch.size += 1
        if batch.size == 1:
            self._arrived.set()
        return batch

    def append_entry(self, row: dict[str, Any]) -> Batch:
        """Record an entry. Returns what :meth:`durable` waits for."""
        batch = self._next()
        batch.entries.append(row)
        return batch

    def append_update(self, row: dict[str, Any]) -> Batch:
        """Change the status of an owned instance, in order with its entries."""
        batch = self._next()
        batch.updates.append(row)
        return batch

    # -- appending and waiting -------------------------------------------------------------------------------------

    async def start(self, row: dict[str, Any], on_durable: Callable[[], None], *, id_is_new: bool) -> None:
        """Store a new instance. ``on_durable`` is called once it is, even if nobody waits any more.

        Args:
          id_is_new: False if an instance with this id may be stored already, which is fine if it is the same.

        Raises:
          InstanceExistsError: if the id is taken by another workflow or input.
        """
        batch = self._next()
        start = _Start(row, on_durable)
        (batch.starts if id_is_new else batch.named_starts).append(start)
        await batch.durable.wait()
        batch.check(start)

    async def close(self, row: dict[str, Any], entry: dict[str, Any]) -> str | None:
        """Record the end of a workflow function, unless a cancel request was accepted first.

        Returns None once it is durable; else, with nothing written, the JSON text of the request's reason.
        """
        batch = self._next()
        closing = _Closing(row, entry)
        batch.closings.append(closing)
        await batch.durable.wait()
        batch.check(closing)
        return closing.refused_for

    async def call(self, fn: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``fn(connection, ...)`` behind the fence, as a part of the next batch, and return its result."""
        batch = self._next()
        call = _Call(lambda connection: fn(connection, *args, **kwargs))
        batch.calls.append(call)
        await batch.durable.wait()
        batch.check(call)
        result: R = call.result
        return result

    async def flush(self) -> None:
        """Wait until everything that was appended before is on disk."""
        await self.call(lambda _: None)

    async def durable(self, batch: Batch) -> None:
        """Wait until all that was appended to the batch is on disk. Returns without a checkpoint if it is.

        Raises:
          LeaseLostError: if nobody will ever know whether it is.
        """
        if not batch.durable.is_set():
            await batch.durable.wait()
        batch.check()

    def statistics(self) -> JournalStatistics:
        """Numbers about this journal."""
        return JournalStatistics(self._batches, self._writes, self._largest, self._gathering.size)

    # -- writing ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write batches until cancelled.

        Raises:
          LeaseLostError: when the lease is lost. Nothing that had not been committed ever will be.
        """
        async with self._database.open_writer() as self._writer:
            lost = LeaseLostError(f"worker {self.lease.worker_id!r} has stopped")
            batch = self._gathering
            try:
                while True:
                    if not self._gathering.size:
                        await self._wait_for_work()
                    batch, self._gathering = self._gathering, Batch()
                    self._arrived = trio.Event()
                    await self._write(batch)
            except LeaseLostError as error:
                lost = error
                raise
            finally:
                self._lost = lost
                for unwritten in (batch, self._gathering):
                    if not unwritten.durable.is_set():
                        unwritten.lost = lost
                        unwritten.durable.set()
                self.on_lost()

    async def _wait_for_work(self) -> None:
        """Wait for the first write; write an empty batch, as a heartbeat, when none comes for a third of the lease."""
        if self._database.is_exclusive:
            await self._arrived.wait()
        else:
            with trio.CancelScope(deadline=self._clock.deadline(self._last_commit + self._lease_time // 3)):
                await self._arrived.wait()

    async def _write(self, batch: Batch) -> None:
        try:
            await self._commit(batch)
        except LeaseLostError:
            raise
        except Exception:
            _logger.exception("a batch was refused by %s; writing its parts one by one", self._database.name)
            await self._write_parts(batch)
        self._batches += 1
        self._writes += batch.size
        self._largest = max(self._largest, batch.size)
        self._last_commit = self._clock.now()
        for start in (*batch.starts, *batch.named_starts):
            if start.failure is None and start.is_ours:
                start.on_durable()
        batch.durable.set()

    async def _commit(self, batch: Batch) -> None:
        """Commit the batch exactly once, however often that takes."""
        self._number += 1
        assert self._writer is not None
        await patiently(self._database, self._writer.run, self._apply, batch, self._number)

    def _apply(self, connection: Connection, batch: Batch, number: int) -> None:
        expires_at = self._clock.now() + self._lease_time
        if not fence_batch(connection, self.lease, expires_at, number):
            return  # committed before, and only the answer was lost: what the parts were told then is true
        if batch.starts:
            instances.insert_instances(connection, [start.row for start in batch.starts])
        if batch.named_starts:
            found = instances.insert_instances_if_absent(connection, [start.row for start in batch.named_starts])
            for start in batch.named_starts:
                holder = found[start.row["instance_id"]]
                start.failure = instances.conflict_with(start.row, holder)
                start.is_ours = holder.owner == start.row["owner"] and holder.created_at == start.row["created_at"]
        entries = batch.entries
        if batch.updates:
            instances.update_instances(connection, batch.updates)  # whatever they say, a closing came after it
        if batch.closings:
            requests = instances.close_instances(connection, [closing.row for closing in batch.closings])
            for closing in batch.closings:
                closing.refused_for = requests.get(closing.row["id"])
            entries = entries + [closing.entry for closing in batch.closings if closing.refused_for is None]
        if entries:
            instances.insert_entries(connection, entries)
        for call in batch.calls:
            call.result = call.fn(connection)

    async def _write_parts(self, batch: Batch) -> None:
        """Write a refused batch instance by instance, so that one bad write harms nobody but its own instance."""
        for part, instance_id in _parts(batch):
            try:
                await self._commit(part)
            except LeaseLostError:
                raise
            except Exception as error:
                _logger.exception("instance %s: the database refuses what it wants to record", instance_id)
                waiting: list[_Start | _Closing | _Call] = [
                    *part.starts,
                    *part.named_starts,
                    *part.closings,
                    *part.calls,
                ]
                for one in waiting:
                    one.failure = error
                self.on_refused(instance_id, error)


def _parts(batch: Batch) -> list[tuple[Batch, str]]:
    """A batch as one batch for each instance in it, in the order in which they came."""
    parts: dict[str, Batch] = {}

    def part(instance_id: str) -> Batch:
        parts.setdefault(instance_id, Batch()).size += 1
        return parts[instance_id]

    for start in batch.starts:
        part(start.row["instance_id"]).starts.append(start)
    for start in batch.named_starts:
        part(start.row["instance_id"]).named_starts.append(start)
    for entry in batch.entries:
        part(entry["instance_id"]).entries.append(entry)
    for closing in batch.closings:
        part(closing.row["id"]).closings.append(closing)
    for update in batch.updates:
        part(update["id"]).updates.append(update)
    for number, call in enumerate(batch.calls):
        part(f"call {number}").calls.append(call)
    return [(part, instance_id) for instance_id, part in parts.items()]
