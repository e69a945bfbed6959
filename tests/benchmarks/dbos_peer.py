"""The same workload in DBOS: a workflow of three trivial async steps."""

from __future__ import annotations

import asyncio
import time

from dbos import DBOS, DBOSConfig


@DBOS.step()
async def reserve(order_id: str) -> str:
    return f"RES-{order_id}"


@DBOS.step()
async def charge(order_id: str, amount: float) -> float:
    return amount


@DBOS.step()
async def ship(order_id: str) -> str:
    return f"TRACK-{order_id}"


@DBOS.workflow()
async def order(order_id: str, amount: float) -> str:
    await reserve(order_id)
    await charge(order_id, amount)
    return await ship(order_id)


async def run(database: str, concurrency: int, total: int) -> tuple[float, list[float]]:
    """Return the seconds for all, and for each workflow from start to result."""
    DBOS(config=configuration(database))
    DBOS.launch()
    latencies: list[float] = []
    try:
        await (await DBOS.start_workflow_async(order, "warm", 1.0)).get_result()
        left = iter(range(total))

        async def client() -> None:
            for number in left:
                begun = time.perf_counter()
                handle = await DBOS.start_workflow_async(order, f"o{number}", 9.5)
                await handle.get_result()
                latencies.append(time.perf_counter() - begun)

        begun = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(concurrency)))
        return time.perf_counter() - begun, latencies
    finally:
        DBOS.destroy()


def configuration(database: str) -> DBOSConfig:
    """Return the fastest configuration of those tried."""
    if "://" in database:
        # The default of 20 connections on PostgreSQL: neither fewer nor more made a clear difference.
        return {"name": "benchmark", "system_database_url": database, "log_level": "CRITICAL"}
    return {
        "name": "benchmark",
        "system_database_url": f"sqlite:///{database}",
        "log_level": "CRITICAL",
        # By default it has 20 connections and as many threads as there are steps to record. SQLite lets one write at
        # a time, and the others poll for the lock: one of each is a fifth to a third faster at 20 and 200 clients.
        "sys_db_pool_size": 1,
        "max_executor_threads": 1,
    }
