"""Wall clocks that are set, forwards and backwards. Nothing must follow them."""

from __future__ import annotations

from ..commands import FARTHEST
from ..target import Target
from .fault import Fault, Scene, SmallFault


def faults(target: Target) -> list[Fault]:
    return [SmallFault("clock step", 2, step)]


async def step(scene: Scene) -> None:
    """Set the clock of some workers, whatever else happens to them."""
    slots = scene.crew.slots
    if scene.target.product == "sqlite":
        # One that has no time yet would take it from a clock that those on the same machine do not have.
        slots = [slot for slot in slots if scene.crew.is_ready(slot)]
    for slot in scene.dice.sample(slots, scene.dice.randint(min(len(slots), 1), len(slots))):
        slot.command(f"clock {scene.dice.uniform(-FARTHEST, FARTHEST):.3f}")
