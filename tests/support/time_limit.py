"""A time limit for each test. One that hangs fails, and says what all its tasks and threads were doing.

The limit holds for setup, test and teardown, each by itself. ``@pytest.mark.time_limit(seconds)`` changes it. When it
is over, on the real clock:

1. What all trio tasks and all threads are doing is written down, and the trio run is cancelled.
2. If that does not end the test within :data:`GRACE` seconds, because the loop is blocked or a cancellation is caught,
   :class:`TestHangs` is raised wherever the main thread is, and again as often until the test has ended.
3. If the main thread does not even run Python code, the process ends with the stacks of its threads. pytest-xdist
   reports that, and starts another one for the tests that are left.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import io
import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

import pytest
import trio
from attrs import define, field

DEFAULT = 120.0
LONG = 300.0
"""Seconds, of a test that is marked as ``long``."""

GRACE = 5.0
"""Seconds between two attempts to end a test."""

ATTEMPTS = 3

SIGNAL = getattr(signal, "SIGALRM", None)
"""What interrupts the main thread. Windows has no such signal: there only the stacks of threads are shown."""

_stderr = pytest.StashKey[TextIO]()


class TestHangs(BaseException):
    """Raised in the main thread, in a test that a cancellation has not ended."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_stderr] = os.fdopen(os.dup(2), "w")  # of pytest itself: here it captures nothing


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_stderr].close()


def limit_of(item: pytest.Item) -> float:
    """Seconds that each phase of a test may take."""
    mark = item.get_closest_marker("time_limit")
    if mark is not None:
        return float(mark.args[0])
    return LONG if item.get_closest_marker("long") is not None else DEFAULT


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with limited(item):
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with limited(item):
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    with limited(item):
        yield


@contextmanager
def limited(item: pytest.Item) -> Iterator[None]:
    """Fail if the block takes longer than the test's limit."""
    if item.config.getoption("usepdb", False) or threading.current_thread() is not threading.main_thread():
        yield
        return
    limit = limit_of(item)
    expiry = Expiry()
    last = limit + (ATTEMPTS + 1) * GRACE
    faulthandler.dump_traceback_later(last, exit=True, file=item.config.stash[_stderr])
    if SIGNAL is not None:
        previous = signal.signal(SIGNAL, expiry.interrupt)
        signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    except BaseException as error:
        if expiry.seen is None:
            raise
        close_run(error)
    finally:
        if SIGNAL is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(SIGNAL, previous)
        faulthandler.cancel_dump_traceback_later()
    if expiry.seen is not None:
        expiry.close_tasks()
        item.add_report_section("call", "tasks and threads", expiry.seen)  # not in the message: a summary repeats that
        pytest.fail(f"{item.name} hangs: it has not ended after {limit:g} s", pytrace=False)


@define
class Expiry:
    """What happens once the limit is over."""

    seen: str | None = field(default=None, init=False)
    """What everything was doing then."""
    _runner: Any = field(default=None, init=False)
    """The trio run that was cancelled."""

    def interrupt(self, _: int, frame: FrameType | None) -> None:
        """End the test: the first time by cancelling its trio run, later by an exception."""
        if self.seen is not None:
            signal.setitimer(signal.ITIMER_REAL, GRACE)
            raise TestHangs
        self._runner = _runner()
        self.seen = describe_everything(frame)
        signal.setitimer(signal.ITIMER_REAL, GRACE)  # only now: the description takes its time
        if not cancel_run():
            raise TestHangs

    def close_tasks(self) -> None:
        """Close the tasks of a run that :class:`TestHangs` has torn, or they would end in the midst of another test."""
        for task in [] if self._runner is None else list(self._runner.tasks):
            with suppress(BaseException):
                task.coro.close()


def close_run(error: BaseException) -> None:
    """Close the trio run that an exception has torn, or no later test could begin one.

    Raised while trio waits for something to happen, that is, outside of the generator that is the run, it leaves that
    suspended: with its place in the thread, and with what it has told Python to do on a signal.
    """
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code is trio.run.__code__:
            traceback.tb_frame.f_locals["gen"].close()
        traceback = traceback.tb_next


def cancel_run() -> bool:
    """Cancel the main task of this thread's trio run as soon as its loop runs. Returns whether there is one."""
    runner = _runner()
    if runner is None or runner.main_task is None:
        return False
    with suppress(trio.RunFinishedError):
        runner.entry_queue.run_sync_soon(runner.main_task.parent_nursery.cancel_scope.cancel)
    return True


def describe_everything(frame: FrameType | None) -> str:
    """What the main thread, all trio tasks and all threads are doing."""
    parts = ["-- the main thread:\n" + "".join(traceback.format_stack(frame)).rstrip()]
    runner = _runner()
    if runner is not None and runner.init_task is not None:
        parts.append("-- trio tasks:\n" + "\n".join(_describe_task(runner.init_task, "")))
    if waiting := [one for one in gc.get_objects() if isinstance(one, asyncio.Task) and not one.done()]:
        parts.append("-- asyncio tasks:\n" + "\n".join(_describe_asyncio_task(one) for one in waiting))
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        parts.append("-- threads:\n" + file.read().rstrip())
    return "\n\n".join(parts)


def _describe_asyncio_task(task: asyncio.Task[Any]) -> str:
    """The task, and where it waits."""
    file = io.StringIO()
    task.print_stack(file=file)
    return file.getvalue().rstrip()


def _runner() -> Any:
    """The trio run of this thread; None: there is none."""
    return getattr(trio._core._run.GLOBAL_RUN_CONTEXT, "runner", None)


def _describe_task(task: trio.lowlevel.Task, indent: str) -> Iterator[str]:
    """The task, where it waits, and its child tasks."""
    yield f"{indent}{task.name}"
    try:
        stack = traceback.StackSummary.extract(task.iter_await_frames())
    except TypeError:  # something that is awaited has no frame
        stack = traceback.StackSummary()
    for line in stack.format():
        yield from (f"{indent}  {part}" for part in line.rstrip().splitlines())
    for nursery in task.child_nurseries:
        for child in sorted(nursery.child_tasks, key=lambda child: child.name):
            yield from _describe_task(child, indent + "    ")
