"""The two things that trio knows and has no public name for. ``tests/runtime/test_peek.py`` watches over them."""

from __future__ import annotations

import trio


def is_runnable(task: trio.lowlevel.Task) -> bool:
    """Whether the task will go on by itself. While a task waits, it holds how to abort the wait."""
    return task._abort_func is None


def is_innermost(scope: trio.CancelScope, task: trio.lowlevel.Task) -> bool:
    """Whether the task, which has entered the scope, has entered no other inside it, and no nursery."""
    return task._cancel_status is scope._cancel_status
