"""A deadline of trio's own around an operation is refused at once: it would begin again on each replay."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing

from trio_romancy import App, RomancyError, WorkflowContext, WorkflowStuckError, activity, workflow


@activity(name="quick_in_time")
async def quick(value: str) -> str:
    return value


@activity(name="slow_in_time")
async def slow(seconds: float) -> str:
    await trio.sleep(seconds)
    return "done"


@workflow(name="child_in_time")
async def child(ctx: WorkflowContext) -> int:
    return 1


@contextmanager
def deadline_set_later() -> Iterator[None]:
    with trio.CancelScope() as scope:
        scope.deadline = trio.current_time() + 5
        yield


@contextmanager
def deadline_around_plain_scope() -> Iterator[None]:
    with trio.move_on_after(5), trio.CancelScope():
        yield


SCOPES: list[Callable[[], Any]] = [
    lambda: trio.move_on_after(5),
    lambda: trio.fail_after(5),
    lambda: trio.move_on_at(trio.current_time() + 5),
    lambda: trio.fail_at(trio.current_time() + 5),
    lambda: trio.CancelScope(deadline=trio.current_time() + 5),
    lambda: trio.CancelScope(deadline=trio.current_time() + 5, shield=True),
    deadline_set_later,
    deadline_around_plain_scope,
]


@pytest.mark.parametrize("scope", SCOPES)
async def test_an_operation_within_a_deadline_of_trio_is_refused_before_it_begins(scope: Callable[[], Any]) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await quick("before")
        with scope():
            await slow(1)

    async with App(":memory:") as app:
        handle = await app.start(flow.options(id="x"))
        with pytest.raises(WorkflowStuckError) as caught:
            await handle.result()
        assert "instance 'x': activity 'slow_in_time:1' is inside a trio scope with a deadline" in str(caught.value)
        assert "use ctx.move_on_after or ctx.fail_after" in str(caught.value)
        assert [entry.operation_id for entry in await app.history("x")] == ["quick_in_time:1"]


async def _timeout(ctx: WorkflowContext) -> None:
    with ctx.move_on_after(1):
        await ctx.wait_event("never")


@pytest.mark.parametrize(
    "operation",
    [
        lambda ctx: ctx.sleep(1),
        lambda ctx: ctx.wait_event("never"),
        lambda ctx: ctx.subscribe("c"),
        lambda ctx: ctx.publish("c", 1),
        lambda ctx: ctx.start(child),
        lambda ctx: ctx.run(child),
        _timeout,
    ],
)
async def test_every_kind_of_operation_is_refused(operation: Callable[[WorkflowContext], Awaitable[object]]) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        with trio.move_on_after(5):
            await operation(ctx)

    async with App(":memory:") as app:
        handle = await app.start(flow.options(id="x"))
        with pytest.raises(WorkflowStuckError, match="is inside a trio scope with a deadline"):
            await handle.result()
        assert not await app.history("x")


async def test_the_deadline_of_a_parent_task_is_refused_too_and_so_is_one_that_is_caught() -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        async def call() -> None:
            with ctx.branch("b"):
                await quick("a")

        with suppress(RomancyError, ExceptionGroup), trio.move_on_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
        return "went on"

    async with App(":memory:") as app:
        handle = await app.start(flow)
        with pytest.raises(WorkflowStuckError, match="'b/quick_in_time:1' is inside a trio scope"):
            await handle.result()


async def test_no_other_scope_is_mistaken_for_one() -> None:
    runs = 0

    @workflow
    async def flow(ctx: WorkflowContext) -> list[str]:
        nonlocal runs
        runs += 1
        results = []
        with ctx.move_on_after(3600):
            results.append(await quick("durable"))
            with ctx.fail_after(1800), trio.CancelScope():
                results.append(await quick("nested"))
        with trio.CancelScope(shield=True), trio.move_on_after(math.inf):
            results.append(await quick("no deadline"))
        with trio.move_on_after(5):
            with trio.CancelScope(shield=True):
                results.append(await quick("shielded"))
            with suppress(trio.WouldBlock):
                trio.Lock().acquire_nowait()  # no operation
        async with trio.open_nursery() as nursery:
            nursery.start_soon(quick.options(id="in a task"), "x")
        await ctx.sleep(60)  # the instance leaves memory, and is replayed
        return results

    expected = ["durable", "nested", "no deadline", "shielded"]
    with trio.fail_after(7200):  # the program's own, around all of the app
        async with App(":memory:") as app:
            with trio.move_on_after(3600):
                assert await (await app.start(flow)).result(timeout=1800) == expected
    assert runs == 2


async def test_the_deadline_of_an_attempt_and_of_the_shutdown_are_not_the_workflow_s() -> None:
    @activity(timeout=60)
    async def bounded() -> str:
        with trio.fail_after(10):
            return await quick("plain call")  # an activity calls another one as a plain function

    began = trio.Event()

    @activity
    async def long() -> str:
        began.set()
        await trio.sleep(20)
        return "finished"

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await bounded() + await long()

    async with App(":memory:", shutdown_timeout=60) as app:
        handle = await app.start(flow.options(id="x"))
        await began.wait()
    # The shutdown waited for the activity, with a deadline of its own, and parked nothing.
    assert handle.instance_id == "x"


async def test_the_parked_instance_goes_on_once_its_code_is_fixed() -> None:
    is_fixed = False

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await quick("before")
        with ctx.move_on_after(5) if is_fixed else trio.move_on_after(5):
            await ctx.wait_event("paid")
            return "paid"
        return "reminded"

    async with App(":memory:") as app:
        handle = await app.start(flow.options(id="x"))
        with pytest.raises(WorkflowStuckError):
            await handle.result()
        is_fixed = True
        await app.resume("x")
        assert await app.handle("x").result() == "reminded"
