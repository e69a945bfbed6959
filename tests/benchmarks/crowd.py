"""Many instances of trio_romancy: start them from many tasks, and wait until all are idle."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from itertools import count
from typing import TypeVar

import trio

from trio_romancy import App

T = TypeVar("T")

STARTERS = 100
"""Number of tasks that start instances."""


async def start_all(start: Callable[[T], Awaitable[object]], inputs: Iterable[T], starters: int = STARTERS) -> None:
    """Call ``start(input)`` for each input, from ``starters`` tasks."""
    left = iter(inputs)

    async def starter() -> None:
        for each in left:
            await start(each)

    async with trio.open_nursery() as nursery:
        for _ in range(starters):
            nursery.start_soon(starter)


async def come_to_rest(app: App, resident: int, interval: float = 0.001) -> None:
    """Wait until exactly ``resident`` instances are in memory, all idle, and nothing is left to write.

    Args:
      interval: seconds between two checks.
    """
    for _ in count():
        worker = app.statistics().worker
        assert worker is not None
        supervisor = worker.supervisor
        if supervisor.resident == supervisor.idle == resident and worker.journal.waiting == 0:
            return
        await trio.sleep(interval)
