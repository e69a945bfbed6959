"""An activity is cancelled while the server is busy with its statement, and will be for long."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa
import sqlalchemy.orm
import trio

from trio_romancy import App, EntryKind, RetryPolicy, WorkflowContext, activity, current_activity, workflow
from trio_romancy._storage.drivers import asyncio_server
from trio_romancy.testing import broken_guarantees

from ..support.probe import probe
from ..support.servers import execute
from .load import SLACK

pytestmark = [pytest.mark.long, pytest.mark.real_clock, pytest.mark.usefixtures("quiet")]

GRACE = 0.3
BACK_WITHIN = GRACE + SLACK
"""Seconds from the cancellation. The statement would take 30."""

OPEN_TRANSACTIONS = {
    "mariadb": "SELECT trx_query FROM information_schema.innodb_trx",
    "postgresql": "SELECT query FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'",
}

asked: list[str] = []
"""By each attempt, before it asks the server to sleep."""


@pytest.fixture(autouse=True)
def is_impatient(monkeypatch: pytest.MonkeyPatch, database: str) -> None:
    monkeypatch.setattr(asyncio_server, "_GRACE", GRACE)
    execute(database, "CREATE TABLE slept (what VARCHAR(20))")
    asked.clear()


async def sleep_in_the_database(what: str) -> str:
    """The first attempt sleeps for long, with locks in its hands. Those after it do not."""
    seconds = 0 if asked else 30

    def sleep(session: sqlalchemy.orm.Session) -> None:
        session.execute(sa.text("INSERT INTO slept VALUES (:what)"), {"what": what})
        asked.append(what)
        name = "pg_sleep" if session.get_bind().dialect.name == "postgresql" else "SLEEP"
        session.execute(sa.text(f"SELECT {name}({seconds})"))

    await current_activity().session.run_sync(sleep)
    return what


@activity(name="cancelled_statements_sleep_there")
async def sleep_there(what: str) -> str:
    return await sleep_in_the_database(what)


@activity(name="cancelled_statements_sleep_there_not_long", timeout=0.3, retry=RetryPolicy.fixed(2, 0.01))
async def sleep_there_not_long(what: str) -> str:
    return await sleep_in_the_database(what)


@activity(name="cancelled_statements_sleep_there_if_not_cancelled", cancellable=True)
async def sleep_there_if_not_cancelled(what: str) -> str:
    return await sleep_in_the_database(what)


@workflow(name="cancelled_statements_sleeping_there")
async def sleeping_there(ctx: WorkflowContext, what: str) -> str:
    return await sleep_there(what)


@workflow(name="cancelled_statements_sleeping_there_not_long")
async def sleeping_there_not_long(ctx: WorkflowContext, what: str) -> str:
    return await sleep_there_not_long(what)


@workflow(name="cancelled_statements_sleeping_there_until_cancelled")
async def sleeping_there_until_cancelled(ctx: WorkflowContext) -> str:
    with ctx.move_on_after(0.3) as scope:
        await sleep_there_if_not_cancelled("cancelled")
    assert scope.cancelled_caught
    return await sleep_there("afterwards")


async def until(holds: Callable[[], bool], seconds: float = SLACK) -> None:
    with trio.fail_after(seconds):
        while not await trio.to_thread.run_sync(holds):  # noqa: ASYNC110
            await trio.sleep(0.02)


async def nothing_is_left_open(kind: str, database: str) -> None:
    await until(lambda: not execute(database, OPEN_TRANSACTIONS[kind]))


async def check(app: App, instance_id: str) -> list[EntryKind]:
    """What its journal holds, which is in order; and other sessions work."""
    assert await (await app.start(sleeping_there, "another")).result(timeout=SLACK) == "another"
    instance = await app.get_instance(instance_id)
    assert instance is not None
    history = await app.history(instance_id)
    assert broken_guarantees(instance, history) == []
    return [entry.kind for entry in history]


async def test_an_attempt_that_takes_too_long_fails_and_the_next_one_follows(kind: str, database: str) -> None:
    async with App(database, pool_size=2) as app:
        handle = await app.start(sleeping_there_not_long, "retried")
        assert await handle.result(timeout=0.3 + BACK_WITHIN) == "retried"
        await nothing_is_left_open(kind, database)
        kinds = await check(app, handle.instance_id)
        assert kinds == [EntryKind.ATTEMPT_FAILED, EntryKind.ACTIVITY_COMPLETED, EntryKind.WORKFLOW_COMPLETED]
    assert execute(database, "SELECT what FROM slept ORDER BY what") == [("another",), ("retried",)]


async def test_a_cancellable_activity_is_cancelled_and_the_workflow_goes_on(kind: str, database: str) -> None:
    async with App(database, pool_size=2) as app:
        handle = await app.start(sleeping_there_until_cancelled)
        assert await handle.result(timeout=0.3 + BACK_WITHIN) == "afterwards"
        await nothing_is_left_open(kind, database)
        assert EntryKind.ACTIVITY_CANCELLED in await check(app, handle.instance_id)
    assert execute(database, "SELECT what FROM slept ORDER BY what") == [("afterwards",), ("another",)]


async def test_a_dropped_actor_gives_its_connection_back_and_the_activity_runs_again(kind: str, database: str) -> None:
    async with App(database, pool_size=2) as app:
        handle = await app.start(sleeping_there, "dropped")
        await until(lambda: bool(asked))
        probe(app).abandon()
        assert await handle.result(timeout=BACK_WITHIN) == "dropped"
        await nothing_is_left_open(kind, database)
        assert await check(app, handle.instance_id) == [EntryKind.ACTIVITY_COMPLETED, EntryKind.WORKFLOW_COMPLETED]
    assert execute(database, "SELECT what FROM slept ORDER BY what") == [("another",), ("dropped",)]


async def test_an_app_is_left_and_the_next_one_runs_the_activity_again(kind: str, database: str) -> None:
    async with App(database, pool_size=2, shutdown_timeout=0.2) as app:
        handle = await app.start(sleeping_there, "left")
        await until(lambda: bool(asked))
        left = trio.current_time()
    assert trio.current_time() - left < 0.2 + BACK_WITHIN
    await nothing_is_left_open(kind, database)
    async with App(database, pool_size=2) as app:
        assert await app.handle(handle.instance_id).result(timeout=SLACK) == "left"
        assert await check(app, handle.instance_id) == [EntryKind.ACTIVITY_COMPLETED, EntryKind.WORKFLOW_COMPLETED]
    assert execute(database, "SELECT what FROM slept ORDER BY what") == [("another",), ("left",)]
