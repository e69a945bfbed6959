"""Threads and tasks that an attempt has left behind can neither write nor send any more once the attempt has ended."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa
import trio
import trio.testing

from trio_romancy import (
    ActivityError,
    App,
    RetryPolicy,
    RomancyError,
    WorkflowContext,
    activity,
    current_activity,
    workflow,
)
from trio_romancy._storage.drivers import asyncio_server

from ..support.databases import ALL_KINDS
from ..support.servers import execute

pytestmark = pytest.mark.real_clock
every_kind = pytest.mark.parametrize("kind", ALL_KINDS, indirect=True)

notes = sa.Table("notes", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))


def insert(id: int) -> sa.Insert:
    return sa.insert(notes).values(id=id)


@activity(name="late_prepare")
async def prepare() -> None:
    await current_activity().session.execute(sa.schema.CreateTable(notes, if_not_exists=True))


@activity(name="late_found")
async def found() -> list[int]:
    return list(await current_activity().session.scalars(sa.select(notes.c.id).order_by(notes.c.id)))


@workflow(name="late_preparing")
async def preparing(ctx: WorkflowContext) -> None:
    await prepare()


@workflow(name="late_looking")
async def looking(ctx: WorkflowContext) -> list[int]:
    return await found()


@asynccontextmanager
async def opened(database: str) -> AsyncIterator[App]:
    """An app with the table of notes. In the end the notes can be read, so no transaction is left open."""
    with trio.fail_after(60):
        async with App(database, pool_size=2, shutdown_timeout=1) as app:
            await (await app.start(preparing)).result()
            yield app


async def call(app: App, fn: Any) -> str:
    """Call an activity. Returns the message of its failure, or nothing."""

    @workflow
    async def calling(ctx: WorkflowContext) -> str:
        try:
            await fn()
        except ActivityError as error:
            return error.message
        return ""

    return await (await app.start(calling)).result()


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(RomancyError) as caught:
        call()
    return str(caught.value)


@every_kind
@pytest.mark.parametrize("uses_it_before", [False, True], ids=["first use", "used before"])
async def test_a_thread_that_overran_its_timeout_is_refused(
    database: str, uses_it_before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    refusals: list[str] = []

    @activity(timeout=0.3, retry=RetryPolicy.no_retry())
    def late() -> None:
        this = current_activity()
        if uses_it_before:
            trio.from_thread.run(this.session.execute, insert(1))
        try:
            while True:
                this.publish("channel", None)
                time.sleep(0.02)
        except RomancyError as error:
            refusals.append(str(error))
        refusals.append(refused(lambda: this.send_event("type", None)))
        refusals.append(refused(lambda: trio.from_thread.run(current_activity().session.execute, insert(2))))
        refusals.append(refused(lambda: trio.from_thread.run(this.session.add, object())))
        trio.from_thread.run_sync(ended.set)

    async with opened(database) as app:
        ended = trio.Event()
        assert "longer than 0.3 s" in await call(app, late)
        await ended.wait()
        assert await (await app.start(looking)).result() == []
    assert len(refusals) == 4
    assert all("late:1" in text for text in refusals)
    assert "the session of activity 'late:1' is used after the end of its attempt" in caplog.text


@every_kind
async def test_a_task_that_an_activity_has_left_behind_is_refused(database: str) -> None:
    goes_on, refusals = trio.Event(), []

    async def straggle() -> None:
        this = current_activity()
        await goes_on.wait()
        for _ in range(2):
            with pytest.raises(RomancyError, match="await every task") as caught:
                await this.session.execute(insert(2))
            refusals.append(caught.value)

    async with trio.open_nursery() as nursery:

        @activity
        async def leaves_a_task() -> None:
            await current_activity().session.execute(insert(1))
            nursery.start_soon(straggle)

        async with opened(database) as app:
            assert await call(app, leaves_a_task) == ""
            goes_on.set()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert await (await app.start(looking)).result() == [1]
    assert len(refusals) == 2


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
@pytest.mark.parametrize("is_first", [False, True], ids=["later", "first statement"])
async def test_a_statement_that_runs_when_its_activity_returns_belongs_to_the_transaction(
    database: str, is_first: bool
) -> None:
    async with trio.open_nursery() as nursery:

        @activity
        async def leaves_a_task() -> None:
            session = current_activity().session
            if not is_first:
                await session.execute(insert(1))
            nursery.start_soon(session.execute, sa.text("INSERT INTO notes SELECT 2 FROM pg_sleep(0.5)"))
            await trio.sleep(0.2)

        async with opened(database) as app:
            assert await call(app, leaves_a_task) == ""
            assert await (await app.start(looking)).result() == ([2] if is_first else [1, 2])


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_a_statement_that_runs_when_its_thread_overruns_is_interrupted(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio_server, "_GRACE", 0.1)
    refusals: list[str] = []

    @activity(timeout=0.3, retry=RetryPolicy.no_retry())
    def slow() -> None:
        slow_insert = sa.text("INSERT INTO notes SELECT 1 FROM pg_sleep(30)")
        refusals.append(refused(lambda: trio.from_thread.run(current_activity().session.execute, slow_insert)))

    async with opened(database) as app:
        began = trio.current_time()
        assert "longer than 0.3 s" in await call(app, slow)
        assert trio.current_time() - began < 10
        assert await (await app.start(looking)).result() == []
        assert len(refusals) == 1
        idle = "state LIKE 'idle in transaction%' AND datname = current_database()"
        counted = f"SELECT count(*) FROM pg_stat_activity WHERE {idle}"
        assert (await trio.to_thread.run_sync(execute, database, counted)) == [(0,)]


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"], indirect=True)
async def test_a_thread_that_waits_for_a_connection_when_its_time_is_over_gets_none(database: str) -> None:
    refusals: list[str] = []
    has_it, may_end = trio.Event(), trio.Event()

    @activity
    async def hold_the_only_one() -> None:
        await current_activity().session.execute(insert(1))
        has_it.set()
        await may_end.wait()

    @activity(timeout=0.3, retry=RetryPolicy.no_retry())
    def late() -> None:
        refusals.append(refused(lambda: trio.from_thread.run(current_activity().session.execute, insert(2))))

    async with opened(database) as app, trio.open_nursery() as nursery:
        nursery.start_soon(call, app, hold_the_only_one)
        await has_it.wait()
        assert "longer than 0.3 s" in await call(app, late)
        assert len(refusals) == 1
        may_end.set()
        assert await (await app.start(looking)).result() == [1]


@every_kind
async def test_the_next_attempt_has_a_session_that_what_the_last_one_left_behind_cannot_use(database: str) -> None:
    goes_on, is_refused, attempts = trio.Event(), trio.Event(), []

    async def straggle() -> None:
        this = current_activity()
        await goes_on.wait()
        with pytest.raises(RomancyError):
            await this.session.execute(insert(99))
        is_refused.set()

    async with trio.open_nursery() as nursery:

        @activity(retry=RetryPolicy.fixed(2, 0.01))
        async def tries_twice() -> None:
            attempts.append(current_activity().attempt)
            await current_activity().session.execute(insert(attempts[-1]))
            if len(attempts) == 1:
                nursery.start_soon(straggle)
                raise ConnectionError
            goes_on.set()
            await is_refused.wait()

        async with opened(database) as app:
            assert await call(app, tries_twice) == ""
            assert await (await app.start(looking)).result() == [2]
