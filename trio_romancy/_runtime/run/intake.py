"""Keeps the message table of one run up to date: tells the journal of its waits, and has messages fetched for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from ..._data.codec import Codec
from ..._storage.journal.journal import Journal
from ..._storage.sql.waits import Match, MatchResult, Wait
from ...clock import Clock, Microseconds
from .exits import RunGone
from .message_table import LocalWait, MessageFilter, MessageTable
from .operation import Operation


class MessageSource(Protocol):
    """Fetches messages from the database."""

    def fetch_for(self, intake: Intake, /) -> None:
        """Search for messages for the waits of a run, soon, and offer them to its intake."""
        ...


class Intake:
    """The waits of one run for messages, kept in step with the journal and the database.

    Args:
      stored: the instance's waits in the database when it was claimed, and the messages found for each.
      may_be_stored: whether a wait may be stored already, from before a replay.
      notify: called when there may be something to take from the table.
    """

    __slots__ = (
        "_clock",
        "_instance_id",
        "_is_being_fetched",
        "_is_requested",
        "_journal",
        "_may_be_stored",
        "_notify",
        "_source",
        "_stored",
        "is_closed",
        "is_stale",
        "table",
    )

    def __init__(
        self,
        instance_id: str,
        table: MessageTable,
        journal: Journal,
        clock: Clock,
        source: MessageSource,
        stored: Iterable[MatchResult],
        *,
        may_be_stored: bool,
        notify: Callable[[], None],
    ) -> None:
        self.table = table
        self._instance_id = instance_id
        self._journal = journal
        self._clock = clock
        self._source = source
        self._stored = {result.wait.operation_id: result for result in stored}
        self._may_be_stored = may_be_stored
        self._notify = notify
        self._is_requested = False
        """Whether a fetch was asked for that has not begun."""
        self._is_being_fetched = False
        self.is_stale = False
        """Whether there may be more messages than were found when the instance was claimed."""
        self.is_closed = False
        """Whether the run is gone. Its instance goes on waiting, so the journal keeps the waits."""

    # -- waits -----------------------------------------------------------------------------------------------------

    def open(self, operation: Operation, filter: MessageFilter, codec: Codec[Any] | None = None) -> LocalWait:
        """Begin to wait.

        Args:
          codec: codec of the data; None for the end of a child, which its parent decodes.

        Raises:
          RunGone: if the run is gone.
        """
        if self.is_closed:
            raise RunGone
        wait = self.table.open[operation.id] = LocalWait(operation, filter, codec)
        begun = self._clock.now()
        request, most = self.table.request(wait)
        stored = self._stored.pop(operation.id, None)
        if stored is not None and stored.is_of(request) and not self.is_stale:
            operation.waits = True
            self.offer(stored)
            return wait

        def opened(matches: Sequence[Match] | None) -> None:
            operation.waits = True
            self._offer(wait, matches or (), begun, is_cut=matches is None or len(matches) >= most)

        self._journal.append_wait(request, most, opened, is_stored=self._may_be_stored)
        return wait

    def close(self, wait: LocalWait) -> None:
        """Cease to wait. The instance of a run that is gone goes on waiting."""
        if self.table.open.pop(wait.operation.id, None) is not None and not self.is_closed:
            self._journal.append_close(self._instance_id, wait.operation.id)

    def close_unasked(self) -> None:
        """Close the stored waits that the workflow has not asked for: its worker died before they were closed.

        Raises:
          RunGone: if the run is gone.
        """
        if self.is_closed:
            raise RunGone
        unasked, self._stored = self._stored, {}
        for operation_id in unasked:
            self._journal.append_close(self._instance_id, operation_id)

    def channel_of(self, operation_id: str) -> str:
        """Return what an operation that waits receives from."""
        return self.table.open[operation_id].filter.channel

    # -- taking messages -------------------------------------------------------------------------------------------

    def receive(self, wait: LocalWait, match: Match) -> None:
        """Give a wait its message: that is recorded, and the workflow is told next."""
        self.consume(wait.filter, match.seq)
        self.close(wait)

    def consume(self, filter: MessageFilter, seq: int) -> None:
        """Note that a wait has got a message."""
        if self.table.consume(filter, seq):
            self.fetch()

    def withdraw(self, filter: MessageFilter, seq: int) -> None:
        """Note that another instance has taken a message."""
        self.table.withdraw(filter, seq)
        self.fetch()

    # -- fetching --------------------------------------------------------------------------------------------------

    @property
    def is_fetching(self) -> bool:
        """Whether a search for messages has not ended yet."""
        return (
            self._is_requested
            or self._is_being_fetched
            or any(wait.searched_at is None for wait in self.table.open.values())
        )

    def refresh(self) -> None:
        """Mark the messages found so far as stale, and fetch again."""
        self.is_stale = True
        self.fetch()

    def fetch(self) -> None:
        """Fetch messages, if there is a wait that they could be for."""
        if self.table.open and not self._is_requested:
            self._is_requested = True
            self._source.fetch_for(self)

    def begin_fetch(self) -> list[tuple[LocalWait, Wait, int]]:
        """Return each wait, what to search for, and the most messages. The fetch goes on until :meth:`end_fetch`."""
        self._is_requested, self._is_being_fetched = False, True
        waits = [wait for wait in self.table.open.values() if wait.searched_at is not None]
        return [(wait, *self.table.request(wait)) for wait in waits]

    def offer_fetched(self, wait: LocalWait, matches: Sequence[Match], most: int, searched_at: Microseconds) -> None:
        """Offer what a fetch has found for a wait.

        Args:
          most: how many messages were asked for: enough for all waits that were open then. Those that were opened
            since may have got them.
        """
        self._offer(wait, matches, searched_at, is_cut=len(matches) >= most)

    def end_fetch(self) -> None:
        """End a fetch: everything that it found has been offered."""
        self._is_being_fetched = False
        self._notify()

    def offer(self, result: MatchResult) -> None:
        """Offer what was found for a wait by a search that did not know what the instance had received."""
        wait = self.table.open.get(result.wait.operation_id)
        if wait is None:
            self.is_stale = True  # the wait was stored, and may be about to be opened
            return
        self._offer(wait, result.found, result.looked_at, is_cut=not result.is_all)

    def _offer(self, wait: LocalWait, matches: Sequence[Match], searched_at: Microseconds, *, is_cut: bool) -> None:
        self.table.offer(wait, matches, searched_at, is_cut=is_cut)
        if wait.is_starved:
            self.fetch()
        self._notify()
