"""Workers on machines whose clocks differ: the time of the database counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import trio

from trio_romancy import App, WorkflowContext, workflow
from trio_romancy.clock import Clock

from ..support.servers import PRODUCTS

pytestmark = [pytest.mark.long, pytest.mark.real_clock, pytest.mark.parametrize("kind", PRODUCTS, indirect=True)]

HOUR = 3_600_000_000


@contextmanager
def machine_that_is(behind: int) -> Iterator[None]:
    """A machine whose clock is that many microseconds behind, for the apps that are opened meanwhile."""

    class WrongClock(Clock):
        def of_machine(self) -> int:
            return super().of_machine() - behind

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trio_romancy.app.current_clock", lambda: WrongClock(None))
        yield


@workflow(name="time_waiter")
async def waiter(ctx: WorkflowContext) -> float:
    event = await ctx.wait_event("time.event")
    await ctx.sleep(0.2)
    return (ctx.now() - event.time).total_seconds()


@pytest.mark.parametrize("behind", [-HOUR, HOUR])
async def test_a_worker_whose_clock_is_wrong_takes_nobodys_lease_and_is_in_time(database: str, behind: int) -> None:
    async with App(database, worker_id="right", lease=3.0) as right:
        with machine_that_is(behind):
            wrong = App(database, worker_id="wrong", lease=3.0)
            await wrong.__aenter__()
        try:
            epochs = [app.statistics().worker.epoch for app in (right, wrong)]  # type: ignore[union-attr]
            handle = await wrong.start(waiter)
            await right.send_event("time.event", None)
            assert 0.2 <= await handle.result(timeout=60) < HOUR / 1_000_000
            await trio.sleep(3.5)  # the lease, and more
            assert [app.statistics().worker.epoch for app in (right, wrong)] == epochs  # type: ignore[union-attr]
            instance = await right.get_instance(handle.instance_id)
        finally:
            await wrong.__aexit__(None, None, None)
    assert instance is not None
    assert abs(instance.created_at - datetime.now(UTC)) < timedelta(minutes=5)


async def test_it_is_said_that_the_clock_of_a_machine_is_wrong(database: str, caplog: pytest.LogCaptureFixture) -> None:
    with machine_that_is(HOUR):
        async with App(database, worker=False):
            pass
    assert "the clock of this machine is 3600.0 s behind that of " in caplog.text
