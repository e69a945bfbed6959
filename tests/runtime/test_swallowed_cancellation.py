"""Workflow code that catches each cancellation neither spins for ever nor keeps the app open, and is named."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
import trio

from trio_romancy import (
    App,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowStuckError,
    activity,
    compensation,
    workflow,
)
from trio_romancy._tasks.leavable import PATIENCE

Code = Callable[[WorkflowContext], Awaitable[None]]

undone: list[str] = []


@compensation
async def unbook(room: str) -> None:
    undone.append(room)


@activity(compensation=unbook)
async def book(room: str) -> None:
    pass


@activity
async def note() -> None:
    pass


@activity
async def stubborn() -> None:
    while True:
        try:
            await trio.sleep_forever()
        except BaseException:
            pass


async def operations(ctx: WorkflowContext) -> None:
    while True:
        try:
            await ctx.sleep(1)
        except:  # noqa: E722
            pass


async def activities(ctx: WorkflowContext) -> None:
    while True:
        try:
            await ctx.sleep(3600)
            await note()
        except BaseException:
            pass


async def waits_of_trio(ctx: WorkflowContext) -> None:
    while True:
        try:
            await trio.Event().wait()
        except BaseException:
            pass


async def behind_a_shield(ctx: WorkflowContext) -> None:
    with trio.CancelScope(shield=True):
        await operations(ctx)


async def within_scopes(ctx: WorkflowContext) -> None:
    async with trio.open_nursery():
        with trio.CancelScope():
            await operations(ctx)


async def in_a_child_task(ctx: WorkflowContext) -> None:
    async def child() -> None:
        with ctx.branch("child"):
            await operations(ctx)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)


async def in_a_nested_child_task(ctx: WorkflowContext) -> None:
    async def child(name: str) -> None:
        with trio.CancelScope(), ctx.branch(name):
            async with trio.open_nursery() as inner:
                inner.start_soon(grandchild, name)
                await operations(ctx)

    async def grandchild(name: str) -> None:
        with ctx.branch(f"{name}'s child"):
            await operations(ctx)

    async with trio.open_nursery() as nursery:
        for name in ("one", "two"):
            nursery.start_soon(child, name)


SWALLOWERS = [
    operations,
    activities,
    waits_of_trio,
    behind_a_shield,
    within_scopes,
    in_a_child_task,
    in_a_nested_child_task,
]

code: Code = operations


@contextmanager
def runs(what: Code) -> Iterator[None]:
    """Let the workflow below run that code."""
    global code
    before, code = code, what
    undone.clear()
    try:
        yield
    finally:
        code = before


@workflow
async def swallowing(ctx: WorkflowContext) -> None:
    await book("a room")
    await code(ctx)


@workflow
async def innocent(ctx: WorkflowContext) -> str:
    await ctx.sleep(10)
    return "done"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings that name an instance whose code was left behind."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelname == "WARNING" and "was left where it is" in record.getMessage()
    ]


@pytest.mark.parametrize("what", SWALLOWERS)
async def test_the_app_closes_and_the_instance_is_as_its_journal_says(
    what: Code, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    database = str(tmp_path / "romancy.db")
    with runs(what):
        async with App(database, shutdown_timeout=1) as app:
            handle = await app.start(swallowing.options(id="loops"))
            await trio.sleep(5)
            other = await app.start(innocent)
            assert await other.result() == "done"
            began = trio.current_time()
        assert trio.current_time() - began < 5
    assert 1 <= len(warnings(caplog)) <= 4
    assert all("of instance loops has caught" in text for text in warnings(caplog))
    assert undone == []
    async with App(database, worker=False) as app:
        instance = await app.get_instance(handle.instance_id)
        assert instance is not None and not instance.status.is_final


@pytest.mark.parametrize("what", [operations, waits_of_trio, in_a_child_task, in_a_nested_child_task, within_scopes])
async def test_a_cancel_request_ends_the_instance_and_its_rollback_runs(
    what: Code, caplog: pytest.LogCaptureFixture
) -> None:
    with runs(what):
        async with App(":memory:", shutdown_timeout=1) as app:
            handle = await app.start(swallowing.options(id="loops"))
            await trio.sleep(5)
            await handle.cancel("no longer needed")
            with pytest.raises(WorkflowCancelledError):
                await handle.result(timeout=60)
            assert undone == ["a room"]
            assert await (await app.start(innocent)).result() == "done"
    assert warnings(caplog)


async def test_a_block_of_its_own_that_never_ends_parks_the_instance_unharmed(caplog: pytest.LogCaptureFixture) -> None:
    async def swallows_its_own_timeout(ctx: WorkflowContext) -> None:
        with ctx.move_on_after(60):
            await operations(ctx)

    async def lets_it_pass(ctx: WorkflowContext) -> None:
        with ctx.move_on_after(60):
            while True:
                await ctx.sleep(1)

    async with App(":memory:", shutdown_timeout=1) as app:
        with runs(swallows_its_own_timeout):
            handle = await app.start(swallowing.options(id="loops"))
            with pytest.raises(WorkflowStuckError, match=r"catches trio\.Cancelled again and again"):
                await handle.result(timeout=600)
            assert undone == []
        with runs(lets_it_pass):
            await app.resume("loops")
            await handle.result(timeout=600)
    assert warnings(caplog)


async def test_code_that_unwinds_is_not_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    cleaned: list[int] = []

    async def cleans_up(ctx: WorkflowContext) -> None:
        try:
            await ctx.sleep(3600)
        finally:
            for number in range(300):
                try:
                    await note()
                except BaseException:
                    cleaned.append(number)
            with trio.CancelScope(shield=True):
                for _ in range(3000):
                    await trio.lowlevel.checkpoint()
            cleaned.append(-1)

    with runs(cleans_up):
        async with App(":memory:", shutdown_timeout=1) as app:
            await app.start(swallowing)
            await trio.sleep(5)
    assert cleaned == [*range(300), -1]
    assert not warnings(caplog)


async def test_many_scopes_that_are_cancelled_and_left_are_no_loop(caplog: pytest.LogCaptureFixture) -> None:
    """Such as of ``trio.aclose_forcefully``, which cancels a scope of its own for each call."""

    async def polls(ctx: WorkflowContext) -> None:
        for _ in range(PATIENCE + 1000):
            with trio.move_on_after(0):
                await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()

    with runs(polls):
        async with App(":memory:") as app:
            await (await app.start(swallowing)).result()
    assert not warnings(caplog)


async def test_a_block_with_much_to_close_is_no_loop(caplog: pytest.LogCaptureFixture) -> None:
    async def closes(ctx: WorkflowContext) -> None:
        with ctx.move_on_after(1):
            async with AsyncExitStack() as stack:
                for _ in range(2000):  # each is closed with a checkpoint
                    await stack.enter_async_context(trio.open_memory_channel[int](0)[0])
                await ctx.sleep(5)

    with runs(closes):
        async with App(":memory:") as app:
            await (await app.start(swallowing)).result()
    assert not warnings(caplog)


@pytest.mark.parametrize("beside", [False, True])
async def test_an_activity_that_swallows_cancellations_is_named(beside: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def swallows(ctx: WorkflowContext) -> None:
        if beside:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stubborn.options(id="stubborn:1"))
                await ctx.sleep(3600)
        else:
            await stubborn()

    with runs(swallows):
        async with App(":memory:", shutdown_timeout=1) as app:
            await app.start(swallowing.options(id="loops"))
            await trio.sleep(5)
    assert [text.split(" has caught")[0] for text in warnings(caplog)] == ["stubborn:1 of instance loops"]
