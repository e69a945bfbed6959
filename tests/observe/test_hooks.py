"""What hooks are told: everything in its order, nothing that was not committed, nothing twice."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import trio
from sqlalchemy import Connection, update

from trio_romancy import (
    ActivityInfo,
    App,
    BatchInfo,
    EntryKind,
    EventTimeoutError,
    Hooks,
    LeaseInfo,
    MessageInfo,
    RetryPolicy,
    TerminalError,
    TimerInfo,
    WorkflowContext,
    WorkflowError,
    WorkflowInfo,
    activity,
    compensation,
    current_activity,
    workflow,
)
from trio_romancy._storage.journal.batch import Batch
from trio_romancy._storage.sql import tables
from trio_romancy._storage.sql.workers import Process, end_leases, join, other_leases
from trio_romancy.testing import Crash, How, run_with_crashes

from ..support.databases import SHARED_KINDS
from ..support.probe import before_each_apply, before_each_insert, probe
from ..support.strange import STRANGE

TOLD = [name for name in vars(Hooks) if not name.startswith("_") and name not in ("trace_context", "around_activity")]
"""The methods that tell something."""

OF_APPS = {"app_opened", "app_closed", "batch_committed"}


class Recorder(Hooks):
    """Keeps everything that it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self._changed = trio.Event()

    def tell(self, name: str, info: Any) -> None:
        self.told.append((name, info))
        self._changed.set()

    async def wait_for(self, line: str) -> None:
        while line not in self.lines():
            self._changed = trio.Event()
            await self._changed.wait()

    def lines(self, instance_id: str | None = None) -> list[str]:
        """What was told of instances, or of one, in short."""
        return [
            line(name, info)
            for name, info in self.told
            if name not in OF_APPS and (instance_id is None or getattr(info, "instance_id", None) == instance_id)
        ]

    def all(self, name: str) -> list[Any]:
        return [info for told, info in self.told if told == name]


def _recording(name: str) -> Callable[[Recorder, Any], None]:
    def record(self: Recorder, info: Any) -> None:
        self.tell(name, info)

    return record


for _name in TOLD:
    setattr(Recorder, _name, _recording(_name))


def line(name: str, info: Any) -> str:
    if isinstance(info, ActivityInfo):
        return f"{name} {info.operation_id} #{info.attempt}"
    if isinstance(info, MessageInfo):
        return f"{name} {info.channel} {info.operation_id or '-'}"
    if isinstance(info, TimerInfo):
        return f"{name} {info.operation_id} {info.kind}"
    if name == "workflow_replayed":
        return f"{name} {info.entries}"
    return name


ran: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def forget() -> None:
    ran.clear()


@compensation(name="hooks_undo")
async def undo(what: str) -> None:
    ran["undo"] += 1
    if what == "hotel" and ran["undo"] == 1:
        raise RuntimeError("not yet")


@activity(name="hooks_book", compensation=undo, retry=RetryPolicy.fixed(3, 1.0))
async def book(what: str) -> str:
    ran[what] += 1
    if what == "hotel" and ran[what] == 1:
        raise RuntimeError("full")
    return what


@activity(name="hooks_pay", retry=RetryPolicy.fixed(2, 1.0))
async def pay(works: bool) -> None:
    if not works:
        raise ValueError("no money")


@workflow(name="hooks_trip")
async def trip(ctx: WorkflowContext, works: bool) -> str:
    await book("flight")
    await book("hotel")
    await pay(works)
    return "booked"


@workflow(name="hooks_waiting")
async def waiting(ctx: WorkflowContext) -> str:
    await book("flight")
    event = await ctx.wait_event("go")
    return str(event.data)


def end_lease(connection: Connection, worker_id: str) -> None:
    """What another worker does when that one has been silent for too long."""
    connection.execute(update(tables.workers).where(tables.workers.c.worker_id == worker_id).values(expires_at=0))
    assert [one.worker_id for one in end_leases(connection, other_leases(connection, "another"), 1)] == [worker_id]


async def test_a_run_is_told_in_its_order(database: str) -> None:
    hooks = Recorder()
    async with App(database, worker_id="me", hooks=[hooks]) as app:
        handle = await app.start(trip, True)
        await handle.result()
    assert hooks.lines() == [
        "workflow_started",
        "activity_started hooks_book:1 #1",
        "activity_completed hooks_book:1 #1",
        "activity_started hooks_book:2 #1",
        "activity_retried hooks_book:2 #1",
        "activity_started hooks_book:2 #2",
        "activity_completed hooks_book:2 #2",
        "activity_started hooks_pay:1 #1",
        "activity_completed hooks_pay:1 #1",
        "workflow_completed",
        "instance_dropped",
    ]
    (started,) = hooks.all("workflow_started")
    assert isinstance(started, WorkflowInfo)
    assert (started.instance_id, started.workflow, started.worker_id) == (handle.instance_id, "hooks_trip", "me")
    assert (started.error, started.trace, started.lag) == (None, {}, 0.0)
    (completed,) = hooks.all("workflow_completed")
    assert completed.created_at == started.created_at
    assert completed.age == pytest.approx(1.0, abs=0.1)  # the backoff
    (retried,) = hooks.all("activity_retried")
    assert (retried.name, retried.error.error_type, retried.error.message) == ("hooks_book", "RuntimeError", "full")
    assert not retried.is_compensation


async def test_a_failure_and_its_rollback_are_told(database: str) -> None:
    hooks = Recorder()
    async with App(database, retry=RetryPolicy.fixed(2, 1.0), hooks=[hooks]) as app:
        with pytest.raises(WorkflowError):
            await (await app.start(trip, False)).result()
    assert hooks.lines()[7:] == [
        "activity_started hooks_pay:1 #1",
        "activity_retried hooks_pay:1 #1",
        "activity_started hooks_pay:1 #2",
        "activity_failed hooks_pay:1 #2",
        "compensation_started hooks_book:2/compensation #1",
        "compensation_retried hooks_book:2/compensation #1",
        "compensation_started hooks_book:2/compensation #2",
        "compensation_completed hooks_book:2/compensation #2",
        "compensation_started hooks_book:1/compensation #1",
        "compensation_completed hooks_book:1/compensation #1",
        "workflow_failed",
        "instance_dropped",
    ]
    (failed,) = hooks.all("workflow_failed")
    assert failed.error.error_type == "trio_romancy.RetryExhaustedError"
    (of_activity,) = hooks.all("activity_failed")
    assert (of_activity.error.error_type, of_activity.error.message) == ("ValueError", "no money")
    assert "no money" in of_activity.error.traceback
    assert all(info.is_compensation and info.name == "hooks_undo" for info in hooks.all("compensation_completed"))


async def test_a_compensation_that_fails_for_good_is_told(database: str) -> None:
    @compensation
    async def never(what: str) -> None:
        raise TerminalError("it cannot be undone")

    @activity(compensation=never)
    async def step(what: str) -> None:
        pass

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await step("x")
        raise ValueError("no")

    hooks = Recorder()
    async with App(database, hooks=[hooks]) as app:
        with pytest.raises(WorkflowError):
            await (await app.start(flow)).result()
    assert hooks.lines()[-4:] == [
        "compensation_started step:1/compensation #1",
        "compensation_failed step:1/compensation #1",
        "workflow_failed",
        "instance_dropped",
    ]
    (failed,) = hooks.all("workflow_failed")
    assert failed.error.uncompensated == ["step:1"]


async def test_a_cancellation_is_told_when_everything_is_undone(database: str) -> None:
    hooks = Recorder()
    async with App(database, hooks=[hooks]) as app:
        handle = await app.start(waiting)
        await trio.sleep(1)
        await handle.cancel("changed my mind")
        with pytest.raises(WorkflowError):
            await handle.result()
    assert hooks.lines() == [
        "workflow_started",
        "activity_started hooks_book:1 #1",
        "activity_completed hooks_book:1 #1",
        "compensation_started hooks_book:1/compensation #1",
        "compensation_completed hooks_book:1/compensation #1",
        "workflow_cancelled",
        "instance_dropped",
    ]
    (cancelled,) = hooks.all("workflow_cancelled")
    assert cancelled.error.message == "changed my mind"


async def test_an_activity_that_is_torn_down_is_told_as_cancelled(database: str) -> None:
    @activity(cancellable=True)
    async def endless() -> None:
        await trio.sleep_forever()

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        with ctx.move_on_after(5):
            await endless()

    hooks = Recorder()
    async with App(database, hooks=[hooks]) as app:
        await (await app.start(flow)).result()
    assert hooks.lines()[1:-2] == [
        "activity_started endless:1 #1",
        "timer_fired timeout:1 timeout_fired",
        "activity_cancelled endless:1 #1",
    ]
    (cancelled,) = hooks.all("activity_cancelled")
    assert cancelled.duration == pytest.approx(5.0, abs=0.1)


async def test_timers_are_told_with_how_late_they_were(database: str) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await ctx.sleep(3600)
        with pytest.raises(EventTimeoutError):
            await ctx.wait_event("never", timeout=5)

    hooks = Recorder()
    async with App(database, hooks=[hooks]) as app:
        await (await app.start(flow)).result()
    assert hooks.lines() == [
        "workflow_started",
        "instance_dropped",  # from memory, while it sleeps
        "workflow_replayed 0",
        "timer_fired sleep:1 timer_fired",
        "timer_fired wait_event:1 wait_timed_out",
        "workflow_completed",
        "instance_dropped",
    ]
    sleep, wait = hooks.all("timer_fired")
    (started,) = hooks.all("workflow_started")
    assert (sleep.due_at - started.created_at).total_seconds() == 3600
    assert 0 <= sleep.lag < 0.5 and 0 <= wait.lag < 0.5


async def test_events_and_messages_are_told_when_sent_and_received(database: str) -> None:
    @activity
    async def announce() -> None:
        current_activity().publish("news", "from the activity")
        current_activity().send_event("order.placed", {}, source="/shop", subject="A")

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await ctx.subscribe("news")
        await ctx.subscribe("jobs", "competing")
        await ctx.wait_event("go", subject="A")
        await announce()
        await ctx.receive("news")
        await ctx.receive("jobs")
        await ctx.send_to("somebody", "mail", 1)

    hooks = Recorder()
    async with App(database, hooks=[hooks]) as app:
        handle = await app.start(flow.options(id="flow"))
        await app.send_event("go", 1, subject="A", source="/test", id="1")
        assert (await app.send_event("go", 1, subject="A", source="/test", id="1")).is_duplicate
        await app.publish("jobs", 2)
        await handle.result()
    lines = [line for line in hooks.lines() if line.startswith(("event", "message"))]
    assert sorted(lines[:3]) == ["event_received go wait_event:1", "event_sent go -", "message_sent jobs -"]
    assert lines[3:] == [
        "message_sent news announce:1",
        "event_sent order.placed announce:1",
        "message_received news receive:1",
        "message_received jobs receive:2",
        "message_sent mail send_to:1",
    ]
    go, placed = hooks.all("event_sent")
    assert (go.id, go.source, go.subject, go.instance_id, go.to_broker) == ("1", "/test", "A", None, False)
    assert (placed.source, placed.subject, placed.instance_id, placed.to_broker) == ("/shop", "A", "flow", True)
    (received,) = hooks.all("event_received")
    assert (received.id, received.source, received.subject, received.instance_id) == ("1", "/test", "A", "flow")
    assert received.sent_at == go.sent_at <= received.time
    assert (hooks.all("message_sent")[-1].to, hooks.all("message_sent")[-1].id) == ("somebody", None)
    assert all(info.workflow == "flow" for name, info in hooks.told if name.endswith("_received"))


async def test_what_a_session_commits_is_told_after_what_came_before(database: str) -> None:
    @activity
    async def quick() -> None:
        pass

    @activity
    async def stored() -> None:
        await current_activity().session.execute(update(tables.channels).values(touched_at=1))
        current_activity().publish("news", 1)

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await quick()
        await stored()
        await quick()

    hooks = Recorder()
    async with App(database, hooks=[hooks]) as app:
        await (await app.start(flow)).result()
    assert hooks.lines()[1:-2] == [
        "activity_started quick:1 #1",
        "activity_completed quick:1 #1",
        "activity_started stored:1 #1",
        "activity_completed stored:1 #1",
        "message_sent news stored:1",
        "activity_started quick:2 #1",
        "activity_completed quick:2 #1",
    ]


async def test_a_stuck_instance_is_told_with_its_cause(database: str) -> None:
    hooks = Recorder()
    async with App(database, hooks=[hooks]) as app:

        @workflow
        async def changing(ctx: WorkflowContext) -> None:
            await book("flight")
            await ctx.sleep(3600)

        handle = await app.start(changing)
        await trio.sleep(1800)

        @workflow
        async def changing(ctx: WorkflowContext) -> None:
            await pay(True)

        with pytest.raises(WorkflowError):
            await handle.result()
    assert hooks.lines()[3:] == ["instance_dropped", "workflow_replayed 1", "instance_stuck", "instance_dropped"]
    (stuck,) = hooks.all("instance_stuck")
    assert stuck.error.error_type == "trio_romancy.NonDeterminismError"


async def test_what_a_session_commits_while_an_earlier_entry_is_on_its_way_is_told_after_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    goes_on = trio.Event()

    @activity
    async def quick() -> None:
        pass

    @activity
    async def stored() -> None:
        await current_activity().session.execute(update(tables.channels).values(touched_at=1))

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(quick.options(id="quick"))
            await trio.lowlevel.checkpoint()
            nursery.start_soon(stored.options(id="stored"))

    hooks = Recorder()
    async with App(":memory:", hooks=[hooks]) as app:

        async def wait(batch: Batch) -> None:
            if batch.entries:
                await goes_on.wait()

        probe(app).before_each_commit(wait, monkeypatch)
        handle = await app.start(flow)
        await trio.testing.wait_all_tasks_blocked()
        assert [entry.operation_id for entry in await app.history(handle.instance_id)] == ["stored"]
        assert not any(line.startswith("activity_completed") for line in hooks.lines())
        goes_on.set()
        await handle.result()
    completed = [line for line in hooks.lines() if line.startswith("activity_completed")]
    assert completed == ["activity_completed quick #1", "activity_completed stored #1"]


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", ["file"], indirect=True)
async def test_an_instance_that_no_live_worker_can_run_any_more_is_told_as_stuck(database: str) -> None:
    hooks = Recorder()
    async with App(database, lease=1, idle_timeout=0, code_version="new", hooks=[hooks]) as app:

        @workflow(name="hooks_changing")
        async def old_code(ctx: WorkflowContext) -> None:
            await book("flight")
            await ctx.sleep(0.5)

        inside = probe(app)
        process = Process("another machine", 1, "", "old")
        now = inside.clock.now()
        await inside.write(join, "old", process, now, now + 3_600_000_000, "old")
        await app.start(old_code)
        await hooks.wait_for("instance_dropped")

        @workflow(name="hooks_changing")
        async def new_code(ctx: WorkflowContext) -> None:
            await pay(True)

        await hooks.wait_for("workflow_replayed 1")
        await inside.database.run(end_lease, "old")
        await hooks.wait_for("instance_stuck")
    (stuck,) = hooks.all("instance_stuck")
    assert (stuck.workflow, stuck.error.error_type) == ("hooks_changing", "trio_romancy.NonDeterminismError")


async def test_an_instance_whose_actor_always_crashes_is_told_as_stuck(database: str) -> None:
    hooks = Recorder()
    async with App(database, hooks=[hooks]) as app:
        handle = await app.start(waiting)
        await trio.sleep(1)
        for _ in range(10):
            probe(app).crash_actors()
            await trio.sleep(2)
        with pytest.raises(WorkflowError):
            await handle.result()
    assert hooks.lines()[3:] == ["instance_dropped", "workflow_replayed 1"] * 4 + ["instance_dropped", "instance_stuck"]


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_a_lost_lease_is_told_and_whoever_takes_over_tells_the_rest(database: str) -> None:
    first, second = Recorder(), Recorder()
    async with App(database, worker_id="first", hooks=[first]) as app:
        handle = await app.start(waiting)
        await first.wait_for("activity_completed hooks_book:1 #1")
        async with App(database, worker_id="second", hooks=[second]) as other:
            await probe(app).write(end_lease, "first")
            await first.wait_for("lease_lost")
            await other.send_event("go", "done")
            assert await handle.result() == "done"
    (lost,) = first.all("lease_lost")
    assert isinstance(lost, LeaseInfo)
    assert (lost.worker_id, lost.epoch > 0) == ("first", True)
    told = first.lines(handle.instance_id) + second.lines(handle.instance_id)
    assert told.count("activity_completed hooks_book:1 #1") == 1
    assert told.count("workflow_completed") == 1
    assert told.count("workflow_started") == 1


async def test_a_client_tells_what_it_sends_and_a_worker_who_is_late(database: str) -> None:
    @activity
    async def slow() -> None:
        await trio.sleep(10)

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await slow()

    hooks = Recorder()
    async with App(database, max_running=1, hooks=[hooks]) as app:
        first = await app.start(flow)
        second = await app.start(flow)
        await first.result()
        await second.result()
    lags = [info.lag for info in hooks.all("workflow_started")]
    assert lags == [0.0, pytest.approx(10.0, abs=0.5)]


async def test_what_is_restarted_after_a_crash_is_not_late() -> None:
    @activity
    async def slow() -> None:
        await trio.sleep(60)

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await ctx.sleep(100)
        await slow()

    hooks = Recorder()
    async with App(":memory:", hooks=[hooks]) as app:
        handle = await app.start(flow)
        await trio.sleep(130)
        probe(app).crash_actors()
        await handle.result()
    assert [(info.entries, info.lag) for info in hooks.all("workflow_replayed")] == [(0, 0.0), (1, 0.0)]


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", ["file"], indirect=True)
async def test_a_client_without_a_worker_has_hooks_too(database: str) -> None:
    hooks = Recorder()
    async with App(database, worker=False, hooks=[hooks]) as app:
        await app.send_event("go", 1)
        await app.publish("news", 1)
    assert [name for name, _ in hooks.told] == ["app_opened", "event_sent", "message_sent", "app_closed"]


async def test_batches_are_told_with_their_size(database: str) -> None:
    hooks = Recorder()
    async with App(database, worker_id="me", hooks=[hooks]) as app:
        await (await app.start(trip, True)).result()
        assert hooks.told[0] == ("app_opened", app)
        worker = app.statistics().worker
        assert worker is not None
        batches: list[BatchInfo] = hooks.all("batch_committed")
        assert sum(batch.writes for batch in batches) == worker.journal.writes
        assert len(batches) == worker.journal.batches
        assert all(batch.worker_id == "me" and batch.duration >= 0 for batch in batches)
    assert hooks.told[-1] == ("app_closed", app)


# -- crashes -----------------------------------------------------------------------------------------------------------


@workflow(name="hooks_crashing")
async def crashing(ctx: WorkflowContext) -> str:
    await book("flight")
    await ctx.sleep(60)
    await book("hotel")
    await ctx.publish("news", "booked")
    event = await ctx.wait_event("go")
    return str(event.data)


async def crash_scenario(app: App) -> list[str]:
    await app.send_event("before", 1, source="/", id="1")
    handles = [await app.start(crashing.options(id=f"crashing-{number}")) for number in range(2)]
    await app.send_event("go", "done", source="/", id="2")
    return [await handle.result() for handle in handles]


ONCE = (
    "activity_completed",
    "activity_failed",
    "activity_retried",
    "timer_fired",
    "event_received",
    "message_sent",
    "event_sent",
    "workflow_completed",
    "workflow_started",
)
IN_JOURNAL = {
    "activity_completed": EntryKind.ACTIVITY_COMPLETED,
    "activity_retried": EntryKind.ATTEMPT_FAILED,
    "timer_fired": EntryKind.TIMER_FIRED,
    "event_received": EntryKind.EVENT_RECEIVED,
    "message_sent": EntryKind.PUBLISHED,
}


@pytest.mark.parametrize("how", How)
def test_whatever_crashes_nothing_is_told_twice_and_nothing_that_was_not_committed(how: How) -> None:
    commit = 0
    while True:
        commit += 1
        ran.clear()
        hooks = Recorder()
        run = run_with_crashes(crash_scenario, [Crash(commit, how)], hooks=[hooks])
        if commit not in run.reached:
            break
        told = Counter(
            (name, getattr(info, "instance_id", None), getattr(info, "operation_id", None), getattr(info, "attempt", 0))
            for name, info in hooks.told
            if name in ONCE and (name != "event_sent" or info.channel == "go")
        )
        assert [key for key, times in told.items() if times > 1] == [], (commit, hooks.lines())
        journaled = Counter(
            (entry.instance_id, entry.operation_id, entry.kind)
            for history in run.histories.values()
            for entry in history
        )
        of_journal = Counter(
            (info.instance_id, info.operation_id, IN_JOURNAL[name]) for name, info in hooks.told if name in IN_JOURNAL
        )
        assert of_journal <= journaled, (commit, hooks.lines())
        if how in (How.ACTOR_BEFORE, How.ACTOR_AFTER, How.ANSWER_LOST, How.DATABASE_AWAY):  # the worker lives on
            missing = journaled - of_journal
            assert {kind for _, _, kind in missing} == {EntryKind.WORKFLOW_COMPLETED}, (commit, hooks.lines())
            assert len(hooks.all("workflow_completed")) == 2
        lives = Counter(name for name, _ in hooks.told)
        assert lives["workflow_started"] + lives["workflow_replayed"] == lives["instance_dropped"]
    assert commit > 5


async def test_an_entry_that_the_database_refuses_is_never_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused = 0

    def refuse(rows: Sequence[dict[str, Any]]) -> None:
        nonlocal refused
        if any(row["instance_id"] == "bad" for row in rows) and refused < 4:
            refused += 1
            raise ValueError("refused")

    before_each_insert(refuse, monkeypatch)
    hooks = Recorder()
    with caplog.at_level(logging.CRITICAL, "trio_romancy"):
        async with App(":memory:", hooks=[hooks]) as app:
            handles = [await app.start(trip.options(id=id), True) for id in ("bad", "good")]
            for handle in handles:
                await handle.result()
    assert refused == 4
    for id in ("bad", "good"):
        completed = [line for line in hooks.lines(id) if line.startswith("activity_completed")]
        assert sorted(completed) == [
            "activity_completed hooks_book:1 #1",
            f"activity_completed hooks_book:2 #{completed[1][-1]}",
            "activity_completed hooks_pay:1 #1",
        ]
    assert hooks.lines("bad").count("instance_dropped") == 3


async def test_while_the_database_is_away_nothing_is_told_that_is_not_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hooks hear of an entry only when the commit that holds it has ended."""
    hooks = Recorder()
    held, goes_on = trio.Event(), trio.Event()

    async with App(":memory:", hooks=[hooks]) as app:

        async def wait(batch: Batch) -> None:
            if batch.entries and not held.is_set():
                held.set()
                await goes_on.wait()

        probe(app).before_each_commit(wait, monkeypatch)
        handle = await app.start(trip, True)
        await held.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert hooks.lines() == ["workflow_started", "activity_started hooks_book:1 #1"]
        goes_on.set()
        await handle.result()
    assert hooks.lines()[2] == "activity_completed hooks_book:1 #1"


# -- hooks that do what they should not --------------------------------------------------------------------------------


class Raising(Hooks):
    """Raises from every method."""

    def around_activity(self, activity: ActivityInfo) -> AbstractContextManager[object]:
        raise RuntimeError("around_activity")

    def trace_context(self, workflow: str, instance_id: str) -> dict[str, str]:
        raise RuntimeError("trace_context")


def _raising(name: str) -> Callable[[Raising, Any], None]:
    def fail(self: Raising, info: Any) -> None:
        raise RuntimeError(name)

    return fail


for _name in TOLD:
    setattr(Raising, _name, _raising(_name))


async def test_a_hook_that_raises_is_logged_once_and_does_no_harm(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    alone, beside = Recorder(), Recorder()
    async with App(database, hooks=[alone]) as app:
        await (await app.start(trip, True)).result()
    ran.clear()
    with caplog.at_level(logging.INFO, "trio_romancy.hooks"):
        async with App(database, hooks=[Raising(), beside, Raising()]) as app:
            assert await (await app.start(trip, True)).result() == "booked"
    assert beside.lines() == alone.lines()
    records = [record for record in caplog.records if record.name == "trio_romancy.hooks"]
    messages = Counter(record.getMessage().split(" ")[0] for record in records)
    assert messages["Raising.activity_completed"] == 2  # there are two of them
    assert set(messages.values()) == {2}
    assert "Raising.trace_context" in messages and "Raising.around_activity" in messages
    assert all(record.exc_info and record.levelno == logging.ERROR for record in records)


@pytest.mark.parametrize(
    "name", ["isinstance", "str", "traceback", "attributes", "metaclass", "lone surrogates", "exit"]
)
async def test_a_hook_that_raises_a_strange_exception_or_exits_does_no_harm(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    def error() -> BaseException:
        return SystemExit(3) if name == "exit" else STRANGE[name]()

    class Strange(Hooks):
        def trace_context(self, workflow: str, instance_id: str) -> dict[str, str]:
            raise error()

        def workflow_started(self, workflow: WorkflowInfo) -> None:
            raise error()

        def activity_completed(self, activity: ActivityInfo) -> None:
            raise error()

        def around_activity(self, activity: ActivityInfo) -> AbstractContextManager[object]:
            return self.run()

        @contextmanager
        def run(self) -> Iterator[None]:
            yield
            raise error()

    async with App(":memory:", hooks=[Strange()]) as app:
        assert await (await app.start(trip, True)).result() == "booked"
    logged = [record for record in caplog.records if record.name == "trio_romancy.hooks"]
    methods = {record.getMessage().split(" ")[0].partition(".")[2] for record in logged}
    assert methods == {"trace_context", "workflow_started", "activity_completed", "around_activity"}
    assert all(record.exc_text and "in test_hooks" not in record.exc_text for record in logged)


async def test_hooks_are_told_the_first_error_of_a_group() -> None:
    @activity(retry=RetryPolicy.no_retry())
    async def fails() -> None:
        raise ExceptionGroup("Exceptions from Trio nursery", [ConnectionError("no route"), ValueError("x")])

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await fails()

    hooks = Recorder()
    async with App(":memory:", hooks=[hooks]) as app:
        with pytest.raises(WorkflowError):
            await (await app.start(flow)).result()
    (failed,) = hooks.all("activity_failed")
    assert failed.error.error_type == "ConnectionError"
    assert failed.error.message == "no route (and 1 more error in the group: ValueError)"
    assert failed.error.error_types == ["ConnectionError", "OSError", "Exception"]
    (ended,) = hooks.all("workflow_failed")
    assert "no route" in ended.error.message


@pytest.mark.parametrize("raises_on", ["enter", "exit", "suppress"])
async def test_what_an_activity_runs_in_cannot_change_its_outcome(
    raises_on: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Around(Hooks):
        def around_activity(self, activity: ActivityInfo) -> AbstractContextManager[None]:
            return self.run(activity)

        @contextmanager
        def run(self, activity: ActivityInfo) -> Iterator[None]:
            if raises_on == "enter":
                raise RuntimeError("enter")
            try:
                yield
            except ValueError:
                pass  # as if it had not happened
            if raises_on == "exit":
                raise RuntimeError("exit")

    hooks = Recorder()
    async with App(":memory:", retry=RetryPolicy.no_retry(), hooks=[Around(), hooks]) as app:
        with pytest.raises(WorkflowError, match="no money"):
            await (await app.start(trip, False)).result()
    assert len(hooks.all("activity_failed")) == 1
    assert len(hooks.all("activity_completed")) == 2
    logged = [record for record in caplog.records if record.name == "trio_romancy.hooks"]
    assert len(logged) == (0 if raises_on == "suppress" else 1)


async def test_an_activity_runs_in_what_hooks_put_around_it_and_that_sees_how_it_ends() -> None:
    seen: list[str] = []

    class Around(Hooks):
        def __init__(self, name: str) -> None:
            self.name = name

        def around_activity(self, activity: ActivityInfo) -> AbstractContextManager[None]:
            return self.run(activity)

        @contextmanager
        def run(self, activity: ActivityInfo) -> Iterator[None]:
            seen.append(f"{self.name} enters {activity.operation_id} #{activity.attempt}")
            try:
                yield
            except BaseException as error:
                seen.append(f"{self.name} sees {type(error).__name__}")
                raise
            seen.append(f"{self.name} leaves")

    @activity(cancellable=True)
    async def endless() -> None:
        await trio.sleep_forever()

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        with ctx.move_on_after(5):
            await endless()
        await pay(False)

    async with App(":memory:", hooks=[Around("outer"), Around("inner")]) as app:
        with pytest.raises(WorkflowError):
            await (await app.start(flow)).result()
    assert seen == [
        "outer enters endless:1 #1",
        "inner enters endless:1 #1",
        "inner sees Cancelled",
        "outer sees Cancelled",
        *[
            line
            for number in (1, 2)
            for line in (
                f"outer enters hooks_pay:1 #{number}",
                f"inner enters hooks_pay:1 #{number}",
                "inner sees ValueError",
                "outer sees ValueError",
            )
        ],
    ]


class Tracing(Hooks):
    def __init__(self, context: Any) -> None:
        self.context = context

    def trace_context(self, workflow: str, instance_id: str) -> Any:
        return self.context


@pytest.mark.parametrize("worker", [True, False])
@pytest.mark.parametrize("kind", ["file"], indirect=True)
@pytest.mark.real_clock
async def test_the_trace_context_of_who_starts_an_instance_reaches_who_runs_it(database: str, worker: bool) -> None:
    hooks = Recorder()
    async with App(database, worker=worker, hooks=[Tracing({"traceparent": "00-1-2-01"}), Tracing(None)]) as app:
        handle = await app.start(waiting)
    async with App(database, hooks=[hooks]) as app:
        await app.send_event("go", "done")
        await app.handle(handle.instance_id).result()
    (completed,) = hooks.all("workflow_completed")
    assert completed.trace == {"traceparent": "00-1-2-01"}


@pytest.mark.parametrize("context", [{"traceparent": 1}, {"tracestate": "x" * 10_000}, "00-1-2-01"])
async def test_a_trace_context_that_cannot_be_stored_is_logged_and_left_out(
    context: object, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = Recorder()
    async with App(":memory:", hooks=[Tracing(context), Tracing({"a": "b"}), hooks]) as app:
        await (await app.start(trip, True)).result()
    assert hooks.all("workflow_completed")[0].trace == {"a": "b"}
    assert len([record for record in caplog.records if record.name == "trio_romancy.hooks"]) == 1


def test_what_is_no_hook_is_refused() -> None:
    class Asynchronous(Hooks):
        async def workflow_started(self, workflow: WorkflowInfo) -> None:  # type: ignore[override]
            pass

    with pytest.raises(TypeError, match="hooks are instances of subclasses of trio_romancy"):
        App(":memory:", hooks=[Recorder])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="workflow_started is asynchronous"):
        App(":memory:", hooks=[Asynchronous()])


async def test_without_hooks_nothing_is_kept_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = 0
    observations: list[object] = []

    def count(batch: Batch) -> None:
        nonlocal entries
        entries += len(batch.entries)
        observations.append(batch.observations)

    before_each_apply(count, monkeypatch)
    async with App(":memory:") as app:
        handle = await app.start(waiting)
        await trio.sleep(1)
        (actor,) = probe(app).actors
        assert actor.instance_run.events is None
        assert not probe(app).has_hooks
        await app.send_event("go", 1)
        await handle.result()
    assert entries > 1
    assert observations.count(None) == len(observations)


async def test_a_batch_is_told_before_what_is_in_it() -> None:
    told: list[str] = []

    class Order(Hooks):
        def batch_committed(self, batch: BatchInfo) -> None:
            told.append("batch")

        def activity_completed(self, activity: ActivityInfo) -> None:
            told.append("activity")

    @activity
    async def work() -> None:
        pass

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await work()

    async with App(":memory:", hooks=[Order()]) as app:
        await (await app.start(flow)).result()
    assert told.index("activity") >= 2, told  # after the batch of the start, and its own
