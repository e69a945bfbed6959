"""Not an outage: what the load of the outages relies on."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
import trio

from trio_romancy import (
    App,
    TerminalError,
    WorkflowContext,
    WorkflowFailedError,
    activity,
    compensation,
    current_activity,
    workflow,
)

from ..support.servers import execute

pytestmark = [pytest.mark.long, pytest.mark.real_clock]


@compensation(name="take_back_what_was_given")
async def take_back() -> None:
    await current_activity().session.execute(sa.text("INSERT INTO effects VALUES ('taken back')"))


@activity(name="compensations_give", compensation=take_back)
async def give() -> None:
    await current_activity().session.execute(sa.text("INSERT INTO effects VALUES ('given')"))


@activity(name="compensations_refuse_for_good")
async def refuse_for_good() -> None:
    raise TerminalError("as asked")


@workflow(name="compensations_giving")
async def giving(ctx: WorkflowContext, pause: float) -> None:
    await give()
    if pause:
        await ctx.sleep(pause)
    await refuse_for_good()


@pytest.mark.parametrize("pause", [0.0, 0.1])
async def test_a_compensation_writes_through_its_session(database: str, pause: float) -> None:
    execute(database, "CREATE TABLE effects (what VARCHAR(20))")
    async with App(database, shutdown_timeout=0.1) as app:
        handle = await app.start(giving, pause)
        with pytest.raises(WorkflowFailedError, match="as asked"), trio.fail_after(5):
            await handle.result()
    assert sorted(execute(database, "SELECT what FROM effects")) == [("given",), ("taken back",)]
