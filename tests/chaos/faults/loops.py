"""Event loops that stand still: user code holds the thread. No lease may be lost by that."""

from __future__ import annotations

import trio

from ..crew import Slot
from ..target import Target
from .fault import Fault, Scene, SmallFault, WorkerFault


def faults(target: Target) -> list[Fault]:
    return [WorkerFault("blocked loop", 1, block), SmallFault("blocking activity", 1, block_in_activity)]


async def block(scene: Scene, slot: Slot) -> None:
    seconds = scene.half_to_three_leases()
    slot.command(f"block {seconds:.3f}")
    await trio.sleep(seconds)


async def block_in_activity(scene: Scene) -> None:
    """On whichever worker it runs."""
    scene.load.start_holder(scene.half_to_three_leases())
