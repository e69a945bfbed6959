"""The group-commit writer: one task that writes the records of all actors of a worker.

Actors append and continue. The writer takes all that has gathered, commits it as one transaction, and wakes the tasks
that wait for durability. There is no timer: a batch holds all that arrived while the last batch was committed.

A transaction starts with the fence (:func:`.workers.fence_batch`). So each batch is also a heartbeat, and nothing is
written once the lease is lost. The fence carries the batch's number: if a commit gets no answer, the writer repeats the
batch under the same number, and the database writes it at most once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import trio
from attrs import frozen
from sqlalchemy import Connection

from ..._data.log_fields import about
from ...clock import Clock, Microseconds
from ...errors import LeaseLostError
from ..database import Database, Writer
from ..dialects.errors import is_slow
from ..outages import retry_unless_refused
from ..sql.chains import Successor
from ..sql.messages import Outgoing
from ..sql.permits import Answer, PermitRequest
from ..sql.rows import ClosingRow, EntryRow, InstanceRow, StatusUpdate
from ..sql.waits import Match, Wait
from ..sql.workers import Lease
from .batch import Batch, Call, Closing, Start
from .committed import Committed, JournalListener
from .effects import Effects, WaitRequest
from .transaction import take_number, write_batch, write_plain_batch

P = ParamSpec("P")
R = TypeVar("R")

_MOST_BYTES = 1_000_000
"""The most bytes of payloads in a batch, unless it is a single write: a batch of many large values takes long, and all
of its writes are durable only at its end."""

_logger = logging.getLogger("trio_romancy.journal")


@frozen
class JournalStatistics:
    """Numbers about the journal of a worker under its current lease."""

    batches: int
    """Transactions committed."""
    writes: int
    """Entries, starts and status changes in them."""
    largest_batch: int
    """The most writes in one transaction."""
    waiting: int
    """Writes that are not durable yet."""


class Journal:
    """The journal of one worker under one lease.

    Args:
      lease_time: how far each batch prolongs the lease.
      listener: told of each batch before the next one is closed.
    """

    def __init__(
        self, database: Database, lease: Lease, clock: Clock, lease_time: Microseconds, listener: JournalListener
    ) -> None:
        self.lease = lease
        self._database = database
        self._writer: Writer | None = None
        self._clock = clock
        self._lease_time = lease_time
        self._listener = listener
        self._gathering = Batch()
        self._full: deque[Batch] = deque()
        """Batches that are complete because another large value would have made them too long."""
        self._arrived = trio.Event()
        self._under_way: Batch | None = None
        """The batch that is being written, or was written last."""
        self._number = 0
        self._batches = self._writes = self._largest = 0
        self._lost: LeaseLostError | None = None

    # -- appending: never waits, and never fails because of the database -------------------------------------------

    def _next(self, size: int = 0) -> Batch:
        """Return the batch for the next write.

        Args:
          size: the bytes of its payload. What belongs to the write, such as its effects, is appended after it, and so
            is part of the same transaction.
        """
        if self._lost is not None:
            raise self._lost
        batch = self._gathering
        if size and batch.bytes + size > _MOST_BYTES:
            batch = self._begin_batch()
        batch.bytes += size
        batch.size += 1
        if batch.size == 1:
            self._arrived.set()
        return batch

    def _begin_batch(self) -> Batch:
        """Begin another batch, which is written after the one that has gathered, for a write with a large value."""
        if self._gathering.size:
            self._full.append(self._gathering)
            self._gathering = Batch()
        return self._gathering

    def append_entry(self, row: EntryRow) -> Batch:
        """Record an entry. Returns the batch that :meth:`durable` waits for."""
        batch = self._next(len(row["payload"]))
        batch.entries.append(row)
        return batch

    def append_effects(self, effects: Effects) -> Batch:
        """Apply effects, in the same transaction as everything that is appended before the next checkpoint."""
        batch = self._gathering
        self._effects().add(effects)
        batch.bytes += effects.bytes()
        return batch

    def _effects(self) -> Effects:
        batch = self._next()
        if batch.effects is None:
            batch.effects = Effects()
        return batch.effects

    def append_wait(
        self, wait: Wait, most: int, on_open: Callable[[Sequence[Match] | None], None], *, is_stored: bool
    ) -> None:
        """Begin to wait for messages.

        Args:
          most: the most messages to search for.
          on_open: called once the wait is durable, with its first messages; with None if the transaction has not
            searched for them, so that the caller must.
          is_stored: whether a replayed instance may have stored the same wait before.
        """
        self._effects().opened.append(WaitRequest(wait, most, is_stored, on_open))

    def append_close(self, instance_id: str, operation_id: str) -> None:
        """Cease to wait."""
        self._effects().closed.append((instance_id, operation_id))

    def append_end(self, instance_id: str) -> None:
        """Remove all waits and subscriptions of an instance that ends."""
        self._effects().ended.add(instance_id)

    def append_wake(self, instance_id: str) -> None:
        """Make an instance due, after all earlier writes are applied."""
        self._effects().woken.add(instance_id)

    def append_child_end(self, instance_id: str, origin: str) -> None:
        """Wake the parent of a child that ends in the same transaction, if the parent waits for that.

        Args:
          origin: the origin of the child's chain.
        """
        self._effects().ended_children[instance_id] = origin

    def append_end_of_children(self, parent_id: str, origins: Iterable[str], reason: str) -> None:
        """Ask for the cancellation of children that have not ended.

        Args:
          origins: the origins of the children's chains.
        """
        self._effects().ending_children.setdefault(parent_id, (set(), reason))[0].update(origins)

    def append_details(self, instance_id: str, text: str) -> None:
        """Set the details of an instance: JSON text. The last call in a batch counts."""
        batch = self._next()
        if batch.details is None:
            batch.details = {}
        batch.details[instance_id] = text

    def append_waits_for(self, instance_id: str, text: str) -> None:
        """Show the operations in flight of an instance: JSON text. The last call in a batch counts."""
        batch = self._next()
        if batch.waits_for is None:
            batch.waits_for = {}
        batch.waits_for[instance_id] = text

    def append_update(self, row: StatusUpdate) -> Batch:
        """Change the status of an owned instance, in order with its entries."""
        batch = self._next()
        batch.updates.append(row)
        return batch

    # -- appending and waiting -------------------------------------------------------------------------------------

    async def start(self, row: InstanceRow, arguments: list[Any], *, id_is_new: bool) -> None:
        """Store a new instance, and return once it is durable.

        :attr:`.Committed.started` has the instance then, also if the call was cancelled meanwhile.

        Args:
          arguments: the workflow's arguments, for the listener.
          id_is_new: False if an instance with this id may be stored already, which is fine if it is the same.

        Raises:
          InstanceExistsError: if another workflow or another input has the id.
        """
        batch = self._next(len(row["input"]))
        start = Start(row, arguments)
        (batch.starts if id_is_new else batch.named_starts).append(start)
        await batch.durable.wait()
        batch.check(start)

    async def close(
        self,
        row: ClosingRow,
        entry: EntryRow,
        *,
        has_waits: bool = False,
        origin: str | None = None,
        successor: Successor | None = None,
    ) -> str | None:
        """Record the end of a workflow function, unless a cancel request was accepted first.

        Args:
          has_waits: whether the instance may have waits and subscriptions, which are removed.
          origin: the origin of the instance's chain, if the chain ends here and has a parent.
          successor: the instance that continues the chain.

        Returns None once the end is durable. If a cancel request was first, nothing is written, and the request is
        returned as JSON text.
        """
        batch = self._next(len(entry["payload"]) + len(row["output_"] or ""))
        if has_waits:
            self.append_end(row["id"])
        closing = Closing(row, entry, origin, successor)
        batch.closings.append(closing)
        await batch.durable.wait()
        batch.check(closing)
        return closing.refused_for

    async def call(self, fn: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``fn(connection, ...)`` after the fence, as a part of the next batch, and return its result."""
        result: R = await self._call(Call(lambda connection: fn(connection, *args, **kwargs)))
        return result

    async def call_then(
        self,
        on_result: Callable[[R], None],
        fn: Callable[Concatenate[Connection, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Run ``fn`` like :meth:`call`, and call ``on_result`` with its result before the next batch is closed.

        Writes that ``on_result`` appends are part of the next batch.
        """
        result: R = await self._call(Call(lambda connection: fn(connection, *args, **kwargs), on_result))
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
        """Run ``fn`` like :meth:`call`, with the channel locked in the order that all transactions keep."""
        self._effects().channels.add(channel)
        return await self.call(fn, *args, **kwargs)

    async def send(self, outgoing: Sequence[Outgoing]) -> None:
        """Send messages, and return once they are durable. Each :class:`.Outgoing` then has its results."""
        effects = Effects(outgoing=list(outgoing))
        if self._gathering.bytes + effects.bytes() > _MOST_BYTES:
            self._begin_batch()
        batch = self.append_effects(effects)
        await batch.durable.wait()
        batch.check()

    async def ask(self, request: PermitRequest) -> Answer:
        """Ask for permits of limits, and return the answer once it is durable."""
        batch = self.append_effects(Effects(asked=[request]))
        await batch.durable.wait()
        batch.check()
        if request.failure is not None:
            raise request.failure
        assert request.answer is not None
        return request.answer

    async def flush(self) -> None:
        """Wait until everything that was appended before is durable."""
        await self.call(lambda _: None)

    async def durable(self, batch: Batch) -> None:
        """Wait until everything that was appended to the batch is durable. Returns without a checkpoint if it is.

        Raises:
          LeaseLostError: if the lease was lost first. The batch may have been committed all the same.
        """
        await batch.durable.wait()
        batch.check()

    async def reported(self) -> None:
        """Wait until the listener has been told of the batch under way, if there is one, or that batch is lost."""
        if self._under_way is not None:
            await self._under_way.durable.wait()

    def statistics(self) -> JournalStatistics:
        """Return numbers about this journal."""
        waiting = self._gathering.size + sum(batch.size for batch in self._full)
        return JournalStatistics(self._batches, self._writes, self._largest, waiting)

    # -- writing ---------------------------------------------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Write batches until cancelled.

        Raises:
          LeaseLostError: when the lease is lost. Nothing that had not been committed before ever will be.
        """
        async with self._database.open_writer() as self._writer:
            lost = LeaseLostError(f"worker {self.lease.worker_id!r} has stopped")
            try:
                while True:
                    if not self._full:
                        if not self._gathering.size:
                            await self._arrived.wait()
                        self._full.append(self._gathering)
                        self._gathering = Batch()
                        self._arrived = trio.Event()
                    self._under_way = self._full.popleft()
                    await self._write(self._under_way)
            except LeaseLostError as error:
                lost = error
                raise
            finally:
                self._lost = lost
                for unwritten in (self._under_way, *self._full, self._gathering):
                    if unwritten is not None and not unwritten.durable.is_set():
                        unwritten.lost = lost
                        unwritten.durable.set()
                self._listener.lost()

    async def _write(self, batch: Batch) -> None:
        begun = trio.current_time()
        await self._store(batch)
        self._batches += 1
        self._writes += batch.size
        self._largest = max(self._largest, batch.size)
        self._report(batch, trio.current_time() - begun)
        batch.forget()
        batch.durable.set()

    def _report(self, batch: Batch, seconds: float) -> None:
        for call in batch.calls:
            if call.on_result is not None and call.failure is None:
                call.on_result(call.result)
        started = batch.started()
        wakes_others = any(not one.is_owned for one in started)
        if (effects := batch.effects) is None:
            committed = Committed(
                batch.size, seconds, started, wakes_others=wakes_others, changed=batch.changed_instances
            )
        else:
            effects.report()
            committed = Committed(
                batch.size,
                seconds,
                started,
                effects.matches,
                wakes_others or effects.wakes_others or bool(effects.woken),
                has_sent=bool(effects.outgoing),
                has_posted=bool(effects.outbox or effects.held_back),
                has_deadlines=any("deadline" in row for row in effects.children),
                changed=batch.changed_instances,
            )
        self._listener.committed(committed)
        for _, observer in batch.observations or ():
            observer()  # after the hook `batch_committed`, which the listener calls

    async def _store(self, batch: Batch) -> None:
        """Commit the batch: as a whole, in halves if that takes too long, or instance by instance if it is refused."""
        try:
            halves = await self._commit(batch)
        except LeaseLostError:
            raise
        except Exception:
            _logger.exception("a batch was refused by %s; writing its parts one by one", self._database.name)
            await self._write_parts(batch)
            return
        if halves:
            _logger.warning("%s takes too long for a batch; writing it in two halves", self._database.name)
            _forget_results(batch)
            for half in halves:
                await self._store(half)
                _add_results(batch, half)

    async def _commit(self, batch: Batch) -> Sequence[Batch]:
        """Commit the batch exactly once, however often that takes.

        Returns the halves of the batch if it took too long, and can be divided; nothing of it is written then.
        """
        self._number += 1
        writer = self._writer
        assert writer is not None
        autocommit = writer.autocommit
        if autocommit is not None and batch.is_plain:
            run, write = autocommit.run, write_plain_batch
        else:
            run, write = writer.run, write_batch
        fence = self._number, self.lease, self._clock, self._lease_time

        async def attempt() -> Sequence[Batch]:
            try:
                await run(write, batch, *fence)
            except Exception as error:
                if not is_slow(error) or not (halves := batch.halves()):
                    raise
                return halves
            return ()

        halves = await retry_unless_refused(self._database, attempt)
        # Unless it was committed all the same: then its number is taken.
        taken = not halves or await retry_unless_refused(self._database, lambda: writer.run(take_number, *fence))
        self.lease.committed = self._number
        return halves if taken else ()

    async def _write_parts(self, batch: Batch) -> None:
        """Write a refused batch instance by instance, so that one bad write harms no other instance."""
        _forget_results(batch)
        for instance_id, part in batch.parts():
            try:
                await self._commit(part)
                _add_results(batch, part)
            except LeaseLostError:
                raise
            except Exception as error:
                message = "instance %s: the database refuses what it wants to record"
                is_id = not instance_id.startswith("\0")
                _logger.exception(message, instance_id, extra=about(instance_id if is_id else None))
                part.fail(error)
                if batch.observations is not None:
                    batch.observations = [one for one in batch.observations if one[0] != instance_id]
                self._listener.refused(instance_id, error)


def _forget_results(batch: Batch) -> None:
    """Forget what a transaction that was rolled back has found for the batch."""
    if batch.effects is not None:
        batch.effects.matches, batch.effects.wakes_others = [], False


def _add_results(batch: Batch, part: Batch) -> None:
    """Add to the batch what the transaction of a part of it has found."""
    if part.effects is not None:
        batch.effects = batch.effects or Effects()  # the part may have got its effects in the transaction
        batch.effects.add_results(part.effects)
