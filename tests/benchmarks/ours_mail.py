"""Events for workflows that wait, in trio_romancy."""

from __future__ import annotations

import time
from typing import Any

import trio

from trio_romancy import App, WorkflowContext, workflow

from .arrivals import Arrivals
from .crowd import come_to_rest, start_all

_WARM_UP = 20
"""Samples before the first that counts."""

arrivals = Arrivals()


@workflow
async def receiver(ctx: WorkflowContext, key: str, events: int) -> None:
    for _ in range(events):
        event = await ctx.wait_event("sent", subject=key)
        arrivals.note(key, event.data)


async def wake(database: str, state: str, samples: int, seconds: float) -> list[float]:
    """Return the seconds from just before the send to the line after the wait, each in a new instance.

    Args:
      state: ``"resident"``, if the instance waits in memory, or ``"passive"``, if nothing is in memory.
      samples: number of samples.
      seconds: time after which no further sample begins.
    """
    resident = 1 if state == "resident" else 0
    taken: list[float] = []
    async with App(database, idle_timeout=3600 if resident else 0) as app:
        until = trio.current_time() + seconds
        for number in range(_WARM_UP + samples):
            if trio.current_time() > until and number > _WARM_UP:
                break
            key = f"instance-{number}"
            handle = await app.start(receiver, key, 1)
            await come_to_rest(app, resident)
            woken = trio.Event()
            arrivals.on_note = woken.set
            begun = time.perf_counter()
            await app.send_event("sent", number, subject=key)
            await woken.wait()
            await handle.result()
            arrived = arrivals.at(key, number)
            assert arrived is not None
            taken.append(arrived - begun)
    return taken[_WARM_UP:]


async def exchange(database: str, instances: int, events: int, senders: int, seconds: float) -> dict[str, Any]:
    """Send events to all instances in turn, and wait until the last one has come.

    Args:
      instances: number of waiting instances.
      events: most events for each instance.
      senders: number of tasks that send.
      seconds: time after which nothing more is sent.
    """
    async with App(database, idle_timeout=3600) as app:
        keys = [f"instance-{number}" for number in range(instances)]
        await start_all(lambda key: app.start(receiver, key, events), keys)
        await come_to_rest(app, instances)
        left = ((key, number) for number in range(events) for key in keys)
        sent = 0
        begun = time.perf_counter()

        async def sender() -> None:
            nonlocal sent
            for key, number in left:
                await app.send_event("sent", number, subject=key)
                sent += 1
                if time.perf_counter() - begun > seconds:
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(senders):
                nursery.start_soon(sender)
        ended = time.perf_counter()
        while arrivals.may_come(sent, ended):  # noqa: ASYNC110
            await trio.sleep(0.01)
        return {"sent": sent, "received": len(arrivals), "seconds": max(arrivals.last - begun, 0.0)}
