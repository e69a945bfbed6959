"""Errors that calls of users meet say what happened, to which instance, and what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from trio_romancy import (
    App,
    EventTimeoutError,
    InstanceNotFoundError,
    InvalidDataError,
    Limits,
    MessageTimeoutError,
    PayloadTooLargeError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    workflow,
)
from trio_romancy.testing import registry


@activity(name="messages_count")
async def count() -> int:
    return "three"  # type: ignore[return-value]


@activity(name="messages_large")
async def large() -> str:
    return "x" * 5000


@workflow(name="messages_flow")
async def flow(ctx: WorkflowContext, how: str) -> Any:
    match how:
        case "unfitting result of an activity":
            await count()
        case "result of an activity that is too large":
            await large()
        case "unsubscribe":
            await ctx.unsubscribe("news")
        case "event":
            await ctx.wait_event("paid", subject="order-1", timeout=1)
        case "message":
            await ctx.subscribe("news")
            await ctx.receive("news", timeout=1)
        case "same id":
            for _ in range(2):
                await ctx.sleep(1, id="wait")
        case "same branch":
            for item in range(2):
                with ctx.branch("eu"):
                    await ctx.sleep(item)
        case "no branch":
            with ctx.branch(""):
                pass
        case "long details":
            ctx.set_details("x" * 100_000)
        case "endless":
            await ctx.sleep(10**6)
    return "text"


@workflow(name="messages_bad_result")
async def bad_result(ctx: WorkflowContext) -> int:
    return "three"  # type: ignore[return-value]


@asynccontextmanager
async def opened() -> AsyncIterator[App]:
    async with App(":memory:", limits=Limits(max_payload=2000)) as app:
        yield app


OF_WORKFLOW: dict[str, tuple[type[BaseException], list[str]]] = {
    "unfitting result of an activity": (InvalidDataError, ["'messages_count:1' has done its work", "$: expected int"]),
    "result of an activity that is too large": (
        PayloadTooLargeError,
        ["'messages_large:1', which has done its work and is not run again,", "store it elsewhere"],
    ),
    "unsubscribe": (Exception, ["'news'", "ctx.subscribe('news')"]),
    "event": (EventTimeoutError, ["'paid' about 'order-1'", "'wait_event:1'", "catch this error"]),
    "message": (MessageTimeoutError, ["'news'", "'receive:1'", "catch this error"]),
    "same id": (Exception, ["'wait' is used a second time", "put what differs into the id"]),
    "same branch": (Exception, ["'eu' has been opened before", "put what differs into it"]),
    "no branch": (Exception, ["ctx.branch('eu')"]),
    "long details": (PayloadTooLargeError, ["ctx.set_details stores at most", "store data elsewhere"]),
}


@pytest.mark.parametrize("how", OF_WORKFLOW)
async def test_an_error_of_workflow_code_names_instance_and_cure(how: str) -> None:
    cls, parts = OF_WORKFLOW[how]
    async with opened() as app:
        with pytest.raises(WorkflowFailedError) as caught:
            await (await app.start(flow.options(id="order-77"), how)).result()
    assert caught.value.is_a(cls) or cls.__name__ in caught.value.message
    assert caught.value.message.count("instance 'order-77'") == 1
    for part in parts:
        assert part in caught.value.message


async def late(app: App) -> None:
    await (await app.start(flow.options(id="order-77"), "endless")).result(timeout=5)


async def other_type(app: App) -> None:
    with registry.scoped():

        @workflow(name="messages_other")
        async def other(ctx: WorkflowContext, how: str) -> str:
            return "text"

        await (await app.start(other.options(id="order-77"), "")).result()
    with registry.scoped():

        @workflow(name="messages_other")
        async def changed(ctx: WorkflowContext, how: str) -> int:
            return 1

        await (await app.start(changed.options(id="order-77"), "")).result()


async def unfitting(app: App) -> None:
    await (await app.start(bad_result.options(id="order-77"))).result()


async def unknown(app: App) -> None:
    await app.handle("order-77").result()


OF_CLIENT: list[tuple[Callable[[App], Awaitable[None]], type[BaseException], list[str]]] = [
    (late, trio.TooSlowError, ["has not ended within 5 s", "result() can be called again"]),
    (other_type, InvalidDataError, ["its result does not fit", "'messages_other'", "$: expected int, got 'text'"]),
    (unfitting, WorkflowFailedError, ["result of workflow 'messages_bad_result' cannot be stored: $: expected int"]),
    (unknown, InstanceNotFoundError, ["check the id"]),
]


@pytest.mark.parametrize(("call", "cls", "parts"), OF_CLIENT, ids=lambda value: getattr(value, "__name__", ""))
async def test_an_error_of_a_caller_names_instance_and_cure(
    call: Callable[[App], Awaitable[None]], cls: type[BaseException], parts: list[str]
) -> None:
    async with opened() as app:
        with pytest.raises(cls) as caught:
            await call(app)
    assert "instance 'order-77'" in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
