"""Ids, order and determinism."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from trio_romancy import (
    App,
    NonDeterminismError,
    OperationIdError,
    RetryPolicy,
    Status,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowStuckError,
    activity,
    workflow,
)
from trio_romancy.testing import Crash, How, run_with_crashes


@activity
async def echo(value: str) -> str:
    return value


@activity
async def after(seconds: float, value: str) -> str:
    await trio.sleep(seconds)
    return value


async def test_sequential_operations_are_counted_by_name(database: str) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await echo("a")
        await after(0, "b")
        await echo("c")
        await ctx.sleep(1)
        with ctx.branch("eu"):
            await echo("d")
        await echo.options(id="mine")("e")

    async with App(database) as app:
        handle = await app.start(flow)
        await handle.result()
        ids = [entry.operation_id for entry in await app.history(handle.instance_id)]
    assert ids == ["echo:1", "after:1", "echo:2", "sleep:1", "eu/echo:1", "mine", ""]


@pytest.mark.parametrize(
    ("use", "how"),
    [
        ("activity", r"name the call with \.options\(id=\.\.\.\)"),
        ("child", r"name the call with \.options\(id=\.\.\.\)"),
        ("sleep", r"name the call with id=\.\.\."),
        ("event", r"name the call with id=\.\.\."),
        ("timeout", r"name the call with id=\.\.\."),
        ("random", "draw in the parent task"),
    ],
)
async def test_a_child_task_without_id_or_branch_is_told_which_to_add(database: str, use: str, how: str) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        async def child() -> None:
            if use == "activity":
                await echo("x")
            elif use == "sleep":
                await ctx.sleep(1)
            elif use == "child":
                await ctx.run(flow)
            elif use == "event":
                await ctx.wait_event("e")
            elif use == "random":
                ctx.uuid4()
            else:
                with ctx.move_on_after(1):
                    pass

        with pytest.RaisesGroup(pytest.RaisesExc(OperationIdError, match=rf"ctx\.branch\('name'\).* {how}$")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
        return "told"

    async with App(database) as app:
        assert await (await app.start(flow)).result() == "told"


@pytest.mark.parametrize("twice", ["id", "branch"])
async def test_the_same_id_or_branch_twice_is_an_error(database: str, twice: str) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        with pytest.raises(OperationIdError, match=r"second time|before"):
            for _ in range(2):
                if twice == "id":
                    await echo.options(id="same")("x")
                else:
                    with ctx.branch("same"):
                        await echo("x")
        return "told"

    async with App(database) as app:
        assert await (await app.start(flow)).result() == "told"


async def test_an_uncaught_operation_id_error_fails_the_workflow(database: str) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await echo.options(id="same")("x")
        await echo.options(id="same")("x")

    async with App(database) as app:
        with pytest.raises(WorkflowFailedError, match="used a second time"):
            await (await app.start(flow)).result()


async def test_random_uuid_and_time_are_the_same_on_replay(database: str) -> None:
    seen: list[list[Any]] = []

    @workflow
    async def flow(ctx: WorkflowContext) -> list[str]:
        drawn: list[Any] = []
        seen.append(drawn)
        drawn += [ctx.random.random(), str(ctx.uuid4()), ctx.now(), ctx.is_replaying]
        await after(5, "x")
        drawn += [ctx.random.random(), ctx.now()]
        with ctx.branch("b"):
            drawn.append(ctx.random.random())
        await ctx.sleep(100)
        drawn += [ctx.random.random(), ctx.now()]
        return []

    async with App(database, idle_timeout=1) as app:
        await (await app.start(flow)).result()
    first, second = seen  # the long sleep made it passive, and a replay woke it
    assert (first.pop(3), second.pop(3)) == (False, True)
    assert second[: len(first)] == first
    assert len({str(value) for value in second}) == len(second)


def test_code_that_depends_on_which_came_first_sees_the_same_again(new_database: Callable[[], str]) -> None:
    @workflow
    async def race(ctx: WorkflowContext) -> list[str]:
        order: list[str] = []
        first = trio.Event()

        async def run(name: str, seconds: float) -> None:
            with ctx.branch(name):
                order.append(await after(seconds, name))
                first.set()
                order.append(await after(seconds, name.upper()))

        async def observe() -> None:
            await first.wait()
            order.append(f"saw {len(order)}")
            await echo.options(id=f"first was {order[0]}")("x")

        async with trio.open_nursery() as nursery:
            for name, seconds in (("a", 3.1), ("b", 2.3), ("c", 1.0)):
                nursery.start_soon(run, name, seconds)
            nursery.start_soon(observe)
        await ctx.sleep(1000)
        return order

    async def scenario(app: App) -> Any:
        return await (await app.start(race)).result()

    undisturbed = run_with_crashes(scenario, new_database=new_database)
    assert undisturbed.result[:2] == ["c", "saw 1"]
    # Long after everything is recorded, so that all of it is replayed.
    for commit in range(undisturbed.commits - 3, undisturbed.commits + 1):
        for how in (How.ACTOR_BEFORE, How.WORKER_BEFORE, How.WORKER_AFTER):
            run = run_with_crashes(scenario, [Crash(commit, how)], new_database=new_database)
            assert run.result == undisturbed.result
            assert not run.broken_guarantees


async def test_an_error_is_the_same_on_the_first_run_and_on_replay(database: str) -> None:
    seen: list[tuple[Any, ...]] = []

    @activity(retry=RetryPolicy.fixed(2, 1))
    async def fails() -> None:
        raise LookupError("nothing there")

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        try:
            await fails()
        except Exception as error:
            cause = (type(error.__cause__), type(error.__context__))
            seen.append((type(error), str(error), *vars(error).values(), *cause))
        await ctx.sleep(100)

    async with App(database, idle_timeout=1) as app:
        await (await app.start(flow)).result()
    first, second = seen
    assert first == second
    assert "LookupError: nothing there" in first[1]
    assert "in fails" in str(first)


@pytest.mark.parametrize("change", ["other activity", "missing", "other kind", "fewer", "ends early"])
async def test_code_that_does_not_fit_the_journal_is_parked_and_goes_on_when_it_fits_again(
    database: str, change: str
) -> None:
    fits = True
    ran: list[str] = []

    @activity
    async def step(name: str) -> str:
        ran.append(name)
        return name

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await step("one")
        if fits or change not in ("missing", "ends early"):
            if not fits and change == "other activity":
                await echo("two")
            elif not fits and change == "other kind":
                await ctx.sleep(1, id="step:2")
            elif fits or change != "fewer":
                await step("two")
        elif change == "ends early":
            return "early"
        await ctx.sleep(100)
        return await step("three")

    async with App(database, idle_timeout=1) as app:
        handle = await app.start(flow)
        await trio.sleep(50)
        fits = False
        with pytest.raises(WorkflowStuckError, match="NonDeterminismError") as caught:
            await handle.result()
        assert "'step:2'" in caught.value.message
        instance = await app.get_instance(handle.instance_id)
        assert instance is not None
        assert instance.status is Status.STUCK
        assert instance.error is not None
        assert instance.error.error_type == f"trio_romancy.{NonDeterminismError.__name__}"
        fits = True
        assert await app.resume(handle.instance_id)
        assert await handle.result() == "three"
        assert not await app.resume(handle.instance_id)
    assert ran == ["one", "two", "three"]


async def test_workflow_code_cannot_catch_being_parked(database: str) -> None:
    fits = True
    caught: list[str] = []

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await echo("one")
        try:
            await (echo if fits else after.options(id="other"))(*(("two",) if fits else (0, "two")))
        except Exception as error:
            caught.append(repr(error))
        await ctx.sleep(100)
        return "done"

    async with App(database, idle_timeout=1) as app:
        handle = await app.start(flow)
        await trio.sleep(50)
        fits = False
        with pytest.raises(WorkflowStuckError):
            await handle.result()
    assert not caught
