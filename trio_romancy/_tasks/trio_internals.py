"""Private attributes of trio, of which trio has no public form. ``test_trio_internals.py`` tests each."""

from __future__ import annotations

from collections import deque

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
