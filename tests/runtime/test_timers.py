"""Durable sleeps end at their time: in memory or not, in the past or years ahead, however the clock is set."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import trio

from trio_romancy import App, WorkflowContext, WorkflowFailedError, workflow
from trio_romancy.clock import VIRTUAL_EPOCH, Clock, current_clock, to_datetime

from ..support.probe import probe

IDLE = pytest.mark.parametrize("idle_timeout", [0.5, 1e6], ids=["passive", "resident"])

woken: list[int] = []
"""When a sleeper went on, by the clock of the app."""


@pytest.fixture(autouse=True)
def forget() -> None:
    woken.clear()


@workflow(name="timers_sleeps")
async def sleeps(ctx: WorkflowContext, seconds: float) -> list[str]:
    begun = ctx.now()
    await ctx.sleep(seconds)
    woken.append(current_clock().now())
    return [begun.isoformat(), ctx.now().isoformat()]


@workflow(name="timers_sleeps_until")
async def sleeps_until(ctx: WorkflowContext, when: datetime) -> None:
    await ctx.sleep_until(when)
    woken.append(current_clock().now())


@IDLE
@pytest.mark.parametrize("seconds", [1e-6, 0.25, 1.0, 59.999999, 3600.5, 40 * 24 * 3600.0])
async def test_a_sleeper_wakes_at_its_exact_virtual_time(database: str, seconds: float, idle_timeout: float) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        begun, ended = map(datetime.fromisoformat, await (await app.start(sleeps, seconds)).result())
    assert ended - begun == timedelta(seconds=seconds)
    assert woken == [VIRTUAL_EPOCH + round(seconds * 1_000_000)]


@IDLE
@pytest.mark.parametrize("seconds", [0, -1.0, -1e9])
async def test_a_sleep_that_is_not_positive_ends_at_once(database: str, seconds: float, idle_timeout: float) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        await (await app.start(sleeps, seconds)).result()
    assert woken == [VIRTUAL_EPOCH]


@IDLE
@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (datetime(1, 1, 1, tzinfo=UTC), VIRTUAL_EPOCH),
        (datetime(1969, 12, 31, tzinfo=UTC), VIRTUAL_EPOCH),
        (to_datetime(VIRTUAL_EPOCH), VIRTUAL_EPOCH),
        (to_datetime(VIRTUAL_EPOCH + 1), VIRTUAL_EPOCH + 1),
        (to_datetime(VIRTUAL_EPOCH + 7_000_000).astimezone(timezone(timedelta(hours=9))), VIRTUAL_EPOCH + 7_000_000),
        (datetime(2033, 5, 18, 3, 33, 20, 1, tzinfo=UTC), 2_000_000_000_000_001),
        (datetime(2150, 1, 1, tzinfo=UTC), 5_680_281_600_000_000),
    ],
)
async def test_sleeping_until_a_moment_ends_then_or_at_once(
    database: str, when: datetime, expected: int, idle_timeout: float
) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        await (await app.start(sleeps_until, when)).result()
    # Years ahead a float of trio's clock does not tell single microseconds.
    assert woken == [pytest.approx(expected, abs=0 if expected < 2e15 else 2, rel=0)]
    assert woken[0] >= expected or expected > 2e15


async def test_the_end_of_all_times_can_be_slept_to(database: str) -> None:
    async with App(database, idle_timeout=0.5) as app:
        handle = await app.start(sleeps_until, datetime.max.replace(tzinfo=UTC))
        await trio.sleep(100)
        assert not woken
        assert await handle.cancel()


async def test_a_naive_moment_fails_the_workflow() -> None:
    @workflow(name="timers_naive")
    async def naive(ctx: WorkflowContext) -> None:
        await ctx.sleep_until(datetime(2030, 1, 1))

    async with App(":memory:") as app:
        with pytest.raises(WorkflowFailedError, match="has no time zone"):
            await (await app.start(naive)).result()


@IDLE
async def test_sleepers_wake_each_at_its_own_time_whatever_the_order_of_their_starts(
    database: str, idle_timeout: float
) -> None:
    seconds = [30.0, 5.0, 77.0, 5.0, 10.000001, 10.0, 400.0, 0.1]
    async with App(database, idle_timeout=idle_timeout) as app:
        handles = [await app.start(sleeps, each) for each in seconds]
        for handle in handles:
            await handle.result()
    assert woken == [VIRTUAL_EPOCH + round(each * 1_000_000) for each in sorted(seconds)]


@IDLE
async def test_a_crash_or_an_abandonment_does_not_prolong_a_sleep(database: str, idle_timeout: float) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        handle = await app.start(sleeps, 100.0)
        await trio.sleep(30)
        probe(app).crash_actors()
        await trio.sleep(30)
        probe(app).abandon()
        await handle.result()
    assert woken == [VIRTUAL_EPOCH + 100_000_000]


async def test_a_sleep_that_ended_while_no_worker_lived_ends_at_once_and_at_its_recorded_time(
    tmp_path: Any, nobody_polls: None
) -> None:
    @workflow(name="timers_two_sleeps")
    async def two_sleeps(ctx: WorkflowContext) -> list[float]:
        begun = ctx.now()
        await ctx.sleep(100)
        first = ctx.now()
        await ctx.sleep(100)
        return [(first - begun).total_seconds(), (ctx.now() - first).total_seconds()]

    database = str(tmp_path / "timers.db")
    async with App(database) as app:
        handle = await app.start(two_sleeps)
        await trio.sleep(1)
    await trio.sleep(999)
    async with App(database) as app:
        first, second = await app.handle(handle.instance_id).result()
    assert first >= 100
    assert second == 100


@pytest.mark.real_clock
@pytest.mark.parametrize("step", [-3600.0, 3600.0], ids=["back", "forward"])
@pytest.mark.parametrize("idle_timeout", [0.0, 100.0], ids=["passive", "resident"])
async def test_setting_the_clock_of_the_machine_moves_no_timer(
    monkeypatch: pytest.MonkeyPatch, idle_timeout: float, step: float
) -> None:
    offset = 0.0
    monkeypatch.setattr(Clock, "of_machine", lambda _: time.time_ns() // 1000 + round(offset * 1e6))
    async with App(":memory:", idle_timeout=idle_timeout) as app:
        begun = trio.current_time()
        handle = await app.start(sleeps, 1.0)
        await trio.sleep(0.1)
        offset = step
        await handle.result(timeout=60)
        assert trio.current_time() - begun >= 1.0
        begun = trio.current_time()
        await (await app.start(sleeps, 0.5)).result(timeout=60)
        assert trio.current_time() - begun >= 0.5
