"""A call by a task outside the block of an app ends: it raises if the block ends before it is carried out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from trio_romancy import App, RomancyError, WorkflowContext, workflow

from ..support.probe import probe


@workflow(name="ended_block_sleeper")
async def sleeper(ctx: WorkflowContext) -> None:
    await ctx.sleep(3600)


CALLS: dict[str, Callable[[App], Awaitable[Any]]] = {
    "start": lambda app: app.start(sleeper),
    "start with an id": lambda app: app.start(sleeper.options(id="other")),
    "send_event": lambda app: app.send_event("go", None),
    "publish": lambda app: app.publish("news", None),
    "result": lambda app: app.handle("x").result(),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_raises_if_the_block_ends_first(call: str) -> None:
    ended: list[str] = []

    async def outside(app: App) -> None:
        try:
            await CALLS[call](app)
        except RomancyError as error:
            ended.append(str(error))

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            async with App(":memory:", shutdown_timeout=1) as app:
                await app.start(sleeper.options(id="x"))
                turn = probe(app).database._turn  # type: ignore[attr-defined]
                await turn.acquire()  # as if the database could not be written
                nursery.start_soon(outside, app)
                await trio.testing.wait_all_tasks_blocked()
                assert ended == []
            turn.release()
    assert len(ended) == 1
    assert "the block of the app has ended before this call" in ended[0]
