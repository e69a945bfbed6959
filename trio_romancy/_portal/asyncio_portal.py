"""Calls of an app from asyncio, on any event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import Any, ParamSpec, TypeVar

import trio
from attrs import define

from .._client.joining import Joined
from .._storage.callers.connection import Runs
from ..errors import RomancyError
from .thread import Answer, Call, Portal, call_at_once

P = ParamSpec("P")
R = TypeVar("R")


_GRACE = 5.0
"""Seconds that code in asyncio has to end after its caller in trio was cancelled: its event loop may have stopped."""

_loop_of_app: ContextVar[asyncio.AbstractEventLoop | None] = ContextVar("trio_romancy_asyncio_loop", default=None)
"""Event loop that has opened the app, for the code of activities."""


class _Awaited(asyncio.Future[Any]):
    """Future of something that goes on in the app's thread. A task that is cancelled meanwhile waits for its end."""

    def __init__(self, on_cancel: Callable[[], object]) -> None:
        super().__init__(loop=running_loop())
        self._on_cancel = on_cancel
        self._is_cancelled = False
        self._message: Any = None

    def cancel(self, msg: Any = None) -> bool:
        """Ask for the end. The future is cancelled when it has come."""
        if self.done():
            return False
        is_first, self._is_cancelled, self._message = not self._is_cancelled, True, msg
        if is_first:  # a cancel scope of anyio cancels in each turn of the event loop
            self._on_cancel()
        return True

    def answer(self, answer: Answer) -> None:
        """Take the answer, in any thread."""
        with suppress(RuntimeError):  # the loop is closed, and no task waits
            self.get_loop().call_soon_threadsafe(self._finish, answer)

    def _finish(self, answer: Answer) -> None:
        if self._is_cancelled:
            super().cancel(self._message)
        elif answer.error is not None:
            self.set_exception(answer.error)
        else:
            self.set_result(answer.value)


@define(eq=False)
class AsyncioPortal(Portal):
    """The way from asyncio into an app."""

    _loop: asyncio.AbstractEventLoop | None = None
    """Event loop that has opened the app."""

    async def call(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call an async function in the app's thread, and return or raise what comes of it.

        Cancellation reaches the function, and is delivered when that has ended.
        """
        awaited = _Awaited(lambda: thread.cancel(call))
        context = copy_context()
        context.run(_loop_of_app.set, self._loop)
        call = Call(fn, args, kwargs, awaited.answer, context)
        thread = self.thread
        thread.submit(call)
        result: R = await awaited
        return result

    async def call_sync(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function in the app's thread, and return or raise what comes of it."""
        return await self.call(call_at_once, fn, *args, **kwargs)

    async def make(self, joined: Joined[R]) -> R:
        """Make a write on the connection of the caller, in this task.

        Raises:
          TypeError: if the connection is for trio.
        """
        if joined.runs is Runs.IN_TRIO:
            raise TypeError(f"{joined.shown} is for trio; here one for asyncio, or one that blocks, is needed")
        return await joined.in_task()

    async def open(self) -> None:
        """Open the app, and return once it is open. Cancellation ends the opening."""
        loop, context = running_loop(), copy_context()
        context.run(_loop_of_app.set, loop)
        thread = self.start_thread(context)
        self._loop = loop  # only now: it may be another one than that of an app that is open already
        await _done(thread.opened, thread.cancel_block)

    async def close(self) -> None:
        """Close the app, and return once it is closed.

        Cancellation, as by a second Ctrl-C, is delivered then, and ends the wait for running activities.
        """
        thread = self.thread
        if thread.is_of_this_process:  # otherwise it is the parent that closes it
            thread.stop()
            try:
                await _done(thread.ended, thread.hurry)
            finally:
                if thread.ended.done():
                    thread.join()


async def _done(future: Future[None], on_cancel: Callable[[], object]) -> None:
    awaited = _Awaited(on_cancel)
    future.add_done_callback(lambda done: awaited.answer(Answer(error=done.exception())))
    await awaited


async def call_asyncio(fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call an async function for asyncio, in an activity. It runs in the event loop that has opened the app.

    Use it for libraries that need asyncio. A timeout or a cancellation of the activity cancels the function.

    Raises:
      RomancyError: if the app was not opened as a :class:`trio_romancy.aio.App`.
      RuntimeError: if the event loop is closed.
    """
    loop = _loop_of_app.get()
    if loop is None or not trio.lowlevel.in_trio_task():
        raise RomancyError(
            "trio_romancy.aio.call_asyncio is called by activities of a trio_romancy.aio.App; there is no such app here"
        )
    return await cross(loop, fn, *args, **kwargs)


async def cross(
    loop: asyncio.AbstractEventLoop,
    fn: Callable[P, Awaitable[R]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    """Call a function for asyncio in an event loop, from trio.

    Cancellation is delivered when the function has ended, or after :data:`_GRACE`.
    """
    token, ended, context = trio.lowlevel.current_trio_token(), trio.Event(), copy_context()
    tasks: list[asyncio.Task[R]] = []

    async def run() -> R:
        return await fn(*args, **kwargs)  # here, so that what a wrong call raises is an outcome, too

    def begin() -> None:
        tasks.append(loop.create_task(run(), context=context))
        tasks[0].add_done_callback(end)

    def end(_: object) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(ended.set)

    loop.call_soon_threadsafe(begin)
    try:
        await ended.wait()
    except trio.Cancelled:
        with suppress(RuntimeError), trio.move_on_after(_GRACE, shield=True):  # a closed loop has ended all tasks
            loop.call_soon_threadsafe(lambda: tasks[0].cancel())
            await ended.wait()
        raise
    return tasks[0].result()


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop.

    Raises:
      RomancyError: outside of asyncio.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RomancyError(
            "trio_romancy.aio.App is called outside of asyncio; use trio_romancy.App under trio, and "
            "trio_romancy.sync.App without an event loop"
        ) from None
