"""The workload in trio_romancy: a workflow of three trivial activities."""

from __future__ import annotations

import time

import trio

from trio_romancy import App, WorkflowContext, activity, workflow


@activity
async def reserve(order_id: str) -> str:
    return f"RES-{order_id}"


@activity
async def charge(order_id: str, amount: float) -> float:
    return amount


@activity
async def ship(order_id: str) -> str:
    return f"TRACK-{order_id}"


@workflow
async def order(ctx: WorkflowContext, order_id: str, amount: float) -> str:
    await reserve(order_id)
    await charge(order_id, amount)
    return await ship(order_id)


async def run(database: str, concurrency: int, total: int) -> tuple[float, list[float]]:
    """Return the seconds for all, and for each workflow from start to result."""
    latencies: list[float] = []
    async with App(database) as app:
        await (await app.start(order, "warm", 1.0)).result()
        left = iter(range(total))

        async def client() -> None:
            for number in left:
                begun = time.perf_counter()
                handle = await app.start(order, f"o{number}", 9.5)
                await handle.result()
                latencies.append(time.perf_counter() - begun)

        begun = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(concurrency):
                nursery.start_soon(client)
        return time.perf_counter() - begun, latencies
