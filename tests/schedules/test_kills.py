"""Five worker processes fire a schedule each second, and are killed: there is no gap, and nothing comes twice."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from contextlib import ExitStack

import pytest
import trio

from trio_romancy import App, Overlap, Status, WorkflowContext, workflow
from trio_romancy.clock import from_datetime

from ..support.databases import SHARED_KINDS
from ..support.processes import open_process

pytestmark = pytest.mark.long

SECONDS = float(os.environ.get("TRIO_ROMANCY_SCHEDULE_KILLS", "15"))
"""How long it takes: the variable is for runs of many minutes."""


@workflow(name="kills_tick")
async def tick(ctx: WorkflowContext) -> None: ...


@pytest.mark.real_clock
@pytest.mark.time_limit(SECONDS + 300)
@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_a_schedule_per_second_has_no_gap_and_no_double_while_workers_are_killed(database: str) -> None:
    async with App(database, worker=False) as app:
        await app.schedule("tick", tick, every=1, overlap=Overlap.ALLOW_ALL)
        begin = (await app.schedules.next("tick", 1))[0]
        kills = 0
        until = time.monotonic() + SECONDS
        with ExitStack() as exits:

            def open_one() -> object:
                return exits.enter_context(open_process("tests.schedules.firing_worker", database, says="works"))

            workers = [open_one() for _ in range(5)]
            while time.monotonic() < until:
                await trio.sleep(random.uniform(0.2, 1.0))
                victim = workers.pop(random.randrange(len(workers)))
                victim.kill()  # type: ignore[attr-defined]
                kills += 1
                workers.append(open_one())
            await app.schedules.pause("tick")
            end = (await app.schedules.get("tick")).last_at
            assert end is not None
            with trio.fail_after(120):
                while [one for one in await app.list_instances(limit=10_000) if one.status is not Status.COMPLETED]:  # noqa: ASYNC110
                    await trio.sleep(0.2)
        ids = [one.instance_id for one in await app.list_instances(limit=10_000)]
        skipped = await app.schedules.skipped()
    assert skipped == []
    assert kills > SECONDS / 10
    expected = round((from_datetime(end) - from_datetime(begin)) / 1e6) + 1
    assert expected > SECONDS / 2
    assert len(ids) == expected
    assert set(Counter(ids).values()) == {1}
    assert min(ids) == f"tick@{begin:%Y-%m-%dT%H:%M:%S}Z"
