"""trio-asyncio without its patches of asyncio, which would reach all other asyncio code of the process.

Imported only where a loop is opened. All that the drivers of databases need is a loop that says that it is running
while it calls back, as asyncio's own loops do. A program that has imported trio-asyncio itself keeps its patches.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import asyncio.tasks
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


@contextmanager
def _unchanged_asyncio() -> Iterator[None]:
    """Restore what the block replaces in asyncio: functions, and the event loop policy."""
    modules = asyncio, asyncio.events, asyncio.tasks
    before = [dict(vars(module)) for module in modules]
    try:
        yield
    finally:
        for module, names in zip(modules, before, strict=True):
            for name, value in names.items():
                if getattr(module, name) is not value:
                    setattr(module, name, value)


_is_of_program = "trio_asyncio" in sys.modules

if _is_of_program:
    import trio_asyncio
else:
    with _unchanged_asyncio():
        import trio_asyncio


_TrioEventLoop: Any = trio_asyncio.TrioEventLoop  # trio-asyncio has no types


class _Loop(_TrioEventLoop):  # type: ignore[misc]  # a base of type Any
    """A loop on trio that :func:`asyncio.get_running_loop` returns during its callbacks, and only then."""

    def _call(self, callback: Callable[..., object], *args: Any) -> None:
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            callback(*args)
        finally:
            asyncio._set_running_loop(before)

    async def _main_loop_one(self, no_wait: bool = False) -> None:
        """Wait for a callback, and run it and all that are ready then, as asyncio's own loops do.

        trio-asyncio lets all trio tasks take a turn after each. A statement takes several callbacks, and most of its
        time was spent on those turns: ``bench throughput`` on a server shows them.
        """
        await super()._main_loop_one(no_wait)
        if not no_wait:
            for _ in range(self._q_recv.statistics().current_buffer_used):
                await super()._main_loop_one(no_wait=True)

    def _check_callback(self, callback: object, method: str) -> None:
        """Do nothing: each callback is wrapped in :meth:`_call`, so that the check finds nothing and takes its time."""

    def call_soon(self, callback: Callable[..., object], *args: Any, **context: Any) -> asyncio.Handle:
        handle: asyncio.Handle = super().call_soon(partial(self._call, callback), *args, **context)
        return handle

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, **context: Any) -> None:
        super().call_soon_threadsafe(partial(self._call, callback), *args, **context)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, **context: Any) -> asyncio.TimerHandle:
        handle: asyncio.TimerHandle = super().call_at(when, partial(self._call, callback), *args, **context)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, **context: Any
    ) -> asyncio.TimerHandle:
        handle: asyncio.TimerHandle = super().call_later(delay, partial(self._call, callback), *args, **context)
        return handle

    def _add_io_handler(
        self, set_handle: Any, wait_ready: Any, fd: Any, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> Any:
        return super()._add_io_handler(set_handle, wait_ready, fd, partial(self._call, callback), args)


if not _is_of_program:
    trio_asyncio._loop.TrioEventLoop = _Loop  # made by `open_loop`

current_loop = trio_asyncio.current_loop
open_loop = trio_asyncio.open_loop
