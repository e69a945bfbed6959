"""A run that is gone records nothing, whatever its code makes of the cancellation; the next run comes to the result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import sqlalchemy as sa
import trio

from trio_romancy import (
    App,
    ChannelMode,
    EntryKind,
    NonDeterminismError,
    RetryPolicy,
    TerminalError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowStuckError,
    activity,
    compensation,
    current_activity,
    workflow,
)
from trio_romancy._runtime.run.exits import RunGone
from trio_romancy._storage.journal.batch import Batch
from trio_romancy._storage.sql.tables import history, instances
from trio_romancy.errors import ActivityTerminalError, DatabaseAwayError, LeaseLostError

from ..support.probe import probe, wrap_session_fence

HOUR = 3600
Answer = Callable[[BaseException], Any]


class Mine(Exception):
    """An exception of the user's own."""


def raises(make: Callable[[BaseException], BaseException]) -> Answer:
    def answer(error: BaseException) -> NoReturn:
        raise make(error)

    return answer


ANSWERS: dict[str, Answer] = {
    "the cancellation": raises(lambda error: error),
    "nothing": lambda error: "late",
    "Exception": raises(lambda error: Mine("mine")),
    "Exception from it": raises(lambda error: _caused(Mine("mine"), error)),
    "TerminalError": raises(lambda error: TerminalError("for good")),
    "ActivityTerminalError": raises(lambda error: ActivityTerminalError("a", "E", "for good", 1)),
    "TooSlowError": raises(lambda error: trio.TooSlowError()),
    "LeaseLostError": raises(lambda error: LeaseLostError("lost")),
    "DatabaseAwayError": raises(lambda error: DatabaseAwayError("away")),
    "RunGone": raises(lambda error: RunGone()),
    "ExceptionGroup": raises(lambda error: ExceptionGroup("group", [Mine("mine"), TerminalError("for good")])),
    "group with the cancellation": raises(lambda error: BaseExceptionGroup("group", [error, Mine("mine")])),
    "nested group": raises(
        lambda error: BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [error]), TerminalError("for good")])
    ),
    "group with SystemExit": raises(lambda error: BaseExceptionGroup("group", [error, SystemExit(1)])),
    "SystemExit": raises(lambda error: SystemExit(1)),
    "GeneratorExit": raises(lambda error: GeneratorExit()),
    "BaseException": raises(lambda error: BaseException("base")),
}
"""What user code makes of the cancellation that it sees."""


def _caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


answer: Answer = ANSWERS["the cancellation"]
heard: list[str] = []
"""What user code has seen of runs that went away."""
undone: list[str] = []


@pytest.fixture(autouse=True)
def forget() -> None:
    heard.clear()
    undone.clear()


async def hang() -> Any:
    """Take an hour, or answer a cancellation."""
    try:
        await trio.sleep(HOUR)
    except BaseException as error:
        heard.append(type(error).__name__)
        return answer(error)


async def guard(call: Awaitable[Any]) -> Any:
    """Await what may be cancelled, and answer that."""
    try:
        return await call
    except (trio.Cancelled, RunGone) as error:
        heard.append(type(error).__name__)
        return answer(error)


@compensation(name="gone_undo", retry=RetryPolicy.fixed(5, 1))
async def undo(what: str) -> None:
    if what == "slow":
        await hang()
    undone.append(what)


@activity(name="gone_do", compensation=undo)
async def do(what: str) -> str:
    return what


@activity(name="gone_work", retry=RetryPolicy.fixed(5, 1))
async def work() -> None:
    await hang()


@activity(name="gone_work_once", retry=RetryPolicy.fixed(1, 1))
async def work_once() -> None:
    await hang()


@activity(name="gone_stop", cancellable=True)
async def stop() -> None:
    await hang()


@activity(name="gone_write", retry=RetryPolicy.fixed(5, 1))
async def write() -> None:
    await current_activity().session.execute(sa.text("SELECT 1"))
    await hang()


@activity(name="gone_retry", retry=RetryPolicy.fixed(5, HOUR))
async def try_twice() -> None:
    if current_activity().attempt == 1:
        raise Mine("the first attempt")


@workflow(name="gone_child")
async def child(ctx: WorkflowContext) -> None:
    await ctx.sleep(HOUR)


# -- where the run is when it goes away --------------------------------------------------------------------------------


async def in_an_activity(ctx: WorkflowContext) -> None:
    await guard(work())


async def in_an_activity_without_retries(ctx: WorkflowContext) -> None:
    await guard(work_once())


async def in_a_cancellable_activity(ctx: WorkflowContext) -> None:
    await guard(stop())


async def in_an_activity_with_a_session(ctx: WorkflowContext) -> None:
    await guard(write())


async def in_activities_beside_each_other(ctx: WorkflowContext) -> None:
    async def branch(name: str, call: Callable[[], Awaitable[None]]) -> None:
        with ctx.branch(name):
            await guard(call())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(branch, "one", work)
        nursery.start_soon(branch, "two", stop)
        nursery.start_soon(branch, "three", work_once)


async def before_the_next_attempt(ctx: WorkflowContext) -> None:
    await guard(try_twice())


async def in_a_sleep(ctx: WorkflowContext) -> None:
    await guard(ctx.sleep(HOUR))


async def in_a_shielded_sleep(ctx: WorkflowContext) -> None:
    with trio.CancelScope(shield=True):
        await guard(ctx.sleep(HOUR))


async def in_a_wait_for_an_event(ctx: WorkflowContext) -> None:
    await guard(ctx.wait_event("gone.news"))


async def in_a_wait_for_a_message(ctx: WorkflowContext) -> None:
    await ctx.subscribe("gone.news", ChannelMode.BROADCAST)
    await guard(ctx.receive("gone.news"))


async def in_a_wait_for_a_child(ctx: WorkflowContext) -> None:
    await guard(ctx.run(child))


async def in_code_of_its_own(ctx: WorkflowContext) -> None:
    await hang()


async def in_a_child_task(ctx: WorkflowContext) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang)
        nursery.start_soon(guard, ctx.sleep(HOUR, id="beside"))


async def in_a_block_with_a_finally(ctx: WorkflowContext) -> None:
    try:
        await ctx.sleep(HOUR)
    finally:
        with trio.CancelScope(shield=True):
            await guard(do("in finally"))
            await guard(ctx.sleep(1))
            await guard(ctx.publish("gone.news", 1))


async def in_a_timeout(ctx: WorkflowContext) -> None:
    with ctx.move_on_after(HOUR):
        await guard(ctx.sleep(2 * HOUR))


PLACES = [
    in_an_activity,
    in_an_activity_without_retries,
    in_a_cancellable_activity,
    in_an_activity_with_a_session,
    in_activities_beside_each_other,
    before_the_next_attempt,
    in_a_sleep,
    in_a_shielded_sleep,
    in_a_wait_for_an_event,
    in_a_wait_for_a_message,
    in_a_wait_for_a_child,
    in_code_of_its_own,
    in_a_child_task,
    in_a_block_with_a_finally,
    in_a_timeout,
]

Stored = tuple[list[Any], list[Any]]


async def stored(app: App, instance_id: str) -> Stored:
    """Return the row and the journal of an instance."""

    def read(connection: sa.Connection) -> Stored:
        # What it waits for is shown to people, and may have been waiting for its turn to be written.
        columns = [column for column in instances.columns if column is not instances.c.waits_for]
        row = connection.execute(sa.select(*columns).where(instances.c.instance_id == instance_id)).all()
        entries = sa.select(history).where(history.c.instance_id == instance_id).order_by(history.c.seq)
        return [*row], [*connection.execute(entries)]

    return await probe(app).read(read)


@pytest.mark.parametrize("made", ANSWERS)
@pytest.mark.parametrize("place", PLACES)
async def test_nothing_is_recorded_whatever_the_code_raises(
    place: Callable[[WorkflowContext], Awaitable[None]], made: str
) -> None:
    global answer
    answer = ANSWERS[made]

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await do("before")
        await place(ctx)
        ctx.set_details("went on")
        return await do("after")

    async with App(":memory:", idle_timeout=10 * HOUR) as app:
        handle = await app.start(flow)
        await trio.sleep(10)
        before = await stored(app, handle.instance_id)
        probe(app).abandon_actors()
        await trio.sleep(100)
        assert heard
        assert not undone
        assert await stored(app, handle.instance_id) == before
        answer = ANSWERS["the cancellation"]
        probe(app).abandon()  # the worker joins again, and takes the instance up
        await trio.sleep(1)
        await app.send_event("gone.news", 1)
        await app.publish("gone.news", 1)
        assert await handle.result() == "after"
        entries = await app.history(handle.instance_id)
    assert not undone
    failed = [entry.kind for entry in entries if entry.kind in (EntryKind.ATTEMPT_FAILED, EntryKind.ACTIVITY_FAILED)]
    assert failed == ([EntryKind.ATTEMPT_FAILED] if place is before_the_next_attempt else [])


@pytest.mark.parametrize("made", ANSWERS)
async def test_nothing_is_recorded_whatever_a_compensation_raises(made: str) -> None:
    global answer
    answer = ANSWERS[made]

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await do("first")
        await do("slow")
        await do("last")
        raise TerminalError("it fails")

    async with App(":memory:") as app:
        handle = await app.start(flow)
        await trio.sleep(10)
        assert undone == ["last"]
        before = await stored(app, handle.instance_id)
        probe(app).abandon_actors()
        await trio.sleep(100)
        assert len(heard) == 1
        # One that returns has undone its own. It is not recorded, so it is undone again; but nothing after it.
        assert undone == (["last", "slow"] if made == "nothing" else ["last"])
        assert await stored(app, handle.instance_id) == before
        undone.clear()
        probe(app).abandon()
        with pytest.raises(WorkflowFailedError, match="it fails") as caught:
            await handle.result()
        assert caught.value.uncompensated == []
    assert undone == ["slow", "first"]


@pytest.mark.parametrize("made", ANSWERS)
async def test_code_that_does_not_fit_records_nothing_whatever_it_raises(made: str) -> None:
    """The actor stops a workflow function in the same way then, though its run is not gone."""
    global answer
    answer = ANSWERS[made]

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await do("before")

        async def branch(name: str, call: Callable[[], Awaitable[None]]) -> None:
            with ctx.branch(name):
                await guard(call())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(branch, "one", work)
            nursery.start_soon(branch, "two", stop)
            nursery.start_soon(branch, "three", write)
            await trio.testing.wait_all_tasks_blocked()
            run = probe(app).actor("i").instance_run
            before.append(await stored(app, "i"))
            run.reject_code(NonDeterminismError("it does not fit"))
            await guard(ctx.sleep(HOUR))
        return await do("after")

    before: list[Stored] = []
    async with App(":memory:") as app:
        handle = await app.start(flow.options(id="i"))
        with pytest.raises(WorkflowStuckError, match="it does not fit"):
            await handle.result()
        assert len(heard) >= 3
        assert (await stored(app, "i"))[1] == before[0][1]
    assert not undone


@pytest.mark.parametrize("way", ["commits", "crashes after the commit", "is abandoned after the commit"])
async def test_a_transaction_that_commits_while_its_run_goes_away_counts_once(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry is in it. So the next run finds both, or neither."""
    attempts: list[int] = []

    @activity
    async def insert() -> None:
        attempts.append(current_activity().attempt)
        await current_activity().session.execute(sa.text("INSERT INTO effects DEFAULT VALUES"))

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await insert()
        return await do("after")

    def go_away_in(fence: Callable[..., None]) -> Callable[..., None]:
        def fence_and_go_away(*args: Any) -> None:
            fence(*args)
            if len(attempts) == 1 and way != "commits":
                if way == "crashes after the commit":
                    probe(app).crash_actors()
                else:
                    probe(app).abandon_actors()

        return fence_and_go_away

    wrap_session_fence(go_away_in, monkeypatch)
    async with App(":memory:") as app:
        await probe(app).write(
            lambda connection: connection.execute(sa.text("CREATE TABLE effects (id INTEGER PRIMARY KEY)"))
        )
        handle = await app.start(flow)
        await trio.sleep(1)
        if way == "is abandoned after the commit":
            probe(app).abandon()
        assert await handle.result() == "after"
        entries = await app.history(handle.instance_id)
        count = await probe(app).read(
            lambda connection: connection.execute(sa.text("SELECT count(*) FROM effects")).scalar_one()
        )
    assert (attempts, count) == ([1], 1)
    assert [entry.operation_id for entry in entries].count("insert:1") == 1


async def test_a_run_that_goes_away_while_its_end_is_written_does_not_compensate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await do("before")
        raise TerminalError("it fails")

    async def go_away(batch: Batch) -> None:
        if batch.closings and len(closed) == 0:
            closed.append(await stored(app, "i"))
            probe(app).abandon_actors()
            await trio.testing.wait_all_tasks_blocked()

    closed: list[Stored] = []
    async with App(":memory:") as app:
        probe(app).before_each_commit(go_away, monkeypatch)
        handle = await app.start(flow.options(id="i"))
        await trio.sleep(100)
        assert closed
        assert not undone
        entries = await app.history("i")
        assert [entry.kind for entry in entries] == [EntryKind.ACTIVITY_COMPLETED, EntryKind.WORKFLOW_FAILED]
        probe(app).abandon()
        with pytest.raises(WorkflowFailedError, match="it fails"):
            await handle.result()
    assert undone == ["before"]


@pytest.mark.parametrize("made", ANSWERS)
@pytest.mark.parametrize("place", [in_activities_beside_each_other, in_code_of_its_own])
async def test_a_worker_that_stops_gives_back_what_it_tore_down_whatever_the_code_raises(
    place: Callable[[WorkflowContext], Awaitable[None]], made: str, tmp_path: Path, nobody_polls: None
) -> None:
    global answer
    answer = ANSWERS[made]

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        await do("before")
        await place(ctx)
        return await do("after")

    file = str(tmp_path / "romancy.db")
    async with App(file, shutdown_timeout=1) as app:
        await app.start(flow.options(id="i"))
        await trio.sleep(10)
        before = (await stored(app, "i"))[1]
        heard.clear()
    answer = ANSWERS["the cancellation"]
    async with App(file) as app:
        await trio.sleep(1)
        assert (await stored(app, "i"))[1] == before
        assert await app.handle("i").result() == "after"
    assert not undone
