"""Long computations in a thread, so that the event loop goes on meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio
from trio.lowlevel import RunVar

from ..clock import hold_virtual_time

T = TypeVar("T")

_turn: RunVar[trio.CapacityLimiter] = RunVar("trio_romancy_apart")


async def apart(fn: Callable[[], T]) -> T:
    """Call ``fn`` in a thread, and return its result.

    There is one such call at a time: of two threads that compute, each would only slow the event loop down further.

    Cancellation is delivered before the call begins. After that the call runs to its end, and its result is returned.
    """
    try:
        limiter = _turn.get()
    except LookupError:
        limiter = trio.CapacityLimiter(1)
        _turn.set(limiter)
    with hold_virtual_time():
        return await trio.to_thread.run_sync(fn, limiter=limiter)
