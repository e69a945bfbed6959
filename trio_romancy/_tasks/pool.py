"""Tasks that run one instance after another, each with a cancel scope that is used again."""

from __future__ import annotations

import contextvars
from types import TracebackType
from typing import Generic, TypeVar

import trio

from .torn import is_torn
from .trio_internals import innermost, is_innermost, leave_open_scopes

T = TypeVar("T")


class PooledTask(Generic[T]):
    """The current task, as one that runs instances in turn. As a context manager it is a cancel scope.

    The block of the context manager is that of one workflow function. The scope stays open for the next function,
    except after a cancellation, which cannot be taken back.

    Without this the benchmark ``throughput`` loses with 200 clients: a new task for each instance costs a tenth of the
    CPU time of a workflow with three activities, and a new scope another 5 microseconds of some 150.

    Args:
      free: list of the tasks that wait for an instance. The last one in it is used first.
    """

    __slots__ = ("_base", "_context", "_free", "_next", "_scope", "_task", "is_tainted")

    def __init__(self, free: list[PooledTask[T]]) -> None:
        self.is_tainted = False
        """Whether an instance has left a scope or a nursery open. No other instance may then run in the task."""
        self._free = free
        self._next: T | None = None
        self._scope: trio.CancelScope | None = None
        self._task = trio.lowlevel.current_task()
        self._base = innermost(self._task)
        self._context = contextvars.copy_context()
        """Context variables before the first instance."""

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
            self.is_tainted = True  # trio raises when the scope is left
        elif not self._scope.cancel_called:
            return False
        return self._leave_scope(exc)

    @property
    def is_torn(self) -> bool:
        """Whether the coroutine of the task is being closed, outside of a step of the task."""
        return is_torn(self._task)

    async def aclose(self) -> None:
        """Leave all scopes, at the end of the task, so that the task can end without an exception."""
        self._scope = None
        await leave_open_scopes(self._task, self._base, 0)

    def _leave_scope(self, exc: BaseException | None) -> bool:
        scope, self._scope = self._scope, None
        assert scope is not None
        return scope.__exit__(type(exc), exc, None) if exc is not None else scope.__exit__(None, None, None)

    async def next(self) -> T:
        """Wait for the next instance, with the context variables as they were before the first one."""
        self._task.context = self._context.copy()  # in force from the next step of the task on
        self._free.append(self)
        await trio.lowlevel.wait_task_rescheduled(self._abort)
        assert self._next is not None
        taken, self._next = self._next, None
        return taken

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._free.remove(self)
        return trio.lowlevel.Abort.SUCCEEDED

    def assign(self, taken: T, name: str) -> None:
        """Wake the task to run an instance. The caller has removed it from the list of free tasks."""
        self._next = taken
        self._task.name = name
        trio.lowlevel.reschedule(self._task)
