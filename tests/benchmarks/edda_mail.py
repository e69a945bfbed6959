"""Events for workflows that wait, in Edda. No waiting workflow is in memory: each event causes a replay.

Events enter through ``handle_cloudevent``, as from HTTP. Each workflow waits for a type of its own: Edda has no
subjects, and an event addressed to one instance is received by all if that instance is busy.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

from cloudevents.http import CloudEvent
from edda import EddaApp, WorkflowContext, wait_event, workflow

from .arrivals import Arrivals
from .edda_peer import make_app

_WARM_UP = 2
"""Samples before the first that counts."""
_PAUSE = 0.15
"""Seconds without a send before each send: Edda drops notifications that come shortly after another."""

arrivals = Arrivals()


@workflow
async def receiver(ctx: WorkflowContext, key: str, events: int) -> None:
    for _ in range(events):
        event = await wait_event(ctx, f"sent.{key}")
        arrivals.note(key, event.data["number"])


async def wake(database: str, state: str, samples: int, seconds: float) -> list[float]:
    """Return the seconds from just before the event enters to the line after the wait, each in a new instance."""
    assert state == "passive"
    taken: list[float] = []
    app = _app(database)
    await app.initialize()
    try:
        until = time.perf_counter() + seconds
        for number in range(_WARM_UP + samples):
            if time.perf_counter() > until and number > _WARM_UP:
                break
            key = f"instance-{number}"
            await receiver.start(key=key, events=1)  # returns when it waits
            await asyncio.sleep(_PAUSE)
            begun = time.perf_counter()
            await _send(app, key, number)
            while (arrived := arrivals.at(key, number)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            taken.append(arrived - begun)
    finally:
        await app.shutdown()
    return taken[_WARM_UP:]


async def exchange(database: str, instances: int, events: int, senders: int, seconds: float) -> dict[str, Any]:
    """Send events to all instances in turn, and wait until the last one has come."""
    app = _app(database)
    await app.initialize()
    try:
        keys = [f"instance-{number}" for number in range(instances)]
        for key in ["first", *keys]:
            # Edda's own recovery may lock the new instance first. It then runs it.
            with suppress(RuntimeError):
                await receiver.start(key=key, events=events)
        await _send(app, "first", 0)  # wakes its poller, whose interval grows while it finds nothing
        while not arrivals:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        arrivals.clear()
        left = ((key, number) for number in range(events) for key in keys)
        sent = 0
        begun = time.perf_counter()

        async def sender() -> None:
            nonlocal sent
            for key, number in left:
                await _send(app, key, number)
                sent += 1
                if time.perf_counter() - begun > seconds:
                    return

        await asyncio.gather(*(sender() for _ in range(senders)))
        ended = time.perf_counter()
        while arrivals.may_come(sent, ended):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return {"sent": sent, "received": len(arrivals), "seconds": max(arrivals.last - begun, 0.0)}
    finally:
        await app.shutdown()


async def _send(app: EddaApp, key: str, number: int) -> None:
    event = CloudEvent({"type": f"sent.{key}", "source": "benchmark"}, {"number": number})
    await app.handle_cloudevent(event, wait=True)


def _app(database: str) -> EddaApp:
    # On SQLite and MariaDB it looks every 1 to 1.3 seconds for what can go on, or more seldom if nothing could; that
    # cannot be configured, nor that on PostgreSQL a notification is dropped that comes less than 0.1 seconds after
    # another. But how many then go on can (by default 10), and after how long it looks without one (30 seconds).
    return make_app(database, max_workflows_per_batch=1000, notify_fallback_interval=1)
