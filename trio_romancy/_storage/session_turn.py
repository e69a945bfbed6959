"""The turn of the tasks that share one session: one statement at a time, and savepoints that do not mix."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar

import trio
from attrs import define, field

_PATIENCE = 5.0
"""Seconds that a task may wait until a block ends before the log says so."""


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

    Args:
      on_long_wait: called when a task has waited for long until a block ends: perhaps the block waits for the task.
    """

    __slots__ = ("_lock", "_on_long_wait", "_open")

    def __init__(self, on_long_wait: Callable[[], None]) -> None:
        self._on_long_wait = on_long_wait
        self._lock = trio.Lock()
        self._open: Savepoint | None = None
        """The innermost savepoint that is open."""

    def taken(self) -> AbstractAsyncContextManager[None]:
        """Return a context manager that waits for the turn of the current task, and holds it until the block ends."""
        return _Taken(self._wait, self._lock.release)

    def taken_from_all(self) -> AbstractAsyncContextManager[None]:
        """Return one that waits until no statement runs, whatever savepoints are open."""
        return _Taken(self._wait_for_all, self._lock.release)

    async def _wait_for_all(self) -> None:
        try:
            self._lock.acquire_nowait()  # a checkpoint costs more than all the rest, and the statement has its own
        except trio.WouldBlock:
            await self._lock.acquire()

    async def _wait(self) -> None:
        while True:
            await self._wait_for_all()
            inner = self._open
            if inner is None or inner is self._current():
                return
            self._lock.release()
            with trio.move_on_after(_PATIENCE):
                await inner.ended.wait()
            if not inner.ended.is_set():
                self._on_long_wait()
                await inner.ended.wait()

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


@define(eq=False)
class _Taken(AbstractAsyncContextManager[None]):
    """The block of a turn. No generator, for which :mod:`contextlib` would assign to the exceptions of user code."""

    _take: Callable[[], Awaitable[None]]
    _give_back: Callable[[], None]

    async def __aenter__(self) -> None:
        await self._take()

    async def __aexit__(self, *_: object) -> None:
        self._give_back()
