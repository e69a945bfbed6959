"""What one process makes due, another takes up: told by the database, or found when it looks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from sqlalchemy import Connection

from trio_romancy import App, Status, WorkflowContext, workflow
from trio_romancy._storage.drivers import asyncio_server
from trio_romancy._storage.sql import wake_ups

from ..support.databases import SHARED_KINDS
from ..support.probe import poll_at_most_every, probe, replace_next_wake
from ..support.servers import execute

pytestmark = pytest.mark.real_clock


@workflow(name="wake_ups_quick")
async def quick(ctx: WorkflowContext) -> int:
    return 1


@workflow(name="wake_ups_waiter")
async def waiter(ctx: WorkflowContext) -> int:
    event = await ctx.wait_event("wake.up")
    return int(event.data)


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_postgresql_tells_an_idle_worker_at_once_also_after_its_connection_was_lost(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll_at_most_every(600.0, monkeypatch)  # so that it cannot have looked
    async with App(database) as app, App(database, worker=False) as client:
        for _ in range(2):
            handle = await client.start(quick)
            assert await handle.result(timeout=60) == 1
            waiting = await client.start(waiter)
            with trio.fail_after(60):
                while (await client.list_instances(status=Status.WAITING)).instances == []:  # noqa: ASYNC110
                    await trio.sleep(0.02)
            await client.send_event("wake.up", 7)
            assert await waiting.result(timeout=60) == 7
            ours = "datname = current_database() AND pid <> pg_backend_pid()"
            execute(database, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")
            listening = f"SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND {ours}"
            with trio.fail_after(60):
                while execute(database, listening) != [(1,)]:  # noqa: ASYNC110
                    await trio.sleep(0.05)
        assert app.statistics().worker is not None


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_a_worker_that_hears_itself_need_not_look(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def counted(connection: Connection, me: str, workflows: Sequence[str], *, suspects: bool) -> int | None:
        nonlocal looks
        looks += 1
        return wake_ups.next_wake(connection, me, workflows, suspects=suspects)

    run = asyncio_server._Writer.run

    async def slow(*args: Any, **kwargs: Any) -> Any:
        result = await run(*args, **kwargs)
        await trio.sleep(0.3)  # the news comes before the answer
        return result

    poll_at_most_every(600.0, monkeypatch)
    replace_next_wake(counted, monkeypatch)
    async with App(database, idle_timeout=0) as app:
        waiting = await app.start(waiter)
        with trio.fail_after(60):
            while (found := app.statistics().worker) is None or found.supervisor.resident:  # noqa: ASYNC110
                await trio.sleep(0.05)
        monkeypatch.setattr(asyncio_server._Writer, "run", slow)
        before = looks
        await app.send_event("wake.up", 7)
        assert looks == before
        assert await waiting.result(timeout=60) == 7


@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_what_a_client_starts_after_a_while_is_taken_up_soon(database: str) -> None:
    took = []
    async with App(database), App(database, worker=False) as client:
        for pause in (0.0, 0.2, 1.5):
            await trio.sleep(pause)
            begun = time.monotonic()
            assert await (await client.start(quick)).result(timeout=60) == 1
            took.append(time.monotonic() - begun)
    assert statistics.median(took) < 3


async def test_an_idle_worker_looks_less_and_less_often_down_to_once_a_second(tmp_path: object) -> None:
    async with App(f"{tmp_path}/idle.db") as app:
        inside = probe(app)
        now = inside.clock.now()
        for idle, least, most in ((0.0, 0.05, 0.07), (2.0, 0.2, 0.26), (60.0, 1.0, 1.26)):
            at = inside.poll_at(now - round(idle * 1_000_000))
            assert at is not None
            assert least <= (at - now) / 1_000_000 <= most + 0.05
