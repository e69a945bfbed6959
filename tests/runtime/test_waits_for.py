"""An instance shows what it waits for, and which attempts have been running for long."""

from __future__ import annotations

from datetime import timedelta

import pytest
import trio

from trio_romancy import (
    App,
    PendingOperation,
    RetryPolicy,
    Status,
    WorkflowContext,
    activity,
    current_activity,
    workflow,
)

from ..support.databases import SHARED_KINDS


async def waits(app: App, id: str = "x") -> list[PendingOperation]:
    found = await app.get_instance(id)
    assert found is not None
    return found.waits_for


@activity(name="waits_slow")
async def slow(seconds: float) -> None:
    await trio.sleep(seconds)


@activity(name="waits_failing", retry=RetryPolicy.fixed(3, 100.0))
async def failing() -> None:
    raise ConnectionError


@workflow(name="waits_child")
async def child(ctx: WorkflowContext) -> None:
    await ctx.sleep(1000)


@workflow(name="waits_one_by_one")
async def one_by_one(ctx: WorkflowContext) -> None:
    await ctx.wait_event("paid", subject="ORD-1", timeout=timedelta(days=40))
    await ctx.subscribe("news")
    await ctx.receive("news")
    await ctx.sleep(timedelta(days=2))
    await ctx.run(child.options(id="child"))
    await slow(50)
    await failing()


@pytest.mark.parametrize("idle_timeout", [0.0, 1e6])
async def test_the_operation_in_flight_is_shown_in_memory_and_out_of_it(database: str, idle_timeout: float) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        handle = await app.start(one_by_one.options(id="x"))
        await trio.sleep(10)
        instance = await app.get_instance("x")
        assert instance is not None
        due = instance.created_at + timedelta(days=40)
        assert instance.waits_for == [PendingOperation("wait_event:1", "event", "paid", "ORD-1", due)]
        await app.send_event("paid", subject="ORD-1")
        await trio.sleep(10)
        assert await waits(app) == [PendingOperation("receive:1", "message", "news")]
        await app.publish("news", 1)
        await trio.sleep(10)
        (nap,) = await waits(app)
        assert (nap.operation_id, nap.kind, nap.name) == ("sleep:1", "sleep", None)
        assert nap.due_at is not None
        await trio.sleep((nap.due_at - instance.created_at).total_seconds())
        (running,) = await waits(app)
        assert (running.kind, running.name, running.due_at) == ("child", "child", None)
        await app.handle("child").result()
        await trio.sleep(10)
        (attempt,) = await waits(app)
        assert (attempt.operation_id, attempt.kind, attempt.name) == ("waits_slow:1", "activity", "waits_slow")
        assert (attempt.attempt, attempt.due_at) == (1, None)
        assert attempt.running_since is not None
        await trio.sleep(60)
        (retry,) = await waits(app)
        assert (retry.name, retry.attempt, retry.running_since) == ("waits_failing", 2, None)
        assert retry.due_at is not None
        await handle.cancel()
        await trio.sleep(10)
        assert await waits(app) == []


@workflow(name="waits_long")
async def long(ctx: WorkflowContext, seconds: float) -> None:
    await slow(seconds)


@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_another_process_sees_the_attempt_that_runs(database: str) -> None:
    async with App(database) as worker, App(database, worker=False) as client:
        await worker.start(long.options(id="x"), 1000)
        await worker.start(long.options(id="quick"), 0.5)
        await trio.sleep(20)
        (attempt,) = await waits(client)
        assert (attempt.name, attempt.attempt) == ("waits_slow", 1)
        assert await waits(client, "quick") == []


@workflow(name="waits_many")
async def many(ctx: WorkflowContext) -> None:
    async def wait(number: int) -> None:
        with ctx.branch(str(number)):
            await ctx.wait_event("never")

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(wait, number)


async def test_of_many_operations_the_first_ten_are_shown() -> None:
    async with App(":memory:") as app:
        await app.start(many.options(id="x"))
        await trio.sleep(5)
        shown = await waits(app)
        assert [one.operation_id for one in shown] == [f"{number}/wait_event:1" for number in range(10)]


@activity(name="waits_poison")
async def poison() -> None:
    await trio.sleep(30)


async def test_an_attempt_that_is_shown_has_made_no_progress() -> None:
    """A worker that dies in it has died in it, however long it ran."""
    async with App(":memory:") as app:
        await app.start(long.options(id="x"), 1e6)
        await trio.sleep(20)
        before = await app.get_instance("x")
        assert before is not None and before.waits_for
        assert before.updated_at == before.created_at


@activity(name="waits_progress")
def progress(count: int) -> None:
    for number in range(count):
        current_activity().set_details({"done": number + 1})


@activity(name="waits_progress_async", retry=RetryPolicy.fixed(2, 5.0))
async def progress_async() -> None:
    this = current_activity()
    this.set_details(f"attempt {this.attempt}")
    await trio.sleep(10)
    if this.attempt == 1:
        raise ConnectionError


@workflow(name="waits_progressing")
async def progressing(ctx: WorkflowContext) -> None:
    await progress(3)
    await ctx.sleep(10)
    await progress_async()


async def test_activities_tell_their_progress_at_once(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(progressing.options(id="x"))
        for expected in ({"done": 3}, "attempt 1", "attempt 2"):
            # Virtual time does not wait for the thread of an activity.
            while (instance := await app.get_instance("x")) is None or instance.details != expected:  # noqa: ASYNC110
                await trio.sleep(0.5)
        await handle.result()
        ended = await app.get_instance("x")
        assert ended is not None and ended.status is Status.COMPLETED
        assert (ended.details, ended.last_details) == (None, "attempt 2")
