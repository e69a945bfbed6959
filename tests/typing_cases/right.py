"""Calls that a type checker must accept, with the types that it must see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any, assert_type

from attrs import define

from trio_romancy import (
    Activity,
    App,
    ChildHandle,
    Compensation,
    EntryKind,
    Instance,
    Limits,
    Message,
    OutboxEvent,
    OutboxSettings,
    ReceivedEvent,
    RetryPolicy,
    Session,
    WebSettings,
    Workflow,
    WorkflowContext,
    WorkflowHandle,
    activity,
    compensation,
    current_activity,
    workflow,
)


@define
class Order:
    order_id: str
    amount: float


@define
class Receipt:
    number: int


@compensation
async def refund(order_id: str, amount: float) -> None: ...


@compensation(name="restock_items", retry=RetryPolicy.fixed(3, 1.0), timeout=timedelta(seconds=5))
def restock(order_id: str) -> None: ...


@activity
async def charge(order_id: str, amount: float, note: str = "") -> Receipt:
    return Receipt(1)


@activity(
    name="charge_slowly",
    compensation=refund,
    retry=RetryPolicy.exponential(10, 0.1, timedelta(seconds=30)),
    timeout=30,
    cancellable=True,
)
async def charge_with_options(order_id: str, amount: float) -> Receipt:
    return Receipt(2)


@activity
def count(order_id: str) -> int:
    return 3


@activity(compensation=restock)
def count_with_options(order_id: str) -> int:
    return 4


@workflow
async def short(ctx: WorkflowContext, order_id: str) -> int:
    return 5


async def own_function(number: int) -> str:
    return str(number)


@workflow
async def order_processing(ctx: WorkflowContext, order: Order, fast: bool = False) -> Receipt:
    assert_type(await charge(order.order_id, order.amount), Receipt)
    assert_type(await charge(order.order_id, amount=order.amount, note="again"), Receipt)
    assert_type(await charge_with_options(order.order_id, order.amount), Receipt)
    assert_type(await charge.options(id="charge:a", retry=RetryPolicy.no_retry(), timeout=2.5)("1", 2.0), Receipt)
    assert_type(await count(order.order_id), int)
    assert_type(await count_with_options(order.order_id), int)
    assert_type(await count.options(timeout=timedelta(seconds=1))(order.order_id), int)
    assert_type(await ctx.map(count, [order.order_id], at_once=10), list[int])
    assert_type(
        await ctx.map(charge.options(timeout=3), {"1"}, (2.0,), on_error="continue", id="charges"), list[Receipt]
    )
    assert_type(await ctx.map(partial(charge, note="again"), ["1"], [2.0]), list[Receipt])
    assert_type(await ctx.map(short, ["1"], at_once=10), list[int])
    assert_type(await ctx.map(own_function, [1, 2], at_once=None), list[str])
    with ctx.branch("eu"):
        await ctx.sleep(timedelta(days=30))
    with ctx.move_on_after(1.5) as scope:
        await ctx.sleep_until(ctx.now())
    assert_type(scope.cancelled_caught, bool)
    return Receipt(await count("1"))


@workflow(name="count_all")
async def counting(ctx: WorkflowContext, first: str, second: str = "2") -> dict[str, int]:
    return {first: await count(first), second: await count(second)}


@workflow
async def ordering_with_children(ctx: WorkflowContext, order: Order) -> Receipt:
    assert_type(await ctx.run(order_processing, order, fast=True), Receipt)
    assert_type(await ctx.run(counting.options(id="count-3"), "1"), dict[str, int])
    child = await ctx.start(counting, "1", second="3")
    assert_type(child, ChildHandle[dict[str, int]])
    assert_type(await child.result(), dict[str, int])
    return await order_processing(ctx, order)


kept: list[Activity[..., Receipt]] = [charge, charge_with_options, charge.options(timeout=1)]
counters: list[Activity[[str], int]] = [count, count_with_options, count.options(id="count:a")]
undone: list[Compensation[..., None]] = [restock]
known: list[Workflow[..., Any]] = [order_processing, counting]


@activity
async def through_session(order_id: str) -> int:
    session = current_activity().session
    assert_type(session, Session)
    assert_type(current_activity().attempt, int)
    assert_type(current_activity().idempotency_key, str)
    return assert_type(await session.run_sync(lambda session: len(session.new)), int)


async def paged(app: App) -> AsyncIterator[OutboxEvent]:
    page = await app.outbox.list()
    for event in page:
        yield event


@workflow
async def receiving(ctx: WorkflowContext) -> None:
    event = await ctx.wait_event("order.paid", data_type=Receipt, timeout=timedelta(days=1))
    assert_type(event, ReceivedEvent[Receipt])
    assert_type(event.data.number, int)
    assert_type((await ctx.wait_event("order.paid", data_type=list[Receipt])).data, list[Receipt])
    assert_type(await ctx.wait_event("order.paid"), ReceivedEvent[Any])
    paid = await ctx.wait_event("order.paid", data_type=Receipt, skip_invalid=True)
    assert_type(paid, ReceivedEvent[Receipt])
    assert_type(await ctx.receive("news", data_type=Receipt, skip_invalid=True), Message[Receipt])
    message = await ctx.receive("news", data_type=Receipt)
    assert_type(message, Message[Receipt])
    assert_type((await ctx.receive("news")).data, Any)


async def main() -> None:
    outbox = OutboxSettings(headers={"a": "b"}, content_mode="binary", max_age=timedelta(days=1))
    web = WebSettings(token="t", timeout=timedelta(seconds=2))
    limits = Limits(threads=3, max_payload=1000)
    async with App("orders.db", lease=timedelta(seconds=10), limits=limits, outbox=outbox, web=web) as app:
        assert_type(app, App)
        handle = await app.start(order_processing, Order("1", 2.0), fast=True)
        assert_type(handle, WorkflowHandle[Receipt])
        assert_type(await handle.result(), Receipt)
        assert_type(await handle.result(timeout=timedelta(seconds=1)), Receipt)
        named = await app.start(counting.options(id="count-1"), "1", second="3")
        assert_type(await named.result(), dict[str, int])
        assert_type(await app.start("count_all", {"first": "1"}, id="count-2"), WorkflowHandle[Any])
        assert_type(app.handle("count-1"), WorkflowHandle[Any])
        assert_type(app.handle("count-1", counting), WorkflowHandle[dict[str, int]])
        assert_type(app.handle("order-1", Receipt), WorkflowHandle[Receipt])
        assert_type(app.handle("count-1", dict[str, int]), WorkflowHandle[dict[str, int]])
        for instance in await app.list_instances(limit=5):
            assert_type(instance, Instance)
        found = await app.find_instances({"order_id": "1"}, page_token=None)
        assert_type(found.instances, list[Instance])
        assert_type(found[0], Instance)
        assert_type(found[1:], list[Instance])
        assert_type((await app.history("order-1", limit=5)).next_page_token, str | None)
        assert_type((await app.history("order-1"))[0].kind, EntryKind)
        assert_type([event async for event in paged(app)], list[OutboxEvent])
        assert_type(await app.cancel("count-1", "changed my mind"), bool)
