"""The clock of a machine is set while apps are open: nothing is put off by that, nothing comes early."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import trio

from trio_romancy import App, EventTimeoutError, WorkflowCancelledError, WorkflowContext, workflow
from trio_romancy._runtime.worker import clock_sync
from trio_romancy.clock import Clock

from ..support.databases import SHARED_KINDS

pytestmark = [pytest.mark.real_clock, pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)]

STEP = 900
both_ways = pytest.mark.parametrize("step", [-STEP, STEP], ids=["back", "forward"])


class Machine:
    """The machine of this process, whose clock a test sets by so many seconds."""

    def __init__(self) -> None:
        self.step = 0

    def now(self) -> int:
        return time.time_ns() // 1000 + self.step * 1_000_000


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine()
    monkeypatch.setattr(Clock, "of_machine", lambda _: machine.now())
    monkeypatch.setattr(clock_sync, "_EVERY", 0.1)
    yield machine


@workflow(name="clock_greeting")
async def greeting(ctx: WorkflowContext) -> str:
    return "hello"


@workflow(name="clock_payment")
async def payment(ctx: WorkflowContext) -> str:
    try:
        await ctx.wait_event("clock.paid", timeout=600)
    except EventTimeoutError:
        return "no money came"
    return "paid"


@workflow(name="clock_approval")
async def approval(ctx: WorkflowContext) -> None:
    await ctx.wait_event("clock.approved")


@workflow(name="clock_nap")
async def nap(ctx: WorkflowContext) -> float:
    begun = ctx.now()
    await ctx.sleep(1.5)
    return (ctx.now() - begun).total_seconds()


@both_ways
async def test_timers_timeouts_and_leases_go_on_as_if_the_clock_had_not_been_set(
    database: str, machine: Machine, step: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with App(database, worker_id="a", lease=1.5, idle_timeout=0.2) as app:
        epoch = app.statistics().worker.epoch  # type: ignore[union-attr]
        paying, napping = await app.start(payment), await app.start(nap)
        await trio.sleep(0.5)
        machine.step = step
        slept = await napping.result(timeout=10)
        assert 1.5 <= slept < 4
        assert await (await app.start(greeting)).result(timeout=10) == "hello"
        await trio.sleep(1.5)  # a lease
        assert app.statistics().worker.epoch == epoch  # type: ignore[union-attr]
        instance = await app.get_instance(paying.instance_id)
        assert instance is not None and not instance.status.is_final
        await app.send_event("clock.paid", None)
        assert await paying.result(timeout=10) == "paid"
    warnings = [record.getMessage() for record in caplog.records if record.name == "trio_romancy.clock"]
    assert (len(warnings) == 1 and "900." in warnings[0]) or "899.9" in warnings[0]


@both_ways
async def test_what_is_due_at_once_is_not_put_off_by_an_app_whose_clock_is_wrong(
    database: str, machine: Machine, step: int
) -> None:
    async with App(database, lease=2.0) as app:
        waiting = await app.start(payment)
        machine.step = step
        async with App(database, worker=False) as client:  # opened while the clock is wrong
            with trio.fail_after(10):
                assert await (await client.start(greeting)).result() == "hello"
                await client.send_event("clock.paid", None)
                assert await client.handle(waiting.instance_id).result() == "paid"
            cancelled = await client.start(approval)
            await trio.sleep(0.3)
            await client.cancel(cancelled.instance_id)
            with trio.fail_after(10), pytest.raises(WorkflowCancelledError):
                await cancelled.result()


@both_ways
async def test_a_worker_that_is_opened_after_the_clock_was_set_has_the_time_of_those_that_live(
    database: str, machine: Machine, step: int
) -> None:
    """Otherwise it would fire the timers of the others early, or late, and time out what was started here."""
    async with App(database, worker_id="a", lease=2.0, idle_timeout=0.1) as app:
        paying = await app.start(payment)
        begun = trio.current_time()
        napping = await app.start(nap)
        await trio.sleep(0.4)  # both are passive
        machine.step = step
        async with App(database, worker_id="b", lease=2.0, idle_timeout=0.1) as late:
            await napping.result(timeout=60)
            assert trio.current_time() - begun >= 1.5
            from_late = await late.start(payment)
            await trio.sleep(2.5)
            for handle in (paying, from_late):
                instance = await late.get_instance(handle.instance_id)
                assert instance is not None and not instance.status.is_final
            assert [worker.is_alive for worker in await late.list_workers()] == [True, True]
