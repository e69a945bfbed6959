"""Instances run one after another in the same task, and none finds what the one before it has left there."""

from __future__ import annotations

from contextvars import ContextVar

import pytest
import trio
import trio.testing

from trio_romancy import App, WorkflowCancelledError, WorkflowContext, WorkflowFailedError, activity, workflow
from trio_romancy._tasks.pool import PooledTask

from ..support.probe import limit_free_tasks, probe

seen: list[tuple[trio.lowlevel.Task, str, str]] = []
colour: ContextVar[str] = ContextVar("colour", default="none")


@activity
async def nothing() -> None:
    pass


@workflow
async def paint(ctx: WorkflowContext, new: str) -> None:
    task = trio.lowlevel.current_task()
    seen.append((task, task.name, colour.get()))
    colour.set(new)
    await nothing()


@workflow
async def sleepy(ctx: WorkflowContext) -> None:
    task = trio.lowlevel.current_task()
    seen.append((task, task.name, colour.get()))
    await ctx.sleep(3600)


@workflow
async def leaky(ctx: WorkflowContext) -> None:
    seen.append((trio.lowlevel.current_task(), "", ""))
    trio.CancelScope().__enter__()


@pytest.fixture(autouse=True)
def forget() -> None:
    seen.clear()


async def test_the_next_instance_runs_in_the_same_task_under_its_own_name_and_in_a_context_of_its_own() -> None:
    async with App(":memory:") as app:
        for new in ("red", "blue"):
            await (await app.start(paint.options(id=new), new)).result()
            await trio.testing.wait_all_tasks_blocked()
    (first, first_name, first_colour), (second, second_name, second_colour) = seen
    assert first is second
    assert (first_name, second_name) == ("red", "blue")
    assert (first_colour, second_colour) == ("none", "none")


async def test_a_cancellation_ends_with_the_instance_that_it_was_meant_for() -> None:
    async with App(":memory:") as app:
        handle = await app.start(sleepy)
        await trio.testing.wait_all_tasks_blocked()
        await handle.cancel()
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        await trio.testing.wait_all_tasks_blocked()
        await (await app.start(paint, "red")).result()
    assert seen[0][0] is seen[1][0]


async def test_instances_at_the_same_time_run_in_tasks_of_their_own() -> None:
    async with App(":memory:") as app:
        handles = [await app.start(sleepy) for _ in range(3)]
        for handle in handles:
            await handle.result()
    assert len({task for task, _, _ in seen}) == 3


async def test_a_task_in_which_a_cancel_scope_was_left_open_runs_no_other_instance() -> None:
    async with App(":memory:") as app:
        with pytest.raises(WorkflowFailedError, match="Cancel scope stack corrupted"):
            await (await app.start(leaky)).result()
        await trio.testing.wait_all_tasks_blocked()
        await (await app.start(paint, "red")).result()
    assert seen[-1][0] is not seen[0][0]


async def test_a_free_task_ends_with_the_app() -> None:
    async with trio.open_nursery() as nursery:
        async with App(":memory:") as app:
            await (await app.start(paint, "red")).result()
        assert not nursery.child_tasks
    assert seen[0][0].parent_nursery is not None
    assert not seen[0][0].parent_nursery.child_tasks


async def test_only_so_many_tasks_wait_for_an_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_free_tasks(2, monkeypatch)
    async with App(":memory:") as app:
        for handle in [await app.start(sleepy) for _ in range(5)]:
            await handle.result()
        await trio.testing.wait_all_tasks_blocked()
        assert probe(app).free_tasks == 2


async def test_a_seat_whose_task_is_cancelled_is_free_no_more() -> None:
    free: list[PooledTask[str]] = []

    async def sit() -> None:
        await PooledTask(free).next()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sit)
        await trio.testing.wait_all_tasks_blocked()
        assert len(free) == 1
        nursery.cancel_scope.cancel()
        assert not free  # at once: whoever has an instance to run would give it to a task that ends
