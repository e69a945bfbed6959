"""Calls of an app from plain synchronous code, in any thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import copy_context
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

import trio
from attrs import define

from .._client.joining import Joined
from ..errors import RomancyError
from .thread import Answer, Call, Portal, call_at_once

P = ParamSpec("P")
R = TypeVar("R")


@define(eq=False)
class BlockingPortal(Portal):
    """The way from threads without an event loop into an app."""

    def call(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call an async function in the app's thread, and return or raise what comes of it.

        Ctrl-C ends the call at once, and cancels the function.
        """
        answers: SimpleQueue[Answer] = SimpleQueue()
        call = Call(fn, args, kwargs, answers.put, copy_context())
        thread = self.thread
        thread.submit(call)
        try:
            answer = answers.get()
        except BaseException:
            thread.cancel(call)
            raise
        if answer.error is not None:
            raise answer.error
        result: R = answer.value
        return result

    def call_sync(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function in the app's thread, and return or raise what comes of it."""
        return self.call(call_at_once, fn, *args, **kwargs)

    def make(self, joined: Joined[R]) -> R:
        """Make a write on the connection of the caller, in this thread.

        Raises:
          TypeError: if the connection is for asyncio, or for trio.
        """
        return joined.here()

    def open(self) -> None:
        """Open the app, and return once it is open. Ctrl-C ends the opening.

        Raises:
          RomancyError: in a task of trio, which all others would wait for.
        """
        if trio.lowlevel.in_trio_task():
            raise RomancyError(
                "trio_romancy.sync.App is entered under trio, which it would block; use trio_romancy.App"
            )
        thread = self.start_thread(copy_context())
        try:
            thread.opened.result()
        except BaseException:
            thread.cancel_block()
            raise

    def close(self) -> None:
        """Close the app, and return once it is closed. After Ctrl-C it does not wait for running activities."""
        thread = self.thread
        if not thread.is_of_this_process:
            return  # it is the parent that closes it
        thread.stop()
        interrupt = thread.wait_until_ended()
        thread.join()
        if interrupt is not None:
            raise interrupt
        thread.ended.result()
