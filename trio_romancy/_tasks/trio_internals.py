"""Private attributes of trio, of which trio has no public form. ``test_trio_internals.py`` tests each."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Any

import trio


def is_runnable(task: trio.lowlevel.Task) -> bool:
    """Return whether a task is scheduled to run."""
    return task._next_send_fn is not None


def is_innermost(scope: trio.CancelScope, task: trio.lowlevel.Task) -> bool:
    """Return whether a task has entered no other scope and no nursery inside ``scope``, which it has entered."""
    return task._cancel_status is scope._cancel_status


def run_queue(task: trio.lowlevel.Task) -> deque[trio.lowlevel.Task]:
    """Return the tasks that trio runs in the next pass of its loop. A task that was just scheduled is the last one."""
    return task._runner.runq


def check_run_queue(task: trio.lowlevel.Task) -> None:
    """Check that this version of trio has the queue of :func:`run_queue`.

    Raises:
      RuntimeError: if not.
    """
    if not isinstance(getattr(getattr(task, "_runner", None), "runq", None), deque):
        raise RuntimeError(
            f"trio {trio.__version__} keeps its runnable tasks where trio_romancy does not find them; install an "
            f"older trio, or a newer trio_romancy"
        )


def is_installed(instrument: trio.abc.Instrument) -> bool:
    """Return whether trio calls an instrument: it was added, and trio has not dropped it."""
    return instrument in trio.lowlevel.current_task()._runner.instruments["_all"]


def closes_generator(task: trio.lowlevel.Task) -> bool:
    """Return whether a task closes an async generator that was left before its end, or is a child of such a task."""
    while task.parent_nursery is not None:
        if getattr(task.coro, "__qualname__", "") == "AsyncGenerators._finalize_one":
            return True
        task = task.parent_nursery.parent_task
    return False


def has_deadline_within(scope: trio.CancelScope, task: trio.lowlevel.Task) -> bool:
    """Return whether a deadline can cancel a task that runs within ``scope``: that of a scope further in.

    Unlike :func:`trio.current_effective_deadline` it does not count ``scope``, and the scopes around it.
    """
    outermost, status = scope._cancel_status, task._cancel_status
    has_deadline = is_shielded = False
    while status is not outermost:
        if not is_shielded:
            has_deadline = has_deadline or status._scope.deadline != inf
            is_shielded = status._scope.shield
        if status._parent is None:
            return False  # the task does not run within the scope
        status = status._parent
    return has_deadline


def innermost(task: trio.lowlevel.Task) -> object:
    """Return a mark of the innermost scope or nursery that a task has entered."""
    return task._cancel_status


def is_mark_cancelled(mark: Any) -> bool:
    """Return whether a checkpoint in the scope that :func:`innermost` has marked would raise :exc:`trio.Cancelled`."""
    return bool(mark.effectively_cancelled)


async def leave_open_scopes(task: trio.lowlevel.Task, mark: object, nurseries: int) -> None:
    """Leave the scopes and nurseries that the current task has entered and not left, innermost first.

    Trio makes a task that ends with an open nursery raise, and no ``except`` in the task can prevent that. The tasks of
    the nurseries are cancelled and awaited; what they raise is lost with them.

    Args:
      mark: the return value of :func:`innermost` before.
      nurseries: number of nurseries that the task had open before.
    """
    outer: Any = mark
    while True:
        status: Any = task._cancel_status
        is_inside = status is not outer and outer.encloses(status)
        nursery = task._child_nurseries[-1] if len(task._child_nurseries) > nurseries else None
        if nursery is not None and (not is_inside or nursery.cancel_scope is status._scope):
            nursery.cancel_scope.cancel()
            await nursery._nested_child_finished(None)
        elif is_inside:
            status._scope._close(None)
        else:
            return


def steps_of(task: trio.lowlevel.Task) -> int:
    """Return how many steps a task has ended."""
    return task._schedule_points


def is_cancelled(task: trio.lowlevel.Task) -> bool:
    """Return whether the next checkpoint of a task would raise :exc:`trio.Cancelled`."""
    return task._cancel_status is not None and task._cancel_status.effectively_cancelled
