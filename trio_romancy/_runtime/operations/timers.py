"""The durable steps of time: sleeping, and timeouts of blocks."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import final

import trio

from ..._data.journal_format import NOTHING
from ...clock import Microseconds
from ...model import EntryKind
from ..run.mailbox import PendingOutcome
from ..run.operation import Operation
from ..run.run import InstanceRun
from .step import new_id, recorded

_TIMER = frozenset({EntryKind.TIMER_FIRED})
_TIMEOUT = frozenset({EntryKind.TIMEOUT_FIRED})


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
                run.post_at(when, PendingOutcome(operation, EntryKind.TIMER_FIRED, NOTHING))
            while await operation.wait() is None:
                pass
        finally:
            run.end(operation)


@final
class Timeout(AbstractContextManager[trio.CancelScope]):
    """A cancel scope whose deadline is an entry of the journal.

    No generator: :mod:`contextlib` assigns to the exceptions that leave its block, which frozen ones refuse.

    Args:
      duration: None: without a deadline. It is an operation all the same, so that the ids of later ones stay.
      fail: whether to raise :exc:`trio.TooSlowError` if the deadline cancelled the block.
    """

    __slots__ = ("_duration", "_fail", "_id", "_operation", "_run", "_scope")

    def __init__(self, run: InstanceRun, duration: Microseconds | None, id: str | None, *, fail: bool) -> None:
        self._run = run
        self._duration = duration
        self._id = id
        self._fail = fail

    def __enter__(self) -> trio.CancelScope:
        run = self._run
        id = new_id(run, trio.lowlevel.current_task(), "timeout", self._id, "timeout")
        when = None if self._duration is None else run.cursor.now + self._duration
        self._scope = scope = trio.CancelScope()
        self._operation = operation = Operation(id, "timeout", _TIMEOUT, lambda _: scope.cancel(), wake_at=when)
        scope.__enter__()
        run.in_flight.add(operation)
        if when is not None:
            run.post_at(when, PendingOutcome(operation, EntryKind.TIMEOUT_FIRED, NOTHING))
        return scope

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._run.end(self._operation)
        is_caught = bool(self._scope.__exit__(exc_type, error, traceback))
        if self._fail and self._scope.cancelled_caught:
            raise trio.TooSlowError
        return is_caught
