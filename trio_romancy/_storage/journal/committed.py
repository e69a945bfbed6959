"""What a batch of the journal has changed and learned, and the listener that is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..._tasks.fast_frozen import frozen
from ..sql.rows import InstanceRow
from ..sql.waits import MatchResult


@frozen
class Started:
    """A new instance that is stored."""

    row: InstanceRow
    """What was asked for."""
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
    """New instances. One that was stored before, as the same or as another, is missing."""
    matches: Sequence[MatchResult] = ()
    """Messages that the batch has brought for waits of this worker's instances."""
    wakes_others: bool = False
    """Whether the batch has made instances due that this worker does not run."""
    has_sent: bool = False
    """Whether the batch has stored messages."""
    has_posted: bool = False
    """Whether the batch has put events into the outbox."""


class JournalListener(Protocol):
    """What a :class:`.Journal` tells. Every method is called from the task of the journal, and must not raise."""

    def committed(self, committed: Committed) -> None:
        """Take note of a batch that is durable.

        Called before anything that waits for the batch goes on, and before the next batch is closed: what is appended
        in the call is part of the next batch.
        """

    def refused(self, instance_id: str, error: Exception) -> None:
        """Take note that the database refuses what an instance wants to record. None of it is stored.

        Args:
          instance_id: begins with a null character if the refused part belongs to no instance.
        """

    def lost(self) -> None:
        """Take note that nothing more will be recorded. Called before anything else can happen."""
