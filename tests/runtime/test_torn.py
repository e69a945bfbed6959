"""When trio's run breaks down, the coroutines that it leaves end as soon as Python closes them, whatever they did."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from trio_romancy import App, WorkflowContext, activity, compensation, workflow
from trio_romancy._tasks.leavable import Leavable

from ..support.probe import probe

ran: list[str] = []
Scenario = Callable[[App], Awaitable[object]]


@pytest.fixture(autouse=True)
def nothing_ran() -> Iterator[None]:
    ran.clear()
    yield
    gc.collect()


@compensation(name="torn_undo")
async def undo() -> None:
    ran.append("undo")
    await trio.sleep_forever()


@activity(name="torn_act", compensation=undo)
async def act(seconds: float) -> None:
    ran.append("act")
    await trio.sleep(seconds)


@activity(name="torn_act_in_time", timeout=1e6)
async def act_in_time() -> None:
    ran.append("act")
    await trio.sleep_forever()


@workflow(name="torn_flow")
async def flow(ctx: WorkflowContext, what: str) -> None:
    match what:
        case "sleep":
            await ctx.sleep(1e6)
        case "activity":
            await act(1e6)
        case "activity with a timeout":
            await act_in_time()
        case "event":
            await ctx.wait_event("never")
        case "child tasks":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ctx.sleep, 1e6)
                nursery.start_soon(act.options(id="act"), 1e6)
        case "loop":
            while True:
                try:
                    await ctx.sleep(1e6)
                except BaseException:
                    ran.append("loops")
        case "compensation":
            await act(0)
            raise ValueError("undo it")
        case "nothing":
            pass


async def is_restarted(app: App) -> None:
    await app.start(flow, "sleep")
    await trio.sleep(1)
    probe(app).crash_actors()
    await trio.testing.wait_all_tasks_blocked()


def does(what: str) -> Scenario:
    async def scenario(app: App) -> None:
        await app.start(flow, what)
        await trio.sleep(1)

    return scenario


def breaks_down(self: trio.testing.MockClock, deadline: float) -> float:
    raise ZeroDivisionError


def tasks_of(task: trio.lowlevel.Task) -> list[trio.lowlevel.Task]:
    children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return [task, *(one for child in children for one in tasks_of(child))]


DOING = ["sleep", "activity", "activity with a timeout", "event", "child tasks", "loop", "compensation", "nothing"]
SCENARIOS = {"restart": is_restarted} | {what: does(what) for what in DOING}


def close(tasks: list[trio.lowlevel.Task]) -> None:
    for task in tasks:
        with suppress(Exception):  # trio's scopes and nurseries ask for the current task when they are left
            task.coro.close()


@pytest.mark.parametrize("when", ["during the run", "after the run"])
@pytest.mark.parametrize("doing", SCENARIOS)
def test_the_coroutines_of_an_app_end_when_they_are_closed(
    doing: str, when: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[trio.lowlevel.Task] = []
    actors: list[trio.lowlevel.Task] = []
    before: list[str] = []

    async def main() -> None:
        async with App(":memory:") as app:
            await SCENARIOS[doing](app)
            root = trio.lowlevel.current_root_task()
            assert root is not None
            tasks.extend(tasks_of(root))
            actors.extend(task for task in tasks if "_run_assignments" in getattr(task.coro, "__qualname__", ""))
            before.extend(ran)
            caplog.clear()
            if when == "during the run":
                close(actors)
            monkeypatch.setattr(trio.testing.MockClock, "deadline_to_sleep_time", breaks_down)
            await trio.sleep_forever()

    with pytest.raises(trio.TrioInternalError):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert actors
    close([*actors, *tasks])
    assert {inspect.getcoroutinestate(task.coro) for task in actors} == {inspect.CORO_CLOSED}
    assert ran == before
    assert [one.getMessage() for one in caplog.records if one.name == "trio_romancy.supervisor"] == []


async def test_a_leavable_coroutine_that_is_closed_runs_no_more_unless_it_has_not_begun() -> None:
    async def loop() -> Any:
        while True:
            ran.append("step")
            try:
                await trio.sleep_forever()
            except BaseException:
                ran.append("caught")

    task = trio.lowlevel.current_task()
    begun = Leavable(loop(), task, lambda _: None)
    begun.send(None)
    begun.close()
    del begun
    Leavable(loop(), task, lambda _: None).close()
    gc.collect()
    assert ran == ["step"]
