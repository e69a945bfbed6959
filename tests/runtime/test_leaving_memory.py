"""Dropping an actor has no effect that user code can see or cause."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa
import trio

from trio_romancy import (
    App,
    EntryKind,
    Limits,
    RetryPolicy,
    Status,
    WorkflowContext,
    WorkflowStuckError,
    activity,
    current_activity,
    workflow,
)
from trio_romancy._storage.sql.tables import instances

from ..support.databases import SHARED_KINDS
from ..support.probe import Probe, probe

ran: list[str] = []
caught: list[str] = []


@activity
async def note(what: str) -> str:
    ran.append(what)
    return what


@activity
async def long_note(what: str) -> str:
    await trio.sleep(3600)
    ran.append(what)
    return what


@workflow
async def guarded(ctx: WorkflowContext, waits: bool) -> str:
    try:
        await note("begun")
        if waits:
            await ctx.sleep(1000)
        else:
            await long_note("worked")
    except Exception as error:
        caught.append(repr(error))
    finally:
        with trio.CancelScope(shield=True):
            await note("finally")
    return "done"


@pytest.fixture(autouse=True)
def forget() -> None:
    ran.clear()
    caught.clear()


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("drop", ["passivate", "abandon", "crash"])
async def test_dropping_runs_nothing_of_the_user_and_the_workflow_goes_on(
    database: str, drop: str, waits: bool
) -> None:
    drops: dict[str, Callable[[Probe], None]] = {
        "passivate": Probe.release_idle,
        "abandon": Probe.abandon,
        "crash": Probe.crash_actors,
    }
    async with App(database, idle_timeout=10**6) as app:
        handle = await app.start(guarded, waits)
        await trio.sleep(10)
        drops[drop](probe(app))
        await trio.sleep(5)
        assert ran == ["begun"]
        assert await handle.result() == "done"
    assert not caught
    assert ran == (["begun", "finally"] if waits else ["begun", "worked", "finally"])


async def test_shutdown_hands_a_waiting_instance_back_without_running_anything(database: str) -> None:
    async with App(database) as app:
        await app.start(guarded, True)
        await trio.sleep(1)
    assert ran == ["begun"]
    assert not caught


async def test_an_idle_instance_leaves_memory_and_wakes_at_its_time(database: str) -> None:
    async with App(database, idle_timeout=10) as app:
        handle = await app.start(guarded, True)
        await trio.sleep(5)
        assert len(probe(app).residents) == 1
        await trio.sleep(10)
        instance = await app.get_instance(handle.instance_id)
        assert instance is not None
        assert (instance.status, instance.worker_id) == (Status.WAITING, None)
        assert len(probe(app).residents) == 0
        await handle.result()
        begun, fired, *_ = await app.history(handle.instance_id)
    assert (fired.recorded_at - begun.recorded_at).total_seconds() == pytest.approx(1000, abs=0.1)


async def test_a_month_of_sleep_takes_no_time(database: str) -> None:
    @workflow
    async def month(ctx: WorkflowContext) -> int:
        begun = ctx.now()
        for _ in range(30):
            await ctx.sleep(24 * 3600)
        return (ctx.now() - begun).days

    async with App(database) as app:
        assert await (await app.start(month)).result() == 30


async def test_more_than_max_resident_instances_are_passive_in_turn(database: str) -> None:
    async with App(database, max_resident=5, idle_timeout=10**6) as app:
        handles = [await app.start(guarded, True) for _ in range(20)]
        await trio.sleep(100)
        assert len(probe(app).residents) <= 5
        assert [await handle.result() for handle in handles] == ["done"] * 20


async def test_no_more_than_max_running_run_at_once_and_all_run_in_the_end(database: str) -> None:
    running = most = 0

    @activity
    async def counted() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await counted()

    async with App(database, max_running=3) as app:
        handles = [await app.start(flow) for _ in range(12)]
        for handle in handles:
            await handle.result()
    assert most == 3


async def test_a_crashed_actor_is_restarted_and_one_that_always_crashes_is_parked(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(guarded, True)
        await trio.sleep(1)
        for _ in range(10):
            probe(app).crash_actors()
            await trio.sleep(2)
        instance = await app.get_instance(handle.instance_id)
        assert instance is not None
        assert instance.status is Status.STUCK
        assert instance.error is not None
        assert instance.error.message == "a bug in the runtime"
        assert await app.resume(handle.instance_id)
        assert await handle.result() == "done"
        kinds = [entry.kind for entry in await app.history(handle.instance_id)]
    assert kinds.count(EntryKind.RESUMED) == 1
    assert ran == ["begun", "finally"]


async def test_only_deaths_without_progress_in_between_count_towards_parking(database: str) -> None:
    deaths = 0

    @activity
    async def fatal_once(number: int) -> int:
        nonlocal deaths
        if deaths <= number:
            deaths += 1
            probe(app).abandon()  # as if the process died now
            await trio.sleep_forever()
        return number

    @workflow
    async def flow(ctx: WorkflowContext) -> int:
        return sum([await fatal_once(number) for number in range(8)])

    async with App(database, limits=Limits(max_recoveries=1)) as app:
        assert await (await app.start(flow)).result() == sum(range(8))
    assert deaths == 8


async def test_deaths_without_progress_park_an_instance_after_max_recoveries(database: str) -> None:
    deaths = 0

    @activity
    async def fatal() -> None:
        nonlocal deaths
        deaths += 1
        probe(app).abandon()
        await trio.sleep_forever()

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await fatal()

    async with App(database, limits=Limits(max_recoveries=2)) as app:
        with pytest.raises(
            WorkflowStuckError, match="has died or lost its lease 3 times while it ran, and max_recoveries is 2"
        ):
            await (await app.start(flow)).result()
    assert deaths == 3


async def test_a_death_is_not_charged_to_an_instance_that_only_waits(database: str) -> None:
    begun = 0

    @activity
    async def step() -> None:
        nonlocal begun
        begun += 1

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await ctx.wait_event("leaving_memory_go")
        await step()

    async with App(database, limits=Limits(max_recoveries=0)) as app:
        handle = await app.start(flow)
        probe(app).abandon()  # before its status says that it waits
        await trio.sleep(100)
        await app.send_event("leaving_memory_go")
        await handle.result()
    assert begun == 1


@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_a_release_without_progress_forgets_no_death(database: str) -> None:
    """Otherwise an instance that takes its process down is never parked, if workers also end in order now and then."""
    claimed = trio.Event()

    @workflow(name="claimed_by_one_that_stops")
    async def flow(ctx: WorkflowContext) -> None:
        probe(app).drain_actors()
        probe(app).stop()
        claimed.set()
        await note("never")

    async with App(database, worker=False) as client:
        await client.start(flow.options(id="x"))
        await probe(client).write(lambda connection: connection.execute(sa.update(instances).values(recoveries=2)))
    async with App(database) as app:
        await claimed.wait()
    async with App(database, worker=False) as client:
        (row,) = await probe(client).read(
            lambda connection: connection.execute(
                sa.select(instances.c.owner, instances.c.status, instances.c.recoveries)
            ).all()
        )
    assert tuple(row) == (None, Status.PENDING, 2)
    assert ran == []


async def test_without_recoveries_the_first_death_of_an_activity_parks_its_instance(database: str) -> None:
    begun = 0

    @activity
    async def fatal() -> None:
        nonlocal begun
        begun += 1
        probe(app).abandon()
        await trio.sleep_forever()

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await fatal()

    async with App(database, limits=Limits(max_recoveries=0)) as app:
        with pytest.raises(WorkflowStuckError, match="lost its lease 1 times while it ran, and max_recoveries is 0"):
            await (await app.start(flow)).result()
    assert begun == 1


async def test_an_instance_is_not_released_on_a_journal_that_the_database_has_refused_to_write() -> None:
    @workflow
    async def tidies_up(ctx: WorkflowContext) -> str:
        try:
            await ctx.sleep(1000)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
        return "done"

    async with App(":memory:", idle_timeout=10**6) as app:
        handle = await app.start(tidies_up)
        await trio.sleep(10)
        probe(app).release_idle()
        await trio.sleep(1)  # it is being released, and its code has not come to its end
        probe(app).supervisor.refused(handle.instance_id, RuntimeError("what it recorded is refused"))
        await trio.sleep(10)
        assert probe(app).supervisor.statistics().restarts == 1
        assert probe(app).supervisor.is_resident(handle.instance_id)
        assert await handle.result() == "done"


@pytest.mark.parametrize("where", ["main task", "branch", "child task"])
async def test_an_instance_leaves_memory_while_its_only_activity_waits_for_the_next_attempt(where: str) -> None:
    resident: list[int] = []

    @activity(retry=RetryPolicy.fixed(4, 3600))
    async def fail_twice() -> str:
        if current_activity().attempt < 3:
            raise ConnectionError
        return "done"

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        if where == "main task":
            return await fail_twice()
        if where == "branch":
            with ctx.branch("b"):
                return await fail_twice()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_twice.options(id="a"))
        return "done"

    async with App(":memory:") as app:
        handle = await app.start(flow)
        for _ in range(2):
            await trio.sleep(1800)
            resident.append(len(probe(app).residents))
            await trio.sleep(1800)
        assert await handle.result() == "done"
    assert resident == [0, 0]
