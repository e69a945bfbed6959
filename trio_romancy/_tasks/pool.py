"""Where actors run: a task, and a cancel scope in it, that are used for one instance after another.

To make both anew for each instance, and to take them down again, costs a tenth of all that a short workflow costs.
"""

from __future__ import annotations

import contextvars
from types import TracebackType
from typing import Generic, TypeVar

import trio

from .trio_internals import is_innermost

T = TypeVar("T")


class PooledTask(Generic[T]):
    """The place of the current task. As a context manager it is the cancel scope around a workflow function.

    The scope stays open for the next workflow function, except after a cancellation, which nothing takes back.

    Args:
      free: where the seat is while it waits for the next instance. The last one in it goes on first.
    """

    __slots__ = ("_context", "_free", "_next", "_scope", "_task", "is_tainted")

    def __init__(self, free: list[PooledTask[T]]) -> None:
        self.is_tainted = False
        """Whether something has left it in a state that the next instance must not find."""
        self._free = free
        self._next: T | None = None
        self._scope: trio.CancelScope | None = None
        self._task = trio.lowlevel.current_task()
        self._context = contextvars.copy_context()
        """As it was before anybody used it."""

    def __enter__(self) -> trio.CancelScope:
        if self._scope is None:
            self._scope = trio.CancelScope()
            self._scope.__enter__()
        return self._scope

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        assert self._scope is not None
        if not is_innermost(self._scope, self._task):
            self.is_tainted = True  # trio says so when the scope is left
        elif not self._scope.cancel_called:
            return False
        return self._leave_scope(exc)

    def close(self, exc: BaseException | None) -> None:
        """Its task ends, with that exception if there is one."""
        if self._scope is not None:
            self._leave_scope(exc)

    def _leave_scope(self, exc: BaseException | None) -> bool:
        scope, self._scope = self._scope, None
        assert scope is not None
        return scope.__exit__(type(exc), exc, None) if exc is not None else scope.__exit__(None, None, None)

    async def next(self) -> T:
        """Wait for the next instance."""
        self._task.context = self._context.copy()  # from the next step of the task on
        self._free.append(self)
        await trio.lowlevel.wait_task_rescheduled(self._abort)
        assert self._next is not None
        taken, self._next = self._next, None
        return taken

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._free.remove(self)
        return trio.lowlevel.Abort.SUCCEEDED

    def assign(self, taken: T, name: str) -> None:
        """Run the next instance. Whoever calls this has removed it from those that are free."""
        self._next = taken
        self._task.name = name
        trio.lowlevel.reschedule(self._task)
