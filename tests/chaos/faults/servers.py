"""Servers that die or stand still, and come back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..target import Disaster, Target
from .fault import Fault, Scene, ServerFault


def faults(target: Target) -> list[Fault]:
    return [ServerFault(name, 1, _act(disaster)) for name, disaster in target.disasters.items()]


def _act(disaster: Disaster) -> Callable[[Scene], Awaitable[None]]:
    async def act(scene: Scene) -> None:
        if disaster.spares_some:
            with scene.disturbances.of(None):
                await disaster.strike(scene.dice)
        else:
            await disaster.strike(scene.dice)

    return act
