"""Processes that die, stand still, or are told to end."""

from __future__ import annotations

import signal

import trio

from ..crew import Slot
from ..target import Target
from .fault import Fault, Scene, WorkerFault


def faults(target: Target) -> list[Fault]:
    return [WorkerFault("kill", 3, kill), WorkerFault("freeze", 3, freeze), WorkerFault("stop", 1, stop)]


async def kill(scene: Scene, slot: Slot) -> None:
    scene.disturbances.died(slot.worker_id)
    slot.send(signal.SIGKILL)
    await slot.wait()
    await trio.sleep(scene.dice.uniform(0, 1))
    scene.crew.replace(slot)


async def freeze(scene: Scene, slot: Slot) -> None:
    """For longer than its lease, so that it goes on in the belief that it still holds it."""
    with scene.disturbances.of(slot.worker_id):
        slot.send(signal.SIGSTOP)
        await trio.sleep(scene.longer_than_a_lease())
        slot.send(signal.SIGCONT)


async def stop(scene: Scene, slot: Slot) -> None:
    scene.disturbances.died(slot.worker_id)
    await scene.crew.stop(slot)
    await trio.sleep(scene.dice.uniform(0, 1))
    scene.crew.replace(slot)
