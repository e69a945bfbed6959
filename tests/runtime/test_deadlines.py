"""An instance is cancelled at its deadline, once, and what it has done is undone, whatever it is doing then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from sqlalchemy import Connection

from trio_romancy import (
    App,
    ChildWorkflowError,
    RetryPolicy,
    Status,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    compensation,
    current_activity,
    workflow,
)
from trio_romancy.clock import VIRTUAL_EPOCH, current_clock, to_datetime

from ..support.databases import SHARED_KINDS
from ..support.probe import probe

BEGIN = to_datetime(VIRTUAL_EPOCH)

log: list[tuple[str, float]] = []
"""What was done, and after how many seconds."""


@pytest.fixture(autouse=True)
def forget() -> None:
    log.clear()


def note(what: str) -> None:
    log.append((what, round((current_clock().now() - VIRTUAL_EPOCH) / 1e6, 3)))


@compensation
async def deadlines_unbook(what: str, takes: float = 0.0) -> None:
    await trio.sleep(takes)
    note(f"unbook {what}")


@activity(compensation=deadlines_unbook)
async def deadlines_book(what: str, takes: float = 0.0) -> None:
    await trio.sleep(takes)
    note(f"book {what}")


@workflow(name="deadlines_trip")
async def trip(ctx: WorkflowContext, takes: float = 0.0, waits: float = 1e6, fails: bool = False) -> str:
    await deadlines_book("hotel")
    await deadlines_book("flight", takes)
    if fails:
        raise ValueError("no visa")
    await ctx.sleep(waits)
    return "home"


@pytest.mark.parametrize("idle_timeout", [0.5, 1e6], ids=["passive", "resident"])
async def test_a_waiting_instance_is_cancelled_and_compensated_at_its_deadline(
    database: str, idle_timeout: float
) -> None:
    async with App(database, idle_timeout=idle_timeout) as app:
        handle = await app.start(trip.options(deadline=timedelta(minutes=1)))
        instance = await app.get_instance(handle.instance_id)
        assert instance is not None
        assert instance.deadline == BEGIN + timedelta(minutes=1)
        with pytest.raises(WorkflowCancelledError, match=r"its deadline, 2023-11-14T22:14:20\+00:00, has passed"):
            await handle.result()
        await trio.sleep(10_000)
        instance = await app.get_instance(handle.instance_id)
    assert log == [("book hotel", 0), ("book flight", 0), ("unbook flight", 60), ("unbook hotel", 60)]
    assert instance is not None
    assert (instance.status, instance.deadline) == (Status.CANCELLED, None)


async def test_an_activity_that_runs_at_the_deadline_runs_to_its_outcome_and_is_compensated(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(trip.options(deadline=60), takes=100.0)
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
    assert log == [("book hotel", 0), ("book flight", 100), ("unbook flight", 200), ("unbook hotel", 200)]


async def test_a_deadline_during_a_rollback_changes_nothing(database: str) -> None:
    @workflow(name="deadlines_slow_rollback")
    async def slow_rollback(ctx: WorkflowContext) -> None:
        await deadlines_book("hotel", 50.0)
        raise ValueError("no visa")

    async with App(database) as app:
        handle = await app.start(slow_rollback.options(deadline=75))
        with pytest.raises(WorkflowFailedError, match="no visa"):
            await handle.result()
        await trio.sleep(100)
        instance = await app.get_instance(handle.instance_id)
    assert log == [("book hotel", 50), ("unbook hotel", 100)]
    assert instance is not None
    assert instance.status is Status.FAILED


async def test_an_instance_that_ends_in_time_is_not_touched(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(trip.options(deadline=60), waits=59.0)
        assert await handle.result() == "home"
        await trio.sleep(100)
        instance = await app.get_instance(handle.instance_id)
    assert instance is not None
    assert (instance.status, instance.cancel_requested) == (Status.COMPLETED, None)


async def test_a_deadline_that_passed_while_no_worker_lived_counts_when_one_is_there(
    tmp_path: Any, nobody_polls: None
) -> None:
    database = str(tmp_path / "deadlines.db")
    async with App(database) as app:
        handle = await app.start(trip.options(deadline=60))
        await trio.sleep(10)
    await trio.sleep(1000)
    async with App(database) as app:
        with pytest.raises(WorkflowCancelledError):
            await app.handle(handle.instance_id).result()
    assert [what for what, _ in log] == ["book hotel", "book flight", "unbook flight", "unbook hotel"]


async def test_a_deadline_survives_crashes_and_a_lost_lease(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(trip.options(deadline=60))
        await trio.sleep(10)
        probe(app).crash_actors()
        await trio.sleep(10)
        probe(app).abandon()
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
    assert log[-1] == ("unbook hotel", 60)
    assert len(log) == 4


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_of_two_workers_one_cancels_an_instance_and_a_client_sees_it(database: str) -> None:
    async with App(database), App(database), App(database, worker=False) as client:
        handles = [await client.start(trip.options(deadline=0.5)) for _ in range(3)]
        for handle in handles:
            with pytest.raises(WorkflowCancelledError):
                await handle.result(timeout=60)
    assert sorted(what for what, _ in log) == [
        f"{what} {of}" for what in ("book", "unbook") for of in ("flight", "hotel") for _ in range(3)
    ]


async def test_the_deadline_of_a_chain_cancels_its_last_instance(database: str) -> None:
    @workflow(name="deadlines_rounds")
    async def rounds(ctx: WorkflowContext, number: int) -> None:
        await deadlines_book(str(number))
        await ctx.sleep(25)
        ctx.recur(number + 1)

    async with App(database) as app:
        handle = await app.start(rounds.options(id="rounds", deadline=60), 0)
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
    assert log == [("book 0", 0), ("book 1", 25), ("book 2", 50), ("unbook 2", 60)]


@pytest.mark.parametrize("id", [None, "child"])
async def test_a_child_has_a_deadline_of_its_own(database: str, id: str | None) -> None:
    @workflow(name="deadlines_parent")
    async def parent(ctx: WorkflowContext) -> str:
        try:
            await ctx.run(trip.options(id=id, deadline=60))
        except ChildWorkflowError as error:
            return f"{error.status} after {(ctx.now() - BEGIN).total_seconds():.0f} s"
        return "in time"

    async with App(database) as app:
        assert await (await app.start(parent)).result() == "cancelled after 60 s"


@pytest.mark.parametrize("times", [{"delay": 300}, {"at": BEGIN + timedelta(minutes=5)}], ids=["delay", "at"])
async def test_a_delayed_instance_begins_at_its_time(database: str, times: Any) -> None:
    async with App(database) as app:
        handle = await app.start(trip.options(**times), waits=0.0)
        instance = await app.get_instance(handle.instance_id)
        assert instance is not None
        assert (instance.status, instance.not_before) == (Status.PENDING, BEGIN + timedelta(minutes=5))
        assert await handle.result() == "home"
    assert log == [("book hotel", 300), ("book flight", 300)]


async def test_a_time_in_the_past_is_now(database: str) -> None:
    async with App(database) as app:
        await (await app.start(trip.options(at=datetime(2020, 1, 1, tzinfo=UTC)), waits=0.0)).result()
    assert log == [("book hotel", 0), ("book flight", 0)]


async def test_a_delayed_instance_survives_restarts_and_can_be_cancelled_before(
    tmp_path: Any, nobody_polls: None
) -> None:
    database = str(tmp_path / "deadlines.db")
    async with App(database) as app:
        await app.start(trip.options(id="one", delay=300), waits=0.0)
        await app.start(trip.options(id="two", delay=300), waits=0.0)
        await app.start(trip.options(id="one", delay=5), waits=0.0)  # the first start counts
    await trio.sleep(100)
    async with App(database) as app:
        assert await app.cancel("two")
        with pytest.raises(WorkflowCancelledError):
            await app.handle("two").result()
        assert log == []
        await app.handle("one").result()
    assert log == [("book hotel", 300), ("book flight", 300)]


async def test_an_event_does_not_wake_a_delayed_instance(database: str) -> None:
    @workflow(name="deadlines_listens")
    async def listens(ctx: WorkflowContext) -> float:
        event = await ctx.wait_event("go")
        assert event.data == 1
        return (ctx.now() - BEGIN).total_seconds()

    async with App(database) as app:
        handle = await app.start(listens.options(id="x", delay=60))
        await app.send_event("go", 1, to="x")
        assert await handle.result() >= 60


async def test_an_activity_and_a_transaction_start_with_times(database: str) -> None:
    @activity(name="deadlines_starts")
    async def starts() -> str:
        return await current_activity().start(trip.options(deadline=60))

    @workflow(name="deadlines_starter")
    async def starter(ctx: WorkflowContext) -> str:
        return await starts()

    async with App(database) as app:
        id = await (await app.start(starter)).result()
        async with app.transaction() as tx:
            other = await tx.start(trip.options(deadline=120))
        for instance_id in (id, other.instance_id):
            with pytest.raises(WorkflowCancelledError):
                await app.handle(instance_id).result()
    assert [when for _, when in log] == [0, 0, 0, 0, 60, 60, 120, 120]


async def test_a_retry_after_the_deadline_has_none(database: str) -> None:
    tries: list[int] = []

    @activity(name="deadlines_flaky", retry=RetryPolicy.no_retry())
    async def flaky() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("once")
        return "well"

    @workflow(name="deadlines_flaky_workflow")
    async def flaky_workflow(ctx: WorkflowContext) -> str:
        answer = await flaky()
        await ctx.sleep(100)
        return answer

    async with App(database) as app:
        handle = await app.start(flaky_workflow.options(deadline=60))
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        await trio.sleep(70)
        assert await app.retry(handle.instance_id)
        assert await handle.result() == "well"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": 5, "at": BEGIN}, "after a delay or at a time, not both"),
        ({"delay": -1}, "delay is a duration from zero on"),
        ({"delay": float("inf")}, "delay is a duration from zero on, with an end"),
        ({"deadline": 0}, "the deadline is later than the start"),
        ({"delay": 10, "deadline": 5}, "the deadline is later than the start, and than the delay"),
        ({"at": datetime(2030, 1, 1)}, "at: .* has no time zone"),
        ({"at": 5}, "at is an aware datetime, not 5"),
        ({"deadline": "soon"}, "deadline: a duration is a number"),
    ],
)
def test_times_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trip.options(**options)


def test_options_add_up() -> None:
    both = trip.options(delay=5).options(deadline=10).options(id="x")
    assert (both.id, both.times) == ("x", trip.options(delay=5, deadline=10).times)
    assert trip.options(delay=5, deadline=9).options(delay=6).times == trip.options(delay=6, deadline=9).times


@pytest.mark.parametrize("damaged", ["'tomorrow'", "-9000000000000000000", "x'ff00'"])
async def test_a_damaged_deadline_keeps_no_other_instance_from_its_own(damaged: str, tmp_path: Path) -> None:
    def spoil(connection: Connection) -> None:
        connection.exec_driver_sql(f"UPDATE romancy_instances SET deadline = {damaged} WHERE instance_id = 'spoilt'")

    async with App(str(tmp_path / "shop.db")) as app:
        await app.start(trip.options(id="spoilt", deadline=1_000_000))
        await probe(app).write(spoil)
        await trio.sleep(2)  # it is the only one
        with pytest.raises(WorkflowCancelledError):
            await (await app.start(trip.options(deadline=5))).result()
