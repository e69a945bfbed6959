"""A worker whose event loop stands still keeps its instances, for a bounded time."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager

import pytest
import trio

from trio_romancy import App, Status, WorkflowContext, activity, workflow

from ..support.databases import SHARED_KINDS
from ..support.fork_server import Process
from ..support.processes import open_process

pytestmark = [pytest.mark.long, pytest.mark.real_clock, pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)]

LEASE = 1.0
BOUND = 6 * LEASE

where: list[str] = []


@activity(name="blocked_loops_poll")
async def poll(seconds: float) -> None:
    where.append("poll")
    await trio.sleep(seconds)


@activity(name="blocked_loops_resize")
async def resize(seconds: float) -> None:
    if __name__ == "__main__":  # the worker that takes over does better
        time.sleep(seconds)  # noqa: ASYNC251


@workflow(name="blocked_loops_innocent")
async def innocent(ctx: WorkflowContext, seconds: float) -> None:
    await poll(seconds)


@workflow(name="blocked_loops_guilty")
async def guilty(ctx: WorkflowContext, seconds: float) -> None:
    for _ in range(2):
        await resize(seconds)
        await ctx.sleep(0.2)


async def work(database: str, seconds: float) -> None:
    """Run the neighbour, and then block the event loop."""
    async with App(database, worker_id="blocked", lease=LEASE) as app:
        await app.start(innocent.options(id="innocent"), min(2 * seconds, 6.0))
        while not where:  # noqa: ASYNC110
            await trio.sleep(0.01)
        print("begun", flush=True)
        await app.start(guilty.options(id="guilty"), seconds)
        await trio.sleep_forever()


def blocked_worker(database: str, seconds: float) -> AbstractContextManager[Process]:
    return open_process(__spec__.name, database, str(seconds), says="begun")


async def test_neighbours_of_code_that_holds_the_loop_are_not_begun_again(database: str) -> None:
    where.clear()
    async with App(database, worker_id="other", lease=LEASE) as app:
        await trio.sleep(1.2 * LEASE)  # it has been in contact for long enough to end a lease
        with blocked_worker(database, 2.5 * LEASE):
            await app.handle("innocent").result(timeout=30)
            workers = {worker.worker_id: worker for worker in await app.list_workers()}
    assert where == []
    assert workers["blocked"].is_alive


async def test_after_six_leases_the_others_take_over(database: str) -> None:
    where.clear()
    async with App(database, worker_id="other", lease=LEASE) as app:
        await trio.sleep(1.2 * LEASE)
        with blocked_worker(database, 60):
            begun = time.monotonic()
            await app.handle("innocent").result(timeout=30)
            assert time.monotonic() - begun > BOUND
            assert "blocked" not in {worker.worker_id for worker in await app.list_workers()}
            instance = await app.get_instance("innocent")
    assert where == ["poll"]
    assert instance is not None and instance.status is Status.COMPLETED


if __name__ == "__main__":
    trio.run(work, sys.argv[1], float(sys.argv[2]))
