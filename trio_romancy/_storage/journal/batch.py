"""What the journal writes in one transaction: the parts of a batch, and who waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from attrs import define, field
from sqlalchemy import Connection

from ..._tasks.light_event import LightEvent
from ...clock import Microseconds
from ...errors import LeaseLostError
from ..sql.chains import Successor
from ..sql.rows import ClosingRow, EntryRow, InstanceRow, StatusUpdate
from .effects import Effects

_FEW = 100
"""The most writes in a batch that is plain: of many, executemany is as fast."""


@define(eq=False)
class Start:
    """A new instance."""

    row: InstanceRow
    on_durable: Callable[[], None]
    is_ours: bool = True
    """False if the same instance was there before."""
    failure: Exception | None = None


@define(eq=False)
class Closing:
    """The end of a workflow function, which only counts if no cancel request was accepted before."""

    row: ClosingRow
    entry: EntryRow
    origin: str | None = None
    """Of the instance's chain, if that has a parent which may wait for its end."""
    successor: Successor | None = None
    """Who goes on with it."""
    refused_for: str | None = None
    """JSON text of the reason of the cancel request that came first."""
    failure: Exception | None = None


@define(eq=False)
class Call:
    """A function of SQL that somebody wants run behind the fence."""

    fn: Callable[[Connection], Any]
    tell: Callable[[Any], None] | None = None
    """Told the result."""
    result: Any = None
    failure: Exception | None = None


@define(eq=False)
class Batch:
    """What goes into one transaction. Outside of the journal it is observed, and handed to :meth:`Journal.durable`."""

    starts: list[Start] = field(factory=list)
    """New instances whose id is certainly new."""
    named_starts: list[Start] = field(factory=list)
    """New instances whose id may be taken."""
    closings: list[Closing] = field(factory=list)
    entries: list[EntryRow] = field(factory=list)
    updates: list[StatusUpdate] = field(factory=list)
    calls: list[Call] = field(factory=list)
    details: dict[str, str] | None = None
    """What instances say of themselves: JSON text, by instance id."""
    effects: Effects | None = None
    size: int = 0
    durable: LightEvent = field(factory=LightEvent)
    lost: LeaseLostError | None = None
    """Set if the lease was lost before it was known to be committed."""
    observations: list[tuple[str, Callable[[], None]]] | None = None
    """Instances, and what to call once their part of it is committed; None: nobody wants to know."""

    def observe(self, instance_id: str, tell: Callable[[], None]) -> None:
        """Have something called once what is in it of an instance is committed, in order, and not at all otherwise."""
        if self.observations is None:
            self.observations = []
        self.observations.append((instance_id, tell))

    @property
    def is_plain(self) -> bool:
        """Whether it is a few new instances of this worker, ends of workflow functions, and entries, and nothing else.

        What has many rows spends little of its time on the way between us and the database.
        """
        return (
            self.size <= _FEW
            and self.effects is None
            and not (self.named_starts or self.updates or self.calls or self.details)
            and not any(one.origin is not None or one.successor is not None for one in self.closings)
            and not any(start.row["owner"] is None for start in self.starts)
        )

    def is_for_others(self, now: Microseconds) -> bool:
        """Whether it makes something due that another worker may take up."""
        return (
            any(start.row["owner"] is None for start in self.starts)
            or any(one.successor is not None and one.successor.row["owner"] is None for one in self.closings)
            or any(start.row["owner"] is None for start in self.named_starts)
            or any(row["owner_"] is None and row["wake"] is not None and row["wake"] <= now for row in self.updates)
        )

    def origins(self) -> list[str]:
        """Of chains whose last instance ends or goes on with it. One that is the first itself is written anyway."""
        origins = []
        for one in self.closings:
            origin = one.origin if one.successor is None else one.successor.row["origin"]
            if origin is not None and origin != one.row["id"]:
                origins.append(origin)
        return origins

    def forget(self) -> None:
        """It is durable. Who has written to it remembers it until it writes again, but not what others have written."""
        for parts in (self.starts, self.named_starts, self.closings, self.entries, self.updates, self.calls):
            parts.clear()
        self.details = self.effects = self.observations = None

    def check(self, part: Start | Closing | Call | None = None) -> None:
        """Raise what has gone wrong with the batch, or with this part of it."""
        if self.lost is not None:
            raise self.lost
        if part is not None and part.failure is not None:
            raise part.failure

    def parts(self) -> Iterator[tuple[str, Batch]]:
        """The same as one batch for each instance in it, with its id, in the order in which they came."""
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
        for number, call in enumerate(self.calls):
            part(f"\0call {number}").calls.append(call)
        yield from parts.items()
