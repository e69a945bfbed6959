"""Instances that wait long cost one task each, and are woken in time all the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_romancy import App, WorkflowCancelledError, WorkflowContext, workflow
from trio_romancy import clock as clock_module
from trio_romancy._tasks.alarms import _KEPT, Alarms
from trio_romancy._tasks.scoped import ScopedTasks
from trio_romancy.clock import current_clock

from ..support.probe import probe

rung: list[str] = []


@pytest.fixture(autouse=True)
def forget() -> None:
    rung.clear()


@workflow(name="alarms_sleeper")
async def sleeper(ctx: WorkflowContext, seconds: float) -> None:
    await ctx.sleep(seconds)
    rung.append(f"{seconds:g} at {trio.current_time():g}")


@workflow(name="alarms_waiter")
async def waiter(ctx: WorkflowContext) -> str:
    return str((await ctx.wait_event("alarms.go", timeout=3600)).data)


async def test_who_waits_is_a_single_task() -> None:
    async with App(":memory:", idle_timeout=3600) as app:
        idle = probe(app).tasks
        for _ in range(10):
            await app.start(sleeper, 1000.0)
            await app.start(waiter)
        await trio.sleep(1)
        await wait_all_tasks_blocked()
        assert probe(app).tasks - idle == 20
        assert probe(app).alarms == 20


async def test_all_are_woken_in_time_and_leave_no_alarm() -> None:
    async with App(":memory:", idle_timeout=7200) as app:
        handles = [await app.start(sleeper, float(seconds)) for seconds in (500, 5, 3000, 50)]
        for handle in handles:
            await handle.result()
        assert rung == ["5 at 5", "50 at 50", "500 at 500", "3000 at 3000"]
        assert probe(app).alarms == 0


@pytest.mark.parametrize("end", ["event", "cancel", "passivate", "drop"])
async def test_whatever_ends_a_wait_takes_its_alarm_back(end: str) -> None:
    async with App(":memory:", idle_timeout=7200) as app:
        handle = await app.start(waiter)
        await trio.sleep(1)
        assert probe(app).alarms == 1
        if end == "event":
            await app.send_event("alarms.go", "went")
            assert await handle.result() == "went"
        elif end == "cancel":
            await handle.cancel()
            with pytest.raises(WorkflowCancelledError):
                await handle.result()
        else:
            if end == "drop":
                probe(app).abandon_actors()
            else:
                probe(app).release_idle()
            await wait_all_tasks_blocked()
            assert probe(app).residents == []
        assert probe(app).alarms == 0


async def test_alarms_ring_in_order_and_not_when_taken_back() -> None:
    clock = current_clock()
    alarms = Alarms(clock)
    now = clock.now()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarms.run)
        numbers = {
            second: alarms.set(now + second * 1_000_000, lambda second=second: rung.append(f"{second}"))  # type: ignore[misc]
            for second in (3, 1, 2)
        }
        alarms.cancel(numbers[2])
        await trio.sleep(1.5)
        alarms.set(now, lambda: rung.append("late"))  # due before it was set
        await trio.sleep(3)
        alarms.cancel(numbers[3])  # it has rung
        nursery.cancel_scope.cancel()
    assert rung == ["1", "late", "3"]


async def test_an_alarm_years_ahead_rings() -> None:
    clock = current_clock()
    alarms = Alarms(clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarms.run)
        alarms.set(clock.now() + 10 * 365 * 86400 * 1_000_000, lambda: rung.append("far"))
        await trio.sleep(10 * 365 * 86400 - 1)
        assert rung == []
        await trio.sleep(2)
        assert rung == ["far"]
        nursery.cancel_scope.cancel()


async def test_alarms_that_were_taken_back_do_not_pile_up() -> None:
    clock = current_clock()
    alarms = Alarms(clock)
    for number in range(5 * _KEPT):
        alarms.cancel(alarms.set(clock.now() + number, lambda: rung.append("wrong")))
    assert len(alarms._heap) <= _KEPT + 2


async def test_side_tasks_have_ended_when_they_are_closed() -> None:
    ended = []

    async def task() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            ended.append(trio.current_time())

    failed: list[BaseException] = []
    async with trio.open_nursery() as nursery:

        def start_soon(fn: Callable[[], Awaitable[object]]) -> None:
            nursery.start_soon(fn)

        side = ScopedTasks(start_soon, failed.append)
        await side.aclose()  # nothing runs
        side.start_soon(task)
        await wait_all_tasks_blocked()
        side.start_soon(task)  # has not begun yet
        await side.aclose()
        assert ended == [1, 1]
        assert not failed
        assert not nursery.child_tasks


async def test_an_alarm_that_became_due_while_the_machine_was_suspended_rings_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suspended = 0

    def steady_ns() -> int:
        return round(trio.current_time() * 1_000_000_000) + suspended

    monkeypatch.setattr(clock_module, "steady_ns", steady_ns)
    clock = clock_module.Clock(None)
    alarms = Alarms(clock)
    has_rung = trio.Event()
    alarms.set(clock.now() + 2 * 3600 * 1_000_000, has_rung.set)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarms.run)
        await trio.sleep(100)
        assert not has_rung.is_set()
        suspended = 3 * 3600 * 1_000_000_000
        with trio.fail_after(6):
            await has_rung.wait()
        nursery.cancel_scope.cancel()
