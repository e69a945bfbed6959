"""An async generator that is left before its end is closed outside of its workflow: it can run no operation."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest
import trio

from trio_romancy import App, WorkflowContext, activity, workflow

released: list[str] = []


@activity
async def release_cursor(name: str) -> None:
    released.append(name)


async def pages(_: WorkflowContext) -> AsyncGenerator[int, None]:
    try:
        for number in range(9):
            yield number
    finally:
        await release_cursor("cursor")


async def pages_with_task(_: WorkflowContext) -> AsyncIterator[int]:
    try:
        for number in range(9):
            yield number
    finally:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(release_cursor, "cursor")


async def pages_with_sleep(ctx: WorkflowContext) -> AsyncIterator[int]:
    try:
        for number in range(9):
            yield number
    finally:
        await ctx.sleep(1)


@pytest.mark.parametrize(
    ("generator", "what"),
    [
        (pages, "activity 'release_cursor' is called by an async generator that was left before its end"),
        (pages_with_task, "activity 'release_cursor' is called by an async generator that was left before its end"),
        (pages_with_sleep, "ctx.sleep is called outside of its workflow function"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_what_a_left_generator_calls_is_refused_and_the_log_names_the_cure(
    generator: Callable[[WorkflowContext], AsyncIterator[int]], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> int:
        async for page in generator(ctx):
            if page == 2:
                break
        gc.collect()
        await ctx.sleep(60)  # the instance leaves memory, and is replayed
        return page

    released.clear()
    async with App(":memory:") as app:
        handle = await app.start(flow)
        assert await handle.result() == 2
        assert [entry.operation_id for entry in await app.history(handle.instance_id)] == ["sleep:1", ""]
    assert not released
    logged = [record for record in caplog.records if record.name == "trio.async_generator_errors"]
    assert len(logged) == 2  # by the first run and by the replay
    assert logged[0].exc_info and what in str(_leaf(logged[0].exc_info[1]))
    assert "contextlib.aclosing" in str(_leaf(logged[0].exc_info[1]))


def _leaf(error: Any) -> BaseException:
    return _leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def test_a_generator_that_is_closed_in_order_runs_its_operations_once() -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> int:
        async with aclosing(pages(ctx)) as numbers:
            async for page in numbers:
                if page == 2:
                    break
        await ctx.sleep(60)
        return page

    released.clear()
    async with App(":memory:") as app:
        handle = await app.start(flow)
        assert await handle.result() == 2
        ids = [entry.operation_id for entry in await app.history(handle.instance_id)]
    assert (released, ids) == (["cursor"], ["release_cursor:1", "sleep:1", ""])


async def test_outside_of_workflows_the_plain_function_is_called() -> None:
    released.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(release_cursor, "plain")
    assert released == ["plain"]
