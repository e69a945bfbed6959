"""Failed instances that start again from their first failed operation."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from sqlalchemy import Connection

from trio_romancy import (
    ActivityError,
    ActivityInfo,
    App,
    EntryKind,
    EventTimeoutError,
    Hooks,
    InstanceNotFoundError,
    MessageInfo,
    RetryPolicy,
    RomancyError,
    Status,
    TimerInfo,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    compensation,
    workflow,
)
from trio_romancy._storage.sql import rewind

log: list[str] = []
broken: set[str] = set()
"""What fails."""


@pytest.fixture(autouse=True)
def everything_fails_that_can() -> None:
    log.clear()
    broken.clear()
    broken.update({"a", "b", "code"})


@compensation(name="retry_undo")
async def undo(what: str) -> None:
    log.append(f"undo {what}")


@activity(name="retry_undoable", compensation=undo)
async def undoable(what: str) -> None:
    log.append(what)


@activity(name="retry_do")
async def do(what: str, seconds: float = 0.0) -> str:
    await trio.sleep(seconds)
    log.append(what)
    return what


@activity(name="retry_fragile", retry=RetryPolicy.fixed(3, 1.0))
async def fragile(what: str) -> str:
    log.append(f"try {what}")
    if what in broken:
        raise OSError(what)
    return what


async def fails(app: App, id: str, match: str | None = None) -> None:
    with pytest.raises(WorkflowFailedError, match=match):
        await app.handle(id).result()


# -- what is kept ------------------------------------------------------------------------------------------------------


@workflow(name="one_after_the_other")
async def one_after_the_other(ctx: WorkflowContext) -> list[str]:
    first = await do("first")
    await ctx.sleep(10)
    second = await fragile("a")
    return [first, second, await do("last")]


async def test_what_succeeded_before_is_not_done_again_and_attempts_are_counted_anew(database: str) -> None:
    async with App(database) as app:
        await app.start(one_after_the_other.options(id="x"))
        await fails(app, "x", "failed for good after 3 attempts|OSError")
        assert log == ["first", *["try a"] * 3]
        broken.clear()
        assert await app.retry("x")
        assert await app.handle("x").result() == ["first", "a", "last"]
        kinds = [entry.kind for entry in await app.history("x")]
        found = await app.get_instance("x")
    assert found is not None and (found.status, found.error) == (Status.COMPLETED, None)
    assert log[4:] == ["try a", "last"]
    assert (
        EntryKind.ACTIVITY_FAILED not in kinds
        and EntryKind.WORKFLOW_FAILED not in kinds
        and EntryKind.ATTEMPT_FAILED not in kinds
    )
    assert kinds.count(EntryKind.RETRIED) == 1


async def test_one_that_fails_again_has_all_its_attempts_and_can_be_retried_again(database: str) -> None:
    async with App(database) as app:
        await app.start(one_after_the_other.options(id="x"))
        for _ in range(3):
            await fails(app, "x")
            assert await app.retry("x")
        await fails(app, "x")
        assert log == ["first", *["try a"] * 12]
        broken.clear()
        await app.retry("x")
        assert await app.handle("x").result() == ["first", "a", "last"]


@workflow(name="side_by_side")
async def side_by_side(ctx: WorkflowContext) -> dict[str, str]:
    results: dict[str, str] = {}

    async def one(what: str, seconds: float) -> None:
        with ctx.branch(what):
            await ctx.sleep(seconds)
            results[what] = await (fragile(what) if what in "ab" else do(what, 10.0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, "before", 0)
        nursery.start_soon(one, "beside", 100)
        nursery.start_soon(one, "a", 100)
    results["b"] = await fragile("b")
    return results


@pytest.mark.parametrize("idle_timeout", [0.0, 10.0])
async def test_what_succeeded_beside_it_is_kept(database: str, idle_timeout: float) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        await app.start(side_by_side.options(id="x"))
        await fails(app, "x")
        assert log == ["before", *["try a"] * 3, "beside"]
        broken.remove("a")
        await app.retry("x")
        await fails(app, "x")
        broken.remove("b")
        await app.retry("x")
        assert await app.handle("x").result() == {what: what for what in ("before", "beside", "a", "b")}
    assert log[5:] == ["try a", *["try b"] * 3, "try b"]


@workflow(name="another_way")
async def another_way(ctx: WorkflowContext) -> list[Any]:
    """Goes on when something has failed, and fails later, in its own code."""
    seen: list[Any] = []
    try:
        seen.append(await fragile("a"))
    except ActivityError:
        seen.append("without")
    seen.append((await ctx.wait_event("e")).data)
    seen.append(await do("done"))
    await ctx.subscribe("ch")
    await ctx.publish("ch", "said")
    seen.append((await ctx.receive("ch")).data)
    await ctx.sleep(10)
    try:
        await ctx.wait_event("e", timeout=5)
    except EventTimeoutError:
        seen.append("no other")
    await ctx.unsubscribe("ch")
    if "code" in broken:
        raise ValueError("a bug")
    return seen


class Everything(Hooks):
    """Hears of all that is told of operations."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def activity_started(self, activity: ActivityInfo) -> None:
        self.told.append(f"{activity.operation_id} started")

    def activity_completed(self, activity: ActivityInfo) -> None:
        self.told.append(f"{activity.operation_id} completed")

    def activity_failed(self, activity: ActivityInfo) -> None:
        self.told.append(f"{activity.operation_id} failed")

    def activity_retried(self, activity: ActivityInfo) -> None:
        self.told.append(f"{activity.operation_id} retried")

    def timer_fired(self, timer: TimerInfo) -> None:
        self.told.append(f"{timer.operation_id} fired")

    def event_received(self, message: MessageInfo) -> None:
        self.told.append(f"{message.operation_id} received")

    def message_received(self, message: MessageInfo) -> None:
        self.told.append(f"{message.operation_id} received")

    def message_sent(self, message: MessageInfo) -> None:
        self.told.append(f"{message.operation_id} sent")


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("idle_timeout", [0.0, 10.0])
async def test_what_succeeded_after_it_is_kept_and_nobody_is_told_of_it_twice(
    database: str, idle_timeout: float, watched: bool, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = Everything()
    async with App(database, idle_timeout=idle_timeout, hooks=[hooks] if watched else []) as app:
        await app.start(another_way.options(id="x"))
        await app.send_event("e", "came")
        await fails(app, "x", "a bug")
        before = list(log)
        first_time = list(hooks.told)
        broken.clear()
        assert await app.retry("x")
        assert await app.handle("x").result() == ["a", "came", "done", "said", "no other"]
    assert log[len(before) :] == ["try a"]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    if watched:
        assert {"wait_event:1 received", "retry_do:1 completed", "publish:1 sent", "receive:1 received"} < {*first_time}
        again = hooks.told[len(first_time) :]
        assert again == ["retry_fragile:1 started", "retry_fragile:1 completed", "wait_event:2 fired"]


@workflow(name="only_its_code")
async def only_its_code(ctx: WorkflowContext) -> str:
    result = await do("first")
    if "code" in broken:
        raise ValueError("a bug")
    return result


async def test_if_no_operation_failed_the_code_runs_again(database: str) -> None:
    async with App(database) as app:
        await app.start(only_its_code.options(id="x"))
        for _ in range(2):
            await fails(app, "x", "ValueError: a bug")
            assert await app.retry("x")
        await fails(app, "x")
        broken.clear()
        await app.retry("x")
        assert await app.handle("x").result() == "first"
    assert log == ["first"]


# -- which can be retried ----------------------------------------------------------------------------------------------


@workflow(name="undoing")
async def undoing(ctx: WorkflowContext) -> None:
    await undoable("first")
    await fragile("a")


async def test_what_was_compensated_cannot_be_kept_so_nothing_is_retried(database: str) -> None:
    async with App(database) as app:
        await app.start(undoing.options(id="x"))
        await fails(app, "x")
        before = await app.history("x")
        message = "'x' cannot be retried, because something of it was compensated: retry_undoable:1/compensation; start"
        with pytest.raises(RomancyError, match=message):
            await app.retry("x")
        assert await app.history("x") == before
        found = await app.get_instance("x")
        assert found is not None and found.status is Status.FAILED


@workflow(name="sleeping")
async def sleeping(ctx: WorkflowContext) -> None:
    await ctx.sleep(100)


async def test_only_what_has_failed_is_retried(database: str) -> None:
    async with App(database) as app:
        done = await app.start(do_only.options(id="done"))
        await done.result()
        cancelled = await app.start(sleeping.options(id="cancelled"))
        await cancelled.cancel()
        await app.start(sleeping.options(id="running"))
        await trio.sleep(1)
        assert [await app.retry(id) for id in ("done", "cancelled", "running")] == [False] * 3
        for id in ("nobody", "", "\0"):
            with pytest.raises(InstanceNotFoundError):
                await app.retry(id)
        statuses = {one.instance_id: one.status for one in (await app.list_instances()).instances}
    assert statuses == {"done": "completed", "cancelled": "cancelled", "running": "waiting"}


@workflow(name="do_only")
async def do_only(ctx: WorkflowContext) -> None:
    await do("it")


async def test_to_ask_twice_or_at_once_is_to_ask_once(database: str) -> None:
    async with App(database) as app:
        await app.start(one_after_the_other.options(id="x"))
        await fails(app, "x")
        broken.clear()
        answers: list[bool] = []

        async def ask() -> None:
            answers.append(await app.retry("x"))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert await app.handle("x").result() == ["first", "a", "last"]
        assert sorted(answers) == [False] * 4 + [True]
        assert [entry.kind for entry in await app.history("x")].count(EntryKind.RETRIED) == 1
    assert log == ["first", *["try a"] * 4, "last"]


async def test_to_retry_again_because_the_answer_was_lost_is_harmless(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with App(database) as app:
        await app.start(one_after_the_other.options(id="x"))
        await fails(app, "x")
        broken.clear()
        retry = rewind.rewind

        def twice(connection: Connection, instance_id: str, now: int) -> bool | None:
            retry(connection, instance_id, now)
            return retry(connection, instance_id, now)

        monkeypatch.setattr(rewind, "rewind", twice)
        await app.retry("x")
        assert await app.handle("x").result() == ["first", "a", "last"]


async def test_a_handle_from_before_hears_how_it_ends_now(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(one_after_the_other.options(id="x"))
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        broken.clear()
        await app.retry("x")
        assert await handle.result() == ["first", "a", "last"]
        assert await handle.result() == ["first", "a", "last"]


# -- families ----------------------------------------------------------------------------------------------------------


@workflow(name="retry_parent")
async def parent(ctx: WorkflowContext, workflow: str) -> Any:
    first = await do("parent")
    children: dict[str, Any] = {"a": one_after_the_other, "undo": undoing, "nest": nested}
    return [first, await ctx.run(children[workflow])]


@workflow(name="nested")
async def nested(ctx: WorkflowContext) -> Any:
    return await ctx.run(one_after_the_other)


@pytest.mark.parametrize("idle_timeout", [0.0, 10.0])
async def test_a_child_that_failed_is_retried_with_its_parent(database: str, idle_timeout: float) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        await app.start(parent.options(id="p"), "nest")
        for _ in range(2):
            await fails(app, "p", "OSError: a")
            assert await app.retry("p")
        await fails(app, "p")
        broken.clear()
        await app.retry("p")
        assert await app.handle("p").result() == ["parent", ["first", "a", "last"]]
    assert log == ["parent", "first", *["try a"] * 10, "last"]


async def test_if_the_child_has_undone_something_the_parent_cannot_be_retried(database: str) -> None:
    async with App(database) as app:
        await app.start(parent.options(id="p"), "undo")
        await fails(app, "p")
        with pytest.raises(RomancyError, match="'p/undoing:1' cannot be retried, because something of it was compens"):
            await app.retry("p")
        found = await app.get_instance("p")
        assert found is not None and found.status is Status.FAILED


@pytest.mark.parametrize("ends", ["before", "after"])
async def test_a_parent_hears_of_a_child_that_was_retried_by_itself(database: str, ends: str) -> None:
    async with App(database) as app:
        await app.start(parent.options(id="p"), "a")
        await fails(app, "p")
        broken.clear()
        assert await app.retry("p/one_after_the_other:1")
        if ends == "before":
            await app.handle("p/one_after_the_other:1").result()
        assert await app.retry("p")
        assert await app.handle("p").result() == ["parent", ["first", "a", "last"]]
    assert log == ["parent", "first", *["try a"] * 4, "last"]
