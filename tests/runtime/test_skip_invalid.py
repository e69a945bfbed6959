"""Waits that pass over events and messages whose data do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from attrs import frozen

from trio_romancy import App, EventTimeoutError, MessageTimeoutError, WorkflowContext, workflow
from trio_romancy.testing import explore_crashes


@frozen
class Payment:
    amount: float


@workflow(name="skips_events")
async def waiting(ctx: WorkflowContext, id: str | None, timeout: float | None) -> Any:
    try:
        with ctx.branch("eu"):
            event = await ctx.wait_event("paid", data_type=Payment, skip_invalid=True, id=id, timeout=timeout)
    except EventTimeoutError:
        return "late"
    return event.data.amount


@workflow(name="skips_messages")
async def receiving(ctx: WorkflowContext, timeout: float | None) -> Any:
    await ctx.subscribe("news")
    try:
        message = await ctx.receive("news", data_type=Payment, skip_invalid=True, id="m", timeout=timeout)
    except MessageTimeoutError:
        return "late"
    return message.data.amount


IDS = {
    None: ["eu/wait_event:1", "eu/wait_event:2", "eu/wait_event:3"],
    "a": ["a", "a:2", "a:3"],
}


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("idle_timeout", [0.0, 1e6])
async def test_the_first_event_that_fits_is_returned(database: str, id: str | None, idle_timeout: float) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        handle = await app.start(waiting.options(id="x"), id, None)
        await app.send_event("paid", {"amount": "much"})
        await trio.sleep(10)
        await app.send_event("paid", None)
        await app.send_event("paid", {"amount": 2.5})
        assert await handle.result() == 2.5
        entries = [entry.operation_id for entry in await app.history("x") if entry.operation_id]
        assert entries == IDS[id]


async def test_what_is_passed_over_does_not_prolong_the_timeout() -> None:
    async with App(":memory:", idle_timeout=1e6) as app:
        began = trio.current_time()
        handles: list[Any] = [await app.start(waiting, None, 100), await app.start(receiving, 100)]
        for _ in range(4):
            await trio.sleep(24)
            await app.send_event("paid", "nothing")
            await app.publish("news", "nothing")
        assert await handles[0].result() == "late"
        assert await handles[1].result() == "late"
        assert 100 <= trio.current_time() - began < 101


async def test_the_first_message_that_fits_is_returned(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(receiving.options(id="x"), None)
        await trio.sleep(1)
        for data in (1, {"amount": 1.0, "more": 1}, {"amount": 7.0}):
            await app.publish("news", data)
        assert await handle.result() == 7.0
        entries = [entry.operation_id for entry in await app.history("x") if entry.operation_id]
        assert entries == ["subscribe:1", "m", "m:2", "m:3"]


def test_it_is_the_same_wherever_the_worker_dies() -> None:
    async def scenario(app: App) -> object:
        handle = await app.start(waiting.options(id="x"), "a", None)
        for data in ("one", "two", {"amount": 3.0}):
            await app.send_event("paid", data)
        return await handle.result()

    assert explore_crashes(scenario).points > 5
