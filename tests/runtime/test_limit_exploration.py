"""At each commit the worker may die: no limit is exceeded, no permit is lost, and nothing waits in vain."""

from __future__ import annotations

from functools import partial

import pytest
import trio

from trio_romancy import ActivityError, App, Limit, Rate, RetryPolicy, WorkflowContext, activity, compensation, workflow
from trio_romancy.testing import explore_crashes

pytestmark = pytest.mark.long

narrow = Limit("narrow", concurrent=1)
wide = Limit("wide", concurrent=2, rate=Rate(2, per=1), key=lambda name, fails: name[0])
RUNNING: list[str] = []


@compensation
async def undo(name: str) -> None: ...


@activity(limits=[wide, narrow], compensation=undo, retry=RetryPolicy.fixed(2, 0.5))
async def work(name: str, fails: bool) -> str:
    assert not RUNNING, f"{name} runs beside {RUNNING}"
    RUNNING.append(name)
    try:
        await trio.sleep(0.2)
        if fails:
            raise ConnectionError("away")
        return name
    finally:
        RUNNING.remove(name)


@workflow(name="limit_exploration")
async def flow(ctx: WorkflowContext, name: str) -> str:
    await work(f"{name}-1", False)
    try:
        await work(f"{name}-2", name == "b")
    except ActivityError:
        await work(f"{name}-3", False)
        raise
    return name


async def scenario(app: App, names: str) -> list[str]:
    RUNNING.clear()
    found = []
    handles = [await app.start(flow.options(id=name), name) for name in names]
    for handle in handles:
        try:
            found.append(await handle.result(timeout=600))
        except Exception as error:
            found.append(type(error).__name__)
    return found


def test_a_worker_may_die_at_each_commit_and_no_permit_is_lost() -> None:
    explored = explore_crashes(partial(scenario, names="ab"))
    assert explored.reference.result == ["a", "WorkflowFailedError"]
    assert explored.points > 50


def test_instances_that_leave_memory_at_once_lose_no_permit() -> None:
    explore_crashes(partial(scenario, names="acd"), idle_timeout=0)
