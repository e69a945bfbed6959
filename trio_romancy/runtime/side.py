"""A nursery beside a task: what a task needs that cannot hold a nursery around all that it does."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable

import trio

Function = Callable[[], Awaitable[object]]


class SideNursery:
    """Runs tasks for another task, which must close it before it ends itself.

    An actor opens it when its first timer, letter or thread needs a task. Most never do, and are spared its cost.
    """

    def __init__(self) -> None:
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._closed = trio.Event()
        self._waiting: list[tuple[contextvars.Context, Function]] = []

    async def run(self) -> None:
        """Hold the nursery until it is closed."""
        try:
            with self._scope:
                async with trio.open_nursery() as self._nursery:
                    for context, fn in self._waiting:
                        context.run(self._nursery.start_soon, fn)
                    await trio.sleep_forever()
        finally:
            self._closed.set()

    def start_soon(self, fn: Function) -> None:
        """Run a task in it, in a copy of the caller's context."""
        if self._nursery is None:
            self._waiting.append((contextvars.copy_context(), fn))
        else:
            self._nursery.start_soon(fn)

    async def aclose(self) -> None:
        """Cancel its tasks, and wait until they have ended."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._closed.wait()
