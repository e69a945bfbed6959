"""The durable steps of time: sleeping, and timeouts of blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from ..._data.journal_format import NOTHING
from ...clock import Microseconds
from ...model import Kind
from ..run.mailbox import PendingOutcome
from ..run.operation import Operation
from ..run.run import InstanceRun
from .step import new_id, recorded

_TIMER = frozenset({Kind.TIMER_FIRED})
_TIMEOUT = frozenset({Kind.TIMEOUT_FIRED})


async def sleep_until(run: InstanceRun, when: Microseconds | None, id: str | None) -> None:
    """Sleep until that time, across restarts; None: until the sleep is cancelled."""
    task = trio.lowlevel.current_task()
    id = new_id(run, task, "sleep", id, "sleep")
    await trio.lowlevel.checkpoint_if_cancelled()
    if not run.has_outcomes or await recorded(run, task, id, "sleep", _TIMER) is None:
        operation = Operation(id, "sleep", _TIMER, None, task, waits=True, wake_at=when)
        run.in_flight.add(operation)  # as `step` does, without its frames, which each sleeping instance would keep
        try:
            if when is None:
                run.open_mailbox()
            else:
                run.post_at(when, PendingOutcome(operation, Kind.TIMER_FIRED, NOTHING))
            while await operation.wait() is None:
                pass
        finally:
            run.end(operation)


@contextmanager
def open_timeout(
    run: InstanceRun, duration: Microseconds | None, id: str | None, *, fail: bool
) -> Iterator[trio.CancelScope]:
    """Open a cancel scope whose deadline is an entry of the journal.

    Args:
      duration: None: without a deadline. It is an operation all the same, so that the ids of later ones stay.
      fail: whether to raise :exc:`trio.TooSlowError` if the deadline cancelled the block.
    """
    id = new_id(run, trio.lowlevel.current_task(), "timeout", id, "timeout")
    when = None if duration is None else run.cursor.now + duration
    with trio.CancelScope() as scope:
        operation = Operation(id, "timeout", _TIMEOUT, lambda _: scope.cancel(), wake_at=when)
        run.in_flight.add(operation)
        if when is not None:
            run.post_at(when, PendingOutcome(operation, Kind.TIMEOUT_FIRED, NOTHING))
        try:
            yield scope
        finally:
            run.end(operation)
    if fail and scope.cancelled_caught:
        raise trio.TooSlowError
