"""What an actor receives: outcomes to put in order, due timers, cancel requests."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio
from attrs import define, field

from ..._tasks.light_event import LightEvent
from ...clock import Clock, Microseconds
from ...model import Kind

if TYPE_CHECKING:
    from ..._storage.journal.effects import Effects
    from ..._storage.session import Session
    from ..._storage.sql.instances import JournalEntry
    from .journal_cursor import Operation


@define(eq=False)
class PendingOutcome:
    """Something that has happened to an operation, and is to be recorded and told to the workflow, in its turn."""

    operation: Operation
    kind: Kind
    payload: str
    """JSON text."""
    session: Session | None = None
    """The transaction that it must be recorded in; None: the journal."""
    refusal: Exception | None = None
    """Why the database refuses to commit that transaction."""
    effects: Effects | None = None
    """What is sent together with the entry."""
    via: Callable[[], Awaitable[JournalEntry | None]] | None = None
    """Records it, if more has to be done for that than to append an entry. Returns None if it is to be forgotten."""


@define(eq=False)
class Mailbox:
    """The letters and timers of one actor. It lives and dies with the actor."""

    _clock: Clock
    _letters: deque[PendingOutcome] = field(factory=deque)
    _timers: list[tuple[Microseconds, int, PendingOutcome]] = field(factory=list)
    _set: int = 0
    _arrived: LightEvent | None = None
    """What somebody waits for who has nothing to do."""

    def __bool__(self) -> bool:
        return bool(self._letters)

    def post(self, letter: PendingOutcome) -> None:
        """Deliver a letter."""
        self._letters.append(letter)
        self.poke()

    def post_at(self, when: Microseconds, letter: PendingOutcome) -> None:
        """Deliver a letter at that time, if its operation is still in flight then."""
        self._set += 1
        heapq.heappush(self._timers, (when, self._set, letter))
        self.poke()

    def poke(self) -> None:
        """Wake the receiver, to look at the state of its actor again."""
        if self._arrived is not None:
            self._arrived.set()

    def next_timer(self) -> Microseconds | None:
        """When the next timer is due."""
        while self._timers and not self._timers[0][2].operation.is_open:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def due_timer(self) -> Microseconds | None:
        """When the next timer was due; None if none is."""
        due = self.next_timer()
        return due if due is not None and due <= self._clock.now() else None

    def receive_nowait(self) -> PendingOutcome | None:
        """The next letter, or due timer; None if there is neither."""
        if self._letters:
            return self._letters.popleft()
        return None if self.due_timer() is None else heapq.heappop(self._timers)[2]

    async def aclose(self) -> None:
        """Roll back the transactions of letters that nobody will read."""
        with trio.CancelScope(shield=True):
            while self._letters:
                session = self._letters.popleft().session
                if session is not None:
                    await session.aclose()

    async def wait(self, until: Microseconds | None, *, for_timers: bool = True) -> None:
        """Wait for a letter, a new or due timer, a poke, or that time. May return early."""
        self._arrived = LightEvent()
        due = self.next_timer() if for_timers else None
        if due is not None:
            until = due if until is None else min(due, until)
        if until is None:
            await self._arrived.wait()
        else:
            with trio.CancelScope(deadline=self._clock.deadline(until)):
                await self._arrived.wait()
        self._arrived = None
