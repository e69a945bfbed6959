"""The mailbox of a run: outcomes to record in order, due timers, cancel requests."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio
from attrs import define, field

from ..._storage.journal.effects import Effects
from ..._storage.session import Session
from ..._storage.sql.entries import JournalEntry
from ..._tasks.light_event import LightEvent
from ...clock import Clock, Microseconds
from ...model import EntryKind
from .operation import Operation

_KEPT = 1000
"""Number of timers of ended operations that may remain, beside as many as are set."""


@define(eq=False)
class PendingOutcome:
    """Something that has happened to an operation, to be recorded and told to the workflow in its turn."""

    operation: Operation
    kind: EntryKind
    payload: str
    """JSON text."""
    session: Session | None = None
    """Transaction that it must be recorded in; None: the journal's."""
    refusal: Exception | None = None
    """Error with which the database refused to commit that transaction."""
    effects: Effects | None = None
    """Messages and other effects that are stored together with the entry."""
    record: Callable[[], Awaitable[JournalEntry | None]] | None = None
    """Records the outcome, if that takes more than to append an entry. Returns None if the outcome no longer holds."""


class Receiver(Protocol):
    """Empties a mailbox."""

    def wake(self) -> None:
        """Look at the mailbox again, if no task of the receiver waits for it."""
        ...

    def close(self) -> None:
        """Cease to receive. The receiver's task, if it has one, has ended."""
        ...


@define(eq=False)
class Mailbox:
    """Pending outcomes and timers of one run. The mailbox ends with its run."""

    _clock: Clock
    receiver: Receiver = field(init=False)
    is_recording: bool = field(default=False, init=False)
    """Whether the receiver is recording an outcome that it has taken out."""
    _pending: deque[PendingOutcome] = field(factory=deque, init=False)
    _timers: list[tuple[Microseconds, int, PendingOutcome]] = field(factory=list, init=False)
    _timers_set: int = field(default=0, init=False)
    _most_timers: int = field(default=_KEPT, init=False)
    """Number of timers at which those of operations that have ended are dropped."""
    _changed: LightEvent | None = field(default=None, init=False)
    """Event set by the next call of :meth:`notify`, while the receiver waits."""

    @property
    def is_clear(self) -> bool:
        """Whether nothing waits to be recorded, and nothing is being recorded."""
        return not self._pending and not self.is_recording

    def __bool__(self) -> bool:
        return bool(self._pending)

    def post(self, pending: PendingOutcome) -> None:
        """Have an outcome recorded and told to the workflow in its turn."""
        self._pending.append(pending)
        self.notify()

    def post_at(self, when: Microseconds, pending: PendingOutcome) -> None:
        """Post an outcome at that time, if its operation is still in flight then."""
        self._timers_set += 1
        heapq.heappush(self._timers, (when, self._timers_set, pending))
        if len(self._timers) > self._most_timers:
            self._timers = [timer for timer in self._timers if timer[2].operation.is_open]
            heapq.heapify(self._timers)
            self._most_timers = 2 * len(self._timers) + _KEPT
        self.notify()

    def notify(self) -> None:
        """Wake the receiver, to look at the state of its run again."""
        if self._changed is not None:
            self._changed.set()
        self.receiver.wake()

    def next_timer(self) -> Microseconds | None:
        """Return when the next timer is due."""
        while self._timers and not self._timers[0][2].operation.is_open:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def due_timer(self) -> Microseconds | None:
        """Return when the next timer was due; None if it is not yet."""
        due = self.next_timer()
        return due if due is not None and due <= self._clock.now() else None

    def receive_nowait(self) -> PendingOutcome | None:
        """Take the next pending outcome, or due timer; None if there is neither."""
        if self._pending:
            return self._pending.popleft()
        return None if self.due_timer() is None else heapq.heappop(self._timers)[2]

    async def aclose(self) -> None:
        """Roll back the transactions of pending outcomes that will not be recorded."""
        with trio.CancelScope(shield=True):
            while self._pending:
                session = self._pending.popleft().session
                if session is not None:
                    await session.aclose()

    async def wait(self, until: float | None, *, for_timers: bool = True) -> None:
        """Wait for an outcome, a new or due timer, :meth:`notify`, or that time. May return early."""
        self._changed = LightEvent()
        due = self.next_timer() if for_timers else None
        if due is not None:
            until = due if until is None else min(due, until)
        if until is None:
            await self._changed.wait()
        else:
            with trio.CancelScope(deadline=self._clock.deadline(until)):
                await self._changed.wait()
        self._changed = None
