"""The same workload in Edda: a workflow of three trivial async activities."""

from __future__ import annotations

import asyncio
import logging
import time

from edda import EddaApp, WorkflowContext, activity, workflow
from edda.storage.sqlalchemy_storage import SQLAlchemyStorage
from sqlalchemy.ext.asyncio import create_async_engine

logging.getLogger("edda").setLevel(logging.CRITICAL + 1)


@activity
async def reserve(ctx: WorkflowContext, order_id: str) -> str:
    return f"RES-{order_id}"


@activity
async def charge(ctx: WorkflowContext, order_id: str, amount: float) -> float:
    return amount


@activity
async def ship(ctx: WorkflowContext, order_id: str) -> str:
    return f"TRACK-{order_id}"


@workflow
async def order(ctx: WorkflowContext, order_id: str, amount: float) -> str:
    await reserve(ctx, order_id)
    await charge(ctx, order_id, amount)
    return await ship(ctx, order_id)


async def run(database: str, concurrency: int, total: int) -> tuple[float, list[float]]:
    """Seconds for the whole, and for each workflow that completed from start to result."""
    app = EddaApp(service_name="benchmark", db_url=f"sqlite:///{database}")
    # Its pool_size (5) is for servers only: SQLite gets up to 15 connections. They fight for the one write lock, and
    # while a new instance waits between being stored and being locked, the app's own recovery task takes it up as
    # well, whereupon both executions fail. With 5 that is rare, and the throughput is up to twice as high.
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{database}", pool_size=5, max_overflow=0, pool_timeout=600, connect_args={"timeout": 30}
    )
    app.storage = SQLAlchemyStorage(engine)
    await app.initialize()
    latencies: list[float] = []

    async def start_and_wait(order_id: str, amount: float) -> None:
        instance_id = await order.start(order_id=order_id, amount=amount)  # returns when the workflow has ended
        instance = await app.storage.get_instance(instance_id)
        assert instance is not None and instance["output_data"]["result"] == f"TRACK-{order_id}", instance

    try:
        await start_and_wait("warm", 1.0)
        left = iter(range(total))

        async def client() -> None:
            for number in left:
                begun = time.perf_counter()
                try:
                    await start_and_wait(f"o{number}", 9.5)
                except Exception:
                    continue  # the harness sees that one is missing
                latencies.append(time.perf_counter() - begun)

        begun = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(concurrency)))
        return time.perf_counter() - begun, latencies
    finally:
        await app.shutdown()
