"""Attempts, timeouts, threads and outcomes of one activity."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest
import trio

from trio_romancy import (
    ActivityError,
    ActivityTerminalError,
    App,
    EntryKind,
    Limits,
    RetryExhaustedError,
    RetryPolicy,
    TerminalError,
    WorkflowCancelledError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    current_activity,
    workflow,
)

from ..support.probe import probe


async def run(database: str, flow: Any, *args: Any, **options: Any) -> Any:
    """Run a workflow in a new app, and return its result and history."""
    async with App(database, **options) as app:
        handle = await app.start(flow, *args)
        result = await handle.result()
        return result, await app.history(handle.instance_id)


def failing(**options: Any) -> Any:
    """A workflow that returns what its failing activity raised."""

    @activity(**options)
    async def fails() -> None:
        raise ConnectionError(f"attempt {current_activity().attempt}")

    @workflow
    async def flow(ctx: WorkflowContext) -> list[str]:
        try:
            await fails()
        except ActivityError as error:
            return [type(error).__name__, error.error_type, error.message, str(error.attempts)]
        return []

    return flow


def seconds_between(history: Any) -> list[float]:
    return [(after.recorded_at - before.recorded_at).total_seconds() for before, after in pairwise(history)]


async def test_default_policy_makes_five_attempts_after_1_2_4_and_8_seconds(database: str) -> None:
    result, history = await run(database, failing())
    assert result == ["RetryExhaustedError", "ConnectionError", "attempt 5", "5"]
    assert [entry.kind for entry in history[:5]] == [EntryKind.ATTEMPT_FAILED] * 4 + [EntryKind.ACTIVITY_FAILED]
    assert seconds_between(history)[:4] == [1, 2, 4, 8]


async def test_policy_of_the_activity_counts_before_that_of_the_app(database: str) -> None:
    result, _ = await run(database, failing(retry=RetryPolicy.fixed(2, 3)), retry=RetryPolicy.fixed(9, 1))
    assert result[3] == "2"
    result, history = await run(database, failing(), retry=RetryPolicy.fixed(3, 7))
    assert result[3] == "3"
    assert seconds_between(history)[:2] == [7, 7]


async def test_options_override_the_policy_for_one_call(database: str) -> None:
    @activity
    async def fails() -> None:
        raise ConnectionError

    @workflow
    async def flow(ctx: WorkflowContext) -> int:
        with pytest.raises(RetryExhaustedError) as caught:
            await fails.options(retry=RetryPolicy.no_retry())()
        return caught.value.attempts

    assert (await run(database, flow))[0] == 1


@pytest.mark.parametrize(
    "raised",
    [
        TerminalError("no"),
        ExceptionGroup("several", [ValueError(), ExceptionGroup("deeper", [TerminalError("no")])]),
        KeyError("declared"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_terminal_errors_are_never_retried(database: str, raised: Exception) -> None:
    @activity(retry=RetryPolicy(non_retryable=(KeyError,)))
    async def fails() -> None:
        raise raised

    @workflow
    async def flow(ctx: WorkflowContext) -> int:
        with pytest.raises(ActivityTerminalError) as caught:
            await fails()
        return caught.value.attempts

    result, history = await run(database, flow)
    assert result == 1
    assert history[0].kind is EntryKind.ACTIVITY_FAILED


async def test_a_result_that_cannot_be_stored_fails_at_once_with_its_path(database: str) -> None:
    calls = []

    @activity
    async def returns_what_json_has_not() -> dict[str, Any]:
        calls.append(1)
        return {"list": [1, {2, 3}]}

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        with pytest.raises(ActivityTerminalError) as caught:
            await returns_what_json_has_not()
        return caught.value.message

    result, _ = await run(database, flow)
    assert "$.list[1]: JSON has no set" in result
    assert calls == [1]


async def test_a_result_over_the_limit_fails_at_once(database: str) -> None:
    @activity
    async def returns_much() -> str:
        return "x" * 2000

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        with pytest.raises(ActivityTerminalError) as caught:
            await returns_much()
        return caught.value.error_type

    assert (await run(database, flow, limits=Limits(max_payload=1000)))[0] == "trio_romancy.PayloadTooLargeError"


async def test_timeout_bounds_one_attempt_and_is_retried(database: str) -> None:
    @activity(timeout=3, retry=RetryPolicy.fixed(2, 1))
    async def hangs_once() -> int:
        if current_activity().attempt == 1:
            await trio.sleep_forever()
        return current_activity().attempt

    @workflow
    async def flow(ctx: WorkflowContext) -> int:
        return await hangs_once()

    result, history = await run(database, flow)
    assert result == 2
    assert history[0].payload["error_type"] == "trio.TooSlowError"
    assert history[0].payload["message"] == "the attempt took longer than 3 s"
    assert seconds_between(history)[0] == 1


@pytest.mark.real_clock
async def test_a_thread_that_overruns_never_overlaps_its_next_attempt_and_its_late_value_is_not_recorded(
    database: str,
) -> None:
    running = threading.Semaphore(1)
    overlaps: list[int] = []
    release = threading.Event()

    @activity(timeout=0.05, retry=RetryPolicy.fixed(2, 0.01))
    def slow() -> str:
        attempt = current_activity().attempt
        if not running.acquire(blocking=False):
            overlaps.append(attempt)
        if attempt == 1:
            release.wait(10)
        running.release()
        return f"value of attempt {attempt}"

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await slow()

    async with App(database) as app:
        handle = await app.start(flow)
        while not await app.history(handle.instance_id):  # noqa: ASYNC110
            await trio.sleep(0.01)  # until the failed attempt is recorded, while its thread goes on
        await trio.sleep(0.1)
        release.set()
        assert await handle.result() == "value of attempt 2"
    assert not overlaps


async def test_a_plain_function_runs_in_a_thread_and_knows_its_activity(database: str) -> None:
    @activity
    def where() -> list[str]:
        return [threading.current_thread().name, current_activity().activity_id]

    @workflow
    async def flow(ctx: WorkflowContext) -> list[str]:
        return await where()

    async with App(database) as app:
        thread, id = await (await app.start(flow)).result()
    assert thread != threading.main_thread().name
    assert id == "where:1"


async def test_idempotency_key_is_the_same_over_attempts_and_crashes_and_differs_between_activities(
    database: str,
) -> None:
    keys: list[str] = []

    @activity(retry=RetryPolicy.fixed(3, 1))
    async def charge() -> None:
        keys.append(current_activity().idempotency_key)
        if len(keys) == 1:
            raise ConnectionError
        if len(keys) == 2:
            inside.abandon()  # as if the process died now
            await trio.sleep_forever()

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await charge()
        await charge()

    async with App(database) as app:
        inside = probe(app)
        await (await app.start(flow.options(id="i"))).result()
    assert keys == ["i:charge:1"] * 3 + ["i:charge:2"]


async def test_calling_an_activity_from_an_activity_runs_the_plain_function(database: str) -> None:
    @activity
    async def inner() -> str:
        return current_activity().activity_id

    @activity
    async def outer() -> str:
        return await inner()

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await outer()

    result, history = await run(database, flow)
    assert result == "outer:1"
    assert [entry.operation_id for entry in history if entry.operation_id] == ["outer:1"]


async def test_activity_runs_to_its_outcome_when_a_sibling_fails_and_a_cancellable_one_does_not(database: str) -> None:
    ended: list[str] = []

    def slow(name: str, **options: Any) -> Any:
        @activity(name=name, **options)
        async def sleeps() -> None:
            try:
                await trio.sleep(60)
                ended.append(f"{name} in full")
            except trio.Cancelled:
                ended.append(f"{name} torn down")
                raise

        return sleeps

    @activity(retry=RetryPolicy.no_retry())
    async def fails() -> None:
        await trio.sleep(1)
        raise ValueError

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow("steady").options(id="steady"))
            nursery.start_soon(slow("cancellable", cancellable=True).options(id="cancellable"))
            nursery.start_soon(fails.options(id="fails"))

    async with App(database) as app:
        handle = await app.start(flow)
        with pytest.raises(WorkflowFailedError, match="fails"):
            await handle.result()
        kinds = {entry.operation_id: entry.kind for entry in await app.history(handle.instance_id)}
    assert ended == ["cancellable torn down", "steady in full"]
    assert kinds["steady"] is EntryKind.ACTIVITY_COMPLETED
    assert kinds["cancellable"] is EntryKind.ACTIVITY_CANCELLED


async def test_a_cancellation_ends_a_backoff_and_giving_up_is_recorded(database: str) -> None:
    @activity(retry=RetryPolicy.fixed(0, 1000))
    async def never_works() -> None:
        raise ConnectionError("down")

    seen: list[ActivityError] = []

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        try:
            await never_works()
        except ActivityError as error:
            seen.append(error)
            raise

    async with App(database) as app:
        handle = await app.start(flow)
        await trio.sleep(1500)
        assert await handle.cancel()
        with pytest.raises(WorkflowCancelledError):
            await handle.result(timeout=1)
        kinds = [entry.kind for entry in await app.history(handle.instance_id)]
    assert kinds == [
        EntryKind.ATTEMPT_FAILED,
        EntryKind.ATTEMPT_FAILED,
        EntryKind.CANCEL_REQUESTED,
        EntryKind.ACTIVITY_FAILED,
        EntryKind.WORKFLOW_CANCELLED,
    ]
    assert seen[0].attempts == 2


async def test_system_exit_in_an_activity_is_a_failure_and_not_the_end_of_the_app(database: str) -> None:
    @activity
    async def leaves() -> None:
        raise SystemExit(3)

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        with pytest.raises(ActivityTerminalError) as caught:
            await leaves()
        assert caught.value.attempts == 1
        return caught.value.error_type

    assert (await run(database, flow))[0] == "SystemExit"
