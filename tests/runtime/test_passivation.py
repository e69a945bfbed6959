"""What waits keeps little in memory, and nothing that comes while it is dropped from there is missed."""

from __future__ import annotations

import pytest
import trio

from trio_romancy import App, RetryPolicy, WorkflowCancelledError, WorkflowContext, activity, workflow
from trio_romancy.clock import Clock
from trio_romancy.testing import run

from ..support.probe import probe

MOMENTS = 40
"""How many steps of the scheduler after the order to give the instance back to try."""


@workflow
async def passivation_waiter(ctx: WorkflowContext) -> str:
    event = await ctx.wait_event("passivation.go")
    return str(event.data)


def test_instances_that_wait_do_not_keep_what_they_have_written_together() -> None:
    async def main() -> None:
        async with App(":memory:") as app:
            for _ in range(10):
                await app.start(passivation_waiter)
            await trio.sleep(10)
            inside = probe(app)
            assert len(inside.kept_batches) == len(inside.actors) == 10
            assert not any(batch.updates or batch.effects for batch in inside.kept_batches)

    run(main)


async def being_dropped(app: App, moment: int) -> None:
    """Return so many steps of the scheduler after the order to give back an instance that waits."""
    probe(app).release_idle()
    for _ in range(moment):
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_an_event_that_comes_while_the_instance_is_dropped_is_received(moment: int) -> None:
    async def main() -> None:
        async with App(":memory:") as app:
            handle = await app.start(passivation_waiter)
            await trio.sleep(0.1)
            await being_dropped(app, moment)
            await app.send_event("passivation.go", "went")
            assert await handle.result(timeout=100) == "went"

    run(main)


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_cancel_request_that_comes_while_the_instance_is_dropped_is_heard(moment: int) -> None:
    async def main() -> None:
        async with App(":memory:") as app:
            handle = await app.start(passivation_waiter)
            await trio.sleep(0.1)
            await being_dropped(app, moment)
            assert await handle.cancel()
            with pytest.raises(WorkflowCancelledError):
                await handle.result(timeout=100)

    run(main)


async def test_an_instance_whose_retry_is_due_rests_until_the_attempt_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks wait for the same time. The one that comes first must not keep the other from it."""
    sleep_until = Clock.sleep_until

    async def sleep_a_little_longer(clock: Clock, when: int) -> None:
        await sleep_until(clock, when + 1)

    monkeypatch.setattr(Clock, "sleep_until", sleep_a_little_longer)
    failed: list[str] = []

    @activity(retry=RetryPolicy.fixed(3, 0.1))
    async def fail_twice() -> str:
        if len(failed) < 2:
            failed.append("once more")
            raise ConnectionError("away")
        return "done"

    @workflow
    async def retrying(ctx: WorkflowContext) -> str:
        return await fail_twice()

    async with App(":memory:", idle_timeout=0) as app:
        assert await (await app.start(retrying)).result() == "done"
