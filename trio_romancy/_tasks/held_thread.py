"""A thread that notices when a task holds the thread of trio, so that no other task runs."""

from __future__ import annotations

import os.path
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import trio

from .trio_internals import steps_of

_PERIOD = 0.25
"""Seconds between two looks."""
_TRIO = os.path.dirname(trio.__file__) + os.sep
_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
_LIBRARY = os.path.dirname(threading.__file__) + os.sep
"""Python's library, with all packages that are installed in it."""

Report = Callable[[trio.lowlevel.Task, float, str], None]
"""Called in the other thread with a task, the seconds for which it has held trio's thread, and the place."""


class HeldThread:
    """Looks four times a second at what trio's thread does. Costs trio nothing.

    A task that holds the thread for longer than the threshold is reported, and again when the time has doubled.

    Args:
      threshold: in seconds.
    """

    def __init__(self, report: Report, threshold: float) -> None:
        self._report = report
        self._threshold = threshold
        self._trio_thread = threading.get_ident()
        self._has_ended = threading.Event()

    def start(self) -> None:
        """Watch the thread in which the object was made, until :meth:`stop`."""
        threading.Thread(target=self._watch, name="trio_romancy: watch for held threads", daemon=True).start()

    def stop(self) -> None:
        """End the watch, without waiting for its thread."""
        self._has_ended.set()

    def _watch(self) -> None:
        step: tuple[int, int] | None = None
        since, limit = 0.0, self._threshold
        while not self._has_ended.wait(_PERIOD):
            frame = sys._current_frames().get(self._trio_thread)
            task, place = _running(frame)
            now = time.monotonic()
            before, step = step, None if task is None else (id(task), steps_of(task))
            if task is None or step != before:
                since, limit = now, self._threshold
            elif now - since >= limit:
                self._report(task, now - since, place)
                limit = 2 * (now - since)
            del frame, task


def _running(frame: FrameType | None) -> tuple[trio.lowlevel.Task | None, str]:
    """Return the task that a stack of trio's thread belongs to, and the innermost place outside of libraries."""
    place = in_library = ""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "unrolled_run" and code.co_filename.startswith(_TRIO):
            return frame.f_locals.get("task"), place or in_library
        if not place and not code.co_filename.startswith((_TRIO, _OURS, "<frozen")):
            here = f"{code.co_filename}:{frame.f_lineno}"
            if code.co_filename.startswith(_LIBRARY):
                in_library = in_library or here
            else:
                place = here
        frame = frame.f_back
    return None, place
