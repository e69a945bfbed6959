"""A shield in a workflow keeps cancellations away from its code, but never keeps the run in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio

from trio_romancy import (
    App,
    ChannelMode,
    Status,
    WorkflowContext,
    WorkflowStuckError,
    activity,
    current_activity,
    workflow,
)

from ..support.probe import Probe, probe

LONG = 10**6


@workflow(name="shields_child")
async def child(ctx: WorkflowContext) -> str:
    await ctx.sleep(100)
    return "done"


@activity(name="shields_nap")
async def nap() -> str:
    await trio.sleep(100)
    return "done"


async def sleeps(ctx: WorkflowContext) -> str:
    await ctx.sleep(100)
    return "done"


async def waits_for_an_event(ctx: WorkflowContext) -> str:
    data: str = (await ctx.wait_event("shields.news", data_type=str)).data
    return data


async def waits_for_a_message(ctx: WorkflowContext) -> str:
    await ctx.subscribe("shields.news", ChannelMode.BROADCAST)
    data: str = (await ctx.receive("shields.news", data_type=str)).data
    return data


async def awaits_a_child(ctx: WorkflowContext) -> str:
    return await ctx.run(child.options(id="child"))


async def runs_an_activity(ctx: WorkflowContext) -> str:
    return await nap()


WAITS = [sleeps, waits_for_an_event, waits_for_a_message, awaits_a_child, runs_an_activity]
WAYS: dict[str, Callable[[Probe], None]] = {
    "crash": Probe.crash_actors,
    "abandon": Probe.abandon,
    "lose the lease": Probe.abandon_actors,
    "give back": partial(Probe.release_idle, count=2),
}
PAIRS = [(wait, way) for wait in WAITS for way in WAYS if (wait, way) != (runs_an_activity, "give back")]


@pytest.mark.parametrize(("wait", "way"), PAIRS)
async def test_a_run_stops_at_once_though_its_workflow_shields_what_it_waits_for(
    wait: Callable[[WorkflowContext], Any], way: str
) -> None:
    @workflow
    async def shielded(ctx: WorkflowContext) -> str:
        with trio.CancelScope(shield=True):
            result: str = await wait(ctx)
        return result

    async with App(":memory:", idle_timeout=LONG) as app:
        handle = await app.start(shielded)
        await trio.sleep(10)
        before = [actor.instance_run for actor in probe(app).actors]
        WAYS[way](probe(app))
        await trio.sleep(1)
        if way == "lose the lease":
            probe(app).abandon()  # which takes the instances up again
            await trio.sleep(1)
        assert all(actor.instance_run not in before for actor in probe(app).actors)
        await app.send_event("shields.news", "done")
        await app.publish("shields.news", "done")
        assert await handle.result() == "done"


@pytest.mark.parametrize("wait", WAITS[:-1])
async def test_an_app_closes_at_once_though_a_workflow_shields_what_it_waits_for(
    wait: Callable[[WorkflowContext], Any],
) -> None:
    @workflow
    async def shielded(ctx: WorkflowContext) -> str:
        with trio.CancelScope(shield=True):
            result: str = await wait(ctx)
        return result

    async with App(":memory:", idle_timeout=LONG) as app:
        await app.start(shielded)
        await trio.sleep(10)
        begun = trio.current_time()
    assert trio.current_time() - begun < 1


async def test_a_workflow_whose_code_does_not_fit_is_parked_though_it_shields_what_it_waits_for() -> None:
    asks_for = "one"

    @activity
    async def note(what: str) -> str:
        return f"{current_activity().activity_id} {what}"

    @workflow
    async def shielded(ctx: WorkflowContext) -> None:
        async def wait() -> None:
            with trio.CancelScope(shield=True):
                await ctx.sleep(LONG, id="shielded")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await note.options(id=asks_for)("it")
            await ctx.sleep(LONG, id="other")

    async with App(":memory:", idle_timeout=LONG) as app:
        handle = await app.start(shielded)
        await trio.sleep(10)
        asks_for = "two"
        probe(app).crash_actors()
        with pytest.raises(WorkflowStuckError), trio.fail_after(100):
            await handle.result()
        instance = await app.get_instance(handle.instance_id)
        assert instance is not None
        assert instance.status is Status.STUCK
