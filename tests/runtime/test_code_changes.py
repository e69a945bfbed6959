"""Code that has changed under a running instance is noticed as far as the journal can tell, and the error says how."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from trio_romancy import (
    App,
    NonDeterminismError,
    RetryPolicy,
    Status,
    WorkflowContext,
    WorkflowStuckError,
    activity,
    workflow,
)
from trio_romancy._definitions.registry import registry

did: list[str] = []
carrier = {"is up": False}


@pytest.fixture(autouse=True)
def _nothing_was_done() -> None:
    did.clear()
    carrier["is up"] = False


@activity(name="changes_reserve")
async def reserve() -> None:
    did.append("reserve")


@activity(name="changes_check")
async def check() -> None:
    did.append("check")


@activity(name="changes_ship", retry=RetryPolicy.fixed(1000, 60))
async def ship() -> None:
    if not carrier["is up"]:
        raise ConnectionError("the carrier does not answer")
    did.append("ship")


Body = Callable[[WorkflowContext], Awaitable[object]]


def deploy(body: Body) -> None:
    @workflow
    async def order(ctx: WorkflowContext) -> None:
        await body(ctx)


async def stuck_after(before: Body, after: Body, *, sent: str | None = None) -> str:
    """Start an instance, change its code while it is not in memory, and return why it is stuck then."""
    async with App(":memory:", idle_timeout=5) as app:
        deploy(before)
        await app.start("order", {}, id="order-1")
        await trio.sleep(1)
        if sent is not None:
            await app.send_event(sent, None)
        await trio.sleep(100)
        done = [*did]
        deploy(after)
        with pytest.raises(WorkflowStuckError) as caught:
            await app.handle("order-1").result(timeout=10_000)
        assert caught.value.error_type == f"trio_romancy.{NonDeterminismError.__name__}"
        assert did == done  # nothing was done by code that does not fit
        carrier["is up"] = True
        deploy(before)
        await app.resume("order-1")
        await app.handle("order-1").result(timeout=10_000)
        return str(caught.value)


# -- what kind of change it looks like ---------------------------------------------------------------------------------


async def reserve_and_check(ctx: WorkflowContext) -> None:
    await reserve()
    await check()
    await ctx.sleep(1000)


async def test_a_new_name_of_a_function_is_told_with_the_old_name_to_keep() -> None:
    @activity
    async def charge() -> None: ...

    @activity
    async def charge_card() -> None: ...

    async def before(ctx: WorkflowContext) -> None:
        await charge()
        await ctx.sleep(1000)

    async def after(ctx: WorkflowContext) -> None:
        await charge_card()
        await ctx.sleep(1000)

    async with App(":memory:", idle_timeout=5) as app:
        deploy(before)
        await app.start("order", {}, id="order-1")
        await trio.sleep(100)
        with registry.scoped(keep=lambda made: made.name != "charge"):
            deploy(after)
            with pytest.raises(
                WorkflowStuckError, match=r"'charge_card' .* of 'charge', .*: @activity\(name='charge'\); depl"
            ):
                await app.handle("order-1").result()


async def test_a_new_name_of_a_child_is_told_with_the_old_name_to_keep() -> None:
    @workflow
    async def pack(ctx: WorkflowContext) -> None: ...

    @workflow
    async def wrap(ctx: WorkflowContext) -> None: ...

    async def before(ctx: WorkflowContext) -> None:
        await ctx.run(pack)
        await ctx.sleep(1000)

    async def after(ctx: WorkflowContext) -> None:
        await ctx.run(wrap)
        await ctx.sleep(1000)

    async with App(":memory:", idle_timeout=5) as app:
        deploy(before)
        await app.start("order", {}, id="order-1")
        await trio.sleep(100)
        with registry.scoped(keep=lambda made: made.name != "pack"):
            deploy(after)
            with pytest.raises(WorkflowStuckError, match=r"'wrap' .* of 'pack', keep .*: @workflow\(name='pack'\)"):
                await app.handle("order-1").result()


async def test_an_operation_that_was_added_is_told_with_ctx_patched() -> None:
    async def after(ctx: WorkflowContext) -> None:
        await reserve()
        await ctx.sleep(1)
        await check()
        await ctx.sleep(1000)

    reason = await stuck_after(reserve_and_check, after)
    assert "looks as if sleep 'sleep:1' was added, or 'changes_check:1' was removed: " in reason
    assert "ctx.patched(" in reason


async def test_an_operation_that_was_removed_is_told_with_ctx_patched() -> None:
    async def after(ctx: WorkflowContext) -> None:
        await check()
        await ctx.sleep(1000)

    async def only_reserve(ctx: WorkflowContext) -> None:
        await reserve()

    reason = await stuck_after(reserve_and_check, after)
    assert "looks as if the order was changed, or 'changes_reserve:1' was removed: " in reason
    did.clear()
    reason = await stuck_after(reserve_and_check, only_reserve)
    assert "looks as if 'changes_check:1' was removed: " in reason
    assert "ctx.patched(" in reason


async def test_another_order_is_told() -> None:
    async def after(ctx: WorkflowContext) -> None:
        await check()
        await reserve()
        await ctx.sleep(1000)

    assert "looks as if the order was changed, or 'changes_reserve:1' was removed: " in await stuck_after(
        reserve_and_check, after
    )


# -- before the place at which an instance is --------------------------------------------------------------------------


async def reserve_and_ship(ctx: WorkflowContext) -> None:
    await reserve()
    await ship()


async def in_branches(ctx: WorkflowContext) -> None:
    async def east() -> None:
        with ctx.branch("east"):
            await ship()

    async def west() -> None:
        with ctx.branch("west"):
            await ctx.sleep(500)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(east)
        nursery.start_soon(west)


async def test_an_activity_added_before_one_that_is_being_retried_is_noticed() -> None:
    async def after(ctx: WorkflowContext) -> None:
        await reserve()
        await check()
        await ship()

    reason = await stuck_after(reserve_and_ship, after)
    assert "'changes_ship:1' was attempted and has no outcome, but the workflow code does not ask for it" in reason
    assert "an operation was added before 'changes_ship:1', or 'changes_ship:1' was removed: " in reason


@pytest.mark.parametrize("inserted", ["wait", "sleep", "end"])
async def test_anything_else_before_an_activity_that_is_being_retried_is_noticed(inserted: str) -> None:
    async def after(ctx: WorkflowContext) -> None:
        await reserve()
        if inserted == "wait":
            await ctx.wait_event("approved")
        elif inserted == "sleep":
            await ctx.sleep(10)
        else:
            return
        await ship()

    assert "'changes_ship:1' was attempted" in await stuck_after(reserve_and_ship, after)


async def test_an_activity_added_in_a_branch_before_one_that_is_being_retried_is_noticed() -> None:
    async def after(ctx: WorkflowContext) -> None:
        async def east() -> None:
            with ctx.branch("east"):
                await check()
                await ship()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(east)

    assert "'east/changes_ship:1' was attempted" in await stuck_after(in_branches, after)


async def test_an_operator_who_resumes_the_instance_gives_the_attempt_up() -> None:
    async def after(ctx: WorkflowContext) -> None:
        await reserve()
        await ship.options(id="ship again")()

    async with App(":memory:", idle_timeout=5) as app:
        deploy(reserve_and_ship)
        await app.start("order", {}, id="order-1")
        await trio.sleep(100)
        deploy(after)
        with pytest.raises(WorkflowStuckError):
            await app.handle("order-1").result()
        carrier["is up"] = True
        assert await app.resume("order-1")
        await app.handle("order-1").result()
    assert did == ["reserve", "ship"]


async def test_a_patch_before_an_activity_that_is_being_retried_takes_the_old_path() -> None:
    async def after(ctx: WorkflowContext) -> None:
        await reserve()
        if ctx.patched("check"):
            await check()
        await ship()
        if ctx.patched("check again"):
            await check()

    async with App(":memory:", idle_timeout=5) as app:
        deploy(reserve_and_ship)
        await app.start("order", {}, id="order-1")
        await trio.sleep(100)
        deploy(after)
        carrier["is up"] = True
        await app.handle("order-1").result(timeout=10_000)
    assert did == ["reserve", "ship", "check"]


async def test_code_that_has_not_changed_goes_on_with_its_attempts() -> None:
    for body in (reserve_and_ship, in_branches):
        carrier["is up"] = False
        async with App(":memory:", idle_timeout=5) as app:
            deploy(body)
            await app.start("order", {}, id="order-1")
            await trio.sleep(300)
            carrier["is up"] = True
            await app.handle("order-1").result(timeout=10_000)
            instance = await app.get_instance("order-1")
            assert instance is not None
            assert instance.status is Status.COMPLETED


@pytest.mark.parametrize("sent", ["paid", "approved"])
async def test_a_wait_added_before_another_does_not_get_the_event_of_that(sent: str) -> None:
    async def before(ctx: WorkflowContext) -> None:
        await ctx.wait_event("paid" if sent == "paid" else "approved")
        await ctx.sleep(1000)

    async def after(ctx: WorkflowContext) -> None:
        await ctx.wait_event("checked")
        await ctx.wait_event(sent)
        await ctx.sleep(1000)

    reason = await stuck_after(before, after, sent=sent)
    assert f"'wait_event:1' is about {sent!r}, but the workflow code asks for 'checked'" in reason


async def test_a_publish_added_before_another_is_noticed() -> None:
    async def before(ctx: WorkflowContext) -> None:
        await ctx.publish("orders", 1)
        await ctx.sleep(1000)

    async def after(ctx: WorkflowContext) -> None:
        await ctx.publish("audit", 1)
        await ctx.publish("orders", 1)
        await ctx.sleep(1000)

    assert "'publish:1' is about 'orders', but the workflow code asks for 'audit'" in await stuck_after(before, after)


async def test_a_subscription_added_before_another_is_noticed() -> None:
    async def before(ctx: WorkflowContext) -> None:
        await ctx.subscribe("news")
        await ctx.unsubscribe("news")
        await ctx.sleep(1000)

    async def after(ctx: WorkflowContext) -> None:
        await ctx.subscribe("weather")
        await ctx.subscribe("news")
        await ctx.sleep(1000)

    assert "'subscribe:1' is about 'news', but the workflow code asks for 'weather'" in await stuck_after(before, after)


async def test_a_message_for_another_instance_is_noticed() -> None:
    async def before(ctx: WorkflowContext) -> None:
        await ctx.send_to("order-1", "orders", 1)
        await ctx.sleep(1000)

    async def after(ctx: WorkflowContext) -> None:
        await ctx.send_to("order-2", "orders", 1)
        await ctx.sleep(1000)

    assert "asks for 'orders to order-2'" in await stuck_after(before, after)
