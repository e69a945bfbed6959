"""Wall clocks that are set, forwards and backwards. Nothing must follow them."""

from __future__ import annotations

from ..commands import FARTHEST
from ..target import Target
from .fault import Fault, Scene, SmallFault


def faults(target: Target) -> list[Fault]:
    return [SmallFault("clock step", 2, step)]


async def step(scene: Scene) -> None:
    """Set the clock of some workers, whatever else happens to them."""
    for slot in scene.dice.sample(scene.crew.slots, scene.dice.randint(1, len(scene.crew.slots))):
        slot.command(f"clock {scene.dice.uniform(-FARTHEST, FARTHEST):.3f}")
