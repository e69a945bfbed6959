"""Keeps the message table of one run up to date: tells the journal of its waits, and has messages fetched for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from attrs import define, field

from ..._data.codec import Codec
from ..._storage.journal.journal import Journal
from ..._storage.sql.news import NewMessage
from ..._storage.sql.waits import Match, MatchResult, Wait
from ...clock import Clock, Microseconds
from .exits import RunGone
from .message_table import LocalWait, MessageFilter, MessageTable, WaitQueue
from .operation import Operation

_MANY = 50
"""Number of queues from which on a search for all of them first asks what is new."""


class MessageSource(Protocol):
    """Fetches messages from the database."""

    def fetch_for(self, intake: Intake, /) -> None:
        """Search for messages for the waits of a run, soon, and offer them to its intake."""
        ...


@define
class Search:
    """A search for messages for one queue of waits."""

    queue: WaitQueue
    wait: Wait
    most: int
    """The most messages to search for."""


@define
class Fetch:
    """The searches of one fetch."""

    searches: list[Search]
    is_for_all: bool
    """Whether all queues are up to date after the fetch."""
    begins_with_news: bool
    """Whether the messages after :attr:`since` must be read first, because there are many queues."""
    since: int | None
    """Number of the last message that the other queues have been searched up to; None: they must be searched for."""
    late: list[WaitQueue]
    """Queues that the last fetch for all has not included."""


@define(eq=False, slots=True)
class Intake:
    """The waits of one run for messages, kept in step with the journal and the database.

    Waits with the same filter are one row in the database, that of the first of them. When it ends, the row of the next
    takes its place, in the same batch. No step takes longer if there are more waits, except for a search for all of
    them, which begins with the messages that are new.

    Args:
      stored: the instance's waits in the database when it was claimed, and the messages found for each.
      may_be_stored: whether a wait may be stored already, from before a replay.
      notify: called when there may be something to take from the table.
    """

    _instance_id: str
    table: MessageTable
    _journal: Journal
    _clock: Clock
    _source: MessageSource
    _found: Iterable[MatchResult]
    _may_be_stored: bool = field(kw_only=True, alias="may_be_stored")
    _notify: Callable[[], None] = field(kw_only=True, alias="notify")
    is_stale: bool = field(default=False, init=False)
    """Whether there may be more messages than were found when the instance was claimed."""
    is_closed: bool = field(default=False, init=False)
    """Whether the run is gone. Its instance goes on waiting, so the journal keeps the waits."""
    _stored: dict[str, MatchResult] = field(init=False)
    _is_requested: bool = field(default=False, init=False)
    """Whether a fetch was asked for that has not begun."""
    _is_being_fetched: bool = field(default=False, init=False)
    _for_all: bool = field(default=False, init=False)
    """Whether the next fetch is for all queues."""
    _wanted: dict[WaitQueue, None] = field(factory=dict, init=False)
    """Queues that the next fetch is for, beside those that are starved."""
    _unopened: int = field(default=0, init=False)
    """Number of queues that the database does not know of yet."""
    _late: dict[WaitQueue, None] = field(factory=dict, init=False)
    """Queues that the last fetch for all has not included."""
    _late_at: Microseconds | None = field(default=None, init=False)
    """Start of the earliest search among those of the late queues, or before; None without any."""
    _fetched_at: Microseconds | None = field(default=None, init=False)
    """Start of the last fetch for all queues."""
    _fetched_to: int | None = field(default=None, init=False)
    """Number of the last message that it has taken into account; None: unknown."""

    def __attrs_post_init__(self) -> None:
        self._stored = {result.wait.operation_id: result for result in self._found}
        self._found = ()

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
        wait = self.table.begin(operation, filter, codec)
        queue = wait.queue
        stored = self._stored.pop(operation.id, None)
        if queue.stored is not None:
            if stored is not None:  # as earlier versions did, which stored each wait
                self._journal.append_close(self._instance_id, operation.id)
            operation.waits = queue.searched_at is not None
            if queue.found:
                self._notify()
            return wait
        queue.stored = wait
        self._unopened += 1
        if stored is not None and not self.is_stale and stored.is_of(self.table.request(queue)[0]):
            self._offer(queue, stored.found, stored.looked_at, is_cut=not stored.is_all)
        else:
            self._store(queue)
        return wait

    def _store(self, queue: WaitQueue) -> None:
        """Store the wait that stands for a queue."""
        begun = self._clock.now()
        request, most = self.table.request(queue)

        def opened(matches: Sequence[Match] | None) -> None:
            self._offer(queue, matches or (), begun, is_cut=matches is None or len(matches) >= most)

        self._journal.append_wait(request, most, opened, is_stored=self._may_be_stored)

    def _store_next(self, queue: WaitQueue) -> None:
        """Store another wait that stands for a queue, in the batch that closes the one before.

        There is no need to search: the message that comes next finds either of them.
        """
        request, _ = self.table.request(queue)
        self._journal.append_wait(request, 1, _ignore, is_stored=self._may_be_stored)

    def close(self, wait: LocalWait) -> None:
        """Cease to wait. The instance of a run that is gone goes on waiting."""
        if not self.table.end(wait):
            return
        queue = wait.queue
        if queue.first is None:
            self._late.pop(queue, None)
            if not self._late:
                self._late_at = None
            self._wanted.pop(queue, None)
            self._unopened -= queue.searched_at is None
        if queue.stored is wait and not self.is_closed:
            self._journal.append_close(self._instance_id, wait.operation.id)
            queue.stored = queue.first
            if queue.first is not None and queue.searched_at is None:
                self._store(queue)
            elif queue.first is not None:
                self._store_next(queue)

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
        self.table.consume(filter, seq)
        if self.table.starved:
            self._fetch()

    def withdraw(self, wait: LocalWait, seq: int) -> None:
        """Note that another instance has taken a message."""
        self.table.withdraw(wait.filter, seq)
        if wait.queue.first is not None:
            self._wanted[wait.queue] = None
            self._fetch()

    # -- fetching --------------------------------------------------------------------------------------------------

    @property
    def addressee(self) -> str:
        """The instance that messages to this one are addressed to."""
        return self.table.addressee

    @property
    def is_fetching(self) -> bool:
        """Whether a search for messages has not ended yet."""
        return self._is_requested or self._is_being_fetched or self._unopened > 0

    def has_searched_since(self, when: Microseconds) -> bool:
        """Whether everything that was accepted up to that time has been found."""
        if self._unopened or self.table.starved:
            return False
        if self._late_at is not None and self._late_at < when:
            return False
        are_all_late = len(self._late) == len(self.table.queues)
        return are_all_late or (self._fetched_at is not None and self._fetched_at >= when)

    def refresh(self) -> None:
        """Mark the messages found so far as stale, and fetch again."""
        self.is_stale = True
        self.fetch_all()

    def fetch_all(self) -> None:
        """Fetch messages for all waits, if there are any."""
        if self.table.open:
            self._for_all = True
            self._fetch()

    def _fetch(self) -> None:
        if self.table.open and not self._is_requested:
            self._is_requested = True
            self._source.fetch_for(self)

    def begin_fetch(self) -> Fetch:
        """Return what to search for. The fetch goes on until :meth:`end_fetch`."""
        is_for_all, self._for_all = self._for_all, False
        wanted, self._wanted = self._wanted, {}
        self._is_requested, self._is_being_fetched = False, True
        if not is_for_all:
            return Fetch(self._searches({**self.table.starved, **wanted}), False, False, None, [])
        is_large, since = len(self.table.queues) >= _MANY, self._fetched_to
        late = [*self._late]
        if is_large and since is not None:
            searches = self._searches({**self._late, **self.table.starved, **self.table.child_queues})
        else:
            searches = [] if is_large else self._searches(self.table.queues.values())
        return Fetch(searches, True, is_large, since if is_large else None, late)

    def search_all(self, fetch: Fetch) -> None:
        """Search for all queues in a fetch, because there is too much that is new."""
        fetch.searches = self._searches(self.table.queues.values())

    def choose(self, news: Iterable[NewMessage]) -> dict[int, list[WaitQueue]]:
        """Return the queues that each new message is for, by its number.

        A queue that has not been searched up to those messages gets them, in order, by a search of its own.
        """
        chosen = {}
        for new in news:
            queues = [queue for queue in self.table.queues_for(new) if not queue.is_cut and queue not in self._late]
            if queues:
                chosen[new.seq] = queues
        return chosen

    def offer_news(self, chosen: dict[int, list[WaitQueue]], matches: Sequence[Match], searched_at: int) -> bool:
        """Offer new messages to the queues that they are for. Returns whether none is missing."""
        for match in matches:
            for queue in chosen.pop(match.seq):
                if queue.first is not None and not queue.is_cut:
                    self.table.offer_next(queue, match, searched_at)
        self._notify()
        return not chosen

    def _searches(self, queues: Iterable[WaitQueue]) -> list[Search]:
        return [Search(queue, *self.table.request(queue)) for queue in queues if queue.searched_at is not None]

    def offer_fetched(self, search: Search, matches: Sequence[Match], searched_at: Microseconds) -> None:
        """Offer what a fetch has found for a queue."""
        # As many were asked for as there were waits then. Waits that were opened since may have got them.
        self._offer(search.queue, matches, searched_at, is_cut=len(matches) >= search.most)

    def end_fetch(self, fetch: Fetch, begun: Microseconds, last: int | None) -> None:
        """End a fetch: everything that it found has been offered.

        Args:
          begun: when it began.
          last: number of the last message that it has taken into account; None: unknown.
        """
        self._is_being_fetched = False
        if fetch.is_for_all:
            self._fetched_at, self._fetched_to = begun, last
            for queue in fetch.late:
                self._late.pop(queue, None)
            searched = [queue.searched_at for queue in self._late if queue.searched_at is not None]
            self._late_at = min(searched, default=None)
        self._notify()

    def break_off_fetch(self) -> None:
        """Break off a fetch that failed. The next one is for all queues."""
        self._for_all = True

    def offer(self, result: MatchResult) -> None:
        """Offer what was found for a wait by a search that did not know what the instance had received."""
        wait = self.table.open.get(result.wait.operation_id)
        queue = self.table.queue_like(result.wait) if wait is None else wait.queue
        if queue is None or (wait is None and queue.searched_at is None):
            self.is_stale = True  # the wait was stored, and may be about to be opened
            return
        self._offer(queue, result.found, result.looked_at, is_cut=not result.is_all)

    def _offer(self, queue: WaitQueue, matches: Sequence[Match], searched_at: Microseconds, *, is_cut: bool) -> None:
        if queue.first is None:
            return  # its waits have ended meanwhile
        if queue.searched_at is None:
            self._opened(queue)
        if queue.searched_at is None or queue.is_cut:
            # This search may be older than the last fetch for all, which has left the queue out.
            self._late[queue] = None
            self._late_at = searched_at if self._late_at is None else min(searched_at, self._late_at)
        self.table.offer(queue, matches, searched_at, is_cut=is_cut)
        if queue.is_starved:
            self._fetch()
        self._notify()

    def _opened(self, queue: WaitQueue) -> None:
        """Note that the database knows of the waits of a queue, which can leave memory now."""
        self._unopened -= 1
        wait = queue.first
        while wait is not None:
            wait.operation.waits = True
            wait = wait.after


def _ignore(found: Sequence[Match] | None) -> None:
    """Do nothing about the messages that a search has found."""
