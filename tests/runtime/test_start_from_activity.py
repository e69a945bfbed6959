"""``current_activity().start`` starts an instance exactly once: if and only if the attempt succeeds."""

from __future__ import annotations

import pytest
import trio

from trio_romancy import (
    App,
    InstanceExistsError,
    InvalidInputError,
    Limits,
    PayloadTooLargeError,
    RetryPolicy,
    RomancyError,
    WorkflowContext,
    activity,
    current_activity,
    workflow,
)
from trio_romancy.testing import explore_crashes

from ..support.databases import KINDS

on_all = pytest.mark.parametrize("kind", KINDS, indirect=True)


@workflow(name="activity_started")
async def started(ctx: WorkflowContext, text: str) -> str:
    return text


@activity(name="activity_start_twice", retry=RetryPolicy.fixed(3, 1))
async def start_twice() -> list[str]:
    one = await current_activity().start(started, "one")
    if current_activity().attempt == 1:
        raise ConnectionError("what this attempt has started was not")
    return [one, await current_activity().start(started.options(id="mine"), "two")]


@activity(name="activity_start_in_thread")
def start_in_thread() -> str:
    return trio.from_thread.run(current_activity().start, started, "from a thread")


@workflow(name="activity_starter")
async def starter(ctx: WorkflowContext) -> list[str]:
    return [*await start_twice(), await start_in_thread()]


@on_all
async def test_an_activity_starts_instances_once(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(starter.options(id="starter"))
        ids = await handle.result()
        assert ids == ["starter:activity_start_twice:1:1", "mine", "starter:activity_start_in_thread:1:1"]
        assert [await app.handle(id).result() for id in ids] == ["one", "two", "from a thread"]
        assert len((await app.list_instances()).instances) == 4


@activity(name="activity_start_badly", retry=RetryPolicy.no_retry())
async def start_badly() -> list[str]:
    start = current_activity().start
    refused = []
    for id, text in (("taken", "another"), ("new", 1), ("large", "x" * 1000)):
        try:
            await start(started.options(id=id), text)  # type: ignore[arg-type]
        except (InstanceExistsError, InvalidInputError, PayloadTooLargeError) as error:
            refused.append(type(error).__name__)
    await start(started.options(id="taken"), "text")  # the same instance
    left_behind.append(current_activity().start)
    return refused


left_behind: list[object] = []


@workflow(name="activity_bad_starter")
async def bad_starter(ctx: WorkflowContext) -> list[str]:
    return await start_badly()


@on_all
async def test_a_refused_start_leaves_the_session_as_it_was(database: str) -> None:
    async with App(database, limits=Limits(max_payload=900)) as app:
        await app.start(started.options(id="taken"), "text")
        refused = await (await app.start(bad_starter)).result()
        assert refused == ["InstanceExistsError", "InvalidInputError", "PayloadTooLargeError"]
        assert len((await app.list_instances()).instances) == 2
        with pytest.raises(RomancyError, match="start is called after the end of its attempt"):
            await left_behind[-1](started, "late")  # type: ignore[operator]


def test_every_crash_leaves_each_started_instance_once() -> None:
    async def scenario(app: App) -> object:
        handle = await app.start(starter.options(id="starter"))
        ids = await handle.result()
        return [await app.handle(id).result() for id in ids], len((await app.list_instances()).instances)

    explore_crashes(scenario)
