"""The turn of the tasks that share one session: one statement at a time, and savepoints that do not mix."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

import trio
from attrs import define, field


@define(eq=False)
class Savepoint:
    """An open savepoint of a session."""

    turn: SessionTurn
    outer: Savepoint | None
    """Savepoint that it is in; None: only the transaction."""
    ended: trio.Event = field(factory=trio.Event)


_innermost: ContextVar[Savepoint | None] = ContextVar("trio_romancy_savepoint", default=None)
"""The savepoint whose block the current task is in. Tasks and threads that are started in the block inherit it."""


class SessionTurn:
    """Gives the tasks of an activity the use of their session in turn.

    While a savepoint is open, only the tasks of its block have a turn. Otherwise the statement of another task would be
    undone together with the block.
    """

    __slots__ = ("_lock", "_open")

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._open: Savepoint | None = None
        """The innermost savepoint that is open."""

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for the turn of the current task, and hold it until the block ends."""
        while True:
            await self._lock.acquire()
            inner = self._open
            if inner is None or inner is self._current():
                break
            self._lock.release()
            await inner.ended.wait()
        try:
            yield
        finally:
            self._lock.release()

    @asynccontextmanager
    async def taken_from_all(self) -> AsyncIterator[None]:
        """Wait until no statement runs, whatever savepoints are open, and keep others from running until the end."""
        async with self._lock:
            yield

    def _current(self) -> Savepoint | None:
        """Return the innermost open savepoint of this session that the current task is in."""
        savepoint = _innermost.get()
        while savepoint is not None and (savepoint.turn is not self or savepoint.ended.is_set()):
            savepoint = savepoint.outer
        return savepoint

    def begin(self) -> Savepoint:
        """Note that the current task, which has the turn, has opened a savepoint, and is in its block now."""
        self._open = savepoint = Savepoint(self, self._open)
        _innermost.set(savepoint)
        return savepoint

    def end(self, savepoint: Savepoint) -> None:
        """Note that a savepoint has ended, with all that are in it. The current task has left its block."""
        while not savepoint.ended.is_set():
            assert self._open is not None
            self._open.ended.set()
            self._open = self._open.outer
        _innermost.set(savepoint.outer)

    def end_all(self) -> None:
        """End all savepoints, so that no task waits for the end of a block."""
        while self._open is not None:
            self._open.ended.set()
            self._open = self._open.outer
