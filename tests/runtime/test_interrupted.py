"""An activity that ran when its instance was cancelled is not begun again after its worker or its actor has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from trio_romancy import (
    ActivityInfo,
    App,
    EntryKind,
    Hooks,
    RetryPolicy,
    Status,
    WorkflowCancelledError,
    WorkflowContext,
    activity,
    compensation,
    workflow,
)
from trio_romancy._storage.sql.steering import request_cancel
from trio_romancy.testing import Crash, How, run_with_crashes

from ..support.probe import probe

did: list[str] = []
cancelled_at: list[float] = []


@pytest.fixture(autouse=True)
def nothing_was_done() -> None:
    did.clear()
    cancelled_at.clear()


@compensation(name="cut_refund")
async def refund(what: str) -> None:
    did.append(f"refund {what}")


@compensation(name="cut_give_back")
async def give_back(result: str) -> None:
    did.append(f"give back {result}")


@activity(name="cut_charge", compensation=refund)
async def charge(what: str, seconds: float = 0.0) -> None:
    did.append(what)
    await trio.sleep(seconds)


@activity(name="cut_take", compensation=give_back)
async def take(seconds: float) -> str:
    did.append("take")
    await trio.sleep(seconds)
    return "it"


@activity(name="cut_plain", retry=RetryPolicy.fixed(3, 1000.0))
async def plain(seconds: float, fails: bool = False) -> None:
    did.append("plain")
    await trio.sleep(seconds)
    if fails:
        raise ConnectionError("no")


@activity(name="cut_cancellable", cancellable=True, compensation=refund)
async def cancellable(what: str) -> None:
    did.append(what)
    await trio.sleep_forever()


@workflow(name="cut_flow")
async def flow(ctx: WorkflowContext, step: str) -> None:
    await charge("first")
    try:
        match step:
            case "plain":
                await plain(1000)
            case "charge":
                await charge("second", 1000)
            case "take":
                await take(1000)
            case "fails":
                await plain(0, True)
            case "beside":
                async with trio.open_nursery() as nursery:
                    for what in "ab":
                        nursery.start_soon(charge.options(id=what), what, 1000)
                    nursery.start_soon(sleep, ctx)
    finally:
        with trio.CancelScope(shield=True):
            await plain.options(id="cleanup")(0)


async def sleep(ctx: WorkflowContext) -> None:
    await ctx.sleep(10**6, id="sleep")


async def cancelled(app: App, id: str = "i") -> WorkflowCancelledError:
    with pytest.raises(WorkflowCancelledError) as caught:
        await app.handle(id).result(timeout=100)
    return caught.value


async def not_compensated_because(app: App) -> list[str]:
    return [entry.payload["message"] for entry in await app.history("i") if entry.kind is EntryKind.COMPENSATION_FAILED]


INTERRUPTED = [
    ("plain", {"cut_plain:1": {"was_interrupted": True}}, []),
    ("charge", {"cut_charge:2": None}, ["cut_charge:2"]),
    ("take", {"cut_take:1": None}, ["cut_take:1"]),
    ("beside", {"a": None, "b": None}, ["b", "a"]),
]


@pytest.mark.parametrize("how", ["actors", "worker"])
@pytest.mark.parametrize(("step", "interrupted", "uncompensated"), INTERRUPTED)
async def test_it_is_named_as_not_compensated_because_its_outcome_is_not_known(
    how: str, step: str, interrupted: dict[str, Any], uncompensated: list[str]
) -> None:
    async with App(":memory:") as app:
        await app.start(flow.options(id="i"), step)
        await trio.sleep(1)
        before = list(did)
        assert await app.cancel("i", "too slow")
        await trio.sleep(1)
        assert did == before
        (probe(app).crash_actors if how == "actors" else probe(app).abandon)()
        error = await cancelled(app)
        assert (error.reason, sorted(error.uncompensated)) == ("too slow", sorted(uncompensated))
        assert did == [*before, "plain", "refund first"]  # the clean-up, which is shielded, and the rollback
        entries = {entry.operation_id: entry for entry in await app.history("i")}
        for id, payload in interrupted.items():
            assert entries[id].kind is EntryKind.ACTIVITY_CANCELLED
            assert entries[id].payload["was_interrupted"]
            assert payload is None or entries[id].payload == payload


async def test_the_operator_who_resumes_the_instance_has_it_compensated() -> None:
    async with App(":memory:") as app:
        await app.start(flow.options(id="i"), "charge")
        await trio.sleep(1)
        await app.cancel("i")
        await trio.sleep(1)
        probe(app).abandon()
        assert (await cancelled(app)).uncompensated == ["cut_charge:2"]
        failed = [
            entry.payload["message"] for entry in await app.history("i") if entry.kind is EntryKind.COMPENSATION_FAILED
        ]
        assert "'cut_charge:2' was interrupted after the cancellation was requested" in failed[0]
        assert await app.resume("i")
        assert (await cancelled(app)).uncompensated == []
    assert did == ["first", "second", "plain", "refund first", "refund second"]


async def test_a_compensation_that_takes_the_result_cannot_be_run() -> None:
    async with App(":memory:") as app:
        await app.start(flow.options(id="i"), "take")
        await trio.sleep(1)
        await app.cancel("i")
        await trio.sleep(1)
        probe(app).abandon()
        await cancelled(app)
        assert await app.resume("i")
        assert (await cancelled(app)).uncompensated == ["cut_take:1"]
        failed = [
            entry.payload["message"] for entry in await app.history("i") if entry.kind is EntryKind.COMPENSATION_FAILED
        ]
        assert "compensation 'cut_give_back' takes the result of 'cut_take:1', which was interrupted" in failed[1]


async def test_one_that_waits_for_its_next_attempt_fails_with_the_last_one() -> None:
    async with App(":memory:", idle_timeout=1e6) as app:
        await app.start(flow.options(id="i"), "fails")
        await trio.sleep(1)
        await app.cancel("i")
        probe(app).crash_actors()
        assert (await cancelled(app)).uncompensated == []
        kinds = [entry.kind for entry in await app.history("i") if entry.operation_id == "cut_plain:1"]
        assert kinds == [EntryKind.ATTEMPT_FAILED, EntryKind.ACTIVITY_FAILED]
    assert did.count("plain") == 2


async def test_a_request_that_comes_while_no_worker_is_there_finds_it_interrupted(database: str) -> None:
    told: list[str] = []

    class Cancelled(Hooks):
        def activity_cancelled(self, activity: ActivityInfo) -> None:
            told.append(activity.operation_id)

    async with App(database, shutdown_timeout=0.001, hooks=[Cancelled()]) as app:
        await app.start(flow.options(id="i"), "charge")
        await trio.sleep(1)
        await probe(app).write(request_cancel, "i", "while it is away", probe(app).clock.now())
        probe(app).abandon()
        assert (await cancelled(app)).uncompensated == ["cut_charge:2"]
    assert did == ["first", "second", "plain", "refund first"]
    assert told == ["cut_charge:2"]


# -- wherever something crashes ---------------------------------------------------------------------------------------


@workflow(name="cut_explored")
async def explored(ctx: WorkflowContext) -> None:
    await charge("first")
    await charge("second", 20)
    await charge("third")


async def scenario(app: App) -> list[str]:
    did.clear()
    await app.start(explored.options(id="i"))
    await trio.sleep(5)  # into the long activity, however the start went
    assert await app.cancel("i", "changed my mind")
    began = did.count("second")
    with pytest.raises(WorkflowCancelledError) as caught:
        await app.handle("i").result()
    assert did.count("second") == began, "it was begun again"
    return caught.value.uncompensated


@pytest.mark.long
def test_it_runs_to_its_outcome_or_is_named_wherever_something_crashes(
    kind: str, new_database: Callable[[], str]
) -> None:
    for how in How if kind == "sqlite" else (How.WORKER_BEFORE, How.ANSWER_LOST):
        commit = 1
        while True:
            run = run_with_crashes(scenario, [Crash(commit, how)], new_database=new_database)
            if commit not in run.reached:
                break
            assert run.broken_guarantees == []
            assert [one.status for one in run.instances] == [Status.CANCELLED]
            undone = list(dict.fromkeys(one for one in did if one.startswith("refund")))
            assert (run.result, undone) in (
                ([], ["refund second", "refund first"]),
                (["cut_charge:2"], ["refund first"]),
            ), (how, commit)
            assert "third" not in did
            commit += 1
        assert commit > 5
