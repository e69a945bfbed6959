"""``ctx`` outside of its workflow function is refused at once, and nothing is recorded."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
import trio.testing

from trio_romancy import (
    App,
    ChildHandle,
    RetryPolicy,
    RomancyError,
    WorkflowContext,
    WorkflowFailedError,
    WorkflowStuckError,
    activity,
    compensation,
    workflow,
)

Use = Callable[[WorkflowContext], object]


@workflow(name="child_elsewhere")
async def child(ctx: WorkflowContext) -> int:
    return 1


USES: dict[str, tuple[Use, str]] = {
    "ctx.sleep": (lambda ctx: ctx.sleep(5), "trio.sleep"),
    "ctx.sleep_until": (lambda ctx: ctx.sleep_until(datetime.now(UTC)), "trio.sleep_until"),
    "ctx.wait_event": (lambda ctx: ctx.wait_event("e"), "move the call into the workflow"),
    "ctx.receive": (lambda ctx: ctx.receive("c"), "move the call into the workflow"),
    "ctx.subscribe": (lambda ctx: ctx.subscribe("c"), "move the call into the workflow"),
    "ctx.unsubscribe": (lambda ctx: ctx.unsubscribe("c"), "move the call into the workflow"),
    "ctx.publish": (lambda ctx: ctx.publish("c", 1), "current_activity().publish"),
    "ctx.send_to": (lambda ctx: ctx.send_to("x", "c", 1), "current_activity().publish"),
    "ctx.start": (lambda ctx: ctx.start(child), "app.start"),
    "ctx.run": (lambda ctx: ctx.run(child), "move the call into the workflow"),
    "ctx.map": (lambda ctx: ctx.map(child, [1]), "move the call into the workflow"),
    "ctx.now": (lambda ctx: ctx.now(), "datetime.now"),
    "ctx.random": (lambda ctx: ctx.uuid4(), "uuid"),
    "ctx.patched": (lambda ctx: ctx.patched("change"), "move the call into the workflow"),
    "ctx.branch": (lambda ctx: ctx.branch("b").__enter__(), "move the call into the workflow"),
    "ctx.move_on_after": (lambda ctx: ctx.move_on_after(5).__enter__(), "trio.move_on_after"),
    "ctx.fail_after": (lambda ctx: ctx.fail_after(5).__enter__(), "trio.fail_after"),
    "ctx.recur": (lambda ctx: ctx.recur(), "move the call into the workflow"),
    "ctx.set_details": (lambda ctx: ctx.set_details(1), "move the call into the workflow"),
}


async def called(use: Use, ctx: WorkflowContext) -> None:
    answer = use(ctx)
    if isinstance(answer, Awaitable):
        await answer


@pytest.mark.parametrize("name", USES)
async def test_an_activity_that_uses_ctx_is_told_what_to_use_instead(name: str) -> None:
    use, instead = USES[name]

    @activity(retry=RetryPolicy.no_retry())
    async def act(ctx: Any) -> None:
        await called(use, ctx)

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        await act(ctx)

    async with App(":memory:") as app:
        handle = await app.start(flow.options(id="x"))
        with pytest.raises(WorkflowFailedError) as caught:
            await handle.result()
        assert f"instance 'x': {name} is called in activity 'act:1', and ctx is for workflow code" in str(caught.value)
        assert instead in str(caught.value)
        assert [entry.operation_id for entry in await app.history("x")] == ["act:1", ""]
        assert not (await app.list_instances(workflow="child_elsewhere")).instances


seen: ContextVar[WorkflowContext] = ContextVar("seen")
everywhere: list[WorkflowContext] = []


async def in_nursery(ctx: WorkflowContext) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ctx.sleep, 1)


async def in_thread(ctx: WorkflowContext) -> None:
    await trio.to_thread.run_sync(lambda: trio.from_thread.run(ctx.sleep, 1))


async def from_global(ctx: WorkflowContext) -> None:
    await everywhere[0].sleep(1)


async def from_context_variable(ctx: WorkflowContext) -> None:
    await seen.get().sleep(1)


async def in_own_thread(ctx: WorkflowContext) -> None:
    errors: list[BaseException] = []

    def work(token: trio.lowlevel.TrioToken) -> None:
        try:
            trio.from_thread.run(ctx.sleep, 1, trio_token=token)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, args=[trio.lowlevel.current_trio_token()])
    thread.start()
    await trio.to_thread.run_sync(thread.join)
    raise errors[0]


@pytest.mark.parametrize("way", [in_nursery, in_thread, from_global, from_context_variable, in_own_thread])
async def test_it_is_refused_on_whichever_way_ctx_reaches_the_activity(
    way: Callable[[WorkflowContext], Awaitable[None]],
) -> None:
    held: list[WorkflowContext] = []

    @activity(retry=RetryPolicy.no_retry())
    async def act() -> None:
        await way(held[0])

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        everywhere[:] = [ctx]
        seen.set(ctx)
        held.append(ctx)
        with suppress(RomancyError):
            await act()
        await ctx.sleep(60)  # the instance leaves memory, and is replayed
        return "unharmed"

    async with App(":memory:") as app:
        handle = await app.start(flow)
        assert await handle.result() == "unharmed"
        timers = [entry for entry in await app.history(handle.instance_id) if entry.kind == "timer_fired"]
        assert len(timers) == 1


async def test_a_plain_function_and_a_child_task_of_the_workflow_are_no_exception() -> None:
    @activity(retry=RetryPolicy.no_retry())
    def act(ctx: Any) -> None:
        ctx.set_details("half done")

    @workflow
    async def flow(ctx: WorkflowContext) -> list[str]:
        errors: list[str] = []

        async def call(name: str) -> None:
            with ctx.branch(name):
                try:
                    await act(ctx)
                except RomancyError as error:
                    errors.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, "a")
            nursery.start_soon(call, "b")
        return sorted(errors)

    async with App(":memory:") as app:
        first, second = await (await app.start(flow)).result()
    assert "ctx.set_details is called in activity 'a/act:1'" in first
    assert "ctx.set_details is called in activity 'b/act:1'" in second


async def test_an_activity_cannot_await_the_child_of_its_workflow() -> None:
    @activity(retry=RetryPolicy.no_retry())
    async def act(handle: Any) -> Any:
        return await handle.result()

    @workflow
    async def flow(ctx: WorkflowContext) -> int:
        handle: ChildHandle[int] = await ctx.start(child)
        with pytest.raises(RomancyError, match="the result of a child is called in activity 'act:1'"):
            await act(handle)
        return await handle.result()

    async with App(":memory:") as app:
        assert await (await app.start(flow)).result() == 1


async def test_the_attempt_fails_so_code_that_is_fixed_meanwhile_heals_the_instance(
    caplog: pytest.LogCaptureFixture,
) -> None:
    is_fixed = False

    @activity(retry=RetryPolicy.fixed(3, 60))
    async def act(ctx: Any) -> str:
        if not is_fixed:
            await ctx.sleep(1)
        return "done"

    @workflow
    async def flow(ctx: WorkflowContext) -> str:
        return await act(ctx)

    async with App(":memory:") as app:
        handle = await app.start(flow)
        await trio.sleep(1)
        is_fixed = True
        assert await handle.result() == "done"
    assert [r.levelname for r in caplog.records if "ctx is for workflow code" in r.getMessage()].count("WARNING") == 1


async def test_what_changes_nothing_can_be_read_everywhere() -> None:
    @activity
    async def act(ctx: Any) -> list[Any]:
        return [ctx.instance_id, ctx.workflow, ctx.is_replaying]

    @workflow(name="flow")
    async def flow(ctx: WorkflowContext) -> list[Any]:
        return await act(ctx)

    async with App(":memory:") as app:
        assert await (await app.start(flow.options(id="x"))).result() == ["x", "flow", False]


async def test_a_compensation_has_no_ctx() -> None:
    held: list[WorkflowContext] = []

    @compensation(retry=RetryPolicy.no_retry())
    async def undo() -> None:
        await held[0].sleep(1)

    @activity(compensation=undo)
    async def act() -> None: ...

    @workflow
    async def flow(ctx: WorkflowContext) -> None:
        held.append(ctx)
        await act()
        raise ValueError

    async with App(":memory:") as app:
        handle = await app.start(flow.options(id="x"))
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        (failed,) = [entry for entry in await app.history("x") if entry.kind == "compensation_failed"]
        assert "ctx.sleep is called in activity 'act:1/compensation'" in failed.payload["message"]


async def test_the_ctx_of_another_instance_is_refused_and_parks_the_one_that_uses_it() -> None:
    held: list[WorkflowContext] = []

    @workflow
    async def lender(ctx: WorkflowContext) -> None:
        held.append(ctx)
        await ctx.wait_event("never")

    @workflow
    async def borrower(ctx: WorkflowContext) -> None:
        await held[0].sleep(1)

    async with App(":memory:") as app:
        lent = await app.start(lender.options(id="lender"))
        await trio.testing.wait_all_tasks_blocked()
        handle = await app.start(borrower.options(id="borrower"))
        with pytest.raises(
            WorkflowStuckError, match=r"ctx\.sleep is called with the ctx of another instance, 'lender'"
        ):
            await handle.result()
        assert not await app.history("lender")
        await lent.cancel()
