"""Private attributes of trio, of which trio has no public form. ``test_trio_internals.py`` tests each."""

from __future__ import annotations

import trio


def is_runnable(task: trio.lowlevel.Task) -> bool:
    """Return whether a task is scheduled to run."""
    return task._next_send_fn is not None


def is_innermost(scope: trio.CancelScope, task: trio.lowlevel.Task) -> bool:
    """Return whether a task has entered no other scope and no nursery inside ``scope``, which it has entered."""
    return task._cancel_status is scope._cancel_status
