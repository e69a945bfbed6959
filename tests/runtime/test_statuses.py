"""The status of an instance changes only as the table of statuses allows, and every change of the table happens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import sqlalchemy as sa
import trio

from trio_romancy import (
    App,
    Status,
    TerminalError,
    WorkflowContext,
    WorkflowError,
    activity,
    compensation,
    workflow,
)
from trio_romancy._data.end_request import EndRequest
from trio_romancy._runtime.run.saga import to_undo
from trio_romancy._storage.sql import incompatible
from trio_romancy._storage.sql.instances import insert_instances, new_row, update_instances, update_row
from trio_romancy._storage.sql.statuses import NEXT
from trio_romancy._storage.sql.termination import request_termination

from ..support.probe import probe

Change = tuple[Status, Status]

P, R, W, C = Status.PENDING, Status.RUNNING, Status.WAITING, Status.COMPENSATING
COMPLETED, FAILED, CANCELLED, RECURRED = Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.RECURRED
STUCK = Status.STUCK

LEGAL = {(before, after) for before in Status for after in NEXT[before]}

works = True
"""Whether what can fail here works."""
fits = True
"""Whether the code asks for what the journal holds."""


@pytest.fixture(autouse=True)
def repair() -> None:
    global works, fits
    works = fits = True


@compensation(name="statuses_undo")
async def undo(seconds: float) -> None:
    if not works:
        raise TerminalError("cannot be undone")
    await trio.sleep(seconds)


@activity(name="statuses_do", compensation=undo)
async def do(seconds: float) -> None:
    pass


@activity(name="statuses_work")
async def work() -> None:
    if not works:
        raise TerminalError("broken")
    await trio.sleep(100)


@workflow(name="statuses")
async def steps(ctx: WorkflowContext, plan: list[str]) -> None:
    if not fits:
        await work.options(id="something else")()
    for step in plan:
        await take(ctx, step)


@workflow(name="statuses_child")
async def child(ctx: WorkflowContext) -> None:
    await do(1)


@workflow(name="statuses_sleeper")
async def sleeper(ctx: WorkflowContext) -> None:
    await ctx.sleep(100)


async def take(ctx: WorkflowContext, step: str) -> None:
    match step:
        case "family":
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def beside() -> None:
                    with ctx.branch("beside"):
                        await ctx.run(sleeper)

                await ctx.sleep(5)
                await work()
        case "do":
            await do(10)
        case "work":
            await work()
        case "wait":
            await ctx.sleep(100)
        case "child":
            await ctx.run(child)
        case "fail":
            raise TerminalError("failed")
        case "recur":
            ctx.recur([])


@asynccontextmanager
async def observed() -> AsyncIterator[tuple[App, list[Change]]]:
    """Open an app whose database notes each change of a status."""
    changes: list[Change] = []

    def note(connection: sa.Connection) -> None:
        connection.execute(sa.text("CREATE TABLE seen (number INTEGER PRIMARY KEY, before TEXT, after TEXT)"))
        connection.execute(
            sa.text(
                "CREATE TRIGGER seen AFTER UPDATE OF status ON romancy_instances WHEN OLD.status <> NEW.status "
                "BEGIN INSERT INTO seen (before, after) VALUES (OLD.status, NEW.status); END"
            )
        )

    def noted(connection: sa.Connection) -> list[Change]:
        rows = connection.execute(sa.text("SELECT before, after FROM seen ORDER BY number"))
        return [(Status(before), Status(after)) for before, after in rows]

    async with App(":memory:", idle_timeout=10**6) as app:
        await probe(app).write(note)
        yield app, changes
        await trio.sleep(1)
        changes += await probe(app).read(noted)


async def run(app: App, *plan: str) -> str:
    """Run a workflow until it has ended or is stuck. Returns its instance id."""
    handle = await app.start(steps, list(plan))
    with suppress(WorkflowError):
        await handle.result()
    return handle.instance_id


async def begin(app: App, *plan: str) -> str:
    """Run a workflow for five seconds: into the first thing that takes longer. Returns its instance id."""
    handle = await app.start(steps, list(plan))
    await trio.sleep(5)
    return handle.instance_id


async def crash_until_parked(app: App) -> None:
    for _ in range(5):
        probe(app).crash_actors()
        await trio.sleep(2)


Scenario = Callable[[App], Awaitable[object]]


def runs(*plan: str) -> Scenario:
    async def scenario(app: App) -> None:
        await run(app, *plan)

    return scenario


def is_parked(*plan: str) -> Scenario:
    async def scenario(app: App) -> None:
        await begin(app, *plan)
        await crash_until_parked(app)

    return scenario


def does_not_fit(*plan: str) -> Scenario:
    async def scenario(app: App) -> None:
        global fits
        await begin(app, *plan)
        fits = False
        probe(app).crash_actors()
        await trio.sleep(5)

    return scenario


async def fits_a_worker_that_comes(app: App) -> None:
    global fits
    await does_not_fit("do", "work")(app)
    fits = True
    await probe(app).write(incompatible.revive, "another version", probe(app).clock.now())


async def is_cancelled(app: App) -> None:
    assert await app.cancel(await begin(app, "do", "wait"))
    await trio.sleep(100)


async def is_resumed_from_parking(app: App) -> None:
    id = await begin(app, "do", "work")
    await crash_until_parked(app)
    assert await app.resume(id)


async def is_resumed_from_parking_while_it_was_rolled_back(app: App) -> None:
    id = await begin(app, "do", "fail")
    await crash_until_parked(app)
    assert await app.resume(id)
    await trio.sleep(100)


async def is_cancelled_when_it_was_parked_while_it_was_rolled_back(app: App) -> None:
    id = await begin(app, "do", "fail")
    await crash_until_parked(app)
    await app.cancel(id)
    await trio.sleep(100)


async def is_retried_with_its_parent(app: App) -> None:
    global works
    works = False
    id = await run(app, "family")
    works = True
    assert await app.retry(id)
    await trio.sleep(10)


def is_terminated(*plan: str) -> Scenario:
    async def scenario(app: App) -> None:
        assert await app.terminate(await begin(app, *plan))

    return scenario


async def is_terminated_when_it_had_left_memory(app: App) -> None:
    id = await begin(app, "do", "wait")
    probe(app).release_idle()
    await trio.sleep(1)
    assert await app.terminate(id)


async def is_terminated_when_it_was_parked(app: App) -> None:
    id = await begin(app, "do", "work")
    await crash_until_parked(app)
    assert await app.terminate(id)


async def is_terminated_before_it_runs(app: App) -> None:
    def store(connection: sa.Connection) -> None:
        insert_instances(connection, [new_row("unknown", "no such workflow", "{}", 1, owner=None)])

    await probe(app).write(store)
    assert await app.terminate("unknown")


async def is_terminated_when_it_was_released(app: App) -> None:
    id = await begin(app, "do", "work")
    probe(app).abandon_actors()
    await trio.sleep(1)
    now = probe(app).clock.now()

    def release_and_terminate(connection: sa.Connection) -> None:
        update_instances(connection, [update_row(id, Status.PENDING, now, owner=None)])
        request = EndRequest(None, now, terminates=True, compensates=True)
        assert request_termination(connection, id, request, now, to_undo)

    await probe(app).write(release_and_terminate)


async def is_retried(app: App) -> None:
    global works
    works = False
    id = await run(app, "work")
    works = True
    assert await app.retry(id)


async def is_undone_by_resuming_what_failed(app: App) -> None:
    global works
    works = False
    id = await run(app, "do", "fail")
    works = True
    assert await app.resume(id)
    await trio.sleep(100)


async def is_undone_by_resuming_what_was_cancelled(app: App) -> None:
    global works
    id = await begin(app, "do", "wait")
    works = False
    assert await app.cancel(id)
    await trio.sleep(100)
    works = True
    assert await app.resume(id)
    await trio.sleep(100)


SCENARIOS: dict[Change, Scenario] = {
    (P, R): runs("child"),
    (P, C): is_terminated_when_it_was_released,
    (P, CANCELLED): is_terminated_before_it_runs,
    (P, STUCK): does_not_fit("do", "work"),
    (R, P): does_not_fit("do", "work"),
    (R, W): runs("wait"),
    (R, C): runs("do", "fail"),
    (R, COMPLETED): runs("work"),
    (R, FAILED): runs("fail"),
    (R, CANCELLED): is_terminated("work"),
    (R, RECURRED): runs("recur"),
    (R, STUCK): is_parked("work"),
    (W, P): does_not_fit("do", "wait"),
    (W, R): runs("wait", "work"),
    (W, C): runs("do", "wait", "fail"),
    (W, COMPLETED): runs("wait"),
    (W, FAILED): runs("wait", "fail"),
    (W, CANCELLED): is_terminated_when_it_had_left_memory,
    (W, RECURRED): runs("wait", "recur"),
    (W, STUCK): is_parked("wait"),
    (C, FAILED): runs("do", "fail"),
    (C, CANCELLED): is_cancelled,
    (C, STUCK): is_parked("do", "fail"),
    (COMPLETED, C): runs("child", "fail"),
    (FAILED, R): is_retried,
    (FAILED, C): is_undone_by_resuming_what_failed,
    (CANCELLED, R): is_retried_with_its_parent,
    (CANCELLED, C): is_undone_by_resuming_what_was_cancelled,
    (STUCK, P): fits_a_worker_that_comes,
    (STUCK, R): is_resumed_from_parking,
    (STUCK, C): is_resumed_from_parking_while_it_was_rolled_back,
    (STUCK, CANCELLED): is_terminated_when_it_was_parked,
}


def test_there_is_a_scenario_for_each_change() -> None:
    assert set(SCENARIOS) == LEGAL


@pytest.mark.parametrize("change", SCENARIOS, ids=lambda change: "-".join(change))
async def test_each_change_of_the_table_happens_and_no_other(change: Change) -> None:
    async with observed() as (app, changes):
        await SCENARIOS[change](app)
    assert change in changes
    assert set(changes) <= LEGAL


async def test_what_is_parked_while_it_is_rolled_back_and_then_cancelled_goes_on_compensating() -> None:
    async with observed() as (app, changes):
        await is_cancelled_when_it_was_parked_while_it_was_rolled_back(app)
    assert changes[-3:] == [(C, STUCK), (STUCK, C), (C, FAILED)]


@pytest.mark.parametrize("plan", [["do", "do", "wait", "fail"], ["do", "do", "fail"]])
async def test_a_rollback_is_compensating_to_its_end_also_in_another_worker(plan: list[str]) -> None:
    """Otherwise a cancel request would be accepted that can have no effect."""
    async with observed() as (app, changes):
        handle = await app.start(steps, plan)
        await trio.sleep(105 if "wait" in plan else 5)
        probe(app).abandon()  # as if it had died: the instance is on probation now
        for _ in range(20):
            await trio.sleep(1)
            instance = await app.get_instance(handle.instance_id)
            assert instance is not None
            assert instance.status in (C, FAILED)
        assert not await app.cancel(handle.instance_id)
        with suppress(WorkflowError):
            await handle.result()
    assert [change for change in changes if C in change] == [(changes[-2][0], C), (C, FAILED)]
