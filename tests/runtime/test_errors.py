"""Errors of user code: what workflow code, clients and the log learn of them, on the first run and on replay."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
import trio
from attrs import define, frozen

from trio_romancy import (
    ActivityError,
    ActivityTerminalError,
    App,
    ChildWorkflowError,
    EntryKind,
    ErrorInfo,
    RetryExhaustedError,
    RetryPolicy,
    Status,
    TerminalError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    compensation,
    current_activity,
    workflow,
)
from trio_romancy._exceptions import contains
from trio_romancy._runtime.worker.restarts import Crashes, Restarts
from trio_romancy.clock import current_clock

from ..support.runs import new_claim
from ..support.strange import STRANGE

Facts = dict[str, Any]

ran: list[str] = []
"""What has run."""
runs: list[Any] = []
"""What each run of a workflow function has seen."""


@pytest.fixture(autouse=True)
def nothing_has_run() -> Iterator[None]:
    ran.clear()
    runs.clear()
    yield


class CardDeclined(TerminalError):
    """A subclass of the user's own."""

    def __init__(self, code: str) -> None:
        super().__init__(f"declined: {code}", details={"code": code, "retry_in": None})


class ExpiredCard(CardDeclined):
    pass


def facts(error: ActivityError | ChildWorkflowError) -> Facts:
    """Everything that workflow code can see."""
    return {
        "class": type(error).__name__,
        "text": str(error),
        "type": error.error_type,
        "types": error.error_types,
        "message": error.message,
        "details": error.details,
        "traceback": error.traceback,
    }


async def result_of(flow: Any, *args: Any) -> Any:
    """Run a workflow in a new app, under virtual time, and return its result."""
    async with App(":memory:") as app:
        return await (await app.start(flow.options(id="x"), *args)).result()


async def failure_of(flow: Any, *args: Any) -> tuple[WorkflowFailedError, ErrorInfo]:
    """Run a workflow that fails, and return what the caller gets and what is stored."""
    async with App(":memory:") as app:
        with pytest.raises(WorkflowFailedError) as caught:
            await (await app.start(flow.options(id="x"), *args)).result()
        instance = await app.get_instance("x")
    assert instance is not None and instance.status is Status.FAILED and instance.error is not None
    assert instance.error.error_type == caught.value.error_type
    return caught.value, instance.error


# -- details and is_a --------------------------------------------------------------------------------------------------


@activity
async def pay(code: str) -> str:
    ran.append(code)
    if code == "in a group":
        raise ExceptionGroup("nursery", [ValueError("first"), ExpiredCard("grouped")])
    raise ExpiredCard(code)


@workflow(name="errors_paying")
async def paying(ctx: WorkflowContext, code: str) -> Facts:
    try:
        await pay(code)
    except ActivityTerminalError as error:
        seen = facts(error)
        seen["is"] = [error.is_a(cls) for cls in (ExpiredCard, CardDeclined, TerminalError, ValueError)]
        runs.append(seen)
        await ctx.sleep(3600)  # the instance leaves memory, and is replayed
        return seen
    return {}


@pytest.mark.parametrize("code", ["expired", "in a group"])
async def test_details_and_is_a_are_the_same_on_replay(code: str) -> None:
    seen = await result_of(paying, code)
    assert runs == [seen, seen]
    assert ran == [code]
    assert seen["details"] == {"code": "grouped" if code == "in a group" else code, "retry_in": None}
    assert seen["is"] == [True, True, True, False]
    assert seen["type"] == f"{__name__}.ExpiredCard"


@workflow(name="errors_uncaught")
async def uncaught(ctx: WorkflowContext, code: str) -> None:
    await pay(code)


@workflow(name="errors_parent")
async def parent(ctx: WorkflowContext) -> Facts:
    try:
        await ctx.run(uncaught, "expired")
    except ChildWorkflowError as error:
        seen = facts(error)
        seen["is"] = [error.is_a(cls) for cls in (CardDeclined, ActivityTerminalError, ActivityError, OSError)]
        runs.append(seen)
        await ctx.sleep(3600)
        return seen
    return {}


async def test_a_parent_can_tell_what_its_child_has_failed_by() -> None:
    seen = await result_of(parent)
    assert runs == [seen, seen]
    assert seen["is"] == [True, True, True, False]
    assert seen["type"] == "trio_romancy.ActivityTerminalError"
    assert seen["details"]["code"] == "expired"


async def test_a_caller_can_tell_what_the_workflow_has_failed_by() -> None:
    error, stored = await failure_of(uncaught, "expired")
    assert error.is_a(CardDeclined) and error.is_a(ActivityError) and not error.is_a(OSError)
    assert error.details == stored.details == {"code": "expired", "retry_in": None}


@workflow(name="errors_terminal")
async def terminal(ctx: WorkflowContext) -> None:
    raise CardDeclined("here")


async def test_a_terminal_error_of_workflow_code_keeps_its_details() -> None:
    error, stored = await failure_of(terminal)
    assert error.is_a(CardDeclined)
    assert error.details == stored.details == {"code": "here", "retry_in": None}


class Flaky(OSError):
    pass


@activity(retry=RetryPolicy(non_retryable=(OSError,)))
async def connect() -> None:
    ran.append("connect")
    raise Flaky("no route")


@activity(retry=RetryPolicy.fixed(2, 1))
async def reconnect() -> None:
    ran.append("reconnect")
    raise Flaky("no route")


@workflow(name="errors_retries")
async def retries(ctx: WorkflowContext) -> list[str]:
    seen = []
    for call, cls in ((connect, ActivityTerminalError), (reconnect, RetryExhaustedError)):
        with pytest.raises(cls) as caught:
            await call()
        assert caught.value.is_a(Flaky) and caught.value.is_a(OSError) and not caught.value.is_a(TerminalError)
        seen.append(str(caught.value.attempts))
    return seen


async def test_classes_that_are_not_retried_and_exhausted_retries_can_be_told_by_class() -> None:
    assert await result_of(retries) == ["1", "2"]


@activity
async def pay_with_a_tuple() -> None:
    ran.append("pay")
    raise TerminalError("declined", details={"pair": (1, 2)})


@workflow(name="errors_bad_details")
async def bad_details(ctx: WorkflowContext) -> None:
    await pay_with_a_tuple()


async def test_details_that_cannot_be_stored_still_end_the_activity_and_the_error_says_so() -> None:
    error, _ = await failure_of(bad_details)
    assert ran == ["pay"]
    assert error.is_a(TerminalError) and error.details is None
    assert "declined (its details cannot be stored: $.pair: " in str(error)


# -- groups ------------------------------------------------------------------------------------------------------------


@activity(retry=RetryPolicy.no_retry())
async def fail(text: str) -> None:
    raise CardDeclined(text) if text == "card" else ConnectionError(text)


@workflow(name="errors_nursery")
async def nursery(ctx: WorkflowContext) -> None:
    async with trio.open_nursery() as outer, trio.open_nursery() as inner:
        inner.start_soon(fail.options(id="fail:a"), "a")
        outer.start_soon(fail.options(id="fail:b"), "b")
        outer.start_soon(trio.sleep_forever)


async def test_a_failed_nursery_is_told_as_its_first_error_everywhere(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "trio_romancy.workflow"):
        error, stored = await failure_of(nursery)
    (logged,) = [record.getMessage() for record in caplog.records if record.name == "trio_romancy.workflow"]
    for text in (str(error), stored.message, logged):
        assert "ConnectionError: a" in text or "ConnectionError: b" in text
        assert "and 1 more error in the group: trio_romancy.RetryExhaustedError" in text
        assert "sub-exception" not in text
    assert error.is_a(ConnectionError)
    assert "sub-exception" in error.traceback  # which is that of the whole group


@workflow(name="errors_except_star")
async def except_star(ctx: WorkflowContext) -> list[str]:
    seen: list[str] = []
    try:
        async with trio.open_nursery() as nursery:
            for text in ("card", "other"):
                nursery.start_soon(fail.options(id=f"fail:{text}"), text)
    except* ActivityTerminalError as group:
        seen += [f"terminal {error.message}" for error in group.exceptions if isinstance(error, ActivityError)]
    except* ActivityError as group:
        seen += [f"other {error.message}" for error in group.exceptions if isinstance(error, ActivityError)]
    runs.append(seen)
    await ctx.sleep(3600)
    return seen


async def test_except_star_sees_the_same_on_replay() -> None:
    seen = await result_of(except_star)
    assert seen == ["terminal declined: card", "other other"]
    assert runs == [seen, seen]


# -- strange exceptions ------------------------------------------------------------------------------------------------


SOME = ["isinstance", "str", "str exits", "traceback", "notes", "cause", "attributes", "metaclass", "lone surrogates"]
"""Those that differ in what they could break beside their record."""


@compensation(name="errors_undo", retry=RetryPolicy.fixed(2, 1))
async def undo(name: str) -> None:
    ran.append("undo")
    raise STRANGE[name]()


@activity(compensation=undo, name="errors_do")
async def do(name: str) -> None:
    ran.append("do")


@activity(retry=RetryPolicy.fixed(2, 1), name="errors_strange")
async def strange(name: str) -> None:
    ran.append("async")
    raise STRANGE[name]()


@activity(retry=RetryPolicy.fixed(2, 1), name="errors_strange_in_thread")
def strange_in_thread(name: str) -> None:
    ran.append("thread")
    raise STRANGE[name]()


@workflow(name="errors_all_strange")
async def all_strange(ctx: WorkflowContext, name: str) -> None:
    await do(name)
    seen = []
    for call in (strange, strange_in_thread):
        with pytest.raises(RetryExhaustedError) as caught:
            await call(name)
        assert caught.value.attempts == 2
        seen.append(facts(caught.value))
    runs.append(seen)
    await ctx.sleep(3600)
    raise STRANGE[name]()


@pytest.mark.parametrize("name", SOME)
async def test_a_strange_exception_is_a_failed_attempt_like_any_other(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "trio_romancy"):
        async with App(":memory:") as app:
            with pytest.raises(WorkflowFailedError) as caught:
                await (await app.start(all_strange.options(id="x"), name)).result()
            kinds = [entry.kind for entry in await app.history("x")]
    assert ran == ["do", "async", "async", "thread", "thread", "undo", "undo"]
    assert kinds == [
        EntryKind.ACTIVITY_COMPLETED,
        *[EntryKind.ATTEMPT_FAILED, EntryKind.ACTIVITY_FAILED] * 2,
        EntryKind.TIMER_FIRED,
        EntryKind.WORKFLOW_FAILED,
        EntryKind.ATTEMPT_FAILED,
        EntryKind.COMPENSATION_FAILED,
    ]
    assert "Strange" in caught.value.error_type
    assert caught.value.uncompensated == ["errors_do:1"]
    assert len(runs) == 2 and runs[0] == runs[1]
    levels = [record.levelname for record in caplog.records if "fail" in record.getMessage()]
    assert levels == ["INFO", "WARNING", "INFO", "WARNING", "WARNING", "INFO", "ERROR"]


@frozen
class Odd:
    """Its values are built well, and raise when they are read back."""

    number: int

    def __attrs_post_init__(self) -> None:
        if self.number < 0:
            raise STRANGE["str"]()


@define(eq=False)
class Incomparable:
    number: int

    def __eq__(self, other: object) -> bool:
        raise SystemExit(3)


@activity
async def make_odd() -> Odd:
    ran.append("made")
    odd = Odd(1)
    object.__setattr__(odd, "number", -1)
    return odd


@activity
async def make_incomparable() -> Incomparable:
    ran.append("made")
    return Incomparable(1)


@workflow(name="errors_odd")
async def return_odd(ctx: WorkflowContext) -> Odd:
    odd = Odd(1)
    object.__setattr__(odd, "number", -1)
    return odd


@workflow(name="errors_incomparable")
async def return_incomparable(ctx: WorkflowContext) -> Incomparable:
    return Incomparable(1)


@workflow(name="errors_results")
async def results(ctx: WorkflowContext) -> int:
    for call in (make_odd, make_incomparable):
        with pytest.raises(ActivityTerminalError):
            await call()
    return len(ran)


async def test_a_result_that_raises_while_it_is_stored_ends_the_activity_or_the_workflow() -> None:
    assert await result_of(results) == 2
    for flow in (return_odd, return_incomparable):
        await failure_of(flow)


# -- frozen exceptions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FrozenError(Exception):
    """No attribute of it can be set, not even ``__traceback__``."""

    code: int


@activity(retry=RetryPolicy.fixed(1, 1))
async def raise_frozen_in_a_savepoint() -> None:
    async with current_activity().session.begin_nested():
        raise FrozenError(1)


@activity(retry=RetryPolicy.fixed(1, 1), timeout=60)
async def raise_frozen_in_time() -> None:
    raise FrozenError(1)


@workflow(name="errors_frozen")
async def raise_frozen_in_each_block(ctx: WorkflowContext) -> list[str]:
    found = []

    async def in_scopes(number: int) -> None:
        with ctx.branch(f"branch {number}"), ctx.move_on_after(60), ctx.fail_after(60):
            await ctx.sleep(number)
            raise FrozenError(number)

    calls: list[Callable[[], Awaitable[object]]] = [raise_frozen_in_a_savepoint, raise_frozen_in_time]
    for call in (lambda: ctx.map(in_scopes, [1]), lambda: in_scopes(2), *calls):
        try:
            await call()
        except (FrozenError, ActivityError) as error:
            found.append(getattr(error, "error_type", type(error).__name__).rpartition(".")[2])
    return found


async def test_a_frozen_exception_leaves_each_block_as_it_is() -> None:
    """:func:`contextlib.contextmanager` sets attributes of the exceptions that pass it, and raises if it cannot."""
    assert await result_of(raise_frozen_in_each_block) == ["FrozenError"] * 4
    with pytest.raises(FrozenError):
        async with App(":memory:"):
            raise FrozenError(3)


# -- exits, interrupts and cancellations -------------------------------------------------------------------------------


async def stale_cancellation() -> trio.Cancelled:
    """Return a cancellation out of a scope that has been left."""
    kept: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            kept.append(error)
            raise
    return kept[0]


async def _raise(error: BaseException) -> None:
    raise error


async def _raise_stale() -> None:
    raise await stale_cancellation()


async def _raise_stale_in_group() -> None:
    raise BaseExceptionGroup("group", [await stale_cancellation(), ValueError("beside")])


async def _exit_in_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_raise, SystemExit(3))
        nursery.start_soon(trio.sleep_forever)


RAISES: dict[str, tuple[Callable[[], Awaitable[None]], str, int]] = {
    "SystemExit": (lambda: _raise(SystemExit(3)), "SystemExit", 1),
    "SystemExit in a nursery": (_exit_in_nursery, "SystemExit", 1),
    "GeneratorExit": (lambda: _raise(GeneratorExit()), "GeneratorExit", 3),
    "StopIteration": (lambda: _raise(StopIteration(1)), "RuntimeError", 3),  # as Python makes it
    "StopAsyncIteration": (lambda: _raise(StopAsyncIteration()), "StopAsyncIteration", 3),
    "asyncio.CancelledError": (lambda: _raise(asyncio.CancelledError()), "asyncio.exceptions.CancelledError", 3),
    "stale Cancelled": (_raise_stale, "trio.Cancelled", 3),
    "stale Cancelled in a group": (_raise_stale_in_group, "ValueError", 3),
}
"""What raises it, as what it is recorded, and the number of attempts of three."""

in_thread: dict[str, BaseException] = {
    "SystemExit": SystemExit(3),
    "GeneratorExit": GeneratorExit(),
    "StopIteration": StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration(),
    "asyncio.CancelledError": asyncio.CancelledError(),
}

THREE = RetryPolicy.fixed(3, 1)


@activity(name="errors_raise", retry=THREE)
async def raise_it(name: str) -> None:
    ran.append(name)
    await RAISES[name][0]()


@activity(name="errors_raise_in_thread", retry=THREE)
def raise_in_thread(name: str) -> None:
    ran.append(name)
    raise in_thread[name]


@compensation(name="errors_undo_raises", retry=THREE)
async def undo_raises(name: str) -> None:
    ran.append(f"undo {name}")
    await RAISES[name][0]()


@activity(name="errors_undone", compensation=undo_raises)
async def undone(name: str) -> None: ...


@workflow(name="errors_call")
async def call(ctx: WorkflowContext, name: str, thread: bool) -> Facts:
    try:
        await (raise_in_thread if thread else raise_it)(name)
    except ActivityError as error:
        seen = facts(error) | {"attempts": error.attempts}
        runs.append(seen)
        await ctx.sleep(3600)
        return seen
    return {}


@workflow(name="errors_raise_here")
async def raise_here(ctx: WorkflowContext, name: str) -> None:
    await undone(name)
    await RAISES[name][0]()


@pytest.mark.parametrize("name", RAISES)
async def test_an_activity_that_raises_what_ends_tasks_fails_and_the_worker_goes_on(name: str) -> None:
    _, recorded, attempts = RAISES[name]
    seen = await result_of(call, name, False)
    assert (seen["type"], seen["attempts"]) == (recorded, attempts)
    assert seen["class"] == ("ActivityTerminalError" if attempts == 1 else "RetryExhaustedError")
    assert ran == [name] * attempts
    assert len(runs) == 2 and runs[0] == runs[1]


@pytest.mark.parametrize("name", in_thread)
async def test_a_thread_that_raises_what_ends_tasks_fails_and_the_worker_goes_on(name: str) -> None:
    seen = await result_of(call, name, True)
    attempts = RAISES[name][2]
    assert seen["type"].endswith(name.rpartition(".")[2])
    assert (seen["attempts"], ran) == (attempts, [name] * attempts)


async def test_a_cancellation_that_a_thread_raises_again_is_a_failed_attempt() -> None:
    in_thread["stale"] = await stale_cancellation()
    try:
        seen = await result_of(call, "stale", True)
    finally:
        del in_thread["stale"]
    assert (seen["type"], seen["attempts"]) == ("trio.Cancelled", 3)


@pytest.mark.parametrize("name", RAISES)
async def test_workflow_code_and_compensations_that_raise_it_fail_and_the_worker_goes_on(name: str) -> None:
    _, recorded, attempts = RAISES[name]
    async with App(":memory:") as app:
        with pytest.raises(WorkflowFailedError) as caught:
            await (await app.start(raise_here.options(id="x"), name)).result()
        assert caught.value.error_type == recorded
        assert caught.value.uncompensated == ["errors_undone:1"]
        assert ran == [f"undo {name}"] * attempts
        with pytest.raises(WorkflowFailedError):
            await (await app.start(terminal.options(id="y"))).result()


@activity(name="errors_interrupt")
async def interrupt(how: str) -> None:
    ran.append(how)
    if how == "in a group":
        raise BaseExceptionGroup("nursery", [ValueError(), KeyboardInterrupt()])
    raise KeyboardInterrupt


@activity(name="errors_interrupt_in_thread")
def interrupt_in_thread() -> None:
    ran.append("in a thread")
    raise KeyboardInterrupt


@compensation(name="errors_interrupted_undo")
async def interrupted_undo() -> None:
    ran.append("undo")
    raise KeyboardInterrupt


@activity(name="errors_interrupted_do", compensation=interrupted_undo)
async def interrupted_do() -> None: ...


@workflow(name="errors_interrupted_rollback")
async def interrupted_rollback(ctx: WorkflowContext) -> None:
    await interrupted_do()
    raise TerminalError("no")


@workflow(name="errors_interrupted")
async def interrupted(ctx: WorkflowContext, how: str) -> None:
    if how == "in a thread":
        await interrupt_in_thread()
    elif how == "in the workflow":
        raise KeyboardInterrupt
    elif how == "in the workflow's group":
        raise BaseExceptionGroup("nursery", [ValueError(), KeyboardInterrupt()])
    else:
        await interrupt(how)


@pytest.mark.parametrize(
    "how", ["in an activity", "in a group", "in a thread", "in the workflow", "in the workflow's group"]
)
async def test_an_interrupt_leaves_the_app_and_is_no_outcome(how: str, tmp_path: Any) -> None:
    database = f"{tmp_path}/romancy.db"
    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
        async with App(database) as app:
            await app.start(interrupted.options(id="x"), how)
            await trio.sleep(60)
    assert contains(caught.value, KeyboardInterrupt)
    async with App(database, worker=False) as app:
        assert not await app.history("x")
        instance = await app.get_instance("x")
    assert instance is not None and instance.status in (Status.PENDING, Status.RUNNING)


async def test_an_interrupt_in_a_compensation_leaves_the_app_and_the_rollback_goes_on_later(tmp_path: Any) -> None:
    database = f"{tmp_path}/romancy.db"
    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
        async with App(database) as app:
            await app.start(interrupted_rollback.options(id="x"))
            await trio.sleep(60)
    assert contains(caught.value, KeyboardInterrupt)
    async with App(database, worker=False) as app:
        kinds = [entry.kind for entry in await app.history("x")]
        instance = await app.get_instance("x")
    assert kinds == [EntryKind.ACTIVITY_COMPLETED, EntryKind.WORKFLOW_FAILED]
    assert instance is not None and instance.status is Status.COMPENSATING
    assert ran == ["undo"]


@pytest.mark.parametrize("name", SOME)
async def test_an_actor_that_crashes_by_a_strange_exception_is_logged_and_restarted(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Flushed:
        async def flush(self) -> None: ...

    crashes = Crashes()
    crashes.add(STRANGE[name](), 0)
    restarts = Restarts(cast("Any", Flushed()), current_clock())
    assert await restarts.after(crashes, new_claim()) is None
    (record,) = [record for record in caplog.records if record.name == "trio_romancy.supervisor"]
    assert record.getMessage() == "instance i: its actor crashed, restarting it through replay"
    assert record.exc_text and "Strange" in record.exc_text
