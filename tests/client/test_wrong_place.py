"""An app that is used from where it does not run refuses that in a sentence, and goes on working."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from trio_romancy import App, RomancyError, WorkflowContext, workflow


@workflow
async def greet(ctx: WorkflowContext, name: str) -> str:
    return f"hello {name}"


async def enter() -> None:
    async with App(":memory:"):
        pass


def test_an_app_that_is_entered_under_asyncio_names_the_one_for_asyncio() -> None:
    with pytest.raises(RomancyError, match=re.escape("use trio_romancy.aio.App")):
        asyncio.run(enter())


def test_an_app_that_is_entered_without_an_event_loop_names_the_one_for_threads() -> None:
    coroutine = enter()
    with pytest.raises(RomancyError, match=re.escape("use trio_romancy.sync.App")):
        coroutine.send(None)


CALLS: dict[str, Callable[[App], Awaitable[Any]]] = {
    "app.start": lambda app: app.start(greet, "Ann"),
    "handle.result": lambda app: app.handle("none").result(),
    "app.get_instance": lambda app: app.get_instance("none"),
    "app.outbox.list": lambda app: app.outbox.list(),
}


@pytest.mark.real_clock
@pytest.mark.parametrize("call", CALLS)
async def test_a_call_from_another_event_loop_is_refused_and_the_app_goes_on(call: str) -> None:
    async def elsewhere() -> None:
        await CALLS[call](app)

    async with App(":memory:", shutdown_timeout=1) as app:
        with pytest.raises(RomancyError, match=f"{re.escape(call)} is called in another trio.run"):
            await trio.to_thread.run_sync(trio.run, elsewhere)
        with pytest.raises(RomancyError, match=f"{re.escape(call)} is called under asyncio"):
            await trio.to_thread.run_sync(lambda: asyncio.run(elsewhere()))
        with trio.fail_after(30):
            assert await (await app.start(greet, "Ann")).result() == "hello Ann"


@pytest.mark.real_clock
async def test_an_app_that_is_entered_twice_goes_on() -> None:
    async with App(":memory:") as app:
        with pytest.raises(RomancyError, match="make a new App for each block"):
            async with app:
                pass
        assert await (await app.start(greet, "Ann")).result() == "hello Ann"
