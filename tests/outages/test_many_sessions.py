"""Not an outage, though it looks like one: activities' transactions hold all connections that they may."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa
import trio

from trio_romancy import App, Status, WorkflowContext, activity, current_activity, workflow

from ..support.servers import execute

pytestmark = [pytest.mark.long, pytest.mark.real_clock, pytest.mark.usefixtures("quiet")]

HOLDERS = 50
HOLDS = 0.06
PROMPT = 1.0
"""Seconds, each."""


@activity(name="many_sessions_hold_a_transaction")
async def hold_a_transaction(number: int) -> None:
    await current_activity().session.execute(sa.text("INSERT INTO held VALUES (:n)"), {"n": number})
    await trio.sleep(HOLDS)


@workflow(name="many_sessions_holding_a_transaction")
async def holding_a_transaction(ctx: WorkflowContext, number: int) -> int:
    await hold_a_transaction(number)
    return number


@workflow(name="many_sessions_sleeping_for_long")
async def sleeping_for_long(ctx: WorkflowContext) -> None:
    await ctx.sleep(1000)


async def promptly(fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    with trio.fail_after(PROMPT):
        return await fn(*args)


async def test_fifty_sessions_on_two_connections_hold_up_neither_clients_nor_the_lease(database: str) -> None:
    execute(database, "CREATE TABLE held (n INTEGER)")
    async with App(database, pool_size=2, lease=1) as app:
        sleepers = [await app.start(sleeping_for_long) for _ in range(10)]
        before = app.statistics().worker
        handles = [await app.start(holding_a_transaction, number) for number in range(HOLDERS)]
        for sleeper in sleepers:
            await trio.sleep(HOLDS * 2)
            assert (await promptly(app.get_instance, handles[-1].instance_id)).status is Status.RUNNING
            assert await promptly(app.cancel, sleeper.instance_id)
        # One cannot be cancelled while it waits for a connection; that it was asked to be is known at once.
        assert await promptly(app.cancel, handles[-1].instance_id)
        assert [await handle.result() for handle in handles[:-1]] == list(range(HOLDERS - 1))
        after = app.statistics().worker
        assert before is not None
        assert after is not None
        assert after.epoch == before.epoch
    assert sorted(execute(database, "SELECT n FROM held")) == [(n,) for n in range(HOLDERS)]
