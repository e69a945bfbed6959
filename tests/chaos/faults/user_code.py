"""Activities that do to their process what they must not: fork it, or leave trio's scopes in a mess."""

from __future__ import annotations

from ..target import Target
from .fault import Fault, Scene, SmallFault


def faults(target: Target) -> list[Fault]:
    return [SmallFault("fork", 2, fork), SmallFault("careless activity", 2, be_careless)]


async def fork(scene: Scene) -> None:
    """A child that outlives its worker keeps the connections of that open, and gets signals that are not for it."""
    scene.load.start_forker()


async def be_careless(scene: Scene) -> None:
    scene.load.start_careless()
