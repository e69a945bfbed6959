"""What a handle tells of its instance, and the changes that it lets its callers watch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import trio

from trio_romancy import App, InstanceNotFoundError, NonDeterminismError, Status, WorkflowContext, activity, workflow

from ..support.databases import SHARED_KINDS
from ..support.probe import probe

State = tuple[Status, Any]


@activity(name="watch_fails")
async def fails() -> None:
    if not is_mended:
        raise ValueError("not yet")


@workflow(name="watch_steps")
async def steps(ctx: WorkflowContext, count: int) -> int:
    for number in range(count):
        ctx.set_details(number)
        await ctx.sleep(100)
    return count


@workflow(name="watch_failing")
async def failing(ctx: WorkflowContext) -> None:
    await fails()


@workflow(name="watch_recurring")
async def recurring(ctx: WorkflowContext, left: int) -> None:
    ctx.set_details(left)
    await ctx.sleep(10)
    if left:
        ctx.recur(left - 1)


is_mended = True


async def watched(app: App, id: str) -> list[State]:
    return [(instance.status, instance.details) async for instance in app.handle(id).watch()]


def kept(states: list[State]) -> list[State]:
    """Return the states in which the instance waits or has ended, once each. A worker that claims it has it run."""
    return [*dict.fromkeys(state for state in states if state[0] is not Status.RUNNING)]


WAITING = Status.WAITING
EXPECTED = [(WAITING, 0), (WAITING, 1), (WAITING, 2), (Status.COMPLETED, None)]


@pytest.mark.parametrize("idle_timeout", [0.0, 1e6])
async def test_each_change_is_told_once_in_order_until_the_end(database: str, idle_timeout: float) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        await app.start(steps.options(id="x"), 3)
        states = await watched(app, "x")
        assert kept(states) == EXPECTED
        assert all(one != other for one, other in pairwise(states))
        assert await watched(app, "x") == [(Status.COMPLETED, None)]


@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_a_client_watches_an_instance_of_another_process(database: str) -> None:
    async with App(database) as worker, App(database, worker=False) as client:
        await worker.start(steps.options(id="x"), 3)
        assert kept(await watched(client, "x")) == EXPECTED


async def test_an_instance_of_this_process_is_not_polled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with App(":memory:", idle_timeout=1e6) as app:
        await app.start(steps.options(id="x"), 3)
        reads = 0
        read = type(probe(app).database).read

        async def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal reads
            reads += args[1].__name__ == "get_instance" if hasattr(args[1], "__name__") else 0
            return await read(*args, **kwargs)

        monkeypatch.setattr(type(probe(app).database), "read", counted)
        states = await watched(app, "x")
    assert kept(states) == EXPECTED
    assert reads <= 30  # for three sleeps of 100 seconds: a poll each second would be 300


async def test_several_watch_one_instance_and_one_that_gives_up_disturbs_none() -> None:
    seen: list[list[State]] = []

    async def watch(app: App) -> None:
        seen.append(await watched(app, "x"))

    async with App(":memory:") as app:
        handle = await app.start(steps.options(id="x"), 3)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(watch, app)
            with trio.move_on_after(50):
                async for _ in handle.watch():
                    pass
        assert await handle.result() == 3
    assert [kept(states) for states in seen] == [EXPECTED] * 3


async def test_a_watch_goes_on_with_the_successor() -> None:
    async with App(":memory:") as app:
        await app.start(recurring.options(id="x"), 2)
        ids, states = [], []
        async for instance in app.handle("x").watch():
            ids.append(instance.instance_id)
            states.append((instance.status, instance.details))
        assert [*dict.fromkeys(ids)] == ["x", "x#2", "x#3"]
        assert states[-1] == (Status.COMPLETED, None)
        assert [details for status, details in states if status is WAITING] == [2, 1, 0]


async def test_a_handle_tells_status_and_details_and_retries() -> None:
    global is_mended
    is_mended = False
    async with App(":memory:") as app:
        handle = await app.start(steps.options(id="x"), 3)
        await trio.sleep(150)
        assert (await handle.status(), await handle.details()) == (WAITING, 1)
        await handle.result()
        assert (await handle.status(), await handle.details()) == (Status.COMPLETED, None)
        assert not await handle.retry()
        assert not await handle.resume()

        failed = await app.start(failing.options(id="f"))
        seen: list[Status] = []
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal seen
                seen = [instance.status async for instance in failed.watch()]

            nursery.start_soon(watch)
        assert seen[-1] is Status.FAILED
        is_mended = True
        assert await failed.retry()
        assert [instance.status async for instance in failed.watch()][-1] is Status.COMPLETED


async def test_what_is_not_there_is_told() -> None:
    async with App(":memory:") as app:
        for id in ("nobody", "a\0b"):
            handle = app.handle(id)
            calls: list[Any] = [handle.status, handle.details, handle.resume, handle.retry, handle.watch().__anext__]
            for call in calls:
                with pytest.raises(InstanceNotFoundError):
                    await call()


@workflow(name="watch_forbidden")
async def forbidden(ctx: WorkflowContext) -> None:
    async for _ in app_of_workflow.handle("x").watch():
        pass


app_of_workflow: App


async def test_a_workflow_must_not_watch() -> None:
    global app_of_workflow
    async with App(":memory:") as app_of_workflow:
        handle = await app_of_workflow.start(forbidden.options(id="x"))
        async for instance in handle.watch():
            if instance.status is Status.STUCK:
                assert instance.error is not None
                assert NonDeterminismError.__name__ in instance.error.error_type
                assert "handle.watch is called in workflow code" in instance.error.message
                break
