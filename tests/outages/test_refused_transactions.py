"""Deadlocks, lock waits and lost races: the server is there, and refuses a transaction that can succeed later."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa
import trio
import trio_asyncio
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from trio_romancy import App, EntryKind, WorkflowContext, activity, current_activity, workflow
from trio_romancy._storage.database import Transaction
from trio_romancy._storage.dialects import limits
from trio_romancy._storage.open import open_database
from trio_romancy._storage.sql import instances
from trio_romancy.testing import broken_guarantees

from ..support.lossy_proxy import before_commit
from ..support.servers import PRODUCTS, execute

pytestmark = [pytest.mark.long, pytest.mark.real_clock, pytest.mark.usefixtures("quiet")]

CODES = {"mariadb": ("1213", "1205", "1020"), "postgresql": ("40P01", "55P03", "40001")}
"""A deadlock, a lock that took too long, a row that somebody else has changed."""

runs: list[str] = []
may_end = trio.Event()


@pytest.fixture(autouse=True)
def begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    global may_end
    runs.clear()
    may_end = trio.Event()


@pytest.fixture
def is_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOCK_TIMEOUT", 1)


@asynccontextmanager
async def open_rival(database: str) -> AsyncIterator[Transaction]:
    """A transaction of somebody else, which has done so much that it is not the victim of a deadlock."""
    async with (
        trio_asyncio.open_loop(),
        open_database(database, pool_size=2) as rival,
        rival.open_transaction() as transaction,
    ):
        await run(transaction, "INSERT INTO much SELECT n FROM seed")
        yield transaction


async def run(transaction: Transaction, statement: str) -> None:
    await transaction.run(lambda connection: connection.execute(sa.text(statement)))


def make_tables(database: str) -> None:
    many = ", ".join(f"({n})" for n in range(1000))
    rows = "INSERT INTO accounts VALUES (1, 0), (2, 0), (3, 0)"
    tables = [f"CREATE TABLE {name} (n INTEGER)" for name in ("much", "seed")]
    accounts = "CREATE TABLE accounts (id INTEGER PRIMARY KEY, n INTEGER)"
    execute(database, *tables, f"INSERT INTO seed VALUES {many}", accounts, rows)


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(8):
        while not await trio.to_thread.run_sync(holds):  # noqa: ASYNC110
            await trio.sleep(0.03)


def is_refused(kind: str, database: str, statement: str) -> Callable[[], bool]:
    def is_refused() -> bool:
        try:
            execute(database, statement)
        except PRODUCTS[kind].errors:
            return True
        return False

    return is_refused


def refusal(connection: Connection, code: str) -> sa.TextClause:
    """A statement that the server refuses with that code."""
    if connection.dialect.name == "postgresql":
        return sa.text(f"DO $$ BEGIN RAISE EXCEPTION 'injected' USING ERRCODE = '{code}'; END $$")
    return sa.text(f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {code}")


def refused_first(fn: Callable[..., Any], *codes: str) -> Callable[..., Any]:
    """The function of SQL, after which the server refuses to go on with each of the codes in turn."""
    left = list(codes)

    def refused(connection: Connection, *args: Any) -> Any:
        answer = fn(connection, *args)
        if left:
            connection.execute(refusal(connection, left.pop(0)))
        return answer

    return refused


async def is_in_order(app: App, instance_id: str) -> None:
    instance = await app.get_instance(instance_id)
    assert instance is not None
    history = await app.history(instance_id)
    assert broken_guarantees(instance, history) == []
    assert EntryKind.ATTEMPT_FAILED not in {entry.kind for entry in history}


# -- the journal -------------------------------------------------------------------------------------------------------


@activity(name="refused_transactions_waits")
async def waits() -> None:
    runs.append("waits")
    await may_end.wait()


@workflow(name="refused_transactions_waiting")
async def waiting(ctx: WorkflowContext) -> str:
    await waits()
    return "done"


async def test_a_batch_that_is_the_victim_of_a_deadlock_is_written_again(
    kind: str, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_tables(database)
    async with App(database) as app:
        handle = await app.start(waiting)
        async with open_rival(database) as rival:
            await run(rival, "UPDATE romancy_instances SET updated_at = updated_at")
            may_end.set()
            # The journal has passed its fence, and waits for the instance.
            await until(is_refused(kind, database, "SELECT 1 FROM romancy_workers FOR UPDATE NOWAIT"))
            await run(rival, "UPDATE romancy_workers SET joined_at = joined_at")
            await rival.commit(lambda _: None)
        assert await handle.result(timeout=10) == "done"
        await is_in_order(app, handle.instance_id)
    assert "deadlock" in caplog.text.lower()
    assert runs == ["waits"]


@pytest.mark.usefixtures("is_impatient")
async def test_a_batch_waits_for_a_lock_as_long_as_it_takes(
    kind: str, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_tables(database)
    async with App(database, lease=1) as app:
        handle = await app.start(waiting)
        async with open_rival(database) as rival:
            await run(rival, "UPDATE romancy_workers SET joined_at = joined_at")
            may_end.set()
            await until(lambda: caplog.text.count("is away, trying again") > 1)
            await rival.commit(lambda _: None)
        assert await handle.result(timeout=10) == "done"
        await is_in_order(app, handle.instance_id)
    assert "lock" in caplog.text.lower()
    assert runs == ["waits"]


async def test_a_batch_that_the_server_refuses_for_now_is_written_again(
    kind: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with App(database) as app:
        refuse = refused_first(lambda _: None, *CODES[kind] * 2)
        before_commit(refuse, monkeypatch)
        may_end.set()
        handle = await app.start(waiting)
        assert await handle.result(timeout=10) == "done"
        await is_in_order(app, handle.instance_id)
    assert runs == ["waits"]


async def test_a_client_that_is_refused_for_now_starts_once(
    kind: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with App(database), App(database, worker=False) as client:
        monkeypatch.setattr(instances, "start_instance", refused_first(instances.start_instance, *CODES[kind]))
        may_end.set()
        handle = await client.start(waiting)
        assert await handle.result(timeout=10) == "done"
        await is_in_order(client, handle.instance_id)
    assert execute(database, "SELECT count(*) FROM romancy_instances") == [(1,)]


# -- sessions ----------------------------------------------------------------------------------------------------------


async def add_one(account: int) -> None:
    await current_activity().session.execute(sa.text(f"UPDATE accounts SET n = n + 1 WHERE id = {account}"))


@activity(name="refused_transactions_add_to_all")
async def add_to_all(catches: str) -> None:
    """The server refuses the second of three statements, and the activity may believe that it knows better."""
    runs.append("add")
    await add_one(1)
    await may_end.wait()
    session = current_activity().session
    if not catches:
        await add_one(2)
    elif catches == "savepoint":
        try:
            async with session.begin_nested():
                await add_one(2)
        except DBAPIError:
            pass
    else:
        try:
            await add_one(2)
        except DBAPIError:
            pass
    if catches != "and returns":
        await add_one(3)


@workflow(name="refused_transactions_adding")
async def adding(ctx: WorkflowContext, catches: str) -> str:
    await add_to_all(catches)
    return "done"


@pytest.mark.parametrize("catches", ["", "and goes on", "and returns", "savepoint"])
async def test_a_session_that_is_the_victim_of_a_deadlock_is_run_again_and_never_half_committed(
    kind: str, database: str, catches: str
) -> None:
    make_tables(database)
    async with App(database) as app:
        handle = await app.start(adding, catches)
        async with open_rival(database) as rival:
            await run(rival, "UPDATE accounts SET n = n WHERE id = 2")
            await until(is_refused(kind, database, "SELECT 1 FROM accounts WHERE id = 1 FOR UPDATE NOWAIT"))
            may_end.set()
            await trio.sleep(0.1)  # it asks for the second account; if it came late, there would be no deadlock
            await run(rival, "UPDATE accounts SET n = n WHERE id = 1")
            assert execute(database, "SELECT n FROM accounts ORDER BY id") == [(0,), (0,), (0,)]
            await rival.commit(lambda _: None)
        assert await handle.result(timeout=10) == "done"
        await is_in_order(app, handle.instance_id)
    expected = [(1,), (1,), (0 if catches == "and returns" else 1,)]
    assert execute(database, "SELECT n FROM accounts ORDER BY id") == expected
    assert runs == ["add", "add"]


@pytest.mark.usefixtures("is_impatient")
@pytest.mark.parametrize("catches", ["and returns", "savepoint"])
async def test_a_session_that_waited_too_long_for_a_lock_is_run_again(kind: str, database: str, catches: str) -> None:
    make_tables(database)
    async with App(database) as app:
        may_end.set()
        async with open_rival(database) as rival:
            await run(rival, "UPDATE accounts SET n = n WHERE id = 2")
            handle = await app.start(adding, catches)
            await until(lambda: len(runs) > 1)
            await rival.commit(lambda _: None)
        assert await handle.result(timeout=10) == "done"
        await is_in_order(app, handle.instance_id)
    expected = [(1,), (1,), (0 if catches == "and returns" else 1,)]
    assert execute(database, "SELECT n FROM accounts ORDER BY id") == expected


@activity(name="refused_transactions_refused")
async def refused(codes: list[str]) -> int:
    runs.append("refused")
    session = current_activity().session
    await add_one(1)
    if len(runs) <= len(codes):
        code = codes[len(runs) - 1]
        await session.run_sync(lambda session: session.execute(refusal(session.connection(), code)))
    await add_one(2)
    return len(runs)


@workflow(name="refused_transactions_being_refused")
async def being_refused(ctx: WorkflowContext, codes: list[str]) -> int:
    return await refused(codes)


async def test_a_session_that_the_server_refuses_for_now_is_run_again(kind: str, database: str) -> None:
    make_tables(database)
    async with App(database) as app:
        handle = await app.start(being_refused, list(CODES[kind]))
        assert await handle.result(timeout=10) == 4
        await is_in_order(app, handle.instance_id)
    assert execute(database, "SELECT n FROM accounts ORDER BY id") == [(1,), (1,), (0,)]
