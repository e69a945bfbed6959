"""The same workload in Absurd: a task of three trivial async steps."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from itertools import cycle
from typing import Any

import psycopg
from absurd_sdk import AsyncAbsurd, AsyncTaskContext
from absurdctl import BUNDLED_SCHEMA_SQL

# A client has one connection, which its tasks share, and a worker claims again only after the whole last claim is done.
# So ten workers with one connection and one task each were the fastest at 20 clients, and as fast as any other setting
# at 200. Polling every 10 ms instead of 250 matters with one client.
_WORKERS = 10
_POLL_INTERVAL = 0.01


async def order(params: Any, ctx: AsyncTaskContext) -> str:
    async def reserve() -> str:
        return f"RES-{params['order_id']}"

    async def charge() -> float:
        amount: float = params["amount"]
        return amount

    async def ship() -> str:
        return f"TRACK-{params['order_id']}"

    await ctx.step("reserve", reserve)
    await ctx.step("charge", charge)
    return await ctx.step("ship", ship)


async def run(database: str, concurrency: int, total: int) -> tuple[float, list[float]]:
    """Return the seconds for all, and for each workflow from start to result."""
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        await connection.execute(BUNDLED_SCHEMA_SQL)  # as `absurdctl init` does
    latencies: list[float] = []
    async with AsyncExitStack() as exits:

        async def connected() -> AsyncAbsurd:
            app = AsyncAbsurd(database)
            exits.push_async_callback(app.close)
            app.register_task("order")(order)
            await app.list_queues()  # connects now: tasks that use it first at the same time would each connect
            return app

        workers = [await connected() for _ in range(_WORKERS)]
        await workers[0].create_queue()
        running = await exits.enter_async_context(asyncio.TaskGroup())
        for worker in workers:
            exits.callback(worker.stop_worker)
            running.create_task(worker.start_worker(poll_interval=_POLL_INTERVAL))
        starters = [await connected() for _ in range(min(concurrency, _WORKERS))]

        async def start_and_wait(app: AsyncAbsurd, order_id: str, amount: float) -> None:
            started = await app.spawn("order", {"order_id": order_id, "amount": amount})
            # It polls at once, after 50 ms, after 100 ms more, and so on: most of the time with one client.
            ended = await app.await_task_result(started["task_id"])
            assert ended.result == f"TRACK-{order_id}", ended

        await start_and_wait(starters[0], "warm", 1.0)
        left = iter(range(total))

        async def client(app: AsyncAbsurd) -> None:
            for number in left:
                begun = time.perf_counter()
                await start_and_wait(app, f"o{number}", 9.5)
                latencies.append(time.perf_counter() - begun)

        begun = time.perf_counter()
        await asyncio.gather(*(client(app) for _, app in zip(range(concurrency), cycle(starters), strict=False)))
        return time.perf_counter() - begun, latencies
