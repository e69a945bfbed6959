"""A process of its own for test_recovery.py: runs what the first argument says, under the worker id of the
second, on the database of the third."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import trio

from trio_romancy import (
    App,
    TerminalError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowStuckError,
    activity,
    compensation,
    workflow,
)

what, worker_id, database = sys.argv[1:]


def effect(name: str) -> None:
    with Path("effects.log").open("a") as log:
        log.write(f"{name}\n")


@activity
def reserve() -> None:
    effect("reserve")


@activity
def pay() -> None:
    effect("pay")


@activity
async def ship() -> str:
    effect("ship")
    print("shipping", flush=True)
    if what == "order":
        await trio.sleep_forever()
    return "TRACK-1"


@workflow
async def order(ctx: WorkflowContext) -> str:
    await reserve()
    await pay()
    return await ship()


@compensation
async def undo(name: str) -> None:
    effect(f"undo-{name}")
    if name == "one":
        print("undoing one", flush=True)
        if what == "rollback":
            await trio.sleep_forever()


@activity(compensation=undo)
async def do(name: str) -> None:
    effect(f"do-{name}")


@activity
async def fail() -> None:
    raise TerminalError("as asked")


@workflow
async def failing(ctx: WorkflowContext) -> None:
    await do("one")
    await do("two")
    await fail()


@activity
async def takes_the_process_down() -> None:
    effect("poison")
    os.kill(os.getpid(), signal.SIGKILL)


@workflow
async def poison(ctx: WorkflowContext) -> None:
    await takes_the_process_down()


@activity
async def work(seconds: float) -> None:
    await trio.sleep(seconds)


@workflow
async def neighbour(ctx: WorkflowContext, seconds: float) -> None:
    await work(seconds)
    await ctx.sleep(seconds)
    await work(seconds)


async def main() -> None:
    async with App(database, worker_id=worker_id or None, lease=60, shutdown_timeout=1) as app:
        if what in ("order", "finish-order"):
            handle = await app.start(order.options(id="order"))
            result = await handle.result(timeout=30)
            print(result, flush=True)
        elif what == "order-alone":
            print(await (await app.start(order)).result(timeout=50), flush=True)
        elif what in ("rollback", "finish-rollback"):
            try:
                await (await app.start(failing.options(id="failing"))).result(timeout=30)
            except WorkflowFailedError:
                print("failed", flush=True)
        elif what == "poison":
            neighbours = [
                await app.start(neighbour.options(id=f"neighbour-{number}"), 0.05 * number) for number in range(6)
            ]
            try:
                await (await app.start(poison.options(id="poison"))).result(timeout=30)
            except WorkflowStuckError:
                for each in neighbours:
                    await each.result(timeout=30)


if __name__ == "__main__":
    trio.run(main)
