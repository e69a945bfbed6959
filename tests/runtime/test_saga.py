"""Ordered compensation."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
import trio
from attrs import define

from trio_romancy import (
    App,
    EntryKind,
    Limits,
    RetryPolicy,
    Status,
    TerminalError,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowStuckError,
    activity,
    compensation,
    current_activity,
    workflow,
)

from ..support.probe import probe

undone: list[Any] = []
broken: set[str] = set()


@define
class Booking:
    code: str


@compensation(retry=RetryPolicy.fixed(2, 1))
async def unbook(result: Booking, place: str, seats: int) -> None:
    if place in broken:
        raise ConnectionError(f"{place} does not answer")
    undone.append((place, seats, result, current_activity().attempt))


@activity(compensation=unbook)
async def book(place: str, seats: int = 2, *, note: str = "") -> Booking:
    return Booking(f"{place}-{seats}")


@activity
async def fail(message: str) -> None:
    raise TerminalError(message)


@workflow
async def trip(ctx: WorkflowContext, fails: bool) -> str:
    await book("hotel")
    await book(seats=3, place="train", note="window")

    async def slow(place: str, seconds: float) -> None:
        with ctx.branch(place):
            await ctx.sleep(seconds)
            await book(place)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow, "zoo", 1)
        nursery.start_soon(slow, "opera", 2)
        nursery.start_soon(slow, "bar", 3)
    if fails:
        await fail("no money")
    await ctx.sleep(1000)
    return "travelled"


@pytest.fixture(autouse=True)
def forget() -> None:
    undone.clear()
    broken.clear()


PLACES = ["bar", "opera", "zoo", "train", "hotel"]


async def test_what_completed_is_compensated_in_reverse_order_with_the_arguments_of_its_activity(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(trip, True)
        with pytest.raises(WorkflowFailedError, match="no money") as caught:
            await handle.result()
        assert caught.value.uncompensated == []
        instance = await app.get_instance(handle.instance_id)
        entries = await app.history(handle.instance_id)
    assert [place for place, *_ in undone] == PLACES
    assert undone[3] == ("train", 3, Booking("train-3"), 1)
    assert undone[4] == ("hotel", 2, Booking("hotel-2"), 1)
    assert instance is not None
    assert instance.status is Status.FAILED
    done = [entry.operation_id for entry in entries if entry.kind is EntryKind.COMPENSATION_COMPLETED]
    assert done == [f"{id}/compensation" for id in ("bar/book:1", "opera/book:1", "zoo/book:1", "book:2", "book:1")]


async def test_a_cancelled_workflow_is_compensated_as_well(database: str) -> None:
    async with App(database, idle_timeout=1) as app:
        handle = await app.start(trip, False)
        await trio.sleep(100)
        assert await handle.cancel("rain")
        with pytest.raises(WorkflowCancelledError) as caught:
            await handle.result()
    assert caught.value.reason == "rain"
    assert [place for place, *_ in undone] == PLACES


async def test_a_compensation_that_fails_for_good_is_reported_the_others_run_and_resume_tries_it_again(
    database: str,
) -> None:
    broken.update({"opera", "hotel"})
    async with App(database) as app:
        handle = await app.start(trip, True)
        with pytest.raises(WorkflowFailedError, match="not compensated: book:1, opera/book:1") as caught:
            await handle.result()
        assert caught.value.uncompensated == ["book:1", "opera/book:1"]
        assert [place for place, *_ in undone] == ["bar", "zoo", "train"]
        broken.remove("hotel")
        assert await app.resume(handle.instance_id)
        with pytest.raises(WorkflowFailedError) as caught:
            await app.handle(handle.instance_id).result()
        assert caught.value.uncompensated == ["opera/book:1"]
        broken.clear()
        assert await app.resume(handle.instance_id)
        with pytest.raises(WorkflowFailedError) as caught:
            await app.handle(handle.instance_id).result()
        assert caught.value.uncompensated == []
        assert not await app.resume(handle.instance_id)
    assert [place for place, *_ in undone] == ["bar", "zoo", "train", "hotel", "opera"]


async def test_an_argument_the_compensation_needs_must_be_storable_before_the_activity_runs(database: str) -> None:
    ran: list[int] = []

    @compensation
    async def undo_payment(amount: float) -> None: ...

    @activity(compensation=undo_payment)
    async def do_pay(amount: float) -> None:
        ran.append(1)

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await do_pay(float("nan"))

    async with App(database) as app:
        with pytest.raises(WorkflowFailedError, match=r"argument 'amount' of activity 'do_pay'.*JSON has no nan"):
            await (await app.start(flow)).result()
    assert not ran


async def test_a_workflow_that_catches_the_failure_is_not_compensated(database: str) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await book("hotel")
        try:
            await fail("x")
        except Exception:
            return "went on"
        return "?"

    async with App(database) as app:
        assert await (await app.start(flow)).result() == "went on"
    assert not undone


async def test_an_activity_that_runs_when_its_sibling_fails_is_compensated_too(database: str) -> None:
    @compensation
    async def undo_slow() -> None:
        undone.append("slow")

    @activity(compensation=undo_slow)
    async def slow() -> None:
        await trio.sleep(50)

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow.options(id="slow"))
            nursery.start_soon(fail.options(id="fail"), "x")

    async with App(database) as app:
        with pytest.raises(WorkflowFailedError, match=r"'fail' failed"):
            await (await app.start(flow)).result()
    assert undone == ["slow"]


async def test_an_instance_that_does_not_fit_and_is_cancelled_is_rolled_back_also_through_sessions() -> None:
    fits = True

    @compensation
    async def strike() -> None:
        await current_activity().session.execute(sa.text("SELECT 1"))
        undone.append("struck")

    @activity(compensation=strike)
    async def enter() -> None:
        pass

    @workflow
    async def ledger(ctx: WorkflowContext) -> None:
        if not fits:
            await fail("asked for first")
        await enter()
        await ctx.sleep(1000)

    async with App(":memory:") as app:
        handle = await app.start(ledger)
        await trio.sleep(1)
        fits = False
        probe(app).crash_actors()
        with pytest.raises(WorkflowStuckError):
            await handle.result()
        assert await handle.cancel()
        await trio.sleep(1)
        with pytest.raises(WorkflowCancelledError):
            await handle.result(timeout=100)
    assert undone == ["struck"]


@pytest.mark.parametrize("how", ["resume", "cancel", "terminate"])
async def test_a_rollback_that_takes_its_worker_down_again_and_again_is_parked_and_can_be_steered(how: str) -> None:
    is_deadly = True
    deaths = 0

    @compensation
    async def defuse() -> None:
        nonlocal deaths
        if is_deadly:
            deaths += 1
            probe(app).abandon()  # as if the process died now
            await trio.sleep_forever()
        undone.append("defused")

    @activity(compensation=defuse)
    async def arm() -> None:
        pass

    @workflow
    async def bomb(ctx: WorkflowContext) -> None:
        await arm()
        await fail("it does not go off")

    async with App(":memory:", limits=Limits(max_recoveries=2)) as app:
        handle = await app.start(bomb)
        with pytest.raises(WorkflowStuckError, match="its worker has died or lost its lease 3 times"):
            await handle.result(timeout=1000)
        assert deaths == 3
        is_deadly = False
        await getattr(app, how)(handle.instance_id)
        error = WorkflowCancelledError if how == "terminate" else WorkflowFailedError
        with pytest.raises(error):
            await handle.result(timeout=1000)
        instance = await app.get_instance(handle.instance_id)
    assert undone == ([] if how == "terminate" else ["defused"])
    assert instance is not None and instance.error is not None
    assert list(instance.error.uncompensated) == (["arm:1"] if how == "terminate" else [])
