"""Instances that kill each worker that rolls them back, until they are parked."""

from __future__ import annotations

from ..target import Target
from .fault import Fault, Scene, SmallFault


def faults(target: Target) -> list[Fault]:
    return [SmallFault("poison", 1, poison)]


async def poison(scene: Scene) -> None:
    """One at a time, because each takes several workers down."""
    scene.load.start_poison()
