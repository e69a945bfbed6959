"""The group-commit writer: one task that writes what all actors of a worker record.

Actors append and go on; the writer takes all that has gathered, commits it as one transaction, and wakes those who
wait for durability. There is no timer: a batch is what arrived while the one before it was committed.

A transaction starts with the fence (:func:`.workers.fence_batch`), so each batch is also a heartbeat, and nothing is
written once the lease is lost. The fence carries the batch's number: a batch whose commit got no answer is asked for
by that number and is written at most once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, Concatenate, ParamSpec, TypeVar

import trio
from attrs import frozen
from sqlalchemy import Connection

from ..._data.log_fields import about
from ...clock import Clock, Microseconds
from ...errors import LeaseLostError
from ..database import Database, Writer
from ..dialects import notify_workers
from ..outages import retry_while_away
from ..sql import chains, instances, messages
from ..sql.chains import Successor
from ..sql.messages import Outgoing
from ..sql.rows import ClosingRow, EntryRow, InstanceRow, StatusUpdate
from ..sql.waits import Match, MatchResult, Wait
from ..sql.workers import Lease, fence_batch
from .batch import Batch, Call, Closing, Start
from .effects import Effects, WaitRequest
from .single_statement import write_at_once

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


class Journal:
    """The journal of one worker under one lease."""

    def __init__(self, database: Database, lease: Lease, clock: Clock, lease_time: Microseconds) -> None:
        self.lease = lease
        self.on_refused: Callable[[str, Exception], None] = lambda _, __: None
        """Told of an instance whose writes the database refuses."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called when nothing more will be recorded, before anything else can happen."""
        self.on_news: Callable[[Sequence[MatchResult]], None] = lambda _: None
        """Told what there is for waits of this worker's instances, before the next batch is closed."""
        self.on_wake: Callable[[], None] = lambda: None
        """Called when instances have become due that have no actor."""
        self.on_sent: Callable[[], None] = lambda: None
        """Called when messages have been sent."""
        self.on_posted: Callable[[], None] = lambda: None
        """Called when events have been put into the outbox."""
        self.on_committed: Callable[[int, float], None] | None = None
        """Told how many writes a batch had, and how many seconds it took. None: nobody wants to know."""
        self._database = database
        self._writer: Writer | None = None
        self._clock = clock
        self._lease_time = lease_time
        self._gathering = Batch()
        self._arrived = trio.Event()
        self._under_way: Batch | None = None
        """The batch that is being written, or was last."""
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

    def append_entry(self, row: EntryRow) -> Batch:
        """Record an entry. Returns what :meth:`durable` waits for."""
        batch = self._next()
        batch.entries.append(row)
        return batch

    def append_effects(self, effects: Effects) -> Batch:
        """Send something, together with what is appended in the same moment."""
        batch = self._gathering
        self._effects().add(effects)
        return batch

    def _effects(self) -> Effects:
        batch = self._next()
        if batch.effects is None:
            batch.effects = Effects()
        return batch.effects

    def append_wait(
        self, wait: Wait, most: int, on_open: Callable[[Sequence[Match] | None], None], *, is_stored: bool
    ) -> None:
        """Begin to wait. ``on_open`` is called once that is durable, with what is there, or None: look yourself.

        Args:
          most: the most messages to look for.
          is_stored: whether it may have been noted already, before a replay.
        """
        self._effects().opened.append(WaitRequest(wait, most, is_stored, on_open))

    def append_close(self, instance_id: str, operation_id: str) -> None:
        """Cease to wait."""
        self._effects().closed.append((instance_id, operation_id))

    def append_end(self, instance_id: str) -> None:
        """Remove everything that says what the instance waits for."""
        self._effects().ended.add(instance_id)

    def append_wake(self, instance_id: str) -> None:
        """Make an instance want attention, after all that was appended before."""
        self._effects().woken.add(instance_id)

    def append_child_end(self, instance_id: str, origin: str) -> None:
        """A child ends with what is appended in the same moment: wake its parent if that waits for it."""
        self._effects().ended_children[instance_id] = origin

    def append_end_of_children(self, parent_id: str, origins: Iterable[str], reason: str) -> None:
        """Ask for the cancellation of children that have not ended."""
        self._effects().ending_children.setdefault(parent_id, (set(), reason))[0].update(origins)

    def append_details(self, instance_id: str, text: str) -> None:
        """Say something of an instance: JSON text. The last counts."""
        batch = self._next()
        batch.details = (batch.details or {}) | {instance_id: text}

    def append_update(self, row: StatusUpdate) -> Batch:
        """Change the status of an owned instance, in order with its entries."""
        batch = self._next()
        batch.updates.append(row)
        return batch

    # -- appending and waiting -------------------------------------------------------------------------------------

    async def start(self, row: InstanceRow, on_durable: Callable[[], None], *, id_is_new: bool) -> None:
        """Store a new instance. ``on_durable`` is called once it is, even if nobody waits any more.

        Args:
          id_is_new: False if an instance with this id may be stored already, which is fine if it is the same.

        Raises:
          InstanceExistsError: if the id is taken by another workflow or input.
        """
        batch = self._next()
        start = Start(row, on_durable)
        (batch.starts if id_is_new else batch.named_starts).append(start)
        await batch.durable.wait()
        batch.check(start)

    async def close(
        self,
        row: ClosingRow,
        entry: EntryRow,
        *,
        origin: str | None = None,
        successor: Successor | None = None,
    ) -> str | None:
        """Record the end of a workflow function, unless a cancel request was accepted first.

        Args:
          origin: of the instance's chain, if this is the end of that and it has a parent.
          successor: who goes on with it.

        Returns None once it is durable; else, with nothing written, the JSON text of the request's reason.
        """
        batch = self._next()
        closing = Closing(row, entry, origin, successor)
        batch.closings.append(closing)
        await batch.durable.wait()
        batch.check(closing)
        return closing.refused_for

    async def call(self, fn: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``fn(connection, ...)`` behind the fence, as a part of the next batch, and return its result."""
        result: R = await self._call(Call(lambda connection: fn(connection, *args, **kwargs)))
        return result

    async def call_and_tell(
        self,
        tell: Callable[[R], None],
        fn: Callable[Concatenate[Connection, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """The same. ``tell`` is told the result first, before the next batch is closed: what it appends is in that."""
        result: R = await self._call(Call(lambda connection: fn(connection, *args, **kwargs), tell))
        return result

    async def _call(self, call: Call) -> Any:
        batch = self._next()
        batch.calls.append(call)
        await batch.durable.wait()
        batch.check(call)
        return call.result

    async def call_on(
        self, channel: str, fn: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """The same, with the channel locked in its turn, before others are waited for."""
        self._effects().channels.add(channel)
        return await self.call(fn, *args, **kwargs)

    async def send(self, outgoing: Sequence[Outgoing]) -> None:
        """Send messages. What became of each is in it when this returns, and durable."""
        batch = self.append_effects(Effects(outgoing=list(outgoing)))
        await batch.durable.wait()
        batch.check()

    async def flush(self) -> None:
        """Wait until everything that was appended before is on disk."""
        await self.call(lambda _: None)

    async def durable(self, batch: Batch) -> None:
        """Wait until all that was appended to the batch is on disk. Returns without a checkpoint if it is.

        Raises:
          LeaseLostError: if nobody will ever know whether it is.
        """
        await batch.durable.wait()
        batch.check()

    async def tell_all(self) -> None:
        """Wait until the batch that is being written, if one is, has been told to all whom it concerns, or is lost."""
        if self._under_way is not None:
            await self._under_way.durable.wait()

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
            try:
                while True:
                    if not self._gathering.size:
                        await self._arrived.wait()
                    self._under_way, self._gathering = self._gathering, Batch()
                    self._arrived = trio.Event()
                    await self._write(self._under_way)
            except LeaseLostError as error:
                lost = error
                raise
            finally:
                self._lost = lost
                for unwritten in (self._under_way, self._gathering):
                    if unwritten is not None and not unwritten.durable.is_set():
                        unwritten.lost = lost
                        unwritten.durable.set()
                self.on_lost()

    async def beat(self) -> None:
        """Have an empty batch written, as a heartbeat, whenever nothing else was for a third of the lease.

        Raises:
          LeaseLostError: as :meth:`run` does.
        """
        while not self._database.is_exclusive:
            batches = self._batches
            await trio.sleep_until(self._clock.deadline(self._last_commit + self._lease_time // 3))
            if self._batches == batches:
                batch = self._gathering
                self._arrived.set()
                await self.durable(batch)

    async def _write(self, batch: Batch) -> None:
        begun = trio.current_time()
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
        if self.on_committed is not None:
            self.on_committed(batch.size, trio.current_time() - begun)
        for _, tell in batch.observations or ():
            tell()
        for start in (*batch.starts, *batch.named_starts):
            if start.failure is None and start.is_ours:
                start.on_durable()
        for call in batch.calls:
            if call.tell is not None and call.failure is None:
                call.tell(call.result)
        if batch.effects is not None:
            batch.effects.tell()
            if batch.effects.news:
                self.on_news(batch.effects.news)
            if batch.effects.wakes_others or batch.effects.woken:
                self.on_wake()
            if batch.effects.outgoing:
                self.on_sent()
            if batch.effects.outbox:
                self.on_posted()
        batch.forget()
        batch.durable.set()

    async def _commit(self, batch: Batch) -> None:
        """Commit the batch exactly once, however often that takes."""
        self._number += 1
        writer = self._writer
        assert writer is not None
        autocommit = writer.autocommit
        if autocommit is not None and batch.is_plain:
            await retry_while_away(self._database, autocommit.run, self._apply_at_once, batch, self._number)
        else:
            await retry_while_away(self._database, writer.run, self._apply, batch, self._number)

    def _apply_at_once(self, connection: Connection, batch: Batch, number: int) -> None:
        started_after, requests = write_at_once(
            connection,
            self.lease,
            self._clock.now() + self._lease_time,
            number,
            [start.row for start in batch.starts],
            sorted(({**closing.row, **closing.entry} for closing in batch.closings), key=_by_id),
            batch.entries,
        )
        for start in batch.starts:
            start.row["started_after"] = started_after
        for closing in batch.closings:
            closing.refused_for = requests.get(closing.row["id"])

    def _apply(self, connection: Connection, batch: Batch, number: int) -> None:
        expires_at = self._clock.now() + self._lease_time
        if not fence_batch(connection, self.lease, expires_at, number):
            return  # committed before, and only the answer was lost: what the parts were told then is true
        now = self._clock.now()
        origins = batch.origins()
        if batch.effects is not None:
            batch.effects.lock(connection, now, origins)
        else:
            chains.touch(connection, origins, now)
        if batch.starts or batch.named_starts:
            started_after = messages.last_message(connection)
            for start in (*batch.starts, *batch.named_starts):
                start.row["started_after"] = started_after
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
            # Whatever they say, a closing came after it. In the order of their ids, as others wake them.
            instances.update_instances(connection, sorted(batch.updates, key=_by_id))
        if batch.closings:
            requests = instances.close_instances(connection, sorted((c.row for c in batch.closings), key=_by_id))
            for closing in batch.closings:
                closing.refused_for = requests.get(closing.row["id"])
            accepted = [closing for closing in batch.closings if closing.refused_for is None]
            entries = entries + [closing.entry for closing in accepted]
            for closing in accepted:
                if closing.origin is not None:
                    batch.effects = batch.effects or Effects()
                    batch.effects.ended_children[closing.row["id"]] = closing.origin
        if entries:
            instances.insert_entries(connection, entries)
        if batch.details:
            instances.set_details(connection, batch.details)
        for closing in batch.closings:
            if closing.successor is not None and closing.refused_for is None:
                chains.continue_chain(connection, closing.row["id"], closing.successor)
        if batch.effects is not None:
            batch.effects.apply(connection, now, self.lease.worker_id)
        for call in batch.calls:
            call.result = call.fn(connection)
        if batch.is_for_others(now):
            notify_workers(connection)

    async def _write_parts(self, batch: Batch) -> None:
        """Write a refused batch instance by instance, so that one bad write harms nobody but its own instance."""
        if batch.effects is not None:
            batch.effects.news, batch.effects.wakes_others = [], False  # what was rolled back
        for instance_id, part in batch.parts():
            try:
                await self._commit(part)
                if part.effects is not None:
                    batch.effects = batch.effects or Effects()  # it may have come to it only now
                    batch.effects.note(part.effects)
            except LeaseLostError:
                raise
            except Exception as error:
                message = "instance %s: the database refuses what it wants to record"
                is_id = not instance_id.startswith("\0")  # else the part is of no instance
                _logger.exception(message, instance_id, extra=about(instance_id if is_id else None))
                waiting: list[Start | Closing | Call] = [
                    *part.starts,
                    *part.named_starts,
                    *part.closings,
                    *part.calls,
                ]
                for one in waiting:
                    one.failure = error
                for outgoing in part.effects.outgoing if part.effects is not None else ():
                    outgoing.failure = error
                if batch.observations is not None:
                    batch.observations = [one for one in batch.observations if one[0] != instance_id]
                self.on_refused(instance_id, error)


_by_id = itemgetter("id")
