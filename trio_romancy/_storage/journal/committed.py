"""The changes and results of a committed batch of the journal, and the listener that learns of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from ..._tasks.fast_frozen import frozen
from ..sql.rows import InstanceRow
from ..sql.waits import MatchResult


@frozen
class Started:
    """A new instance that is stored."""

    row: InstanceRow
    """The row as it was given to the journal."""
    arguments: list[Any]
    """The workflow's arguments, as the caller of :meth:`.Journal.start` gave them."""
    started_after: int
    """The last message that was sent before the instance was started."""

    @property
    def is_owned(self) -> bool:
        """Whether this worker owns the instance. If not, any worker may claim it."""
        return self.row["owner"] is not None


@frozen
class Committed:
    """One committed batch."""

    writes: int
    """Entries, starts, status changes and the like in the batch."""
    seconds: float
    """Time that the transaction took, repetitions included."""
    started: Sequence[Started] = ()
    """New instances, without those whose id was taken before."""
    matches: Sequence[MatchResult] = ()
    """Messages that the batch has brought for waits of this worker's instances."""
    wakes_others: bool = False
    """Whether the batch has made instances due that this worker does not run."""
    has_sent: bool = False
    """Whether the batch has stored messages."""
    has_posted: bool = False
    """Whether the batch has put events into the outbox."""
    has_deadlines: bool = False
    """Whether the batch has stored instances with a deadline."""
    changed: Callable[[], Iterable[str]] = tuple
    """Return the ids of the instances whose status or details the batch has changed. Only for calls of the listener."""


class JournalListener(Protocol):
    """The listener of a :class:`.Journal`. Its methods are called from the task of the journal, and must not raise."""

    def committed(self, committed: Committed) -> None:
        """Act on a batch that is durable.

        Called before any waiter of the batch continues, and before the next batch is closed: writes that are appended
        in the call are part of the next batch.
        """

    def refused(self, instance_id: str, error: Exception) -> None:
        """Act on a refusal: the database refused the part of an instance. Nothing of the part is stored.

        Args:
          instance_id: id of the instance; begins with a null character if the part belongs to no instance.
        """

    def lost(self) -> None:
        """Act on the loss of the lease: nothing more will be recorded. Called before any other task runs."""
