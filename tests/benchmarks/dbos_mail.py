"""Messages for workflows that wait, in DBOS: ``DBOS.send`` and ``DBOS.recv``. Every waiting workflow is in memory."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from dbos import DBOS, DBOSConfig, SetWorkflowID

from .arrivals import Arrivals
from .dbos_peer import configuration

_WARM_UP = 20
"""Samples before the first that counts."""
_TO_WAIT = 0.05
"""Seconds until a new workflow waits: DBOS does not report when it does."""
_LONG = 3600.0
_ONE_WAITS = 0.001
_MANY_WAIT = 1.0
"""Seconds between two polls for messages, on SQLite. Each waiting workflow has a transaction of its own: the best
interval for one is several times slower for many than its default of a second."""

arrivals = Arrivals()


@DBOS.workflow()
async def receiver(key: str, events: int) -> None:
    for _ in range(events):
        number = await DBOS.recv_async("sent", timeout_seconds=_LONG)
        arrivals.note(key, number)


async def wake(database: str, state: str, samples: int, seconds: float) -> list[float]:
    """Return the seconds from just before the send to the line after ``recv``, each in a new workflow."""
    assert state == "resident"
    taken: list[float] = []
    DBOS(config=_configuration(database, _ONE_WAITS))
    DBOS.launch()
    try:
        until = time.perf_counter() + seconds
        for number in range(_WARM_UP + samples):
            if time.perf_counter() > until and number > _WARM_UP:
                break
            key = f"instance-{number}"
            with SetWorkflowID(key):
                handle = await DBOS.start_workflow_async(receiver, key, 1)
            await asyncio.sleep(_TO_WAIT)
            begun = time.perf_counter()
            await DBOS.send_async(key, number, "sent")
            while (arrived := arrivals.at(key, number)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            taken.append(arrived - begun)
            await handle.get_result()
    finally:
        DBOS.destroy()
    return taken[_WARM_UP:]


async def exchange(database: str, instances: int, events: int, senders: int, seconds: float) -> dict[str, Any]:
    """Send messages to all workflows in turn, and wait until the last one has come."""
    DBOS(config=_configuration(database, _MANY_WAIT))
    DBOS.launch()
    try:
        keys = [f"instance-{number}" for number in range(instances)]
        for key in keys:
            with SetWorkflowID(key):
                await DBOS.start_workflow_async(receiver, key, events)
        await asyncio.sleep(1 + _TO_WAIT)
        left = ((key, number) for number in range(events) for key in keys)
        sent = 0
        begun = time.perf_counter()

        async def sender() -> None:
            nonlocal sent
            for key, number in left:
                await DBOS.send_async(key, number, "sent")
                sent += 1
                if time.perf_counter() - begun > seconds:
                    return

        await asyncio.gather(*(sender() for _ in range(senders)))
        ended = time.perf_counter()
        while arrivals.may_come(sent, ended):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return {"sent": sent, "received": len(arrivals), "seconds": max(arrivals.last - begun, 0.0)}
    finally:
        DBOS.destroy()


def _configuration(database: str, interval: float) -> DBOSConfig:
    config = configuration(database)
    if "://" not in database:
        config["notification_listener_polling_interval_sec"] = interval
    return config
