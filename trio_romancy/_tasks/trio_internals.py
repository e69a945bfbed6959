"""The two things that trio knows and has no public name for. ``test_trio_internals.py`` watches over them."""

from __future__ import annotations

import trio


def is_runnable(task: trio.lowlevel.Task) -> bool:
    """Whether the task is scheduled to go on: it holds what it will be resumed with."""
    return task._next_send_fn is not None


def is_innermost(scope: trio.CancelScope, task: trio.lowlevel.Task) -> bool:
    """Whether the task, which has entered the scope, has entered no other inside it, and no nursery."""
    return task._cancel_status is scope._cancel_status
