"""Durations without an end are no limit, as in trio; those with an end too far away to be stored are refused."""

from __future__ import annotations

import logging
import math
from datetime import timedelta
from typing import Any

import pytest
import trio

from trio_romancy import (
    App,
    EventTimeoutError,
    MessageTimeoutError,
    OutboxSettings,
    RetryPolicy,
    Status,
    WebSettings,
    WorkflowCancelledError,
    WorkflowContext,
    activity,
    workflow,
)

from ..support.databases import SHARED_KINDS
from ..support.probe import probe

ENDLESS = {"inf": math.inf, "timedelta": timedelta.max}
TOO_LONG = {"float": 1e13, "int": 10**30, "timedelta": timedelta.max - timedelta(days=1)}
YEAR = 365 * 24 * 3600.0


async def wait_on(ctx: WorkflowContext, way: str, duration: Any) -> str:
    """Wait in one way for the event ``go`` until a duration is over."""
    match way:
        case "sleep":
            await ctx.sleep(duration)
        case "move_on_after":
            with ctx.move_on_after(duration):
                await ctx.wait_event("go")
        case "fail_after":
            with ctx.fail_after(duration):
                await ctx.wait_event("go")
        case "wait_event":
            await ctx.wait_event("go", timeout=duration)
        case "receive":
            await ctx.subscribe("go", "direct")
            await ctx.receive("go", timeout=duration)
    return "went on"


WAYS = ("sleep", "move_on_after", "fail_after", "wait_event", "receive")


@workflow(name="durations_endless")
async def endless(ctx: WorkflowContext, way: str, which: str) -> str:
    return await wait_on(ctx, way, ENDLESS[which])


@workflow(name="durations_too_long")
async def too_long(ctx: WorkflowContext, way: str, which: str) -> str:
    try:
        return await wait_on(ctx, way, TOO_LONG[which])
    except ValueError as error:
        return f"refused: {error}"


@pytest.fixture(autouse=True)
def no_errors(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("which", ENDLESS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_an_endless_duration_lasts_over_restarts_and_years_until_it_is_cancelled(
    database: str, way: str, which: str
) -> None:
    async with App(database, idle_timeout=0.5) as app:
        handle = await app.start(endless, way, which)
        await trio.sleep(100 * YEAR)
        assert probe(app).residents == [], "it has left memory"
    async with App(database, idle_timeout=math.inf) as app:
        await app.send_event("other", {}, to=handle.instance_id)
        await trio.sleep(100 * YEAR)
        instance = await app.get_instance(handle.instance_id)
        assert instance is not None
        assert instance.status is Status.WAITING
        await app.cancel(handle.instance_id)
        with pytest.raises(WorkflowCancelledError):
            await app.handle(handle.instance_id).result()


@pytest.mark.parametrize("way", ["move_on_after", "fail_after", "wait_event"])
async def test_what_an_endless_limit_is_for_goes_on(database: str, way: str) -> None:
    async with App(database) as app:
        handle = await app.start(endless, way, "inf")
        await trio.sleep(YEAR)
        await app.send_event("go", {})
        assert await handle.result() == "went on"
        assert {entry.operation_id for entry in await app.history(handle.instance_id)} >= {"wait_event:1"}


@pytest.mark.parametrize("which", TOO_LONG)
@pytest.mark.parametrize("way", WAYS)
async def test_a_duration_that_cannot_be_stored_is_refused_in_the_workflow(database: str, way: str, which: str) -> None:
    async with App(database, idle_timeout=0.5) as app:
        said = await (await app.start(too_long, way, which)).result()
        assert said.startswith("refused: ")
        assert "math.inf" in said
        statistics = app.statistics().worker
        assert statistics is not None
        assert statistics.supervisor.restarts == 0


@workflow(name="durations_limit_that_is_lifted")
async def lifted(ctx: WorkflowContext, limits: list[float | None]) -> str:
    """An optional limit, which the second run does not have: ids must be the same."""
    limit = math.inf if limits[0] is None else limits[0]
    with ctx.move_on_after(limit):
        await ctx.sleep(1)
    await ctx.sleep(1)
    return "done"


async def test_the_ids_of_later_operations_do_not_depend_on_the_limit(database: str) -> None:
    async with App(database) as app:
        ids = []
        for limit in (100.0, None):
            handle = await app.start(lifted, [limit])
            await handle.result()
            ids.append([entry.operation_id for entry in await app.history(handle.instance_id)])
    assert ids[0] == ids[1]


@workflow(name="durations_timeouts_of_zero")
async def at_once(ctx: WorkflowContext, duration: float) -> list[str]:
    """Negative timeouts end at once."""
    ended = []
    with ctx.move_on_after(duration) as scope:
        await ctx.sleep(1)
    ended.append(str(scope.cancelled_caught))
    try:
        await ctx.wait_event("go", timeout=duration)
    except EventTimeoutError:
        ended.append("event")
    await ctx.subscribe("go")
    try:
        await ctx.receive("go", timeout=duration)
    except MessageTimeoutError:
        ended.append("message")
    await ctx.sleep(timedelta.min)
    return ended


@pytest.mark.parametrize("duration", [0.0, -1.0, -1e300])
async def test_a_negative_duration_ends_at_once_however_long_it_is(database: str, duration: float) -> None:
    async with App(database) as app:
        assert await (await app.start(at_once, duration)).result() == ["True", "event", "message"]


attempts: list[int] = []


@activity(
    name="durations_fails_at_first",
    timeout=math.inf,
    retry=RetryPolicy(max_attempts=math.inf, multiplier=10, max_interval=math.inf),
)
async def fails_at_first(times: int) -> int:
    attempts.append(len(attempts))
    if len(attempts) <= times:
        await trio.sleep(1)
        raise ValueError("not yet")
    return len(attempts)


@workflow(name="durations_retries")
async def retries(ctx: WorkflowContext, times: int) -> int:
    return await fails_at_first(times)


@pytest.mark.parametrize("times", [3, 40])
async def test_attempts_and_their_waits_can_be_without_limit(database: str, times: int) -> None:
    """After 40 attempts the wait is longer than what can be stored, and so it is the longest that can."""
    attempts.clear()
    async with App(database, idle_timeout=0.5) as app:
        handle = await app.start(retries, times)
        if times == 3:
            assert await handle.result() == 4
            return
        await trio.sleep(300 * YEAR)
        instance = await app.get_instance(handle.instance_id)
        assert instance is not None
        assert instance.status is Status.WAITING


async def test_options_of_an_app_can_be_without_limit(database: str) -> None:
    endless: Any = dict.fromkeys(
        ("idle_timeout", "start_timeout", "shutdown_timeout", "message_retention"),
        math.inf,
    )
    endless |= {"outbox": OutboxSettings(max_age=math.inf), "web": WebSettings(timeout=math.inf, body_timeout=math.inf)}
    App(database, broker_url="http://localhost:1/", **endless)
    async with App(database, **endless) as app:
        await app.send_event("go", {})
        handle = await app.start(endless_wait)
        await trio.sleep(100 * YEAR)
        assert await handle.result(timeout=math.inf) == "taken"
        assert await app.purge(older_than=math.inf) == 0
        assert await app.purge(older_than=timedelta.max) == 0
        assert await app.purge(older_than=YEAR) == 1
        await app.publish("channel", 1)
        await trio.sleep(100 * YEAR)


@workflow(name="durations_waits_for_years")
async def endless_wait(ctx: WorkflowContext) -> str:
    await ctx.sleep(YEAR)
    return "taken"
