"""Calls of the client in workflow code are refused at once, and the instance is parked unharmed."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from trio_romancy import (
    App,
    Hooks,
    NonDeterminismError,
    RomancyError,
    Status,
    WorkflowContext,
    WorkflowInfo,
    WorkflowStuckError,
    activity,
    compensation,
    workflow,
)

Call = Callable[[App], Awaitable[object]]


@workflow(name="child_of_client")
async def child(ctx: WorkflowContext) -> int:
    return 1


CALLS: dict[str, tuple[Call, str]] = {
    "app.start": (lambda app: app.start(child), "ctx.start` or `ctx.run"),
    "app.send_event": (lambda app: app.send_event("paid", to="x"), "idempotency_key"),
    "app.publish": (lambda app: app.publish("news", 1), "ctx.publish` or `ctx.send_to"),
    "app.cancel": (lambda app: app.cancel("x"), "in an activity"),
    "app.resume": (lambda app: app.resume("x"), "in an activity"),
    "app.retry": (lambda app: app.retry("x"), "in an activity"),
    "app.purge": (lambda app: app.purge(older_than=0), "in an activity"),
    "app.get_instance": (lambda app: app.get_instance("x"), "in an activity"),
    "app.list_instances": (lambda app: app.list_instances(), "in an activity"),
    "app.find_instances": (lambda app: app.find_instances({"a": 1}), "in an activity"),
    "app.index_input": (lambda app: app.index_input("a"), "in an activity"),
    "app.history": (lambda app: app.history("x"), "in an activity"),
    "app.list_workers": (lambda app: app.list_workers(), "in an activity"),
    "app.outbox.list": (lambda app: app.outbox.list(), "in an activity"),
    "handle.result": (lambda app: app.handle("x").result(), "ctx.run"),
    "handle.cancel": (lambda app: app.handle("x").cancel(), "in an activity"),
    "async with App": (lambda app: App(":memory:").__aenter__(), "in an activity"),
}


undone: list[str] = []


@compensation(name="undo_of_client")
async def undo(name: str) -> None:
    undone.append(name)


@activity(name="do_of_client", compensation=undo)
async def do(name: str) -> str:
    return name


@asynccontextmanager
async def stuck(app: App, flow: Any) -> AsyncIterator[str]:
    """Run a workflow that is parked, and give the text of the error."""
    handle = await app.start(flow.options(id="x"))
    with pytest.raises(WorkflowStuckError) as caught:
        await handle.result()
    assert caught.value.error_type == "trio_romancy.NonDeterminismError"
    yield str(caught.value)


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_of_the_client_in_workflow_code_names_what_to_call_instead(name: str) -> None:
    call, instead = CALLS[name]

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await do("a")
        await call(app)
        await do("b")

    undone.clear()
    async with App(":memory:") as app, stuck(app, flow) as text:
        assert f"instance 'x': {name} is called in workflow code, where each replay calls it again" in text
        assert instead in text
        history = await app.history("x")
        assert [entry.operation_id for entry in history] == ["do_of_client:1"]
        assert [instance.instance_id for instance in (await app.list_instances()).instances] == ["x"]
    assert not undone  # the instance is unharmed


def in_function(ctx: WorkflowContext, start: Call, app: App) -> Awaitable[object]:
    return start(app)


async def in_branch(ctx: WorkflowContext, start: Call, app: App) -> None:
    with ctx.branch("b"):
        await do("b")
        await start(app)


async def in_child_task(ctx: WorkflowContext, start: Call, app: App) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_branch, ctx, start, app)


async def in_grandchild_task(ctx: WorkflowContext, start: Call, app: App) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_child_task, ctx, start, app)


async def in_finally(ctx: WorkflowContext, start: Call, app: App) -> None:
    with suppress(ValueError):
        try:
            raise ValueError
        finally:
            await start(app)


async def in_thread(ctx: WorkflowContext, start: Call, app: App) -> None:
    await trio.to_thread.run_sync(lambda: trio.from_thread.run(start, app))


async def caught(ctx: WorkflowContext, start: Call, app: App) -> None:
    with suppress(RomancyError):
        await start(app)
    with suppress(Exception):
        await do("never")


@pytest.mark.parametrize(
    "way", [in_function, in_branch, in_child_task, in_grandchild_task, in_finally, in_thread, caught]
)
async def test_it_is_refused_wherever_the_workflow_makes_it(way: Callable[..., Awaitable[object]]) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await way(ctx, CALLS["app.start"][0], app)
        return "went on"

    async with App(":memory:") as app, stuck(app, flow) as text:
        assert "app.start is called in workflow code" in text
        assert not (await app.list_instances(workflow="child_of_client")).instances
        assert "do_of_client:1" not in [entry.operation_id for entry in await app.history("x")]


async def test_the_parked_instance_goes_on_once_its_code_is_fixed() -> None:
    is_fixed = False

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        first = await do("a")
        if not is_fixed:
            await app.publish("news", 1)
        return first + await do("b")

    async with App(":memory:") as app:
        async with stuck(app, flow):
            is_fixed = True
            assert await app.resume("x")
        assert await app.handle("x").result() == "ab"


async def test_the_parked_instance_goes_on_with_other_code_by_itself(tmp_path: Path) -> None:
    database = str(tmp_path / "romancy.db")

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await mistake()
        return await do("a")

    async def mistake() -> None:
        if version == "old":
            await app.publish("news", 1)

    version = "old"
    async with App(database, code_version=version) as app, stuck(app, flow):
        version = "new"
    async with App(database, code_version=version) as app:
        assert await app.handle("x").result() == "a"


async def test_a_cancelled_instance_is_rolled_back_though_its_cleanup_calls_the_client() -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await do("a")
        try:
            await ctx.wait_event("never")
        finally:
            await app.publish("news", 1)

    undone.clear()
    async with App(":memory:") as app:
        handle = await app.start(flow)
        await trio.testing.wait_all_tasks_blocked()
        assert await handle.cancel()
        with pytest.raises(RomancyError):
            await handle.result()
        found = await app.get_instance(handle.instance_id)
        assert found is not None and found.status is Status.CANCELLED
    assert undone == ["a"]


@pytest.mark.parametrize("where", ["task", "child task", "thread"])
async def test_activities_call_the_client(where: str) -> None:
    @activity
    async def start_it() -> int:
        return await (await app.start(child)).result()

    @activity
    def start_from_thread() -> int:
        handle = trio.from_thread.run(app.start, child)
        return trio.from_thread.run(handle.result)

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        if where == "task":
            assert await start_it() == 1
        elif where == "thread":
            assert await start_from_thread() == 1
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(start_it.options(id="a"))
                nursery.start_soon(start_it.options(id="b"))

    async with App(":memory:") as app:
        await (await app.start(flow)).result()
        assert (await app.list_instances(workflow="child_of_client")).instances


async def test_a_compensation_calls_the_client() -> None:
    @compensation
    async def tell() -> None:
        await app.publish("undone", 1)

    @activity(compensation=tell)
    async def work() -> None: ...

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await work()
        raise ValueError

    async with App(":memory:") as app:
        handle = await app.start(flow.options(id="x"))
        with pytest.raises(RomancyError):
            await handle.result()
        assert "compensation_completed" in [entry.kind for entry in await app.history("x")]


async def test_a_task_that_a_hook_starts_elsewhere_calls_the_client() -> None:
    sent: list[object] = []

    class Telling(Hooks):
        def workflow_started(self, workflow: WorkflowInfo) -> None:
            nursery.start_soon(tell)

    async def tell() -> None:
        sent.append(await app.publish("started", 1))

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await do("a")

    async with trio.open_nursery() as nursery, App(":memory:", hooks=[Telling()]) as app:
        assert await (await app.start(flow)).result() == "a"
        await trio.testing.wait_all_tasks_blocked()
    assert len(sent) == 1


async def test_a_thread_of_the_program_reads_numbers_of_the_app() -> None:
    numbers: list[object] = []
    async with App(":memory:") as app:
        thread = threading.Thread(target=lambda: numbers.append(app.statistics()))
        thread.start()
        await trio.to_thread.run_sync(thread.join)
    assert len(numbers) == 1


async def test_the_error_is_raised_in_the_workflow() -> None:
    raised: list[BaseException] = []

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        try:
            await app.start(child)
        except BaseException as error:
            raised.append(error)
            raise

    async with App(":memory:") as app, stuck(app, flow):
        assert [type(error) for error in raised] == [NonDeterminismError]
        found = await app.get_instance("x")
        assert found is not None and found.error is not None
        assert "await app.start(child)" in (found.error.traceback or "")  # the place in the code
