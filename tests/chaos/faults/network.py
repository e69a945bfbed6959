"""Networks that break or stand still: of one worker, or of all of them and the driver."""

from __future__ import annotations

import trio

from ..crew import Slot
from ..target import Target
from .fault import Fault, Scene, ServerFault, SmallFault, WorkerFault


def faults(target: Target) -> list[Fault]:
    if not target.ways:
        return []
    found: list[Fault] = [
        SmallFault("cut", 3, cut),
        WorkerFault("stall", 1, stall),
        ServerFault("blackout", 2, blackout),
    ]
    if any(len(way.proxies) > 1 for way in target.ways):
        found.append(WorkerFault("detour", 1, detour))
    return found


async def cut(scene: Scene) -> None:
    """One worker, or the driver, loses all its connections, and can make others at once."""
    scene.dice.choice(scene.target.ways).cut()


async def stall(scene: Scene, slot: Slot) -> None:
    """The network of one worker stands still for longer than its lease, and then brings all that was sent."""
    way = scene.target.ways[slot.number]
    with scene.disturbances.of(slot.worker_id):
        way.stall()
        await trio.sleep(scene.longer_than_a_lease())
        way.resume()


async def detour(scene: Scene, slot: Slot) -> None:
    """One worker loses the server that it uses, and no others do: it is refused, or hears nothing any more."""
    proxy = scene.target.ways[slot.number].main_proxy
    seconds = scene.longer_than_a_lease()
    with scene.disturbances.of(slot.worker_id):
        if scene.dice.random() < 0.5:
            proxy.stall()
            await trio.sleep(seconds)
            proxy.resume()
        else:
            proxy.refuse()
            proxy.cut()
            await trio.sleep(seconds)
            proxy.accept()


async def blackout(scene: Scene) -> None:
    """All lose the database, which goes on: they hear nothing any more, or are refused. No lease must end by that."""
    proxies = [proxy for way in scene.target.ways for proxy in way.proxies]
    seconds = scene.half_to_three_leases()
    if scene.dice.random() < 0.5:
        for proxy in proxies:
            proxy.stall()
        await trio.sleep(seconds)
        for proxy in proxies:
            proxy.resume()
    else:
        for proxy in proxies:
            proxy.refuse()
            proxy.cut()
        await trio.sleep(seconds)
        for proxy in proxies:
            proxy.accept()
