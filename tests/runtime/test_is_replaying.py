"""A line behind ``if not ctx.is_replaying`` is logged once for each run of an instance, whatever interrupts it."""

from __future__ import annotations

import collections

import pytest
import trio

from trio_romancy import App, Limits, RetryPolicy, RomancyError, TerminalError, WorkflowContext, activity, workflow
from trio_romancy.testing import Crash, How, run_with_crashes

from ..support.probe import probe

lines: collections.Counter[str] = collections.Counter()
broken: set[str] = set()


@pytest.fixture(autouse=True)
def an_empty_log() -> None:
    lines.clear()
    broken.clear()


@activity(name="said_step")
async def step(seconds: float = 0.0) -> None:
    await trio.sleep(seconds)


@activity(name="said_fragile", retry=RetryPolicy.no_retry())
async def fragile() -> None:
    if "fragile" in broken:
        raise TerminalError("broken")


@workflow(name="said")
async def talking(ctx: WorkflowContext) -> None:
    """Says something at each place at which a run can be interrupted, or end."""

    def say(line: str) -> None:
        if not ctx.is_replaying:
            lines[line] += 1

    async def beside(name: str) -> None:
        with ctx.branch(name):
            try:
                say(f"{name} begins")
                await step(1)
                say(f"{name} goes on")
                await ctx.sleep(50)
                say(f"{name} ends")
                await ctx.sleep(50)
            finally:
                say(f"{name} is over")

    say("begin")
    await ctx.sleep(20)
    try:
        say("slept")
        await step(100)
        say("stepped")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(beside, "a")
            nursery.start_soon(beside, "b")
        say("joined")
        await ctx.sleep(20)
        say("slept again")
    finally:
        say("finally")


ALL = {"begin", "slept", "stepped", "joined", "slept again", "finally"} | {
    f"{name} {what}" for name in "ab" for what in ("begins", "goes on", "ends", "is over")
}


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("idle_timeout", [0.0, 5.0, 1e6])
async def test_a_line_is_logged_once_however_often_the_instance_leaves_memory(
    database: str, idle_timeout: float
) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        await (await app.start(talking)).result()
    assert lines == dict.fromkeys(ALL, 1)


@pytest.mark.parametrize("kind", ["file"], indirect=True)
@pytest.mark.parametrize("shutdown_timeout", [0.001, 1000.0])
@pytest.mark.parametrize("every", [7.0, 31.0])
async def test_a_line_is_logged_once_however_often_its_worker_stops(
    database: str, shutdown_timeout: float, every: float
) -> None:
    ended = False
    async with App(database, worker=False) as client:
        await client.start(talking.options(id="i"))
        for _ in range(100):
            every += 3.7  # so that an activity which takes longer than that is not interrupted for ever
            async with App(database, shutdown_timeout=shutdown_timeout) as app:
                with trio.move_on_after(every):
                    await app.handle("i").result()
                    ended = True
            if ended:
                break
    assert lines == dict.fromkeys(ALL, 1)


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("what", ["worker", "actors"])
async def test_a_line_is_logged_once_if_the_lease_is_lost_or_the_runtime_crashes(database: str, what: str) -> None:
    async with App(database, limits=Limits(max_recoveries=1000)) as app:
        handle = await app.start(talking)
        every = 7.0
        while True:
            every += 3.7
            with trio.move_on_after(every):
                await handle.result()
                break
            if what == "worker":
                probe(app).worker.abandon()
            else:
                probe(app).crash_actors()
    assert lines == dict.fromkeys(ALL, 1)


async def test_after_a_retry_the_code_that_runs_again_logs_again() -> None:
    @workflow(name="said_fails")
    async def flow(ctx: WorkflowContext) -> None:
        if not ctx.is_replaying:
            lines["begin"] += 1
        await step()
        if not ctx.is_replaying:
            lines["try"] += 1
        await fragile()
        if not ctx.is_replaying:
            lines["done"] += 1

    broken.add("fragile")
    async with App(":memory:") as app:
        handle = await app.start(flow.options(id="i"))
        with pytest.raises(RomancyError):
            await handle.result()
        broken.clear()
        assert await app.retry("i")
        await handle.result()
    assert lines == {"begin": 1, "try": 2, "done": 1}


async def scenario(app: App) -> None:
    lines.clear()
    await (await app.start(talking)).result()


@pytest.mark.parametrize("how", [How.ACTOR_AFTER, How.WORKER_AFTER])
def test_a_line_is_logged_at_most_once_if_the_run_ends_after_a_commit(how: How) -> None:
    commit = 1
    while True:
        result = run_with_crashes(scenario, [Crash(commit, how)])
        if commit not in result.reached:
            break
        assert set(lines.values()) == {1}, (commit, lines)
        assert len(ALL - set(lines)) <= 2, (commit, lines)  # after the outcomes that were committed, one of each task
        commit += 1
    assert commit > 5


async def test_details_are_set_again_by_the_code_after_the_last_entry() -> None:
    @workflow(name="said_details")
    async def flow(ctx: WorkflowContext) -> None:
        await step()
        ctx.set_details("stepped")
        await ctx.sleep(100)

    async with App(":memory:", idle_timeout=1e6) as app:
        handle = await app.start(flow.options(id="i"))
        await trio.sleep(10)
        probe(app).crash_actors()
        await trio.sleep(10)
        found = await app.get_instance("i")
        assert found is not None and found.details == "stepped"
        await handle.result()
