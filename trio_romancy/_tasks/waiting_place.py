"""Where a task waits, and whether only something outside its workflow can wake it."""

from __future__ import annotations

import contextlib
import os.path

import trio

_TRIO = os.path.dirname(trio.__file__) + os.sep
_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
_OPERATIONS = os.path.join(_OURS, "_runtime") + os.sep
_BETWEEN_TASKS = tuple(
    os.path.join(_TRIO, *names)
    for names in (
        ("_sync.py",),
        ("_abc.py",),
        ("_channel.py",),
        ("_core", "_run.py"),
        ("_core", "_parking_lot.py"),
        ("_core", "_traps.py"),
        ("testing", "_sequencer.py"),
    )
)
"""Files of trio with what tasks wait in for each other: locks, channels, nurseries."""


def place_outside(task: trio.lowlevel.Task, *, is_last: bool) -> str | None:
    """Return where a task waits for what is no operation and no other task, as ``file:line``; None if it does not.

    Args:
      is_last: whether no task of the workflow can go on any more. Then none will set an event, or release a lock.
    """
    place, inner = None, []
    for frame, line in task.iter_await_frames():
        file = frame.f_code.co_filename
        if file.startswith((_TRIO, _OURS)):
            inner.append(frame.f_code)
        elif file != contextlib.__file__:  # which only passes on what a context manager awaits
            place, inner = f"{file}:{line}", []
    if place is None or any(code.co_filename.startswith(_OPERATIONS) for code in inner):
        return None
    if any(code.co_name == "_nested_child_finished" for code in inner):
        return None  # the end of a nursery, which waits for tasks in any case
    if not is_last and all(code.co_filename in _BETWEEN_TASKS for code in inner):
        return None
    return place
