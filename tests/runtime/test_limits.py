"""Limits of activities: what is held back, when it goes on, and what a cancellation and a crash make of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from trio_romancy import (
    App,
    DefinitionError,
    EntryKind,
    InvalidInputError,
    Limit,
    Rate,
    Status,
    WorkflowCancelledError,
    WorkflowContext,
    activity,
    workflow,
)

RUNNING: list[str] = []
BEGUN: list[tuple[float, str]] = []
LARGEST: dict[str, int] = {}


@pytest.fixture(autouse=True)
def nothing_runs() -> Iterator[None]:
    for one in (RUNNING, BEGUN, LARGEST):
        one.clear()
    yield
    assert RUNNING == []


async def work(name: str, seconds: float) -> None:
    BEGUN.append((trio.current_time(), name))
    RUNNING.append(name)
    LARGEST[name] = max(LARGEST.get(name, 0), RUNNING.count(name))
    try:
        await trio.sleep(seconds)
    finally:
        RUNNING.remove(name)


few = Limit("few", concurrent=2)
per_key = Limit("per key", concurrent=1, key=lambda key, seconds: key)
slow_rate = Limit("slow", rate=Rate(10, per=10))
bursts = Limit("bursts", rate=Rate(10, per=10, burst=3))
heavy = Limit("heavy", concurrent=10, cost=lambda name, cost: cost)


@activity(limits=[few])
async def limited(name: str, seconds: float) -> str:
    await work(name, seconds)
    return name


@activity(limits=[per_key])
async def keyed(key: str, seconds: float) -> None:
    await work(key, seconds)


@activity(limits=[slow_rate])
async def paced(name: str) -> None:
    await work(name, 0)


@activity(limits=[bursts])
async def bursting(name: str) -> None:
    await work(name, 0)


@activity(limits=[heavy])
async def weighty(name: str, cost: int) -> None:
    await work(name, 1)


@workflow(name="limits_one")
async def one(ctx: WorkflowContext, name: str, seconds: float) -> str:
    return await limited(name, seconds)


@workflow(name="limits_keyed")
async def of_key(ctx: WorkflowContext, key: str) -> None:
    await keyed(key, 1)


@workflow(name="limits_paced")
async def in_pace(ctx: WorkflowContext, name: str) -> None:
    await (bursting if name == "burst" else paced)(name)


@workflow(name="limits_weighty")
async def of_weight(ctx: WorkflowContext, cost: int) -> None:
    await weighty("weighty", cost)


async def test_no_more_attempts_run_than_the_limit_says_and_all_of_them_do(database: str) -> None:
    async with App(database) as app:
        handles = [await app.start(one, "a", 1) for _ in range(7)]
        for handle in handles:
            assert await handle.result(timeout=60) == "a"
        (info,) = await app.limits()
    assert LARGEST == {"a": 2}
    assert len(BEGUN) == 7
    assert (info.name, info.concurrent, info.rate, info.taken, info.waiting) == ("few", 2, None, 0, 0)


async def test_each_key_has_the_limit_for_itself() -> None:
    async with App(":memory:") as app:
        handles = [await app.start(of_key, key) for key in "aaabb"]
        for handle in handles:
            await handle.result(timeout=60)
    assert LARGEST == {"a": 1, "b": 1}
    assert BEGUN[1][0] - BEGUN[0][0] < 0.5


async def test_attempts_begin_no_faster_than_the_rate_says(database: str) -> None:
    async with App(database) as app:
        handles = [await app.start(in_pace, "paced") for _ in range(8)]
        for handle in handles:
            await handle.result(timeout=60)
    begun = sorted(time for time, _ in BEGUN)
    assert len(begun) == 8
    assert min(after - before for before, after in pairwise(begun)) >= 1.0
    assert begun[-1] - begun[0] <= 7 * 1.05 + 1


async def test_a_burst_begins_at_once_and_the_rest_at_the_rate() -> None:
    async with App(":memory:") as app:
        handles = [await app.start(in_pace, "burst") for _ in range(5)]
        for handle in handles:
            await handle.result(timeout=60)
    begun = sorted(time for time, _ in BEGUN)
    assert begun[2] - begun[0] < 0.6
    assert begun[4] - begun[0] > 1.5


async def test_an_attempt_that_costs_more_than_the_limit_runs_alone() -> None:
    async with App(":memory:") as app:
        handles = [await app.start(of_weight, cost) for cost in (5, 5, 100, 5)]
        for handle in handles:
            await handle.result(timeout=60)
    assert LARGEST == {"weighty": 2}
    times = [round(time - BEGUN[0][0]) for time, _ in BEGUN]
    assert times == [0, 0, 1, 2]


async def test_an_instance_that_a_limit_holds_back_says_so_with_its_place(database: str) -> None:
    async with App(database) as app:
        for _ in range(2):
            await app.start(one, "a", 5)
        await trio.sleep(0.1)
        held = []
        for _ in range(2):
            held.append(await app.start(one, "a", 5))
            await trio.sleep(0.1)  # of two that come at the same time, either may be the first
        await trio.sleep(2)
        for place, handle in enumerate(held, start=1):
            found = await app.get_instance(handle.instance_id)
            assert found is not None
            assert found.status is Status.WAITING
            (pending,) = found.waits_for
            assert (pending.limit, pending.limit_key, pending.limit_place) == ("few", None, place)
            assert pending.running_since is None


async def test_what_a_limit_holds_back_leaves_memory_and_comes_back(database: str) -> None:
    async with App(database, idle_timeout=0.5) as app:
        handles = [await app.start(one, "a", 5) for _ in range(4)]
        await trio.sleep(3)
        assert app.statistics().worker.supervisor.resident == 2  # type: ignore[union-attr]
        for handle in handles:
            await handle.result(timeout=60)
    assert LARGEST == {"a": 2}
    assert len(BEGUN) == 4


async def test_a_cancellation_reaches_an_attempt_that_a_limit_holds_back_and_frees_its_place(database: str) -> None:
    async with App(database) as app:
        running = [await app.start(one, "a", 5) for _ in range(2)]
        await trio.sleep(0.1)
        held = await app.start(one, "never", 5)
        after = await app.start(one, "after", 5)
        await trio.sleep(1)
        await held.cancel()
        with pytest.raises(WorkflowCancelledError):
            await held.result(timeout=3)
        kinds = [entry.kind for entry in await app.history(held.instance_id)]
        assert EntryKind.ACTIVITY_CANCELLED in kinds
        for handle in (*running, after):
            await handle.result(timeout=60)
        (info,) = await app.limits()
        assert (info.taken, info.waiting) == (0, 0)
    assert "never" not in LARGEST


async def test_a_limit_is_changed_while_attempts_wait(database: str) -> None:
    async with App(database) as app:
        with pytest.raises(InvalidInputError, match="no limit 'few'"):
            await app.set_limit("few", concurrent=3)
        handles = [await app.start(one, "a", 10) for _ in range(6)]
        await trio.sleep(1)
        assert RUNNING.count("a") == 2
        await app.set_limit("few", concurrent=5)
        await trio.sleep(1)
        assert RUNNING.count("a") == 5
        await app.set_limit("few", concurrent=0)
        await trio.sleep(20)
        assert RUNNING == []
        await app.set_limit("few", concurrent=math.inf)
        for handle in handles:
            await handle.result(timeout=60)


async def test_a_limit_that_was_set_is_not_set_back_by_the_code(tmp_path: Path) -> None:
    for _ in range(2):
        async with App(str(tmp_path / "a.db")) as app:
            await (await app.start(one, "a", 1)).result(timeout=60)
            (info,) = await app.limits()
            assert info.is_set is False or (info.concurrent, info.is_set) == (None, True)
            await app.set_limit("few", concurrent=math.inf)
    assert info.is_set


async def test_a_failed_attempt_frees_its_permit_before_the_next() -> None:
    async with App(":memory:") as app:
        handle = await app.start(failing_twice)
        assert await handle.result(timeout=60) == 3
        (info,) = [one for one in await app.limits() if one.name == "alone"]
        assert (info.taken, info.waiting) == (0, 0)


alone = Limit("alone", concurrent=1)
ATTEMPTS: list[int] = []


@activity(limits=[alone])
async def fails_twice() -> int:
    ATTEMPTS.append(1)
    if len(ATTEMPTS) < 3:
        raise ConnectionError("away")
    return len(ATTEMPTS)


@workflow(name="limits_failing_twice")
async def failing_twice(ctx: WorkflowContext) -> int:
    ATTEMPTS.clear()
    return await fails_twice()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Limit("", concurrent=1), "a limit has a name"),
        (lambda: Limit("x", concurrent=0), "concurrent is a whole number of at least 1, not 0"),
        (lambda: Limit("x", cost=0), "a cost is a whole number of at least 1"),
        (lambda: Rate(0, per=1), "n is a whole number of at least 1"),
        (lambda: Rate(1, per=0), "the period is 0.001 to"),
        (lambda: activity(limits=[few, Limit("few")])(lambda: None), "different names"),
        (lambda: activity(limits=["few"])(lambda: None), "must be a Limit"),  # type: ignore[list-item]
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(make: object, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        make()  # type: ignore[operator]


async def test_a_terminated_instance_frees_the_permit_of_the_attempt_that_is_torn_down(database: str) -> None:
    async with App(database) as app:
        running = [await app.start(one, "a", 1000) for _ in range(2)]
        await trio.sleep(0.1)
        held = await app.start(one, "after", 1)
        await trio.sleep(1)
        await running[0].terminate()
        assert await held.result(timeout=10) == "after"
        await running[1].terminate()
