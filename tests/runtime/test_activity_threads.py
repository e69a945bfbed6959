"""Threads of plain ``def`` activities: how many there are, who has them, and what waits until they have ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from trio_romancy import (
    ActivityError,
    ActivityInfo,
    App,
    EntryKind,
    Hooks,
    Limits,
    RetryPolicy,
    TerminalError,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    compensation,
    current_activity,
    workflow,
)
from trio_romancy._runtime.run import threads

from ..support.databases import ALL_KINDS
from ..support.probe import probe

pytestmark = pytest.mark.real_clock

happened: list[str] = []
release = threading.Event()
began = threading.Semaphore(0)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    happened.clear()
    release.clear()
    while began.acquire(blocking=False):
        pass
    yield
    release.set()


def hold() -> None:
    """Note when a thread begins and ends, which takes until it is released."""
    happened.append("begins")
    began.release()
    assert release.wait(60)
    happened.append("ends")


async def has_begun() -> None:
    while not began.acquire(blocking=False):  # noqa: ASYNC110
        await trio.sleep(0.01)


async def until_logged(caplog: pytest.LogCaptureFixture, text: str) -> str:
    with trio.fail_after(30):
        while True:
            for record in caplog.records:
                if text in record.getMessage():
                    return record.getMessage()
            await trio.sleep(0.01)


async def release_later(seconds: float = 0.3) -> None:
    """Release the threads after everything that does not wait for them has had its time."""
    await trio.sleep(seconds)
    release.set()


@compensation(name="threads_undo")
async def undo() -> None:
    happened.append("undone")


@activity(name="threads_do", compensation=undo)
async def do() -> None:
    pass


@compensation(name="threads_undo_slowly", timeout=0.1, retry=RetryPolicy.no_retry())
def undo_slowly() -> None:
    hold()


@activity(name="threads_do_with_slow_undo", compensation=undo_slowly)
async def do_with_slow_undo() -> None:
    pass


@activity(name="threads_step")
async def step() -> None:
    happened.append("next")


@activity(name="threads_slow", timeout=0.1, retry=RetryPolicy.no_retry())
def slow() -> None:
    hold()


@activity(name="threads_slow_terminal", timeout=0.1, retry=RetryPolicy(5, 0.01, non_retryable=(trio.TooSlowError,)))
def slow_terminal() -> None:
    hold()


@activity(name="threads_slow_again", timeout=0.1, retry=RetryPolicy.fixed(3, 0.01))
def slow_again() -> None:
    hold()


@workflow(name="threads_failing")
async def failing(ctx: WorkflowContext) -> None:
    await do()
    await slow()


@workflow(name="threads_failing_for_good")
async def failing_for_good(ctx: WorkflowContext) -> None:
    await do()
    await slow_terminal()


@workflow(name="threads_going_on")
async def going_on(ctx: WorkflowContext) -> None:
    try:
        await slow()
    except ActivityError:
        await step()


@workflow(name="threads_trying_again")
async def trying_again(ctx: WorkflowContext) -> None:
    await do()
    await slow_again()


@workflow(name="threads_undoing")
async def undoing(ctx: WorkflowContext) -> None:
    await do()
    await do_with_slow_undo()
    await fails()


@activity(name="threads_fails")
async def fails() -> None:
    raise TerminalError("no")


# -- what waits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL_KINDS, indirect=True)
@pytest.mark.parametrize("flow", [failing, failing_for_good], ids=["exhausted", "terminal"])
async def test_a_rollback_waits_for_the_thread_of_the_last_attempt(
    database: str, flow: Any, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    class Notes(Hooks):
        def activity_retried(self, info: ActivityInfo) -> None:
            told.append("retried")

        def activity_failed(self, info: ActivityInfo) -> None:
            told.append("failed")

    async with App(database, hooks=[Notes()]) as app, trio.open_nursery() as nursery:
        handle = await app.start(flow.options(id="order-1"))
        text = await until_logged(caplog, "its thread goes on after its timeout")
        assert "order-1" in text
        nursery.start_soon(release_later)
        with pytest.raises(WorkflowFailedError) as caught:
            await handle.result()
        assert happened == ["begins", "ends", "undone"]
        assert "TooSlowError" in caught.value.message
        kinds = [entry.kind for entry in await app.history("order-1")]
        assert kinds[1:3] == [EntryKind.ATTEMPT_FAILED, EntryKind.ACTIVITY_FAILED]
    assert told == ["failed"]  # no other attempt has followed


async def test_so_does_the_next_step_of_a_workflow_that_catches_the_error(caplog: pytest.LogCaptureFixture) -> None:
    async with App(":memory:") as app, trio.open_nursery() as nursery:
        handle = await app.start(going_on)
        await until_logged(caplog, "its thread goes on")
        nursery.start_soon(release_later)
        await handle.result()
    assert happened == ["begins", "ends", "next"]


async def test_so_does_the_rollback_of_a_workflow_that_is_cancelled_before_the_next_attempt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with App(":memory:") as app, trio.open_nursery() as nursery:
        handle = await app.start(trying_again)
        await until_logged(caplog, "its thread goes on")
        await handle.cancel()
        nursery.start_soon(release_later)
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
    assert happened == ["begins", "ends", "undone"]


async def test_so_does_the_next_compensation(caplog: pytest.LogCaptureFixture) -> None:
    async with App(":memory:") as app, trio.open_nursery() as nursery:
        handle = await app.start(undoing)
        await until_logged(caplog, "its thread goes on")
        nursery.start_soon(release_later)
        with pytest.raises(WorkflowFailedError):
            await handle.result()
    assert happened == ["begins", "ends", "undone"]


@pytest.mark.parametrize("kind", ALL_KINDS, indirect=True)
async def test_a_worker_that_joins_again_waits_too_and_makes_no_further_attempt(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with App(database) as app, trio.open_nursery() as nursery:
        handle = await app.start(failing)
        await until_logged(caplog, "its thread goes on")
        await probe(app).journal.flush()  # the failed attempt is on disk
        caplog.clear()
        probe(app).abandon()
        await until_logged(caplog, "its thread goes on")
        nursery.start_soon(release_later)
        with pytest.raises(WorkflowFailedError):
            await handle.result()
    assert happened == ["begins", "ends", "undone"]


@pytest.mark.parametrize("crash", ["abandon", "crash_actors"])
async def test_an_attempt_that_is_repeated_after_a_crash_waits_for_the_thread_of_the_last_run(crash: str) -> None:
    @activity
    def work() -> None:
        hold()

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await work()

    async with App(":memory:") as app, trio.open_nursery() as nursery:
        handle = await app.start(flow)
        await has_begun()
        getattr(probe(app), crash)()
        nursery.start_soon(release_later)
        await handle.result()
    assert happened == ["begins", "ends"] * 2


async def test_a_rollback_that_does_not_wait_says_so(caplog: pytest.LogCaptureFixture) -> None:
    @activity(cancellable=True)
    def work() -> None:
        hold()

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await do()
        await work()

    async with App(":memory:") as app:
        handle = await app.start(flow.options(id="x"))
        await has_begun()
        await handle.cancel()
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        assert happened == ["begins", "undone"]
        text = await until_logged(caplog, "is rolled back beside threads")
        assert "instance x" in text
        assert "work:1" in text


async def test_a_thread_that_hangs_does_not_hold_up_the_end_of_the_app(caplog: pytest.LogCaptureFixture) -> None:
    began = trio.current_time()
    async with App(":memory:", shutdown_timeout=20) as app:
        await app.start(failing)
        await until_logged(caplog, "its thread goes on")
    assert trio.current_time() - began < 10


async def test_nor_does_one_that_overruns_while_the_app_ends() -> None:
    @activity(timeout=1, retry=RetryPolicy.no_retry())
    def work() -> None:
        hold()

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await work()

    began = trio.current_time()
    async with App(":memory:", shutdown_timeout=20) as app:
        await app.start(flow)
        await has_begun()
    assert trio.current_time() - began < 10


@pytest.mark.parametrize("ends_first", [False, True], ids=["overran before", "overruns later"])
async def test_nor_does_a_compensation_in_a_thread(ends_first: bool, caplog: pytest.LogCaptureFixture) -> None:
    began = trio.current_time()
    async with App(":memory:", shutdown_timeout=20) as app:
        await app.start(undoing)
        await has_begun()
        if not ends_first:
            await until_logged(caplog, "its thread goes on")
    assert trio.current_time() - began < 10


# -- how many ----------------------------------------------------------------------------------------------------------


@activity(name="threads_count")
def count() -> int:
    happened.append("+")
    most = happened.count("+") - happened.count("-")
    time.sleep(0.05)
    happened.append("-")
    return most


@workflow(name="threads_counting")
async def counting(ctx: WorkflowContext) -> int:
    return max(await ctx.map(lambda n: count(), range(6)))


async def test_threads_is_the_most_that_run_at_once() -> None:
    async with App(":memory:", limits=Limits(threads=2)) as app:
        assert await (await app.start(counting)).result() == 2


async def test_they_are_apart_from_trios_own() -> None:
    limiter = trio.to_thread.current_default_thread_limiter()
    limiter.total_tokens = 1
    async with App(":memory:", limits=Limits(threads=3)) as app, trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.to_thread.run_sync, release.wait))
        assert await (await app.start(counting)).result() == 3
        release.set()


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "4"])
def test_a_number_of_threads_that_is_none_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="threads is a whole number, at least 1"):
        App(":memory:", limits=Limits(threads=wrong))


# -- who has them ------------------------------------------------------------------------------------------------------


async def test_the_log_names_who_has_the_threads_and_who_waits(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_PATIENCE", 0.2)

    @activity
    def quick() -> str:
        return current_activity().instance_id

    @workflow
    async def quickly(ctx: WorkflowContext) -> str:
        return await quick()

    with caplog.at_level(logging.WARNING):
        async with App(":memory:", limits=Limits(threads=2)) as app:
            for number in range(3):
                await app.start(going_on.options(id=f"slow-{number}"))
            await has_begun()
            await has_begun()
            handle = await app.start(quickly.options(id="quick-1"))
            text = await until_logged(caplog, "all 2 threads for plain def activities are in use")
            statistics = app.statistics().worker
            assert statistics is not None
            assert (statistics.threads.total, statistics.threads.in_use, statistics.threads.waiting) == (2, 2, 2)
            assert "threads_slow:1 of slow-0" in text
            assert "threads_slow:1 of slow-1" in text
            assert "quick:1 of quick-1" in text
            assert "Limits(threads=...)" in text
            await until_logged(caplog, "whose attempt has ended")  # it has overrun its timeout
            assert statistics.threads.overrun <= 2
            release.set()
            assert await handle.result() == "quick-1"
            caplog.clear()
            await trio.sleep(0.5)
            assert not caplog.records
