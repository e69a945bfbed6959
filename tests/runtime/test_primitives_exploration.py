"""Trio's limiters, conditions and channels between the tasks of a workflow survive a crash at every commit."""

from __future__ import annotations

import trio

from trio_romancy import App, WorkflowContext, activity, workflow
from trio_romancy.testing import How, explore_crashes


@activity(name="primitives_work")
async def work(what: str, seconds: float) -> str:
    """Take so long. No two activities of a test end at the same moment, of which either might be recorded first."""
    await trio.sleep(seconds)
    return what


@workflow(name="primitives_limiter")
async def through_a_limiter(ctx: WorkflowContext) -> list[str]:
    """Four tasks ask for two tokens at the same moment. Who gets one decides what is recorded."""
    limiter, order = trio.CapacityLimiter(2), list[str]()

    async def one(number: int) -> None:
        async with limiter:
            order.append(f"begins {number}")
            with ctx.branch(str(number)):
                await work(str(number), 1 + number)
                await ctx.sleep(30)  # longer than idle_timeout: the instance leaves memory
        order.append(f"ends {number}")

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(one, number)
    return order


@workflow(name="primitives_condition")
async def through_a_condition(ctx: WorkflowContext) -> list[str]:
    """Two tasks wait for a condition, and are notified together. The first of them takes what there is."""
    condition, stock, order = trio.Condition(), list[str](), list[str]()

    async def take(number: int) -> None:
        with ctx.branch(f"take-{number}"):
            async with condition:
                while not stock:
                    await condition.wait()
                what = stock.pop()
            order.append(f"{number} takes {await work(what, 1)}")

    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(take, number)
        with ctx.branch("give"):
            for number in range(2):
                await ctx.sleep(20)
                async with condition:
                    stock.append(f"part {number}")
                    condition.notify_all()
    return order


@workflow(name="primitives_channel")
async def through_a_channel(ctx: WorkflowContext) -> list[str]:
    """Three consumers share a channel, which is filled at once."""
    sender, receiver = trio.open_memory_channel[int](5)
    order = list[str]()

    async def consume(name: str) -> None:
        async with receiver.clone() as mine:
            with ctx.branch(name):
                async for number in mine:
                    order.append(f"{name} gets {number}")
                    await work(f"{name}-{number}", 1 + number)

    async with trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            nursery.start_soon(consume, name)
        await ctx.sleep(20)
        async with sender:
            for number in range(5):
                sender.send_nowait(number)
        receiver.close()
    return order


HOWS = (How.ACTOR_AFTER, How.WORKER_BEFORE)


def test_a_limiter_lets_the_same_tasks_in_after_every_crash() -> None:
    async def scenario(app: App) -> list[str]:
        return await (await app.start(through_a_limiter.options(id="i"))).result()

    result = explore_crashes(scenario, hows=HOWS).reference.result
    assert result[:2] == ["begins 0", "begins 1"]
    assert len(result) == 8


def test_a_condition_wakes_the_same_task_first_after_every_crash() -> None:
    async def scenario(app: App) -> list[str]:
        return await (await app.start(through_a_condition.options(id="i"))).result()

    result = explore_crashes(scenario, hows=HOWS).reference.result
    assert [line.partition(" takes ")[2] for line in result] == ["part 0", "part 1"]


def test_a_channel_gives_the_same_consumers_the_same_after_every_crash() -> None:
    async def scenario(app: App) -> list[str]:
        return await (await app.start(through_a_channel.options(id="i"))).result()

    result = explore_crashes(scenario, hows=HOWS).reference.result
    assert {line[0] for line in result} == {"a", "b", "c"}
    assert sorted(int(line[-1]) for line in result) == [*range(5)]
