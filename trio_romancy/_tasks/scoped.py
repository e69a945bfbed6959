"""Tasks beside a task, for a task that cannot hold a nursery around all that it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

Function = Callable[[], Awaitable[object]]


class ScopedTasks:
    """Runs tasks for another task, which must close it before it ends itself.

    There is nothing to hold while none of them runs: an actor that only waits is one task.

    Args:
      start_soon: of the nursery that they run in.
    """

    __slots__ = ("_all_ended", "_scopes", "_start_soon")

    def __init__(self, start_soon: Callable[[Function], None]) -> None:
        self._start_soon = start_soon
        self._scopes: set[trio.CancelScope] = set()
        """One around each."""
        self._all_ended: trio.Event | None = None

    def start_soon(self, fn: Function) -> None:
        """Run a task, in a copy of the caller's context."""
        scope = trio.CancelScope()
        self._scopes.add(scope)
        self._start_soon(partial(self._run, fn, scope))

    async def _run(self, fn: Function, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await fn()
        finally:
            self._scopes.remove(scope)
            if not self._scopes and self._all_ended is not None:
                self._all_ended.set()

    async def aclose(self) -> None:
        """Cancel its tasks, and wait until they have ended."""
        if not self._scopes:
            return
        self._all_ended = trio.Event()
        for scope in self._scopes:
            scope.cancel()
        with trio.CancelScope(shield=True):
            await self._all_ended.wait()
