"""``app.terminate`` ends an instance whatever it does, and nothing of it is recorded from then on."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
import trio
from sqlalchemy import Connection

from trio_romancy import (
    App,
    ChildWorkflowError,
    EntryKind,
    Hooks,
    InstanceNotFoundError,
    Status,
    TerminalError,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowError,
    WorkflowInfo,
    WorkflowTerminatedError,
    activity,
    compensation,
    current_activity,
    workflow,
)
from trio_romancy._storage.sql import tables
from trio_romancy._storage.sql.instances import insert_instances, new_row
from trio_romancy._storage.sql.workers import join, this_process
from trio_romancy.clock import current_clock
from trio_romancy.testing import How, explore_crashes

from ..support.databases import SHARED_KINDS
from ..support.probe import probe

did: list[str] = []
release = trio.Event()
hangs = True


@pytest.fixture(autouse=True)
def begin() -> None:
    global release, hangs
    did.clear()
    release, hangs = trio.Event(), True


@compensation(name="end_undo")
async def undo(what: str) -> None:
    did.append(f"undo {what}")
    if what == "hanging" and hangs:
        await trio.sleep_forever()


@activity(name="end_do", compensation=undo)
async def do(what: str) -> None:
    did.append(what)


@activity(name="end_hang")
async def hang() -> None:
    did.append("hang")
    await trio.sleep_forever()


@activity(name="end_swallow")
async def swallow() -> str:
    """Ignores every cancellation, until the test releases it."""
    did.append("swallow")
    while not release.is_set():
        try:
            await release.wait()
        except trio.Cancelled:
            did.append("swallowed")
            with trio.CancelScope(shield=True):
                await release.wait()
    return "too late"


@workflow(name="end_flow")
async def flow(ctx: WorkflowContext, plan: list[str]) -> None:
    for step in plan:
        match step:
            case "hang":
                await hang()
            case "swallow":
                await swallow()
            case "wait":
                await ctx.sleep(10**6)
            case "fail":
                raise TerminalError("failed")
            case "recur":
                ctx.recur(["do", "wait"])
            case "stuck in own code":
                try:
                    await ctx.sleep(10**6)
                finally:
                    did.append("finally")
                    with trio.CancelScope(shield=True):
                        await release.wait()
            case _:
                await do(step)


@workflow(name="end_parent")
async def parent(ctx: WorkflowContext, plan: list[str]) -> str:
    await do("parent")
    await ctx.run(flow, ["quick"])
    try:
        await ctx.run(flow, plan)
    except ChildWorkflowError as error:
        return f"{error.status} {error.error_type}: {error.message}"
    return "?"


async def terminated(app: App, id: str = "i") -> WorkflowTerminatedError:
    with pytest.raises(WorkflowTerminatedError) as caught:
        await app.handle(id).result(timeout=1000)
    found = await app.get_instance(id)
    assert found is not None
    assert (found.status, found.worker_id, found.cancel_requested) == (Status.CANCELLED, None, None)
    assert found.finished_at is not None
    return caught.value


async def kinds(app: App, id: str = "i") -> list[str]:
    return [entry.kind.value for entry in await app.history(id)]


# -- what it does to code that runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["hang", "swallow", "wait", "stuck in own code"])
async def test_it_ends_whatever_the_code_does_and_says_what_was_not_undone(plan: str) -> None:
    async with App(":memory:") as app:
        await app.start(flow.options(id="i"), ["a", plan])
        await trio.sleep(1)
        assert await app.terminate("i", "it hangs")
        error = await terminated(app)
        assert str(error).startswith("instance 'i' was terminated: it hangs")
        assert (error.reason, error.uncompensated) == ("it hangs", ["end_do:1"])
        last = (await app.history("i"))[-1]
        assert last.kind is EntryKind.WORKFLOW_TERMINATED
        running = {"hang": ["end_hang:1"], "swallow": ["end_swallow:1"]}.get(plan, [])
        assert last.payload == {"reason": "it hangs", "compensates": False, "running": running}
        release.set()
        await trio.sleep(1)  # its code goes on now, and has nowhere to record anything
        assert (await app.history("i"))[-1] == last
        assert "undo a" not in did
        assert probe(app).residents == []


async def test_what_was_left_is_undone_when_the_instance_is_resumed() -> None:
    async with App(":memory:") as app:
        await app.start(flow.options(id="i"), ["a", "b", "hang"])
        await trio.sleep(1)
        await app.terminate("i")
        assert (await terminated(app)).uncompensated == ["end_do:2", "end_do:1"]
        assert await app.resume("i")
        assert (await terminated(app)).uncompensated == []
    assert did == ["a", "b", "hang", "undo b", "undo a"]


@pytest.mark.parametrize("plan", ["hang", "swallow", "stuck in own code"])
async def test_with_compensation_everything_is_undone_while_the_old_code_still_hangs(plan: str) -> None:
    async with App(":memory:") as app:
        await app.start(flow.options(id="i"), ["a", "b", plan])
        await trio.sleep(1)
        assert await app.terminate("i", compensate=True)
        error = await terminated(app)
        assert (str(error), error.uncompensated) == ("instance 'i' was terminated", [])
        assert did[-2:] == ["undo b", "undo a"]
        release.set()
        await trio.sleep(1)
        assert (await kinds(app))[-3:] == ["workflow_terminated", *["compensation_completed"] * 2]


async def test_an_outcome_that_comes_in_the_same_moment_is_recorded_before_the_end_or_not_at_all(
    database: str,
) -> None:
    @activity(name="end_session", compensation=undo)
    async def in_session(what: str) -> None:
        session = current_activity().session
        await session.execute(tables.metadata.tables["romancy_channels"].select())
        await trio.sleep(5)

    @workflow(name="end_session_flow")
    async def sessions(ctx: WorkflowContext) -> None:
        await in_session("s")
        await hang()

    async with App(database) as app:
        await app.start(sessions.options(id="i"))
        await trio.sleep(5)
        await app.terminate("i")
        error = await terminated(app)
        recorded = await kinds(app)
    assert recorded in (["workflow_terminated"], ["activity_completed", "workflow_terminated"])
    assert error.uncompensated == ["end_session:1"] * (len(recorded) - 1)


# -- each status, and each request ------------------------------------------------------------------------------------


async def is_pending(app: App) -> None:
    def store(connection: Connection) -> None:
        insert_instances(connection, [new_row("i", "nobody knows it", "{}", 1, owner=None)])

    await probe(app).write(store)


def runs(*plan: str, seconds: float = 1.0) -> Callable[[App], Awaitable[None]]:
    async def prepare(app: App) -> None:
        await app.start(flow.options(id="i"), list(plan))
        await trio.sleep(seconds)

    return prepare


def is_parked(*plan: str) -> Callable[[App], Awaitable[None]]:
    async def prepare(app: App) -> None:
        await runs(*plan)(app)
        for _ in range(5):
            probe(app).crash_actors()
            await trio.sleep(3)

    return prepare


def ended(*plan: str) -> Callable[[App], Awaitable[None]]:
    async def prepare(app: App) -> None:
        await runs(*plan)(app)
        if "wait" in plan:
            await app.cancel("i")
        await trio.sleep(10)

    return prepare


PREPARED: dict[str, tuple[Status, Callable[[App], Awaitable[None]]]] = {
    "pending": (Status.PENDING, is_pending),
    "running": (Status.RUNNING, runs("a", "hang")),
    "waiting": (Status.WAITING, runs("a", "wait")),
    "passive": (Status.WAITING, runs("a", "wait", seconds=100)),
    "compensating": (Status.COMPENSATING, runs("a", "hanging", "fail")),
    "stuck": (Status.STUCK, is_parked("a", "hang")),
    "stuck in its rollback": (Status.STUCK, is_parked("a", "hanging", "fail")),
    "completed": (Status.COMPLETED, ended("a")),
    "failed": (Status.FAILED, ended("a", "fail")),
    "cancelled": (Status.CANCELLED, ended("a", "wait")),
}
ANSWERS: dict[str, dict[str, tuple[bool, str]]] = {
    "cancel": {
        "pending": (True, "pending"),  # no worker knows its workflow
        "running": (True, "running"),  # until the activity has an outcome
        "waiting": (True, "cancelled"),
        "passive": (True, "cancelled"),
        "compensating": (False, "compensating"),
        "stuck": (True, "cancelled"),
        "stuck in its rollback": (False, "compensating"),
        "completed": (False, "completed"),
        "failed": (False, "failed"),
        "cancelled": (True, "cancelled"),
    },
    "terminate": {
        "pending": (True, "cancelled"),
        "running": (True, "cancelled"),
        "waiting": (True, "cancelled"),
        "passive": (True, "cancelled"),
        "compensating": (True, "cancelled"),
        "stuck": (True, "cancelled"),
        "stuck in its rollback": (True, "cancelled"),
        "completed": (False, "completed"),
        "failed": (False, "failed"),
        "cancelled": (False, "cancelled"),
    },
    "resume": {
        "pending": (False, "pending"),
        "running": (False, "running"),
        "waiting": (False, "waiting"),
        "passive": (False, "waiting"),
        "compensating": (False, "compensating"),
        "stuck": (True, "running"),
        "stuck in its rollback": (True, "compensating"),
        "completed": (False, "completed"),
        "failed": (False, "failed"),
        "cancelled": (False, "cancelled"),
    },
    "retry": {
        "pending": (False, "pending"),
        "running": (False, "running"),
        "waiting": (False, "waiting"),
        "passive": (False, "waiting"),
        "compensating": (False, "compensating"),
        "stuck": (False, "stuck"),
        "stuck in its rollback": (False, "stuck"),
        "completed": (False, "completed"),
        "cancelled": (False, "cancelled"),
    },
}


@pytest.mark.parametrize("before", PREPARED)
async def test_each_request_has_its_answer_and_effect_in_each_status(before: str) -> None:
    status, prepare = PREPARED[before]
    for request, answers in ANSWERS.items():
        if before not in answers:
            continue
        async with App(":memory:", shutdown_timeout=0.001) as app:
            await prepare(app)
            found = await app.get_instance("i")
            assert found is not None and found.status == status, request
            accepted = await getattr(app, request)("i")
            await trio.sleep(20)
            found = await app.get_instance("i")
            assert found is not None and (accepted, found.status.value) == answers[before], request
            assert accepted == await getattr(app, request)("i") or request == "resume"  # asked again


@pytest.mark.parametrize("before", ["running", "compensating", "stuck", "waiting"])
async def test_it_is_carried_out_on_every_database(database: str, before: str) -> None:
    async with App(database, shutdown_timeout=0.001) as app:
        await PREPARED[before][1](app)
        assert await app.terminate("i", "enough")
        error = await terminated(app)
        assert error.reason == "enough"
        left = {"compensating": ["end_do:2", "end_do:1"]}.get(before, ["end_do:1"])
        assert error.uncompensated == left
        assert await app.terminate("i")
        for id in ("nobody", "", "\0"):
            with pytest.raises(InstanceNotFoundError):
                await app.terminate(id)
        with pytest.raises(TypeError, match="the reason of a termination is text"):
            await app.terminate("i", 7)  # type: ignore[arg-type]


async def test_an_instance_that_is_stuck_in_its_rollback_goes_on_when_it_is_cancelled() -> None:
    global hangs
    async with App(":memory:") as app:
        await is_parked("a", "hanging", "fail")(app)
        hangs = False
        assert not await app.cancel("i")  # it ends as failed
        with pytest.raises(WorkflowError, match="failed"):
            await app.handle("i").result(timeout=100)
        assert did[-2:] == ["undo hanging", "undo a"]


async def test_the_result_of_a_stuck_instance_is_not_told_between_its_cancellation_and_its_next_run(
    tmp_path: Path,
) -> None:
    database = str(tmp_path / "romancy.db")
    async with App(database) as app:
        await is_parked("a", "hang")(app)
    async with App(database, worker=False) as client:
        await client.cancel("i")
        with pytest.raises(trio.TooSlowError):
            await client.handle("i").result(timeout=0.5)


async def test_an_instance_that_was_cancelled_and_is_stuck_in_its_rollback_still_ends_as_cancelled() -> None:
    global hangs
    async with App(":memory:") as app:
        await app.start(flow.options(id="i"), ["a", "hanging", "wait"])
        await trio.sleep(1)
        assert await app.cancel("i")
        await trio.sleep(1)
        for _ in range(5):
            probe(app).crash_actors()
            await trio.sleep(3)
        found = await app.get_instance("i")
        assert found is not None and found.status is Status.STUCK
        hangs = False
        assert await app.cancel("i")
        with pytest.raises(WorkflowCancelledError):
            await app.handle("i").result(timeout=100)


# -- other workers, and none ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_a_client_terminates_what_a_worker_runs_and_what_no_worker_runs(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with App(database, worker=False) as client:
        await client.start(flow.options(id="unclaimed"), ["a"])
        assert await client.terminate("unclaimed", "nobody takes it")
        await terminated(client, "unclaimed")
        async with App(database, shutdown_timeout=0.001) as app:
            await app.start(flow.options(id="i"), ["a", "hang"])
            await trio.sleep(1)
            assert await client.terminate("i")
            probe(app).become_due()  # as the worker would find when it polls
            await terminated(client)
            await app.start(flow.options(id="left"), ["a", "hang"])
            await trio.sleep(1)
        assert await client.terminate("left")  # its worker has stopped
        await terminated(client, "left")


def pid_of_the_dead() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


async def test_a_client_terminates_what_the_worker_of_a_dead_process_ran(database: str) -> None:
    dead = attrs.evolve(this_process(), pid=pid_of_the_dead(), token="dead")

    def die(connection: Connection) -> None:
        now = current_clock().now()
        assert join(connection, "dead", dead, now, now + 10**9) is not None
        row = new_row("i", "end_flow", '{"plan": ["a"]}', now, owner="dead")
        insert_instances(connection, [row])

    async with App(database, worker=False) as client:
        await probe(client).write(die)
        assert await client.terminate("i", "it was the last worker")
        found = await client.get_instance("i")
        assert found is not None and found.status is Status.CANCELLED
        assert await client.list_workers() == []


async def test_a_request_that_its_worker_did_not_live_to_carry_out_is_carried_out_by_the_next() -> None:
    async with App(":memory:") as app:
        await app.start(flow.options(id="i"), ["a", "hang"])
        await trio.sleep(1)
        worker = probe(app).worker
        with trio.CancelScope() as scope:

            async def die() -> None:
                worker.abandon()
                scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(app.terminate, "i", "enough")
                nursery.start_soon(die)
        await app.terminate("i", "enough")
        assert (await terminated(app)).reason == "enough"
        assert (await kinds(app)).count("workflow_terminated") == 1
    assert did.count("hang") <= 2


# -- families and chains ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compensate", [False, True])
async def test_children_end_with_their_parent(compensate: bool) -> None:
    async with App(":memory:") as app:
        await app.start(parent.options(id="p"), ["a", "wait" if compensate else "hang"])
        await trio.sleep(1)
        assert await app.terminate("p", "enough", compensate=compensate)
        error = await terminated(app, "p")
        await trio.sleep(1)
        quick, running = await app.get_instance("p/end_flow:1"), await app.get_instance("p/end_flow:2")
        assert quick is not None and running is not None and running.error is not None
        assert running.status is Status.CANCELLED
        if compensate:
            assert quick.status is Status.CANCELLED
            assert error.uncompensated == []
            assert did[-3:] == ["undo a", "undo quick", "undo parent"]
        else:
            assert quick.status is Status.COMPLETED
            assert running.error.message == "its parent, instance 'p', was terminated"
            assert error.uncompensated == ["end_flow:2", "end_flow:1", "end_do:1"]
            assert await app.resume("p")
            assert (await terminated(app, "p")).uncompensated == []
            assert did[-3:] == ["undo a", "undo quick", "undo parent"]


async def test_a_parent_hears_that_its_child_was_terminated() -> None:
    async with App(":memory:") as app:
        await app.start(parent.options(id="p"), ["a", "swallow"])
        await trio.sleep(1)
        assert await app.terminate("p/end_flow:2", "it hangs")
        result = await app.handle("p").result(timeout=100)
        assert result == "cancelled trio_romancy.WorkflowTerminatedError: it hangs"
        release.set()


async def test_of_a_chain_the_instance_that_runs_now_is_terminated() -> None:
    async with App(":memory:") as app:
        handle = await app.start(flow.options(id="i"), ["recur"])
        await trio.sleep(1)
        assert await handle.terminate("enough")
        with pytest.raises(WorkflowTerminatedError, match="'i' was terminated: enough"):
            await handle.result(timeout=100)
        found = await app.get_instance("i#2")
        assert found is not None and found.status is Status.CANCELLED


# -- who is told ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["hang", "wait"])
async def test_hooks_and_the_log_are_told(plan: str, caplog: pytest.LogCaptureFixture) -> None:
    class Ends(Hooks):
        def __init__(self) -> None:
            self.told: list[str] = []

        def workflow_cancelled(self, workflow: WorkflowInfo) -> None:
            assert workflow.error is not None
            self.told.append(f"{workflow.instance_id} {workflow.error.error_type}: {workflow.error.message}")

    hooks = Ends()
    async with App(":memory:", hooks=[hooks]) as app:
        await app.start(flow.options(id="i"), [plan])
        await trio.sleep(100)  # an instance that waits has left memory
        with caplog.at_level(logging.WARNING, "trio_romancy"):
            await app.terminate("i", "enough")
            await terminated(app)
    assert hooks.told == ["i trio_romancy.WorkflowTerminatedError: enough"]
    assert [record.getMessage() for record in caplog.records] == ["instance i was terminated: enough"]
    assert caplog.records[0].__dict__["instance_id"] == "i"


async def test_while_a_request_waits_the_instance_says_so() -> None:
    async with App(":memory:") as app:
        await app.start(flow.options(id="i"), ["a", "hang"])
        await trio.sleep(1)
        await app.cancel("i", "too slow")
        await trio.sleep(1)
        for found in (await app.get_instance("i"), *(await app.list_instances()).instances):
            assert found is not None and found.cancel_requested is not None
            request = found.cancel_requested
            assert (request.reason, request.terminates, request.waits_for) == ("too slow", False, ["end_hang:1"])
            assert request.requested_at == found.created_at + timedelta(seconds=1)
        await app.terminate("i")
        await terminated(app)


# -- wherever something crashes ---------------------------------------------------------------------------------------


@activity(name="end_often", compensation=undo)
async def often(what: str) -> None: ...


@workflow(name="end_explored")
async def explored(ctx: WorkflowContext, end: str) -> None:
    await often("a")
    await ctx.run(flow, ["quick"])
    await often("b")
    if end == "fail":
        await do("hanging")
        raise TerminalError("failed")
    await hang()


def scenario(end: str, *, compensate: bool) -> Callable[[App], Awaitable[object]]:
    async def run(app: App) -> object:
        global hangs
        hangs = True
        await app.start(explored.options(id="i"), end)
        await trio.sleep(50)
        if compensate:
            hangs = False
        await app.terminate("i", "enough", compensate=compensate)
        with pytest.raises(WorkflowTerminatedError) as caught:
            await app.handle("i").result(timeout=10_000)
        await trio.sleep(100)
        return [caught.value.reason, caught.value.uncompensated]

    return run


@pytest.mark.long
@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("end", ["hang", "fail"])
def test_a_termination_is_carried_out_once_wherever_something_crashes(end: str, compensate: bool) -> None:
    hows = [How.ACTOR_BEFORE, How.ACTOR_AFTER, How.WORKER_BEFORE, How.WORKER_AFTER, How.ANSWER_LOST]
    exploration = explore_crashes(scenario(end, compensate=compensate), hows=hows)
    assert exploration.points > 20
