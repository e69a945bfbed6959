"""Calls that a type checker must accept, of the apps for trio, for asyncio and for synchronous code."""

from __future__ import annotations

from typing import Any, assert_type

from attrs import define

from trio_romancy import App, Instance, InstancePage, WorkflowContext, WorkflowHandle, aio, sync, workflow


@define
class Order:
    order_id: str


@define
class Receipt:
    number: int


@workflow
async def ordering(ctx: WorkflowContext, order: Order, *, note: str = "") -> Receipt:
    return Receipt(1)


async def on_trio(app: App) -> None:
    handle = await app.start(ordering, Order("1"), note="quick")
    assert_type(handle, WorkflowHandle[Receipt])
    assert_type(await handle.result(timeout=3), Receipt)
    assert_type(app.handle("1", ordering), WorkflowHandle[Receipt])
    async for instance in handle.watch():
        assert_type(instance, Instance)
    assert_type(await app.start("ordering", {"order_id": "1"}, id="1"), WorkflowHandle[Any])
    assert_type(await app.get_instance("1"), Instance | None)
    assert_type(await app.list_instances(limit=3), InstancePage)


async def on_asyncio() -> None:
    async with aio.App("orders.db", worker=False) as app:
        assert_type(app, aio.App)
        handle = await app.start(ordering, Order("1"), note="quick")
        assert_type(handle, aio.WorkflowHandle[Receipt])
        assert_type(handle.instance_id, str)
        assert_type(await handle.result(timeout=3), Receipt)
        assert_type(app.handle("1", ordering), aio.WorkflowHandle[Receipt])
        async for instance in handle.watch():
            assert_type(instance, Instance)
        assert_type(await app.start("ordering", {"order_id": "1"}, id="1"), aio.WorkflowHandle[Any])
        assert_type(await app.start(ordering.options(id="1"), Order("1")), aio.WorkflowHandle[Receipt])
        assert_type(await app.get_instance("1"), Instance | None)
        assert_type(await app.list_instances(limit=3), InstancePage)


def on_none() -> None:
    with sync.App("orders.db", worker=False) as app:
        assert_type(app, sync.App)
        handle = app.start(ordering, Order("1"), note="quick")
        assert_type(handle, sync.WorkflowHandle[Receipt])
        assert_type(handle.result(timeout=3), Receipt)
        assert_type(app.handle("1", ordering), sync.WorkflowHandle[Receipt])
        for instance in handle.watch():
            assert_type(instance, Instance)
        assert_type(app.start("ordering", {"order_id": "1"}, id="1"), sync.WorkflowHandle[Any])
        assert_type(app.get_instance("1"), Instance | None)
        assert_type(app.list_instances(limit=3), InstancePage)


async def ask(number: int, *, quickly: bool) -> str:
    return str(number)


async def in_an_activity() -> None:
    assert_type(await aio.call_asyncio(ask, 1, quickly=True), str)
