"""A shop with workflows, and instances of them in all conditions. ``python -m tests.cli.shop DATABASE`` makes them."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

import trio
import trio_asyncio
from attrs import frozen
from sqlalchemy import Connection, insert, update

from trio_romancy import (
    App,
    RetryPolicy,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    compensation,
    current_activity,
    workflow,
)
from trio_romancy._storage.open import open_database
from trio_romancy._storage.sql import tables

USES = ("80", "40", "json", "once")
"""What changes an instance is tried on one for each of these."""

UUID = "0198c0de-1111-7abc-8abc-0123456789ab"
"""The longest id that is usual: one in a column of 40 is to stay in one piece."""


@frozen
class Order:
    order_id: str
    is_good: bool = True
    note: str = ""


@compensation(name="cli_refund")
async def refund(order_id: str, result: str) -> None:
    pass


@activity(name="cli_charge", compensation=refund)
async def charge(order_id: str) -> str:
    current_activity().send_event("order.charged", {"order_id": order_id})
    return f"PAY-{order_id}"


@activity(name="cli_ship", retry=RetryPolicy.fixed(2, 0.01))
async def ship(order: Order) -> str:
    if not order.is_good:
        raise ConnectionError("the carrier does not answer,\nnor does \x1b[31manybody")
    return f"TRACK-{order.order_id}"


@workflow(name="cli_order")
async def sell(ctx: WorkflowContext, order: Order) -> str:
    await charge(order.order_id)
    return await ship(order)


@workflow(name="cli_wait")
async def wait(ctx: WorkflowContext, order_id: str) -> str:
    event = await ctx.wait_event("order.paid", subject=order_id, data_type=str)
    return str(event.data)


@workflow(name="cli_send")
async def send(ctx: WorkflowContext, order_id: str) -> str:
    return await ship(Order(order_id, is_good=False))  # and there is nothing to undo


def make() -> App:
    """The app of a worker."""
    return App(os.environ["TRIO_ROMANCY_DATABASE"], worker_id="worker-of-the-shop")


client = App(":memory:", worker=False)
not_an_app = 17


def fails() -> App:
    raise RuntimeError("no configuration")


async def fill(database: str) -> None:
    """Instances that completed, failed, wait, and are stuck; events that were given up; a worker that is dead."""
    async with App(database) as app:
        await (await app.start(sell.options(id="order-good"), Order("good", note="für [bold]Ännchen[/bold]"))).result()
        with_uuid = await app.start(sell.options(id=UUID), Order("u"))
        await with_uuid.result()
        bad = await app.start(sell.options(id="order-bad"), Order("bad", is_good=False))
        with suppress(WorkflowFailedError):
            await bad.result()
        for use in USES:
            with suppress(WorkflowFailedError):
                await (await app.start(send.options(id=f"failed-{use}"), use)).result()
            for name in ("wait", "cancel", "hang", "stuck"):
                await app.start(wait.options(id=f"{name}-{use}"), f"{name}-{use}")
        while app.statistics().worker.supervisor.idle < 4 * len(USES):  # type: ignore[union-attr]  # noqa: ASYNC110
            await trio.sleep(0.01)  # nothing tells when an instance begins to wait
    async with trio_asyncio.open_loop(), open_database(database) as opened:
        await opened.run(_spoil)


def _spoil(connection: Connection) -> None:
    error = '{"error_type": "trio_romancy.NonDeterminismError", "message": "other code", "traceback": "", '
    stuck: dict[str, Any] = {"status": "stuck", "wake_at": None, "error": error + '"uncompensated": []}'}
    is_stuck = tables.instances.c.instance_id.startswith("stuck-")
    connection.execute(update(tables.instances).where(is_stuck).values(stuck))
    given_up = {"status": "failed", "due_at": None, "attempts": 100, "error": '"the broker answers 503"'}
    connection.execute(update(tables.outbox).values(given_up))
    dead = {
        "worker_id": "worker-that-died",
        "epoch": 1,
        "batch": 0,
        "expires_at": 2_000_000,
        "joined_at": 1_000_000,
        "process": '{"host": "far-away", "pid": 7, "started": "", "token": ""}',
        "version": "2024-06-01",
    }
    connection.execute(insert(tables.workers).values(dead))


if __name__ == "__main__":
    trio.run(fill, sys.argv[1])
