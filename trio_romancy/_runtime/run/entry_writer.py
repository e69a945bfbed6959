"""Writes what one instance records: its entries, in order, and its status."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from ..._data.journal_format import from_text
from ..._observe.instance_events import InstanceEvents
from ..._storage.journal.batch import Batch
from ..._storage.journal.effects import Effects
from ..._storage.journal.journal import Journal
from ..._storage.sql import statuses
from ..._storage.sql.entries import JournalEntry
from ..._storage.sql.instances import closing_row, update_row
from ..._storage.sql.rows import ClosingRow, EntryRow, StatusUpdate
from ..._storage.sql.workers import mark_begun
from ...clock import Clock, Microseconds
from ...errors import LeaseLostError
from ...model import EntryKind, ErrorInfo, Status
from .exits import RunGone
from .operation import InFlight
from .waits_for import Shown, described, shown


class EntryWriter:
    """The only writer of one instance's journal, until its run is gone.

    What is appended is durable before the next side effect of the instance begins. After :meth:`close` nothing can
    be appended: each attempt raises :exc:`RunGone`.

    Args:
      seq: the number of the last entry; 0 without entries.
      time: the time of that entry. Entries never go back in time, whatever the clock shows.
      status: the status of the instance.
      on_lease_lost: called when the journal refuses an entry because the worker has lost its lease.
      on_progress: called with the id of the instance when its probation ends.
    """

    __slots__ = (
        "_clock",
        "_instance_id",
        "_journal",
        "_on_lease_lost",
        "_on_progress",
        "_seq",
        "batch",
        "events",
        "is_closed",
        "is_marked",
        "on_probation",
        "shown",
        "status",
        "time",
        "waits_for",
    )

    def __init__(
        self,
        instance_id: str,
        journal: Journal,
        clock: Clock,
        seq: int,
        time: Microseconds,
        status: Status,
        *,
        on_lease_lost: Callable[[], None],
        on_progress: Callable[[str], None],
    ) -> None:
        self._instance_id = instance_id
        self._journal = journal
        self._clock = clock
        self._seq = seq
        self._on_lease_lost = on_lease_lost
        self._on_progress = on_progress
        self.time = time
        """Time of the last entry."""
        self.batch: Batch | None = None
        """The batch that the last entry is in."""
        self.events: InstanceEvents | None = None
        """Tells hooks what is recorded; None without hooks."""
        self.status = status
        """Status that the instance was given last."""
        self.waits_for: str | None = None
        """JSON text of the operations in flight, for the next row of the status."""
        self.shown: Shown | None = None
        """Operations that the row of the instance shows; None: those that an earlier run has shown, if any."""
        self.on_probation = False
        """Whether the worker died while the instance ran, and it has made no progress since."""
        self.is_marked = False
        """Whether it is recorded that an attempt has begun on probation."""
        self.is_closed = False

    def close(self) -> None:
        """Refuse everything from now on: the run is gone."""
        self.is_closed = True
        self._on_lease_lost = _ignore  # the run's own method: without it a run is freed at once, not by a collection

    def append(
        self, operation_id: str, kind: EntryKind, payload: str, effects: Effects | None = None, *, is_news: bool = True
    ) -> JournalEntry:
        """Record an entry, with what is sent together with it.

        Args:
          payload: JSON text.
          is_news: whether to tell hooks.

        Raises:
          RunGone: if the run is gone, or the lease is lost.
        """
        row = self.append_row(operation_id, kind, payload, effects, is_news=is_news)
        return JournalEntry(row["seq"], operation_id, kind, from_text(kind, payload), row["recorded_at"])

    def append_row(
        self, operation_id: str, kind: EntryKind, payload: str, effects: Effects | None = None, *, is_news: bool = True
    ) -> EntryRow:
        """Record an entry as :meth:`append` does, and return its row."""
        row = self.next_row(operation_id, kind, payload)
        try:
            self.batch = self._journal.append_entry(row)
            if effects is not None:
                effects.address(row["seq"])
                self._journal.append_effects(effects)
        except LeaseLostError:
            self._on_lease_lost()
            raise RunGone from None
        if self.events is not None and is_news:
            self.events.recorded(self.batch, row, effects)
        if self.on_probation:
            self.clear_probation()
        return row

    def next_row(self, operation_id: str, kind: EntryKind, payload: str) -> EntryRow:
        """Return the row of the next entry, which the caller must record.

        Raises:
          RunGone: if the run is gone.
        """
        if self.is_closed:
            raise RunGone
        self._seq = seq = self._seq + 1
        now = self._clock.now()
        if now > self.time:
            self.time = now
        return {
            "instance_id": self._instance_id,
            "seq": seq,
            "operation_id": operation_id,
            "kind": kind,
            "payload": payload,
            "recorded_at": self.time,
        }

    def take_back(self) -> None:
        """Give the number of the last row to the next row: the last one was refused."""
        self._seq -= 1

    def committed(self, row: EntryRow, effects: Effects | None = None) -> None:
        """Tell hooks of an entry that was committed apart from those that are appended."""
        if self.events is not None:
            self.events.recorded(self.batch, row, effects)  # after what was appended before it

    # -- status ----------------------------------------------------------------------------------------------------

    def set_status(self, status: Status) -> None:
        """Change the status of the instance, in order with its entries.

        Raises:
          RunGone: if the run is gone, or the lease is lost.
          IllegalStatusError: if the status cannot follow the present one.
        """
        if self.is_closed:
            raise RunGone
        row = self.status_row(status)
        try:
            self.batch = self._journal.append_update(row)
        except LeaseLostError:
            self._on_lease_lost()
            raise RunGone from None
        self.status = status

    def is_outdated(self, in_flight: InFlight) -> bool:
        """Return whether the row of the instance shows other operations than those in flight."""
        return self.shown != shown(in_flight)

    def show(self, in_flight: InFlight) -> None:
        """Have the next row of the status show the operations in flight."""
        self.waits_for, self.shown = described(in_flight), shown(in_flight)

    def show_now(self, in_flight: InFlight) -> None:
        """Have the row of the instance show the operations in flight, which is no progress."""
        self.shown, text = shown(in_flight), described(in_flight)
        if text is not None and not self.is_closed:
            with suppress(LeaseLostError):  # the next entry notices
                self._journal.append_waits_for(self._instance_id, text)

    def status_row(
        self, status: Status, *, wake_at: Microseconds | None = None, error: ErrorInfo | None = None
    ) -> StatusUpdate:
        """Return the row that changes the status. A status that is final has no owner.

        Raises:
          IllegalStatusError: if the status cannot follow the present one.
        """
        statuses.check(self.status, status)
        owner = None if status.is_final else self._journal.lease.worker_id
        waits_for, self.waits_for = self.waits_for, None
        return update_row(
            self._instance_id,
            status,
            self._clock.now(),
            owner=owner,
            wake_at=wake_at,
            error=error,
            waits_for=waits_for,
        )

    def closing_row(
        self, status: Status, time: Microseconds, *, output: str | None, error: ErrorInfo | None
    ) -> ClosingRow:
        """Return the row that gives the instance the status that follows from how its workflow function ended.

        Args:
          time: when it ended.
          output: JSON text.

        Raises:
          IllegalStatusError: if the status cannot follow the present one.
        """
        statuses.check(self.status, status)
        owner = None if status.is_final else self._journal.lease.worker_id
        return closing_row(self._instance_id, status, time, owner=owner, output=output, error=error)

    async def mark_begun(self) -> None:
        """Record that an attempt begins on probation: if the worker dies now, the instance may be the cause.

        The record is durable when this returns, and written once.

        Raises:
          RunGone: if the lease is lost.
        """
        if self.is_marked:
            return
        try:
            await self._journal.call(mark_begun, self._instance_id)
        except LeaseLostError:
            self._on_lease_lost()
            raise RunGone from None
        self.is_marked = True

    def clear_probation(self) -> None:
        """End the probation of the instance: it has made progress, and not taken its process down."""
        self.on_probation = False
        self.set_status(self.status)
        self._on_progress(self._instance_id)


def _ignore() -> None:
    """Do nothing about a lost lease: the run is gone."""
