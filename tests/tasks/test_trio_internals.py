"""The private parts of trio that we look at still mean what we think."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
import trio
import trio.testing

from trio_romancy._tasks.trio_internals import (
    closes_generator,
    has_deadline_within,
    is_cancelled,
    is_innermost,
    is_runnable,
)


async def test_a_task_is_runnable_if_and_only_if_it_goes_on_by_itself() -> None:
    tasks: dict[str, trio.lowlevel.Task] = {}

    async def wait(name: str, event: trio.Event) -> None:
        tasks[name] = trio.lowlevel.current_task()
        await event.wait()

    async def hold(name: str, event: trio.Event) -> None:
        tasks[name] = trio.lowlevel.current_task()
        async with trio.open_nursery() as inner:
            inner.start_soon(wait, f"child of {name}", event)

    event = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, "waiter", event)
        nursery.start_soon(hold, "holder", event)
        await trio.testing.wait_all_tasks_blocked()
        assert [is_runnable(task) for task in tasks.values()] == [False] * 3
        event.set()
        assert is_runnable(tasks["waiter"])
        assert not is_runnable(tasks["holder"])


async def test_a_parent_that_heard_of_a_cancellation_but_waits_for_its_children_is_not_runnable() -> None:
    release = trio.Event()
    tasks: list[trio.lowlevel.Task] = []

    async def stubborn() -> None:
        with trio.CancelScope(shield=True):
            await release.wait()

    async def parent() -> None:
        tasks.append(trio.lowlevel.current_task())
        async with trio.open_nursery() as inner:
            inner.start_soon(stubborn)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(parent)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
            assert not is_runnable(tasks[0])
            release.set()
            await trio.lowlevel.checkpoint()


async def test_a_scope_is_innermost_until_another_or_a_nursery_is_opened() -> None:
    task = trio.lowlevel.current_task()
    with trio.CancelScope() as scope:
        assert is_innermost(scope, task)
        with trio.CancelScope():  # noqa: ASYNC100
            assert not is_innermost(scope, task)
        async with trio.open_nursery():
            assert not is_innermost(scope, task)
        assert is_innermost(scope, task)


async def test_a_deadline_within_a_scope_counts_and_one_around_it_does_not() -> None:
    task = trio.lowlevel.current_task()
    with trio.move_on_after(60), trio.CancelScope() as scope:  # noqa: ASYNC100
        assert not has_deadline_within(scope, task)
        with trio.CancelScope() as plain:  # noqa: ASYNC100
            assert not has_deadline_within(scope, task)
            plain.deadline = trio.current_time() + 60
            assert has_deadline_within(scope, task)
        with trio.fail_after(60):  # noqa: ASYNC100
            assert has_deadline_within(scope, task)
            with trio.CancelScope(shield=True):  # which the deadline does not reach  # noqa: ASYNC100
                assert not has_deadline_within(scope, task)
                with trio.move_on_after(60):  # noqa: ASYNC100
                    assert has_deadline_within(scope, task)
        assert not has_deadline_within(scope, task)
    with trio.move_on_after(60):  # noqa: ASYNC100
        assert not has_deadline_within(scope, task)  # the scope has been left


async def test_a_deadline_of_a_parent_task_counts_and_a_task_elsewhere_has_none() -> None:
    seen: list[bool] = []

    async def look(scope: trio.CancelScope) -> None:
        seen.append(has_deadline_within(scope, trio.lowlevel.current_task()))

    with trio.move_on_after(60):
        async with trio.open_nursery() as elsewhere:
            with trio.CancelScope() as scope, trio.move_on_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(look, scope)
                elsewhere.start_soon(look, scope)
                await trio.testing.wait_all_tasks_blocked()
    assert seen == [True, False]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_task_that_closes_a_generator_is_known_and_so_are_its_children() -> None:
    seen: dict[str, bool] = {}

    async def look(name: str) -> None:
        seen[name] = closes_generator(trio.lowlevel.current_task())

    async def numbers(name: str) -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await look(name)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look, f"child of {name}")

    async for _ in numbers("left"):
        break
    gc.collect()
    await trio.testing.wait_all_tasks_blocked()
    async with aclosing(numbers("closed")) as closed:
        async for _ in closed:
            break
    assert seen == {"left": True, "child of left": True, "closed": False, "child of closed": False}


async def test_a_task_is_cancelled_if_a_scope_around_it_is_and_no_shield_is_in_between() -> None:
    task = trio.lowlevel.current_task()
    assert not is_cancelled(task)
    with trio.CancelScope() as scope:
        scope.cancel()
        assert is_cancelled(task)
        with trio.CancelScope(shield=True):
            assert not is_cancelled(task)
            await trio.lowlevel.checkpoint()
    assert not is_cancelled(task)
