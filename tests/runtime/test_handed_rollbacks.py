"""A rollback on a worker that lacks a compensation goes on where there is one, in the same order, or is parked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from trio_romancy import (
    App,
    EntryKind,
    Status,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowStuckError,
    activity,
    compensation,
    workflow,
)
from trio_romancy._definitions.registry import registry
from trio_romancy._runtime.operations import compensation as compensation_module
from trio_romancy._runtime.run.run import InstanceRun
from trio_romancy.testing import explore_crashes
from trio_romancy.testing.crashes import How

undone: list[str] = []
lacking: dict[str, str] = {}
"""Name of the compensation that each worker lacks, by worker id."""


@compensation(name="handed_unreserve")
async def unreserve() -> None:
    undone.append("unreserve")


@compensation(name="handed_unpay")
async def unpay(amount: int) -> None:
    undone.append("unpay")


@compensation(name="handed_unship")
async def unship() -> None:
    undone.append("unship")


@activity(name="handed_reserve", compensation=unreserve)
async def reserve() -> None: ...


@activity(name="handed_pay", compensation=unpay)
async def pay(amount: int) -> None: ...


@activity(name="handed_ship", compensation=unship)
async def ship() -> None: ...


@workflow(name="handed_order")
async def order(ctx: WorkflowContext) -> None:
    await reserve()
    await pay(5)
    await ship()
    await ctx.wait_event("failed")
    raise ValueError("not delivered")


@pytest.fixture(autouse=True)
def code_of_each_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    works = compensation_module._bound

    def bound(run: InstanceRun, undo: Any) -> Any:
        with monkeypatch.context() as patch:
            if lacking.get(run.env.journal.lease.worker_id) == undo.name:
                patch.setattr(registry, "find_compensation", lambda name: None)
            return works(run, undo)

    monkeypatch.setattr(compensation_module, "_bound", bound)
    undone.clear()
    lacking.clear()
    yield


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["failed", "cancelled"])
@pytest.mark.parametrize("lacks", [unship, unpay, unreserve], ids=lambda each: each.name)
async def test_a_rollback_without_code_for_it_is_parked_before_it_begins_and_goes_on_after_a_deployment(
    lacks: Any, is_cancelled: bool
) -> None:
    lacking["me"] = lacks.name
    async with App(":memory:", worker_id="me") as app:
        handle = await app.start(order.options(id="x"))
        await trio.sleep(1)
        if is_cancelled:
            await handle.cancel()
        else:
            await app.send_event("failed")
        with pytest.raises(WorkflowStuckError, match=f"by compensation .{lacks.name}., which is not defined") as caught:
            await handle.result()
        assert caught.value.error_type == "trio_romancy.NonDeterminismError"
        assert undone == []
        lacking.clear()
        assert await app.resume("x")
        with pytest.raises(WorkflowCancelledError if is_cancelled else WorkflowFailedError):
            await handle.result()
        assert undone == ["unship", "unpay", "unreserve"]
        instance = await app.get_instance("x")
        assert instance is not None
        assert instance.error is not None
        assert instance.error.uncompensated == []


async def test_a_rollback_is_left_to_a_worker_that_has_the_compensation(tmp_path: Path) -> None:
    lacking["new"] = unship.name
    database = str(tmp_path / "romancy.db")
    async with App(database, worker_id="new", code_version="2", idle_timeout=0.1) as new:
        await new.start(order.options(id="x"))
        await trio.sleep(5)
        async with App(database, worker_id="old", code_version="1") as old:
            await new.send_event("failed")
            with pytest.raises(WorkflowFailedError, match="not delivered"):
                await old.handle("x").result()
    assert undone == ["unship", "unpay", "unreserve"]


async def test_a_rollback_that_has_begun_is_left_to_a_worker_with_the_rest(tmp_path: Path) -> None:
    """The code changes in the middle: the worker that began it comes back without a compensation."""
    database = str(tmp_path / "romancy.db")
    begun = trio.Event()

    @compensation(name="handed_slow")
    async def slow() -> None:
        undone.append("slow")
        begun.set()
        await trio.sleep(20)

    @activity(name="handed_last", compensation=slow)
    async def last() -> None: ...

    @workflow(name="handed_long_order")
    async def long_order(ctx: WorkflowContext) -> None:
        await reserve()
        await last()
        raise ValueError("not delivered")

    async with App(database, worker_id="first", code_version="1", shutdown_timeout=60) as first:
        await first.start(long_order.options(id="x"))
        await begun.wait()
    lacking["new"] = unreserve.name
    async with App(database, worker_id="new", code_version="2") as new:
        with pytest.raises(WorkflowStuckError, match="handed_unreserve"):
            await new.handle("x").result()
        async with App(database, worker_id="old", code_version="1") as old:
            with pytest.raises(WorkflowFailedError, match="not delivered"):
                await old.handle("x").result()
    assert undone == ["slow", "unreserve"]


@pytest.mark.parametrize("how", [How.WORKER_BEFORE, How.WORKER_AFTER])
def test_a_rollback_that_is_handed_over_survives_a_crash_at_each_commit(how: How, tmp_path: Path) -> None:
    names = iter(range(1_000))

    async def scenario(app: App) -> tuple[str, list[str]]:
        undone.clear()
        lacking["new"] = unship.name
        handle = await app.start(order.options(id="x"))
        await app.send_event("failed", to="x")
        with pytest.raises(WorkflowStuckError):
            await handle.result()
        async with App(databases[-1], worker_id="old", code_version="1") as old:
            with pytest.raises(WorkflowFailedError):
                await old.handle("x").result()
            kinds = [entry.kind for entry in await old.history("x")]
        assert kinds.count(EntryKind.COMPENSATION_COMPLETED) == 3
        once = list(dict.fromkeys(undone))
        return str(Status.FAILED), once

    databases: list[str] = []

    def new_database() -> str:
        databases.append(str(tmp_path / f"{next(names)}.db"))
        return databases[-1]

    explored = explore_crashes(
        scenario, hows=[how], new_database=new_database, worker_id="new", code_version="2", lease=2
    )
    assert explored.reference.result[1] == ["unship", "unpay", "unreserve"]
