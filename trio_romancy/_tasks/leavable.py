"""Coroutines that can be left where they are, because they catch each cancellation and never end."""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Generic, NoReturn, TypeVar

import trio

from .trio_internals import innermost, is_cancelled, is_mark_cancelled, leave_open_scopes

T = TypeVar("T")

PATIENCE = 10_000
"""Number of steps that a coroutine may make although it is cancelled. Code that unwinds needs one for each block."""


class LeftBehindError(Exception):
    """Raised instead of the outcome of a coroutine that was left where it is."""


class Leavable(Coroutine[Any, Any, T], Generic[T]):
    """A coroutine of one task that is left behind if it catches cancellations without end.

    Without this, ``while True: try: await ctx.sleep(1) except: pass`` never ends, and nothing can end it. The steps
    that the coroutine makes while it is cancelled and not shielded are counted, from zero again once it has left a
    cancelled scope of its own. After :data:`PATIENCE` of them it never runs again, and :exc:`LeftBehindError` takes the
    place of its outcome, once its scopes and nurseries are left.

    Args:
      task: task that runs the coroutine. At the time of the call it has entered nothing that the coroutine leaves.
      on_left: called with the task when the coroutine is left behind.
    """

    __slots__ = ("_base", "_coroutine", "_nurseries", "_on_left", "_steps", "_task")

    def __init__(
        self, coroutine: Coroutine[Any, Any, T], task: trio.lowlevel.Task, on_left: Callable[[trio.lowlevel.Task], None]
    ) -> None:
        self._coroutine: Coroutine[Any, Any, T] = coroutine
        self._task = task
        self._on_left = on_left
        self._base = innermost(task)
        self._nurseries = len(task.child_nurseries)
        self._steps = 0

    def send(self, value: Any) -> Any:
        message = self._coroutine.send(value)
        if is_cancelled(self._task):
            self._steps += 1
            if self._steps == PATIENCE:
                return self._leave()
        elif self._steps and not is_mark_cancelled(self._base):
            self._steps = 0
        return message

    def _leave(self) -> Any:
        self._keep()
        self._coroutine = self._leave_scopes()
        self._on_left(self._task)
        return self._coroutine.send(None)

    def _keep(self) -> None:
        # Python closes a coroutine when it frees it, and this one would go on with its loop then.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._coroutine))

    async def _leave_scopes(self) -> NoReturn:
        await leave_open_scopes(self._task, self._base, self._nurseries)
        raise LeftBehindError

    # -- what else a coroutine has ---------------------------------------------------------------------------------

    def throw(self, *error: Any) -> Any:
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """Leave the coroutine where it is: trio's run has broken down, and each await in it would raise at once.

        A loop that catches everything would never end.
        """
        if inspect.getcoroutinestate(self._coroutine) == inspect.CORO_SUSPENDED:
            self._keep()
        else:
            self._coroutine.close()

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Leavable[T]:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # trio and debuggers look at its state, its frame and what it awaits


def make_leavable(task: trio.lowlevel.Task, on_left: Callable[[trio.lowlevel.Task], None]) -> None:
    """Make the coroutine of a task leavable, before its first step."""
    coroutine: Any = Leavable(task.coro, task, on_left)
    task.coro = coroutine
