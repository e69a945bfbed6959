"""Tasks that end with another task, without a nursery around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from .torn import is_torn

Function = Callable[[], Awaitable[object]]


class ScopedTasks:
    """Tasks that an owner starts in a nursery further up, and ends by :meth:`aclose` before it ends itself.

    While none of them runs there is nothing in memory: an actor that only waits is one task, without a nursery. With a
    nursery for each actor the benchmark ``memory`` loses.

    Args:
      start_soon: starts a task in the nursery.
      failed: called with what a task raises, so that it does not reach the nursery.
    """

    __slots__ = ("_all_ended", "_failed", "_scopes", "_start_soon")

    def __init__(self, start_soon: Callable[[Function], None], failed: Callable[[BaseException], None]) -> None:
        self._start_soon = start_soon
        self._failed = failed
        self._scopes: set[trio.CancelScope] = set()
        """Cancel scopes, one around each running task."""
        self._all_ended: trio.Event | None = None

    def start_soon(self, fn: Function) -> None:
        """Start a task, in a copy of the caller's context."""
        scope = trio.CancelScope()
        self._scopes.add(scope)
        self._start_soon(partial(self._run, fn, scope))

    async def _run(self, fn: Function, scope: trio.CancelScope) -> None:
        task = trio.lowlevel.current_task()
        try:
            with scope:
                await fn()
        except BaseException as error:
            if is_torn(task):
                raise
            self._failed(error)
        finally:
            self._scopes.remove(scope)
            if not self._scopes and self._all_ended is not None:
                self._all_ended.set()

    async def aclose(self) -> None:
        """Cancel the tasks, and wait until all have ended. The wait itself is shielded from cancellation."""
        if not self._scopes:
            return
        self._all_ended = trio.Event()
        for scope in self._scopes:
            scope.cancel()
        with trio.CancelScope(shield=True):
            await self._all_ended.wait()
