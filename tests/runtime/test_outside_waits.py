"""A workflow that waits for what is not in its journal is named in the log, with the place in its code."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from trio_romancy import App, WorkflowContext, activity, workflow


@pytest.fixture
def named(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """The lines of this file at which workflows were found to wait."""
    caplog.set_level(logging.WARNING, "trio_romancy.workflow")
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert record.__dict__["instance_id"] == "x"
            place = record.getMessage().partition(" waits at ")[2].partition(" for something that is no operation")[0]
            file, _, line = place.rpartition(":")
            assert file == __file__
            found.append(Path(file).read_text("utf-8").splitlines()[int(line) - 1].strip())

    handler = Collect()
    logging.getLogger("trio_romancy.workflow").addHandler(handler)
    yield found
    logging.getLogger("trio_romancy.workflow").removeHandler(handler)


@activity
async def work_inside() -> None:
    await trio.sleep(3)


async def play(which: Any, **options: Any) -> None:
    async with App(":memory:", **options) as app:
        with trio.move_on_after(3600):
            await (await app.start(which.options(id="x"))).result()


@workflow
async def sleeps_between_operations(ctx: WorkflowContext) -> None:
    await ctx.sleep(1)
    await trio.sleep(1)
    await work_inside()
    await trio.to_thread.run_sync(time.sleep, 0.3)


@workflow
async def sleeps_between_activities(ctx: WorkflowContext) -> None:
    await work_inside()
    await trio.sleep(5)
    await work_inside()


@workflow
async def sleeps_in_a_child_task(ctx: WorkflowContext) -> None:
    async def child() -> None:
        await trio.sleep(0.1)
        await work_inside.options(id="a")()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
        await work_inside()


@workflow
async def waits_for_each_other(ctx: WorkflowContext) -> None:
    one, other = trio.Event(), trio.Event()

    async def child() -> None:
        await one.wait()
        other.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
        await other.wait()


async def test_a_sleep_and_a_thread_are_named_once_each(named: list[str]) -> None:
    await play(sleeps_between_operations)
    assert named == ["await trio.sleep(1)", "await trio.to_thread.run_sync(time.sleep, 0.3)"]


async def test_a_wait_between_activities_alone_is_named_after_a_while(named: list[str]) -> None:
    await play(sleeps_between_activities)
    assert named == ["await trio.sleep(5)"]


async def test_a_short_wait_of_a_child_task_is_named(named: list[str]) -> None:
    await play(sleeps_in_a_child_task)
    assert named == ["await trio.sleep(0.1)"]


async def test_tasks_that_wait_for_each_other_for_ever_are_named(named: list[str]) -> None:
    await play(waits_for_each_other, shutdown_timeout=1)
    assert sorted(named) == ["await one.wait()", "await other.wait()"]


@workflow
async def waits_inside(ctx: WorkflowContext) -> None:
    """Waits in every way that a workflow may."""
    limiter, event, condition = trio.CapacityLimiter(1), trio.Event(), trio.Condition()
    send, receive = trio.open_memory_channel[int](0)

    async def limited(name: str) -> None:
        async with limiter:
            await work_inside.options(id=name)()

    async def wait_for_event() -> None:
        await event.wait()
        async with condition:
            condition.notify()

    async def receive_all() -> None:
        async for _ in receive:
            pass

    async def wait_for_condition() -> None:
        async with condition:
            await condition.wait()

    await work_inside()
    async with trio.open_nursery() as nursery, send:
        for name in "abc":
            nursery.start_soon(limited, name)
        nursery.start_soon(wait_for_event)
        nursery.start_soon(receive_all)
        nursery.start_soon(wait_for_condition)
        await ctx.sleep(20)
        await send.send(1)
        event.set()
        with ctx.move_on_after(5):
            await ctx.wait_event("never")
        await ctx.map(work_once, ["d", "e"])


async def work_once(_: str) -> None:
    await work_inside()


async def test_what_a_workflow_may_wait_for_is_not_named(named: list[str]) -> None:
    await play(waits_inside)
    assert named == []


@workflow
async def waits_for_its_timeout(ctx: WorkflowContext) -> None:
    send, receive = trio.open_memory_channel[int](0)
    with send, receive, ctx.move_on_after(60):
        async for _ in receive:
            pass


async def test_a_task_that_only_the_end_of_a_timeout_wakes_is_not_named(named: list[str]) -> None:
    await play(waits_for_its_timeout)
    assert named == []


@workflow
async def reads_from_its_generator(ctx: WorkflowContext) -> None:
    @trio.as_safe_channel
    async def numbers() -> AsyncGenerator[int, None]:
        with ctx.branch("numbers"):
            for number in range(3):
                await work_inside()
                yield number

    order = trio.testing.Sequencer()

    async def second() -> None:
        async with order(1):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(second)
        async with order(0), numbers() as channel:
            async for _ in channel:
                await work_inside()


@pytest.mark.skipif(not hasattr(trio, "as_safe_channel"), reason="this trio has none")
async def test_tasks_that_wait_for_each_other_through_a_generator_or_in_a_sequence_are_not_named(
    named: list[str],
) -> None:
    await play(reads_from_its_generator)
    assert named == []
