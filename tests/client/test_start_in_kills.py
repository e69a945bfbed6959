"""However often programs are killed, each committed row has its instance, and no other instance was started.

``TRIO_ROMANCY_ORDERS=10000`` takes as many orders instead of 80, in minutes.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter

import pytest
import trio

from trio_romancy import App, Status, WorkflowContext, workflow

from ..support.databases import SHARED_KINDS, query

ORDERS = int(os.environ.get("TRIO_ROMANCY_ORDERS", "80"))
pytestmark = [pytest.mark.real_clock, pytest.mark.time_limit(60 + ORDERS)]


@workflow(name="shop_order")
async def shop_order(ctx: WorkflowContext, order: int) -> int:
    return order


@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_each_committed_row_has_one_instance_and_each_rolled_back_none(
    database: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with App(database, worker=False):
        await trio.to_thread.run_sync(query, database, "CREATE TABLE orders (id BIGINT PRIMARY KEY)")
    latest = 0.3 if ORDERS < 1000 else 1.5
    numbers = ORDERS, random.randrange(10**6), latest
    command = [sys.executable, "-m", "tests.support.shop", database, *map(str, numbers)]
    done = await trio.to_thread.run_sync(lambda: subprocess.run(command, capture_output=True, text=True))
    assert done.returncode == 0, done.stderr
    kills, rolled_back = int(done.stdout), done.stderr.count(".")
    rows = await trio.to_thread.run_sync(query, database, "SELECT id FROM orders")
    started = await trio.to_thread.run_sync(query, database, "SELECT input FROM romancy_instances")
    instances = Counter(text for (text,) in started)
    assert len(rows) == ORDERS
    assert instances == {f'{{"order":{id}}}': 1 for (id,) in rows}
    with capsys.disabled():
        print(f" [{kind}: {len(rows)} orders, {kills} kills, {rolled_back} rolled back]", end="")
    assert kills
    assert rolled_back
    if ORDERS <= 1000:
        async with App(database) as app:
            with trio.fail_after(60):
                for instance in (await app.list_instances(limit=ORDERS)).instances:
                    await app.handle(instance.instance_id).result()
            ended = await app.list_instances(status=Status.COMPLETED, limit=ORDERS + 1)
            assert sorted(instance.output for instance in ended.instances) == sorted(id for (id,) in rows)
