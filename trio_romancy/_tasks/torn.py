"""Coroutines that are closed because trio's run has broken down."""

from __future__ import annotations

import trio


def is_torn(task: trio.lowlevel.Task) -> bool:
    """Return whether the coroutine of a task runs though trio has not given it a step: it is being closed.

    That happens if trio's run has broken down, and Python frees its coroutines or a debugger closes them. Each await in
    them then raises at once, and what is raised is no outcome of anything.
    """
    try:
        return trio.lowlevel.current_task() is not task
    except RuntimeError:  # no task has a step
        return True
