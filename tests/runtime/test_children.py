"""Workflows that run other workflows: awaited or not, failing, cancelled, and rolled back with their parent."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio

from trio_romancy import (
    ActivityInfo,
    App,
    ChildWorkflowError,
    EntryKind,
    Hooks,
    InstanceExistsError,
    RomancyError,
    Status,
    TerminalError,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowInfo,
    WorkflowStuckError,
    activity,
    compensation,
    workflow,
)

from ..support.probe import probe

log: list[str] = []


@pytest.fixture(autouse=True)
def empty_log() -> None:
    log.clear()


@compensation(name="children_undo")
async def undo(what: str) -> None:
    log.append(f"undo {what}")


@activity(name="children_do", compensation=undo)
async def do(what: str) -> str:
    log.append(what)
    return what


@activity(name="children_break")
async def break_down() -> None:
    raise TerminalError("broken")


@workflow(name="child")
async def child(ctx: WorkflowContext, what: str, seconds: float = 0.0, end: str = "well") -> str:
    await do(f"{what} 1")
    if seconds:
        await ctx.sleep(seconds)
    await do(f"{what} 2")
    if end == "badly":
        await break_down()
    return f"{what} done"


@workflow(name="parent")
async def parent(ctx: WorkflowContext, end: str, seconds: float = 0.0) -> list[str]:
    await do("before")
    results = [await ctx.run(child, "first", seconds), await ctx.run(child, "second", seconds)]
    await do("after")
    if end == "badly":
        await break_down()
    if end == "slowly":
        await ctx.sleep(1000)
    return results


async def test_a_parent_gets_what_its_children_return(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(parent.options(id="p"), "well")
        assert await handle.result() == ["first done", "second done"]
        made = await app.get_instance("p/child:2")
        assert made is not None
        assert (made.parent_id, made.status, made.output) == ("p", Status.COMPLETED, "second done")
        kinds = [(entry.operation_id, entry.kind) for entry in await app.history("p")]
    assert kinds[1:5] == [
        ("child:1", EntryKind.CHILD_STARTED),
        ("child:1/result", EntryKind.CHILD_ENDED),
        ("child:2", EntryKind.CHILD_STARTED),
        ("child:2/result", EntryKind.CHILD_ENDED),
    ]


@pytest.mark.parametrize("idle_timeout", [0.0, 10.0])
async def test_a_parent_waits_for_slow_children_also_when_it_is_not_in_memory(
    database: str, idle_timeout: float
) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        handle = await app.start(parent.options(id="p"), "well", 3600.0)
        await trio.sleep(5)
        waiting = await app.get_instance("p")
        assert waiting is not None
        assert (waiting.status, waiting.worker_id is None) == (Status.WAITING, idle_timeout == 0.0)
        assert await handle.result() == ["first done", "second done"]


async def test_when_the_parent_fails_everything_is_undone_in_reverse_across_parent_and_children(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(parent.options(id="p"), "badly")
        with pytest.raises(WorkflowFailedError, match="broken"):
            await handle.result()
        assert log == [
            *["before", "first 1", "first 2", "second 1", "second 2", "after"],
            *["undo after", "undo second 2", "undo second 1", "undo first 2", "undo first 1", "undo before"],
        ]
        rolled_back = await app.get_instance("p/child:1")
        assert rolled_back is not None and rolled_back.status is Status.CANCELLED
        assert rolled_back.error is not None and "its parent, instance 'p', is rolled back" in rolled_back.error.message


async def test_when_the_parent_is_cancelled_completed_children_are_undone(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(parent.options(id="p"), "slowly")
        await trio.sleep(100)
        assert await handle.cancel("enough")
        with pytest.raises(WorkflowCancelledError, match="enough"):
            await handle.result()
    undone = ["undo after", "undo second 2", "undo second 1", "undo first 2", "undo first 1", "undo before"]
    assert log[6:] == undone


async def test_when_the_parent_is_cancelled_the_child_that_runs_is_cancelled_with_it(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(parent.options(id="p"), "well", 3600.0)
        await trio.sleep(100)
        assert await handle.cancel("enough")
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        first = await app.get_instance("p/child:1")
        assert first is not None and first.status is Status.CANCELLED
    assert log == ["before", "first 1", "undo first 1", "undo before"]


@workflow(name="careful_parent")
async def careful_parent(ctx: WorkflowContext) -> dict[str, Any]:
    try:
        await ctx.run(child, "bad", 0.0, "badly")
    except ChildWorkflowError as error:
        return {name: getattr(error, name) for name in ("operation_id", "child_id", "workflow", "status", "message")}
    return {}


async def test_a_child_that_fails_has_undone_itself_and_its_parent_hears_how(database: str) -> None:
    async with App(database) as app:
        found = await (await app.start(careful_parent.options(id="p"))).result()
    assert found.pop("message") == "activity 'children_break:1' failed and must not be retried: " + (
        "trio_romancy.TerminalError: broken"
    )
    assert found == {
        "operation_id": "child:1/result",
        "child_id": "p/child:1",
        "workflow": "child",
        "status": "failed",
    }
    assert log == ["bad 1", "bad 2", "undo bad 2", "undo bad 1"]


@workflow(name="starter")
async def starter(ctx: WorkflowContext, wait: bool) -> str:
    handle = await ctx.start(child, "slow", 3600.0)
    await do("started")
    return await handle.result() if wait else handle.child_id


async def test_a_child_that_is_not_awaited_outlives_its_parent(database: str) -> None:
    async with App(database) as app:
        child_id = await (await app.start(starter, False)).result()
        assert log in (["slow 1", "started"], ["started", "slow 1"], ["started"])
        assert await app.handle(child_id).result() == "slow done"


async def test_a_child_that_was_started_can_be_awaited_later(database: str) -> None:
    async with App(database) as app:
        assert await (await app.start(starter, True)).result() == "slow done"


@workflow(name="asking_twice")
async def asking_twice(ctx: WorkflowContext, at_once: bool) -> list[str]:
    handle = await ctx.start(child, "slow", 100.0)
    results = []

    async def ask(id: str | None) -> None:
        results.append(await handle.result(id=id))

    if at_once:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "first")
            nursery.start_soon(ask, "second")
    else:
        await ask(None)
        await ask(None)
    return results


@pytest.mark.parametrize("idle_timeout", [0.0, 10.0])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_child_can_be_awaited_more_than_once(database: str, at_once: bool, idle_timeout: float) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        assert await (await app.start(asking_twice, at_once)).result(timeout=1000) == ["slow done", "slow done"]


@workflow(name="failing_starter")
async def failing_starter(ctx: WorkflowContext) -> None:
    await ctx.start(child, "a", 3600.0)
    await ctx.start(child, "b", 3600.0)
    await ctx.sleep(100)
    await do("mine")
    await break_down()


async def test_when_the_parent_fails_children_that_it_only_started_are_rolled_back_too(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(failing_starter.options(id="p"))
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        for number in (1, 2):
            found = await app.get_instance(f"p/child:{number}")
            assert found is not None and found.status is Status.CANCELLED
    assert sorted(log[:2]) == ["a 1", "b 1"]
    assert log[2:4] == ["mine", "undo mine"]
    assert sorted(log[4:]) == ["undo a 1", "undo b 1"]  # both are told at once


@pytest.mark.parametrize("limits", [{"max_running": 1}, {"max_resident": 1}])
async def test_a_parent_that_waits_for_the_rollback_of_children_leaves_them_room(
    database: str, limits: dict[str, int]
) -> None:
    """However many such parents there are, or they would wait for ever."""
    async with App(database, **limits) as app:  # type: ignore[arg-type]
        handles = [await app.start(parent.options(id=id), "badly", 10.0) for id in "pqr"]
        for handle in handles:
            with pytest.raises(WorkflowFailedError):
                await handle.result(timeout=1000)
    undone = [entry for entry in log if entry.startswith("undo")]
    assert len(undone) == len(log) / 2 == 18


@compensation(name="children_undo_slowly")
async def undo_slowly() -> None:
    await trio.sleep(20)


@activity(name="children_do_lastingly", compensation=undo_slowly)
async def do_lastingly() -> None: ...


@workflow(name="lasting_child")
async def lasting_child(ctx: WorkflowContext) -> None:
    await do_lastingly()


@workflow(name="lasting_parent")
async def lasting_parent(ctx: WorkflowContext) -> None:
    await ctx.run(lasting_child)
    await ctx.sleep(1000)


async def test_a_parent_that_waits_for_the_rollback_of_a_child_does_not_hold_its_worker_up(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(lasting_parent.options(id="p"))
        await trio.sleep(10)
        assert await handle.cancel()
        await trio.sleep(1)
        probe(app).stop()
        await trio.sleep(1)
        found = await app.get_instance("p")
        assert found is not None and (found.status, found.worker_id) == (Status.COMPENSATING, None)


@workflow(name="impatient_parent")
async def impatient_parent(ctx: WorkflowContext) -> str:
    with ctx.move_on_after(100) as scope:
        await ctx.run(child, "late", 3600.0)
    return "moved on" if scope.cancelled_caught else "waited"


async def test_a_timeout_around_a_child_cancels_it_and_waits_for_its_end(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(impatient_parent.options(id="p"))
        assert await handle.result() == "moved on"
        found = await app.get_instance("p/child:1")
        assert found is not None and found.status is Status.CANCELLED
        kinds = [entry.kind for entry in await app.history("p")]
    assert log == ["late 1", "undo late 1"]
    assert kinds == [
        EntryKind.CHILD_STARTED,
        EntryKind.TIMEOUT_FIRED,
        EntryKind.CHILD_ENDED,
        EntryKind.WORKFLOW_COMPLETED,
    ]


@workflow(name="wide_parent")
async def wide_parent(ctx: WorkflowContext, width: int, bad: int) -> list[str]:
    results = [""] * width

    async def one(number: int) -> None:
        with ctx.branch(str(number)):
            results[number] = await ctx.run(child, str(number), 100.0, "badly" if number == bad else "well")

    async with trio.open_nursery() as nursery:
        for number in range(width):
            nursery.start_soon(one, number)
    return results


async def test_children_at_the_same_time(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(wide_parent, 5, -1)
        assert await handle.result() == [f"{number} done" for number in range(5)]


async def test_a_child_that_fails_takes_its_siblings_with_it(database: str) -> None:
    async with App(database) as app:
        with pytest.raises(WorkflowFailedError) as caught:
            await (await app.start(wide_parent, 3, 1)).result()
        assert caught.value.error_type == "trio_romancy.ChildWorkflowError"
        page = await app.list_instances(workflow="child")
        assert sorted(one.status for one in page.instances) == ["cancelled", "cancelled", "failed"]
    done = [entry for entry in log if not entry.startswith("undo")]
    assert sorted(log[len(done) :]) == sorted(f"undo {entry}" for entry in done)


@workflow(name="named_parent")
async def named_parent(ctx: WorkflowContext, name: str, what: str) -> str:
    try:
        return await ctx.run(child.options(id=name), what)
    except InstanceExistsError as error:
        return str(error)


async def test_a_child_can_have_an_id_of_its_own_which_must_be_free(database: str) -> None:
    async with App(database) as app:
        assert await (await app.start(named_parent.options(id="p"), "mine", "x")).result() == "x done"
        assert [entry.operation_id for entry in await app.history("p")][:2] == ["mine", "mine/result"]
        taken = await (await app.start(named_parent.options(id="q"), "mine", "x")).result()
        assert taken.startswith("instance 'mine' exists already with another parent, or none")
        await (await app.start(child.options(id="alone"), "alone")).result()
        assert "another input" in await (await app.start(named_parent, "alone", "x")).result()


@pytest.mark.parametrize("length", [245, 255])
@pytest.mark.parametrize("end", ["well", "badly"])
async def test_an_id_of_its_own_can_be_as_long_as_any(database: str, length: int, end: str) -> None:
    async with App(database) as app:
        handle = await app.start(long_parent, "c" * length, end)
        if end == "well":
            assert await handle.result() == "long done"
        else:
            with pytest.raises(WorkflowFailedError, match="broken"):
                await handle.result()
            assert log == ["mine", "long 1", "long 2", "undo long 2", "undo long 1", "undo mine"]


@workflow(name="long_parent")
async def long_parent(ctx: WorkflowContext, id: str, end: str) -> str:
    await do.options(id=f"d{id[1:]}")("mine")
    result = await ctx.run(child.options(id=id), "long")
    if end == "badly":
        await break_down()
    return result


class Told(Hooks):
    """What hooks are told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def workflow_started(self, info: WorkflowInfo) -> None:
        self.told.append(f"{info.instance_id} started in {info.trace}")

    def workflow_completed(self, info: WorkflowInfo) -> None:
        self.told.append(f"{info.instance_id} completed")

    def workflow_cancelled(self, info: WorkflowInfo) -> None:
        self.told.append(f"{info.instance_id} cancelled")

    def compensation_completed(self, info: ActivityInfo) -> None:
        self.told.append(f"{info.instance_id} {info.operation_id}")

    def trace_context(self, workflow: str, instance_id: str) -> dict[str, str]:
        return {"of": instance_id}


async def test_hooks_are_told_of_children_and_their_rollback_in_the_trace_of_the_parent(database: str) -> None:
    hooks = Told()
    async with App(database, hooks=[hooks]) as app:
        with pytest.raises(WorkflowFailedError):
            await (await app.start(parent.options(id="p"), "badly")).result()
    assert hooks.told == [
        "p started in {'of': 'p'}",
        "p/child:1 started in {'of': 'p'}",
        "p/child:1 completed",
        "p/child:2 started in {'of': 'p'}",
        "p/child:2 completed",
        "p children_do:2/compensation",
        "p/child:2 children_do:2/compensation",
        "p/child:2 children_do:1/compensation",
        "p/child:2 cancelled",
        "p child:2/compensation",
        "p/child:1 children_do:2/compensation",
        "p/child:1 children_do:1/compensation",
        "p/child:1 cancelled",
        "p child:1/compensation",
        "p children_do:1/compensation",
    ]


@workflow(name="wrong_parent")
async def wrong_parent(ctx: WorkflowContext, how: str) -> None:
    if how == "input":
        await ctx.run(child, 1)  # type: ignore[arg-type]
    else:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ctx.run, child, "x")


@pytest.mark.parametrize(
    ("how", "message"),
    [("input", r"workflow 'child' does not take this input: \$\.what"), ("id", "'child' is called in a child task")],
)
async def test_what_is_wrong_with_a_child_is_said_and_nothing_is_started(how: str, message: str) -> None:
    async with App(":memory:") as app:
        with pytest.raises(WorkflowFailedError, match=message):
            await (await app.start(wrong_parent, how)).result()
        assert (await app.list_instances(workflow="child")).instances == []


@workflow(name="chain_that_fails")
async def chain_that_fails(ctx: WorkflowContext, turns: int) -> str:
    if turns:
        ctx.recur(turns - 1)
    await fail_at_first()
    return "mended"


@activity(name="children_fail_at_first")
async def fail_at_first() -> None:
    if "mended" not in log:
        raise TerminalError("not yet")


async def test_the_last_of_a_chain_is_retried_by_the_id_of_any() -> None:
    async with App(":memory:") as app:
        handle = await app.start(chain_that_fails.options(id="c"), 2)
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        log.append("mended")
        assert await app.retry("c")
        assert await app.handle("c").result() == "mended"
        assert not await app.retry("c#2")


@workflow(name="parent_that_goes_on")
async def parent_that_goes_on(ctx: WorkflowContext) -> None:
    with contextlib.suppress(ChildWorkflowError):
        await ctx.run(chain_that_fails, 0)
    await ctx.sleep(1000)


async def test_a_child_is_not_retried_by_itself_while_its_parent_has_not_ended() -> None:
    """What it did then would not be undone with the parent, which has heard that it failed."""
    async with App(":memory:") as app:
        handle = await app.start(parent_that_goes_on.options(id="p"))
        await trio.sleep(100)
        with pytest.raises(RomancyError, match="is a child of instance 'p', which has not ended"):
            await app.retry("p/chain_that_fails:1")
        await handle.result()
        log.append("mended")
        assert await app.retry("p/chain_that_fails:1")
        assert await app.handle("p/chain_that_fails:1").result() == "mended"


async def test_an_instance_that_has_the_id_of_a_child_is_not_taken_for_it() -> None:
    async with App(":memory:") as app:
        await (await app.start(child.options(id="p/child:1"), "stranger")).result()
        with pytest.raises(WorkflowStuckError, match="'p/child:1' exists already with another parent, or none"):
            await (await app.start(parent.options(id="p"), "well")).result()
        found = await app.get_instance("p/child:1")
        assert found is not None and found.status is Status.COMPLETED
