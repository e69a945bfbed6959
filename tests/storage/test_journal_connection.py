"""The journal's own connection never waits for others, and a transaction on it is never torn."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import sqlalchemy as sa
import trio
import trio_asyncio
from sqlalchemy import Connection

from trio_romancy import App, WorkflowContext, activity, workflow
from trio_romancy._storage.database import Writer
from trio_romancy._storage.dialects import postgresql
from trio_romancy._storage.dialects.errors import is_transient
from trio_romancy._storage.drivers import connections
from trio_romancy._storage.open import open_database
from trio_romancy.errors import DatabaseAwayError

from ..support.lossy_proxy import open_lossy_proxy
from ..support.servers import PRODUCTS, execute

on_servers = pytest.mark.parametrize("kind", PRODUCTS, indirect=True)
pytestmark = pytest.mark.real_clock

SLEEP = {"mariadb": "SELECT SLEEP(0.3)", "postgresql": "SELECT pg_sleep(0.3)"}
SLACK = 2.0
"""Allowance for a loaded machine, in seconds."""


@activity(name="writers_double")
async def double(number: int) -> int:
    return 2 * number


@workflow(name="writers_doubling")
async def doubling(ctx: WorkflowContext, times: int) -> int:
    number = 1
    for _ in range(times):
        number = await double(number)
    return number


def insert(connection: Connection, number: int) -> None:
    connection.execute(sa.text("INSERT INTO written VALUES (:n)"), {"n": number})


def written(database: str) -> list[int]:
    return [number for (number,) in execute(database, "SELECT n FROM written ORDER BY n")]


@asynccontextmanager
async def open_writer(url: str) -> AsyncIterator[Writer]:
    async with trio_asyncio.open_loop(), open_database(url) as database, database.open_writer() as writer:
        yield writer


@pytest.fixture
def table(database: str) -> str:
    """Return the URL of a database with a table for :func:`insert`."""
    execute(database, "CREATE TABLE written (n INTEGER)")
    return database


@asynccontextmanager
async def all_threads_taken() -> AsyncIterator[None]:
    """Keep all threads of trio's default limiter busy until the block ends."""
    limiter = trio.to_thread.current_default_thread_limiter()
    may_end = threading.Event()
    async with trio.open_nursery() as nursery:
        try:
            while limiter.available_tokens:
                nursery.start_soon(partial(trio.to_thread.run_sync, may_end.wait))
                await trio.testing.wait_all_tasks_blocked()
            yield
        finally:
            may_end.set()


@on_servers
async def test_the_journal_writes_though_all_threads_of_trio_are_taken(database: str) -> None:
    async with App(database) as app, all_threads_taken():
        with trio.fail_after(60):
            assert await (await app.start(doubling, 5)).result() == 32


@on_servers
async def test_a_cancelled_transaction_is_made_to_its_end(kind: str, table: str) -> None:
    def slowly(connection: Connection) -> None:
        insert(connection, 1)
        connection.execute(sa.text(SLEEP[kind]))
        insert(connection, 2)

    async with open_writer(table) as writer:
        await writer.run(insert, 0)
        with trio.move_on_after(0.1):
            await writer.run(slowly)
        assert written(table) == [0, 1, 2]


@on_servers
async def test_a_transaction_that_failed_leaves_nothing_behind_and_the_next_works(table: str) -> None:
    def fails(connection: Connection) -> None:
        insert(connection, 1)
        raise KeyError("of the function")

    async with open_writer(table) as writer:
        with pytest.raises(KeyError):
            await writer.run(fails)
        await writer.run(insert, 2)
    assert written(table) == [2]


@on_servers
async def test_a_server_that_stalls_is_away_in_time_and_does_not_delay_closing(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT", 1.0)
    async with open_lossy_proxy(table) as proxy:
        begun = trio.current_time()
        async with open_writer(proxy.url(table)) as writer:
            await writer.run(insert, 1)
            proxy.stall()
            for _ in range(2):  # on the connection that there was, and on one that cannot be made
                with pytest.raises(Exception) as caught:
                    await writer.run(insert, 2)
                assert is_transient(caught.value)
        assert trio.current_time() - begun < 5 * 1.0 + SLACK
    assert written(table) == [1]


@on_servers
async def test_the_next_connection_ends_the_lost_one_before_it_writes(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT", 1.0)
    execute(table, "INSERT INTO written VALUES (0)")

    def count(connection: Connection) -> None:
        connection.execute(sa.text("UPDATE written SET n = n + 1"))

    async with open_lossy_proxy(table) as proxy, open_writer(proxy.url(table)) as writer:

        def count_and_be_lost(connection: Connection) -> None:
            count(connection)
            proxy.forget(connection)

        with pytest.raises(Exception) as caught:
            await writer.run(count_and_be_lost)
        assert is_transient(caught.value)
        await writer.run(count)  # a lock that is still held would take longer than an answer may
    assert written(table) == [1]


@pytest.mark.parametrize("kind", ["mariadb"], indirect=True)
async def test_nothing_is_written_while_a_thread_that_was_left_is_still_at_it(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ANSWER_TIMEOUT", 0.3)
    order: list[str] = []

    def slowly(connection: Connection) -> None:
        insert(connection, 1)
        time.sleep(0.5)
        order.append("slow")

    def fast(connection: Connection) -> None:
        order.append("fast")

    async with open_writer(table) as writer:
        await writer.run(insert, 0)
        with pytest.raises(DatabaseAwayError, match=r"has not answered for 0\.3 s"):
            await writer.run(slowly)
        await writer.run(fast)
    assert order == ["slow", "fast"]
    assert written(table) == [0, 1]


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_a_connection_that_dies_while_it_is_set_up_is_not_kept(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up = postgresql.plan_once

    def dies_at_first(connection: Connection) -> None:
        monkeypatch.setattr(postgresql, "plan_once", set_up)
        connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    monkeypatch.setattr(postgresql, "plan_once", dies_at_first)
    async with open_writer(table) as writer:
        with pytest.raises(sa.exc.DBAPIError) as caught:
            await writer.run(insert, 1)
        assert is_transient(caught.value)
        await writer.run(insert, 2)
    assert written(table) == [2]


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_transactions_and_single_statements_take_turns_on_one_connection(table: str) -> None:
    def fails(connection: Connection, number: int) -> None:
        insert(connection, number)
        raise KeyError("of the function")

    async with open_writer(table) as writer:
        assert writer.autocommit is not None
        await writer.run(insert, 1)
        await writer.autocommit.run(insert, 2)
        with pytest.raises(KeyError):
            await writer.run(fails, 3)
        with pytest.raises(KeyError):
            await writer.autocommit.run(fails, 4)  # its statement was committed by then
        await writer.autocommit.run(insert, 5)
        await writer.run(insert, 6)
    assert written(table) == [1, 2, 4, 5, 6]
