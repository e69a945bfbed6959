"""What a fault is, and what it may touch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

import trio
from attrs import define, frozen

from ..crew import Crew, Slot
from ..disturbances import Disturbances
from ..load import Load
from ..target import Target
from ..worker import LEASE

T = TypeVar("T")

_RETRY_AFTER = 0.2


@define(eq=False)
class Scene:
    """All that faults can do something to."""

    target: Target
    crew: Crew
    load: Load
    dice: Random
    disturbances: Disturbances

    def half_to_three_leases(self) -> float:
        """As many seconds, by the dice."""
        return LEASE * self.dice.uniform(0.5, 3)

    def longer_than_a_lease(self) -> float:
        """As many seconds, by the dice."""
        return LEASE * self.dice.uniform(1.1, 2)

    async def insist(self, call: Callable[[], T]) -> T:
        """Call something that uses the database, again and again while that is away."""
        while True:
            try:
                return await trio.to_thread.run_sync(call)
            except self.target.errors:
                await trio.sleep(_RETRY_AFTER)


@frozen
class WorkerFault:
    """Something that happens to one worker, to which nothing else happens meanwhile."""

    name: str
    times: int
    """How often in each round of faults."""
    act: Callable[[Scene, Slot], Awaitable[None]]


@frozen
class ServerFault:
    """Something that happens to the database, so that nothing works meanwhile, or not much. One at a time."""

    name: str
    times: int
    act: Callable[[Scene], Awaitable[None]]


@frozen
class SmallFault:
    """Something that can happen at any time, also beside all other faults."""

    name: str
    times: int
    act: Callable[[Scene], Awaitable[None]]


Fault = WorkerFault | ServerFault | SmallFault
