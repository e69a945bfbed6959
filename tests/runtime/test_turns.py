"""Workflows of many tasks: their order, and what it costs."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
import trio

from trio_romancy import App, RetryPolicy, WorkflowContext, WorkflowFailedError, activity, workflow
from trio_romancy.testing import How, explore_crashes, run


@activity
async def last(seconds: float) -> None:
    await trio.sleep(seconds)


@workflow
async def fan_out_and_wait(ctx: WorkflowContext, count: int) -> int:
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(last.options(id=f"last:{number}"), number)
    await ctx.wait_event("go")
    return count


async def fan_out_and_replay(count: int) -> None:
    async with App(":memory:") as app:
        handle = await app.start(fan_out_and_wait, count)
        await trio.sleep(count + 60)  # the instance leaves memory
        await app.send_event("go", None)
        assert await handle.result() == count


def operations(count: int) -> int:
    """Return how many operations of Python the runtime executes for a workflow of so many branches, with its replay."""
    executed = 0

    def trace(frame: FrameType, what: str, argument: Any) -> Any:
        nonlocal executed
        if "/trio_romancy/_runtime/" not in frame.f_code.co_filename.replace("\\", "/"):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        executed += what == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run(fan_out_and_replay, count)
    finally:
        sys.settrace(before)
    return executed


def test_an_activity_costs_the_same_beside_few_and_beside_many_when_it_runs_and_on_replay() -> None:
    operations(3)
    few, some, many = operations(10), operations(30), operations(90)
    assert (many - some) / 60 < 1.03 * (some - few) / 20


# -- crashes -----------------------------------------------------------------------------------------------------------


@activity
async def take_turns(name: str) -> str:
    await trio.sleep(1 + ord(name) / 1000)  # so no two of them end at the same time
    return name


@workflow
async def limited(ctx: WorkflowContext) -> list[str]:
    limiter, order = trio.CapacityLimiter(2), []

    async def one(name: str) -> None:
        async with limiter:
            order.append(name)
            await take_turns.options(id=name)(name)
            await ctx.sleep(ord(name), id=f"sleep:{name}")  # the instance leaves memory

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(one, name)
    return order


@workflow
async def notified(ctx: WorkflowContext) -> list[str]:
    condition, order = trio.Condition(), []

    async def wait(name: str) -> None:
        async with condition:
            await condition.wait()
            order.append(await take_turns.options(id=name)(name))

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(wait, name)
        await ctx.sleep(20)
        async with condition:
            condition.notify(2)
        await ctx.sleep(20)
        async with condition:
            condition.notify_all()
    return order


@workflow
async def consumed(ctx: WorkflowContext) -> list[str]:
    send, receive = trio.open_memory_channel[str](1)
    order = []

    async def consume(name: str, channel: trio.MemoryReceiveChannel[str]) -> None:
        async with channel:
            async for value in channel:
                order.append(name + value)
                await take_turns.options(id=value)(value)
                await ctx.sleep(10 * int(value), id=f"sleep:{value}")

    async with trio.open_nursery() as nursery, send:
        for name in "abc":
            nursery.start_soon(consume, name, receive.clone())
        receive.close()
        for value in "1234":
            await send.send(value)
    return order


@pytest.mark.parametrize("which", [limited, notified, consumed])
def test_the_order_of_tasks_outlives_every_crash(which: Any) -> None:
    async def scenario(app: App) -> Any:
        return await (await app.start(which)).result()

    exploration = explore_crashes(scenario, hows=[How.WORKER_BEFORE], idle_timeout=1)
    assert exploration.points >= 15


# -- activities that end together --------------------------------------------------------------------------------------


@activity(cancellable=True)
async def wait_to_be_cancelled(name: str) -> str:
    await trio.sleep_forever()
    return name


@activity(retry=RetryPolicy.fixed(2, 1000))
async def fail_to_wait(name: str) -> None:
    raise ConnectionError(name)


@workflow
async def cancel_all(ctx: WorkflowContext) -> None:
    async with trio.open_nursery() as nursery:
        for name in "abcdef":
            which: Any = wait_to_be_cancelled if name in "abc" else fail_to_wait
            nursery.start_soon(which.options(id=name), name)
        await ctx.sleep(5)
        nursery.cancel_scope.cancel()


async def test_activities_that_one_cancellation_ends_are_recorded_in_the_order_of_their_tasks() -> None:
    """Trio tells them of it in the order of a set, and then runs them forwards or backwards, at random."""
    async with App(":memory:") as app:
        orders = set()
        for _ in range(20):
            handle = await app.start(cancel_all)
            with pytest.raises(WorkflowFailedError, match="a cancellation came before the next attempt"):
                await handle.result()
            journal = await app.history(handle.instance_id)
            orders.add("".join(entry.operation_id for entry in journal if len(entry.operation_id) == 1)[-6:])
    assert orders == {"abcdef"}


# -- waits that begin again --------------------------------------------------------------------------------------------


@workflow
async def take_in_turn(ctx: WorkflowContext) -> list[str]:
    got = []
    await ctx.subscribe("numbers", "direct")

    async def take(name: str, pause: float) -> None:
        with ctx.branch(name):
            await ctx.sleep(pause)
            number = (await ctx.receive("numbers")).data
            got.append(f"{name}{number}")

    async with trio.open_nursery() as nursery:
        for name, pause in (("a", 3), ("b", 1), ("c", 2)):
            nursery.start_soon(take, name, pause)
    return got


@pytest.mark.parametrize("idle_timeout", [1, 1000])
async def test_the_wait_that_began_first_gets_the_first_message_also_if_the_instance_was_away(
    idle_timeout: float,
) -> None:
    async with App(":memory:", idle_timeout=idle_timeout) as app:
        handle = await app.start(take_in_turn)
        for number in range(3):
            await trio.sleep(60)
            await app.publish("numbers", number, to=handle.instance_id)
        assert await handle.result() == ["b0", "c1", "a2"]
