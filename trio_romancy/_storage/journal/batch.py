"""A batch: the writes of one transaction of the journal, and the result of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from attrs import define, field
from sqlalchemy import Connection

from ..._tasks.light_event import LightEvent
from ...clock import Microseconds
from ...errors import LeaseLostError
from ..sql.chains import Successor
from ..sql.rows import ClosingRow, EntryRow, InstanceRow, StatusUpdate
from .committed import Started
from .effects import Effects

_FEW = 100
"""The most writes in a plain batch. ``executemany`` is as fast for more."""


@define(eq=False)
class Start:
    """A new instance."""

    row: InstanceRow
    arguments: list[Any]
    started_after: int = 0
    """The last message that was sent before the instance was started. Set by the transaction."""
    is_ours: bool = True
    """False if the same instance was stored before. Set by the transaction."""
    failure: Exception | None = None


@define(eq=False)
class Closing:
    """The end of a workflow function, which counts only if no cancel request was accepted before."""

    row: ClosingRow
    entry: EntryRow
    origin: str | None = None
    """The origin of the instance's chain, if a parent may wait for the chain's end."""
    successor: Successor | None = None
    """The instance that continues the chain."""
    refused_for: str | None = None
    """JSON text of the request to end it that was accepted before. Set by the transaction."""
    failure: Exception | None = None


@define(eq=False)
class Call:
    """An SQL function to run after the fence."""

    fn: Callable[[Connection], Any]
    on_result: Callable[[Any], None] | None = None
    """Called with the result once the batch is durable."""
    result: Any = None
    failure: Exception | None = None


@define(eq=False)
class Batch:
    """The writes of one transaction.

    Outside of the journal a batch is only observed, and handed to :meth:`.Journal.durable`.
    """

    starts: list[Start] = field(factory=list)
    """New instances whose id is certainly new."""
    named_starts: list[Start] = field(factory=list)
    """New instances whose id may be taken."""
    closings: list[Closing] = field(factory=list)
    entries: list[EntryRow] = field(factory=list)
    updates: list[StatusUpdate] = field(factory=list)
    calls: list[Call] = field(factory=list)
    details: dict[str, str] | None = None
    """Details of instances: JSON text, by instance id."""
    waits_for: dict[str, str] | None = None
    """Operations in flight of instances, for people: JSON text, by instance id."""
    effects: Effects | None = None
    size: int = 0
    """The number of writes."""
    bytes: int = 0
    """The size of their payloads, as far as it was counted when they were appended."""
    durable: LightEvent = field(factory=LightEvent)
    lost: LeaseLostError | None = None
    """Set if the lease was lost before the batch was known to be committed."""
    observations: list[tuple[str, Callable[[], None]]] | None = None
    """Instance ids, each with a function to call once the instance's part is durable; None without observers."""

    def observe(self, instance_id: str, observer: Callable[[], None]) -> None:
        """Call ``observer`` once the instance's part of the batch is durable, and never if it is refused.

        Observers are called in the order in which they were added.
        """
        if self.observations is None:
            self.observations = []
        self.observations.append((instance_id, observer))

    @property
    def is_plain(self) -> bool:
        """Whether a batch can be written by one statement.

        It consists of a few new instances of this worker, ends of workflow functions, and entries. With many rows the
        round trips that one statement saves would count for little.
        """
        return (
            self.size <= _FEW
            and self.effects is None
            and not (self.named_starts or self.updates or self.calls or self.details or self.waits_for)
            and not any(one.origin is not None or one.successor is not None for one in self.closings)
            and not any(start.row["owner"] is None for start in self.starts)
        )

    def is_for_others(self, now: Microseconds) -> bool:
        """Whether the batch makes an instance due that another worker may claim."""
        return (
            any(start.row["owner"] is None for start in self.starts)
            or any(one.successor is not None and one.successor.row["owner"] is None for one in self.closings)
            or any(start.row["owner"] is None for start in self.named_starts)
            or any(row["owner_"] is None and row["wake"] is not None and row["wake"] <= now for row in self.updates)
        )

    def changed_instances(self) -> set[str]:
        """Return the ids of the instances whose status or details are changed."""
        changed = {row["id"] for row in self.updates}
        changed.update(one.row["id"] for one in self.closings)
        changed.update(self.details or ())
        return changed

    def origins(self) -> list[str]:
        """Return the origins of chains whose last instance ends or is continued, if they are other instances."""
        origins = []
        for one in self.closings:
            origin = one.origin if one.successor is None else one.successor.row["origin"]
            if origin is not None and origin != one.row["id"]:
                origins.append(origin)
        return origins

    def started(self) -> list[Started]:
        """Return the new instances that this batch has stored. The batch must be durable."""
        return [
            Started(start.row, start.arguments, start.started_after)
            for starts in (self.starts, self.named_starts)
            for start in starts
            if start.failure is None and start.is_ours
        ]

    def forget(self) -> None:
        """Drop the contents of a durable batch: an actor keeps its last batch, with the writes of others in it."""
        for parts in (self.starts, self.named_starts, self.closings, self.entries, self.updates, self.calls):
            parts.clear()
        self.details = self.waits_for = self.effects = self.observations = None

    def check(self, part: Start | Closing | Call | None = None) -> None:
        """Raise the failure of the batch, or of one part of it. Does nothing without one."""
        if self.lost is not None:
            raise self.lost
        if part is not None and part.failure is not None:
            raise part.failure

    def fail(self, error: Exception) -> None:
        """Set the failure of every part."""
        waiting: list[Start | Closing | Call] = [*self.starts, *self.named_starts, *self.closings, *self.calls]
        for one in waiting:
            one.failure = error
        for outgoing in self.effects.outgoing if self.effects is not None else ():
            outgoing.failure = error
        for request in self.effects.asked if self.effects is not None else ():
            request.failure = error

    def halves(self) -> Sequence[Batch]:
        """Return two batches with half of the instances each; nothing if the batch is about one instance only."""
        parts = [part for _, part in self.parts()]
        middle = len(parts) // 2
        return [_joined(parts[:middle]), _joined(parts[middle:])] if middle else ()

    def parts(self) -> Iterator[tuple[str, Batch]]:
        """Yield instance ids and a batch for each, in the order in which the instances first wrote."""
        parts: dict[str, Batch] = {}

        def part(instance_id: str) -> Batch:
            parts.setdefault(instance_id, Batch()).size += 1
            return parts[instance_id]

        for start in self.starts:
            part(start.row["instance_id"]).starts.append(start)
        for start in self.named_starts:
            part(start.row["instance_id"]).named_starts.append(start)
        for entry in self.entries:
            part(entry["instance_id"]).entries.append(entry)
        for closing in self.closings:
            part(closing.row["id"]).closings.append(closing)
        for update in self.updates:
            part(update["id"]).updates.append(update)
        if self.effects is not None:
            for instance_id, effects in self.effects.parts():
                part(instance_id).effects = effects
        for instance_id, text in (self.details or {}).items():
            part(instance_id).details = {instance_id: text}
        for instance_id, text in (self.waits_for or {}).items():
            part(instance_id).waits_for = {instance_id: text}
        for number, call in enumerate(self.calls):
            part(f"\0call {number}").calls.append(call)
        yield from parts.items()


def _joined(parts: Iterable[Batch]) -> Batch:
    """Return one batch with the writes of several."""
    joined = Batch()
    for part in parts:
        joined.size += part.size
        joined.starts += part.starts
        joined.named_starts += part.named_starts
        joined.closings += part.closings
        joined.entries += part.entries
        joined.updates += part.updates
        joined.calls += part.calls
        joined.details = (joined.details or {}) | (part.details or {}) or None
        joined.waits_for = (joined.waits_for or {}) | (part.waits_for or {}) or None
        if part.effects is not None:
            joined.effects = joined.effects or Effects()
            joined.effects.add(part.effects)
    return joined
