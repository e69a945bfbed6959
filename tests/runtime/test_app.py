"""What the app promises its callers."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import trio
import trio.testing
import trio_asyncio

from trio_romancy import (
    App,
    DatabaseError,
    EntryKind,
    InstanceExistsError,
    InstanceNotFoundError,
    RomancyError,
    Status,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowStuckError,
    activity,
    compensation,
    current_activity,
    workflow,
)
from trio_romancy._storage.sql import claims
from trio_romancy.errors import LeaseLostError

from ..support.databases import SHARED_KINDS
from ..support.probe import probe
from ..support.servers import PRODUCTS

ran: list[str] = []
apps: list[App] = []


@compensation(name="app_undo")
async def undo(name: str) -> None:
    ran.append(f"undo {name}")


@activity(name="do", compensation=undo)
async def do(name: str, seconds: float = 0.0) -> str:
    ran.append(f"begin {name}")
    await trio.sleep(seconds)
    ran.append(f"end {name}")
    return name


@workflow
async def two_steps(ctx: WorkflowContext, seconds: float) -> str:
    await do("one", seconds)
    return await do("two", seconds)


@pytest.fixture(autouse=True)
def forget() -> None:
    ran.clear()
    apps.clear()


async def test_the_same_id_and_input_is_the_same_instance_and_another_input_is_an_error(database: str) -> None:
    async with App(database) as app:
        first = await app.start(two_steps.options(id="mine"), 5.0)
        second = await app.start(two_steps.options(id="mine"), 5.0)
        assert first.instance_id == second.instance_id == "mine"
        assert [await first.result(), await second.result()] == ["two", "two"]
        third = await app.start(two_steps.options(id="mine"), 5)
        assert await third.result() == "two"
        with pytest.raises(InstanceExistsError, match="'mine' exists already with another input"):
            await app.start(two_steps.options(id="mine"), 6.0)

        @workflow
        async def another(ctx: WorkflowContext, seconds: float) -> None: ...

        with pytest.raises(InstanceExistsError, match="workflow 'two_steps', not 'another'"):
            await app.start(another.options(id="mine"), 5.0)
    assert ran == ["begin one", "end one", "begin two", "end two"]


async def test_result_can_be_awaited_later_by_id_and_times_out(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(two_steps, 5.0)
        with pytest.raises(trio.TooSlowError):
            await handle.result(timeout=1)
        assert await app.handle(handle.instance_id).result() == "two"
        assert await app.handle(handle.instance_id).result() == "two"
        with pytest.raises(InstanceNotFoundError, match="'nobody'"):
            await app.handle("nobody").result()
        with pytest.raises(InstanceNotFoundError):
            await app.history("nobody")
        assert await app.get_instance("nobody") is None


async def test_cancel_wins_before_the_function_ends_and_says_so_truthfully_after(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(two_steps, 5.0)
        await trio.sleep(2)
        assert await handle.cancel("stop")
        assert await handle.cancel("again")
        with pytest.raises(WorkflowCancelledError, match="stop"):
            await handle.result()
        assert await handle.cancel()
        done = await app.start(two_steps, 0.0)
        await done.result()
        assert not await done.cancel()
        with pytest.raises(InstanceNotFoundError):
            await app.cancel("nobody")
    assert ran[:3] == ["begin one", "end one", "undo one"]


async def cancels(app: App, moment: Callable[[], Awaitable[object]]) -> None:
    """Start, cancel at some moment, and check that what was said of it came true."""
    handle = await app.start(two_steps, 0.0)
    await moment()
    won = await handle.cancel()
    try:
        assert await handle.result() == "two"
        assert not won
    except WorkflowCancelledError:
        assert won
        assert sum(what.startswith("undo") for what in ran) == sum(what.startswith("end") for what in ran)


@pytest.mark.parametrize("moment", range(14))
async def test_cancel_at_any_checkpoint_either_wins_or_says_that_it_did_not(moment: int) -> None:
    async def checkpoints() -> None:
        for _ in range(moment):
            await trio.lowlevel.checkpoint()

    async with App(":memory:") as app:  # where nothing else takes time
        await cancels(app, checkpoints)


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_cancel_at_any_moment_either_wins_or_says_that_it_did_not(database: str) -> None:
    async with App(database) as app:
        for moment in range(30):
            ran.clear()
            await cancels(app, partial(trio.sleep, moment * 0.0005))


@pytest.mark.parametrize("moment", range(0, 40, 3))
async def test_a_request_that_meets_the_end_of_the_function_is_recorded_once(moment: int) -> None:
    """The function ends while its mailbox waits for it to come to rest."""

    @workflow(name=f"never_at_rest_{moment}")
    async def never_at_rest(ctx: WorkflowContext) -> str:
        await ctx.sleep(1)
        for _ in range(20):
            await trio.lowlevel.cancel_shielded_checkpoint()
        return "completed"

    async with App(":memory:") as app:
        handle = await app.start(never_at_rest)
        await trio.sleep(1)
        for _ in range(moment):
            await trio.lowlevel.checkpoint()
        won = await handle.cancel()
        with suppress(WorkflowCancelledError):
            assert await handle.result() == "completed"
        kinds = [entry.kind for entry in await app.history(handle.instance_id)]
        assert kinds.count(EntryKind.CANCEL_REQUESTED) == won
        worker = app.statistics().worker
        assert worker is not None and worker.supervisor.restarts == 0


async def test_a_request_that_came_with_the_last_commit_wins_over_completion(database: str) -> None:
    @workflow
    async def quick(ctx: WorkflowContext) -> str:
        await do("one")
        # Between the last activity and the durable end: a request from another process.
        database = probe(app).database
        from trio_romancy._storage.sql.steering import request_cancel

        assert (await database.run(request_cancel, ctx.instance_id, "late", 0)).accepted  # type: ignore[union-attr]
        return "completed"

    async with App(database) as app:
        handle = await app.start(quick)
        with pytest.raises(WorkflowCancelledError, match="late"):
            await handle.result()
        kinds = [entry.kind for entry in await app.history(handle.instance_id)]
    assert kinds[1:3] == [EntryKind.CANCEL_REQUESTED, EntryKind.WORKFLOW_CANCELLED]
    assert ran[-1] == "undo one"


async def test_an_instance_cancelled_before_it_ever_ran_runs_nothing(database: str) -> None:
    async with App(database, max_running=1) as app:
        await app.start(two_steps, 10.0)
        waiting = await app.start(do_other, 0.0)
        instance = await app.get_instance(waiting.instance_id)
        assert instance is not None
        assert instance.status is Status.PENDING
        assert await waiting.cancel()
        with pytest.raises(WorkflowCancelledError):
            await waiting.result()
    assert "begin other" not in ran


@workflow
async def do_other(ctx: WorkflowContext, seconds: float) -> None:
    await do("other", seconds)


async def test_shutdown_lets_running_activities_finish_and_records_them_and_the_next_worker_goes_on(
    database: str,
) -> None:
    async with App(database) as app:
        handle = await app.start(two_steps, 5.0)
        await trio.sleep(1)
        inside = probe(app)
        inside.stop()
        await trio.sleep(10)
        from trio_romancy._storage.sql.entries import load_history
        from trio_romancy._storage.sql.instances import get_instance

        instance = await inside.read(get_instance, handle.instance_id)
        history = await inside.read(load_history, handle.instance_id)
    assert ran == ["begin one", "end one"]
    assert [entry.operation_id for entry in history] == ["do:1"]
    assert instance is not None
    assert (instance.status, instance.worker_id) == (Status.PENDING, None)


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_what_does_not_finish_in_time_is_handed_back_and_done_by_the_next_app(database: str) -> None:
    hang = True
    begun = trio.Event()

    @activity
    async def hangs() -> str:
        ran.append("begin")
        begun.set()
        if hang:
            await trio.sleep_forever()
        return "done"

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await hangs()

    async with App(database, shutdown_timeout=0.2) as app:
        handle = await app.start(flow)
        await begun.wait()
    hang = False
    async with App(database) as app:
        assert await app.handle(handle.instance_id).result(timeout=60) == "done"
        instance = await app.get_instance(handle.instance_id)
        assert instance is not None
    assert ran == ["begin", "begin"]


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_a_client_starts_awaits_and_cancels_what_a_worker_runs(database: str) -> None:
    async with App(database, worker=False) as client:
        handle = await client.start(two_steps, 0.0)
        instance = await client.get_instance(handle.instance_id)
        assert instance is not None
        assert instance.status is Status.PENDING
        async with App(database):
            assert await handle.result(timeout=60) == "two"
            slow = await client.start(two_steps, 0.3)
            assert await slow.cancel("not needed")
            with pytest.raises(WorkflowCancelledError):
                await slow.result(timeout=60)


@pytest.mark.real_clock
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_two_workers_on_one_database_share_the_work(database: str) -> None:
    async with App(database, worker=False) as client, App(database), App(database):
        handles = [await client.start(two_steps, 0.01) for _ in range(30)]
        for handle in handles:
            assert await handle.result(timeout=60) == "two"
    assert len(ran) == 30 * 4


async def test_a_worker_that_lost_its_lease_drops_everything_writes_nothing_and_joins_again(database: str) -> None:
    async with App(database) as app:
        handle = await app.start(two_steps, 5.0)
        await trio.sleep(2)
        old = probe(app).journal
        from trio_romancy._storage.sql.workers import Lease, _end, _free

        def take_over(connection: Any) -> None:
            assert _end(connection, Lease(old.lease.worker_id, old.lease.epoch))
            _free(connection, old.lease.worker_id, 0, died=True)

        await probe(app).write(take_over)
        assert await handle.result() == "two"
        with pytest.raises(LeaseLostError):
            old.append_end(handle.instance_id)
        assert probe(app).journal.lease != old.lease
    assert ran.count("end two") == 1


async def test_an_error_of_the_block_comes_out_as_it_went_in(database: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with App(database):
            raise ZeroDivisionError


@activity(name="app_starts_in_session")
async def starts_in_session() -> str:
    await current_activity().session.execute(sa.text("SELECT 1"))
    app = apps[-1]
    try:
        return (await app.start(do_other, 0.0)).instance_id
    except RomancyError as error:
        return str(error)


@workflow
async def starts_another(ctx: WorkflowContext) -> str:
    return await starts_in_session()


@pytest.mark.parametrize("kind", ["sqlite", "file"], indirect=True)
async def test_with_one_writer_starting_from_an_open_session_is_refused_instead_of_waiting_for_itself(
    database: str,
) -> None:
    async with App(database) as app:
        apps.append(app)
        result = await (await app.start(starts_another)).result()
    assert "cannot start an instance while its session is open" in result
    assert not ran


@pytest.mark.parametrize("kind", PRODUCTS, indirect=True)
async def test_a_server_takes_a_start_from_an_open_session(database: str) -> None:
    async with App(database) as app:
        apps.append(app)
        instance_id = await (await app.start(starts_another)).result()
        assert await app.handle(instance_id).result() is None
    assert ran == ["begin other", "end other"]


async def test_a_group_of_one_failure_is_reported_as_that_failure(database: str) -> None:
    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        async with trio.open_nursery():
            raise LookupError("inside")

    async with App(database) as app:
        with pytest.raises(WorkflowFailedError) as caught:
            await (await app.start(flow)).result()
    assert (caught.value.error_type, caught.value.message) == ("LookupError", "inside")
    assert "LookupError: inside" in caught.value.traceback


async def test_an_error_on_entering_comes_out_plainly(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="there is no directory"):
        async with App(str(tmp_path / "nowhere" / "x.db")):
            raise AssertionError


async def test_a_recorded_result_that_no_longer_fits_the_code_parks_the_instance(database: str) -> None:
    def flow_of(annotation: Any) -> Any:
        async def measure() -> Any:
            return 1

        measure.__annotations__["return"] = annotation
        measured = activity(measure)

        @workflow
        async def flow(ctx: WorkflowContext) -> str:
            value = await measured()
            await ctx.sleep(100)
            return str(value)

        return flow

    async with App(database, idle_timeout=1) as app:
        handle = await app.start(flow_of(int))
        await trio.sleep(50)
        flow_of(str)
        with pytest.raises(WorkflowStuckError, match="'measure:1' does not fit the code"):
            await handle.result()
        flow_of(int)
        assert await app.resume(handle.instance_id)
        assert await handle.result() == "1"


async def test_an_activity_that_had_begun_when_its_actor_crashed_counts_as_begun_when_it_is_cancelled(
    database: str,
) -> None:
    async with App(database, max_running=1) as app:
        first = await app.start(two_steps, 1.0)
        pending = await app.start(do_other, 10.0)
        await first.result()
        await trio.sleep(5)
        assert ran[-1] == "begin other"
        probe(app).crash_actors()
        assert await pending.cancel()
        with pytest.raises(WorkflowCancelledError) as caught:
            await pending.result()
        assert caught.value.uncompensated == ["do:1"]  # whether it happened is not known
        assert await app.resume(pending.instance_id)
        with pytest.raises(WorkflowCancelledError) as caught:
            await app.handle(pending.instance_id).result()
        assert caught.value.uncompensated == []
    assert ran[-2:] == ["begin other", "undo other"]


async def test_a_cancel_request_that_comes_while_the_journal_is_loaded_is_heard(database: str) -> None:
    async with App(database, idle_timeout=1) as app:
        handle = await app.start(naps)
        await trio.sleep(50)
        kind = type(probe(app).database)
        read = kind.read
        loading, loaded = trio.Event(), trio.Event()

        async def slow_read(self: Any, fn: Any, *args: Any, **kwargs: Any) -> Any:
            if fn.__name__ == "load_again":
                loading.set()
                await loaded.wait()
            return await read(self, fn, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "read", slow_read)
            patch.setattr(claims, "_MOST_ENTRIES", -1)  # as if it were a large one
            await loading.wait()
            assert await handle.cancel("while loading")
            await trio.sleep(0.01)
            loaded.set()
            with pytest.raises(WorkflowCancelledError, match="while loading"):
                await handle.result()
    assert "begin after" not in ran


@workflow
async def naps(ctx: WorkflowContext) -> None:
    await ctx.sleep(100)
    await do("after")


async def test_an_error_that_asyncio_code_has_left_behind_is_logged_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with App(":memory:") as app:
        loop = trio_asyncio.current_loop.get()
        assert loop is not None
        future = loop.create_future()
        future.set_exception(ConnectionError("nothing asks for it"))
        del future
        gc.collect()
        await trio.testing.wait_all_tasks_blocked()
        assert await app.list_workers()
    (logged,) = [record for record in caplog.records if record.exc_info and record.exc_info[0] is ConnectionError]
    assert (logged.name, logged.levelname) == ("trio_romancy.database", "WARNING")
