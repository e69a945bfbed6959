"""Activities that await other instances leave their places to those, and what cannot be helped is named in the log."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
import trio
import trio.testing

from trio_romancy import App, Limits, RetryPolicy, WorkflowContext, activity, current_activity, workflow
from trio_romancy._runtime.run import threads

from ..support.databases import ALL_KINDS, KINDS

every_kind = pytest.mark.parametrize("kind", ALL_KINDS, indirect=True)
PLACES = 3

app: App
busy: trio.Event


@workflow(name="awaiting_small")
async def small(ctx: WorkflowContext, number: int) -> int:
    return await part(number)


@activity(name="awaiting_part")
async def part(number: int) -> int:
    return number


@activity(name="awaiting_start_and_wait", retry=RetryPolicy.no_retry())
async def start_and_wait(depth: int, number: int) -> int:
    await trio.sleep(0.1)
    flow: Any = big.options(id=f"{number}/{depth}") if depth else small.options(id=f"{number}/{depth}")
    arguments = (depth - 1, number) if depth else (number,)
    return int(await (await app.start(flow, *arguments)).result())


@activity(name="awaiting_from_a_thread", retry=RetryPolicy.no_retry())
def start_and_wait_from_a_thread(number: int) -> int:
    handle = trio.from_thread.run(app.start, small, number)
    return int(trio.from_thread.run(handle.result))


@activity(name="awaiting_beside")
async def beside() -> None:
    await busy.wait()


@workflow(name="awaiting_big")
async def big(ctx: WorkflowContext, depth: int, number: int) -> int:
    return await start_and_wait(depth, number)


@workflow(name="awaiting_threaded")
async def threaded(ctx: WorkflowContext, number: int) -> int:
    return await start_and_wait_from_a_thread(number)


@workflow(name="awaiting_and_busy")
async def and_busy(ctx: WorkflowContext) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start_and_wait.options(id="wait"), 0, 7)
        nursery.start_soon(beside.options(id="busy"))


@every_kind
@pytest.mark.real_clock
@pytest.mark.parametrize("depth", [0, 2])
async def test_a_fan_out_that_fills_the_worker_goes_on(database: str, depth: int) -> None:
    global app
    with trio.fail_after(60):
        async with App(database, max_running=PLACES, shutdown_timeout=1) as app:
            handles = [await app.start(big, depth, number) for number in range(2 * PLACES)]
            assert [await handle.result() for handle in handles] == list(range(2 * PLACES))


@every_kind
@pytest.mark.real_clock
async def test_also_if_threads_await_the_instances(database: str) -> None:
    global app
    with trio.fail_after(60):
        async with App(database, max_running=PLACES, shutdown_timeout=1) as app:
            handles = [await app.start(threaded, number) for number in range(2 * PLACES)]
            assert [await handle.result() for handle in handles] == list(range(2 * PLACES))


async def test_who_does_something_else_as_well_keeps_its_place_until_that_has_ended() -> None:
    global app, busy
    busy = trio.Event()
    async with App(":memory:", max_running=1) as app:
        handle = await app.start(and_busy.options(id="one"))
        await trio.sleep(3)
        awaited = await app.get_instance("7/0")
        assert awaited is not None
        assert awaited.finished_at is None  # it has no place
        busy.set()
        await handle.result(timeout=5)


async def test_who_has_waited_counts_again() -> None:
    global app, busy
    busy = trio.Event()

    @activity
    async def waits_then_works() -> None:
        await (await app.start(small.options(id="first"), 1)).result()
        await busy.wait()

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await waits_then_works()

    async with App(":memory:", max_running=1) as app:
        handle = await app.start(flow)
        await app.handle("first").result() if await app.get_instance("first") else await trio.sleep(3)
        await app.start(small.options(id="second"), 2)
        await trio.sleep(3)
        second = await app.get_instance("second")
        assert second is not None
        assert second.finished_at is None
        busy.set()
        await handle.result(timeout=5)
        await app.handle("second").result(timeout=5)


@pytest.mark.parametrize("kind", KINDS, indirect=True)
async def test_memory_that_is_full_of_those_who_wait_is_named(database: str, caplog: pytest.LogCaptureFixture) -> None:
    global app
    async with App(database, max_resident=PLACES, shutdown_timeout=1) as app:
        for number in range(PLACES):
            await app.start(big.options(id=f"big-{number}"), 0, number)
        await trio.sleep(20)
        named = [record for record in caplog.records if "max_resident=3" in record.getMessage()]
        assert len(named) == 1  # once, and not each time that it looks
        assert "3 await instances in their activities: big-" in named[0].getMessage()
        assert all(f"big-{number}" in named[0].getMessage() for number in range(PLACES))


@pytest.mark.real_clock
async def test_threads_that_are_full_of_those_who_wait_are_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    global app
    monkeypatch.setattr(threads, "_PATIENCE", 0.2)

    @activity
    def plain(number: int) -> int:
        return number

    @workflow
    async def with_thread(ctx: WorkflowContext, number: int) -> int:
        return await plain(number)

    @activity(retry=RetryPolicy.no_retry())
    def awaits_in_a_thread(number: int) -> int:
        handle = trio.from_thread.run(app.start, with_thread, number)
        return int(trio.from_thread.run(handle.result, 1.5))

    @workflow
    async def flow(ctx: WorkflowContext, number: int) -> int:
        return await awaits_in_a_thread(number)

    async with App(":memory:", limits=Limits(threads=2), shutdown_timeout=1) as app:
        for number in range(2):
            await app.start(flow.options(id=f"flow-{number}"), number)
        await trio.sleep(1)
        text = next(m for m in (r.getMessage() for r in caplog.records) if "all 2 threads" in m)
        assert "awaits_in_a_thread:1 of flow-0" in text


async def test_an_activity_that_awaits_its_own_instance_is_named(caplog: pytest.LogCaptureFixture) -> None:
    global app

    @activity(retry=RetryPolicy.no_retry())
    async def awaits_itself() -> None:
        await app.handle(current_activity().instance_id).result(timeout=5)

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        with pytest.raises(Exception, match="has not ended"):
            await awaits_itself()

    async with App(":memory:") as app:
        await (await app.start(flow.options(id="me"))).result()
    assert "instance me: activity awaits_itself:1 awaits its own instance" in caplog.text


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"], indirect=True)
async def test_an_activity_that_awaits_an_instance_with_its_session_open_is_named(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    global app

    @activity
    async def awaits() -> int:
        await current_activity().session.execute(sa.text("SELECT 1"))
        return await (await app.start(small, 1)).result()

    @workflow
    async def flow(ctx: WorkflowContext) -> int:
        return await awaits()

    async with App(database) as app:
        assert await (await app.start(flow.options(id="me"))).result() == 1
    assert "instance me: activity awaits:1 awaits an instance while its session is open" in caplog.text
