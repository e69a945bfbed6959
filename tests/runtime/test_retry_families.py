"""A retried parent keeps what its children have done, and runs those again that failed with it."""

from __future__ import annotations

import collections
from datetime import timedelta
from typing import Any

import pytest
import trio

from trio_romancy import (
    App,
    ChildWorkflowError,
    EntryKind,
    RetryPolicy,
    RomancyError,
    Status,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    compensation,
    workflow,
)
from trio_romancy.testing import How, explore_crashes

ran: collections.Counter[str] = collections.Counter()
broken: set[str] = set()


@pytest.fixture(autouse=True)
def nothing_has_run() -> None:
    ran.clear()
    broken.clear()
    broken.add("b")


@compensation(name="kin_undo")
async def undo(what: str) -> None:
    ran[f"undo {what}"] += 1


@activity(name="kin_do", retry=RetryPolicy.no_retry())
async def do(what: str, seconds: float = 0.0) -> str:
    await trio.sleep(seconds)
    if what in broken:
        raise ConnectionError(what)
    ran[what] += 1
    return what


@activity(name="kin_undoable", compensation=undo)
async def undoable(what: str) -> str:
    ran[what] += 1
    return what


@workflow(name="kin_child")
async def child(ctx: WorkflowContext, what: str, seconds: float = 0.0) -> str:
    if seconds:
        await do(f"{what} begins")
        await ctx.sleep(seconds)
    return await do(what)


@workflow(name="kin_nest")
async def nest(ctx: WorkflowContext, whats: list[str]) -> list[str]:
    return [await ctx.run(child, what) for what in whats]


@workflow(name="kin_chain")
async def chain(ctx: WorkflowContext, what: str, lives: int) -> str:
    await do(f"{what} {lives}")
    if lives > 1:
        ctx.recur(what, lives - 1)
    return what


@workflow(name="kin_undoable_child")
async def undoable_child(ctx: WorkflowContext, what: str) -> str:
    return await undoable(what)


async def fails(app: App, id: str = "p") -> None:
    with pytest.raises(WorkflowFailedError):
        await app.handle(id).result(timeout=10_000)


async def status(app: App, id: str) -> Status:
    found = await app.get_instance(id)
    assert found is not None
    return found.status


async def retried(app: App, id: str = "p") -> Any:
    broken.clear()
    assert await app.retry(id)
    return await app.handle(id).result(timeout=10_000)


# -- what stays as it is -----------------------------------------------------------------------------------------------


async def test_completed_children_and_grandchildren_without_compensations_stay_completed(database: str) -> None:
    @workflow(name="kin_book")
    async def book(ctx: WorkflowContext) -> list[Any]:
        return [
            await ctx.run(nest, ["a1", "a2"]),
            await ctx.run(chain, "c", 3),
            await ctx.run(nest, ["a3", "b"]),
            await ctx.run(child, "d"),
        ]

    async with App(database) as app:
        await app.start(book.options(id="p"))
        await fails(app)
        for id in ("p/kin_nest:1", "p/kin_nest:1/kin_child:1", "p/kin_chain:1#3"):
            assert await status(app, id) is Status.COMPLETED, id
        undone = [entry for entry in await app.history("p") if entry.kind is EntryKind.COMPENSATION_COMPLETED]
        assert [entry.payload for entry in undone] == [{"had_nothing": True}] * 2
        assert await retried(app) == [["a1", "a2"], "c", ["a3", "b"], "d"]
        assert EntryKind.COMPENSATION_COMPLETED not in [entry.kind for entry in await app.history("p")]
    assert set(ran.values()) == {1}


async def test_a_child_with_something_to_undo_anywhere_below_is_rolled_back() -> None:
    @workflow(name="kin_deep")
    async def deep(ctx: WorkflowContext, what: str) -> str:
        await ctx.run(child, f"{what} too")
        return await ctx.run(undoable_child, what)

    @workflow(name="kin_mixed")
    async def mixed(ctx: WorkflowContext) -> None:
        await ctx.run(child, "a")
        await ctx.run(deep, "x")
        await do("b")

    async with App(":memory:") as app:
        await app.start(mixed.options(id="p"))
        await fails(app)
        assert ran == {"a": 1, "x too": 1, "x": 1, "undo x": 1}
        assert await status(app, "p/kin_child:1") is Status.COMPLETED
        assert await status(app, "p/kin_deep:1") is Status.CANCELLED
        assert await status(app, "p/kin_deep:1/kin_child:1") is Status.COMPLETED
        with pytest.raises(RomancyError, match="'p/kin_deep:1' cannot be retried, because something of it"):
            await app.retry("p")
        assert await status(app, "p") is Status.FAILED


async def test_a_grandchild_that_still_runs_is_cancelled_so_its_parent_is_rolled_back() -> None:
    @workflow(name="kin_leaves_one")
    async def leaves_one(ctx: WorkflowContext) -> None:
        await ctx.start(child, "late", 1000.0)

    @workflow(name="kin_grandparent")
    async def grandparent(ctx: WorkflowContext) -> None:
        await ctx.run(leaves_one)
        await do("b")

    async with App(":memory:") as app:
        await app.start(grandparent.options(id="p"))
        await fails(app)
        assert await status(app, "p/kin_leaves_one:1") is Status.CANCELLED
        assert await status(app, "p/kin_leaves_one:1/kin_child:1") is Status.CANCELLED
        with pytest.raises(RomancyError, match="cannot be retried"):
            await app.retry("p")
    assert "late" not in ran


async def test_completed_children_that_were_purged_do_not_keep_their_parent_from_a_retry() -> None:
    @workflow(name="kin_purged")
    async def flow(ctx: WorkflowContext) -> list[str]:
        return [await ctx.run(child, "a"), await do("b")]

    async with App(":memory:") as app:
        await app.start(flow.options(id="p"))
        await fails(app)
        await trio.sleep(100)
        assert await app.purge(older_than=timedelta(seconds=10), status=Status.COMPLETED) == 1
        assert await retried(app) == ["a", "b"]
    assert ran == {"a": 1, "b": 1}


# -- what runs again ---------------------------------------------------------------------------------------------------


@workflow(name="kin_side_by_side")
async def side_by_side(ctx: WorkflowContext) -> dict[str, str]:
    results: dict[str, str] = {}

    async def one(what: str, seconds: float) -> None:
        with ctx.branch(what):
            await ctx.sleep(seconds / 100)
            results[what] = await ctx.run(child, what, seconds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, "a", 1.0)
        nursery.start_soon(one, "b", 50.0)
        nursery.start_soon(one, "c", 1000.0)
    return results


@pytest.mark.parametrize("idle_timeout", [0.0, 10.0])
async def test_siblings_that_were_cancelled_because_one_failed_go_on_from_where_they_were(idle_timeout: float) -> None:
    async with App(":memory:", idle_timeout=idle_timeout) as app:
        await app.start(side_by_side.options(id="p"))
        await fails(app)
        assert await status(app, "p/c/kin_child:1") is Status.CANCELLED
        assert await retried(app) == {"a": "a", "b": "b", "c": "c"}
    assert set(ran.values()) == {1}


async def test_also_if_it_was_the_parents_own_code_that_failed() -> None:
    @workflow(name="kin_own_code")
    async def flow(ctx: WorkflowContext) -> str:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def beside() -> None:
                with ctx.branch("beside"):
                    await ctx.run(child, "a", 1000.0)

            await ctx.sleep(5)
            if broken:
                raise ValueError("a bug")
        return "done"

    async with App(":memory:") as app:
        await app.start(flow.options(id="p"))
        await fails(app)
        assert await retried(app) == "done"
    assert ran == {"a begins": 1, "a": 1}


async def test_children_that_were_only_started_and_failed_or_still_ran_run_again() -> None:
    @workflow(name="kin_starter")
    async def starter(ctx: WorkflowContext) -> list[str]:
        failing = await ctx.start(child, "b")
        running = await ctx.start(child, "late", 1000.0)
        await ctx.sleep(10)
        if broken:
            raise ValueError("a bug")
        return [await failing.result(), await running.result()]

    async with App(":memory:") as app:
        await app.start(starter.options(id="p"))
        await fails(app)
        assert await status(app, "p/kin_child:2") is Status.CANCELLED
        assert await retried(app) == ["b", "late"]
    assert ran == {"b": 1, "late": 1, "late begins": 1}


async def test_a_child_that_was_too_slow_is_not_run_again_because_that_is_its_outcome() -> None:
    @workflow(name="kin_impatient")
    async def impatient(ctx: WorkflowContext) -> str:
        with ctx.move_on_after(20):
            await ctx.run(child, "slow", 100.0)
        return await do("b")

    async with App(":memory:") as app:
        await app.start(impatient.options(id="p"))
        await fails(app)
        assert await retried(app) == "b"
        assert await status(app, "p/kin_child:1") is Status.CANCELLED
    assert ran == {"slow begins": 1, "b": 1}


async def test_a_child_that_others_have_cancelled_is_not_run_again() -> None:
    @workflow(name="kin_cancelled")
    async def flow(ctx: WorkflowContext) -> str:
        try:
            return await ctx.run(child, "a", 100.0)
        except ChildWorkflowError:
            raise ValueError("no child") from None

    async with App(":memory:") as app:
        await app.start(flow.options(id="p"))
        await trio.sleep(10)
        await app.cancel("p/kin_child:1", "not wanted")
        await fails(app)
        with pytest.raises(RomancyError, match="its child 'p/kin_child:1' is cancelled and cannot be retried"):
            await app.retry("p")
        assert [await status(app, "p"), await status(app, "p/kin_child:1")] == ["failed", "cancelled"]


@pytest.mark.parametrize("again", ["fails", "works"])
async def test_a_parent_is_retried_while_its_child_is_being_retried(again: str) -> None:
    @workflow(name="kin_waits")
    async def flow(ctx: WorkflowContext) -> list[str]:
        return [await ctx.run(child, "a"), await ctx.run(child, "b", 100.0)]

    async with App(":memory:") as app:
        await app.start(flow.options(id="p"))
        await fails(app)
        if again == "works":
            broken.clear()
        assert await app.retry("p/kin_child:2")
        await trio.sleep(0.1)
        assert await app.retry("p")
        if again == "works":
            assert await app.handle("p").result(timeout=1000) == ["a", "b"]
        else:
            await fails(app)
            assert await retried(app) == ["a", "b"]
    assert ran == {"a": 1, "b": 1, "b begins": 1}


# -- wherever something crashes ----------------------------------------------------------------------------------------


@workflow(name="kin_explored")
async def explored(ctx: WorkflowContext) -> list[Any]:
    first = await ctx.run(nest, ["a"])
    results = ["", ""]

    async def one(number: int, what: str, seconds: float) -> None:
        with ctx.branch(str(number)):
            results[number] = await ctx.run(child, what, seconds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, 0, "b", 20.0)
        nursery.start_soon(one, 1, "c", 1000.0)
    return [first, *results]


async def a_family_that_is_retried(app: App) -> object:
    broken.add("b")
    await app.start(explored.options(id="p"))
    await fails(app)
    assert await status(app, "p/kin_nest:1") is Status.COMPLETED
    broken.clear()
    await app.retry("p")  # False, if the answer to a first call was lost
    return await app.handle("p").result()


@pytest.mark.long
@pytest.mark.parametrize("how", How)
def test_a_retried_family_converges_wherever_something_crashes(how: How) -> None:
    exploration = explore_crashes(a_family_that_is_retried, hows=[how])
    assert exploration.points > 20
